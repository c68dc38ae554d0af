//! Three sites: an image that goes in at one comes out at the others, and only what they lack
//! crosses between them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::disk::{MIB, update_disk, write_disk};
use crate::site::{Site, vitrail, wait_until};

/// Sites with certificates of one authority, which all know of each other.
struct Mesh {
    paris: Site,
    lyon: Site,
    nice: Site,
    _authority: TempDir,
}

impl Mesh {
    fn start() -> Self {
        let authority = tempfile::tempdir().unwrap();
        make_certificates(authority.path());
        let paris = start_site(authority.path(), "paris", &[]);
        let detail = paris.json(&["site", "show", "paris"]);
        let seed = detail["addresses"][0].as_str().unwrap();
        let lyon = start_site(authority.path(), "lyon", &[seed]);
        let nice = start_site(authority.path(), "nice", &[seed]);
        let mesh = Self {
            paris,
            lyon,
            nice,
            _authority: authority,
        };
        for site in [&mesh.paris, &mesh.lyon, &mesh.nice] {
            wait_until("three sites are up", || {
                site.json(&["status"])["mesh"] == json!({"sites_known": 3, "sites_up": 3})
            });
        }
        mesh
    }
}

fn make_certificates(authority: &Path) {
    let mut commands = vec![vec!["ca", "init"]];
    commands.extend(["paris", "lyon", "nice"].map(|site| vec!["ca", "issue", site]));
    for arguments in commands {
        let mut command = vitrail();
        let status = command
            .args(&arguments)
            .arg("--dir")
            .arg(authority)
            .output();
        assert!(status.unwrap().status.success(), "{arguments:?}");
    }
}

fn start_site(authority: &Path, name: &str, seeds: &[&str]) -> Site {
    let file = |name: String| json!(authority.join(name));
    // A JSON string or array of them is TOML as well.
    Site::start_with(&format!(
        "[site]\nname = \"{name}\"\n[peer]\nlisten = \"127.0.0.1:0\"\nseeds = {}\nca = {}\ncert = {}\nkey = {}\n",
        json!(seeds),
        file("ca.crt".to_owned()),
        file(format!("{name}.crt")),
        file(format!("{name}.key")),
    ))
}

/// Pulls at a site, as soon as it knows that the image is complete; the bytes must be those of
/// `disk`. Answers the receipt.
fn pull(site: &Site, image: &str, disk: &[u8]) -> Value {
    wait_until("the record has come", || {
        site.json(&["image", "show", image])["status"] == "active"
    });
    let output = format!("{image}.out");
    let pulled = site.json(&["image", "pull", image, "--receipt", "-o", &output]);
    assert!(fs::read(site.path(&output)).unwrap() == disk);
    pulled["receipt"].clone()
}

/// Image bytes that a site got from others.
fn fetched(receipt: &Value) -> u64 {
    let peers = receipt["peers"].as_object().unwrap();
    peers
        .values()
        .map(|peer| peer["raw"].as_u64().unwrap())
        .sum()
}

#[test]
fn what_one_site_takes_every_site_gives() {
    let Mesh {
        paris, lyon, nice, ..
    } = &Mesh::start();
    let path = paris.path("disk.raw");
    let data = write_disk(&path, 1);
    let disk = fs::read(&path).unwrap();
    let pushed = paris.push("disk.raw", "debian");
    let id = pushed["id"].as_str().unwrap();

    let report = paris.json(&["preseed", "debian", "--sites", "lyon"]);
    assert_eq!(report["ok"], true);
    assert_eq!(report["sites"][0]["site"], "lyon");
    assert_eq!(report["sites"][0]["state"], "held");
    let receipt = pull(lyon, id, &disk);
    assert_eq!(receipt, Value::Null, "lyon holds it already");

    let receipt = pull(nice, id, &disk);
    assert_eq!(receipt["outcome"], "complete", "{receipt}");
    assert_eq!(receipt["site"], "nice");
    assert_eq!(receipt["local_bytes"], 0);
    let bytes = fetched(&receipt);
    let whole = bytes + receipt["hole_bytes"].as_u64().unwrap();
    // On a busy machine a holder may be taken for slow: what it has begun to send then comes from the other as well.
    assert!((24 * MIB..=25 * MIB).contains(&whole), "{receipt}");
    assert!(bytes >= data, "{receipt}");
    let detail = nice.json(&["site", "show", "nice"]);
    assert_eq!(
        detail["images"],
        json!([{"id": id, "name": "debian", "complete": true}])
    );

    update_disk(&path, 2);
    let disk = fs::read(&path).unwrap();
    let pushed = paris.push("disk.raw", "debian-updated");
    let receipt = pull(nice, pushed["id"].as_str().unwrap(), &disk);
    assert!(receipt["local_bytes"].as_u64().unwrap() > 0, "{receipt}");
    // The changed MiB, and at most one chunk on each side of it.
    assert!(fetched(&receipt) <= MIB + 2 * (256 << 10), "{receipt}");

    let report = nice.json(&["preseed", "debian", "debian-updated", "--all"]);
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["sites"].as_array().unwrap().len(), 6);
    assert_eq!(lyon.code(&["preseed", "debian", "--sites", "nowhere"]), 3);
}
