//! Pushes to a server that breaks or refuses: is the error clear, and is the record cleaned up?

use std::fs;
use std::path::PathBuf;

use crate::scripted::{Reply, Server, answer, document, status};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use vitrail::image::NewImage;
use vitrail::transfer::{PushError, PushOptions, RecordFate, UploadFailure, push};
use vitrail::{Client, Error, Image};

pub(crate) const ID: &str = "5ff4a1b8-8c1f-4cbb-8bd9-4ec2a4d1c7b4";
const SIZE: usize = 8 << 20;

pub(crate) fn record(status: &str, size: Option<usize>) -> Value {
    json!({
        "id": ID, "name": "n", "status": status, "visibility": "shared", "owner": null,
        "protected": false, "min_disk": 0, "min_ram": 0, "disk_format": "raw",
        "container_format": "bare", "tags": [], "size": size, "virtual_size": size,
        "checksum": size.map(|_| "00000000000000000000000000000000"),
        "created_at": "2026-11-24T08:19:30Z", "updated_at": "2026-11-24T08:19:30Z",
    })
}

fn created() -> Reply {
    document(201, &record("queued", None))
}

/// A file of [`SIZE`] bytes: more than the sockets' buffers hold.
fn source() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.raw");
    fs::write(&path, vec![7; SIZE]).unwrap();
    (directory, path)
}

async fn push_to(server: &Server, options: PushOptions) -> Result<Image, PushError> {
    push_with(&server.client(), options).await
}

async fn push_with(client: &Client, options: PushOptions) -> Result<Image, PushError> {
    let (_directory, path) = source();
    push(client, &NewImage::default(), &path, &options, |_| {}).await
}

fn upload_failure(outcome: Result<Image, PushError>) -> (UploadFailure, RecordFate) {
    match outcome {
        Err(PushError::Upload { failure, record }) => (failure, record),
        other => panic!("not a failed upload: {other:?}"),
    }
}

#[tokio::test]
async fn a_cut_upload_is_told_and_its_record_deleted() {
    let server = Server::start(vec![created(), Reply::HangUp(100_000), status(204)]).await;
    let (failure, record) = upload_failure(push_to(&server, PushOptions::default()).await);
    assert!(
        matches!(failure, UploadFailure::Request(Error::Interrupted { .. })),
        "{failure}"
    );
    assert!(matches!(record, RecordFate::Deleted), "{record}");
    let expected = [
        "post /v2/images".to_owned(),
        format!("put /v2/images/{ID}/file"),
        format!("delete /v2/images/{ID}"),
    ];
    assert_eq!(server.request_lines(), expected);
}

#[tokio::test]
async fn the_size_is_announced() {
    let server = Server::start(vec![created(), Reply::HangUp(0), status(204)]).await;
    push_to(&server, PushOptions::default()).await.unwrap_err();
    let upload = &server.requests()[1];
    assert!(
        upload.contains(&format!("content-length: {SIZE}\r\n")),
        "{upload}"
    );
    assert!(
        upload.contains(&format!("x-openstack-image-size: {SIZE}\r\n")),
        "{upload}"
    );
    assert!(
        upload.contains("content-type: application/octet-stream\r\n"),
        "{upload}"
    );
}

#[tokio::test]
async fn a_record_is_kept_on_request() {
    let server = Server::start(vec![created(), Reply::HangUp(0)]).await;
    let options = PushOptions {
        keep: true,
        ..PushOptions::default()
    };
    let (_, record) = upload_failure(push_to(&server, options).await);
    assert!(matches!(record, RecordFate::Kept { id } if id == ID));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_record_that_cannot_be_deleted_is_named() {
    let server = Server::start(vec![created(), Reply::HangUp(0), status(500)]).await;
    let (_, record) = upload_failure(push_to(&server, PushOptions::default()).await);
    assert!(matches!(record, RecordFate::Left { id, .. } if id == ID));
}

/// The reason must reach the user although the client is still sending.
#[tokio::test]
async fn a_refusal_in_the_middle_of_the_upload_is_heard() {
    let reason = br#"{"message":"content is not qcow2","code":"415 X","title":"X"}"#;
    let refusal = Reply::EarlyAnswer(answer(415, "", reason.len(), reason));
    let server = Server::start(vec![created(), refusal, status(204)]).await;
    let (failure, record) = upload_failure(push_to(&server, PushOptions::default()).await);
    assert!(matches!(&failure, UploadFailure::Request(error) if error.status() == Some(415)));
    assert!(
        failure.to_string().contains("content is not qcow2"),
        "{failure}"
    );
    assert!(matches!(record, RecordFate::Deleted));
}

#[tokio::test]
async fn other_bytes_at_the_site_are_noticed() {
    let stored = |size| document(200, &record("active", Some(size)));
    let server = Server::start(vec![created(), status(204), stored(SIZE), status(204)]).await;
    let (failure, record) = upload_failure(push_to(&server, PushOptions::default()).await);
    assert!(matches!(failure, UploadFailure::Damaged(_)), "{failure}");
    assert!(matches!(record, RecordFate::Deleted));

    let server = Server::start(vec![created(), status(204), stored(7), status(204)]).await;
    let (failure, _) = upload_failure(push_to(&server, PushOptions::default()).await);
    assert!(
        matches!(failure, UploadFailure::Size { found: Some(7), .. }),
        "{failure}"
    );
}

#[tokio::test]
async fn a_site_that_stops_reading_is_given_up() {
    let server = Server::start(vec![created(), Reply::Silence, status(204)]).await;
    let (failure, _) =
        upload_failure(push_with(&server.impatient_client(), PushOptions::default()).await);
    assert!(
        matches!(failure, UploadFailure::Request(Error::Stalled { .. })),
        "{failure}"
    );
}

#[tokio::test]
async fn a_cancelled_push_cleans_up() {
    let server = Server::start(vec![created(), status(204)]).await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let options = PushOptions {
        cancel,
        ..PushOptions::default()
    };
    let (failure, record) = upload_failure(push_to(&server, options).await);
    assert!(matches!(failure, UploadFailure::Cancelled), "{failure}");
    assert!(matches!(record, RecordFate::Deleted));
}

#[tokio::test]
async fn a_refused_record_leaves_nothing_to_clean() {
    let server = Server::start(vec![status(409)]).await;
    let outcome = push_to(&server, PushOptions::default()).await;
    assert!(matches!(outcome, Err(PushError::Create(error)) if error.status() == Some(409)));
}
