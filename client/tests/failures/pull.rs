//! Pulls from a server that breaks: does the file come out right, or not at all?

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use crate::scripted::{Reply, Server, answer, status};
use md5::{Digest, Md5};
use serde_json::json;
use sha2::Sha512;
use tempfile::TempDir;
use vitrail::transfer::{Algorithm, PullError, PullEvent, PullOptions, Pulled, RetryPolicy, pull};
use vitrail::{Client, Error, Image};

const SIZE: usize = 300_000;

/// Bytes with no zero among them, so that every one of them is written.
fn data() -> Vec<u8> {
    (0..SIZE).map(|i| (i % 251 + 1) as u8).collect()
}

fn image() -> Image {
    let data = data();
    let document = json!({
        "id": "5ff4a1b8-8c1f-4cbb-8bd9-4ec2a4d1c7b4", "name": "n", "status": "active",
        "visibility": "shared", "owner": null, "protected": false, "min_disk": 0, "min_ram": 0,
        "disk_format": "raw", "container_format": "bare", "tags": [],
        "size": SIZE, "virtual_size": SIZE,
        "checksum": hex::encode(Md5::digest(&data)),
        "os_hash_algo": "sha512", "os_hash_value": hex::encode(Sha512::digest(&data)),
        "created_at": "2026-11-24T08:19:30Z", "updated_at": "2026-11-24T08:19:30Z",
    });
    serde_json::from_value(document).unwrap()
}

/// 200 with the whole length stated and the first `len` bytes sent.
fn cut_at(len: usize) -> Reply {
    Reply::Answer(answer(200, "", SIZE, &data()[..len]))
}

/// 206 from `start` to the end, and `len` bytes of that sent.
fn rest_from(start: usize, len: usize) -> Reply {
    let range = format!("Content-Range: bytes {start}-{}/{SIZE}\r\n", SIZE - 1);
    Reply::Answer(answer(
        206,
        &range,
        SIZE - start,
        &data()[start..start + len],
    ))
}

/// A pull into an empty directory.
struct Scene {
    server: Server,
    directory: TempDir,
    options: PullOptions,
    notes: Mutex<Vec<String>>,
}

impl Scene {
    async fn new(replies: Vec<Reply>) -> Self {
        let delay = Duration::from_millis(1);
        let retry = RetryPolicy {
            retries: 2,
            first_delay: delay,
            delay_max: delay,
        };
        Self {
            server: Server::start(replies).await,
            directory: tempfile::tempdir().unwrap(),
            options: PullOptions {
                retry,
                ..PullOptions::default()
            },
            notes: Mutex::default(),
        }
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("image.raw")
    }

    fn part(&self) -> PathBuf {
        self.directory.path().join("image.raw.part")
    }

    async fn pull(&self) -> Result<Pulled, PullError> {
        self.pull_with(&self.server.client()).await
    }

    async fn pull_with(&self, client: &Client) -> Result<Pulled, PullError> {
        let on_event = |event: PullEvent<'_>| match event {
            PullEvent::Position(_) => {}
            PullEvent::Resumed(at) => self.notes.lock().unwrap().push(format!("resumed {at}")),
            PullEvent::Restarted => self.notes.lock().unwrap().push("restarted".to_owned()),
            PullEvent::Retrying { .. } => self.notes.lock().unwrap().push("retrying".to_owned()),
        };
        pull(client, &image(), &self.output(), self.options, &on_event).await
    }

    fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap().clone()
    }

    /// The `Range` headers of all requests.
    fn ranges(&self) -> Vec<Option<String>> {
        let range = |head: String| {
            head.lines()
                .find_map(|line| line.strip_prefix("range: "))
                .map(str::to_owned)
        };
        self.server.requests().into_iter().map(range).collect()
    }

    fn assert_complete(&self) {
        assert!(
            fs::read(self.output()).unwrap() == data(),
            "the file is not the image"
        );
        assert!(!self.part().exists(), "a part file is left");
    }
}

#[tokio::test]
async fn a_cut_connection_is_gone_on_with() {
    let scene = Scene::new(vec![cut_at(100_001), rest_from(100_001, SIZE - 100_001)]).await;
    let pulled = scene.pull().await.unwrap();
    scene.assert_complete();
    assert_eq!(pulled.received, SIZE as u64);
    assert_eq!(pulled.verified, [Algorithm::Md5, Algorithm::Sha512]);
    assert_eq!(scene.ranges(), [None, Some("bytes=100001-".to_owned())]);
    assert_eq!(scene.notes(), ["retrying"]);
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let scene = Scene::new(vec![status(503), status(502), cut_at(SIZE)]).await;
    scene.pull().await.unwrap();
    scene.assert_complete();
}

#[tokio::test]
async fn retries_end_and_leave_nothing_if_nothing_came() {
    let scene = Scene::new(vec![status(503), status(503), status(503)]).await;
    let error = scene.pull().await.unwrap_err();
    assert!(matches!(error, PullError::Request(error) if error.status() == Some(503)));
    assert_eq!(scene.server.requests().len(), 3);
    assert_eq!(fs::read_dir(scene.directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_refusal_is_final() {
    let scene = Scene::new(vec![status(403)]).await;
    let error = scene.pull().await.unwrap_err();
    assert!(matches!(error, PullError::Request(error) if error.status() == Some(403)));
    assert_eq!(scene.server.requests().len(), 1);
}

#[tokio::test]
async fn the_next_pull_goes_on_where_this_one_gave_up() {
    let mut scene = Scene::new(vec![cut_at(5000), rest_from(5000, 295_000)]).await;
    scene.options.retry.retries = 0;
    let error = scene.pull().await.unwrap_err();
    assert!(
        matches!(error, PullError::Request(Error::Interrupted { .. })),
        "{error}"
    );
    assert_eq!(fs::metadata(scene.part()).unwrap().len(), 5000);

    let pulled = scene.pull().await.unwrap();
    scene.assert_complete();
    assert_eq!(pulled.received, 295_000);
    assert_eq!(scene.notes(), ["resumed 5000"]);
}

#[tokio::test]
async fn a_complete_part_needs_no_bytes() {
    let scene = Scene::new(vec![]).await;
    fs::write(scene.part(), data()).unwrap();
    let pulled = scene.pull().await.unwrap();
    scene.assert_complete();
    assert_eq!(pulled.received, 0);
}

#[tokio::test]
async fn the_part_of_another_image_is_noticed() {
    let scene = Scene::new(vec![rest_from(5000, 295_000), cut_at(SIZE)]).await;
    fs::write(scene.part(), [9; 5000]).unwrap();
    scene.pull().await.unwrap();
    scene.assert_complete();
    assert_eq!(scene.notes(), ["resumed 5000", "restarted"]);
}

#[tokio::test]
async fn a_part_is_not_trusted_without_verification() {
    let mut scene = Scene::new(vec![cut_at(SIZE)]).await;
    scene.options.verify = false;
    fs::write(scene.part(), [9; 5000]).unwrap();
    let pulled = scene.pull().await.unwrap();
    scene.assert_complete();
    assert!(pulled.verified.is_empty());
}

#[tokio::test]
async fn wrong_bytes_never_get_the_name() {
    let mut wrong = data();
    wrong[SIZE / 2] ^= 1;
    let scene = Scene::new(vec![Reply::Answer(answer(200, "", SIZE, &wrong))]).await;
    let error = scene.pull().await.unwrap_err();
    assert!(matches!(error, PullError::Damaged { .. }), "{error}");
    assert_eq!(fs::read_dir(scene.directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_proxy_may_ignore_the_range() {
    let scene = Scene::new(vec![cut_at(100_000), cut_at(SIZE)]).await;
    let pulled = scene.pull().await.unwrap();
    scene.assert_complete();
    assert_eq!(pulled.received, 100_000 + SIZE as u64);
}

#[tokio::test]
async fn answers_of_another_size_are_refused() {
    let shorter = Reply::Answer(answer(200, "", 7, b"shorter"));
    let elsewhere = rest_from(200_000, 100_000);
    let chunked = "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for reply in [
        shorter,
        elsewhere,
        status(204),
        Reply::Answer(chunked.into()),
    ] {
        let scene = Scene::new(vec![reply]).await;
        let error = scene.pull().await.unwrap_err();
        assert!(
            matches!(error, PullError::Request(Error::Malformed { .. })),
            "{error}"
        );
        assert!(!scene.output().exists());
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let mut scene = Scene::new(vec![Reply::Silence]).await;
    scene.options.retry.retries = 0;
    let error = scene
        .pull_with(&scene.server.impatient_client())
        .await
        .unwrap_err();
    assert!(
        matches!(error, PullError::Request(Error::Stalled { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn an_existing_file_is_replaced_only_on_request() {
    let mut scene = Scene::new(vec![cut_at(SIZE)]).await;
    fs::write(scene.output(), "precious").unwrap();
    let error = scene.pull().await.unwrap_err();
    assert!(matches!(error, PullError::Exists { .. }), "{error}");
    assert_eq!(fs::read_to_string(scene.output()).unwrap(), "precious");

    scene.options.overwrite = true;
    scene.pull().await.unwrap();
    scene.assert_complete();
}

#[tokio::test]
async fn a_directory_is_never_replaced() {
    let mut scene = Scene::new(vec![]).await;
    scene.options.overwrite = true;
    fs::create_dir(scene.output()).unwrap();
    let error = scene.pull().await.unwrap_err();
    assert!(matches!(error, PullError::NotAFile { .. }), "{error}");
}

#[tokio::test]
async fn two_pulls_do_not_share_a_part() {
    let scene = Scene::new(vec![]).await;
    let other = fs::File::create(scene.part()).unwrap();
    other.lock().unwrap();
    let error = scene.pull().await.unwrap_err();
    assert!(matches!(error, PullError::Busy { .. }), "{error}");
}

#[tokio::test]
async fn an_image_without_data_is_not_asked_for() {
    let scene = Scene::new(vec![]).await;
    let queued = Image {
        status: "queued".to_owned(),
        size: None,
        ..image()
    };
    let client = scene.server.client();
    let outcome = pull(&client, &queued, &scene.output(), scene.options, &|_| {}).await;
    assert!(matches!(outcome, Err(PullError::NotActive { .. })));
    assert!(scene.server.requests().is_empty());
}
