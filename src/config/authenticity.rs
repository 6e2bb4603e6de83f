//! The rules of `[authenticity]`, of `authenticity =` at a listener, and of `[[dkim.key]]`.
//!
//! Reads no key: `signing` does.

use super::diagnose::Report;
use super::raw::{self, Check, ListenerCheck, Protocol};
use super::resolve::{Listener, absolute};
use crate::authenticity::rules::{Mode, Modes, Narrowed, Rules};
use crate::route::destination::host_name;
use std::path::PathBuf;
use std::time::Duration;

/// `[authenticity]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Authenticity {
    /// For a listener that has none of its own.
    pub rules: Rules,
    /// For all look-ups of a message together.
    pub timeout: Duration,
}

/// `[[dkim.key]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// Lower case.
    pub domain: String,
    /// Its name in DNS.
    pub selector: String,
    /// PEM file.
    pub file: PathBuf,
}

impl Authenticity {
    /// The rules at a listener; none: nothing is looked at.
    #[must_use]
    pub fn at(&self, listener: &Listener) -> Option<Rules> {
        let tag_only = match listener.authenticity {
            _ if listener.protocol != Protocol::Smtp => return None,
            ListenerCheck::Off => return None,
            ListenerCheck::Tag => true,
            ListenerCheck::Auto => false,
        };
        self.rules.wanted().any().then(|| Rules { tag_only, ..self.rules.clone() })
    }
}

fn mode(check: Check) -> Mode {
    match check {
        Check::Off => Mode::Off,
        Check::Tag => Mode::Tag,
        Check::Enforce => Mode::Enforce,
    }
}

/// Longest time for look-ups: clients wait for the reply for ten minutes (RFC 5321 §4.5.3.2.6).
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// `[authenticity]`.
pub(super) fn resolve(raw: &raw::Authenticity, hostname: &str, report: &mut Report<'_>) -> Authenticity {
    let timeout = raw.timeout.0;
    if timeout.is_zero() || timeout > TIMEOUT_MAX {
        report.error("authenticity.timeout", "must be above 0 and 5 minutes at most", "");
    }
    let id = match raw.authserv_id.as_str() {
        "" => hostname.to_owned(),
        name => host_name(name).unwrap_or_else(|e| {
            report.error("authenticity.authserv_id", e, "write a name such as \"mx.example.net\"");
            String::new()
        }),
    };
    let mut sealers = Vec::new();
    for (n, text) in raw.arc_trusted.iter().enumerate() {
        sealers.extend(pattern(text, &format!("authenticity.arc_trusted.{n}"), report));
    }
    if !sealers.is_empty() && raw.arc == Check::Off {
        let help = "write arc = \"tag\" under [authenticity]";
        report.error("authenticity.arc_trusted", "is of no use while arc is off", help);
    }
    let mut narrowed = Vec::new();
    for (n, f) in raw.narrowed.iter().enumerate() {
        let at = format!("authenticity.for.{n}");
        if f.spf.is_none() && f.dkim.is_none() && f.dmarc.is_none() {
            report.error(&at, "says nothing", "write spf, dkim or dmarc");
        }
        if let Some(domain) = pattern(&f.domain, &format!("{at}.domain"), report) {
            let (spf, dkim, dmarc) = (f.spf.map(mode), f.dkim.map(mode), f.dmarc.map(mode));
            narrowed.push(Narrowed { domain, spf, dkim, dmarc });
        }
    }
    let modes =
        Modes { spf: mode(raw.spf), dkim: mode(raw.dkim), dmarc: mode(raw.dmarc), arc: mode(raw.arc) };
    Authenticity { rules: Rules { id, modes, narrowed, tag_only: false, sealers }, timeout }
}

/// `example.org`, `*.example.org`, `*`.
fn pattern(text: &str, at: &str, report: &mut Report<'_>) -> Option<String> {
    let good = match text.strip_prefix("*.") {
        _ if text == "*" => Ok(text.to_owned()),
        Some(parent) => host_name(parent).map(|name| format!("*.{name}")),
        None => host_name(text),
    };
    match good {
        Ok(pattern) => Some(pattern),
        Err(e) => {
            report.error(at, e, "write \"example.org\", \"*.example.org\" (all below it) or \"*\"");
            None
        }
    }
}

/// `authenticity =` is for mail of strangers.
pub(super) fn of_listeners(listeners: &[raw::Listener], report: &mut Report<'_>) {
    for (n, l) in listeners.iter().enumerate() {
        let of_strangers = l.protocol.0.is_none_or(|p| p == Protocol::Smtp);
        if l.authenticity != ListenerCheck::Auto && !of_strangers {
            let what = "is for protocol \"smtp\" only";
            report.error(&format!("listener.{n}.authenticity"), what, "leave it out");
        }
    }
}

/// `[[dkim.key]]`.
pub(super) fn keys(raw: &raw::Dkim, report: &mut Report<'_>) -> Vec<KeyFile> {
    let mut all: Vec<KeyFile> = Vec::new();
    for (n, key) in raw.key.iter().enumerate() {
        let at = |what: &str| format!("dkim.key.{n}.{what}");
        let Some(key) = key_file(key, &at, report) else { continue };
        if all.iter().any(|k| (&k.domain, &k.selector) == (&key.domain, &key.selector)) {
            report.error(&at("selector"), "is used for another key of the domain already", "");
        }
        all.push(key);
    }
    all
}

/// A key; `at`: how its parts are called.
pub(super) fn key_file(
    key: &raw::DkimKey,
    at: &dyn Fn(&str) -> String,
    report: &mut Report<'_>,
) -> Option<KeyFile> {
    let domain = host_name(&key.domain);
    if let Err(e) = &domain {
        report.error(&at("domain"), e.clone(), "write a domain such as \"example.net\"");
    }
    // RFC 6376 §3.1: labels of a domain.
    let selector = host_name(&key.selector);
    if selector.is_err() {
        report.error(&at("selector"), "must be a name such as \"s2026\"", "");
    }
    if key.file.is_empty() {
        report.error(&at("file"), "is required", "make one with ringpost dkim keygen");
        return None;
    }
    let file = absolute(&key.file, &at("file"), report)?;
    Some(KeyFile { domain: domain.ok()?, selector: selector.ok()?, file })
}

#[cfg(test)]
mod tests {
    use crate::authenticity::rules::Mode;
    use crate::config::Config;

    const HEAD: &str = "[server]\nhostname = \"mx.example.net\"\n[relay]\nsmarthost = \"192.0.2.1\"\n";

    fn errors(tail: &str) -> Vec<String> {
        let problems = Config::parse(&format!("{HEAD}{tail}"), "t").unwrap_err();
        problems.0.into_iter().map(|p| p.key).collect()
    }

    #[test]
    fn rules_are_for_listeners_of_strangers() {
        let listener = |port: u16, more: &str| {
            format!("[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:{port}\"\n{more}\n")
        };
        let tail = [
            "[authenticity]\nspf = \"enforce\"\ndmarc = \"tag\"\n".to_owned(),
            "[[authenticity.for]]\ndomain = \"*.Bank.example\"\ndkim = \"enforce\"\n".to_owned(),
            listener(25, ""),
            listener(26, "authenticity = \"tag\""),
            listener(27, "authenticity = \"off\""),
        ];
        let (config, _) = Config::parse(&(HEAD.to_owned() + &tail.concat()), "t").unwrap();
        let rules: Vec<_> = config.listeners.iter().map(|l| config.authenticity.at(l)).collect();
        let [Some(first), Some(second), None] = &rules[..] else { panic!("{rules:?}") };
        assert_eq!((first.tag_only, second.tag_only, &*first.id), (false, true, "mx.example.net"));
        assert_eq!((first.wanted().dkim, first.modes.dkim), (Mode::Enforce, Mode::Off));
        assert_eq!(first.narrowed[0].domain, "*.bank.example");
        // Off is off.
        let (config, _) = Config::parse(HEAD, "t").unwrap();
        assert_eq!(config.authenticity.at(&config.listeners[0]), None);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let listener = "[[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.1:0\"\n";
        for (tail, key) in [
            ("[authenticity]\ntimeout = \"0s\"\n", "authenticity.timeout"),
            ("[authenticity]\ntimeout = \"6m\"\n", "authenticity.timeout"),
            ("[authenticity]\nauthserv_id = \"a b\"\n", "authenticity.authserv_id"),
            ("[authenticity]\narc_trusted = [\"a.example\"]\n", "authenticity.arc_trusted"),
            ("[authenticity]\narc = \"tag\"\narc_trusted = [\"a b\"]\n", "authenticity.arc_trusted[1]"),
            ("[[authenticity.for]]\ndomain = \"a.example\"\n", "authenticity.for[1]"),
            ("[[authenticity.for]]\nspf = \"tag\"\n", "authenticity.for[1].domain"),
            ("[[dkim.key]]\nselector = \"s\"\nfile = \"/k\"\n", "dkim.key[1].domain"),
            ("[[dkim.key]]\ndomain = \"a.example\"\nfile = \"/k\"\n", "dkim.key[1].selector"),
            ("[[dkim.key]]\ndomain = \"a.example\"\nselector = \"s\"\n", "dkim.key[1].file"),
        ] {
            assert_eq!(errors(tail), [key], "{tail}");
        }
        let key = "[[dkim.key]]\ndomain = \"a.example\"\nselector = \"s\"\nfile = \"/k\"\n";
        assert_eq!(errors(&key.repeat(2)), ["dkim.key[2].selector"]);
        let all = errors(&format!("{listener}authenticity = \"tag\"\n"));
        assert!(all.contains(&"listener[1].authenticity".to_owned()), "{all:?}");
    }
}
