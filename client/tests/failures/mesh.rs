//! The mesh as the command shows it: sites that fail, streams that break, sites that are alone.

use std::fs;
use std::process::Output;

use crate::exit_codes::vitrail;
use crate::push::{ID, record};
use crate::scripted::{Reply, Server, answer, document, status};
use serde_json::{Value, json};

fn lines(lines: &[Value]) -> Reply {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Reply::Answer(answer(200, "", body.len(), body.as_bytes()))
}

fn image() -> Reply {
    document(200, &record("active", Some(4)))
}

fn pair(site: &str, state: &str, done: u64) -> Value {
    json!({"image": ID, "site": site, "state": state, "done_bytes": done, "total_bytes": 1024})
}

fn failed(site: &str) -> Value {
    let mut pair = pair(site, "failed", 10);
    pair["reason"] = "the disk\u{1b}[2J is full".into();
    pair
}

fn site(name: &str, is_self: bool, up: bool) -> Value {
    json!({
        "name": name, "zone": null, "addresses": ["192.0.2.1:9293"], "self": is_self, "up": up,
        "images_held": 0, "link": null,
    })
}

fn alone() -> Reply {
    let error = json!({"error": {"message": "this site is alone", "hint": "make certificates"}});
    document(409, &error)
}

fn site_status() -> Reply {
    let store = json!({
        "format": 1, "manifests": 0, "images": 0, "chunks": 0, "packs": 0, "logical_bytes": 0,
        "data_bytes": 0, "unique_bytes": 0, "pack_bytes": 0, "index_bytes": 0, "disk_bytes": 0,
        "capacity_bytes": null, "free_bytes": 1, "damaged_chunks": 0,
    });
    let status = json!({
        "site": "paris", "zone": null, "version": "1", "started_at": "2026-11-24T08:19:30Z",
        "uptime_s": 7, "images": 0, "store": store,
    });
    document(200, &status)
}

async fn run(server: &Server, arguments: &[&str]) -> Output {
    vitrail(server.url().as_str(), arguments).await
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_preseed_is_done_only_when_every_site_holds_the_image() {
    for (ok, code) in [(true, 0), (false, 7)] {
        let last = if ok {
            pair("lyon", "held", 1024)
        } else {
            failed("lyon")
        };
        let report = json!({"ok": ok, "sites": [last, pair("paris", "held", 1024)]});
        let stream = lines(&[
            json!({"progress": pair("lyon", "running", 10)}),
            json!({"result": report}),
        ]);
        let server = Server::start(vec![image(), stream]).await;
        let output = run(&server, &["--json", "preseed", ID, "--sites", "lyon,paris"]).await;
        assert_eq!(output.status.code(), Some(code));
        assert!(output.stderr.is_empty());
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed, report);
        assert_eq!(server.request_lines()[1], "post /v1/preseed");
    }
}

#[tokio::test]
async fn progress_is_told_in_lines_and_the_outcome_in_a_table() {
    let stream = lines(&[
        json!({"progress": pair("lyon", "running", 0)}),
        json!({"progress": pair("paris", "running", 512)}),
        json!({"progress": pair("paris", "held", 1024)}),
        json!({"progress": failed("lyon")}),
        json!({"result": {"ok": false, "sites": [failed("lyon"), pair("paris", "held", 1024)]}}),
    ]);
    let server = Server::start(vec![image(), stream]).await;
    let output = run(&server, &["preseed", ID, "--all"]).await;
    let progress = "\
lyon: n: 0% of 1.00 KiB
paris: n: 50% of 1.00 KiB
paris: n: held
lyon: n: failed: the disk\u{fffd}[2J is full
";
    assert_eq!(text(&output.stderr), progress);
    let outcome = "\
SITE   IMAGE  OUTCOME      DATA  REASON
lyon   n      failed   1.00 KiB  the disk\u{fffd}[2J is full
paris  n      held     1.00 KiB
";
    assert_eq!(text(&output.stdout), outcome);
}

#[tokio::test]
async fn a_preseed_that_cannot_be_followed_is_not_done() {
    let running = json!({"progress": pair("lyon", "running", 10)});
    let cut = Server::start(vec![image(), lines(&[running])]).await;
    let output = run(&cut, &["preseed", ID, "--all"]).await;
    assert_eq!(output.status.code(), Some(5));

    let missing = Server::start(vec![image(), status(404)]).await;
    let output = run(&missing, &["preseed", ID, "--sites", "nowhere"]).await;
    assert_eq!(output.status.code(), Some(3));
}

#[tokio::test]
async fn a_preseed_needs_its_images_and_sites() {
    for arguments in [
        &["preseed", ID][..],
        &["preseed", "--all"],
        &["preseed", ID, "--all", "--sites", "lyon"],
    ] {
        let server = Server::start(vec![]).await;
        let output = run(&server, arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    // The second image does not exist: nothing is begun for the first.
    let nothing = document(200, &json!({"images": []}));
    let server = Server::start(vec![image(), nothing]).await;
    let output = run(&server, &["preseed", ID, "other", "--all"]).await;
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_site_that_is_alone_says_so() {
    let server = Server::start(vec![alone()]).await;
    let output = run(&server, &["site", "list"]).await;
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("make certificates"));

    let server = Server::start(vec![site_status(), alone()]).await;
    let output = run(&server, &["--json", "status"]).await;
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["site"], "paris");
    assert_eq!(printed["mesh"], Value::Null);
}

#[tokio::test]
async fn the_status_counts_the_sites_of_the_mesh() {
    let sites = json!([site("lyon", false, false), site("paris", true, true)]);
    let server = Server::start(vec![site_status(), document(200, &sites)]).await;
    let output = run(&server, &["status"]).await;
    assert!(text(&output.stdout).contains("1 of 2 sites up"));
}

fn receipt(pull: u64) -> Value {
    json!({
        "pull": pull, "image": ID, "manifest": "00", "site": "paris",
        "started_at": "2026-11-24T08:19:30Z", "seconds": 2.0, "image_bytes": 4, "hole_bytes": 0,
        "local_bytes": 1, "dropped": [],
        "peers": {"lyon": {"raw": 3, "wire": 2, "path": {
            "rate": 1_000_000, "rtt_ms": 20.5, "rtt_min_ms": 18.0, "packets_sent": 10,
            "packets_lost": 1, "bytes_sent_twice": 1452, "state": "cruise",
        }}},
        "encoding": "zstd frames", "bound_seconds": 1.5, "bottleneck": ["lyon"], "outcome": "complete",
    })
}

/// Answers of the site at which `image pull --receipt` asks before the pull, and of the pull.
fn pull_replies(receipts: Value, complete: bool) -> Vec<Reply> {
    let mut paris = site("paris", true, true);
    paris["images"] = json!([{"id": ID, "name": "n", "complete": complete}]);
    vec![
        image(),
        document(200, &receipts),
        site_status(),
        document(200, &paris),
        Reply::Answer(answer(200, "", 4, b"data")),
    ]
}

async fn pull_with_receipt(replies: Vec<Reply>, flags: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out");
    let path = file.to_str().unwrap();
    let arguments = ["image", "pull", ID, "--no-verify", "--receipt", "-o", path];
    let server = Server::start(replies).await;
    let output = run(&server, &[flags, &arguments[..]].concat()).await;
    assert_eq!(fs::read(&file).unwrap(), b"data");
    output
}

#[tokio::test]
async fn the_receipt_of_this_pull_is_waited_for() {
    let mut replies = pull_replies(json!([receipt(6)]), false);
    for newest in [6, 6, 7] {
        replies.push(document(200, &json!([receipt(newest)])));
    }
    let output = pull_with_receipt(replies, &["--json"]).await;
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["receipt"], receipt(7));
}

#[tokio::test]
async fn a_receipt_is_readable() {
    let mut replies = pull_replies(json!([]), false);
    replies.push(document(200, &json!([receipt(7)])));
    let output = pull_with_receipt(replies, &[]).await;
    assert!(output.stdout.is_empty());
    let messages = text(&output.stderr);
    for part in [
        "pull 7 of paris",
        "3 B, 2 B on the wire",
        "2.0, at least 1.5 by the links of lyon",
    ] {
        assert!(messages.contains(part), "{messages}");
    }
}

#[tokio::test]
async fn an_old_receipt_is_not_taken_for_that_of_a_local_image() {
    let mut replies = pull_replies(json!([receipt(6)]), true);
    replies.push(document(200, &json!([receipt(6)])));
    let output = pull_with_receipt(replies, &["--json"]).await;
    assert_eq!(output.status.code(), Some(0));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["receipt"], Value::Null);
}

#[tokio::test]
async fn a_receipt_that_cannot_be_had_does_not_cost_the_file() {
    let mut replies = pull_replies(json!([]), true);
    replies.push(status(500));
    let output = pull_with_receipt(replies, &[]).await;
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).contains("is complete, but its receipt"));
}

#[tokio::test]
async fn limits_are_read_changed_and_shown() {
    let limits = json!({
        "send": "50Mbit/s", "receive": null, "background": {"send": "2Mbit/s", "receive": null},
        "peers": {"lyon": {"send": "5Mbit/s", "receive": null}},
    });
    let server = Server::start(vec![document(200, &limits), document(200, &limits)]).await;
    let set = ["limit", "set", "--class", "background", "--send", "2Mbit/s"];
    let output = run(&server, &set).await;
    let shown = "\
FOR             SEND  RECEIVE
all sites   50Mbit/s        -
background   2Mbit/s        -
site lyon    5Mbit/s        -
";
    assert_eq!(text(&output.stdout), shown);
    let lines = ["get /v1/limits", "put /v1/limits"];
    assert_eq!(server.request_lines(), lines);

    let server = Server::start(vec![document(200, &limits)]).await;
    let output = run(&server, &["--json", "limit", "show"]).await;
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, limits);
}
