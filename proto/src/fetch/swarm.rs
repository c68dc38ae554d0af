//! Many sites that pull the same at once: what each asks of whom, so that the holders of all of it send each block
//! about once and the pullers pass it on.
//!
//! Each block belongs to one of the pullers, by rendezvous hashing, on which they agree without a word. A holder of
//! everything is asked for own blocks first, then for others that no puller has; the others are got from each other,
//! rarest first.

use super::peer::{Have, PeerState};
use super::{Peer, Pull};
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
    /// Whether this site is to get it from a holder of everything.
    own: Vec<bool>,
    /// The peers that hold a part, in order: among them and this site the blocks are shared out.
    pullers: Vec<Peer>,
}

impl Swarm {
    pub(super) fn new(blocks: usize) -> Self {
        Self {
            copies: vec![0; blocks],
            own: vec![true; blocks],
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
        for (block, own) in self.blocks.iter().zip(&mut self.swarm.own) {
            let slice = self.wanted[block.chunks.start].index / SLICE_CHUNKS;
            let score = (weight(self.site, slice), self.site);
            *own = pullers
                .iter()
                .all(|&peer| score > (weight(peer, slice), peer));
        }
        self.swarm.pullers = pullers;
    }

    /// The block that fewest pullers have, and an own one rather than another if it is asked of a holder of everything.
    /// Of equal ones the first from a random place on: that spreads them.
    pub(super) fn choose_rare(&mut self, peer: Peer) -> Option<usize> {
        let from = self.random.below(self.blocks.len());
        let state = &self.peers[&peer];
        let candidates = self
            .open
            .range(from..)
            .chain(self.open.range(..from))
            .filter(|&&block| self.may_ask(peer, block) && self.has_some(state, block))
            .take(LOOK_MAX);
        let seed = state.have == Have::All;
        let mut best = None;
        for &block in candidates {
            let key = (self.swarm.copies[block], seed && !self.swarm.own[block]);
            if best.is_none_or(|(least, _)| key < least) {
                best = Some((key, block));
            }
            if key == (0, false) {
                break;
            }
        }
        best.map(|(_, block)| block)
    }
}

/// Which of two pullers a slice rather belongs to: highest random weight (Thaler and Ravishankar, 1998).
fn weight(site: Peer, slice: u32) -> u64 {
    mix(site ^ mix(u64::from(slice)))
}
