//! A MariaDB as Glance's database: a server of its own with a data directory of its own, reached through a socket.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::apt_install;
use crate::machine::version;
use crate::process::{Process, run};

/// The server without the service that its package would start, and a tool of the client that makes its tables.
const PACKAGES: &[&str] = &["mariadb-server-core", "mariadb-client-core"];
const SERVER: &str = "/usr/sbin/mariadbd";
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A running server with the defaults of its makers: commits are on disk before they are told of.
#[derive(Debug)]
pub struct MariaDb {
    process: Process,
    socket: PathBuf,
}

impl MariaDb {
    /// Makes an empty server in `dir` with the databases `databases`, and starts it.
    pub fn start(dir: &Path, databases: &[&str]) -> Result<Self> {
        apt_install(PACKAGES)?;
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let data = format!("--datadir={}", dir.join("data").display());
        let user = format!("--user={}", whoami()?);
        run(
            "mariadb-install-db",
            Command::new("mariadb-install-db")
                .args(["--no-defaults", "--auth-root-authentication-method=normal"])
                .args(["--skip-test-db", &data, &user]),
        )?;
        let init = dir.join("init.sql");
        let statements: String = databases
            .iter()
            .map(|name| format!("CREATE DATABASE {name} CHARACTER SET utf8mb3;\n"))
            .collect();
        fs::write(&init, statements)?;
        let socket = dir.join("socket");
        let mut process = Process::spawn(
            "mariadbd",
            Command::new(SERVER)
                .args(["--no-defaults", "--skip-networking", &data, &user])
                .arg(format!("--socket={}", socket.display()))
                .arg(format!("--pid-file={}", dir.join("pid").display()))
                .arg(format!("--init-file={}", init.display())),
            &dir.join("log"),
        )?;
        process
            .wait_ready(READY_TIMEOUT, || UnixStream::connect(&socket).is_ok())
            .with_context(|| format!("see {}", dir.join("log").display()))?;
        Ok(Self { process, socket })
    }

    /// What SQLAlchemy calls one of its databases.
    pub fn url(&self, database: &str) -> String {
        let socket = self.socket.display();
        format!("mysql+pymysql://root@localhost/{database}?unix_socket={socket}")
    }

    /// The server's process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it says of itself.
    pub fn version() -> String {
        version(SERVER, &["--version"])
    }
}

fn whoami() -> Result<String> {
    let (name, _) = run("id", Command::new("id").arg("--user").arg("--name"))?;
    Ok(name.trim().to_owned())
}
