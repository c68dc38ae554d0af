//! The command as scripts see it: exit code, stdout, stderr.

use std::fs;
use std::process::{Output, Stdio};
use std::time::Duration;

use crate::push::{ID, record};
use crate::scripted::{Reply, Server, document, status};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::sleep;

/// `vitrail` against a server, without any of the caller's settings.
fn command(endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitrail"));
    command
        .env_clear()
        .env("VITRAIL_ENDPOINT", endpoint)
        .env("VITRAIL_ADMIN_ENDPOINT", endpoint)
        .args(arguments);
    command
}

pub(crate) async fn vitrail(endpoint: &str, arguments: &[&str]) -> Output {
    command(endpoint, arguments).output().await.unwrap()
}

async fn code_after(replies: Vec<Reply>, arguments: &[&str]) -> i32 {
    let server = Server::start(replies).await;
    vitrail(server.url().as_str(), arguments)
        .await
        .status
        .code()
        .unwrap()
}

#[tokio::test]
async fn errors_of_the_site_have_codes() {
    let nothing = || document(200, &json!({"images": []}));
    assert_eq!(code_after(vec![nothing()], &["image", "list"]).await, 0);
    assert_eq!(
        code_after(vec![nothing()], &["image", "show", "n"]).await,
        3
    );
    assert_eq!(code_after(vec![status(403)], &["image", "list"]).await, 4);
    assert_eq!(code_after(vec![status(503)], &["status"]).await, 5);
    let damaged = json!({"result": {
        "packs": 1, "frames": 1, "chunks": 1, "bytes": 1, "manifests": 0,
        "damaged": [{"pack": 0, "offset": 5, "reason": "checksum"}], "missing": [], "ok": false,
    }});
    let line = format!("{damaged}\n").into_bytes();
    let reply = Reply::Answer(crate::scripted::answer(200, "", line.len(), &line));
    assert_eq!(code_after(vec![reply], &["store", "verify"]).await, 6);
}

#[tokio::test]
async fn an_unreachable_site_is_told_with_a_hint() {
    // Nobody listens on port 1 of loopback.
    let output = vitrail("http://127.0.0.1:1", &["--json", "status"]).await;
    assert_eq!(output.status.code(), Some(5));
    assert!(output.stdout.is_empty());
    let document: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(document["error"]["exit"], 5);
    assert!(document["error"]["hint"].is_string(), "{document}");
}

#[tokio::test]
async fn a_missing_disk_format_is_suggested_before_anything_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("disk");
    fs::write(&file, b"QFI\xfb\0\0\0\x03").unwrap();
    let server = Server::start(vec![]).await;
    let arguments = ["image", "push", file.to_str().unwrap(), "--name", "n"];
    let output = vitrail(server.url().as_str(), &arguments).await;
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("--disk-format qcow2"), "{message}");
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn ctrl_c_during_a_push_deletes_the_record() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("disk");
    fs::write(&file, b"data").unwrap();
    let created = document(201, &record("queued", None));
    let server = Server::start(vec![created, Reply::Silence, status(204)]).await;
    let arguments = [
        "image",
        "push",
        file.to_str().unwrap(),
        "--name",
        "n",
        "--disk-format",
        "raw",
    ];
    let mut push = command(server.url().as_str(), &arguments)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // The second request is the upload, which is never answered.
    while server.requests().len() < 2 {
        assert!(
            push.try_wait().unwrap().is_none(),
            "ended before the upload"
        );
        sleep(Duration::from_millis(5)).await;
    }
    let pid = push.id().unwrap().to_string();
    Command::new("kill")
        .args(["-INT", &pid])
        .status()
        .await
        .unwrap();
    assert_eq!(push.wait().await.unwrap().code(), Some(130));
    assert_eq!(server.request_lines()[2], format!("delete /v2/images/{ID}"));
}

#[tokio::test]
async fn the_token_is_sent_but_not_shown() {
    let server = Server::start(vec![status(401)]).await;
    let arguments = ["--token", "s3cret", "image", "list"];
    let output = vitrail(server.url().as_str(), &arguments).await;
    assert_eq!(output.status.code(), Some(4));
    assert!(server.requests()[0].contains("x-auth-token: s3cret\r\n"));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("s3cret"));
}

#[tokio::test]
async fn completions_need_no_site() {
    for shell in ["bash", "zsh", "fish"] {
        let output = vitrail("http://127.0.0.1:1", &["completions", shell]).await;
        assert!(output.status.success());
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("vitrail")
        );
    }
}
