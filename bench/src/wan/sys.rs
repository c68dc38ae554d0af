//! The system calls that have no safe form.

#![allow(
    unsafe_code,
    reason = "ioctl, scheduling class and hooks between fork and exec"
)]

use std::ffi::{c_int, c_short};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Opens a TUN device called `name` in the calling thread's network namespace. Reads and writes
/// are whole IP packets without a header in front, and do not block. The device is gone when the
/// file is closed. Offloads are off, so packets are no larger than its MTU and have checksums.
///
/// # Errors
/// `InvalidInput` when the name is longer than 15 bytes; else what the kernel says.
pub(super) fn open_tun(name: &str) -> io::Result<File> {
    let tun = rustix::fs::open(
        "/dev/net/tun",
        OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // SAFETY: all-zero is a valid ifreq: a plain C struct of integers, arrays and unions of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as c_short;
    // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one ifreq, which lives here.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    check(result)?;
    Ok(File::from(tun))
}

/// Gives the calling thread the lowest real-time priority. Needs CAP_SYS_NICE.
pub(super) fn make_realtime() -> io::Result<()> {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is the calling thread, and the kernel only reads the parameter.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) })
}

/// Makes the process that `command` starts live in the network namespace that `namespace` is an
/// open file of.
pub(super) fn enter_namespace_on_spawn(command: &mut Command, namespace: OwnedFd) {
    let enter = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    };
    // SAFETY: the hook runs in the child between fork and exec. It makes one system call on a
    // descriptor that it owns: no allocation, no lock.
    unsafe { command.pre_exec(enter) };
}

/// Makes the kernel kill the process that `command` starts when the thread that starts it ends.
pub(super) fn die_with_parent(command: &mut Command) {
    let follow = || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: the hook runs in the child between fork and exec. It makes one system call: no
    // allocation, no lock.
    unsafe { command.pre_exec(follow) };
}

fn check(result: c_int) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
