//! The CPU time of another process to the nanosecond, where `/proc` counts ticks of 10 ms.

#![allow(unsafe_code, reason = "the kernel's CPU clocks have no safe form")]

use std::io;
use std::time::Duration;

/// User and system time of all threads of process `pid` so far, those that have ended included.
pub(crate) fn of(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a clock id that lives here.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec that lives here.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).map_err(|_| io::ErrorKind::InvalidData)?;
    let nanos = u32::try_from(time.tv_nsec).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_and_nobody_has_none() {
        let me = std::process::id();
        let before = of(me).unwrap();
        let mut sum = 0_u64;
        while of(me).unwrap() == before {
            sum = std::hint::black_box(sum + 1);
        }
        // Linux gives no process a number above 2²².
        assert!(of((1 << 22) + 1).is_err());
    }
}
