//! What the kernel says of this host and of this process's limits; for `ringpost doctor`.
//!
//! Reads, and changes nothing. What the kernel refuses to tell is an error for whoever asked.

#![allow(unsafe_code)]

use std::io;

/// Limits of this process in force now and at most, in bytes or in descriptors; `u64::MAX`: none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// In force.
    pub now: u64,
    /// What it may be raised to.
    pub most: u64,
}

/// Locked memory, which rings are made of.
///
/// # Errors
/// Those of getrlimit(2).
pub fn locked_memory() -> io::Result<Limit> {
    limit(libc::RLIMIT_MEMLOCK)
}

/// Open descriptors.
///
/// # Errors
/// Those of getrlimit(2).
pub fn open_files() -> io::Result<Limit> {
    limit(libc::RLIMIT_NOFILE)
}

fn limit(which: libc::__rlimit_resource_t) -> io::Result<Limit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a local value that the call fills.
    match unsafe { libc::getrlimit(which, &raw mut limit) } {
        0 => Ok(Limit { now: limit.rlim_cur, most: limit.rlim_max }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether something keeps the clock right (adjtimex(2): not `STA_UNSYNC`).
///
/// # Errors
/// Those of the system call; some containers forbid it.
pub fn clock_is_synchronised() -> io::Result<bool> {
    // SAFETY: all zeros is a valid `timex`; without modes nothing is set.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: a local value that the call fills.
    match unsafe { libc::adjtimex(&raw mut state) } {
        -1 => Err(io::Error::last_os_error()),
        libc::TIME_ERROR => Ok(false),
        _ => Ok(state.status & libc::STA_UNSYNC == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let files = open_files().unwrap();
        assert!(files.now > 0 && files.now <= files.most, "{files:?}");
        assert!(locked_memory().is_ok());
        // Either answer is one; some sandboxes give none.
        assert!(clock_is_synchronised().map_or_else(|e| e.raw_os_error().is_some(), |_| true));
    }
}
