//! `[[brake]]`: the rules between its keys.

use super::diagnose::Report;
use super::raw;
use super::units::{ByteRate, Rate};
use crate::policy::brakes::{Action, Failing, Pace, Rule, Scope};

/// The rules as the policy has them.
pub fn resolve(written: &[raw::Brake], report: &mut Report<'_>) -> Vec<Rule> {
    written.iter().enumerate().map(|(n, b)| rule(n, b, report)).collect()
}

fn rule(n: usize, b: &raw::Brake, report: &mut Report<'_>) -> Rule {
    let at = |key: &str| format!("brake.{n}.{key}");
    let by = match b.by {
        raw::BrakeScope::Login => Scope::Login,
        raw::BrakeScope::Address => Scope::Address,
        raw::BrakeScope::Network => Scope::Network,
        raw::BrakeScope::SenderDomain => Scope::SenderDomain,
    };
    let of_logins = [("failed_percent", b.failed_percent != 0), ("waiting", b.waiting != 0)];
    for (key, _) in of_logins.iter().filter(|(_, set)| *set && by != Scope::Login) {
        report.error(&at(key), "is known of logins only", "write by = \"login\"");
    }
    if b.failed_percent > 99 {
        report.error(&at("failed_percent"), "must be below 100: a share above it is braked", "");
    }
    if b.failed_percent != 0 && b.failed_window.0.as_secs() == 0 {
        report.error(&at("failed_window"), "must be a second at least", "");
    }
    let rates = b.messages.0.is_some() || b.recipients.0.is_some() || b.bytes.0.is_some();
    if !rates && of_logins.iter().all(|(_, set)| !set) {
        let help = "write messages, recipients, bytes, failed_percent or waiting";
        report.error(&format!("brake.{n}"), "limits nothing", help);
    }
    let failing = (b.failed_percent != 0).then_some(Failing {
        percent: b.failed_percent,
        least: b.failed_least,
        window: b.failed_window.0,
    });
    Rule {
        by,
        messages: pace(b.messages),
        recipients: pace(b.recipients),
        kib: kib(b.bytes),
        failing,
        queue: b.waiting,
        trusted: b.trusted,
        action: action(b.action),
    }
}

/// What is done.
pub fn action(written: raw::BrakeAction) -> Action {
    match written {
        raw::BrakeAction::Tempfail => Action::Tempfail,
        raw::BrakeAction::Hold => Action::Hold,
        raw::BrakeAction::Reject => Action::Reject,
    }
}

fn pace(rate: Rate) -> Option<Pace> {
    rate.0.map(|r| Pace { count: r.count, per: r.per })
}

fn kib(rate: ByteRate) -> Option<Pace> {
    let count = |bytes: u64| u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    rate.0.map(|r| Pace { count: count(r.bytes), per: r.per })
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Severity};
    use crate::policy::brakes::{Action, Failing, Pace, Scope};
    use std::time::Duration;

    const SMALL: &str =
        "[server]\nhostname = \"mx.example.net\"\n[relay]\nsmarthost = \"192.0.2.1\"\n[[brake]]\n";

    #[test]
    fn a_rule_as_it_is_meant() {
        let text = "by = \"sender-domain\"\nmessages = \"5/min\"\nbytes = \"1MiB/h\"\naction = \"hold\"\n";
        let (config, _) = Config::parse(&(SMALL.to_owned() + text), "t").unwrap();
        let rule = &config.brakes[0];
        assert_eq!((rule.by, rule.action, rule.queue), (Scope::SenderDomain, Action::Hold, 0));
        assert_eq!(rule.messages, Some(Pace { count: 5, per: Duration::from_secs(60) }));
        assert_eq!(rule.kib, Some(Pace { count: 1024, per: Duration::from_secs(3600) }));
        let (config, _) = Config::parse(&(SMALL.to_owned() + "failed_percent = 30\n"), "t").unwrap();
        let failing = Failing { percent: 30, least: 50, window: Duration::from_secs(3600) };
        assert_eq!((config.brakes[0].by, config.brakes[0].failing), (Scope::Login, Some(failing)));
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (text, key) in [
            ("", "brake[1]"),
            ("by = \"address\"\nwaiting = 5\n", "brake[1].waiting"),
            ("by = \"network\"\nfailed_percent = 5\n", "brake[1].failed_percent"),
            ("failed_percent = 100\n", "brake[1].failed_percent"),
            ("failed_percent = 10\nfailed_window = \"0s\"\n", "brake[1].failed_window"),
        ] {
            let problems = Config::parse(&(SMALL.to_owned() + text), "t").unwrap_err();
            let errors: Vec<&str> =
                problems.0.iter().filter(|p| p.severity == Severity::Error).map(|p| p.key.as_str()).collect();
            assert_eq!(errors, [key], "{text}");
        }
    }
}
