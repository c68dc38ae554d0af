//! Emulated networks with real packets. These tests need root, /dev/net/tun and iproute2; without
//! them each says so on standard error and passes.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use vitrail_bench::wan::{Emulator, Event, LinkSpec, Network, SiteId, Topology, clean_stale};

const RTT: Duration = Duration::from_millis(30);
const IP_AND_UDP_HEADERS: u64 = 28;

/// Ends the test, with a word to whoever looks, where networks cannot be emulated.
macro_rules! need_emulator {
    () => {
        if let Err(error) = Emulator::available() {
            eprintln!("SKIPPED: {error}");
            return;
        }
    };
}

fn topology() -> Topology {
    let link = LinkSpec {
        rtt: Some(RTT),
        rate: "50Mbit/s".parse().ok(),
        ..LinkSpec::default()
    };
    Topology::uniform(3, link)
}

fn handle(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

fn udp(emulator: &Emulator, site: usize) -> UdpSocket {
    let addr = SiteId(site).addr();
    let socket = emulator
        .run_in(SiteId(site), || UdpSocket::bind((addr, 0)))
        .unwrap()
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket
}

/// Waits for `condition`, up to a time at which something must be broken.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "not within 20 s: {what}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_packet_takes_its_time_and_is_counted_once_each_way() {
    need_emulator!();
    let emulator = Emulator::start(&topology()).unwrap();
    let (a, b) = (udp(&emulator, 0), udp(&emulator, 1));
    let mut buffer = [0; 100];

    let start = Instant::now();
    a.send_to(&[7; 100], b.local_addr().unwrap()).unwrap();
    let (len, from) = b.recv_from(&mut buffer).unwrap();
    assert!(
        start.elapsed() >= RTT / 2,
        "one way took {:?}",
        start.elapsed()
    );
    assert_eq!(
        (len, from, buffer),
        (100, a.local_addr().unwrap(), [7; 100])
    );
    b.send_to(&buffer[..40], from).unwrap();
    assert_eq!(a.recv(&mut buffer).unwrap(), 40);
    assert!(
        start.elapsed() >= RTT,
        "both ways took {:?}",
        start.elapsed()
    );

    let counters = emulator.stop().unwrap();
    for (from, to, payload) in [("site-1", "site-2", 100), ("site-2", "site-1", 40)] {
        let count = counters.pair(from, to).unwrap();
        assert_eq!(
            (count.sent.packets, count.sent.bytes),
            (1, payload + IP_AND_UDP_HEADERS)
        );
        assert_eq!(count.delivered, count.sent);
        assert_eq!(counters.site(from).unwrap().tx, count.sent);
        assert_eq!(counters.site(to).unwrap().rx, count.sent);
    }
    assert_eq!(counters.site("site-3").unwrap().rx.packets, 0);
}

#[test]
fn every_byte_of_a_tcp_stream_crosses_a_lossy_network() {
    need_emulator!();
    let mut topology = topology();
    topology.link.rtt = Some(Duration::from_millis(2));
    topology.link.loss = Some(0.02);
    let emulator = Emulator::start(&topology).unwrap();
    let listener = emulator
        .run_in(SiteId(1), || TcpListener::bind((SiteId(1).addr(), 0)))
        .unwrap()
        .unwrap();
    let addr = listener.local_addr().unwrap();
    let sent: Vec<u8> = (0..500_000_u32).map(|n| (n % 251) as u8).collect();
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = emulator
                .run_in(SiteId(0), || TcpStream::connect(addr))
                .unwrap()
                .unwrap();
            stream.write_all(&sent).unwrap();
        });
        let mut received = Vec::new();
        listener
            .accept()
            .unwrap()
            .0
            .read_to_end(&mut received)
            .unwrap();
        received
    });
    assert!(
        received == sent,
        "{} bytes came, not those that were sent",
        received.len()
    );
    let counters = emulator.stop().unwrap();
    let count = counters.pair("site-1", "site-2").unwrap();
    assert!(count.lost.packets > 0, "{count:?}");
    assert!(count.delivered.bytes >= sent.len() as u64, "{count:?}");
}

#[test]
fn a_site_that_is_down_gets_nothing_until_it_is_up() {
    need_emulator!();
    let emulator = Emulator::start(&topology()).unwrap();
    let (a, b) = (udp(&emulator, 0), udp(&emulator, 1));
    let site = || "site-2".to_owned();
    emulator.apply(Event::SiteDown { site: site() }).unwrap();
    a.send_to(b"before", b.local_addr().unwrap()).unwrap();
    eventually("the packet meets the cut", || {
        emulator
            .counters()
            .unwrap()
            .pair("site-1", "site-2")
            .unwrap()
            .cut
            .packets
            == 1
    });
    emulator.apply(Event::SiteUp { site: site() }).unwrap();
    a.send_to(b"after", b.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 100];
    let len = b.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"after");
}

#[test]
fn events_of_the_topology_wait_until_they_are_armed() {
    need_emulator!();
    let mut topology = topology();
    topology.events = Topology::parse(
        r#"name = "events"
        sites = []
        events = [{ at = "0s", event = { kind = "partition", groups = [["site-1"]] } }]"#,
    )
    .unwrap()
    .events;
    let emulator = Emulator::start(&topology).unwrap();
    let (a, b) = (udp(&emulator, 0), udp(&emulator, 1));
    let mut buffer = [0; 100];
    a.send_to(b"whole", b.local_addr().unwrap()).unwrap();
    assert_eq!(b.recv(&mut buffer).unwrap(), 5);
    emulator.arm_events().unwrap();
    eventually("the partition begins", || {
        a.send_to(b"cut", b.local_addr().unwrap()).unwrap();
        emulator
            .counters()
            .unwrap()
            .pair("site-1", "site-2")
            .unwrap()
            .cut
            .packets
            > 0
    });
}

#[test]
fn the_root_namespace_reaches_each_site_past_the_network() {
    need_emulator!();
    let mut topology = topology();
    topology.mgmt = true;
    // Two at once: each has addresses of its own.
    let emulators = [
        Emulator::start(&topology).unwrap(),
        Emulator::start(&topology).unwrap(),
    ];
    for (emulator, greeting) in emulators.iter().zip([b"first ", b"second"]) {
        for site in emulator.network().site_ids() {
            let name = emulator.network().sites[site.0].name.clone();
            let addr = emulator.mgmt_addr(&name).unwrap().unwrap();
            let listener = emulator
                .run_in(site, || TcpListener::bind("0.0.0.0:0"))
                .unwrap()
                .unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut ours = TcpStream::connect((addr, port)).unwrap();
            listener.accept().unwrap().0.write_all(greeting).unwrap();
            let mut read = Vec::new();
            ours.read_to_end(&mut read).unwrap();
            assert_eq!(read, greeting);
        }
    }
    for emulator in emulators {
        let counters = emulator.stop().unwrap();
        assert!(
            counters.sites.iter().all(|site| site.count.tx.packets == 0),
            "{counters:?}"
        );
    }
}

#[test]
fn processes_die_and_namespaces_go_with_their_network() {
    need_emulator!();
    let emulator = Emulator::start(&topology()).unwrap();
    let namespace = handle(emulator.namespace("site-1").unwrap());
    // One that forks, ignores polite requests, and outlives its parent.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "trap '' TERM INT HUP; setsid sleep 1000 & echo $!; wait",
    ]);
    command.stdout(Stdio::piped());
    let mut child = emulator.exec_in("site-1", command).unwrap();
    let mut grandchild = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut grandchild)
        .unwrap();
    let inode = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    assert!(inode(grandchild.trim()).is_some());
    assert_ne!(inode(grandchild.trim()), inode("self"));

    drop(emulator);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(inode(grandchild.trim()), None, "the grandchild still runs");
    assert!(!namespace.exists());
}

#[test]
fn a_panic_leaves_nothing() {
    need_emulator!();
    let panicking = thread::spawn(|| {
        let emulator = Emulator::start(&topology()).unwrap();
        let name = emulator.namespace("site-1").unwrap().to_owned();
        std::panic::panic_any(name);
    });
    let name = panicking.join().unwrap_err().downcast::<String>().unwrap();
    assert!(!handle(&name).exists());
}

/// `bench wan run` with a command that prints its process id and a namespace, and then sleeps.
fn start_run() -> (Child, String, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("topology.toml");
    std::fs::write(&file, toml::to_string(&topology()).unwrap()).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["wan", "run"])
        .arg(&file)
        .args(["--", "sh", "-c", "echo $$ $WAN_NS_SITE_2; exec sleep 1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let (pid, name) = line.trim().split_once(' ').unwrap();
    assert!(handle(name).exists());
    (child, pid.to_owned(), handle(name))
}

fn is_running(pid: &str) -> bool {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok()
}

#[test]
fn an_interrupted_run_cleans_up_before_it_ends() {
    need_emulator!();
    for signal in ["-INT", "-TERM"] {
        let (mut child, sleeper, namespace) = start_run();
        let kill = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        assert_eq!(
            child.wait().unwrap().code(),
            Some(128 + 15),
            "the command's own end"
        );
        assert!(!namespace.exists());
        assert!(!is_running(&sleeper));
    }
}

#[test]
fn a_killed_run_is_cleaned_up_after() {
    need_emulator!();
    let (mut child, sleeper, namespace) = start_run();
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("its namespaces are gone", || !namespace.exists());
    eventually("its command is gone", || !is_running(&sleeper));
}

#[test]
fn a_command_beside_the_network_asks_and_changes_it() {
    need_emulator!();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("topology.toml");
    std::fs::write(&file, toml::to_string(&topology()).unwrap()).unwrap();
    let bench = env!("CARGO_BIN_EXE_bench");
    let script = format!(
        r#"{bench} wan ctl '{{"kind":"site-down","site":"site-2"}}' &&
           ! {bench} wan ctl '{{"kind":"site-down","site":"nowhere"}}' &&
           {bench} wan ctl counters"#
    );
    let output = Command::new(bench)
        .args(["wan", "run"])
        .arg(&file)
        .args(["--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[..2],
        ["\"ok\"", r#"{"error":"no site is called \"nowhere\""}"#]
    );
    let counters: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
    assert_eq!(counters["sites"][1]["site"], "site-2");
    assert_eq!(counters["pairs"].as_array().unwrap().len(), 6);
}

#[test]
fn leftovers_of_the_dead_are_removed_and_those_of_the_living_are_not() {
    need_emulator!();
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let stale = format!("wan-{}-1-0-site", dead.id());
    let added = Command::new("ip")
        .args(["netns", "add", &stale])
        .status()
        .unwrap();
    assert!(added.success());
    let alive = Emulator::start(&topology()).unwrap();
    clean_stale().unwrap();
    assert!(!handle(&stale).exists());
    assert!(handle(alive.namespace("site-1").unwrap()).exists());
}

#[test]
fn a_topology_that_makes_no_network_starts_nothing() {
    need_emulator!();
    let mut topology = topology();
    topology.link.loss = Some(2.0);
    assert!(
        topology
            .resolve()
            .map(|network: Network| network.name)
            .is_err()
    );
    assert!(Emulator::start(&topology).is_err());
}
