//! Sites to test: in this process, or as a child that can be killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use vitraild::config::Config;
use vitraild::daemon::Daemon;

use crate::http::{Answer, Request};

/// A client's view of a site.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    token: Option<&'static str>,
}

impl Client {
    /// The same client with a token.
    pub(crate) fn with_token(&self, token: &'static str) -> Self {
        Self {
            token: Some(token),
            ..*self
        }
    }

    /// A request to the Image API.
    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        let request = Request::new(self.api, method, path);
        match self.token {
            Some(token) => request.header("X-Auth-Token", token),
            None => request,
        }
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path).send()
    }

    /// Makes a bare raw image with these fields besides; its id.
    #[track_caller]
    pub(crate) fn create(&self, fields: Value) -> String {
        let mut document = json!({"disk_format": "raw", "container_format": "bare"});
        for (key, value) in fields.as_object().expect("an object") {
            document[key] = value.clone();
        }
        let answer = self.request("POST", "/v2/images").json(&document).send();
        let image = answer.expect(201).json();
        image["id"].as_str().expect("an id").to_owned()
    }

    /// The request that uploads `bytes`.
    pub(crate) fn upload(&self, id: &str, bytes: impl Into<Vec<u8>>) -> Request {
        self.request("PUT", &format!("/v2/images/{id}/file"))
            .header("Content-Type", "application/octet-stream")
            .bytes(bytes)
    }

    /// Makes an image of these bytes; its id.
    #[track_caller]
    pub(crate) fn image(&self, bytes: &[u8]) -> String {
        let id = self.create(json!({}));
        self.upload(&id, bytes).send().expect(204);
        id
    }

    #[track_caller]
    pub(crate) fn show(&self, id: &str) -> Value {
        self.get(&format!("/v2/images/{id}")).expect(200).json()
    }

    #[track_caller]
    pub(crate) fn status(&self, id: &str) -> String {
        self.show(id)["status"].as_str().expect("a status").into()
    }

    #[track_caller]
    pub(crate) fn download(&self, id: &str) -> Vec<u8> {
        self.get(&format!("/v2/images/{id}/file")).expect(200).body
    }

    #[track_caller]
    pub(crate) fn delete(&self, id: &str) -> Answer {
        self.request("DELETE", &format!("/v2/images/{id}")).send()
    }

    /// A 2.1 patch of one image.
    #[track_caller]
    pub(crate) fn patch(&self, id: &str, operations: &Value) -> Answer {
        self.request("PATCH", &format!("/v2/images/{id}"))
            .header(
                "Content-Type",
                "application/openstack-images-v2.1-json-patch",
            )
            .json(operations)
            .send()
    }

    /// Waits until the image has the status, for at most `patience`.
    #[track_caller]
    pub(crate) fn wait_for_status(&self, id: &str, status: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.status(id) != status {
            assert!(
                Instant::now() < deadline,
                "{id} is still {}",
                self.status(id)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A request to the admin API.
    pub(crate) fn operator(&self, method: &str, path: &str) -> Request {
        Request::new(self.admin, method, path)
    }

    /// The store's statistics.
    #[track_caller]
    pub(crate) fn store(&self) -> Value {
        self.operator("GET", "/v1/store").send().expect(200).json()
    }

    /// Collects garbage, then checks that nothing dead is left; what the collection did.
    #[track_caller]
    pub(crate) fn collect(&self) -> Value {
        let done = self.stream("/v1/store/gc", "");
        let left = self.stream("/v1/store/gc", r#"{"dry_run": true}"#);
        assert_eq!(left["dead_chunks"], 0, "{left}");
        assert_eq!(left["dead_manifests"], 0, "{left}");
        done
    }

    /// Reads everything in the store back.
    #[track_caller]
    pub(crate) fn verify(&self) -> Value {
        self.stream("/v1/store/verify", "")
    }

    /// Long work to its end; the result.
    #[track_caller]
    pub(crate) fn stream(&self, path: &str, body: &str) -> Value {
        let answer = self.operator("POST", path).bytes(body).send().expect(200);
        let text = answer.text();
        let last = text.lines().last().expect("a line");
        let last: Value = serde_json::from_str(last).expect("JSON");
        assert!(last["result"].is_object(), "{text}");
        last["result"].clone()
    }
}

/// A site in this process.
pub(crate) struct Site {
    pub(crate) client: Client,
    pub(crate) config: Config,
    daemon: Option<Daemon>,
    runtime: Runtime,
    _directory: Option<TempDir>,
}

impl std::ops::Deref for Site {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Site {
    /// A new site with default settings.
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// A new site whose settings `adjust` changes.
    pub(crate) fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        let directory = TempDir::new().unwrap();
        let mut config = Config::default();
        config.site.data_dir = Some(directory.path().to_owned());
        config.api.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.admin.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        adjust(&mut config);
        let runtime = Runtime::new().unwrap();
        let daemon = runtime.block_on(Daemon::start(config.clone())).unwrap();
        Self {
            client: client(&daemon),
            config,
            daemon: Some(daemon),
            runtime,
            _directory: Some(directory),
        }
    }

    /// The directory that the site keeps everything in.
    pub(crate) fn data_dir(&self) -> &Path {
        self.config.site.data_dir.as_deref().unwrap()
    }

    /// Stops it gracefully.
    pub(crate) fn stop(&mut self) {
        let Some(daemon) = self.daemon.take() else {
            return;
        };
        self.runtime.block_on(daemon.stop());
        // A process that ends gives its socket back; here that takes as long as QUIC waits for late packets.
        let deadline = Instant::now() + Duration::from_secs(10);
        let peer = self.config.peer.listen;
        while self.config.peer.ca.is_some()
            && std::net::UdpSocket::bind(peer).is_err()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it, lets `meanwhile` do something to its directory, and starts it again.
    pub(crate) fn restart(&mut self, meanwhile: impl FnOnce(&Path)) {
        self.stop();
        meanwhile(self.data_dir());
        let daemon = self
            .runtime
            .block_on(Daemon::start(self.config.clone()))
            .unwrap();
        self.client = client(&daemon);
        self.daemon = Some(daemon);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop();
    }
}

fn client(daemon: &Daemon) -> Client {
    Client {
        api: daemon.api,
        admin: daemon.admin,
        token: None,
    }
}

/// The daemon's program, on free ports.
pub(crate) fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitraild"));
    command
        .arg("--data-dir")
        .arg(data_dir)
        .args(["--api-listen", "127.0.0.1:0"])
        .args(["--admin-listen", "127.0.0.1:0"])
        .stdin(Stdio::null());
    command
}

/// A site in a process of its own, killed on drop.
pub(crate) struct Process {
    pub(crate) client: Client,
    pub(crate) child: Child,
    /// What it writes to stderr.
    pub(crate) log: PathBuf,
}

impl std::ops::Deref for Process {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Process {
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::run(command(data_dir), data_dir)
    }

    /// Runs `command`, which keeps everything in `data_dir`, until it listens.
    pub(crate) fn run(mut command: Command, data_dir: &Path) -> Self {
        let log = data_dir.with_extension("log");
        let endpoints = data_dir.join("endpoints.json");
        // Of an earlier run.
        let _absent = std::fs::remove_file(&endpoints);
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log);
        let mut child = command.stderr(file.unwrap()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let text = loop {
            if let Ok(text) = std::fs::read_to_string(&endpoints) {
                break text;
            }
            let exited = child.try_wait().unwrap();
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(exited.is_none(), "{exited:?}: {}", log());
            assert!(Instant::now() < deadline, "not up: {}", log());
            std::thread::sleep(Duration::from_millis(5));
        };
        let endpoints: Value = serde_json::from_str(&text).unwrap();
        let address = |key: &str| {
            let url = endpoints[key].as_str().unwrap();
            url.trim_start_matches("http://").parse().unwrap()
        };
        Self {
            client: Client {
                api: address("api"),
                admin: address("admin"),
                token: None,
            },
            child,
            log,
        }
    }

    /// What it has logged.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Ends it without a chance to tidy up.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Bytes that look random, always the same ones for a seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    use rand::{RngExt as _, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::SmallRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}
