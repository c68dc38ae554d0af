//! Is a site held to its limits, and do changes hold at once?

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::mesh::{Mesh, wait, wait_for_image};
use crate::site::{Client, noise};

const IMAGE_LEN: usize = 3_000_000;

fn set_limits(site: &Client, limits: &Value) -> Value {
    let request = site.operator("PUT", "/v1/limits").json(limits);
    request.send().expect(200).json()
}

/// How long a download takes, at a site that has not got the image yet.
fn time_of_download(site: &Client, id: &str, bytes: &[u8]) -> Duration {
    wait_for_image(site, id);
    let start = Instant::now();
    assert!(site.download(id) == bytes);
    start.elapsed()
}

#[test]
fn both_ends_obey_and_a_change_holds_for_transfers_under_way() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let [paris, lyon] = &mesh.sites[..] else {
        panic!("two sites")
    };
    let none = json!({
        "send": null, "receive": null, "background": {"send": null, "receive": null}, "peers": {},
    });
    assert_eq!(
        paris.operator("GET", "/v1/limits").send().json(),
        none,
        "nothing is limited until somebody says so"
    );

    // 3 MB at 1 MB/s, in either direction and whoever it is for.
    for (site, limits) in [
        (paris, json!({"send": "8Mbit/s"})),
        (lyon, json!({"receive": "8Mbit/s"})),
        (paris, json!({"peers": {"lyon": {"send": "8Mbit/s"}}})),
    ] {
        let bytes = noise(limits.to_string().len() as u64, IMAGE_LEN);
        let id = paris.image(&bytes);
        set_limits(site, &limits);
        let took = time_of_download(lyon, &id, &bytes);
        assert!(took > Duration::from_millis(2500), "{limits}: {took:?}");
        assert_eq!(set_limits(site, &json!({})), none);
    }

    // At 50 kB/s it would take longer than anybody waits here, had the limit not been lifted.
    let bytes = noise(99, IMAGE_LEN);
    let id = paris.image(&bytes);
    set_limits(paris, &json!({"send": "400kbit/s"}));
    wait_for_image(lyon, &id);
    let sent_before = sent(paris);
    std::thread::scope(|scope| {
        let download = scope.spawn(|| lyon.download(&id));
        wait("it has begun", || sent(paris) > sent_before + 200_000);
        set_limits(paris, &none);
        wait("the rest came", || download.is_finished());
        assert!(download.join().unwrap() == bytes);
    });
}

/// Payload that paris has sent to lyon.
fn sent(paris: &Client) -> u64 {
    let metrics = paris.operator("GET", "/metrics").send().expect(200).text();
    let name = "vitrail_peer_tx_bytes_total{peer=\"lyon\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().parse().unwrap()
}

#[test]
fn limits_that_make_no_sense_change_nothing() {
    let mesh = Mesh::start(&["paris"]);
    let paris = &mesh.sites[0];
    let set = set_limits(paris, &json!({"background": {"send": "2Mbit/s"}}));
    assert_eq!(set["background"]["send"], "2Mbit/s");
    for bad in [
        json!({"send": "fast"}),
        json!({"send": "1bit/s"}),
        json!({"sent": "1Mbit/s"}),
        json!({"send": 5}),
    ] {
        let answer = paris.operator("PUT", "/v1/limits").json(&bad).send();
        assert_eq!(answer.status, 400, "{bad}");
    }
    assert_eq!(paris.operator("GET", "/v1/limits").send().json(), set);
}
