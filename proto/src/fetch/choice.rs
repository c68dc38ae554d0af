//! Which peer is asked for which block next.

use std::time::Duration;

use super::peer::{Have, PeerState};
use super::{Output, Peer, Pull};
use crate::runs::Runs;

/// Blocks from a client's position on that come before all others: 16 MiB.
const URGENT_BLOCKS: usize = 32;
/// Blocks drawn to find a rare one.
const RARE_SAMPLE: usize = 32;
/// A farther class of peers is left alone if the nearer ones need no longer than this.
const NEAR_ENOUGH: Duration = Duration::from_secs(1);
/// How much slower than the thief a peer must be to lose a block that it has begun to send.
const HEDGE_FACTOR: f64 = 3.0;

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
            if self.near_ones_suffice(peer) {
                continue;
            }
            while self.peers[&peer].has_room() {
                let Some(block) = self.choose(peer).or_else(|| self.steal(peer)) else {
                    break;
                };
                self.ask(peer, block, now);
            }
        }
        let waiting = self.peers.values().any(|state| !state.asked.is_empty());
        if waiting || !self.is_wanted() {
            self.starved = false;
        } else if !std::mem::replace(&mut self.starved, true) {
            self.outputs.push_back(Output::Starved);
        }
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

    fn near_ones_suffice(&self, peer: Peer) -> bool {
        let distance = self.peers[&peer].info.distance;
        let near = self
            .peers
            .values()
            .filter(|s| s.info.distance < distance && !s.stalled);
        let rate: f64 = near.map(|s| s.rate.unwrap_or(0.0)).sum();
        rate > 0.0 && self.left_bytes as f64 / rate < NEAR_ENOUGH.as_secs_f64()
    }

    /// Asks for what is missing of a block. A chunk at which a client waits is asked for by itself, so that nothing
    /// else is sent, or encoded, before it.
    fn ask(&mut self, peer: Peer, block: usize, now: Duration) {
        let range = self.blocks[block].chunks.clone();
        let mut open: Vec<usize> = range.filter(|&at| !self.received[at]).collect();
        let first = open.iter().position(|at| self.positions.contains(at));
        self.open.remove(&block);
        if let Some(first) = first {
            let first = open.remove(first);
            self.request(peer, block, &[first], now);
        }
        self.request(peer, block, &open, now);
    }

    fn request(&mut self, peer: Peer, block: usize, chunks: &[usize], now: Duration) {
        if chunks.is_empty() {
            return;
        }
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        let wanted = || chunks.iter().map(|&at| self.wanted[at]);
        let bytes = wanted().map(|chunk| u64::from(chunk.len)).sum();
        let chunks = Runs::of(wanted().map(|chunk| chunk.index));
        if let Some(state) = self.peers.get_mut(&peer) {
            state.ask(request, block, bytes, now);
        }
        self.outputs.push_back(Output::Request {
            peer,
            request,
            chunks,
        });
    }

    fn has_block(&self, state: &PeerState, block: usize) -> bool {
        match &state.have {
            Have::All => true,
            Have::Part(runs) => self.blocks[block]
                .chunks
                .clone()
                .all(|at| self.received[at] || runs.contains(self.wanted[at].index)),
        }
    }

    /// The block that a peer should send next.
    fn choose(&mut self, peer: Peer) -> Option<usize> {
        let state = &self.peers[&peer];
        let held = |block: &&usize| self.has_block(state, **block);
        for &position in &self.positions {
            let block = self.block_of(position);
            let window = block..block + URGENT_BLOCKS;
            if let Some(&block) = self.open.range(window).find(held) {
                return Some(block);
            }
        }
        if !self.whole {
            return None;
        }
        if let Some(&position) = self.positions.first() {
            let block = self.block_of(position);
            let rest = self.open.range(block..).chain(self.open.range(..block));
            return { rest }.find(held).copied();
        }
        let swarm = self.peers.values().any(|s| matches!(s.have, Have::Part(_)));
        if !swarm {
            let rest = self
                .open
                .range(self.start..)
                .chain(self.open.range(..self.start));
            return { rest }.find(held).copied();
        }
        self.choose_rare(peer)
    }

    fn choose_rare(&mut self, peer: Peer) -> Option<usize> {
        let from = self.random.below(self.blocks.len());
        let state = &self.peers[&peer];
        // A run of open blocks from a random place stands for a random draw: it costs no memory.
        let candidates = self
            .open
            .range(from..)
            .chain(self.open.range(..from))
            .filter(|&&block| self.has_block(state, block))
            .take(RARE_SAMPLE);
        candidates
            .enumerate()
            .min_by_key(|(i, block)| {
                (
                    self.peers
                        .values()
                        .filter(|s| self.has_block(s, **block))
                        .count(),
                    *i,
                )
            })
            .map(|(_, block)| *block)
    }

    /// A block that another peer would bring later than this one, taken away from it.
    fn steal(&mut self, thief: Peer) -> Option<usize> {
        let state = &self.peers[&thief];
        if !state.asked.is_empty() || state.stalled {
            return None;
        }
        let mut best: Option<(f64, Peer, usize)> = None;
        for (&peer, victim) in self.peers.iter().filter(|(peer, _)| **peer != thief) {
            let Some((place, ask)) = victim
                .asked
                .iter()
                .enumerate()
                .rfind(|(_, ask)| !ask.cancelled)
            else {
                continue;
            };
            let theirs = victim.seconds_until(place);
            let mine = state.seconds_for(self.blocks[ask.block].bytes);
            let factor = if place == 0 { HEDGE_FACTOR } else { 1.0 };
            if theirs > factor * mine
                && self.has_block(state, ask.block)
                && best.is_none_or(|(seconds, _, _)| theirs > seconds)
            {
                best = Some((theirs, peer, place));
            }
        }
        let (_, peer, place) = best?;
        let ask = &mut self.peers.get_mut(&peer)?.asked[place];
        ask.cancelled = true;
        let (request, block) = (ask.request, ask.block);
        self.outputs.push_back(Output::Cancel { peer, request });
        Some(block)
    }
}
