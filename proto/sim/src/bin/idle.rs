//! What gossip costs: a mesh at rest, a change, a site that fails. `idle 100 1000` for these numbers of sites.

use std::time::{Duration, Instant};

use vitrail_proto::gossip::Holding;
use vitrail_proto::id::ManifestId;
use vitrail_sim::check;
use vitrail_sim::mesh::{Mesh, Options};
use vitrail_sim::network::Traffic;

const REST: Duration = Duration::from_secs(1800);

fn main() {
    let sizes: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|size| size.parse().ok())
        .collect();
    for size in if sizes.is_empty() {
        vec![100, 1000]
    } else {
        sizes
    } {
        measure(size);
    }
}

fn measure(size: usize) {
    let begun = Instant::now();
    let mut mesh = Mesh::new(&Options {
        sites: size,
        zone_size: 10,
        ..Options::default()
    });
    for node in 0..size {
        mesh.start(node);
        mesh.run(Duration::from_secs(1));
    }
    mesh.run(Duration::from_secs(600));
    check::who_is_up(&mesh);
    let joined = totals(&mesh);
    println!("{size} sites, joined one a second over one seed, and 10 min of rest:");
    println!(
        "  wire per site: {:.0} kB, of which handshakes {:.0} kB, messages {:.0} kB",
        kilobytes(joined.wire, size),
        kilobytes(joined.handshakes, size),
        kilobytes(joined.sent + joined.received, size)
    );
    let degrees: Vec<usize> = (0..size).map(|node| mesh.network.degree(node)).collect();
    println!(
        "  connections of a site: {:.1} on average, {} at most",
        degrees.iter().sum::<usize>() as f64 / size as f64,
        degrees.iter().max().unwrap_or(&0)
    );

    let before: Vec<Traffic> = (0..size).map(|node| mesh.network.traffic(node)).collect();
    mesh.run(REST);
    let costs: Vec<f64> = (0..size)
        .map(|node| {
            let wire = mesh.network.traffic(node).wire - before[node].wire;
            wire as f64 / REST.as_secs_f64()
        })
        .collect();
    let after = totals(&mesh);
    let rate = |bytes: u64| bytes as f64 / size as f64 / REST.as_secs_f64();
    println!(
        "  at rest: {:.1} bytes/s a site in both directions (at most {:.1}); keep-alives {:.1}, handshakes {:.1}, the rest reconciling",
        costs.iter().sum::<f64>() / size as f64,
        costs.iter().copied().fold(0.0, f64::max),
        rate(after.keep_alive - joined.keep_alive),
        rate(after.handshakes - joined.handshakes),
    );

    let before = totals(&mesh);
    let changes = 20;
    for i in 0..changes {
        let node = mesh.random.below(size);
        mesh.hold(node, ManifestId::of(&[i]), Holding::Complete);
        mesh.run(Duration::from_secs(10));
    }
    check::holdings(&mesh);
    let sent = totals(&mesh).received - before.received;
    println!(
        "  a holding told to all: {:.0} bytes of messages a site",
        sent as f64 / f64::from(changes) / size as f64
    );

    let before = totals(&mesh);
    let victim = size / 2;
    mesh.crash(victim, None);
    mesh.run(Duration::from_secs(120));
    check::who_is_up(&mesh);
    let wire = totals(&mesh);
    println!(
        "  a site that fails: {:.0} bytes of messages a site, down for all in 2 min",
        (wire.received - before.received) as f64 / size as f64
    );
    println!("  ({:.0} s of real time)", begun.elapsed().as_secs_f64());
}

fn totals(mesh: &Mesh) -> Traffic {
    let mut sum = Traffic::default();
    for node in 0..mesh.sites.len() {
        let traffic = mesh.network.traffic(node);
        sum.sent += traffic.sent;
        sum.received += traffic.received;
        sum.wire += traffic.wire;
        sum.keep_alive += traffic.keep_alive;
        sum.handshakes += traffic.handshakes;
    }
    sum
}

fn kilobytes(bytes: u64, sites: usize) -> f64 {
    bytes as f64 / sites as f64 / 1000.0
}
