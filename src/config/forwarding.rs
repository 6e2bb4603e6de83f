//! The rules of `[arc]`, `[srs]` and `[reports]`, and the file of secrets of `[srs]`.
//!
//! A file of secrets is read with the maps, and again when it changes. No message holds anything of it.

use super::authenticity::{KeyFile, key_file};
use super::diagnose::{Problem, Problems, Report, Severity};
use super::raw::{self, Check};
use super::resolve::absolute;
use crate::policy::reports::Reports;
use crate::route::destination::host_name;
use crate::route::srs::{AGE_MAX, SEPARATORS, Srs, secrets};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// `[srs]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrsFile {
    /// Lower case.
    pub domain: String,
    /// Secrets.
    pub file: PathBuf,
    /// Days.
    pub max_age: u64,
    /// One of `=+-`.
    pub separator: u8,
}

/// `[arc]`; none: nothing is sealed.
pub(super) fn arc(raw: &raw::ArcKey, of: &raw::Authenticity, report: &mut Report<'_>) -> Option<KeyFile> {
    if *raw == raw::ArcKey::default() {
        return None;
    }
    if of.arc == Check::Off {
        let help = "write arc = \"tag\" under [authenticity]";
        report.error("arc.domain", "is of no use while authenticity.arc is off", help);
    }
    let key =
        raw::DkimKey { domain: raw.domain.clone(), selector: raw.selector.clone(), file: raw.file.clone() };
    key_file(&key, &|what| format!("arc.{what}"), report)
}

const DAY: u64 = 86_400;

/// `[srs]`; none: senders stay.
pub(super) fn srs(raw: &raw::SrsKeys, report: &mut Report<'_>) -> Option<SrsFile> {
    if *raw == raw::SrsKeys::default() {
        return None;
    }
    let domain = host_name(&raw.domain);
    if let Err(e) = &domain {
        report.error("srs.domain", e.clone(), "write a domain such as \"srs.example.net\"");
    }
    let (days, rest) = (raw.max_age.0.as_secs() / DAY, raw.max_age.0.as_millis() % (u128::from(DAY) * 1000));
    if rest != 0 || !(1..=AGE_MAX).contains(&days) {
        report.error("srs.max_age", "must be whole days, from 1 to 1000", "");
    }
    let separator = match raw.separator.as_bytes() {
        [one] if SEPARATORS.contains(one) => Some(*one),
        _ => {
            report.error("srs.separator", "must be \"=\", \"+\" or \"-\"", "");
            None
        }
    };
    if raw.key_file.is_empty() {
        let help = "openssl rand -hex 32 > FILE makes one; server.user must be able to read it";
        report.error("srs.key_file", "is required", help);
        return None;
    }
    let file = absolute(&raw.key_file, "srs.key_file", report)?;
    Some(SrsFile { domain: domain.ok()?, file, max_age: days, separator: separator? })
}

/// `[reports]`; none: no report is read.
pub(super) fn reports(raw: &raw::ReportKeys, report: &mut Report<'_>) -> Option<Reports> {
    let mut all = Reports::new(raw.action == raw::ReportAction::Discard);
    for (n, address) in raw.feedback.iter().enumerate() {
        if let Err(what) = all.add_feedback(address) {
            let help = "write an address such as \"fbl@example.net\"";
            report.error(&format!("reports.feedback.{n}"), what, help);
        }
    }
    for (n, pattern) in raw.bounces.iter().enumerate() {
        if let Err(what) = all.add_bounces(pattern) {
            let help = "write \"bounces@example.net\" or \"bounces+LOCAL=DOMAIN@example.net\"";
            report.error(&format!("reports.bounces.{n}"), what, help);
        }
    }
    (!all.is_empty()).then_some(all)
}

/// How senders are rewritten, by this text of the file of secrets.
pub(super) fn read(of: &SrsFile, text: std::io::Result<Vec<u8>>, problems: &mut Problems) -> Option<Srs> {
    let mut tell = |severity, what: String, help: &str| {
        let name = of.file.display().to_string();
        problems.0.push(Problem::of_file(severity, &name, None, what, help));
    };
    let text = match text {
        Ok(text) => Zeroizing::new(text),
        Err(e) => {
            tell(Severity::Error, format!("the secrets cannot be read: {e}"), "server.user must be able to");
            return None;
        }
    };
    if std::fs::metadata(&of.file).is_ok_and(|m| m.permissions().mode() & 0o007 != 0) {
        let what = "every user of this system can read the secrets".into();
        tell(Severity::Warning, what, "chmod 0640, and the group of server.user");
    }
    match secrets(&text) {
        Ok(secrets) => Some(Srs::new(&of.domain, of.separator, of.max_age, secrets)),
        Err(what) => {
            tell(Severity::Error, what.into(), "one secret a line, 16 characters or more");
            None
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests make files
mod tests {
    use crate::config::Config;
    use crate::config::reload::Reloader;
    use crate::route::srs::Returned;
    use std::sync::Arc;

    const HEAD: &str = "[server]\nhostname = \"mx.example.net\"\n[relay]\nsmarthost = \"192.0.2.1\"\n";

    fn errors(tail: &str) -> Vec<String> {
        let problems = Config::parse(&format!("{HEAD}{tail}"), "t").unwrap_err();
        problems.0.into_iter().map(|p| p.key).collect()
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let srs = "[srs]\ndomain = \"srs.example.net\"\nkey_file = \"/k\"\n";
        let arc = "[arc]\ndomain = \"a.example\"\nselector = \"s\"\nfile = \"/k\"\n";
        let on = "[authenticity]\narc = \"tag\"\n";
        for (tail, key) in [
            ("[srs]\nkey_file = \"/k\"\n".to_owned(), "srs.domain"),
            ("[srs]\ndomain = \"a.example\"\n".into(), "srs.key_file"),
            (format!("{srs}max_age = \"90m\"\n"), "srs.max_age"),
            (format!("{srs}max_age = \"1001d\"\n"), "srs.max_age"),
            (format!("{srs}separator = \"==\"\n"), "srs.separator"),
            ("[reports]\nfeedback = [\"x\"]\n".into(), "reports.feedback[1]"),
            ("[reports]\nbounces = [\"LOCAL=DOMAIN@a.test\"]\n".into(), "reports.bounces[1]"),
            (arc.to_owned(), "arc.domain"),
            (on.to_owned() + &arc.replace("a.example", "a b"), "arc.domain"),
            (on.to_owned() + &arc.replace("selector = \"s\"\n", ""), "arc.selector"),
            (on.to_owned() + &arc.replace("file = \"/k\"\n", ""), "arc.file"),
        ] {
            assert_eq!(errors(&tail), [key], "{tail}");
        }
        let (config, _) = Config::parse(&format!("{HEAD}{srs}{on}{arc}"), "t").unwrap();
        let (srs, arc) = (config.srs.unwrap(), config.arc.unwrap());
        assert_eq!((&*srs.domain, srs.max_age, srs.separator), ("srs.example.net", 21, b'='));
        assert_eq!((&*arc.domain, &*arc.selector), ("a.example", "s"));
    }

    #[test]
    fn secrets_are_read_again_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secrets");
        let text = format!(
            "{HEAD}[srs]\ndomain = \"srs.example.net\"\nkey_file = {:?}\n",
            file.display().to_string()
        );
        let config = Arc::new(Config::parse(&text, "t").unwrap().0);
        assert!(Reloader::start(config.clone()).is_err());
        std::fs::write(&file, "first secret that is long\n").unwrap();
        let (mut reloader, first, _) = Reloader::start(config).unwrap();
        let written = first.forwarded(b"joe@a.example", b"x@b.example", 1).unwrap();
        std::fs::write(&file, "another secret, longer still\nfirst secret that is long\n").unwrap();
        let (second, _) = reloader.poll().unwrap().unwrap();
        assert_eq!(second.returned(&written), Some(Returned::To(b"joe@a.example"[..].into())));
        let new = second.forwarded(b"joe@a.example", b"x@b.example", 1).unwrap();
        assert_eq!((new == written, first.returned(&new)), (false, Some(Returned::Forged)));
        std::fs::write(&file, "short\n").unwrap();
        let problems = reloader.poll().unwrap().unwrap_err().to_string();
        assert!(problems.contains("less than 16") && !problems.contains("short\n"), "{problems}");
    }
}
