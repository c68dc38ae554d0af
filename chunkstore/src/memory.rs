//! One account for the memory that buffers and caches hold.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// A number of bytes that may be in use at once, shared by clones.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    total: u64,
    account: Mutex<Account>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Account {
    used: u64,
    /// Tickets of those who wait, in order: `serving` is the first one's, `next` the next comer's.
    serving: u64,
    next: u64,
}

/// Bytes taken from a budget; they return when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    bytes: u64,
    shared: Arc<Shared>,
}

impl MemoryBudget {
    /// A budget of `total` bytes.
    pub fn new(total: u64) -> Self {
        let shared = Shared {
            total,
            account: Mutex::default(),
            changed: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Takes `bytes`, waiting until they are free and everybody who came before has got theirs. A wish
    /// beyond the whole budget is granted when nothing else is in use, so that a small budget makes work
    /// slow and not impossible. A caller that holds a reservation must not wait for another.
    pub fn reserve(&self, bytes: u64) -> Reservation {
        let mut account = self.shared.account.lock();
        let ticket = account.next;
        account.next += 1;
        while ticket != account.serving || (account.used > 0 && !self.fits(&account, bytes)) {
            self.shared.changed.wait(&mut account);
        }
        account.serving += 1;
        self.shared.changed.notify_all();
        self.take(&mut account, bytes)
    }

    /// Takes `bytes` if they are free now and nobody waits.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let mut account = self.shared.account.lock();
        let free = account.serving == account.next && self.fits(&account, bytes);
        free.then(|| self.take(&mut account, bytes))
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.shared.account.lock().used
    }

    fn fits(&self, account: &Account, bytes: u64) -> bool {
        account.used.saturating_add(bytes) <= self.shared.total
    }

    fn take(&self, account: &mut Account, bytes: u64) -> Reservation {
        account.used += bytes;
        Reservation {
            bytes,
            shared: self.shared.clone(),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.account.lock().used -= self.bytes;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_return() {
        let budget = MemoryBudget::new(10);
        let a = budget.try_reserve(6).expect("free");
        assert!(budget.try_reserve(5).is_none());
        drop(a);
        let b = budget.reserve(100);
        assert_eq!(budget.used(), 100);
        let waiter = std::thread::spawn({
            let budget = budget.clone();
            move || budget.reserve(10).bytes
        });
        drop(b);
        assert_eq!(waiter.join().ok(), Some(10));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_large_wish_is_not_overtaken() {
        let budget = MemoryBudget::new(10);
        let small = budget.reserve(1);
        let large = std::thread::spawn({
            let budget = budget.clone();
            move || budget.reserve(10).bytes
        });
        // Small wishes fit until the large one waits; from then on they do not.
        while budget.try_reserve(1).is_some() {
            std::thread::yield_now();
        }
        drop(small);
        assert_eq!(large.join().ok(), Some(10));
        assert!(budget.try_reserve(10).is_some());
    }
}
