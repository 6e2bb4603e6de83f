//! `ringpost dkim`: keys that sign mail are made here, and shown as they belong into DNS.
//!
//! A key is written where the operator says, into a new file that only its owner can read; nothing of it is
//! printed. What is in DNS is asked of the name servers of the configuration.
#![allow(clippy::disallowed_methods, reason = "a program for operators writes files")]

use super::explain::Still;
use super::{ConfigFile, Exit};
use crate::authenticity::keys::{self, Key};
use crate::config::{Config, signing};
use crate::route::destination::host_name;
use crate::route::dns::Lookup;
use crate::route::mx::Why;
use crate::server::names;
use clap::Subcommand;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum DkimCommand {
    /// Make a key, and print its DNS record and its lines of the configuration
    Keygen {
        /// Whose mail it will sign
        domain: String,
        /// Its name in DNS, for example a year
        selector: String,
        /// RSA of so many bits (2048, 3072, 4096) instead of Ed25519, which some verifiers cannot read
        #[arg(long, value_name = "BITS", num_args = 0..=1, default_missing_value = "2048")]
        rsa: Option<usize>,
        /// Where the key goes; must not exist [default: DOMAIN.SELECTOR.pem in this directory]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the DNS records of a domain's keys, and whether they are published; exit code 0: all are
    Show {
        /// The domain
        domain: String,
        /// Do not ask name servers
        #[arg(long)]
        offline: bool,
        /// The configuration
        #[command(flatten)]
        file: ConfigFile,
    },
}

/// Why a command failed: exit code and words.
type Outcome = Result<(), (Exit, String)>;

/// For one question to name servers.
const PATIENCE: Duration = Duration::from_secs(10);

impl DkimCommand {
    /// Runs the command.
    pub fn run(self, out: &mut impl Write) -> Exit {
        let done = match self {
            DkimCommand::Keygen { domain, selector, rsa, out: file } => {
                keygen(&domain, &selector, rsa, file, out)
            }
            DkimCommand::Show { domain, offline, file } => show(&domain, offline, &file, out),
        };
        match done {
            Ok(()) => Exit::Ok,
            Err((exit, text)) => {
                eprintln!("ringpost dkim: {text}");
                exit
            }
        }
    }
}

fn printed(result: std::io::Result<()>) -> Outcome {
    result.map_err(|e| (Exit::Io, e.to_string()))
}

fn keygen(
    domain: &str,
    selector: &str,
    rsa: Option<usize>,
    file: Option<PathBuf>,
    out: &mut impl Write,
) -> Outcome {
    let name = |text: &str| host_name(text).map_err(|e| (Exit::Usage, format!("{text:?}: {e}")));
    let (domain, selector) = (name(domain)?, name(selector)?);
    let pem = keys::generate(rsa).map_err(|e| (Exit::Usage, e.to_owned()))?;
    let key = Key::parse(&domain, &selector, pem.as_bytes()).map_err(|e| (Exit::Software, e.to_owned()))?;
    let file = file.unwrap_or_else(|| format!("{domain}.{selector}.pem").into());
    let failed = |e: std::io::Error| (Exit::CannotCreate, format!("{}: {e}", file.display()));
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
    let mut made = made.map_err(failed)?;
    made.write_all(pem.as_bytes()).and_then(|()| made.sync_all()).map_err(failed)?;
    let path = std::path::absolute(&file).unwrap_or(file.clone());
    printed(writeln!(
        out,
        "The key is in {} (give it to server.user). Publish this record:\n\n{}\n\nThen, when \
         `ringpost dkim show {domain}` finds it, let it sign:\n\n[[dkim.key]]\ndomain = \"{domain}\"\n\
         selector = \"{selector}\"\nfile = \"{}\"",
        file.display(),
        key.zone_line(),
        path.display()
    ))
}

fn show(domain: &str, offline: bool, file: &ConfigFile, out: &mut impl Write) -> Outcome {
    let (config, _) = Config::load(&file.config).map_err(|problems| (Exit::Config, problems.to_string()))?;
    let mut files = signing::files(&config);
    files.retain(|key| key.domain.eq_ignore_ascii_case(domain));
    // One key may sign and seal.
    files.dedup_by(|a, b| a == b);
    if files.is_empty() {
        let what = format!("{domain} has no key; make one with ringpost dkim keygen {domain} SELECTOR");
        return Err((Exit::NoInput, what));
    }
    let (keys, problems) = signing::read(&files).map_err(|problems| (Exit::Config, problems.to_string()))?;
    printed(write!(out, "{problems}"))?;
    for key in &keys.0 {
        let bits = key.rsa_bits.map_or(String::new(), |bits| format!(", {bits} bits"));
        printed(writeln!(out, "; {}{bits}\n{}", key.algorithm(), key.zone_line()))?;
    }
    if offline {
        return Ok(());
    }
    let found = published(&config, &keys.0).map_err(|e| (Exit::System, e))?;
    let mut good = true;
    for (key, found) in keys.0.iter().zip(found) {
        let verdict = verdict(key, &found);
        good &= verdict.is_ok();
        let text = match verdict {
            Ok(text) => text.to_owned(),
            Err(text) => text,
        };
        printed(writeln!(out, "; {}: {text}", key.name()))?;
    }
    if good { Ok(()) } else { Err((Exit::Unavailable, "not all keys are published".into())) }
}

/// The texts of a name in DNS, or why they are not known.
type Found = Result<Vec<String>, String>;

/// What is in DNS for each key.
fn published(config: &Config, keys: &[Key]) -> Result<Vec<Found>, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let servers = names::servers(Still, config, Box::new(|_| {}))?;
        let mut all = Vec::new();
        for key in keys {
            all.push(texts(&servers, &key.name()).await);
        }
        Ok(all)
    })
}

async fn texts(servers: &impl Lookup, name: &str) -> Found {
    let Ok(answer) = tokio::time::timeout(PATIENCE, servers.txt(name)).await else {
        return Err("no answer in 10 s".into());
    };
    match answer {
        Ok(found) => Ok(found.records.iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect()),
        Err(missing) => match missing.why {
            Why::NoName | Why::NoData => Ok(Vec::new()),
            Why::Bogus => Err("wrong DNSSEC signatures".into()),
            Why::Failed(why) => Err(why.into()),
        },
    }
}

/// The value of `p=` in a record, without white space.
fn public(record: &str) -> Option<String> {
    let tag = record.split(';').find_map(|tag| tag.trim_start().strip_prefix('p'))?;
    Some(tag.trim_start().strip_prefix('=')?.split_whitespace().collect())
}

fn verdict(key: &Key, found: &Found) -> Result<&'static str, String> {
    let texts = found.as_ref().map_err(|e| format!("could not be looked up: {e}"))?;
    let ours = public(&key.record());
    match &texts[..] {
        [] => Err("is not published".into()),
        // RFC 6376 §3.6.2.2: with several, what a verifier does is not defined.
        [_, _, ..] => Err("there are several records; leave one".into()),
        [text] if public(text) == ours => Ok("is published"),
        [text] if public(text).is_some_and(|p| p.is_empty()) => Err("is revoked (p= is empty)".into()),
        [_] => Err("another key is published; receivers will find our signatures wrong".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.pem");
        let make = |rsa| {
            let mut out = Vec::new();
            let file = Some(file.clone());
            let command =
                DkimCommand::Keygen { domain: "Example.net".into(), selector: "s1".into(), rsa, out: file };
            (command.run(&mut out), String::from_utf8(out).unwrap())
        };
        let (exit, text) = make(None);
        assert_eq!(exit, Exit::Ok);
        assert!(text.contains("s1._domainkey.example.net. IN TXT \"v=DKIM1; k=ed25519; p="), "{text}");
        assert!(text.contains("domain = \"example.net\"\nselector = \"s1\"\n"), "{text}");
        let pem = std::fs::read_to_string(&file).unwrap();
        assert!(pem.lines().skip(1).all(|line| !text.contains(line)));
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        // It is never written over.
        assert_eq!(make(Some(2048)).0, Exit::CannotCreate);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), pem);
        assert_eq!(make(Some(1000)).0, Exit::Usage);
        let config = dir.path().join("c.toml");
        let lines = text.split("let it sign:").nth(1).unwrap();
        std::fs::write(&config, format!("[server]\nhostname = \"mx.example.net\"\n{lines}")).unwrap();
        let show = |domain: &str| {
            let mut out = Vec::new();
            let file = ConfigFile { config: config.clone() };
            let command = DkimCommand::Show { domain: domain.into(), offline: true, file };
            (command.run(&mut out), String::from_utf8(out).unwrap())
        };
        let (exit, shown) = show("example.net");
        let record = text.lines().find(|l| l.contains("IN TXT")).unwrap();
        assert!(exit == Exit::Ok && shown.contains(record), "{shown}");
        assert_eq!(show("other.example").0, Exit::NoInput);
    }

    #[test]
    fn what_is_published_is_compared() {
        let key = |pem: &str| Key::parse("example.net", "s", pem.as_bytes()).unwrap();
        let ours = key(&keys::generate(None).unwrap());
        let other = key(&keys::generate(None).unwrap()).record();
        let is = |found: Found| verdict(&ours, &found);
        assert_eq!(is(Ok(vec![ours.record()])), Ok("is published"));
        assert_eq!(is(Ok(vec![ours.record().replace("p=", "t=s; p = ")])), Ok("is published"));
        for (found, word) in [
            (Ok(vec![]), "not published"),
            (Ok(vec![other.clone()]), "another key"),
            (Ok(vec![ours.record(), other]), "several"),
            (Ok(vec!["v=DKIM1; p=".into()]), "revoked"),
            (Err("SERVFAIL".into()), "SERVFAIL"),
        ] {
            let text = is(found).unwrap_err();
            assert!(text.contains(word), "{text}");
        }
    }
}
