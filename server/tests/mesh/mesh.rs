//! Meshes to test.

use std::net::{SocketAddr, UdpSocket};
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

    /// Makes `config` a site of the mesh that listens on `address` and joins at `seed`.
    pub(crate) fn enroll(
        &self,
        config: &mut Config,
        name: &str,
        address: SocketAddr,
        seed: SocketAddr,
    ) {
        if !self.file(&format!("{name}.crt")).exists() {
            ca::issue(self.path(), name, 1).unwrap();
        }
        config.site.name = name.into();
        config.peer.listen = address;
        config.peer.seeds = vec![seed.to_string()];
        config.peer.ca = Some(self.file("ca.crt"));
        config.peer.cert = Some(self.file(&format!("{name}.crt")));
        config.peer.key = Some(self.file(&format!("{name}.key")));
    }
}

/// A UDP address that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
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

    fn join_with(&mut self, name: &str, adjust: impl Fn(&mut Config)) {
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
