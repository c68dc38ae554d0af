//! Hybrid logical clocks: stamps that order writes of different sites, close to wall-clock time and never
//! against causality (Kulkarni et al., "Logical Physical Clocks", 2014).

use thiserror::Error;

use crate::codec::{DecodeError, Reader};

/// How far in milliseconds a stamp may be ahead of the local clock before it is refused: a site whose clock
/// runs a year ahead must not win every conflict for a year.
pub const AHEAD_MAX_MS: u64 = 5 * 60 * 1000;

/// When and where a write happened. Stamps are unique and totally ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Milliseconds since 1970 in the upper 48 bits, a counter in the lower 16.
    hybrid: u64,
    /// The writing site, by [`site_number`]: breaks ties.
    site: u64,
}

/// A site's number in stamps: the head of the BLAKE3 of its name.
pub fn site_number(name: &str) -> u64 {
    crate::id::ChunkId::of(name.as_bytes()).prefix()
}

impl Stamp {
    /// Length of the encoding in bytes.
    pub const LEN: usize = 16;

    /// Milliseconds since 1970.
    pub fn unix_ms(&self) -> u64 {
        self.hybrid >> 16
    }

    /// The site that wrote, by [`site_number`].
    pub fn site(&self) -> u64 {
        self.site
    }

    /// Appends the encoding: two little-endian u64.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hybrid.to_le_bytes());
        out.extend_from_slice(&self.site.to_le_bytes());
    }

    /// Reads a stamp.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            hybrid: reader.u64("stamp time")?,
            site: reader.u64("stamp site")?,
        })
    }
}

/// A stamp from a clock that is too far ahead to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a clock elsewhere is {ahead_ms} ms ahead of ours, allowed is {AHEAD_MAX_MS} ms")]
pub struct TooFarAhead {
    /// By how much.
    pub ahead_ms: u64,
}

/// One site's clock.
#[derive(Debug, Clone)]
pub struct Clock {
    site: u64,
    last: u64,
}

impl Clock {
    /// The clock of the site with this name.
    pub fn new(site_name: &str) -> Self {
        Self {
            site: site_number(site_name),
            last: 0,
        }
    }

    /// A stamp for a write at `now_ms`, later than every stamp made or observed before.
    pub fn tick(&mut self, now_ms: u64) -> Stamp {
        self.last = (self.last + 1).max(now_ms << 16);
        Stamp {
            hybrid: self.last,
            site: self.site,
        }
    }

    /// Takes note of a stamp that arrived at `now_ms`, or refuses it.
    pub fn observe(&mut self, stamp: Stamp, now_ms: u64) -> Result<(), TooFarAhead> {
        let ahead_ms = stamp.unix_ms().saturating_sub(now_ms);
        if ahead_ms > AHEAD_MAX_MS {
            return Err(TooFarAhead { ahead_ms });
        }
        self.last = self.last.max(stamp.hybrid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_even_when_the_wall_clock_does_not() {
        let mut clock = Clock::new("a");
        let first = clock.tick(1000);
        assert!(clock.tick(1000) > first);
        assert!(clock.tick(500) > first);
        assert_eq!(clock.tick(2000).unix_ms(), 2000);
    }

    #[test]
    fn a_write_after_a_read_is_later_and_a_year_ahead_is_refused() {
        let (mut a, mut b) = (Clock::new("a"), Clock::new("b"));
        let seen = a.tick(10_000);
        assert_eq!(b.observe(seen, 9_000), Ok(()));
        assert!(b.tick(9_000) > seen);
        let year = 365 * 24 * 3600 * 1000;
        let before = b.clone().tick(9_000);
        assert!(b.observe(a.tick(year), 9_000).is_err());
        assert_eq!(b.tick(9_000), before);
    }
}
