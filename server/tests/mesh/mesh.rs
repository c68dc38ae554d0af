//! Meshes to test.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use vitrail::ca;
use vitraild::config::Config;

use crate::site::{Client, Site};

/// How long the mesh may take to agree.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An authority and the addresses of the sites that it knows.
pub(crate) struct Authority {
    directory: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        ca::init(directory.path()).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Makes sure that there is a certificate for a site.
    pub(crate) fn issue(&self, name: &str) {
        if !self.file(&format!("{name}.crt")).exists() {
            ca::issue(self.path(), name, 1).unwrap();
        }
    }

    /// Makes `config` a site of the mesh that listens on `address` and joins at `seed`.
    pub(crate) fn enroll(
        &self,
        config: &mut Config,
        name: &str,
        address: SocketAddr,
        seed: SocketAddr,
    ) {
        self.issue(name);
        config.site.name = name.into();
        config.peer.listen = address;
        config.peer.seeds = vec![seed.to_string()];
        config.peer.ca = Some(self.file("ca.crt"));
        config.peer.cert = Some(self.file(&format!("{name}.crt")));
        config.peer.key = Some(self.file(&format!("{name}.key")));
    }
}

/// A UDP address that was free a moment ago, below the ports that systems give away by themselves, so that a site that is
/// stopped finds it free again.
pub(crate) fn free_address() -> SocketAddr {
    let ports = std::iter::repeat_with(|| rand::random_range(20_000..30_000));
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let mut free = ports
        .take(1000)
        .map(address)
        .filter(|address| UdpSocket::bind(address).is_ok());
    free.next().unwrap()
}

/// Sites of one mesh that know each other.
pub(crate) struct Mesh {
    pub(crate) authority: Authority,
    pub(crate) sites: Vec<Site>,
    pub(crate) seed: SocketAddr,
}

impl Mesh {
    /// Sites of these names, the first of which is the others' seed.
    pub(crate) fn start(names: &[&str]) -> Self {
        Self::start_with(names, |_| {})
    }

    /// The same, with settings that `adjust` changes.
    pub(crate) fn start_with(names: &[&str], adjust: impl Fn(&mut Config)) -> Self {
        let authority = Authority::new();
        let seed = free_address();
        let mut mesh = Self {
            authority,
            sites: Vec::new(),
            seed,
        };
        for name in names {
            mesh.join_with(name, &adjust);
        }
        for site in &mesh.sites {
            wait("every site is up", || up_sites(site) == names.len());
        }
        mesh
    }

    /// Adds a site.
    pub(crate) fn join(&mut self, name: &str) {
        self.join_with(name, |_| {});
    }

    /// Adds a site whose settings `adjust` changes.
    pub(crate) fn join_with(&mut self, name: &str, adjust: impl Fn(&mut Config)) {
        let address = if self.sites.is_empty() {
            self.seed
        } else {
            free_address()
        };
        let site = Site::with(|config| {
            self.authority.enroll(config, name, address, self.seed);
            adjust(config);
        });
        self.sites.push(site);
    }
}

/// Restarts a site with a bit flipped in the middle of each of its packs.
pub(crate) fn damage(site: &mut Site) {
    site.restart(|data_dir| {
        let mut flipped = 0;
        for entry in std::fs::read_dir(data_dir.join("packs")).unwrap() {
            let mut options = std::fs::File::options();
            let file = options.read(true).write(true).open(entry.unwrap().path());
            let file = file.unwrap();
            let middle = file.metadata().unwrap().len() / 2;
            let mut byte = [0];
            file.read_exact_at(&mut byte, middle).unwrap();
            byte[0] ^= 0x10;
            file.write_all_at(&byte, middle).unwrap();
            flipped += 1;
        }
        assert!(flipped > 0);
    });
}

/// Sites that one of them takes for up.
pub(crate) fn up_sites(client: &Client) -> usize {
    let sites = client.operator("GET", "/v1/sites").send();
    let sites = sites.expect(200).json();
    sites
        .as_array()
        .unwrap()
        .iter()
        .filter(|site| site["up"] == true)
        .count()
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a site knows an image as active.
#[track_caller]
pub(crate) fn wait_for_image(client: &Client, id: &str) {
    wait("the image is known", || {
        let answer = client.get(&format!("/v2/images/{id}"));
        answer.status == 200 && answer.json()["status"] == "active"
    });
}

/// The receipts of a site for an image, the newest first.
pub(crate) fn receipts(client: &Client, id: &str) -> Vec<Value> {
    let path = format!("/v1/receipts?image={id}");
    let receipts = client.operator("GET", &path).send().expect(200).json();
    receipts.as_array().unwrap().clone()
}

/// Payload that a site has received from another since it started.
pub(crate) fn received(client: &Client, from: &str) -> f64 {
    let metrics = client.operator("GET", "/metrics").send().expect(200).text();
    let prefix = format!("vitrail_peer_rx_bytes_total{{peer=\"{from}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&prefix));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// Wire bytes of all receipts of a site for an image.
pub(crate) fn wire_bytes(client: &Client, id: &str) -> u64 {
    let of = |receipt: &Value| -> u64 {
        let peers = receipt["peers"].as_object().unwrap();
        peers
            .values()
            .map(|peer| peer["wire"].as_u64().unwrap())
            .sum()
    };
    receipts(client, id).iter().map(of).sum()
}
