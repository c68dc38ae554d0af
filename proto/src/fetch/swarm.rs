//! Many sites that pull the same at once: what each asks of whom, so that the holders of all of it send each block
//! about once and the pullers pass it on.
//!
//! Each block belongs to one of the pullers, by rendezvous hashing, on which they agree without a word. A holder of
//! everything is asked for own blocks first, then for others that no puller has, in such an order that an owner and those
//! who help it do not meet before all is done; the others are got from each other, rarest first.

use std::cmp::Reverse;
use std::time::Duration;

use super::choice::Choice;
use super::peer::{Have, PeerState};
use super::{Peer, Policy, Pull};
use crate::random::mix;

/// Chunk indexes that belong together: 2 MiB of chunks of 64 KiB. Pullers that lack different chunks cut different
/// blocks, but the same slices.
const SLICE_CHUNKS: u32 = 32;
/// Open blocks that are looked at to find the best one: 2 GiB.
const LOOK_MAX: usize = 4096;

/// What is known of a swarm, block by block.
#[derive(Debug)]
pub(super) struct Swarm {
    /// How many of the peers that hold a part have the block.
    copies: Vec<u16>,
    /// When this site is to get it from a holder of everything.
    turns: Vec<Turn>,
    /// The peers that hold a part, in order: among them and this site the blocks are shared out.
    pullers: Vec<Peer>,
}

/// Among blocks of which there are equally many copies the least is got first.
///
/// An owner takes its own in descending order of the weights that make it the owner. A site that has time to help takes
/// those first of which it is the next owner, and of these the one that its owner takes last: so helpers do what nobody
/// else is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Own(Reverse<u64>),
    /// How many pullers come before this one, and the weight of the first.
    Other(u16, u64),
}

impl Swarm {
    pub(super) fn new(blocks: usize) -> Self {
        Self {
            copies: vec![0; blocks],
            turns: vec![Turn::Own(Reverse(0)); blocks],
            pullers: Vec::new(),
        }
    }
}

impl Pull {
    /// Whether some peer holds a part only.
    pub(super) fn is_swarm(&self) -> bool {
        !self.swarm.pullers.is_empty()
    }

    /// Adds a peer's copies of blocks, or takes them off. A block counts by its first and its last chunk.
    pub(super) fn count_copies(&mut self, state: &PeerState, change: i16) {
        if let Have::Part(runs) = &state.have {
            for (block, copies) in self.blocks.iter().zip(&mut self.swarm.copies) {
                let ends = [block.chunks.start, block.chunks.end - 1];
                if ends.iter().all(|&at| runs.contains(self.wanted[at].index)) {
                    *copies = copies.saturating_add_signed(change);
                }
            }
        }
    }

    /// Shares the blocks out anew if the pullers are not the same as before.
    pub(super) fn share_out(&mut self) {
        let partial = |state: &PeerState| matches!(state.have, Have::Part(_));
        let peers = self.peers.iter();
        let pullers = peers.filter(|(_, state)| partial(state));
        let pullers: Vec<Peer> = pullers.map(|(peer, _)| *peer).collect();
        if pullers == self.swarm.pullers {
            return;
        }
        for (block, turn) in self.blocks.iter().zip(&mut self.swarm.turns) {
            let slice = self.wanted[block.chunks.start].index / SLICE_CHUNKS;
            let own = (weight(self.site, slice), self.site);
            let others = pullers.iter().map(|&peer| (weight(peer, slice), peer));
            let before = others.filter(|other| *other > own);
            *turn = match before.clone().max() {
                Some((first, _)) => Turn::Other(before.count() as u16, first),
                None => Turn::Own(Reverse(own.0)),
            };
        }
        self.swarm.pullers = pullers;
    }

    /// The block that fewest pullers have; of equally rare ones, that whose turn it is if it is asked of a holder of
    /// everything, else the first from a random place on: that spreads them.
    pub(super) fn choose_rare(&mut self, peer: Peer, now: Duration) -> Choice {
        let from = self.random.below(self.blocks.len());
        let state = &self.peers[&peer];
        let candidates = self
            .open
            .range(from..)
            .chain(self.open.range(..from))
            .filter(|&&block| self.may_ask(peer, block) && self.has_some(state, block))
            .take(LOOK_MAX);
        let in_turn = state.have == Have::All;
        let key = |block: usize| {
            let turn = in_turn.then(|| self.swarm.turns[block]);
            (self.swarm.copies[block], turn)
        };
        match candidates.copied().min_by_key(|&block| key(block)) {
            Some(block) if in_turn && self.has_another(state, block, now) => Choice::NotNow,
            block => block.into(),
        }
    }

    /// Whether a puller that is no farther than a holder of everything has a block and time to send it. What only the
    /// holder can send goes first there: its uplink is what all wait for.
    fn has_another(&self, holder: &PeerState, block: usize, now: Duration) -> bool {
        self.swarm.copies[block] > 0
            && self.policy == Policy::Adaptive
            && self.peers.values().any(|state| {
                matches!(state.have, Have::Part(_))
                    && state.info.distance <= holder.info.distance
                    && !state.stalled
                    && state.has_room(now)
                    && self.has_some(state, block)
            })
    }
}

/// Which of two pullers a slice rather belongs to: highest random weight (Thaler and Ravishankar, 1998).
fn weight(site: Peer, slice: u32) -> u64 {
    mix(site ^ mix(u64::from(slice)))
}
