//! Scheduling policies of the literature, to be measured beside this planner's own.
//!
//! All but [`Policy::Adaptive`] decide for every block beforehand whom it is asked of; nobody takes over what another
//! was to bring. Blocks are assigned anew when peers come, go, or gain something.

use super::peer::{PeerState, RATE_UNKNOWN};
use super::{Peer, Pull};
use crate::random::mix;

/// How it is decided whom a block is asked of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Whoever has room is given something to do, and takes over from the slow.
    #[default]
    Adaptive,
    /// Any holder, drawn evenly.
    Random,
    /// The nearest holder.
    Nearest,
    /// Such shares that all holders would end together at the rates known beforehand ([`super::PeerInfo::rate`]), as
    /// Nitro does (Darrous et al., ICFEC 2018). Where holders have different parts, its maximum flow is
    /// approached by assigning the rarest blocks first.
    Static,
}

impl Pull {
    /// Chooses another policy; before peers are added.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.assign();
    }

    /// Whether the policy lets a block be asked of a peer.
    pub(super) fn may_ask(&self, peer: Peer, block: usize) -> bool {
        self.policy == Policy::Adaptive || self.assigned.get(block) == Some(&Some(peer))
    }

    /// Decides whom each block is to be asked of, if something of it is missing: what is asked for now may be released.
    pub(super) fn assign(&mut self) {
        if self.policy == Policy::Adaptive {
            return;
        }
        self.assigned = vec![None; self.blocks.len()];
        let holds = |state: &PeerState, block: usize| {
            let mut chunks = self.blocks[block].chunks.clone();
            chunks.all(|at| self.received[at] || state.has(self.wanted[at].index))
        };
        let mut missing: Vec<(Vec<(Peer, &PeerState)>, usize)> = (0..self.blocks.len())
            .filter(|&block| self.blocks[block].left > 0)
            .map(|block| {
                let peers = self.peers.iter().map(|(peer, state)| (*peer, state));
                (peers.filter(|(_, s)| holds(s, block)).collect(), block)
            })
            .collect();
        missing.sort_by_key(|(holders, block)| (holders.len(), *block));
        let mut loads: std::collections::BTreeMap<Peer, f64> = Default::default();
        for (holders, block) in missing {
            let peer = match self.policy {
                Policy::Adaptive => None,
                Policy::Random => {
                    let drawn = mix(self.draw ^ block as u64) as usize;
                    holders
                        .get(drawn % holders.len().max(1))
                        .map(|(peer, _)| *peer)
                }
                Policy::Nearest => {
                    let near =
                        |(peer, s): &&(Peer, &PeerState)| (s.info.distance, s.info.rtt, *peer);
                    holders.iter().min_by_key(near).map(|(peer, _)| *peer)
                }
                Policy::Static => {
                    let ends = |(peer, state): &&(Peer, &PeerState)| {
                        let load = loads.get(peer).copied().unwrap_or(0.0);
                        (load + 1.0) / state.info.rate.unwrap_or(RATE_UNKNOWN).max(1.0)
                    };
                    let first = holders.iter().min_by(|a, b| ends(a).total_cmp(&ends(b)));
                    first.map(|(peer, _)| *peer)
                }
            };
            if let Some(peer) = peer {
                *loads.entry(peer).or_default() += 1.0;
            }
            self.assigned[block] = peer;
        }
        self.ask_all_again();
    }
}
