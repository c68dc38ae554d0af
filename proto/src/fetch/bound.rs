//! The shortest time in which a pull can end, and what binds it.

use super::Peer;

/// Holders that are told apart; the sets of more would be too many to look at.
pub const HOLDERS_MAX: usize = 12;

/// Bytes that exactly these holders have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Positions in the list of holders.
    pub holders: Vec<usize>,
    /// Bytes on the wire.
    pub bytes: u64,
}

/// A lower bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// No pull is faster, in seconds.
    pub seconds: f64,
    /// The holders that bind; empty if it is the puller's downlink.
    pub bottleneck: Vec<Peer>,
}

/// `T* = max(W/d, max over S of W(S) / sum of rates in S)`, with W(S) the bytes that only sites in S hold.
///
/// `holders` are sites with rates in bytes per second, at most [`HOLDERS_MAX`] (others are ignored, which
/// only raises the bound that is left); `down` is the puller's rate, if it is known.
pub fn lower_bound(holders: &[(Peer, f64)], classes: &[Class], down: Option<f64>) -> Bound {
    let holders = &holders[..holders.len().min(HOLDERS_MAX)];
    let masks: Vec<(u32, u64)> = classes
        .iter()
        .map(|class| {
            let mask = class
                .holders
                .iter()
                .filter(|&&i| i < holders.len())
                .fold(0u32, |mask, i| mask | 1 << i);
            (mask, class.bytes)
        })
        .filter(|(mask, _)| *mask != 0)
        .collect();
    let total: u64 = masks.iter().map(|(_, bytes)| bytes).sum();
    let mut bound = Bound {
        seconds: 0.0,
        bottleneck: Vec::new(),
    };
    if let Some(down) = down.filter(|d| *d > 0.0) {
        bound.seconds = total as f64 / down;
    }
    for set in 1u32..1 << holders.len() {
        let bytes: u64 = masks
            .iter()
            .filter(|(m, _)| m & !set == 0)
            .map(|(_, b)| b)
            .sum();
        let members = || (0..holders.len()).filter(|i| set & (1 << i) != 0);
        let rate: f64 = members().map(|i| holders[i].1).sum();
        if bytes > 0 && rate > 0.0 && bytes as f64 / rate > bound.seconds {
            bound.seconds = bytes as f64 / rate;
            bound.bottleneck = members().map(|i| holders[i].0).collect();
        }
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_cases() {
        let all = vec![Class {
            holders: vec![0, 1],
            bytes: 300,
        }];
        let bound = lower_bound(&[(7, 100.0), (8, 50.0)], &all, None);
        assert_eq!(
            bound,
            Bound {
                seconds: 2.0,
                bottleneck: vec![7, 8]
            }
        );
        // Half of it is only at the slow one.
        let split = vec![
            Class {
                holders: vec![0, 1],
                bytes: 150,
            },
            Class {
                holders: vec![1],
                bytes: 150,
            },
        ];
        let bound = lower_bound(&[(7, 100.0), (8, 50.0)], &split, None);
        assert_eq!(
            bound,
            Bound {
                seconds: 3.0,
                bottleneck: vec![8]
            }
        );
        let bound = lower_bound(&[(7, 100.0), (8, 50.0)], &split, Some(60.0));
        assert_eq!(
            bound,
            Bound {
                seconds: 5.0,
                bottleneck: vec![]
            }
        );
        assert_eq!(lower_bound(&[], &all, None).seconds, 0.0);
    }
}
