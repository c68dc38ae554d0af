//! Many pulls at once: every site runs the product's planner, and serves what it has so far to the others.
//!
//! Around the planners is the daemon's shell, rule by rule: who is found to be a holder and when ([`gossip`]), how it is
//! reached, asked and left ([`puller`]), and how it serves and says what it has ([`holder`]). Bytes move over
//! connections ([`carrier`]) that share the sites' links fairly ([`share`]).
//!
//! What is not here: packets, losses and queues; time to encode, verify and store; and the catalogue. A site knows every manifest from the start.

mod carrier;
mod gossip;
mod holder;
mod network;
mod puller;
mod share;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use vitrail_proto::random::Random;
use vitrail_proto::runs::Runs;

use carrier::Carrier;
use gossip::Told;
pub use holder::Serving;
use holder::Session;
pub use network::{Network, Path, Site};
use puller::Puller;

/// Connections of one site, as in the daemon.
const LINKS_MAX: usize = 256;
/// Events of one instant.
const BURST_MAX: usize = 10_000_000;
/// Samples that are kept: when there are more, every second one is dropped.
const SAMPLES_MAX: usize = 200;
/// How often the first samples are taken.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);

/// A chunk of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Equal chunks have equal names.
    pub name: u64,
    /// Its bytes.
    pub len: u32,
    /// What of it travels.
    pub wire: u32,
}

/// How a site asks for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A client reads it from its beginning, faster than it comes.
    Read,
    /// It is to be there; nobody waits for a part of it.
    Hold,
}

/// How a site got an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulled {
    /// Where.
    pub site: usize,
    /// What.
    pub image: usize,
    /// When it was asked for.
    pub at: Duration,
    /// How long it took; none if it failed.
    pub time: Option<Duration>,
}

/// What the sites have had of each other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// What was asked for, in the order of [`Swarm::pull`].
    pub pulls: Vec<Pulled>,
    /// When the last of them had ended.
    pub time: Duration,
    /// Bytes that travelled, by sender and receiver.
    pub links: BTreeMap<(usize, usize), u64>,
    /// Bytes of chunks that were missing when pulls began.
    pub missing_bytes: u64,
    /// Bytes of chunks that arrived, those that came again included.
    pub arrived_bytes: u64,
    /// Bytes of requests that were taken back, or lost with their holder, before they were answered.
    pub excused_bytes: u64,
    /// What had travelled to each site by when.
    pub samples: Vec<(Duration, Vec<u64>)>,
}

impl Report {
    /// Bytes that a site has sent.
    pub fn sent(&self, site: usize) -> u64 {
        let from = self.links.range((site, 0)..(site + 1, 0));
        from.map(|(_, bytes)| bytes).sum()
    }

    /// Bytes that a site has received.
    pub fn received(&self, site: usize) -> u64 {
        let to = self.links.iter().filter(|((_, to), _)| *to == site);
        to.map(|(_, bytes)| bytes).sum()
    }

    /// The time of the slowest pull; none if one failed.
    pub fn slowest(&self) -> Option<Duration> {
        let times: Option<Vec<Duration>> = self.pulls.iter().map(|pull| pull.time).collect();
        times?.into_iter().max()
    }
}

/// Sites that pull from each other.
pub struct Swarm {
    network: Network,
    serving: Serving,
    seed: u64,
    random: Random,
    now: Duration,
    queue: BinaryHeap<Reverse<Due>>,
    number: u64,
    /// Chunks of all images, each once.
    chunks: Vec<Chunk>,
    names: BTreeMap<u64, u32>,
    images: Vec<Image>,
    stores: Vec<Store>,
    pulls: Vec<Puller>,
    /// The pull that runs at a site for an image.
    running: BTreeMap<(usize, usize), usize>,
    sessions: Vec<Session>,
    carrier: Carrier,
    /// By image and site.
    told: Vec<BTreeMap<usize, Told>>,
    /// Whom each site is connected with.
    links: Vec<BTreeSet<usize>>,
    /// Bytes per second on the wire at which others delivered to each site.
    rates: Vec<BTreeMap<usize, f64>>,
    /// What was asked for, and how.
    asked: Vec<(Pulled, Way)>,
    left: usize,
    sample_interval: Duration,
    report: Report,
}

struct Image {
    /// Numbers of chunks.
    chunks: Vec<u32>,
    /// First index of the same chunk, by index.
    first: Vec<u32>,
}

/// What a site has.
#[derive(Default)]
struct Store {
    has: BTreeSet<u32>,
    /// What it has of an image, and of how many chunks that was made.
    held: BTreeMap<usize, (usize, Rc<Runs>)>,
}

struct Due {
    at: Duration,
    number: u64,
    event: Event,
}

enum Event {
    Ask(usize),
    Look(usize),
    Opened {
        pull: usize,
        holder: usize,
        reached: bool,
    },
    Timer(usize),
    Request {
        session: usize,
        request: u32,
        chunks: Vec<u32>,
        first: bool,
    },
    Cancel {
        session: usize,
        request: u32,
    },
    Tell(usize),
    Have {
        session: usize,
        runs: Rc<Runs>,
    },
    Frame {
        session: usize,
        request: u32,
        chunks: Vec<u32>,
    },
    Done {
        session: usize,
        request: u32,
        missing: Vec<u32>,
    },
    /// What a connection has in hand has left.
    Sent {
        flow: usize,
        stamp: u64,
    },
    Widen(usize),
    Share,
    Sample,
}

impl Swarm {
    /// Sites that have nothing. Equal seeds give equal histories.
    pub fn new(network: Network, seed: u64) -> Self {
        let sites = network.sites.len();
        let mut swarm = Self {
            carrier: Carrier::default(),
            serving: Serving::DAEMON,
            seed,
            random: Random::new(seed ^ 0x5a43),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            number: 0,
            chunks: Vec::new(),
            names: BTreeMap::new(),
            images: Vec::new(),
            stores: (0..sites).map(|_| Store::default()).collect(),
            pulls: Vec::new(),
            running: BTreeMap::new(),
            sessions: Vec::new(),
            told: Vec::new(),
            links: vec![BTreeSet::new(); sites],
            rates: vec![BTreeMap::new(); sites],
            asked: Vec::new(),
            left: 0,
            sample_interval: SAMPLE_INTERVAL,
            report: Report::default(),
            network,
        };
        swarm.connect_neighbours();
        swarm.after(Duration::ZERO, Event::Sample);
        swarm
    }

    /// Lets holders answer in another way than the daemon's, to see what that is worth.
    pub fn set_serving(&mut self, serving: Serving) {
        self.serving = serving;
    }

    /// An image that all sites know. Returns its number.
    pub fn image(&mut self, chunks: &[Chunk]) -> usize {
        let mut image = Image {
            chunks: Vec::new(),
            first: Vec::new(),
        };
        let mut firsts = BTreeMap::new();
        for (index, chunk) in (0u32..).zip(chunks) {
            let next = self.chunks.len() as u32;
            let number = *self.names.entry(chunk.name).or_insert(next);
            if number == next {
                self.chunks.push(*chunk);
            }
            image.chunks.push(number);
            image.first.push(*firsts.entry(number).or_insert(index));
        }
        self.images.push(image);
        self.told.push(BTreeMap::new());
        self.images.len() - 1
    }

    /// A site has an image from the start, and all sites know it.
    pub fn hold(&mut self, site: usize, image: usize) {
        let chunks = &self.images[image].chunks;
        self.stores[site].has.extend(chunks);
        self.told[image].insert(site, Told::always());
    }

    /// A site has an image from the start, but tells nobody: a base for others.
    pub fn hold_quietly(&mut self, site: usize, image: usize) {
        let chunks = &self.images[image].chunks;
        self.stores[site].has.extend(chunks);
    }

    /// A site asks for an image at some time.
    pub fn pull(&mut self, site: usize, image: usize, at: Duration, way: Way) {
        let pulled = Pulled {
            site,
            image,
            at,
            time: None,
        };
        self.asked.push((pulled, way));
        self.left += 1;
        self.after(at, Event::Ask(self.asked.len() - 1));
    }

    /// Bytes that travel when a site that has the image `base`, if any, gets another, once.
    pub fn copy_bytes(&self, image: usize, base: Option<usize>) -> u64 {
        let has: BTreeSet<u32> = base
            .map(|base| self.images[base].chunks.iter().copied().collect())
            .unwrap_or_default();
        let all: BTreeSet<u32> = self.images[image].chunks.iter().copied().collect();
        let missing = all.difference(&has);
        missing
            .map(|chunk| u64::from(self.chunks[*chunk as usize].wire))
            .sum()
    }

    /// Whether a site has all of an image.
    pub fn holds(&self, site: usize, image: usize) -> bool {
        let has = &self.stores[site].has;
        let mut chunks = self.images[image].chunks.iter();
        chunks.all(|chunk| has.contains(chunk))
    }

    /// Goes on until all pulls have ended, but not beyond `end`: those that have not ended then have failed.
    pub fn run(&mut self, end: Duration) -> &Report {
        let mut burst = 0;
        while self.left > 0 {
            let Some(Reverse(due)) = self.queue.pop() else {
                break;
            };
            if due.at > end {
                break;
            }
            burst = if due.at == self.now { burst + 1 } else { 0 };
            assert!(burst < BURST_MAX, "time stands still at {:?}", self.now);
            self.now = due.at;
            self.happen(due.event);
        }
        self.report.pulls = self.asked.iter().map(|(pull, _)| pull.clone()).collect();
        self.report.time = self.now;
        self.report.links = self.carrier.carried();
        self.sample();
        &self.report
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Due {
            at: self.now + time,
            number: self.number,
            event,
        }));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ask(number) => self.ask(number),
            Event::Look(pull) => self.look(pull),
            Event::Opened {
                pull,
                holder,
                reached,
            } => self.opened(pull, holder, reached),
            Event::Timer(pull) => self.time_out(pull),
            Event::Request {
                session,
                request,
                chunks,
                first,
            } => self.take_request(session, request, chunks, first),
            Event::Cancel { session, request } => self.sessions[session].cancel(request),
            Event::Tell(session) => self.tell(session),
            Event::Have { session, runs } => self.take_have(session, &runs),
            Event::Frame {
                session,
                request,
                chunks,
            } => self.take_frame(session, request, &chunks),
            Event::Done {
                session,
                request,
                missing,
            } => self.take_done(session, request, missing),
            Event::Sent { flow, stamp } => self.sent(flow, stamp),
            Event::Widen(flow) => self.widen(flow),
            Event::Share => self.share(),
            Event::Sample => {
                self.sample();
                self.after(self.sample_interval, Event::Sample);
            }
        }
    }

    fn sample(&mut self) {
        let mut received = vec![0; self.network.sites.len()];
        for ((_, to), bytes) in self.carrier.carried() {
            received[to] += bytes;
        }
        let samples = &mut self.report.samples;
        samples.push((self.now, received));
        if samples.len() > SAMPLES_MAX {
            let mut number = 0;
            samples.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.sample_interval *= 2;
        }
    }

    /// What a site has of an image, as indexes.
    fn held(&mut self, site: usize, image: usize) -> Rc<Runs> {
        let store = &mut self.stores[site];
        let size = store.has.len();
        if let Some((then, runs)) = store.held.get(&image)
            && *then == size
        {
            return runs.clone();
        }
        let chunks = (0u32..).zip(&self.images[image].chunks);
        let there = chunks.filter(|(_, chunk)| store.has.contains(chunk));
        let runs = Rc::new(Runs::of(there.map(|(index, _)| index)));
        store.held.insert(image, (size, runs.clone()));
        runs
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
