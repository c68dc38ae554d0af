use super::*;

const FILE: &str = r#"
name = "small"
topology = "net.toml"
scale = 0.5
systems = ["vitrail"]
[images]
base = { from = "bookworm-base" }
part = { from = "bookworm-base", len = "8MiB", count = 3 }
[[workloads]]
name = "cold"
work = { kind = "pull", image = "base", holders = ["site-1"], at = ["site-2"] }
[[workloads]]
name = "storm"
work = { kind = "storm", images = "part", holders = ["site-1"], pulls = 5, per-second = 1.0 }
[quick]
workloads = ["storm"]
"#;
const NET: &str = "name = 'net'\nsites = [{ name = 'site', count = 3, up = '20Mbit/s' }]\n";

fn parse(text: &str, quick: bool) -> Result<Scenario> {
    Scenario::parse(text, quick, |name| {
        assert_eq!(name, "net.toml");
        Ok(NET.to_owned())
    })
}

#[test]
fn a_file_becomes_a_scenario() {
    let scenario = parse(FILE, false).unwrap();
    assert_eq!(scenario.repetitions, 3);
    assert_eq!(scenario.topology.scale, 0.5);
    assert_eq!(scenario.sets["part"], ["part-1", "part-2", "part-3"]);
    let last = ImageSpec {
        from: "bookworm-base".into(),
        part: Some(Part {
            index: 2,
            len: 8 << 20,
        }),
    };
    assert_eq!(scenario.images["part-3"], last);
    let quick = parse(FILE, true).unwrap();
    assert_eq!((quick.repetitions, quick.workloads.len()), (1, 1));
    assert_eq!(quick.workloads[0].name, "storm");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (from, to) in [
        ("\"site-2\"", "\"site-9\""),
        ("\"site-2\"", "\"site-1\""),
        ("image = \"base\"", "image = \"nothing\""),
        ("name = \"storm\"", "name = \"cold\""),
        ("\"8MiB\"", "\"8\""),
        ("per-second = 1.0", "per-second = 0.0"),
        ("kind = \"pull\"", "kind = \"push\""),
        ("scale", "scail"),
    ] {
        let bad = FILE.replacen(from, to, 1);
        assert_ne!(bad, FILE);
        assert!(parse(&bad, false).is_err(), "{to}");
    }
}

#[test]
fn every_scenario_of_this_repository_is_one() {
    let files = own_files();
    assert!(!files.is_empty());
    for path in files {
        for quick in [false, true] {
            let scenario = Scenario::load(&path, quick).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy();
            assert_eq!(scenario.name, name);
        }
    }
}
