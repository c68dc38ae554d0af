//! Daemons on loopback, and the command that talks to them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for what a daemon does by itself.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A daemon with an empty store on free ports of loopback; ends with the test.
pub(crate) struct Site {
    daemon: Child,
    directory: TempDir,
    api: String,
    admin: String,
}

impl Site {
    /// A site that is alone.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// A site with more in its configuration, which must not begin with a table that is here.
    pub(crate) fn start_with(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listen = "listen = \"127.0.0.1:0\"";
        let config = format!("[api]\n{listen}\n[admin]\n{listen}\n{config}");
        let config_path = directory.path().join("site.toml");
        fs::write(&config_path, config).unwrap();
        let daemon = Command::new(daemon_path())
            .arg("--config")
            .arg(config_path)
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut site = Self {
            daemon,
            directory,
            api: String::new(),
            admin: String::new(),
        };
        wait_until("the daemon is ready", || {
            let ended = site.daemon.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {ended:?}");
            site.is_ready()
        });
        site
    }

    /// Reads where the daemon listens, and asks it.
    fn is_ready(&mut self) -> bool {
        let endpoints = fs::read(self.path("data/endpoints.json")).unwrap_or_default();
        let Ok(endpoints) = serde_json::from_slice::<Value>(&endpoints) else {
            return false;
        };
        self.api = endpoints["api"].as_str().unwrap().to_owned();
        self.admin = endpoints["admin"].as_str().unwrap().to_owned();
        self.run(&["status"]).status.success()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs `vitrail` in the site's directory.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        vitrail()
            .env("VITRAIL_ENDPOINT", &self.api)
            .env("VITRAIL_ADMIN_ENDPOINT", &self.admin)
            .current_dir(self.directory.path())
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs `vitrail --json`, which must succeed, and answers its document.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--json"], arguments].concat());
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {messages}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn code(&self, arguments: &[&str]) -> i32 {
        self.run(arguments).status.code().unwrap()
    }

    pub(crate) fn push(&self, file: &str, name: &str) -> Value {
        self.json(&[
            "image",
            "push",
            file,
            "--name",
            name,
            "--disk-format",
            "raw",
        ])
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.daemon.kill().ok();
        self.daemon.wait().ok();
    }
}

/// The command, without any of the caller's settings.
pub(crate) fn vitrail() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitrail"));
    command.env_clear();
    command
}

/// Asks again and again; it has to come true.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(20));
    }
}

/// The daemon that `VITRAILD_BIN` names, or the one built beside this test's `vitrail`.
fn daemon_path() -> PathBuf {
    let beside = || Path::new(env!("CARGO_BIN_EXE_vitrail")).with_file_name("vitraild");
    let path = std::env::var_os("VITRAILD_BIN").map_or_else(beside, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: cargo build -p vitraild",
        path.display()
    );
    path
}
