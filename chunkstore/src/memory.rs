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
    used: Mutex<u64>,
    freed: Condvar,
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
            used: Mutex::new(0),
            freed: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Takes `bytes`, waiting until they are free. A wish beyond the whole budget is granted when
    /// nothing else is in use, so that a small budget makes work slow and not impossible.
    pub fn reserve(&self, bytes: u64) -> Reservation {
        let mut used = self.shared.used.lock();
        while *used > 0 && *used + bytes > self.shared.total {
            self.shared.freed.wait(&mut used);
        }
        *used += bytes;
        Reservation {
            bytes,
            shared: self.shared.clone(),
        }
    }

    /// Takes `bytes` if they are free now.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let mut used = self.shared.used.lock();
        if *used + bytes > self.shared.total {
            return None;
        }
        *used += bytes;
        Some(Reservation {
            bytes,
            shared: self.shared.clone(),
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        *self.shared.used.lock()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.shared.used.lock() -= self.bytes;
        self.shared.freed.notify_all();
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
}
