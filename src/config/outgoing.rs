//! The files behind mail that leaves: authorities whose certificates are believed, and the login at the
//! smarthost.
//!
//! Read once, at the start. What cannot be used is a problem that says what to do, and never what the
//! file of the login holds. Without a file of authorities those of the system are taken; that there are
//! none matters only where certificates count.

use super::diagnose::{Problem, Problems, Severity};
use super::resolve::Config;
use crate::auth::client::Account;
use crate::base::secret::Secret;
use crate::route::destination::TlsPolicy;
use crate::tls::client::Roots;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use zeroize::Zeroizing;

/// What each core makes its rules of.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Authorities for servers' certificates.
    pub roots: Roots,
    /// Login and password.
    pub login: Option<(String, Secret)>,
}

/// Reads the files of `config`; what was read, with warnings.
///
/// # Errors
/// A file that is named cannot be used.
pub fn read(config: &Config) -> Result<(Outgoing, Problems), Problems> {
    let mut problems = Problems::default();
    let roots = match &config.relay.roots {
        Some(path) => named_roots(path, &mut problems),
        None => system_roots(config, &mut problems),
    };
    let login = config.relay.login.as_deref().and_then(|path| login(path, &mut problems));
    if problems.fatal() { Err(problems) } else { Ok((Outgoing { roots, login }, problems)) }
}

fn problem(severity: Severity, path: &Path, what: String, help: &str, problems: &mut Problems) {
    problems.0.push(Problem::of_file(severity, &path.display().to_string(), None, what, help));
}

#[allow(clippy::disallowed_methods)] // read once, at the start, by the composition
fn bytes(path: &Path, what: &str, problems: &mut Problems) -> Option<Zeroizing<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Some(Zeroizing::new(bytes)),
        Err(e) => {
            let help = "server.user must be able to read it";
            problem(Severity::Error, path, format!("{what} cannot be read: {e}"), help, problems);
            None
        }
    }
}

fn named_roots(path: &Path, problems: &mut Problems) -> Roots {
    let Some(text) = bytes(path, "tls.roots", problems) else { return Roots::usable([]) };
    Roots::parse(&text).unwrap_or_else(|e| {
        problem(Severity::Error, path, format!("tls.roots: {}", e.what), e.help, problems);
        Roots::usable([])
    })
}

fn system_roots(config: &Config, problems: &mut Problems) -> Roots {
    let found = rustls_native_certs::load_native_certs();
    let roots = Roots::usable(found.certs);
    let hops = config.routes.iter().map(|(_, hop)| hop).chain(&config.relay.smarthost);
    if roots.is_empty() && hops.clone().any(|hop| hop.tls == TlsPolicy::Required) {
        let why = found.errors.first().map_or(String::new(), |e| format!(": {e}"));
        let what =
            format!("there are no authorities on this system{why}; mail with tls = \"required\" waits");
        let help = "install ca-certificates, or name a file with tls.roots";
        problem(Severity::Warning, Path::new("tls.roots"), what, help, problems);
    }
    roots
}

#[allow(clippy::disallowed_methods)] // as above
fn login(path: &Path, problems: &mut Problems) -> Option<(String, Secret)> {
    let text = bytes(path, "relay.smarthost_auth", problems)?;
    let open = std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o007 != 0);
    if open {
        let what = "every user of this system can read the password".into();
        problem(Severity::Warning, path, what, "chmod 0640, and the group of server.user", problems);
    }
    match Account::parse(&text) {
        Ok(login) => Some(login),
        Err(what) => {
            let help = "one line: the login, a space, the password";
            problem(Severity::Error, path, format!("relay.smarthost_auth {what}"), help, problems);
            None
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests make files
mod tests {
    use super::*;

    fn of(dir: &Path, relay: &str, tls: &str) -> Result<(Outgoing, Problems), Problems> {
        let text = format!(
            "[server]\nhostname = \"mx.example.net\"\n[relay]\nsmarthost = \"smart.example:587\"\n\
             smarthost_tls = \"required\"\n{relay}[tls]\n{tls}"
        )
        .replace("DIR", &dir.display().to_string());
        read(&Config::parse(&text, "t").unwrap().0)
    }

    #[test]
    fn logins_and_roots() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        file("login", "me@a.example se cret\n", 0o600);
        file("open", "me secret\n", 0o644);
        file("half", "secret\n", 0o600);
        file("empty.pem", "", 0o644);
        let (read, problems) = of(dir.path(), "smarthost_auth = \"DIR/login\"\n", "").unwrap();
        let (login, password) = read.login.clone().unwrap();
        assert_eq!((&*login, password.expose()), ("me@a.example", &b"se cret"[..]));
        assert!(!format!("{read:?} {problems}").contains("se cret"));
        let (_, problems) = of(dir.path(), "smarthost_auth = \"DIR/open\"\n", "").unwrap();
        assert!(problems.to_string().contains("every user of this system"), "{problems}");
        for (relay, tls) in [
            ("smarthost_auth = \"DIR/half\"\n", ""),
            ("smarthost_auth = \"DIR/missing\"\n", ""),
            ("", "roots = \"DIR/missing\"\n"),
            ("", "roots = \"DIR/empty.pem\"\n"),
        ] {
            let problems = of(dir.path(), relay, tls).unwrap_err();
            assert!(!problems.to_string().contains("secret"), "{problems}");
        }
    }
}
