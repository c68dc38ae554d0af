//! What a pull knows of one peer.

use std::collections::VecDeque;
use std::time::Duration;

use super::{BLOCK_LEN, Wanted};
use crate::runs::Runs;

/// A peer is kept busy for this long beyond a round trip.
const AHEAD: Duration = Duration::from_millis(300);
const DEPTH_MIN: u64 = BLOCK_LEN;
const DEPTH_MAX: u64 = 32 * 1024 * 1024;
/// What a peer of unknown rate is asked for.
const DEPTH_UNKNOWN: u64 = 4 * BLOCK_LEN;
const STALL_MIN: Duration = Duration::from_secs(2);
const STALL_ROUND_TRIPS: u32 = 8;
/// Within this a chunk must come, or bytes count for nothing: a frame of 256 KiB at 13 kB/s.
const CHUNK_TIME_MAX: Duration = Duration::from_secs(20);
/// A peer that stays below this rate for this long is dropped.
const RATE_MIN: u64 = 1024;
const RATE_MIN_TIME: Duration = Duration::from_secs(30);
/// What a peer is thought to deliver of which nothing is known, bytes per second.
pub(super) const RATE_UNKNOWN: f64 = 1e6;
const SAMPLE_MIN: Duration = Duration::from_millis(100);
/// Weight of the newest sample in the rate.
const RATE_GAIN: f64 = 0.25;
const STRIKES_MAX: u32 = 3;

/// Where a peer is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeerInfo {
    /// 0 in the same zone, 1 elsewhere.
    pub distance: u8,
    /// Round trip, an estimate.
    pub rtt: Duration,
    /// Uncompressed bytes per second that it delivered at before, if it did.
    pub rate: Option<f64>,
}

/// What a peer holds of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Have {
    /// Every chunk.
    All,
    /// These chunk indexes.
    Part(Runs),
}

#[derive(Debug)]
pub(super) struct PeerState {
    pub(super) info: PeerInfo,
    pub(super) have: Have,
    pub(super) asked: VecDeque<Ask>,
    /// Raw bytes per second, once some have come or the site has told.
    pub(super) rate: Option<f64>,
    /// The rate was measured in this pull.
    measured: bool,
    /// It delivers nothing although it was asked.
    pub(super) stalled: bool,
    /// It has nothing of what nobody is asked for. Spares looking for it at every chunk that comes.
    pub(super) exhausted: bool,
    /// When something came of what was asked, and when a chunk did.
    last_progress: Duration,
    last_chunk: Duration,
    sample_start: Duration,
    sample_bytes: u64,
    slow_since: Duration,
    slow_bytes: u64,
    strikes: u32,
    /// What it said not to have when it was asked; it is not asked for that again, whatever it claims.
    denied: Runs,
}

#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) request: u32,
    pub(super) block: usize,
    /// Positions in `wanted`, all of the block.
    pub(super) chunks: Vec<usize>,
    /// Bytes of it that have not come.
    pub(super) bytes: u64,
    /// It was taken back: somebody else may be asked.
    pub(super) cancelled: bool,
}

impl PeerState {
    pub(super) fn new(info: PeerInfo, have: Have, now: Duration) -> Self {
        Self {
            rate: info.rate,
            measured: false,
            info,
            have,
            asked: VecDeque::new(),
            stalled: false,
            exhausted: false,
            last_progress: now,
            last_chunk: now,
            sample_start: now,
            sample_bytes: 0,
            slow_since: now,
            slow_bytes: 0,
            strikes: 0,
            denied: Runs::new(),
        }
    }

    /// Takes its word for what its path carries, until that has been measured here.
    pub(super) fn expect_rate(&mut self, rate: f64) {
        if !self.measured {
            self.rate = Some(rate);
        }
    }

    /// Takes its word for what it has, but for what it denied before. A part in which nothing is missing of what is
    /// `wanted` is all.
    pub(super) fn believe(&mut self, have: Have, wanted: &[Wanted]) {
        self.have = match have {
            Have::Part(runs) => {
                let runs = runs.without(&self.denied);
                let is_all = runs.count() >= wanted.len() as u64
                    && wanted.iter().all(|chunk| runs.contains(chunk.index));
                if is_all { Have::All } else { Have::Part(runs) }
            }
            Have::All => Have::All,
        };
        self.exhausted = false;
    }

    fn asked_bytes(&self) -> u64 {
        self.asked
            .iter()
            .filter(|ask| !ask.cancelled)
            .map(|ask| ask.bytes)
            .sum()
    }

    /// Raw bytes per second at which it delivers now: no more than what has come of late and what may be about to.
    /// A rate is an average over blocks, and of a peer that crawls none comes to lower it.
    pub(super) fn rate_now(&self, now: Duration) -> Option<f64> {
        let waited = now.saturating_sub(self.sample_start + self.info.rtt);
        if self.asked.is_empty() || waited < SAMPLE_MIN {
            return self.rate;
        }
        let most = (self.sample_bytes + BLOCK_LEN) as f64 / waited.as_secs_f64();
        match self.rate {
            Some(rate) => Some(rate.min(most)),
            None => Some(most).filter(|most| *most < RATE_UNKNOWN),
        }
    }

    pub(super) fn has_room(&self, now: Duration) -> bool {
        let depth = match self.rate_now(now) {
            None => DEPTH_UNKNOWN,
            Some(rate) => (rate * (self.info.rtt + AHEAD).as_secs_f64()) as u64,
        };
        let depth = if self.stalled {
            BLOCK_LEN
        } else {
            depth.clamp(DEPTH_MIN, DEPTH_MAX)
        };
        self.asked_bytes() < depth
    }

    pub(super) fn ask(&mut self, ask: Ask, now: Duration) {
        if self.asked.is_empty() {
            self.last_progress = now;
            self.last_chunk = now;
            self.sample_start = now;
            self.sample_bytes = 0;
            self.slow_since = now;
            self.slow_bytes = 0;
        }
        self.asked.push_back(ask);
    }

    /// Whether it holds a chunk, by index.
    pub(super) fn has(&self, index: u32) -> bool {
        match &self.have {
            Have::All => true,
            Have::Part(runs) => runs.contains(index),
        }
    }

    pub(super) fn progress(&mut self, request: u32, bytes: u64, now: Duration) {
        self.last_progress = now;
        self.last_chunk = now;
        self.stalled = false;
        self.sample_bytes += bytes;
        self.slow_bytes += bytes;
        if let Some(ask) = self.asked.iter_mut().find(|ask| ask.request == request) {
            ask.bytes = ask.bytes.saturating_sub(bytes);
        }
        let elapsed = now.saturating_sub(self.sample_start).as_secs_f64();
        // A sample spans some blocks and some time, or bursts of them would count as rates.
        if self.sample_bytes >= 2 * BLOCK_LEN && elapsed >= SAMPLE_MIN.as_secs_f64() {
            let sample = self.sample_bytes as f64 / elapsed;
            self.rate = Some(
                self.rate
                    .map_or(sample, |rate| rate + RATE_GAIN * (sample - rate)),
            );
            self.measured = true;
            self.sample_start = now;
            self.sample_bytes = 0;
        }
        if self.slow_bytes >= RATE_MIN * RATE_MIN_TIME.as_secs() {
            self.slow_since = now;
            self.slow_bytes = 0;
        }
    }

    /// Bytes have come that are not a chunk yet. They show that it is alive, if chunks come at all: where many share a thin
    /// link, one takes longer than a stall.
    pub(super) fn bytes_came(&mut self, bytes: u64, now: Duration) {
        if now < self.last_chunk + CHUNK_TIME_MAX {
            self.last_progress = now;
        }
        self.slow_bytes += bytes;
    }

    /// Takes a request off the queue.
    pub(super) fn end(&mut self, request: u32, now: Duration) -> Option<Ask> {
        let at = self.asked.iter().position(|ask| ask.request == request)?;
        self.last_progress = now;
        self.last_chunk = now;
        self.asked.remove(at)
    }

    /// It has less than it said: it lacks these, whatever it says later. What it is still believed to have.
    pub(super) fn lack(&mut self, lacking: &[u32], wanted: &[Wanted]) -> Have {
        for &index in lacking {
            self.denied.insert(index);
        }
        Have::Part(match &self.have {
            Have::Part(runs) => runs.clone(),
            Have::All => Runs::of(wanted.iter().map(|w| w.index)),
        })
    }

    /// Counts a fault; true if it was one too many.
    pub(super) fn strike(&mut self) -> bool {
        self.strikes += 1;
        self.strikes >= STRIKES_MAX
    }

    pub(super) fn excuse(&mut self, now: Duration) {
        self.last_progress = now;
        self.last_chunk = now;
        self.slow_since = now;
        self.slow_bytes = 0;
    }

    fn stall_time(&self) -> Duration {
        STALL_MIN.max(self.info.rtt * STALL_ROUND_TRIPS)
    }

    /// True at the moment when it becomes stalled.
    pub(super) fn check_stall(&mut self, now: Duration) -> bool {
        let waiting = self.asked.iter().any(|ask| !ask.cancelled);
        let stalls = waiting && !self.stalled && now >= self.last_progress + self.stall_time();
        self.stalled |= stalls;
        stalls
    }

    /// Why it should be dropped, if it should.
    pub(super) fn too_slow(&mut self, now: Duration) -> Option<String> {
        let due = !self.asked.is_empty() && now >= self.slow_since + RATE_MIN_TIME;
        due.then(|| {
            format!(
                "it sent {} bytes in {} s",
                self.slow_bytes,
                RATE_MIN_TIME.as_secs()
            )
        })
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        if self.asked.is_empty() {
            return None;
        }
        let slow = self.slow_since + RATE_MIN_TIME;
        let waiting = self.asked.iter().any(|ask| !ask.cancelled);
        let stall = (waiting && !self.stalled).then(|| self.last_progress + self.stall_time());
        Some(stall.map_or(slow, |stall| stall.min(slow)))
    }

    /// Seconds until the request at `place` of the queue has been answered.
    pub(super) fn seconds_until(&self, place: usize, now: Duration) -> f64 {
        let bytes: u64 = self
            .asked
            .iter()
            .take(place + 1)
            .filter(|a| !a.cancelled)
            .map(|a| a.bytes)
            .sum();
        self.seconds_for(bytes, now)
    }

    /// Seconds that it needs for some bytes. Unknown rates count as slow.
    pub(super) fn seconds_for(&self, bytes: u64, now: Duration) -> f64 {
        if self.stalled {
            return f64::INFINITY;
        }
        let rate = self.rate_now(now).unwrap_or(RATE_UNKNOWN);
        self.info.rtt.as_secs_f64() + bytes as f64 / rate
    }
}
