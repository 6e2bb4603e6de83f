//! Users: the rules of `[auth]` and of `auth =` of listeners, and the password file: read, and read
//! again when it changes.
//!
//! Lines of the file that cannot be used are named and left out. A file that cannot be read is an error
//! at the start; later, and also when it has lost all its users, the old users stay.

use super::diagnose::{Problem, Problems, Report, Severity};
use super::raw::{self, AuthMode, ListenerTls, Protocol, Raw};
use super::resolve::Config;
use crate::auth::mechanism::{Mechanism, Set};
use crate::auth::passwd::{BadLine, Users};
use crate::auth::store::Store;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// `[auth]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// Password file.
    pub users: Option<PathBuf>,
    /// Those that were written; `None`: what all users can use.
    pub mechanisms: Option<Set>,
    /// Logins without TLS.
    pub allow_plaintext: bool,
    /// Threads that check passwords; 0: as many as suit the CPUs.
    pub hash_threads: usize,
    /// Passwords that wait for them, on all cores together.
    pub hash_waiting: usize,
    /// How long one may take, the wait included; and a look-up in the store.
    pub hash_time: Duration,
    /// Successes that each core keeps; 0: none.
    pub cache: usize,
    /// How long.
    pub cache_time: Duration,
}

/// Threads that check passwords, at most.
pub const HASH_THREADS_MAX: u32 = 64;

const NOBODY: &str = "nobody can log in: there is no TLS, and without it no password is taken";
const WITHOUT_TLS: &str = "configure [tls], or write auth.allow_plaintext = true";

/// What a listener does with AUTH.
pub(super) fn mode(listener: &raw::Listener, users: bool) -> AuthMode {
    match (listener.auth, listener.protocol.0) {
        (AuthMode::Auto, Some(Protocol::Submission | Protocol::Submissions)) if users => AuthMode::Required,
        (AuthMode::Auto, _) => AuthMode::Off,
        (written, _) => written,
    }
}

/// A time that does not come; timers can hold it.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The rules.
pub(super) fn resolve(raw: &Raw, users: Option<PathBuf>, report: &mut Report<'_>) -> Auth {
    let a = &raw.auth;
    let mut mechanisms = Set::NONE;
    for (n, name) in a.mechanisms.iter().enumerate() {
        match Mechanism::from_name(name.as_bytes()) {
            Some(mechanism) => mechanisms = mechanisms.with(mechanism),
            None => {
                let names: Set = Mechanism::ALL.into_iter().collect();
                let help = format!("known are {}", names.names());
                report.error(&format!("auth.mechanisms.{n}"), format!("{name:?} is not known"), &help);
            }
        }
    }
    if mechanisms.has(Mechanism::CramMd5) {
        let what = "CRAM-MD5 serves users only whose password is stored in clear text";
        report.add(Severity::Note, "auth.mechanisms", what, "");
    }
    if a.allow_plaintext && users.is_some() {
        let what = "passwords may come without TLS: whoever listens on the way can read them";
        report.warning("auth.allow_plaintext", what, "");
    }
    if a.hash_threads > HASH_THREADS_MAX {
        report.error("auth.hash_threads", "must be from 0 to 64", "");
    }
    let has_certificate = !raw.tls.certificate.is_empty();
    for (n, l) in raw.listener.iter().enumerate() {
        let key = format!("listener.{n}.auth");
        let for_passwords = matches!(l.protocol.0, Some(Protocol::Pop3 | Protocol::Imap));
        if for_passwords && (l.tls == ListenerTls::Off || !has_certificate) && !a.allow_plaintext {
            report.warning(&format!("listener.{n}.tls"), NOBODY, WITHOUT_TLS);
        }
        if mode(l, users.is_some()) == AuthMode::Off {
            let submission = matches!(l.protocol.0, Some(Protocol::Submission | Protocol::Submissions));
            if submission && l.auth == AuthMode::Auto {
                let what = "submission without users: only clients of relay.networks may relay";
                report.warning(&key, what, "name a password file with auth.users");
            }
            continue;
        }
        if users.is_none() {
            report.error(&key, "there are no users", "name a password file with auth.users");
        } else if (l.tls == ListenerTls::Off || !has_certificate) && !a.allow_plaintext {
            report.warning(&key, NOBODY, WITHOUT_TLS);
        }
    }
    let most = |n: u32| if n == 0 { usize::MAX } else { n as usize };
    Auth {
        users,
        mechanisms: (!mechanisms.is_empty()).then_some(mechanisms),
        allow_plaintext: a.allow_plaintext,
        hash_threads: a.hash_threads as usize,
        hash_waiting: most(a.hash_waiting),
        hash_time: a.hash_time.limit().unwrap_or(NEVER),
        cache: a.cache as usize,
        cache_time: a.cache_time.0,
    }
}

/// The users of a file, and the lines that were left out.
pub type Loaded = (Arc<Users>, Problems);

/// Lines that are named.
const LINES_MAX: usize = 50;

/// Reads the file; `secret` is that of the server (see [`Users`]).
///
/// # Errors
/// It cannot be read, or no line of it can be used though there are some.
#[allow(clippy::disallowed_methods)] // read by the composition root, never by a core
pub fn load(path: &Path, secret: [u8; 32]) -> Result<Loaded, Problems> {
    let name = path.display().to_string();
    let fatal = |message: String, help: &str| {
        Problems(vec![Problem::of_file(Severity::Error, &name, None, message, help)])
    };
    let text = std::fs::read(path).map(zeroize::Zeroizing::new).map_err(|e| {
        fatal(format!("the password file cannot be read: {e}"), "make it readable for server.user")
    })?;
    let (users, bad) = Users::parse(&text, secret);
    if users.count() == 0 && !bad.is_empty() {
        let first = &bad[0];
        let help = "lines are login:{SCHEME}hash; `ringpost user add` writes them";
        return Err(fatal(format!("no line can be used; line {}: {}", first.line, first.message), help));
    }
    let mut problems: Vec<Problem> = bad.iter().take(LINES_MAX).map(|b| problem(&name, b)).collect();
    if bad.len() > LINES_MAX {
        let what = format!("{} more lines cannot be used", bad.len() - LINES_MAX);
        problems.push(Problem::of_file(Severity::Warning, &name, None, what, ""));
    }
    if let Ok(facts) = std::fs::metadata(path)
        && facts.mode() & 0o007 != 0
    {
        let what = "everybody on this machine can read the password file".to_owned();
        problems.push(Problem::of_file(Severity::Warning, &name, None, what, "chmod o= FILE"));
    }
    Ok((Arc::new(users), Problems(problems)))
}

fn problem(file: &str, bad: &BadLine) -> Problem {
    let message = format!("{}; the line is left out", bad.message);
    Problem::of_file(Severity::Warning, file, Some(bad.line), message, "")
}

/// All problems of the password file, for whom the process is: `check` becomes the server's user before.
#[must_use]
pub fn check(config: &Config) -> Vec<Problem> {
    let Some(path) = &config.auth.users else { return Vec::new() };
    let name = path.display().to_string();
    match load(path, [0; 32]) {
        Err(errors) => errors.0,
        Ok((users, Problems(mut warnings))) => {
            warnings.extend(left_out(&name, &users, config.auth.mechanisms));
            warnings
        }
    }
}

/// A note if SCRAM is not offered because some users cannot use it.
fn left_out(name: &str, users: &Arc<Users>, written: Option<Set>) -> Option<Problem> {
    let serves = users.serves();
    let scram = Mechanism::ScramSha256;
    if written.is_some() || serves.all.has(scram) || !serves.some.has(scram) {
        return None;
    }
    let what = "SCRAM-SHA-256 is not offered: some users have a hash that cannot serve it".to_owned();
    let help = "`ringpost user list` shows whose; auth.mechanisms offers it nevertheless";
    Some(Problem::of_file(Severity::Note, name, None, what, help))
}

/// What a file looked like when it was last read: time of change, length, inode.
type Stamp = Option<(SystemTime, u64, u64)>;

/// Says when the file has changed.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    stamp: Stamp,
}

impl Watch {
    /// To be made before the file is read, so that a change during reading is seen.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Watch { path: path.to_owned(), stamp: stamp(path) }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if it has changed since the last call.
    pub fn changed(&mut self) -> bool {
        let now = stamp(&self.path);
        std::mem::replace(&mut self.stamp, now) != now
    }
}

fn stamp(path: &Path) -> Stamp {
    let facts = std::fs::metadata(path).ok()?;
    Some((facts.modified().ok()?, facts.len(), facts.ino()))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests make files
mod tests {
    use super::*;
    use crate::config::Config;
    use std::os::unix::fs::PermissionsExt;

    const LISTENER: &str = "[server]\nhostname = \"mx.example.net\"\n[relay]\nsmarthost = \"192.0.2.1\"\n\
        [[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:2525\"\nauth = \"required\"\n";

    fn keys(addition: &str) -> Vec<String> {
        let all = match Config::parse(&(LISTENER.to_owned() + addition), "t") {
            Ok((_, Problems(all))) | Err(Problems(all)) => all,
        };
        all.into_iter().map(|p| format!("{} {}", p.severity.word(), p.key)).collect()
    }

    #[test]
    fn rules() {
        assert_eq!(keys(""), ["error listener[1].auth"]);
        assert_eq!(keys("[auth]\nusers = \"/u\"\n"), ["warning listener[1].auth"]);
        assert_eq!(
            keys("[auth]\nusers = \"/u\"\nallow_plaintext = true\n"),
            ["warning auth.allow_plaintext"]
        );
        assert_eq!(
            keys("[auth]\nusers = \"/u\"\nmechanisms = [\"plain\", \"NTLM\"]\n"),
            ["warning listener[1].auth", "error auth.mechanisms[2]"]
        );
        assert_eq!(keys("[auth]\nusers = \"u\"\nhash_threads = 65\n").len(), 3);
    }

    #[test]
    fn broken_lines_are_left_out_and_broken_files_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let mut watch = Watch::new(&path);
        assert!(load(&path, [0; 32]).unwrap_err().0[0].message.contains("cannot be read"));
        std::fs::write(&path, "a:{PLAIN}x\nb:secretword\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(watch.changed() && !watch.changed());
        let (users, problems) = load(&path, [0; 32]).unwrap();
        assert_eq!((users.count(), problems.0.len(), problems.0[0].at), (1, 1, Some((2, 1))));
        assert!(!problems.to_string().contains("secretword"));
        std::fs::write(&path, "b:secretword\n").unwrap();
        assert!(watch.changed());
        let problems = load(&path, [0; 32]).unwrap_err().to_string();
        assert!(problems.contains("no line can be used") && !problems.contains("secretword"));
    }
}
