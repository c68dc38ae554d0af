//! One pull against holders that die, stall, crawl, lie and claim what they lack, while the puller crashes and comes
//! back.
//!
//! Around the planner is a shell as in the daemon: it verifies and stores what comes, leaves failed holders alone for a
//! while, and forgets everything but its store in a crash. Some holders are good, and together they have every chunk: so
//! every pull must complete, and what it asks for is checked on the way:
//!
//! - nobody is asked for a chunk that is there, or that another is asked for;
//! - a chunk comes twice only if a request for it was taken back, or its holder was lost;
//! - time does not stand still, and the pull ends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use vitrail_proto::fetch::{Have, Output, PeerInfo, Pull, Wanted};
use vitrail_proto::random::Random;
use vitrail_proto::runs::Runs;

/// No history takes longer.
const TIME_MAX: Duration = Duration::from_secs(3600);
/// Events of one instant.
const BURST_MAX: usize = 10_000;
/// The daemon's rhythms.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const SHUN: Duration = Duration::from_secs(20);
const SHUN_LOST: Duration = Duration::from_secs(2);
/// When a holder that died is noticed at the latest.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Uncompressed bytes at which a frame is closed.
const FRAME_LEN: u64 = 256 * 1024;

/// What a history was like.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Virtual time until everything had come.
    pub time: Duration,
    /// Bytes that were missing at the start.
    pub wanted_bytes: u64,
    /// Bytes of chunks that arrived, those that came again included.
    pub arrived_bytes: u64,
    /// Bytes of requests that were taken back, or lost with their holder, before they were answered.
    pub excused_bytes: u64,
    /// Whether nothing bad happened to anybody.
    pub calm: bool,
}

/// What is wrong with a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Dies and may come back.
    Dies,
    /// Says nothing for a while.
    Mute,
    /// Sends wrong bytes at some time.
    Lies,
    /// Ends requests without an answer.
    Denies,
    /// Claims everything and has half of it.
    Boasts,
    /// 200 bytes a second.
    Crawls,
}

#[derive(Debug)]
struct Holder {
    fault: Fault,
    rate: f64,
    rtt: Duration,
    distance: u8,
    has: BTreeSet<u32>,
    /// What gossip says of it.
    claims_all: bool,
    up: bool,
    mute_until: Duration,
    /// Number of the streams that are open to it; what belongs to older ones is void.
    session: Option<u64>,
    queue: VecDeque<Work>,
    cancelled: BTreeSet<u32>,
    sending: bool,
    frames: usize,
    shunned_until: Duration,
}

/// A request at a holder.
#[derive(Debug)]
struct Work {
    request: u32,
    chunks: VecDeque<u32>,
    missing: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Look,
    /// The streams to a holder are open.
    Open(usize),
    Request {
        to: usize,
        session: u64,
        request: u32,
        chunks: Vec<u32>,
    },
    Cancel {
        to: usize,
        session: u64,
        request: u32,
    },
    /// A holder goes on with its queue.
    Serve {
        holder: usize,
        session: u64,
    },
    Frame {
        from: usize,
        session: u64,
        request: u32,
        chunks: Vec<u32>,
        right: bool,
    },
    Done {
        from: usize,
        session: u64,
        request: u32,
        missing: Vec<u32>,
    },
    Have {
        from: usize,
        session: u64,
    },
    Lost {
        from: usize,
        session: u64,
    },
    Die(usize),
    Return(usize),
    Mute(usize),
    /// A partial holder gets more.
    Gain(usize),
    Crash,
    Restart,
    /// A client waits elsewhere.
    Seek,
    Whole,
}

/// Runs the history of a seed, and checks it on the way.
pub fn run(seed: u64) -> Report {
    World::new(seed).run()
}

struct World {
    random: Random,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    number: u64,
    lens: BTreeMap<u32, u32>,
    store: BTreeSet<u32>,
    /// None while the puller is down.
    pull: Option<Pull>,
    holders: Vec<Holder>,
    sessions: u64,
    /// Who is asked for a chunk now.
    asked: BTreeMap<u32, (usize, u32)>,
    whole: bool,
    report: Report,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x9011);
        let mut lens = BTreeMap::new();
        let mut index = 0;
        for _ in 0..1 + random.below(600) {
            index += 1 + u32::from(random.once_in(5)) * random.below(20) as u32;
            lens.insert(index, 1 + random.below(256 * 1024) as u32);
        }
        let calm = random.once_in(4);
        let swarm = random.once_in(3);
        let count = 2 + random.below(4);
        let holders = (0..count).map(|number| {
            let good = number < 2;
            let fault = if good || calm {
                Fault::None
            } else {
                use Fault::*;
                random.pick(&[Dies, Mute, Lies, Denies, Boasts, Crawls])
            };
            // The two good ones may have to be taken together.
            let has = |index: &u32| match (swarm, fault) {
                (_, Fault::Boasts) => index.is_multiple_of(2),
                (true, _) if good => *index as usize % 2 == number,
                _ => true,
            };
            Holder {
                has: lens.keys().copied().filter(has).collect(),
                claims_all: !(swarm && good),
                rate: match fault {
                    Fault::Crawls => 200.0,
                    _ => random.pick(&[3e5, 2.5e6, 12.5e6]),
                },
                rtt: Duration::from_millis(1 + random.below(300) as u64),
                distance: random.below(2) as u8,
                fault,
                up: true,
                mute_until: Duration::ZERO,
                session: None,
                queue: VecDeque::new(),
                cancelled: BTreeSet::new(),
                sending: false,
                frames: 0,
                shunned_until: Duration::ZERO,
            }
        });
        let holders = holders.collect();
        let whole = !random.once_in(4);
        let report = Report {
            time: Duration::ZERO,
            wanted_bytes: lens.values().map(|len| u64::from(*len)).sum(),
            arrived_bytes: 0,
            excused_bytes: 0,
            calm,
        };
        let mut world = Self {
            random,
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            number: 0,
            lens,
            store: BTreeSet::new(),
            pull: None,
            holders,
            sessions: 0,
            asked: BTreeMap::new(),
            whole,
            report,
        };
        world.plan_mishaps(swarm);
        world
    }

    fn plan_mishaps(&mut self, swarm: bool) {
        self.after(Duration::ZERO, Event::Restart);
        self.after(Duration::ZERO, Event::Look);
        self.after(Duration::from_secs(20), Event::Whole);
        for _ in 0..self.random.below(4) {
            let at = self.some_time();
            self.after(at, Event::Seek);
        }
        for holder in 0..self.holders.len() {
            let at = self.some_time();
            match self.holders[holder].fault {
                Fault::Dies => self.after(at, Event::Die(holder)),
                Fault::Mute => self.after(at, Event::Mute(holder)),
                _ if swarm => self.after(at, Event::Gain(holder)),
                _ => {}
            }
        }
        if !self.report.calm && self.random.once_in(3) {
            let at = self.some_time();
            self.after(at, Event::Crash);
            let off = self.some_time();
            self.after(at + off, Event::Restart);
        }
    }

    fn some_time(&mut self) -> Duration {
        self.random.delay(Duration::from_secs(15))
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.number += 1;
        self.queue
            .push(Reverse((self.now + time, self.number, event)));
    }

    fn run(mut self) -> Report {
        let mut burst = 0;
        while self.store.len() < self.lens.len() {
            self.carry_out();
            let due = self.pull.as_ref().and_then(Pull::next_timeout);
            let next = self.queue.peek().map(|Reverse((at, ..))| *at);
            let before = self.now;
            match (due, next) {
                (Some(due), next) if next.is_none_or(|next| due <= next) => {
                    self.now = self.now.max(due);
                    if let Some(pull) = &mut self.pull {
                        pull.handle_timeout(self.now);
                    }
                }
                _ => match self.queue.pop() {
                    Some(Reverse((at, _, event))) => {
                        self.now = at;
                        self.happen(event);
                    }
                    None => panic!("nothing happens any more at {:?}", self.now),
                },
            }
            burst = if before == self.now { burst + 1 } else { 0 };
            assert!(burst < BURST_MAX, "time stands still at {before:?}");
            assert!(self.now < TIME_MAX, "no end: {} left", self.left());
        }
        let pull = self.pull.as_ref().expect("what comes, comes to a puller");
        assert!(pull.is_complete(), "everything is there");
        self.report.time = self.now;
        self.report
    }

    fn left(&self) -> usize {
        self.lens.len() - self.store.len()
    }

    fn len(&self, chunks: &[u32]) -> u64 {
        chunks.iter().map(|index| u64::from(self.lens[index])).sum()
    }

    /// What the planner wants done.
    fn carry_out(&mut self) {
        while let Some(output) = self.pull.as_mut().and_then(Pull::poll) {
            match output {
                Output::Request {
                    peer,
                    request,
                    chunks,
                    ..
                } => self.request(peer as usize, request, chunks.iter().collect()),
                Output::Cancel { peer, request } => {
                    let to = peer as usize;
                    self.take_back(|asked| *asked == (to, request));
                    if let Some(session) = self.holders[to].session {
                        let cancel = Event::Cancel {
                            to,
                            session,
                            request,
                        };
                        self.after(self.holders[to].rtt / 2, cancel);
                    }
                }
                Output::Drop { peer, .. } => {
                    let fault = self.holders[peer as usize].fault;
                    assert_ne!(fault, Fault::None, "a good holder is dropped");
                    self.hang_up(peer as usize, SHUN);
                }
                Output::Starved | Output::Complete => {}
            }
        }
    }

    fn request(&mut self, to: usize, request: u32, chunks: Vec<u32>) {
        let session = self.holders[to].session.expect("only who is in is asked");
        assert!(!chunks.is_empty(), "an empty request");
        for index in &chunks {
            assert!(!self.store.contains(index), "chunk {index} is there");
            let before = self.asked.insert(*index, (to, request));
            assert_eq!(before, None, "another is asked for chunk {index}");
        }
        let event = Event::Request {
            to,
            session,
            request,
            chunks,
        };
        self.after(self.holders[to].rtt / 2, event);
    }

    /// Nobody is waited for any more with what was asked so; it may come all the same.
    fn take_back(&mut self, which: impl Fn(&(usize, u32)) -> bool) {
        let back: Vec<u32> = self
            .asked
            .iter()
            .filter(|(_, asked)| which(asked))
            .map(|(index, _)| *index)
            .collect();
        self.report.excused_bytes += self.len(&back);
        for index in back {
            self.asked.remove(&index);
        }
    }

    /// The puller's end of the streams to a holder closes.
    fn hang_up(&mut self, from: usize, shun: Duration) {
        let holder = &mut self.holders[from];
        holder.session = None;
        holder.queue.clear();
        holder.cancelled.clear();
        holder.sending = false;
        holder.shunned_until = holder.shunned_until.max(self.now + shun);
        self.take_back(|asked| asked.0 == from);
    }

    fn is_open(&self, holder: usize, session: u64) -> bool {
        self.holders[holder].session == Some(session)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Look => {
                self.look();
                self.after(LOOK_INTERVAL, Event::Look);
            }
            Event::Open(holder) => self.open(holder),
            Event::Request {
                to,
                session,
                request,
                chunks,
            } if self.is_open(to, session) => {
                let holder = &mut self.holders[to];
                if holder.up {
                    holder.queue.push_back(Work {
                        request,
                        chunks: chunks.into(),
                        missing: Vec::new(),
                    });
                    self.serve(to, session);
                }
            }
            Event::Cancel {
                to,
                session,
                request,
            } if self.is_open(to, session) => {
                self.holders[to].cancelled.insert(request);
            }
            Event::Serve { holder, session } if self.is_open(holder, session) => {
                self.holders[holder].sending = false;
                self.serve(holder, session);
            }
            Event::Frame {
                from,
                session,
                request,
                chunks,
                right,
            } if self.is_open(from, session) => self.take(from, request, &chunks, right),
            Event::Done {
                from,
                session,
                request,
                missing,
            } if self.is_open(from, session) => {
                // What it says not to have is asked of others.
                self.asked.retain(|_, asked| *asked != (from, request));
                if let Some(pull) = &mut self.pull {
                    pull.handle_done(from as u64, request, &Runs::of(missing), self.now);
                }
            }
            Event::Have { from, session } if self.is_open(from, session) => {
                let runs = Runs::of(self.holders[from].has.iter().copied());
                if let Some(pull) = &mut self.pull {
                    pull.update_have(from as u64, Have::Part(runs), self.now);
                }
            }
            Event::Lost { from, session } if self.is_open(from, session) => {
                if let Some(pull) = &mut self.pull {
                    pull.remove_peer(from as u64, self.now);
                }
                self.hang_up(from, SHUN_LOST);
            }
            Event::Die(holder) => self.die(holder),
            Event::Return(holder) => self.holders[holder].up = true,
            Event::Mute(holder) => {
                let time = self.some_time() * 4;
                self.holders[holder].mute_until = self.now + time;
                if let Some(session) = self.holders[holder].session {
                    self.after(time, Event::Serve { holder, session });
                }
            }
            Event::Gain(holder) => {
                let all: Vec<u32> = self.lens.keys().copied().collect();
                self.holders[holder].has.extend(all);
                if let Some(session) = self.holders[holder].session {
                    let told = Event::Have {
                        from: holder,
                        session,
                    };
                    self.after(self.holders[holder].rtt / 2, told);
                }
            }
            Event::Crash => self.crash(),
            Event::Restart => self.restart(),
            Event::Seek => self.seek(),
            Event::Whole => {
                self.whole = true;
                if let Some(pull) = &mut self.pull {
                    pull.set_whole(true, self.now);
                }
            }
            // It belongs to streams that are closed.
            _ => {}
        }
    }

    fn look(&mut self) {
        if self.pull.is_none() {
            return;
        }
        for number in 0..self.holders.len() {
            let holder = &mut self.holders[number];
            if holder.up && holder.session.is_none() && holder.shunned_until <= self.now {
                // Not again while it is being dialled.
                holder.shunned_until = self.now + holder.rtt * 2;
                self.after(self.holders[number].rtt, Event::Open(number));
            }
        }
    }

    fn open(&mut self, number: usize) {
        let holder = &mut self.holders[number];
        let Some(pull) = self.pull.as_mut().filter(|_| holder.up) else {
            return;
        };
        self.sessions += 1;
        let session = self.sessions;
        holder.session = Some(session);
        let info = PeerInfo {
            distance: holder.distance,
            rtt: holder.rtt,
            rate: None,
        };
        let have = if holder.claims_all {
            Have::All
        } else {
            Have::Part(Runs::new())
        };
        pull.add_peer(number as u64, info, have, self.now);
        // A boaster says so on its streams too.
        if self.holders[number].fault != Fault::Boasts {
            let told = Event::Have {
                from: number,
                session,
            };
            self.after(self.holders[number].rtt, told);
        }
    }

    /// A holder works at the first request of its queue: a frame, or its end.
    fn serve(&mut self, number: usize, session: u64) {
        let now = self.now;
        let holder = &mut self.holders[number];
        if holder.sending || !holder.up || now < holder.mute_until {
            return;
        }
        let Some(work) = holder.queue.front_mut() else {
            return;
        };
        let request = work.request;
        if holder.cancelled.remove(&request) || holder.fault == Fault::Denies {
            work.chunks.clear();
        }
        let (mut frame, mut len) = (Vec::new(), 0);
        while let Some(&index) = work.chunks.front() {
            let chunk_len = u64::from(self.lens[&index]);
            if len > 0 && len + chunk_len > FRAME_LEN {
                break;
            }
            work.chunks.pop_front();
            if holder.has.contains(&index) {
                frame.push(index);
                len += chunk_len;
            } else {
                work.missing.push(index);
            }
        }
        let event = if frame.is_empty() {
            let missing = std::mem::take(&mut work.missing);
            holder.queue.pop_front();
            Event::Done {
                from: number,
                session,
                request,
                missing,
            }
        } else {
            holder.frames += 1;
            let right = !(holder.fault == Fault::Lies && holder.frames > 5);
            Event::Frame {
                from: number,
                session,
                request,
                chunks: frame,
                right,
            }
        };
        holder.sending = true;
        let time = Duration::from_secs_f64(len as f64 / holder.rate);
        let way = holder.rtt / 2;
        self.after(time + way, event);
        let next = Event::Serve {
            holder: number,
            session,
        };
        self.after(time, next);
    }

    /// Chunks have come from a holder.
    fn take(&mut self, from: usize, request: u32, chunks: &[u32], right: bool) {
        let Some(pull) = &mut self.pull else { return };
        if !right {
            pull.handle_fault(from as u64, "wrong bytes".into(), self.now);
            self.hang_up(from, TIME_MAX);
            return;
        }
        pull.handle_chunks(from as u64, request, chunks.iter().copied(), self.now);
        self.report.arrived_bytes += self.len(chunks);
        for index in chunks {
            self.store.insert(*index);
            if self.asked.get(index) == Some(&(from, request)) {
                self.asked.remove(index);
            }
        }
    }

    fn die(&mut self, number: usize) {
        let holder = &mut self.holders[number];
        holder.up = false;
        holder.queue.clear();
        let session = holder.session;
        let back = self.some_time();
        let returns = self.random.once_in(2);
        if returns {
            self.after(back, Event::Return(number));
        }
        if let Some(session) = session {
            let at_once = self.random.once_in(2);
            let noticed = match (at_once, returns) {
                (true, _) => self.holders[number].rtt / 2,
                // Back, it does not know the connection any more.
                (_, true) => back,
                _ => IDLE_TIMEOUT,
            };
            let from = number;
            self.after(noticed, Event::Lost { from, session });
        }
    }

    /// The puller dies; what it has stored stays.
    fn crash(&mut self) {
        self.pull = None;
        for holder in 0..self.holders.len() {
            self.hang_up(holder, Duration::ZERO);
        }
    }

    fn restart(&mut self) {
        let missing = self.lens.iter();
        let missing = missing.filter(|(index, _)| !self.store.contains(index));
        let wanted = missing
            .map(|(&index, &len)| Wanted { index, len })
            .collect();
        let mut pull = Pull::new(wanted, u64::MAX, self.random.number());
        pull.set_whole(self.whole, self.now);
        self.pull = Some(pull);
        self.seek();
    }

    fn seek(&mut self) {
        let last = self.lens.keys().last().copied().unwrap_or(0) as usize;
        let clients = self.random.below(3);
        let at: Vec<u32> = (0..clients)
            .map(|_| self.random.below(last + 1) as u32)
            .collect();
        if let Some(pull) = &mut self.pull {
            pull.set_positions(at, self.now);
        }
    }
}
