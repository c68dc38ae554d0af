//! From files to figures.

use super::super::event::Event;
use super::super::topology::{LinkSpec, Topology, TopologyError};
use super::*;

const MS: Duration = Duration::from_millis(1);

fn resolve(text: &str) -> Result<Network, NetworkError> {
    Topology::parse(text).unwrap().resolve()
}

fn rate(text: &str) -> Option<Rate> {
    text.parse().ok()
}

#[test]
fn the_more_specific_wins() {
    let network = resolve(
        r#"
        name = "layers"
        link = { rtt = "100ms", rate = "10Mbit/s", loss = 0.01 }
        same-zone = { rtt = "10ms" }
        sites = [
            { name = "a", zone = "x" },
            { name = "b", zone = "x", delay = "3ms" },
            { name = "c" },
            { name = "d" },
        ]
        pairs = [{ between = ["d", "a"], link = { rate = "1Mbit/s" } }]
        "#,
    )
    .unwrap();
    let rtt = |a: &str, b: &str| network.rtt(network.site(a).unwrap(), network.site(b).unwrap());
    assert_eq!(rtt("a", "b"), 16 * MS);
    assert_eq!(rtt("b", "c"), 106 * MS);
    assert_eq!(rtt("c", "d"), 100 * MS, "no zone is not a zone");
    let (a, d) = (network.site("a").unwrap(), network.site("d").unwrap());
    for (from, to) in [(a, d), (d, a)] {
        assert_eq!(network.path_rate(from, to), rate("1Mbit/s"));
        assert_eq!(network.link(from, to).loss.share, 0.01);
    }
}

#[test]
fn a_matrix_gives_each_direction_its_rate_and_both_one_rtt() {
    let network = resolve(
        r#"
        name = "matrix"
        scale = 0.1
        link = { rtt = "1ms", loss = 0.5 }
        sites = [{ name = "a", up = "1Gbit/s" }, { name = "b" }]
        [matrix]
        rtt-ms = [[0, 40], [60, 0]]
        rate-mbit = [[0, 10], [20, 0]]
        "#,
    )
    .unwrap();
    let (a, b) = (SiteId(0), SiteId(1));
    assert_eq!(
        (network.link(a, b).delay, network.link(b, a).delay),
        (25 * MS, 25 * MS)
    );
    assert_eq!(network.path_rate(a, b), rate("1Mbit/s"));
    assert_eq!(network.path_rate(b, a), rate("2Mbit/s"));
    assert_eq!(network.sites[0].up.rate, rate("100Mbit/s"));
    assert_eq!(network.link(a, b).loss.share, 0.5);
}

#[test]
fn queues_default_to_one_bdp_and_are_never_tiny() {
    let network = resolve(
        r#"
        name = "queues"
        link = { rtt = "80ms", rate = "10Mbit/s" }
        sites = [
            { name = "a", up = "100Mbit/s", down = "1Mbit/s", queue = "2bdp" },
            { name = "b" },
        ]
        "#,
    )
    .unwrap();
    assert_eq!(network.link(SiteId(0), SiteId(1)).port.queue_bytes, 100_000);
    assert_eq!(network.sites[0].up.queue_bytes, 2_000_000);
    assert_eq!(network.sites[0].down.queue_bytes, 20_000);
    assert_eq!(
        network.sites[1].up,
        PortConfig {
            rate: None,
            queue_bytes: 0
        }
    );
    let tiny = Topology::uniform(
        2,
        LinkSpec {
            rate: rate("1Mbit/s"),
            queue: "1B".parse().ok(),
            ..LinkSpec::default()
        },
    );
    let tiny = tiny.resolve().unwrap();
    assert_eq!(tiny.link(SiteId(0), SiteId(1)).port.queue_bytes, 15_000);
}

#[test]
fn the_most_traffic_is_what_access_links_or_pairs_allow() {
    let sites = r#"sites = [{ name = "a", up = "5Mbit/s" }, { name = "b" }, { name = "c" }]"#;
    let limited = format!("name = 'x'\nlink = {{ rate = '10Mbit/s' }}\n{sites}");
    assert_eq!(resolve(&limited).unwrap().traffic_max(), rate("45Mbit/s"));
    assert_eq!(
        resolve(&format!("name = 'x'\n{sites}"))
            .unwrap()
            .traffic_max(),
        None
    );
}

#[test]
fn events_come_in_order_with_their_ends() {
    let network = resolve(
        r#"
        name = "events"
        sites = [{ name = "s", count = 3 }]
        events = [
            { at = "20s", event = { kind = "heal" } },
            { at = "5s", lasts = "10s", event = { kind = "site-down", site = "s-1" } },
            { at = "1s", lasts = "5s", event = { kind = "loss", loss = 0.1, burst = 3.0 } },
            { at = "2s", event = { kind = "rtt", between = ["s-1", "s-2"], rtt = "9ms" } },
            { at = "3s", event = { kind = "pair-rate", between = ["s-1", "s-2"], factor = 0.5 } },
            { at = "4s", event = { kind = "site-rate", site = "s-3", factor = 2.0 } },
            { at = "16s", event = { kind = "partition", groups = [["s-1"], ["s-2", "s-3"]] } },
        ]
        "#,
    )
    .unwrap();
    let seconds: Vec<_> = network.events.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(seconds, [1, 2, 3, 4, 5, 6, 15, 16, 20]);
    assert_eq!(
        network.events[5].1,
        Event::Loss {
            between: None,
            loss: None,
            burst: None
        }
    );
    assert_eq!(network.events[6].1, Event::SiteUp { site: "s-1".into() });
}

#[test]
fn nonsense_is_refused_with_its_reason() {
    let two = r#"sites = [{ name = "a" }, { name = "b" }]"#;
    let range = |what, value, range| NetworkError::Range { what, value, range };
    for (text, error) in [
        (
            r#"sites = [{ name = "a" }]"#.into(),
            NetworkError::SiteCount(1),
        ),
        (
            r#"sites = [{ name = "a", count = 65535 }]"#.into(),
            NetworkError::SiteCount(65535),
        ),
        (
            r#"sites = [{ name = "a" }, { name = "a" }]"#.into(),
            NetworkError::DuplicateSite("a".into()),
        ),
        (
            r#"sites = [{ name = "A b" }, { name = "a" }]"#.into(),
            NetworkError::SiteName("A b".into()),
        ),
        (
            format!("scale = 0.0\n{two}"),
            range("scale", 0.0, "above 0"),
        ),
        (
            format!("link = {{ loss = 1.0 }}\n{two}"),
            range("loss", 1.0, "0 to below 1"),
        ),
        (
            format!("link = {{ loss = 0.6, burst = 1.0 }}\n{two}"),
            range("loss", 0.6, "at most burst / (burst + 1)"),
        ),
        (
            format!("{two}\n[matrix]\nrtt-ms = [[0, 1]]"),
            NetworkError::MatrixShape("rtt-ms", 2),
        ),
        (
            format!("pairs = [{{ between = ['a', 'z'], link = {{}} }}]\n{two}"),
            NetworkError::UnknownSite("z".into()),
        ),
        (
            format!(
                "events = [{{ at = '1s', event = {{ kind = 'site-up', site = 'z' }} }}]\n{two}"
            ),
            NetworkError::UnknownSite("z".into()),
        ),
    ] {
        assert_eq!(
            resolve(&format!("name = 'x'\n{text}")).unwrap_err(),
            error,
            "{text}"
        );
    }
}

#[test]
fn unknown_keys_are_refused() {
    let two = r#"name = "x"
        sites = [{ name = "a" }, { name = "b" }]"#;
    for text in [
        "rttt = '1ms'",
        "link = { rttt = '1ms' }",
        "matrix = { rtts = [] }",
        "pairs = [{ between = ['a', 'b'], link = { up = '1Mbit/s' } }]",
        "events = [{ at = '1s', until = '2s', event = { kind = 'heal' } }]",
        "events = [{ at = '1s', event = { kind = 'site-down', site = 'a', for = '1s' } }]",
        "events = [{ at = '1s', event = { kind = 'earthquake' } }]",
        "link = { rtt = '1 fortnight' }",
        "link = { rate = '0bit/s' }",
    ] {
        let result = Topology::parse(&format!("{two}\n{text}"));
        assert!(matches!(result, Err(TopologyError::Parse(_))), "{text}");
    }
}

#[test]
fn a_uniform_topology_survives_its_file() {
    let link = LinkSpec {
        rtt: Some(30 * MS),
        rate: rate("7Mbit/s"),
        ..LinkSpec::default()
    };
    let text = toml::to_string(&Topology::uniform(4, link)).unwrap();
    let network = resolve(&text).unwrap();
    assert_eq!(network.sites.len(), 4);
    assert_eq!(network.rtt(SiteId(0), SiteId(3)), 30 * MS);
    assert_eq!(network.path_rate(SiteId(3), SiteId(0)), rate("7Mbit/s"));
}

/// Every file of the directory is a network; a sample of published figures of each.
#[test]
fn the_topologies_of_this_repository_resolve() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies");
    let load = |name: &str| Topology::load(&dir.join(name)).unwrap().resolve().unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        assert_eq!(format!("{}.toml", load(&file).name), file);
        names.push(file);
    }
    for (file, sites, (from, to), rtt, path_rate) in [
        (
            "aws-8.toml",
            8,
            ("us-east-1", "us-west-2"),
            68 * MS,
            "43.5Mbit/s",
        ),
        (
            "aws-8.toml",
            8,
            ("sa-east-1", "ap-southeast-1"),
            359 * MS,
            "19.2Mbit/s",
        ),
        ("ibm-10.toml", 10, ("tokyo", "osaka"), 9 * MS, "20Mbit/s"),
        ("ibm-5.toml", 5, ("london", "dallas"), 113 * MS, "100Mbit/s"),
        ("hier-3x3.toml", 9, ("a-1", "a-3"), 20 * MS, "40Mbit/s"),
        ("hier-3x3.toml", 9, ("a-1", "b-3"), 150 * MS, "10Mbit/s"),
        (
            "access-16.toml",
            16,
            ("seed", "site-1"),
            22 * MS,
            "40Mbit/s",
        ),
        (
            "access-16.toml",
            16,
            ("site-15", "site-14"),
            78 * MS,
            "10Mbit/s",
        ),
        (
            "kcbp-low-12.toml",
            12,
            ("site-12", "site-6"),
            50 * MS,
            "310kbit/s",
        ),
        (
            "uniform-9.toml",
            9,
            ("site-1", "site-9"),
            100 * MS,
            "50Mbit/s",
        ),
    ] {
        let network = load(file);
        let (from, to) = (network.site(from).unwrap(), network.site(to).unwrap());
        assert_eq!(network.sites.len(), sites, "{file}");
        assert_eq!(network.rtt(from, to), rtt, "{file}");
        assert_eq!(network.path_rate(from, to), rate(path_rate), "{file}");
        names.retain(|name| name != file);
    }
    assert!(names.is_empty(), "no figure of {names:?} is looked at");
}
