//! The keys of a config that sign and seal mail: their files read, and read again when they change.
//!
//! Owns reading of the files, by the user that the server runs as. At the start one that cannot be used is
//! an error; later the old keys stay in use and the problem is reported. No message holds anything of a key.

use super::authenticity::KeyFile;
use super::diagnose::{Problem, Problems, Severity};
use super::resolve::Config;
use crate::authenticity::keys::{Key, Keys, RSA_BITS, Signers};
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;
use zeroize::Zeroizing;

/// Time of change and length of each file.
type Stamps = Vec<Option<(SystemTime, u64)>>;

/// Replaces the keys when their files change.
pub struct Watch {
    files: Vec<KeyFile>,
    stamps: Stamps,
    /// How many of the files sign; one behind them seals.
    signing: usize,
    signers: Signers,
    sealer: Signers,
}

impl Watch {
    /// Reads the keys of `config`; warnings. None if it has no keys.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn start(config: &Config) -> Result<Option<(Self, Problems)>, Problems> {
        let files = files(config);
        if files.is_empty() {
            return Ok(None);
        }
        // Taken before reading, so that a change during reading is seen next time.
        let (stamps, signing) = (stamps(&files), config.dkim.len());
        let (keys, problems) = read(&files)?;
        let (signers, sealer) = <(Signers, Signers)>::default();
        let watch = Watch { files, stamps, signing, signers, sealer };
        watch.set(keys);
        Ok(Some((watch, problems)))
    }

    fn set(&self, Keys(mut keys): Keys) {
        self.sealer.set(Keys(keys.split_off(self.signing)));
        self.signers.set(Keys(keys));
    }

    /// What signs mail of our own clients, if anything does.
    #[must_use]
    pub fn signers(&self) -> Option<Signers> {
        (self.signing > 0).then(|| self.signers.clone())
    }

    /// What seals mail of strangers, if anything does.
    #[must_use]
    pub fn sealer(&self) -> Option<Signers> {
        (self.files.len() > self.signing).then(|| self.sealer.clone())
    }

    /// Whether keys have been replaced since the last call, with warnings; none: nothing has changed. An
    /// error is told once.
    pub fn poll(&mut self) -> Option<Result<Problems, Problems>> {
        let now = stamps(&self.files);
        if now == self.stamps {
            return None;
        }
        self.stamps = now;
        Some(read(&self.files).map(|(keys, problems)| {
            self.set(keys);
            problems
        }))
    }
}

/// The files of all keys of a config.
#[must_use]
pub fn files(config: &Config) -> Vec<KeyFile> {
    config.dkim.iter().chain(&config.arc).cloned().collect()
}

fn stamps(files: &[KeyFile]) -> Stamps {
    let stamp = |key: &KeyFile| {
        let facts = std::fs::metadata(&key.file).ok()?;
        Some((facts.modified().ok()?, facts.len()))
    };
    files.iter().map(stamp).collect()
}

/// Reads all keys; warnings.
///
/// # Errors
/// One of them cannot be used.
pub fn read(files: &[KeyFile]) -> Result<(Keys, Problems), Problems> {
    let mut problems = Problems::default();
    let keys = Keys(files.iter().filter_map(|file| read_key(file, &mut problems)).collect());
    if problems.fatal() { Err(problems) } else { Ok((keys, problems)) }
}

#[allow(clippy::disallowed_methods)] // read by the composition
fn read_key(of: &KeyFile, problems: &mut Problems) -> Option<Key> {
    let mut tell = |severity, what: String, help: &str| {
        let name = of.file.display().to_string();
        problems.0.push(Problem::of_file(severity, &name, None, what, help));
    };
    let text = match std::fs::read(&of.file) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(e) => {
            let help = "server.user must be able to read it";
            tell(Severity::Error, format!("the key cannot be read: {e}"), help);
            return None;
        }
    };
    if std::fs::metadata(&of.file).is_ok_and(|m| m.permissions().mode() & 0o007 != 0) {
        let what = "every user of this system can read the key".into();
        tell(Severity::Warning, what, "chmod 0640, and the group of server.user");
    }
    match Key::parse(&of.domain, &of.selector, &text) {
        Err(what) => {
            tell(Severity::Error, what.into(), "make one with ringpost dkim keygen");
            None
        }
        Ok(key) => {
            if key.rsa_bits.is_some_and(|bits| bits < RSA_BITS) {
                let what = "the key is shorter than 2048 bits (RFC 8301 section 3.2)".into();
                tell(Severity::Warning, what, "make another under a new selector");
            }
            Some(key)
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests make files
mod tests {
    use super::*;
    use crate::authenticity::keys::generate;
    use std::fs::Permissions;

    #[test]
    fn keys_are_read_again_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.pem");
        let put = |text: &str, mode: u32| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        };
        let text = format!(
            "[server]\nhostname = \"mx.example.net\"\n[[dkim.key]]\ndomain = \"example.net\"\n\
             selector = \"s\"\nfile = {:?}\n",
            file.display().to_string()
        );
        let (config, _) = Config::parse(&text, "t").unwrap();
        assert!(Watch::start(&config).is_err());
        let ed25519 = generate(None).unwrap();
        put(&ed25519, 0o640);
        let (mut watch, problems) = Watch::start(&config).unwrap().unwrap();
        let first = watch.signers().unwrap().keys();
        assert_eq!((problems.0, first.0[0].algorithm()), (Vec::new(), "ed25519-sha256"));
        assert!(watch.poll().is_none());
        put("nothing", 0o640);
        let problems = watch.poll().unwrap().unwrap_err();
        assert!(problems.fatal() && watch.poll().is_none());
        assert_eq!(watch.signers().unwrap().keys().0[0].record(), first.0[0].record());
        put(&generate(Some(2048)).unwrap(), 0o644);
        let problems = watch.poll().unwrap().unwrap();
        assert!(problems.to_string().contains("every user"), "{problems}");
        assert_eq!(watch.signers().unwrap().keys().0[0].algorithm(), "rsa-sha256");
        assert!(watch.sealer().is_none());
        let seal = text.replace("[[dkim.key]]", "[authenticity]\narc = \"tag\"\n[arc]");
        let (config, _) = Config::parse(&seal, "t").unwrap();
        let (watch, _) = Watch::start(&config).unwrap().unwrap();
        assert!(watch.signers().is_none());
        assert_eq!(watch.sealer().unwrap().keys().0[0].algorithm(), "rsa-sha256");
        let (config, _) = Config::parse("[server]\nhostname = \"mx.example.net\"\n", "t").unwrap();
        assert!(Watch::start(&config).unwrap().is_none());
    }
}
