//! Users and the threads that check their passwords: made at the start, one desk for each core,
//! replaced as a whole when the password file changes.
//!
//! A file that cannot be read stops the start. The secret that makes what unknown logins are shown the
//! same after a restart lies in the data directory.

use super::Failure;
use crate::auth::hashing::{Hashing, Limits, Threads};
use crate::auth::mechanism::Mechanism;
use crate::auth::passwd::Users;
use crate::auth::service::{self, Event, Logins, Told, Why};
use crate::config::users::{self, HASH_THREADS_MAX, Watch};
use crate::config::{Config, Problems};
use crate::events::{Events, Level};
use crate::metrics;
use crate::runtime::Runtime;
use crate::runtime::core::usable_cpus;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// Where the secret lies, in the data directory.
const SECRET_FILE: &str = "auth.secret";

/// What each core makes its desk of.
#[derive(Clone)]
pub struct Accounts {
    users: Arc<Users>,
    threads: Threads,
    /// Of the server; see [`Users`].
    pub secret: [u8; 32],
}

/// How many threads check passwords if `written` is 0: one for every two CPUs. What hashes fills the caches
/// and the memory bus of its CPU, and other CPUs have to have room for mail under a flood of logins.
fn hash_threads(written: usize) -> usize {
    if written > 0 {
        return written;
    }
    let cpus = usable_cpus().map_or(1, |cpus| cpus.len());
    (cpus / 2).clamp(1, HASH_THREADS_MAX as usize)
}

impl Accounts {
    /// Reads the users and starts the threads; `None`: no users are configured. `fill` gives random
    /// bytes.
    pub fn open(
        config: &Config,
        cores: usize,
        events: &Events,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Option<(Accounts, Watch)>, Failure> {
        let Some(path) = &config.auth.users else { return Ok(None) };
        let secret = secret(&config.data_dir.join(SECRET_FILE), fill)
            .map_err(|e| Failure::new(73, format!("{SECRET_FILE} in the data directory: {e}")))?;
        let watch = Watch::new(path);
        let (users, problems) = users::load(path, secret).map_err(|problems| Failure::new(78, problems))?;
        tell_problems(&problems, events);
        let threads = Threads::start(hash_threads(config.auth.hash_threads), cores)
            .map_err(|e| Failure::new(71, format!("threads that check passwords: {e}")))?;
        Ok(Some((Accounts { users, threads, secret }, watch)))
    }

    /// The users as they were read at the start.
    pub fn users(&self) -> Arc<Users> {
        self.users.clone()
    }

    /// The desk of one core, of `cores`.
    pub fn desk<R: Runtime>(
        &self,
        rt: &R,
        config: &Config,
        cores: usize,
        metrics: &metrics::Core,
        tell: impl Fn(Level, &'static str, String) + 'static,
    ) -> Rc<Logins<R>> {
        let auth = &config.auth;
        let limits = Limits { waiting: auth.hash_waiting.div_ceil(cores), time: auth.hash_time };
        let hashing = Hashing::new(rt.clone(), self.threads.clone(), limits, metrics.clone());
        let options = service::Options {
            host: config.hostname.clone(),
            mechanisms: auth.mechanisms,
            allow_plaintext: auth.allow_plaintext,
            store_time: auth.hash_time,
            cache_most: auth.cache,
            cache_time: auth.cache_time,
        };
        let store = Rc::new(self.users.clone());
        let tell = Box::new(move |told: &Told<'_>| tell_login(told, &tell));
        Logins::new(rt.clone(), options, store, hashing, metrics.clone(), self.secret, tell)
    }
}

/// Lines that are left out are alarms, for their users cannot log in; the rest is good to know.
pub fn tell_problems(problems: &Problems, events: &Events) {
    for problem in &problems.0 {
        let text = problem.to_string();
        if problem.at.is_some() { events.alarm("users", text) } else { events.warn("users", text) }
    }
}

/// One line for each login, and for each message of a user; it never holds a password.
fn tell_login(told: &Told<'_>, tell: &impl Fn(Level, &'static str, String)) {
    let who = format!("client={} login=\"{}\"", told.client, told.login.escape_debug());
    let by = |mechanism: Mechanism| format!("{who} mechanism={}", mechanism.name());
    match told.event {
        Event::Message(id) => tell(Level::Info, "submitted", format!("{who} id={id}")),
        Event::Login(mechanism, Ok(())) => tell(Level::Info, "login", by(mechanism)),
        // Told where it is counted, in a form that others read.
        Event::Login(_, Err(Why::Refused)) => {}
        Event::Login(mechanism, Err(Why::Malformed)) => tell(Level::Info, "login_malformed", by(mechanism)),
        Event::Login(_, Err(Why::Unavailable)) => {
            tell(Level::Warn, "login_unavailable", "passwords cannot be checked fast enough".into());
        }
    }
}

/// The secret in this file; made if it is not there.
#[allow(clippy::disallowed_methods)] // the composition root, at the start
fn secret(path: &Path, fill: impl FnOnce(&mut [u8])) -> io::Result<[u8; 32]> {
    match std::fs::read(path) {
        Ok(bytes) if bytes.len() == 32 => return Ok(bytes.try_into().expect("32 bytes")),
        // Cut off by a crash: nothing depends on the old one.
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let mut secret = [0; 32];
    fill(&mut secret);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&secret)?;
    Ok(secret)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests make files
mod tests {
    use super::*;

    #[test]
    fn the_secret_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = secret(&path, |out| out.fill(7)).unwrap();
        assert_eq!(secret(&path, |out| out.fill(8)).unwrap(), first);
        std::fs::write(&path, "short").unwrap();
        assert_eq!(secret(&path, |out| out.fill(9)).unwrap(), [9; 32]);
    }

    #[test]
    fn lines_about_logins_hold_no_line_end() {
        let told = Told {
            login: "a\u{85}\" b",
            client: [192, 0, 2, 1].into(),
            event: Event::Login(Mechanism::Plain, Ok(())),
        };
        tell_login(&told, &|level, name, text| {
            assert_eq!((level, name), (Level::Info, "login"));
            assert_eq!(text, "client=192.0.2.1 login=\"a\\u{85}\\\" b\" mechanism=PLAIN");
        });
    }
}
