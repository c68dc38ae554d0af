//! Is a directory that is not this daemon's left alone, with a reason?

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::site::{Process, command};

/// Starts the daemon there, which must fail; what it says.
#[track_caller]
fn refusal(data_dir: &Path) -> String {
    let output = command(data_dir).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let path = data_dir.to_str().unwrap();
    assert!(text.contains("vitraild: ") && text.contains(path), "{text}");
    text
}

#[test]
fn a_version_that_is_not_known() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("FORMAT"), "vitrail-store 7\n").unwrap();
    let text = refusal(directory.path());
    assert!(text.contains("format 7"), "{text}");
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing was written there");
}

#[test]
fn a_directory_of_something_else() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("thesis.txt"), "years of work").unwrap();
    let text = refusal(directory.path());
    assert!(text.contains("thesis.txt"), "{text}");
}

#[test]
fn a_directory_that_another_daemon_uses() {
    let directory = TempDir::new().unwrap();
    let data_dir = directory.path().join("site");
    let first = Process::start(&data_dir);
    let id = first.image(b"bytes");
    let text = refusal(&data_dir);
    assert!(text.contains("in use"), "{text}");
    assert_eq!(first.download(&id), b"bytes", "the first goes on");
}

#[test]
fn a_port_that_is_taken() {
    let directory = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let data_dir = directory.path().join("site");
    let output = command(&data_dir)
        .args(["--config", "/nonexistent.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("/nonexistent.toml"), "{text}");

    let config = directory.path().join("site.toml");
    let address = taken.local_addr().unwrap();
    fs::write(&config, format!("[admin]\nlisten = \"{address}\"\n")).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_vitraild"))
        .arg("--config")
        .arg(&config)
        .arg("--data-dir")
        .arg(&data_dir)
        .args(["--api-listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&address.to_string()), "{text}");
    assert!(text.contains("[admin] listen"), "{text}");
}
