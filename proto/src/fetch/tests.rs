//! The planner against peers in virtual time.

use super::*;
use proptest::prelude::*;

fn wanted(count: u32) -> Vec<Wanted> {
    (0..count)
        .map(|index| Wanted {
            index: index * 2,
            len: 64 * 1024,
        })
        .collect()
}

/// How a peer behaves.
#[derive(Debug, Clone)]
struct Link {
    rate: f64,
    rtt: Duration,
    have: Have,
    /// Dies at this time.
    dies: Option<Duration>,
    /// Answers nothing from this time on.
    mute: Option<Duration>,
    /// Has this rate from this time on.
    crawls: Option<(Duration, f64)>,
    lies: bool,
}

fn link(rate: f64) -> Link {
    let rtt = Duration::from_millis(40);
    Link {
        rate,
        rtt,
        have: Have::All,
        dies: None,
        mute: None,
        crawls: None,
        lies: false,
    }
}

struct Outcome {
    seconds: f64,
    /// Bytes delivered, duplicates included.
    bytes: u64,
    by_peer: BTreeMap<Peer, u64>,
    dropped: Vec<Peer>,
    complete: bool,
    starved: bool,
    order: Vec<u32>,
}

/// Runs a pull; chunks of a request arrive one by one at the peer's rate.
fn run(wanted: Vec<Wanted>, links: &[Link], positions: &[u32], seed: u64) -> Outcome {
    let lens: BTreeMap<u32, u32> = wanted.iter().map(|w| (w.index, w.len)).collect();
    let mut pull = Pull::new(wanted, 99, seed);
    let mut now = Duration::ZERO;
    // Requests with the earliest time at which their first byte can be back.
    let mut queues: Vec<VecDeque<(u32, Runs, Duration)>> = vec![VecDeque::new(); links.len()];
    // What each peer sends next: time, request, index (none: the end of the request).
    let mut sending: Vec<VecDeque<(Duration, u32, Option<u32>)>> =
        vec![VecDeque::new(); links.len()];
    let mut free_at = vec![Duration::ZERO; links.len()];
    let mut outcome = Outcome {
        seconds: 0.0,
        bytes: 0,
        by_peer: BTreeMap::new(),
        dropped: Vec::new(),
        complete: false,
        starved: false,
        order: Vec::new(),
    };
    pull.set_positions(positions.iter().copied(), now);
    for (i, link) in links.iter().enumerate() {
        let info = PeerInfo {
            distance: 0,
            rtt: link.rtt,
            rate: None,
        };
        pull.add_peer(i as Peer, info, link.have.clone(), now);
    }
    for _ in 0..1_000_000 {
        outcome.starved = false;
        while let Some(output) = pull.poll() {
            match output {
                Output::Request {
                    peer,
                    request,
                    chunks,
                    ..
                } => {
                    let arrival = now + links[peer as usize].rtt;
                    queues[peer as usize].push_back((request, chunks, arrival));
                }
                Output::Cancel { peer, request } => {
                    let queue = &mut queues[peer as usize];
                    if let Some((_, chunks, _)) = queue.iter_mut().find(|(r, ..)| *r == request) {
                        *chunks = Runs::new();
                    }
                }
                Output::Drop { peer, .. } => {
                    outcome.dropped.push(peer);
                    queues[peer as usize].clear();
                    sending[peer as usize].clear();
                }
                Output::Starved => outcome.starved = true,
                Output::Complete => outcome.complete = true,
            }
        }
        if outcome.complete {
            outcome.seconds = now.as_secs_f64();
            return outcome;
        }
        for (i, link) in links.iter().enumerate() {
            let speaks = link.mute.is_none_or(|mute| now < mute);
            if !sending[i].is_empty() || !speaks {
                continue;
            }
            if let Some((request, chunks, arrival)) = queues[i].pop_front() {
                let mut at = free_at[i].max(arrival);
                for index in chunks.iter() {
                    let rate = match link.crawls {
                        Some((from, rate)) if at >= from => rate,
                        _ => link.rate,
                    };
                    at += Duration::from_secs_f64(f64::from(lens[&index]) / rate);
                    sending[i].push_back((at, request, Some(index)));
                }
                sending[i].push_back((at, request, None));
                free_at[i] = at;
            }
        }
        let next = (0..links.len())
            .filter_map(|i| sending[i].front().map(|(at, ..)| (*at, i)))
            .filter(|(at, i)| links[*i].mute.is_none_or(|mute| *at < mute))
            .min();
        let death = links
            .iter()
            .enumerate()
            .filter(|(i, _)| pull.peers().any(|p| p == *i as Peer))
            .filter_map(|(i, link)| link.dies.map(|at| (at, i)))
            .min();
        let timeout = pull.next_timeout();
        match (next, death, timeout) {
            (next, Some((at, i)), _) if next.is_none_or(|(t, _)| at <= t) => {
                now = now.max(at);
                sending[i].clear();
                queues[i].clear();
                pull.remove_peer(i as Peer, now);
            }
            (Some((at, _)), _, Some(due)) if due < at => {
                now = now.max(due);
                pull.handle_timeout(now);
            }
            (Some((at, i)), _, _) => {
                now = now.max(at);
                let Some((_, request, index)) = sending[i].pop_front() else {
                    continue;
                };
                let peer = i as Peer;
                match index {
                    Some(_) if links[i].lies => {
                        pull.handle_fault(peer, "wrong bytes".into(), now);
                    }
                    Some(index) => {
                        outcome.bytes += u64::from(lens[&index]);
                        *outcome.by_peer.entry(peer).or_default() += u64::from(lens[&index]);
                        outcome.order.push(index);
                        pull.handle_chunks(peer, request, [index], now);
                    }
                    None => pull.handle_done(peer, request, &Runs::new(), now),
                }
            }
            (None, None, Some(due)) => {
                now = now.max(due);
                pull.handle_timeout(now);
            }
            _ => return outcome,
        }
    }
    panic!("no end after a million steps");
}

const MB: f64 = 1e6;

#[test]
fn equal_holders_share_and_nothing_comes_twice() {
    let total: u64 = 1600 * 64 * 1024;
    let alone = run(wanted(1600), &[link(10.0 * MB)], &[], 1);
    let four = run(wanted(1600), &vec![link(10.0 * MB); 4], &[], 1);
    assert!(alone.complete && four.complete);
    assert_eq!(alone.bytes, total);
    assert!(
        four.bytes as f64 <= total as f64 * 1.01,
        "{} of {total}",
        four.bytes
    );
    assert!(
        four.seconds <= 0.30 * alone.seconds,
        "{} of {}",
        four.seconds,
        alone.seconds
    );
}

#[test]
fn unequal_holders_end_together() {
    let links = [link(10.0 * MB), link(2.0 * MB), link(0.5 * MB)];
    let outcome = run(wanted(1600), &links, &[], 2);
    let bound = 1600.0 * 65536.0 / (12.5 * MB);
    assert!(
        outcome.seconds < 1.15 * bound,
        "{} against {bound}",
        outcome.seconds
    );
}

#[test]
fn what_a_peer_has_that_begins_to_crawl_goes_to_another() {
    let crawler = Link {
        crawls: Some((Duration::from_secs(2), 0.065 * MB)),
        ..link(10.0 * MB)
    };
    let outcome = run(wanted(1600), &[crawler, link(10.0 * MB)], &[], 2);
    let bound = 2.0 + (1600.0 * 65536.0 - 40.0 * MB) / (10.0 * MB);
    assert!(
        outcome.seconds < 1.15 * bound,
        "{} against {bound}",
        outcome.seconds
    );
}

#[test]
fn who_says_to_hold_each_part_is_a_holder_of_everything() {
    let own = wanted(1600);
    let mut pull = Pull::new(own.clone(), 99, 1);
    let info = PeerInfo {
        distance: 0,
        rtt: Duration::from_millis(40),
        rate: None,
    };
    let all = Have::Part(Runs::of(own.iter().map(|w| w.index)));
    for peer in [1, 2] {
        pull.add_peer(peer, info, Have::All, Duration::ZERO);
        pull.update_have(peer, all.clone(), Duration::ZERO);
    }
    // It does not take part in the sharing out: it has nothing to get.
    assert!(!pull.is_swarm());
    pull.update_have(2, Have::Part(Runs::of([0])), Duration::ZERO);
    assert!(pull.is_swarm());
}

#[test]
fn a_client_gets_its_position_first() {
    let outcome = run(wanted(1600), &[link(10.0 * MB)], &[2000], 3);
    assert_eq!(
        outcome.order[..8],
        [2000, 2002, 2004, 2006, 2008, 2010, 2012, 2014]
    );
}

#[test]
fn a_peer_that_dies_is_replaced() {
    let mut links = vec![link(10.0 * MB); 2];
    links[0].dies = Some(Duration::from_secs(3));
    let outcome = run(wanted(1600), &links, &[], 4);
    assert!(outcome.complete);
    assert!(outcome.bytes <= 1600 * 65536 + 2 * BLOCK_LEN);
}

#[test]
fn a_mute_peer_costs_a_stall_and_a_lying_one_is_named() {
    let mut links = vec![link(10.0 * MB); 3];
    links[0].mute = Some(Duration::from_secs(1));
    links[1].lies = true;
    let outcome = run(wanted(1600), &links, &[], 5);
    assert!(outcome.complete);
    assert_eq!(outcome.dropped, [1]);
    assert!(outcome.bytes <= 1600 * 65536 + 8 * BLOCK_LEN);
}

#[test]
fn a_lone_mute_peer_is_dropped_with_its_figure() {
    let mut lone = link(10.0 * MB);
    lone.mute = Some(Duration::from_secs(1));
    let outcome = run(wanted(1600), &[lone], &[], 6);
    assert!(!outcome.complete && outcome.starved);
    assert_eq!(outcome.dropped, [0]);
}

fn info(distance: u8, rate: Option<f64>) -> PeerInfo {
    PeerInfo {
        distance,
        rtt: Duration::from_millis(40),
        rate,
    }
}

/// Peers and what they are asked for, in order.
fn requests(pull: &mut Pull) -> Vec<(Peer, u32, Runs, bool)> {
    std::iter::from_fn(|| pull.poll())
        .filter_map(|output| match output {
            Output::Request {
                peer,
                request,
                chunks,
                first,
            } => Some((peer, request, chunks, first)),
            _ => None,
        })
        .collect()
}

#[test]
fn the_chunk_at_which_a_client_waits_is_asked_for_by_itself() {
    let mut pull = Pull::new(wanted(100), 99, 7);
    pull.set_positions([43], Duration::ZERO);
    pull.add_peer(1, info(0, None), Have::All, Duration::ZERO);
    let asked = requests(&mut pull);
    // 44 is the first chunk from 43 on; its block has 32 to 46.
    assert_eq!(asked[0].2, Runs::of([44]));
    assert!(asked[0].3);
    let rest = [32, 34, 36, 38, 40, 42, 46];
    assert_eq!(asked[1].2, Runs::of(rest));
    assert!(asked[1..].iter().all(|(.., first)| !first));
}

#[test]
fn holders_of_different_parts_of_a_block_bring_it_together() {
    let part = |rest| {
        let mut link = link(10.0 * MB);
        link.have = Have::Part(Runs::of((0..400).filter(|i| i / 2 % 2 == rest)));
        link
    };
    let outcome = run(wanted(200), &[part(0), part(1)], &[], 8);
    assert!(outcome.complete);
    assert_eq!(outcome.bytes, 200 * 65536);
}

#[test]
fn a_farther_holder_is_asked_for_what_nearer_ones_lack() {
    let mut pull = Pull::new(wanted(8), 99, 9);
    let near = Have::Part(Runs::of([0, 2, 4]));
    pull.add_peer(1, info(0, Some(100.0 * MB)), near, Duration::ZERO);
    pull.add_peer(2, info(1, None), Have::All, Duration::ZERO);
    let far = requests(&mut pull).into_iter().filter(|asked| asked.0 == 2);
    let far: Vec<u32> = far
        .flat_map(|(_, _, chunks, _)| chunks.iter().collect::<Vec<_>>())
        .collect();
    assert_eq!(far, [6, 8, 10, 12, 14]);
}

#[test]
fn a_near_holder_that_crawls_does_not_keep_a_farther_one_away() {
    let mut pull = Pull::new(wanted(8), 99, 9);
    pull.add_peer(1, info(0, Some(100.0 * MB)), Have::All, Duration::ZERO);
    pull.add_peer(2, info(1, Some(10.0 * MB)), Have::All, Duration::ZERO);
    assert!(requests(&mut pull).iter().all(|asked| asked.0 == 1));
    for tick in 1..=20 {
        let now = Duration::from_millis(250 * tick);
        pull.handle_bytes(1, 1000, now);
        pull.handle_timeout(now);
    }
    assert!(requests(&mut pull).iter().any(|asked| asked.0 == 2));
}

#[test]
fn what_a_holder_says_of_a_request_that_was_taken_back_does_not_count() {
    let mut pull = Pull::new(wanted(8), 99, 10);
    pull.add_peer(1, info(0, None), Have::All, Duration::ZERO);
    let (_, request, chunks, _) = requests(&mut pull).remove(0);
    // Nothing comes, and another is there that has nothing to do.
    pull.add_peer(2, info(0, None), Have::All, Duration::ZERO);
    let late = Duration::from_secs(3);
    pull.handle_timeout(late);
    let again = requests(&mut pull);
    assert_eq!((again[0].0, &again[0].2), (2, &chunks));
    pull.handle_done(1, request, &chunks, late);
    pull.remove_peer(2, late);
    let again = requests(&mut pull);
    assert_eq!((again[0].0, &again[0].2), (1, &chunks), "it still has them");
}

#[test]
fn a_lone_holder_that_falls_silent_for_a_while_sends_nothing_twice() {
    let mut pull = Pull::new(wanted(80), 99, 12);
    pull.add_peer(1, info(0, None), Have::All, Duration::ZERO);
    let asked = requests(&mut pull);
    let late = Duration::from_secs(9);
    pull.handle_timeout(late);
    assert_eq!(pull.poll(), None, "what it was asked for is left to it");
    let (_, request, chunks, _) = &asked[0];
    pull.handle_chunks(1, *request, chunks.iter(), late);
    for (.., more, _) in requests(&mut pull) {
        assert!(
            asked
                .iter()
                .all(|(.., old, _)| old.iter().all(|index| !more.contains(index)))
        );
    }
}

#[test]
fn a_store_that_takes_nothing_is_not_its_peers_fault() {
    let mut pull = Pull::new(wanted(8), 99, 11);
    pull.add_peer(1, info(0, None), Have::All, Duration::ZERO);
    requests(&mut pull);
    for seconds in 1..60 {
        let now = Duration::from_secs(seconds);
        pull.excuse(now);
        pull.handle_timeout(now);
    }
    assert_eq!(pull.poll(), None, "neither taken back nor dropped");
}

#[test]
fn bytes_show_that_a_slow_peer_is_alive_but_not_for_ever() {
    let stalls_at = |drips: bool| {
        let mut pull = Pull::new(wanted(80), 99, 5);
        for peer in [1, 2] {
            pull.add_peer(peer, info(0, Some(1e5)), Have::All, Duration::ZERO);
        }
        requests(&mut pull);
        for s in 1..60 {
            let now = Duration::from_secs(s);
            // The other goes on.
            pull.handle_chunks(2, 0, [], now);
            if drips {
                pull.handle_bytes(1, 10_000, now);
            }
            pull.handle_timeout(now);
            let taken = |output| matches!(output, Output::Cancel { peer: 1, .. });
            if std::iter::from_fn(|| pull.poll()).any(taken) {
                return s;
            }
        }
        60
    };
    assert_eq!(stalls_at(false), 2);
    assert_eq!(stalls_at(true), 21);
}

#[test]
fn who_claims_again_what_it_denied_is_not_asked_for_it_again() {
    let mut pull = Pull::new(wanted(80), 99, 1);
    let info = PeerInfo {
        distance: 0,
        rtt: Duration::from_millis(40),
        rate: None,
    };
    // Every index that there is, which nobody may count one by one.
    let everything = Runs::all(u32::MAX);
    pull.add_peer(0, info, Have::Part(everything.clone()), Duration::ZERO);
    let (mut asked, mut starved) = (Vec::new(), false);
    while let Some(output) = pull.poll() {
        if let Output::Request {
            chunks, request, ..
        } = &output
        {
            asked.extend(chunks.iter());
            pull.handle_done(0, *request, &everything, Duration::ZERO);
            pull.update_have(0, Have::Part(everything.clone()), Duration::ZERO);
        }
        starved |= output == Output::Starved;
    }
    asked.sort_unstable();
    let once: Vec<u32> = wanted(80).iter().map(|w| w.index).collect();
    assert_eq!(asked, once);
    assert!(starved);
}

/// Chunks that a pull asks of each peer as soon as it knows them.
fn first_asked(pull: &mut Pull) -> BTreeMap<Peer, BTreeSet<u32>> {
    let mut asked: BTreeMap<Peer, BTreeSet<u32>> = BTreeMap::new();
    for (peer, _, chunks, _) in requests(pull) {
        asked.entry(peer).or_default().extend(chunks.iter());
    }
    asked
}

#[test]
fn pullers_ask_a_holder_for_different_parts() {
    const HOLDER: Peer = 100;
    let mut asked = BTreeSet::new();
    for site in 0..8 {
        let mut pull = Pull::new(wanted(3200), site, site);
        for other in (0..8).filter(|other| *other != site) {
            let nothing = Have::Part(Runs::new());
            pull.add_peer(other, info(1, None), nothing, Duration::ZERO);
        }
        pull.add_peer(HOLDER, info(1, None), Have::All, Duration::ZERO);
        let first = first_asked(&mut pull);
        assert_eq!(first.len(), 1, "who has nothing is asked for nothing");
        for chunk in &first[&HOLDER] {
            assert!(asked.insert(*chunk), "{chunk} is asked for twice");
        }
    }
    assert!(asked.len() >= 8 * 8);
}

#[test]
fn what_a_puller_has_is_not_asked_of_the_holder_before_what_none_has() {
    let mut pull = Pull::new(wanted(320), 1, 1);
    let half = Runs::of(0..320);
    pull.add_peer(2, info(1, None), Have::Part(half.clone()), Duration::ZERO);
    pull.add_peer(3, info(1, None), Have::All, Duration::ZERO);
    let first = first_asked(&mut pull);
    assert!(first[&2].iter().all(|chunk| half.contains(*chunk)));
    assert!(first[&3].iter().all(|chunk| !half.contains(*chunk)));
}

#[test]
fn policies_ask_whom_they_say() {
    let shares = |policy| {
        let mut pull = Pull::new(wanted(1600), 99, 3);
        pull.set_policy(policy);
        for (peer, distance, rate) in [(1, 1, 3e6), (2, 0, 1e6)] {
            pull.add_peer(peer, info(distance, Some(rate)), Have::All, Duration::ZERO);
        }
        let mut shares: BTreeMap<Peer, usize> = BTreeMap::new();
        while !pull.is_complete() {
            let asked = requests(&mut pull);
            assert!(!asked.is_empty());
            for (peer, request, chunks, _) in asked {
                *shares.entry(peer).or_default() += chunks.count() as usize;
                pull.handle_chunks(peer, request, chunks.iter(), Duration::ZERO);
                pull.handle_done(peer, request, &Runs::new(), Duration::ZERO);
            }
        }
        shares
    };
    // But for the blocks that were asked for when only one was known.
    let nearest = shares(Policy::Nearest);
    assert!(nearest[&2] >= 1580, "{nearest:?}");
    let fixed = shares(Policy::Static);
    assert!((1160..=1260).contains(&fixed[&1]), "{fixed:?}");
    let random = shares(Policy::Random);
    assert!((640..=960).contains(&random[&1]), "{random:?}");
}

#[test]
fn whatever_the_policy_what_a_lost_peer_was_asked_for_goes_to_others() {
    for policy in [Policy::Random, Policy::Nearest, Policy::Static] {
        let mut pull = Pull::new(wanted(1600), 99, 3);
        pull.set_policy(policy);
        for peer in [1, 2] {
            pull.add_peer(peer, info(0, Some(1e6)), Have::All, Duration::ZERO);
        }
        let mut asked = requests(&mut pull);
        assert!(asked.iter().any(|(peer, ..)| *peer == 1));
        asked.retain(|(peer, ..)| *peer == 2);
        pull.remove_peer(1, Duration::ZERO);
        while !pull.is_complete() {
            asked.extend(requests(&mut pull));
            assert!(!asked.is_empty(), "{policy:?}");
            for (peer, request, chunks, _) in asked.drain(..) {
                pull.handle_chunks(peer, request, chunks.iter(), Duration::ZERO);
                pull.handle_done(peer, request, &Runs::new(), Duration::ZERO);
            }
        }
    }
}

#[test]
fn an_empty_pull_is_complete() {
    assert_eq!(Pull::new(Vec::new(), 99, 0).poll(), Some(Output::Complete));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever peers do, a pull ends if one good peer with everything stays, and duplicates are bounded.
    #[test]
    fn ends_whatever_peers_do(
        rates in proptest::collection::vec(0.2f64..20.0, 1..5),
        faults in proptest::collection::vec((0u8..4, 0u64..8000), 5),
        positions in proptest::collection::vec(0u32..1000, 0..3),
        seed: u64,
    ) {
        let mut links = vec![link(5.0 * MB)];
        for (rate, (fault, at)) in rates.iter().zip(&faults) {
            let at = Some(Duration::from_millis(*at));
            let mut peer = link(rate * MB);
            match fault {
                0 => peer.dies = at,
                1 => peer.mute = at,
                2 => peer.lies = true,
                _ => peer.have = Have::Part(Runs::of((0..500).filter(|i| i % 3 == 0))),
            }
            links.push(peer);
        }
        let outcome = run(wanted(500), &links, &positions, seed);
        prop_assert!(outcome.complete);
        prop_assert!(!outcome.dropped.contains(&0));
        let extra = outcome.bytes - 500 * 65536;
        prop_assert!(extra <= 64 * BLOCK_LEN, "{} bytes twice", extra);
    }
}

#[test]
fn what_a_peer_tells_of_its_path_counts_until_it_is_measured() {
    let asked = |pull: &mut Pull| -> u64 {
        let mut chunks = 0;
        while let Some(output) = pull.poll() {
            if let Output::Request { chunks: runs, .. } = output {
                chunks += runs.count();
            }
        }
        chunks
    };
    let mut pull = Pull::new(wanted(2000), 99, 1);
    let (info, now) = (
        PeerInfo {
            distance: 0,
            rtt: Duration::from_millis(100),
            rate: None,
        },
        Duration::ZERO,
    );
    pull.add_peer(1, info, Have::All, now);
    let unknown = asked(&mut pull);
    // 25 MB/s for 0.4 s are 152 chunks of 64 KiB.
    pull.expect_rate(1, 25e6, now);
    let told = unknown + asked(&mut pull);
    assert!((150..170).contains(&told), "{unknown}, then {told}");
    assert_eq!(pull.rate(1), Some(25e6));
    // It delivers a tenth of that: its word counts no more.
    let indexes = pull.wanted.iter().map(|w| w.index);
    let indexes: Vec<u32> = indexes.filter(|i| i % 4 == 0).take(40).collect();
    pull.handle_chunks(1, 0, indexes, Duration::from_secs(1));
    let measured = pull.rate(1).unwrap();
    assert!(measured < 20e6, "{measured}");
    pull.expect_rate(1, 25e6, Duration::from_secs(1));
    assert_eq!(pull.rate(1), Some(measured));
    // Strangers' words are nothing.
    pull.expect_rate(2, 25e6, now);
    assert_eq!(pull.rate(2), None);
}
