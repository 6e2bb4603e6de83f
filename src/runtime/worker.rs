//! Threads for work that takes processor time: at lower priority than the cores, never pinned.
//!
//! Knows no work. Fails if the system gives no thread.

#![allow(unsafe_code)]

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread with `nice` (0 to 19) added to its priority value.
///
/// # Errors
/// The system has no thread to give.
pub fn start(name: String, nice: i32, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name).spawn(move || {
        super::block_signals();
        // SAFETY: changes the priority of the calling thread (0) alone; no memory. If it is refused,
        // the thread works at normal priority.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
        body();
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_less_urgent() {
        let (tell, told) = std::sync::mpsc::channel();
        let body = move || {
            // SAFETY: reads the priority of the calling thread; no memory.
            let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
            tell.send((nice, std::thread::current().name().map(str::to_owned))).unwrap();
        };
        start("worker-7".into(), 10, body).unwrap().join().unwrap();
        let (nice, name) = told.recv().unwrap();
        assert!(nice >= 10, "{nice}");
        assert_eq!(name.as_deref(), Some("worker-7"));
    }
}
