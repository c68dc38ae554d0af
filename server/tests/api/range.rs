//! Does a download send exactly the bytes that are asked for?

use crate::http::Connection;
use crate::site::{Site, noise};

#[test]
fn the_table_of_the_api() {
    let site = Site::start();
    let bytes: Vec<u8> = (0..100_000u32).map(|i| (i * 7 + (i >> 8)) as u8).collect();
    let id = site.image(&bytes);
    let get = |name, value| {
        let request = site.request("GET", &format!("/v2/images/{id}/file"));
        request.header(name, value).send()
    };
    let whole = get("X", "y").expect(200);
    let checksum = whole.header("content-md5").unwrap();
    for (range, wanted) in [
        ("bytes=0-99", 0..100),
        ("bytes=100-", 100..100_000),
        ("bytes=-100", 99_900..100_000),
        ("bytes=99999-99999", 99_999..100_000),
        ("bytes=99990-200000", 99_990..100_000),
        ("bytes=0-", 0..100_000),
        ("bytes=-0", 0..100_000),
        ("bytes=-200000", 0..100_000),
        ("bytes=0-99999999999999999999", 0..100_000),
    ] {
        let answer = get("Range", range).expect(206);
        let told = format!("bytes {}-{}/100000", wanted.start, wanted.end - 1);
        assert_eq!(
            answer.header("content-range"),
            Some(told.as_str()),
            "{range}"
        );
        assert!(answer.body == bytes[wanted], "{range}");
        // The whole image's, as clients expect.
        assert_eq!(answer.header("content-md5"), Some(checksum), "{range}");
    }
    for range in [
        "bytes=100000-",
        "bytes=200000-300000",
        "bytes=5-2",
        "items=0-1",
        "bytes=abc",
        "bytes=",
        "bytes=-",
        "bytes=--5",
        "bytes=0x10-0x20",
        "bytes=99999999999999999999-",
    ] {
        let answer = get("Range", range).expect(416);
        let size = Some("bytes */100000");
        assert_eq!(answer.header("content-range"), size, "{range}");
    }
    get("Range", "bytes=0-1,5-6").expect(400);
    let old = get("Content-Range", "bytes 0-99/*").expect(206);
    assert!(old.body == bytes[..100]);
    // What qemu asks first.
    let mut connection = Connection::open(site.api);
    connection
        .send(format!(
            "HEAD /v2/images/{id}/file HTTP/1.1\r\nHost: site\r\n\r\n"
        ))
        .unwrap();
    let head = connection.head().unwrap().expect(200);
    assert_eq!(head.header("content-length"), Some("100000"));
    assert_eq!(head.header("accept-ranges"), Some("bytes"));
    // Nothing to take a part of.
    let queued = site.create(serde_json::json!({}));
    let request = site.request("GET", &format!("/v2/images/{queued}/file"));
    request.header("Range", "bytes=0-1").send().expect(204);
}

/// Chunks, holes and their edges.
#[test]
fn any_part_of_a_sparse_image() {
    let site = Site::start();
    let mut bytes = noise(1, 3 << 20);
    bytes.extend(vec![0; 40 << 20]);
    bytes.extend(noise(2, 1 << 20));
    bytes.extend(vec![0; 5000]);
    let id = site.image(&bytes);
    assert!(site.download(&id) == bytes);
    let mut generator = noise(3, 16 * 200).into_iter();
    let mut below = |n: usize| {
        let number: Vec<u8> = generator.by_ref().take(8).collect();
        u64::from_le_bytes(number.try_into().unwrap()) as usize % n
    };
    for _ in 0..200 {
        let start = below(bytes.len());
        let len = 1 + below(200_000.min(bytes.len() - start));
        let range = format!("bytes={start}-{}", start + len - 1);
        let request = site.request("GET", &format!("/v2/images/{id}/file"));
        let answer = request.header("Range", &range).send().expect(206);
        assert!(answer.body == bytes[start..start + len], "{range}");
    }
}
