//! Who sends what: the planner of one pull. `docs/SCHEDULER.md` is the page.
//!
//! The shell feeds it peers, received chunks and time, and carries out what [`Pull::poll`] returns. Bytes never
//! pass through here.

pub mod bound;
mod choice;
mod peer;
mod policy;
mod swarm;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use crate::random::Random;
use crate::runs::Runs;
use peer::{Ask, PeerState};
pub use peer::{Have, PeerInfo};
pub use policy::Policy;
use swarm::Swarm;

/// A site, by [`crate::clock::site_number`].
pub type Peer = u64;

/// Uncompressed bytes at which a block is closed.
pub const BLOCK_LEN: u64 = 512 * 1024;

/// A chunk that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its index among the manifest's chunk segments.
    pub index: u32,
    /// Its length in bytes.
    pub len: u32,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Ask a peer.
    Request {
        /// Whom.
        peer: Peer,
        /// Number of the request, unique in this pull.
        request: u32,
        /// Chunk indexes.
        chunks: Runs,
        /// A client waits for it: it goes before everything else.
        first: bool,
    },
    /// Tell a peer not to begin a request.
    Cancel {
        /// Whom.
        peer: Peer,
        /// The request.
        request: u32,
    },
    /// Hang up on a peer, which is out of this pull.
    Drop {
        /// Whom.
        peer: Peer,
        /// Why, for people.
        reason: String,
    },
    /// Chunks are missing and no peer has them or is being waited for. Comes once, and again after peers
    /// have changed.
    Starved,
    /// Every wanted chunk has arrived. Comes once.
    Complete,
}

/// One pull.
///
/// Memory: 10 bytes a wanted chunk, 8 more while somebody is asked for it, 43 a block, and the holdings of its peers.
#[derive(Debug)]
pub struct Pull {
    site: Peer,
    wanted: Vec<Wanted>,
    received: Vec<bool>,
    /// Whether some peer is asked for a chunk, and the request was not taken back.
    asked: Vec<bool>,
    left: usize,
    left_bytes: u64,
    blocks: Vec<Block>,
    /// Blocks with chunks that are missing and that nobody is asked for.
    open: BTreeSet<usize>,
    peers: BTreeMap<Peer, PeerState>,
    swarm: Swarm,
    policy: Policy,
    /// Whom the policy lets each block be asked of, unless it is adaptive.
    assigned: Vec<Option<Peer>>,
    /// What draws of the policy depend on.
    draw: u64,
    /// Chunks at which clients wait, as positions in `wanted`.
    positions: BTreeSet<usize>,
    /// Whether blocks that no client waits for are fetched as well.
    whole: bool,
    random: Random,
    start: usize,
    next_request: u32,
    /// When it was last looked at what to ask of whom.
    filled_at: Duration,
    starved: bool,
    complete: bool,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Block {
    /// Positions in `wanted`.
    chunks: Range<usize>,
    left: usize,
}

impl Pull {
    /// A pull by this site of these chunks, which must ascend by index. Equal seeds make equal decisions.
    pub fn new(wanted: Vec<Wanted>, site: Peer, seed: u64) -> Self {
        let mut blocks = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (i, chunk) in wanted.iter().enumerate() {
            if bytes > 0 && bytes + u64::from(chunk.len) > BLOCK_LEN {
                blocks.push(Block {
                    chunks: start..i,
                    left: i - start,
                });
                (start, bytes) = (i, 0);
            }
            bytes += u64::from(chunk.len);
        }
        if bytes > 0 {
            blocks.push(Block {
                chunks: start..wanted.len(),
                left: wanted.len() - start,
            });
        }
        let mut random = Random::new(seed);
        let start = random.below(blocks.len());
        let mut pull = Self {
            site,
            swarm: Swarm::new(blocks.len()),
            policy: Policy::default(),
            assigned: Vec::new(),
            draw: seed,
            received: vec![false; wanted.len()],
            asked: vec![false; wanted.len()],
            left: wanted.len(),
            left_bytes: wanted.iter().map(|w| u64::from(w.len)).sum(),
            open: (0..blocks.len()).collect(),
            blocks,
            wanted,
            peers: BTreeMap::new(),
            positions: BTreeSet::new(),
            whole: true,
            random,
            start,
            next_request: 0,
            filled_at: Duration::ZERO,
            starved: false,
            complete: false,
            outputs: VecDeque::new(),
        };
        pull.check_complete();
        pull
    }

    /// Bytes that have not arrived.
    pub fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// Whether everything has arrived.
    pub fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Peers in this pull.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        self.peers.keys().copied()
    }

    /// The rate at which a peer delivers, in uncompressed bytes per second, once it is known.
    pub fn rate(&self, peer: Peer) -> Option<f64> {
        self.peers.get(&peer).and_then(|state| state.rate)
    }

    /// Adds a peer, or changes what is known of it.
    pub fn add_peer(&mut self, peer: Peer, info: PeerInfo, have: Have, now: Duration) {
        match self.peers.get_mut(&peer) {
            Some(state) => {
                state.info = info;
                self.believe(peer, have);
            }
            None => {
                let state = PeerState::new(info, have, now);
                self.count_copies(&state, 1);
                self.peers.insert(peer, state);
                self.peers_changed();
            }
        }
        self.fill(now);
    }

    /// A peer has more than before.
    pub fn update_have(&mut self, peer: Peer, have: Have, now: Duration) {
        if self.believe(peer, have) {
            self.fill(now);
        }
    }

    /// A peer has told what its path carries, in uncompressed bytes per second. Counts until it has been measured here.
    pub fn expect_rate(&mut self, peer: Peer, rate: f64, now: Duration) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.expect_rate(rate);
            self.fill(now);
        }
    }

    /// A peer is gone; what it was asked for goes to others.
    pub fn remove_peer(&mut self, peer: Peer, now: Duration) {
        if self.take_out(peer) {
            self.fill(now);
        }
    }

    /// Clients wait at these chunk indexes; replaces what was said before.
    pub fn set_positions(&mut self, indexes: impl IntoIterator<Item = u32>, now: Duration) {
        let positions = indexes
            .into_iter()
            .map(|index| self.wanted.partition_point(|w| w.index < index))
            .filter(|&at| at < self.wanted.len())
            .collect();
        if positions != self.positions {
            self.positions = positions;
            self.ask_all_again();
            self.fill(now);
        }
    }

    /// Whether to fetch everything, as at the start, or only what clients are about to read.
    pub fn set_whole(&mut self, whole: bool, now: Duration) {
        self.whole = whole;
        self.ask_all_again();
        self.fill(now);
    }

    /// Verified chunks have arrived from a peer.
    pub fn handle_chunks(
        &mut self,
        peer: Peer,
        request: u32,
        indexes: impl IntoIterator<Item = u32>,
        now: Duration,
    ) {
        let mut bytes = 0;
        for index in indexes {
            let Ok(at) = self.wanted.binary_search_by_key(&index, |w| w.index) else {
                continue;
            };
            bytes += u64::from(self.wanted[at].len);
            if !std::mem::replace(&mut self.received[at], true) {
                self.left -= 1;
                self.left_bytes -= u64::from(self.wanted[at].len);
                let block = self.block_of(at);
                self.blocks[block].left -= 1;
                if self.blocks[block].left == 0 {
                    self.open.remove(&block);
                }
            }
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.progress(request, bytes, now);
        }
        self.check_complete();
        self.fill(now);
    }

    /// Bytes have come from a peer that are not a chunk yet; this may be told late, and before [`Pull::handle_timeout`].
    pub fn handle_bytes(&mut self, peer: Peer, bytes: u64, now: Duration) {
        if let Some(state) = self.peers.get_mut(&peer).filter(|_| bytes > 0) {
            state.bytes_came(bytes, now);
        }
    }

    /// A peer has ended a request; it did not have `missing`. What it says of a request that was taken back does not
    /// count.
    pub fn handle_done(&mut self, peer: Peer, request: u32, missing: &Runs, now: Duration) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let Some(ask) = state.end(request, now) else {
            return;
        };
        if !ask.cancelled {
            let asked = ask.chunks.iter().map(|&at| self.wanted[at].index);
            let lacking: Vec<u32> = asked.filter(|index| missing.contains(*index)).collect();
            if !lacking.is_empty() {
                let have = state.lack(&lacking, &self.wanted);
                self.believe(peer, have);
            } else if ask.bytes > 0 && state.strike() {
                self.drop_peer(peer, "it left three requests unanswered".into());
            }
            self.release(&ask);
        }
        self.fill(now);
    }

    /// A peer has sent what it must not send.
    pub fn handle_fault(&mut self, peer: Peer, reason: String, now: Duration) {
        self.drop_peer(peer, reason);
        self.fill(now);
    }

    /// What has come could not be taken until now: nobody is to blame for having been silent so far.
    pub fn excuse(&mut self, now: Duration) {
        for state in self.peers.values_mut() {
            state.excuse(now);
        }
    }

    /// Time has come to look for stalls, and for peers that are too slow.
    pub fn handle_timeout(&mut self, now: Duration) {
        let dead: Vec<(Peer, String)> = self
            .peers
            .iter_mut()
            .filter_map(|(&peer, state)| state.too_slow(now).map(|reason| (peer, reason)))
            .collect();
        for (peer, reason) in dead {
            self.drop_peer(peer, reason);
        }
        let stalled: Vec<Peer> = self
            .peers
            .iter_mut()
            .filter_map(|(&peer, state)| state.check_stall(now).then_some(peer))
            .collect();
        // Without anybody else it is waited for: what it has begun may yet come.
        if self.peers.values().any(|state| !state.stalled) {
            for peer in stalled {
                self.take_from_stalled(peer);
            }
        }
        self.fill(now);
    }

    /// When [`Pull::handle_timeout`] is due; none while nobody is asked.
    pub fn next_timeout(&self) -> Option<Duration> {
        let stalls = self.peers.values().filter_map(PeerState::deadline).min();
        match self.steal_time() {
            Some(at) => Some(stalls.map_or(at, |stall| stall.min(at))),
            None => stalls,
        }
    }

    /// What to do next; call until it returns none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The block of the chunk at a position of `wanted`.
    fn block_of(&self, at: usize) -> usize {
        self.blocks.partition_point(|block| block.chunks.end <= at)
    }

    fn check_complete(&mut self) {
        if self.left == 0 && !self.complete {
            self.complete = true;
            self.outputs.push_back(Output::Complete);
        }
    }

    /// Peers have come or gone, or have something else.
    fn peers_changed(&mut self) {
        self.share_out();
        self.assign();
    }

    /// Takes a peer's word for what it has. False if it is not in the pull.
    fn believe(&mut self, peer: Peer, have: Have) -> bool {
        let Some(mut state) = self.peers.remove(&peer) else {
            return false;
        };
        self.count_copies(&state, -1);
        state.believe(have, &self.wanted);
        self.count_copies(&state, 1);
        self.peers.insert(peer, state);
        self.peers_changed();
        true
    }

    /// Takes a peer out of the pull. False if it was not in it.
    fn take_out(&mut self, peer: Peer) -> bool {
        let Some(state) = self.peers.remove(&peer) else {
            return false;
        };
        self.count_copies(&state, -1);
        for ask in state.asked.iter().filter(|ask| !ask.cancelled) {
            self.release(ask);
        }
        self.peers_changed();
        true
    }

    /// Peers that had nothing to give may have something now.
    fn ask_all_again(&mut self) {
        for state in self.peers.values_mut() {
            state.exhausted = false;
        }
    }

    /// Nobody is asked any more for what was asked for so.
    fn release(&mut self, ask: &Ask) {
        self.ask_all_again();
        for &at in &ask.chunks {
            self.asked[at] = false;
            if !self.received[at] {
                self.open.insert(ask.block);
            }
        }
    }

    fn drop_peer(&mut self, peer: Peer, reason: String) {
        if self.take_out(peer) {
            self.outputs.push_back(Output::Drop { peer, reason });
        }
    }

    /// Others get what a stalled peer was asked for; what it sends after all is still taken.
    fn take_from_stalled(&mut self, peer: Peer) {
        let asks = self.peers.get(&peer).map_or(0, |state| state.asked.len());
        for place in 0..asks {
            self.take_back(peer, place);
        }
    }

    /// Takes back the request at a place of a peer's queue, unless that was done before. Returns its block.
    fn take_back(&mut self, peer: Peer, place: usize) -> Option<usize> {
        let ask = self.peers.get_mut(&peer)?.asked.get_mut(place)?;
        if std::mem::replace(&mut ask.cancelled, true) {
            return None;
        }
        let ask = ask.clone();
        self.release(&ask);
        let request = ask.request;
        self.outputs.push_back(Output::Cancel { peer, request });
        Some(ask.block)
    }
}
