//! Which peer is asked for which block next.

use std::time::Duration;

use super::peer::{Ask, PeerState};
use super::{Output, Peer, Policy, Pull};
use crate::runs::Runs;

/// Blocks from a client's position on that come before all others: 16 MiB.
const URGENT_BLOCKS: usize = 32;
/// A farther class of peers is left alone if the nearer ones need no longer than this.
const NEAR_ENOUGH: Duration = Duration::from_secs(1);
/// How often it is looked at who is slow once everything is asked for.
const STEAL_INTERVAL: Duration = Duration::from_millis(250);
/// How much slower than the thief a peer must be to lose a block that it has begun to send.
const HEDGE_FACTOR: f64 = 3.0;

/// What a peer is to be asked for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Block(usize),
    /// Others should be asked for what it has.
    NotNow,
    /// It has nothing of what nobody is asked for.
    Nothing,
}

impl From<Option<usize>> for Choice {
    fn from(block: Option<usize>) -> Self {
        block.map_or(Self::Nothing, Self::Block)
    }
}

impl Pull {
    /// Gives every peer as much to do as keeps it busy.
    pub(super) fn fill(&mut self, now: Duration) {
        if self.left == 0 {
            return;
        }
        let mut order: Vec<Peer> = self.peers.keys().copied().collect();
        order.sort_by_key(|peer| {
            let state = &self.peers[peer];
            (state.stalled, state.info.distance, state.info.rtt, *peer)
        });
        for peer in order {
            if self.near_ones_suffice(peer, now) {
                continue;
            }
            while self.peers[&peer].has_room(now) {
                let choice = match self.peers[&peer].exhausted {
                    true => Choice::Nothing,
                    false => self.choose(peer, now),
                };
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.exhausted = choice == Choice::Nothing;
                }
                let block = match choice {
                    Choice::Block(block) => Some(block),
                    Choice::NotNow => None,
                    Choice::Nothing => self.steal(peer, now),
                };
                let Some(block) = block else {
                    break;
                };
                self.ask(peer, block, now);
            }
        }
        self.filled_at = now;
        let waiting = self.peers.values().any(|state| !state.asked.is_empty());
        if waiting || !self.is_wanted() {
            self.starved = false;
        } else if !std::mem::replace(&mut self.starved, true) {
            self.outputs.push_back(Output::Starved);
        }
    }

    /// When to look again whether a peer with nothing to do should take over from one that is slow; none while there are
    /// open blocks, or everybody is busy.
    pub(super) fn steal_time(&self) -> Option<Duration> {
        let idle = |state: &PeerState| state.asked.is_empty() && !state.stalled;
        let due = self.policy == Policy::Adaptive
            && self.left > 0
            && self.open.is_empty()
            && self.peers.values().any(idle);
        due.then(|| self.filled_at + STEAL_INTERVAL)
    }

    /// Whether an open block should be fetched now.
    fn is_wanted(&self) -> bool {
        let urgent = |&position: &usize| {
            let block = self.block_of(position);
            let window = block..block + URGENT_BLOCKS;
            self.open.range(window).next().is_some()
        };
        self.whole && !self.open.is_empty() || self.positions.iter().any(urgent)
    }

    /// Whether nearer peers bring everything that is left, soon.
    fn near_ones_suffice(&self, peer: Peer, now: Duration) -> bool {
        if self.policy != Policy::Adaptive {
            return false;
        }
        let distance = self.peers[&peer].info.distance;
        let near = || {
            let near = self.peers.values();
            near.filter(|state| state.info.distance < distance && !state.stalled)
        };
        let rate: f64 = near().filter_map(|state| state.rate_now(now)).sum();
        if rate <= 0.0 || self.left_bytes as f64 / rate >= NEAR_ENOUGH.as_secs_f64() {
            return false;
        }
        let open = self
            .open
            .iter()
            .flat_map(|&block| self.blocks[block].chunks.clone());
        let mut open = open.filter(|&at| !self.received[at] && !self.asked[at]);
        open.all(|at| near().any(|state| state.has(self.wanted[at].index)))
    }

    /// Asks a peer for what it has of an open block. A chunk at which a client waits is asked for by itself, so that
    /// nothing else is sent, or encoded, before it.
    fn ask(&mut self, peer: Peer, block: usize, now: Duration) {
        let state = &self.peers[&peer];
        let mut chunks: Vec<usize> = self.open_chunks(state, block).collect();
        if let Some(first) = chunks.iter().position(|at| self.positions.contains(at)) {
            let first = chunks.remove(first);
            self.request(peer, block, vec![first], true, now);
        }
        self.request(peer, block, chunks, false, now);
        let open = |at: usize| !self.received[at] && !self.asked[at];
        if !self.blocks[block].chunks.clone().any(open) {
            self.open.remove(&block);
        }
    }

    fn request(
        &mut self,
        peer: Peer,
        block: usize,
        chunks: Vec<usize>,
        first: bool,
        now: Duration,
    ) {
        if chunks.is_empty() {
            return;
        }
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        let wanted = || chunks.iter().map(|&at| self.wanted[at]);
        let bytes = wanted().map(|chunk| u64::from(chunk.len)).sum();
        self.outputs.push_back(Output::Request {
            peer,
            request,
            chunks: Runs::of(wanted().map(|chunk| chunk.index)),
            first,
        });
        for &at in &chunks {
            self.asked[at] = true;
        }
        let ask = Ask {
            request,
            block,
            chunks,
            bytes,
            cancelled: false,
        };
        if let Some(state) = self.peers.get_mut(&peer) {
            state.ask(ask, now);
        }
    }

    /// What a peer has of a block and nobody is asked for.
    fn open_chunks<'a>(
        &'a self,
        state: &'a PeerState,
        block: usize,
    ) -> impl Iterator<Item = usize> + 'a {
        let chunks = self.blocks[block].chunks.clone();
        let open = chunks.filter(|&at| !self.received[at] && !self.asked[at]);
        open.filter(|&at| state.has(self.wanted[at].index))
    }

    pub(super) fn has_some(&self, state: &PeerState, block: usize) -> bool {
        self.open_chunks(state, block).next().is_some()
    }

    /// The block that a peer should send next.
    fn choose(&mut self, peer: Peer, now: Duration) -> Choice {
        let state = &self.peers[&peer];
        let held = |block: &&usize| self.may_ask(peer, **block) && self.has_some(state, **block);
        for &position in &self.positions {
            let block = self.block_of(position);
            let window = block..block + URGENT_BLOCKS;
            if let Some(&block) = self.open.range(window).find(held) {
                return Choice::Block(block);
            }
        }
        if !self.whole {
            return Choice::Nothing;
        }
        let from = match self.positions.first() {
            Some(&position) => self.block_of(position),
            None if self.is_swarm() => return self.choose_rare(peer, now),
            None => self.start,
        };
        let rest = self.open.range(from..).chain(self.open.range(..from));
        { rest }.find(held).copied().into()
    }

    /// A block that another peer would bring later than this one, taken away from it.
    fn steal(&mut self, thief: Peer, now: Duration) -> Option<usize> {
        let state = &self.peers[&thief];
        let busy = !state.asked.is_empty() || state.stalled;
        // While others have something to be asked for, they are not robbed: what a peer has begun to send comes twice.
        if self.policy != Policy::Adaptive || busy || !self.open.is_empty() {
            return None;
        }
        let mut best: Option<(f64, Peer, usize)> = None;
        for (&peer, victim) in self.peers.iter().filter(|(peer, _)| **peer != thief) {
            let last = victim.asked.iter().enumerate();
            let Some((place, ask)) = last.rev().find(|(_, ask)| !ask.cancelled) else {
                continue;
            };
            let has = |&at: &usize| self.received[at] || state.has(self.wanted[at].index);
            let theirs = victim.seconds_until(place, now);
            let mine = state.seconds_for(ask.bytes, now);
            let factor = if place == 0 { HEDGE_FACTOR } else { 1.0 };
            if theirs > factor * mine
                && ask.chunks.iter().all(has)
                && best.is_none_or(|(seconds, _, _)| theirs > seconds)
            {
                best = Some((theirs, peer, place));
            }
        }
        let (_, peer, place) = best?;
        self.take_back(peer, place)
    }
}
