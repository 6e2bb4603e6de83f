//! `[access]` and `[[dnsbl]]`: where the maps are, which DNS lists are asked, who is to come again.

use super::brakes::action;
use super::diagnose::Report;
use super::raw;
use super::resolve::path;
use crate::policy::greylist::Options as Greylisting;
use crate::policy::lists::List;
use crate::route::destination::host_name;
use crate::smtp::serve::lists::Options;
use std::path::PathBuf;

/// Map files; none of them: nothing is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    /// Of clients.
    pub client: Option<PathBuf>,
    /// Of names in EHLO and HELO.
    pub helo: Option<PathBuf>,
    /// Of senders.
    pub sender: Option<PathBuf>,
    /// Of recipients.
    pub recipient: Option<PathBuf>,
}

/// The files as they were named.
pub fn resolve(raw: &raw::Access, report: &mut Report<'_>) -> Access {
    Access {
        client: path(&raw.client, "access.client", report),
        helo: path(&raw.helo, "access.helo", report),
        sender: path(&raw.sender, "access.sender", report),
        recipient: path(&raw.recipient, "access.recipient", report),
    }
}

/// The DNS lists.
pub fn lists(written: &[raw::Dnsbl], raw: &raw::Access, report: &mut Report<'_>) -> Options {
    let mut lists: Vec<List> = Vec::new();
    for (n, l) in written.iter().enumerate() {
        let at = |key: &str| format!("dnsbl.{n}.{key}");
        if l.score == 0 {
            report.error(&at("score"), "a score of 0 changes nothing", "below 0 is for lists of the good");
        }
        let codes = l.codes.iter().map(|c| c.0).collect();
        match host_name(&l.zone) {
            Ok(zone) if lists.iter().any(|l| l.zone == zone) => {
                report.error(&at("zone"), "is listed twice", "");
            }
            Ok(zone) => lists.push(List { zone, codes, score: l.score }),
            Err(e) => report.error(&at("zone"), e, "write a zone such as \"zen.spamhaus.org\""),
        }
    }
    if lists.len() > LISTS_MAX {
        report.error("dnsbl", format!("more than {LISTS_MAX} lists"), "");
    }
    if raw.dnsbl_threshold < 1 {
        report.error("access.dnsbl_threshold", "must be 1 at least", "");
    }
    if raw.dnsbl_time.0.is_zero() {
        report.error("access.dnsbl_time", "must be above 0", "");
    }
    Options {
        lists,
        threshold: raw.dnsbl_threshold,
        action: action(raw.dnsbl_action),
        text: raw.dnsbl_text.clone(),
        time: raw.dnsbl_time.0,
    }
}

/// Greylisting, if it is on.
pub fn greylist(raw: &raw::Access, report: &mut Report<'_>) -> Option<Greylisting> {
    let options = Greylisting {
        delay: raw.greylist_delay.0,
        window: raw.greylist_window.0,
        known: raw.greylist_known.0,
    };
    if options.delay.as_secs() == 0 || options.delay >= options.window {
        let what = "must be a second at least, and below access.greylist_window";
        report.error("access.greylist_delay", what, "");
    }
    raw.greylist.then_some(options)
}

/// Lists at most: all are asked about each client.
const LISTS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use crate::config::{Config, Severity};

    const SMALL: &str = "[server]\nhostname = \"mx.example.net\"\n[relay]\nsmarthost = \"192.0.2.1\"\n";

    #[test]
    fn dns_lists_and_greylist() {
        let text = "[access]\ndnsbl_threshold = 3\n[[dnsbl]]\nzone = \"ZEN.l.test\"\n\
                    codes = [\"127.0.0.0/29\"]\nscore = 3\n[[dnsbl]]\nzone = \"good.test\"\nscore = -2\n";
        let (config, _) = Config::parse(&(SMALL.to_owned() + text), "t").unwrap();
        let lists = &config.lists;
        assert_eq!((lists.threshold, lists.lists.len(), lists.lists[1].score), (3, 2, -2));
        assert_eq!((lists.lists[0].zone.as_str(), lists.lists[0].codes.len()), ("zen.l.test", 1));
        for (text, key) in [
            ("[[dnsbl]]\nzone = \"l.test\"\nscore = 0\n", "dnsbl[1].score"),
            ("[[dnsbl]]\nzone = \"l t\"\n", "dnsbl[1].zone"),
            ("[access]\ndnsbl_threshold = 0\n", "access.dnsbl_threshold"),
            ("[access]\ndnsbl_time = 0\n", "access.dnsbl_time"),
            ("[access]\ngreylist_delay = \"3d\"\n", "access.greylist_delay"),
        ] {
            let problems = Config::parse(&(SMALL.to_owned() + text), "t").unwrap_err();
            let first = problems.0.iter().find(|p| p.severity == Severity::Error).unwrap();
            assert_eq!(first.key, key, "{text}");
        }
    }
}
