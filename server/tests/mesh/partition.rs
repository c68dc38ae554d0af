//! Does a partition in the middle of something end well, on both sides?

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cut::Network;
use crate::mesh::{Authority, free_address, receipts, received, up_sites, wait, wait_for_image};
use crate::site::{Client, Site, noise};

const MB: usize = 1_000_000;
/// How long a partition lasts: connections live through it, whatever was sent is lost.
const CUT: Duration = Duration::from_secs(3);

/// Paris and lyon, with a network between them.
struct Pair {
    paris: Site,
    lyon: Site,
    network: Network,
    _authority: Authority,
}

impl Pair {
    fn start(rate: f64) -> Self {
        let (authority, network) = (Authority::new(), Network::new(rate));
        let addresses = ["paris", "lyon"].map(|name| {
            let own = free_address();
            (name, own, network.relay(own))
        });
        let seed = addresses[0].2;
        let [paris, lyon] = addresses.map(|(name, own, relay)| {
            Site::with(|config| {
                authority.enroll(config, name, own, seed);
                config.peer.advertise = Some(relay.to_string());
            })
        });
        for site in [&paris, &lyon] {
            wait("both are up", || up_sites(site) == 2);
        }
        Self {
            paris,
            lyon,
            network,
            _authority: authority,
        }
    }
}

/// Whether the image is gone.
fn is_gone(client: &Client, id: &str) -> bool {
    client.get(&format!("/v2/images/{id}")).status == 404
}

/// An upload that is under way: everything but the last byte was sent.
struct Upload {
    stream: TcpStream,
    last: u8,
}

impl Upload {
    fn begin(client: &Client, id: &str, bytes: &[u8]) -> Self {
        let mut stream = TcpStream::connect(client.api).unwrap();
        let head = format!(
            "PUT /v2/images/{id}/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        let (last, rest) = bytes.split_last().unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(rest).unwrap();
        Self {
            stream,
            last: *last,
        }
    }

    /// Sends the rest; the status of the answer.
    fn end(mut self) -> u16 {
        self.stream.write_all(&[self.last]).unwrap();
        let mut line = String::new();
        BufReader::new(self.stream).read_line(&mut line).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

#[test]
fn in_the_middle_of_an_upload() {
    let pair = Pair::start(1e9);
    let image = noise(60, 3 * MB);
    let id = pair.paris.create(json!({"name": "cut"}));
    wait("the image is known", || !is_gone(&pair.lyon, &id));
    let upload = Upload::begin(&pair.paris, &id, &image);
    pair.network.cut();
    assert_eq!(upload.end(), 204);
    assert_eq!(pair.paris.status(&id), "active");
    // Lyon knows nothing of it, and says so at once.
    assert_ne!(pair.lyon.status(&id), "active");
    std::thread::sleep(CUT);
    pair.network.heal();
    wait_for_image(&pair.lyon, &id);
    assert!(pair.lyon.download(&id) == image);
}

#[test]
fn in_the_middle_of_an_upload_that_the_other_side_deletes() {
    let pair = Pair::start(1e9);
    let id = pair.paris.create(json!({"name": "cut"}));
    wait("the image is known", || !is_gone(&pair.lyon, &id));
    let upload = Upload::begin(&pair.paris, &id, &noise(61, 3 * MB));
    pair.network.cut();
    pair.lyon.delete(&id).expect(204);
    assert_eq!(upload.end(), 204);
    std::thread::sleep(CUT);
    pair.network.heal();
    // Deleted is deleted, and what was uploaded is collected.
    wait("the image is gone", || is_gone(&pair.paris, &id));
    assert!(is_gone(&pair.lyon, &id));
    pair.paris.collect();
    assert_eq!(pair.paris.store()["chunks"], 0);
}

#[test]
fn in_the_middle_of_a_delete() {
    let pair = Pair::start(1e9);
    let image = noise(62, 3 * MB);
    let id = pair.paris.image(&image);
    wait_for_image(&pair.lyon, &id);
    assert!(pair.lyon.download(&id) == image);
    pair.network.cut();
    pair.paris.delete(&id).expect(204);
    // The other side goes on with what it has, and even writes to it.
    assert!(pair.lyon.download(&id) == image);
    let change = json!([{"op": "add", "path": "/note", "value": "later than the deletion"}]);
    pair.lyon.patch(&id, &change).expect(200);
    std::thread::sleep(CUT);
    pair.network.heal();
    wait("the image is gone", || is_gone(&pair.lyon, &id));
    assert!(is_gone(&pair.paris, &id));
    for site in [&pair.paris, &pair.lyon] {
        site.collect();
        assert_eq!(site.store()["chunks"], 0);
    }
}

#[test]
fn in_the_middle_of_a_preseed() {
    let mut pair = Pair::start(8e6);
    let image = noise(63, 16 * MB);
    let id = pair.paris.image(&image);
    let body = json!({"images": [id], "sites": ["lyon"]}).to_string();
    let paris = pair.paris.client;
    let preseed = std::thread::spawn(move || {
        let answer = paris.operator("POST", "/v1/preseed").bytes(body).send();
        let text = answer.expect(200).text();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        last["result"].clone()
    });
    wait("a part is there", || received(&pair.lyon, "paris") > 4e6);
    pair.network.cut();
    assert!(
        receipts(&pair.lyon, &id).is_empty(),
        "it was not the middle"
    );
    std::thread::sleep(CUT);
    pair.network.heal();
    let result = preseed.join().unwrap();
    assert_eq!(result["ok"], true, "{result}");
    pair.paris.stop();
    pair.lyon.restart(|_| {});
    assert!(pair.lyon.download(&id) == image);
}
