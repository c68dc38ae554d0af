//! Answers of both APIs that are hostile, cut off or ambiguous.

use crate::scripted::{Reply, Server, answer, document};
use serde_json::{Value, json};
use vitrail::Error;
use vitrail::admin::{Event, LINE_LEN_MAX};
use vitrail::client::JSON_LEN_MAX;
use vitrail::image::ImageQuery;

fn record(id: &str, name: &str) -> Value {
    json!({
        "id": id, "name": name, "status": "active", "visibility": "shared", "owner": null,
        "protected": false, "min_disk": 0, "min_ram": 0, "disk_format": "raw",
        "container_format": "bare", "tags": [], "size": 1, "virtual_size": 1, "checksum": null,
        "created_at": "2026-11-24T08:19:30Z", "updated_at": "2026-11-24T08:19:30Z",
    })
}

fn page(images: &[Value], next: Option<&str>) -> Reply {
    document(
        200,
        &json!({"images": images, "next": next, "schema": "/v2/schemas/images"}),
    )
}

#[tokio::test]
async fn an_ambiguous_name_lists_the_ids() {
    // The server's filter is not relied on: "Debian" is another name.
    let images = [
        record("id-1", "debian"),
        record("id-2", "debian"),
        record("id-3", "Debian"),
    ];
    let server = Server::start(vec![page(&images, None)]).await;
    match server.client().images().find("debian").await {
        Err(Error::Ambiguous { ids, .. }) => assert_eq!(ids, ["id-1", "id-2"]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_name_may_look_like_an_id() {
    let name = "5ff4a1b8-8c1f-4cbb-8bd9-4ec2a4d1c7b4";
    let replies = vec![
        document(404, &json!({})),
        page(&[record("id-1", name)], None),
    ];
    let server = Server::start(replies).await;
    assert_eq!(
        server.client().images().find(name).await.unwrap().id,
        "id-1"
    );
}

#[tokio::test]
async fn pages_go_on_after_the_last_image_and_keep_the_filters() {
    let replies = vec![
        page(
            &[record("id-1", "a"), record("id-2", "b")],
            Some("/v2/images?marker=elsewhere"),
        ),
        page(&[], Some("/v2/images")),
    ];
    let server = Server::start(replies).await;
    let client = server.client();
    let query = ImageQuery {
        tags: vec!["x".to_owned(), "y".to_owned()],
        ..ImageQuery::default()
    };
    let mut pages = client.images().list(&query);
    assert_eq!(pages.next().await.unwrap().unwrap().len(), 2);
    assert_eq!(pages.next().await.unwrap().unwrap().len(), 0);
    assert!(pages.next().await.unwrap().is_none());
    assert_eq!(
        server.request_lines()[1],
        "get /v2/images?limit=500&tag=x&tag=y&marker=id-2"
    );
}

#[tokio::test]
async fn a_document_without_an_end_is_not_kept() {
    let flood = Reply::Answer(answer(
        200,
        "",
        usize::MAX >> 1,
        &vec![b' '; JSON_LEN_MAX + 1],
    ));
    let server = Server::start(vec![flood]).await;
    let outcome = server.client().images().show("id").await;
    assert!(
        matches!(outcome, Err(Error::Malformed { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn work_that_ends_without_a_result_is_an_error() {
    let line = b"{\"progress\":{\"stage\":\"packs\",\"done_bytes\":1,\"total_bytes\":2}}\n";
    // Once in the middle of the answer, once at its end.
    for length in [line.len() + 1, line.len()] {
        let server = Server::start(vec![Reply::Answer(answer(200, "", length, line))]).await;
        let mut operation = server.client().admin().verify().await.unwrap();
        assert!(matches!(operation.next().await, Ok(Event::Progress(_))));
        assert!(matches!(
            operation.next().await,
            Err(Error::Interrupted { .. })
        ));
    }
}

#[tokio::test]
async fn failed_work_says_why() {
    let line = b"{\"error\":{\"message\":\"pack 7 is gone\",\"hint\":\"restore it\"}}\n";
    let server = Server::start(vec![Reply::Answer(answer(200, "", line.len(), line))]).await;
    let error = server
        .client()
        .admin()
        .gc(false)
        .await
        .unwrap()
        .next()
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "pack 7 is gone");
    assert_eq!(error.hint().as_deref(), Some("restore it"));
}

#[tokio::test]
async fn a_line_without_an_end_is_not_kept() {
    let flood = Reply::Answer(answer(
        200,
        "",
        usize::MAX >> 1,
        &vec![b'x'; 2 * LINE_LEN_MAX],
    ));
    let server = Server::start(vec![flood]).await;
    let error = server
        .client()
        .admin()
        .gc(false)
        .await
        .unwrap()
        .next()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}
