//! Waiting until a file is readable or a time has come, and for the latter exactly.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

/// A sleeping thread is woken some tens of µs late on a virtual machine (30 µs half of the time,
/// 45 µs in 99 % where this was written), so it sleeps until this much before the time, and spins.
const SPIN: Duration = Duration::from_micros(50);

/// It spins for at most this part of the time, and sleeps to the end when that is used up: a busy
/// network must leave the processors to what is measured.
const SPIN_SHARE: f64 = 0.1;

/// Spinning time that can be saved up.
const SPIN_CREDIT_MAX: Duration = Duration::from_millis(10);

/// Waits for one set of files.
#[derive(Debug)]
pub(super) struct Sleeper {
    epoll: OwnedFd,
    start: Instant,
    budget: SpinBudget,
}

/// Files reported at once; those beyond have their turn at the next call.
const READABLE_MAX: usize = 64;

impl Sleeper {
    /// Waits for `files`, which are known by their index from now on, and for times after `start`.
    pub(super) fn new<'a>(
        files: impl Iterator<Item = BorrowedFd<'a>>,
        start: Instant,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, file) in (0..).zip(files) {
            let index = epoll::EventData::new_u64(index);
            epoll::add(&epoll, file, index, epoll::EventFlags::IN)?;
        }
        Ok(Self {
            epoll,
            start,
            budget: SpinBudget::default(),
        })
    }

    /// Returns when `due` is near or a file is readable; for ever when there is neither. To be
    /// called again until `due` has come. `readable` becomes the indexes of readable files.
    pub(super) fn sleep(&mut self, due: Option<Duration>, readable: &mut Vec<usize>) {
        let now = self.start.elapsed();
        let early = self
            .budget
            .early(now, due.is_some_and(|due| now < due && due <= now + SPIN));
        let rest = due.map(|due| due.saturating_sub(early).saturating_sub(now));
        // Times are bounded by 1,000,000 s, which fits.
        let timeout = rest.and_then(|rest| Timespec::try_from(rest).ok());
        let mut buffer = [const { MaybeUninit::uninit() }; READABLE_MAX];
        readable.clear();
        // An interruption is a reason to look around, too: then nothing is known to be readable.
        if let Ok((events, _)) = epoll::wait(&self.epoll, &mut buffer, timeout.as_ref()) {
            readable.extend(events.iter().map(|event| event.data.u64() as usize));
        }
    }
}

/// How much the thread may still spin.
#[derive(Debug, Default)]
struct SpinBudget {
    credit: Duration,
    last: Duration,
    spinning: bool,
}

impl SpinBudget {
    /// How much before the next due time to wake up. To be called before each sleep, with the time
    /// and whether a due time is so near that a sleep would miss it.
    fn early(&mut self, now: Duration, near: bool) -> Duration {
        let elapsed = now.saturating_sub(self.last);
        self.last = now;
        if self.spinning {
            self.credit = self.credit.saturating_sub(elapsed);
        }
        self.credit = (self.credit + elapsed.mul_f64(SPIN_SHARE)).min(SPIN_CREDIT_MAX);
        let can = self.credit >= SPIN;
        self.spinning = near && can;
        if can { SPIN } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    #[test]
    fn spinning_ends_when_its_budget_is_used_up() {
        let mut budget = SpinBudget::default();
        assert_eq!(
            budget.early(Duration::ZERO, true),
            Duration::ZERO,
            "nothing saved yet"
        );
        let start = Duration::from_secs(1);
        assert_eq!(budget.early(start, true), SPIN);
        // Something is always near: one look per µs until there is no more credit.
        let end = (1..).find(|&n| budget.early(start + n * MICRO, true) == Duration::ZERO);
        let spun = end.unwrap() * MICRO;
        let expected = (SPIN_CREDIT_MAX - SPIN).div_f64(1.0 - SPIN_SHARE);
        assert!(spun.abs_diff(expected) < SPIN, "{spun:?}, not {expected:?}");
        // Sleeping earns it back.
        assert_eq!(budget.early(start + spun + 20 * SPIN, true), SPIN);
    }
}
