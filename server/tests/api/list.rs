//! Does a list show the right images, in the right order, on however many pages?

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::site::{Client, Site};

/// The ids on all pages from `path` on, following `next`, and the number of pages.
fn pages(site: &Client, path: &str) -> (Vec<String>, usize) {
    let mut ids = Vec::new();
    let mut next = Some(path.to_owned());
    let mut count = 0;
    while let Some(path) = next {
        let document = site.get(&path).expect(200).json();
        ids.extend(
            document["images"]
                .as_array()
                .unwrap()
                .iter()
                .map(|image| image["id"].as_str().unwrap().to_owned()),
        );
        next = document["next"].as_str().map(str::to_owned);
        count += 1;
        assert!(count < 1000, "pages without end");
    }
    (ids, count)
}

/// Names in the order in which a query lists them.
#[track_caller]
fn names(site: &Client, query: &str) -> Vec<String> {
    let document = site.get(&format!("/v2/images?{query}")).expect(200).json();
    document["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["name"].as_str().unwrap_or("-").to_owned())
        .collect()
}

/// Five images, `a` to `e` in order of age.
fn five(site: &Client) -> Vec<String> {
    let documents = [
        json!({"name": "a", "min_ram": 1, "tags": ["x"], "os_distro": "debian"}),
        json!({"name": "b", "min_ram": 2, "tags": ["x", "y"], "container_format": "ovf"}),
        json!({"name": "c", "min_ram": 3, "disk_format": "iso", "protected": true}),
        json!({"name": "d", "min_ram": 4, "visibility": "public"}),
        json!({"name": "e", "min_ram": 5, "os_hidden": true}),
    ];
    let ids = documents.map(|document| {
        // Those of one millisecond are ordered by id.
        std::thread::sleep(std::time::Duration::from_millis(2));
        site.create(document)
    });
    site.upload(&ids[0], vec![1; 10]).send().expect(204);
    site.upload(&ids[1], vec![1; 20]).send().expect(204);
    ids.into()
}

#[test]
fn filters() {
    let site = Site::start();
    let ids = five(&site);
    let sum = site.show(&ids[1])["checksum"].as_str().unwrap().to_owned();
    for (query, wanted) in [
        ("", "dcba"),
        ("os_hidden=true", "e"),
        ("name=b", "b"),
        ("name=in:b,c,zz", "cb"),
        ("name=in:%22b%22,a", "ba"),
        ("name=", ""),
        ("status=active", "ba"),
        ("status=in:active,queued", "dcba"),
        ("status=foo", ""),
        ("disk_format=iso", "c"),
        ("container_format=in:ovf,ova", "b"),
        ("tag=x", "ba"),
        ("tag=x&tag=y", "b"),
        ("tag=", ""),
        ("size_min=15", "b"),
        ("size_max=15", "a"),
        ("size=20", "b"),
        ("min_ram=3", "c"),
        ("min_ram_min=3", "dc"),
        ("protected=true", "c"),
        ("protected=false", "dba"),
        ("visibility=public", "d"),
        ("visibility=shared", "cba"),
        ("visibility=all", "dcba"),
        ("os_distro=debian", "a"),
        ("nonesuch=1", ""),
        (&format!("checksum={sum}"), "b"),
        (&format!("id={}", ids[2]), "c"),
        (&format!("id=in:{},{}", ids[2], ids[0]), "ca"),
        ("created_at=gte:2020-01-01T00:00:00Z", "dcba"),
        ("created_at=lt:2020-01-01T00:00:00Z", ""),
        ("updated_at=neq:2020-01-01T00:00:00Z", "dcba"),
        ("limit=0", ""),
    ] {
        assert_eq!(names(&site, query).concat(), wanted, "{query}");
    }
    for query in [
        "limit=-1",
        "limit=x",
        "limit=2.5",
        "marker=foo",
        "marker=00000000-0000-0000-0000-000000000000",
        "sort_key=foo",
        "sort_key=min_ram",
        "sort_dir=up",
        "sort=name:asc&sort_key=name",
        "sort_key=name&sort_dir=asc&sort_dir=desc",
        "visibility=x",
        "protected=False",
        "os_hidden=x",
        "size_min=x",
        "min_ram=x",
        "foo_min=1",
        "created_at=gte:foo",
        "changes-since=2020-01-01T00:00:00Z",
        "member_status=x",
        "name=neq:b",
        "name=in:%22b",
    ] {
        let answer = site.get(&format!("/v2/images?{query}"));
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
    }
}

#[test]
fn orders() {
    let site = Site::start();
    five(&site);
    for (query, wanted) in [
        ("sort=name:asc", "abcd"),
        ("sort=name", "dcba"),
        ("sort_key=name&sort_dir=asc", "abcd"),
        ("sort_dir=asc", "abcd"),
        ("sort=size:asc", "abcd"),
        ("sort=size:desc,name:asc", "cdba"),
        ("sort=status:asc,name:desc", "badc"),
        ("sort_key=disk_format&sort_key=name&sort_dir=asc", "cabd"),
        ("sort=container_format:desc,name:asc", "bacd"),
    ] {
        assert_eq!(names(&site, query).concat(), wanted, "{query}");
    }
}

#[test]
fn links_of_pages() {
    let site = Site::start();
    let ids = five(&site);
    let query = "limit=2&tag=x&tag=y&sort=name:asc";
    let document = site.get(&format!("/v2/images?{query}")).expect(200).json();
    let first = "/v2/images?limit=2&tag=x&tag=y&sort=name%3Aasc";
    assert_eq!(document["first"], first);
    assert_eq!(document.get("next"), None, "the page is not full");
    let document = site.get("/v2/images?limit=2").expect(200).json();
    let next = format!("/v2/images?limit=2&marker={}", ids[2]);
    assert_eq!(document["next"], next);
    assert_eq!(document["schema"], "/v2/schemas/images");
    // A last page that is full has a next one, which is empty.
    assert_eq!(pages(&site, "/v2/images?limit=2").1, 3);
    // An image may go between two pages, but not the marker.
    site.delete(&ids[1]).expect(204);
    assert_eq!(names(&site, &next[11..]).concat(), "a");
}

/// An image of random fields, many of them alike.
fn document() -> impl Strategy<Value = Value> {
    let pick = |texts: &'static [&'static str]| proptest::sample::select(texts);
    (
        pick(&["", "a", "b", "c"]),
        pick(&["raw", "qcow2", "iso"]),
        pick(&["x", "y"]),
        pick(&["public", "private", "community"]),
        0..4usize,
    )
        .prop_map(|(name, format, tag, visibility, size)| {
            let name = if name.is_empty() {
                Value::Null
            } else {
                json!(name)
            };
            // The size goes in here until it is uploaded.
            json!({"name": name, "disk_format": format, "container_format": "ovf", "tags": [tag],
                   "visibility": visibility, "len": size.to_string()})
        })
}

/// A query with filters and an order.
fn query() -> impl Strategy<Value = String> {
    let parts = |texts: &'static [&'static str]| proptest::sample::select(texts);
    let filter = parts(&[
        "",
        "tag=x",
        "name=a",
        "disk_format=in:raw,iso",
        "visibility=public",
        "size_min=1",
        "status=active",
    ]);
    let order = parts(&[
        "",
        "sort=name",
        "sort=name:asc",
        "sort=size:asc,name:desc",
        "sort=size:desc",
        "sort=status,disk_format:asc",
        "sort_key=updated_at&sort_dir=asc",
        "sort_dir=asc",
        "sort=id:asc",
        "sort=container_format",
    ]);
    (filter, order).prop_map(|(filter, order)| format!("{filter}&{order}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 50, ..Default::default() })]

    /// Whatever the page size, the pages are the whole list cut up.
    #[test]
    fn pages_concatenate_to_the_whole(
        documents in proptest::collection::vec(document(), 1..30),
        queries in proptest::collection::vec((query(), 1..8usize), 12),
    ) {
        let site = Site::start();
        for document in documents {
            let len = document["len"].as_str().unwrap().parse().unwrap();
            let id = site.create(document);
            if len > 0 {
                site.upload(&id, vec![7; len]).send().expect(204);
            }
        }
        for (query, limit) in queries {
            let (whole, _) = pages(&site, &format!("/v2/images?limit=1000&{query}"));
            let (paged, count) = pages(&site, &format!("/v2/images?limit={limit}&{query}"));
            prop_assert_eq!(&paged, &whole, "{} in pages of {}", query, limit);
            prop_assert_eq!(count, whole.len() / limit + 1);
            let mut unique = whole.clone();
            unique.sort();
            unique.dedup();
            prop_assert_eq!(unique.len(), whole.len());
        }
    }
}
