//! The certificates of a config: their files read, and read again when they change.
//!
//! Owns reading of certificates and keys, by the user that the server runs as. At the start one that
//! cannot be used is an error; later the old ones stay in use and the problem is reported, so that a
//! slip never stops TLS. No message holds anything of a key.

use super::diagnose::{Problem, Problems, Severity};
use super::resolve::Config;
use super::tls::{Files, Tls};
use crate::base::time::Wall;
use crate::metrics::CertificateStatus;
use crate::tls::{self, BadPem, Certificates, Credentials, Part, Rules, Snapshot};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use zeroize::Zeroizing;

/// By these names a client may ask for its protocol (RFC 7301). That of SMTP is not registered, but some
/// clients use it.
const PROTOCOLS: &[&str] = &["smtp", "pop3", "imap"];

/// From so many seconds before a certificate expires, it is reported.
const EXPIRES_SOON: i64 = 14 * 86_400;

/// How often that is reported again, in milliseconds.
const REMIND: u64 = 86_400_000;

/// Time of change, length and number of each file.
type Stamps = Vec<Option<(SystemTime, u64, u64)>>;

/// What has been read.
pub struct Read {
    /// For handshakes.
    pub snapshot: Snapshot,
    /// Path of each certificate and the second it expires, since the Unix epoch.
    pub expiries: Vec<(String, i64)>,
    /// Warnings.
    pub problems: Problems,
}

/// Reads all certificates of `config`; `None` if it has none.
///
/// # Errors
/// One of them cannot be used.
pub fn read(config: &Config, now: Wall) -> Option<Result<Read, Problems>> {
    let tls = config.tls.as_ref()?;
    Some(read_all(tls, config, now))
}

fn read_all(tls: &Tls, config: &Config, now: Wall) -> Result<Read, Problems> {
    let mut problems = Problems::default();
    let main = credentials(&tls.main, "tls", &mut problems);
    let mut named = Vec::new();
    for (n, (names, files)) in tls.sni.iter().enumerate() {
        let at = format!("tls.sni[{}]", n + 1);
        if let Some(credentials) = credentials(files, &at, &mut problems) {
            named.push((names.clone(), credentials, files, at));
        }
    }
    let authorities = tls.client_authorities.as_deref().and_then(|path| {
        let key = "tls.client_authorities";
        let text = load(path, key, &mut problems)?;
        tls::authorities(&text).map_err(|e| problems.0.push(bad(&e, path, key.into()))).ok()
    });
    let Some(main) = main.filter(|_| !problems.fatal()) else { return Err(problems) };
    let host = std::slice::from_ref(&config.hostname);
    consider(&main, host, &tls.main, "tls", now, &mut problems);
    let mut expiries = vec![(tls.main.certificate.display().to_string(), main.not_after)];
    for (names, credentials, files, at) in &named {
        consider(credentials, names, files, at, now, &mut problems);
        expiries.push((files.certificate.display().to_string(), credentials.not_after));
    }
    // A certificate may be there for several names.
    expiries.sort();
    expiries.dedup_by(|a, b| a.0 == b.0);
    let rules = Rules { minimum: tls.minimum, protocols: PROTOCOLS, authorities };
    let named = named.into_iter().map(|(names, credentials, ..)| (names, credentials)).collect();
    match Snapshot::new(main, named, &rules) {
        Ok(snapshot) => Ok(Read { snapshot, expiries, problems }),
        Err(e) => {
            let what = format!("TLS cannot be set up: {e}");
            problems.0.push(problem(Severity::Error, &tls.main.certificate, "tls".into(), what, ""));
            Err(problems)
        }
    }
}

fn problem(severity: Severity, path: &Path, key: String, what: String, help: &str) -> Problem {
    Problem { key, ..Problem::of_file(severity, &path.display().to_string(), None, what, help) }
}

fn bad(e: &BadPem, path: &Path, key: String) -> Problem {
    problem(Severity::Error, path, key, e.what.clone(), e.help)
}

fn load(path: &Path, key: &str, problems: &mut Problems) -> Option<Zeroizing<Vec<u8>>> {
    #[allow(clippy::disallowed_methods)] // certificates are read by the composition root, never by a core
    let text = std::fs::read(path);
    let failed = |e: std::io::Error| {
        let help = match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "the user that the server runs as (server.user) must be able to read it: give the file that \
                 user's group (chgrp) and mode 640, and its directories mode x"
            }
            std::io::ErrorKind::NotFound => "write the path of the PEM file",
            _ => "",
        };
        problems.0.push(problem(Severity::Error, path, key.into(), format!("cannot be read: {e}"), help));
    };
    text.map(Zeroizing::new).map_err(failed).ok()
}

fn credentials(files: &Files, at: &str, problems: &mut Problems) -> Option<Credentials> {
    let (of_certificate, of_key) = (format!("{at}.certificate"), format!("{at}.key"));
    let certificate = load(&files.certificate, &of_certificate, problems);
    let key = load(&files.key, &of_key, problems);
    let parsed = Credentials::parse(&certificate?, &key?).map_err(|e| {
        problems.0.push(match e.part {
            Part::Key => bad(&e, &files.key, of_key),
            Part::Certificate | Part::Authorities => bad(&e, &files.certificate, of_certificate),
        });
    });
    parsed.ok()
}

/// What clients will not like about a certificate that can be used.
fn consider(c: &Credentials, names: &[String], files: &Files, at: &str, now: Wall, problems: &mut Problems) {
    let mut warn = |what: String, help: &str| {
        let key = format!("{at}.certificate");
        problems.0.push(problem(Severity::Warning, &files.certificate, key, what, help));
    };
    let left = c.seconds_left(now);
    if left < 0 {
        warn("the certificate has expired: clients refuse it".into(), "get a new one");
    } else if left < EXPIRES_SOON {
        warn(format!("the certificate expires in {} days", left / 86_400), "get a new one");
    }
    if c.is_early(now) {
        warn("the certificate is not valid yet: clients refuse it".into(), "look at the clock");
    }
    for name in names.iter().filter(|n| !n.starts_with("*.") && !c.is_for(n)) {
        let what = format!("the certificate is not for {name:?} but for {:?}", c.hosts);
        warn(what, "clients that check names will refuse it");
    }
}

fn stamps(tls: &Tls) -> Stamps {
    use std::os::unix::fs::MetadataExt;
    let sni = tls.sni.iter().map(|(_, files)| files);
    let files = std::iter::once(&tls.main).chain(sni).flat_map(|f| [&f.certificate, &f.key]);
    // Links are followed: a new target is another number.
    let stamp = |p: &std::path::PathBuf| {
        let facts = std::fs::metadata(p).ok()?;
        Some((facts.modified().ok()?, facts.len(), facts.ino()))
    };
    files.chain(&tls.client_authorities).map(stamp).collect()
}

/// What a look at the files has brought.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct News {
    /// Other certificates are in force.
    pub replaced: bool,
    /// Warnings.
    pub problems: Problems,
}

/// Replaces the certificates in force when their files change.
pub struct Keeper {
    config: Arc<Config>,
    certificates: Certificates,
    status: Arc<CertificateStatus>,
    /// Of the files that were looked at last.
    stamps: Stamps,
    /// What is wrong with them, if it has not been reported.
    doubt: Option<Problems>,
    reminded: Wall,
}

impl Keeper {
    /// Reads the certificates of `config`; `None` if it has none. The keeper, and warnings.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn start(
        config: Arc<Config>,
        status: Arc<CertificateStatus>,
        now: Wall,
    ) -> Result<Option<(Self, Problems)>, Problems> {
        let Some(tls) = &config.tls else { return Ok(None) };
        let stamps = stamps(tls);
        let first = read_all(tls, &config, now)?;
        status.set(first.expiries);
        let certificates = Certificates::new(first.snapshot);
        let keeper = Keeper { config, certificates, status, stamps, doubt: None, reminded: now };
        Ok(Some((keeper, first.problems)))
    }

    /// The certificates in force, now and later.
    #[must_use]
    pub fn certificates(&self) -> Certificates {
        self.certificates.clone()
    }

    /// If files have changed since the last call: new certificates are in force, with warnings; or the
    /// old ones stay, and why. An error is reported at the second look that finds the same files: they
    /// are two, and one of them may just be on its way. Once a day, what expires is told again.
    pub fn poll(&mut self, now: Wall) -> Option<Result<News, Problems>> {
        let tls = self.config.tls.as_ref()?;
        // Taken before reading, so that a change during reading is seen next time.
        let found = stamps(tls);
        if found == self.stamps {
            if let Some(problems) = self.doubt.take() {
                self.status.set_failed(true);
                return Some(Err(problems));
            }
            return self.remind(now).map(|problems| Ok(News { replaced: false, problems }));
        }
        self.stamps = found;
        match read_all(tls, &self.config, now) {
            Ok(read) => {
                self.certificates.replace(read.snapshot);
                self.status.set(read.expiries);
                self.doubt = None;
                self.reminded = now;
                Some(Ok(News { replaced: true, problems: read.problems }))
            }
            Err(problems) => {
                self.doubt = Some(problems);
                None
            }
        }
    }

    fn remind(&mut self, now: Wall) -> Option<Problems> {
        if now.0.saturating_sub(self.reminded.0) < REMIND {
            return None;
        }
        self.reminded = now;
        let seconds = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
        let soon = self.status.expiries().into_iter().filter(|(_, at)| at - seconds < EXPIRES_SOON);
        let told = soon.map(|(path, at)| {
            let what = match (at - seconds) / 86_400 {
                _ if at < seconds => "the certificate has expired: clients refuse it".into(),
                days => format!("the certificate expires in {days} days"),
            };
            Problem::of_file(Severity::Warning, &path, None, what, "get a new one")
        });
        let told = Problems(told.collect());
        (!told.0.is_empty()).then_some(told)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests make files
mod tests {
    use super::*;
    use crate::tls::tests::{Made, Maker, NOW};

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn put(&self, name: &str, text: &str) {
            std::fs::write(self.0.path().join(name), text).unwrap();
        }

        fn pair(&self, made: &Made) {
            self.put("c.pem", &made.certificate);
            self.put("k.pem", &made.key);
        }

        fn config(&self) -> Arc<Config> {
            let dir = self.0.path().display();
            let text = format!(
                "[server]\nhostname = \"mx.example\"\n[relay]\nsmarthost = \"192.0.2.1\"\n[tls]\n\
                 certificate = \"{dir}/c.pem\"\nkey = \"{dir}/k.pem\"\n"
            );
            Arc::new(Config::parse(&text, "t").unwrap().0)
        }
    }

    #[test]
    fn certificates_are_read_again_when_they_change() {
        let dir = Dir(tempfile::tempdir().unwrap());
        let (first, second, third) = (Maker::new().make(), Maker::new().make(), Maker::new().make());
        dir.pair(&first);
        let status = Arc::<CertificateStatus>::default();
        let (mut keeper, problems) = Keeper::start(dir.config(), status.clone(), NOW).unwrap().unwrap();
        assert_eq!(problems, Problems::default());
        assert_eq!(status.expiries().len(), 1);
        let certificates = keeper.certificates();
        let before = certificates.current();
        let replaced = News { replaced: true, problems: Problems::default() };
        assert!(keeper.poll(NOW).is_none());
        // Both change: in force at once.
        dir.pair(&second);
        assert_eq!(keeper.poll(NOW), Some(Ok(replaced.clone())));
        let after = certificates.current();
        assert!(!Arc::ptr_eq(&before, &after));
        // One of them first: nothing is said before it is clear that it stays so.
        dir.put("c.pem", &third.certificate);
        assert!(keeper.poll(NOW).is_none() && !status.is_failed());
        dir.put("k.pem", &third.key);
        assert_eq!(keeper.poll(NOW), Some(Ok(replaced.clone())));
        // A bad one stays: the old one, an alarm, once.
        dir.put("k.pem", "-----BEGIN RUBBISH-----\n");
        assert!(keeper.poll(NOW).is_none());
        let problems = keeper.poll(NOW).unwrap().unwrap_err();
        assert_eq!((problems.0[0].key.as_str(), status.is_failed()), ("tls.key", true));
        assert!(keeper.poll(NOW).is_none());
        let kept = certificates.current();
        std::fs::remove_file(dir.0.path().join("k.pem")).unwrap();
        assert!(keeper.poll(NOW).is_none());
        assert!(keeper.poll(NOW).unwrap().unwrap_err().0[0].message.contains("cannot be read"));
        assert!(Arc::ptr_eq(&kept, &certificates.current()));
        dir.put("k.pem", &third.key);
        assert_eq!(keeper.poll(NOW), Some(Ok(replaced)));
        assert!(!status.is_failed());
    }

    #[test]
    fn what_clients_will_not_like_is_said() {
        let dir = Dir(tempfile::tempdir().unwrap());
        dir.pair(&Maker::new().hosts(&["other.example"]).days(NOW, -10, 5).make());
        let status = Arc::<CertificateStatus>::default();
        let (mut keeper, problems) = Keeper::start(dir.config(), status, NOW).unwrap().unwrap();
        let text = problems.to_string();
        assert!(text.contains("expires in 5 days") && text.contains("not for \"mx.example\""), "{text}");
        assert!(keeper.poll(NOW).is_none());
        let later = Wall(NOW.0 + 6 * REMIND);
        let told = keeper.poll(later).unwrap().unwrap();
        assert!(!told.replaced);
        let told = told.problems.to_string();
        assert!(told.contains("has expired"), "{told}");
        assert!(keeper.poll(later).is_none(), "once a day");
        dir.pair(&Maker::new().days(NOW, 3, 90).make());
        assert!(keeper.poll(NOW).unwrap().unwrap().problems.to_string().contains("not valid yet"));
    }
}
