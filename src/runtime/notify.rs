//! What the service manager is told: ready, alive, stopping (sd_notify(3)).
//!
//! A datagram to the socket that `NOTIFY_SOCKET` names; without it nothing is told. Knows no server. That
//! nobody listens is no error of ours: a manager that misses the message acts on its own.

#![allow(clippy::disallowed_methods, reason = "the control thread's own socket and environment")]

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    to: SocketAddr,
    watchdog: Option<Duration>,
}

impl Notify {
    /// The manager that has started this process, if it wants to be told.
    #[must_use]
    pub fn from_env() -> Option<Self> {
        let path = std::env::var_os("NOTIFY_SOCKET")?;
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        // sd_watchdog_enabled(3): meant for another process if there is a WATCHDOG_PID that is not ours.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros);
        Self::to(&path, watchdog).ok()
    }

    /// Tells the socket at `path`; `@` at its front: in the abstract namespace.
    fn to(path: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let to = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Notify { socket, to, watchdog })
    }

    /// How soon the manager wants to hear that we live, again and again; none: it does not.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Everything serves.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// We live.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// We end in order.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=finishing what is in hand");
    }

    fn send(&self, text: &str) {
        // See the module.
        let _ = self.socket.send_to_addr(text.as_bytes(), &self.to);
    }
}

/// A line end would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buf = [0; 512];
        let n = socket.recv(&mut buf).unwrap();
        String::from_utf8(buf[..n].to_vec()).unwrap()
    }

    #[test]
    fn the_manager_hears_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::to(path.as_os_str(), Some(Duration::from_secs(30))).unwrap();
        notify.ready("serving\nMAINPID=1");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving MAINPID=1");
        notify.alive();
        assert_eq!(heard(&manager), "WATCHDOG=1");
        notify.stopping();
        assert!(heard(&manager).starts_with("STOPPING=1\n"));
        assert_eq!(notify.watchdog(), Some(Duration::from_secs(30)));
        // A manager that has gone is no error.
        drop(manager);
        notify.alive();
    }

    #[test]
    fn abstract_sockets_are_known() {
        let name = format!("ringpost-notify-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notify = Notify::to(OsStr::new(&format!("@{name}")), None).unwrap();
        notify.alive();
        assert_eq!((heard(&manager), notify.watchdog()), ("WATCHDOG=1".into(), None));
    }
}
