//! `ringpost doctor`: is this host fit for the server, and what is to be changed?
//!
//! Owns the order of the checks and their print-out. Changes nothing but a file of a few KiB in the data
//! directory, which it removes. Every check is bounded in time; all together take 30 s at most, and a few
//! when all is well. Exit code 78 if the server would not start or would not keep mail safe, 0 otherwise
//! (what could be better is said, too).

mod disk;
mod host;
mod net;

use super::{ConfigFile, Exit};
use crate::config::Config;
use serde::Serialize;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Arguments of `doctor`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Also see whether mail can leave: connect to this mail exchanger, as host:port
    #[arg(long, value_name = "HOST:PORT")]
    reach: Option<String>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What a check has found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// Cannot be seen from here.
    Unknown,
    /// Could be better.
    Change,
    /// The server would not start, or would not keep mail safe.
    Must,
}

/// The result of one check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Finding {
    /// What was looked at: a short name for scripts.
    check: &'static str,
    verdict: Verdict,
    /// How it is.
    is: String,
    /// What to do about it; empty: nothing.
    change: String,
    /// Why it matters.
    why: &'static str,
}

impl Finding {
    fn ok(check: &'static str, is: impl Into<String>, why: &'static str) -> Self {
        Finding { check, verdict: Verdict::Ok, is: is.into(), change: String::new(), why }
    }

    fn unknown(check: &'static str, is: impl Into<String>, why: &'static str) -> Self {
        Finding { verdict: Verdict::Unknown, ..Self::ok(check, is, why) }
    }

    fn change(self, change: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Change, change: change.into(), ..self }
    }

    fn must(self, change: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Must, ..self.change(change) }
    }

    /// As it is if `good`, else with what to change.
    fn unless(self, good: bool, change: impl Into<String>) -> Self {
        if good { self } else { self.change(change) }
    }
}

/// What the checks need of the configuration.
pub(super) struct Setting {
    data_dir: PathBuf,
    weak: bool,
    free_min: u64,
    hostname: Option<String>,
    listeners: Vec<SocketAddr>,
    config: Option<Config>,
}

impl Setting {
    /// Of the file; or of the defaults, with what is wrong with it.
    fn read(file: &ConfigFile) -> (Self, Finding) {
        let name = file.config.display();
        let why = "doctor looks at what it names; with the defaults it may look at the wrong places";
        match Config::load(&file.config) {
            Ok((config, _)) => {
                let setting = Setting {
                    data_dir: config.data_dir.clone(),
                    weak: config.storage.durability == crate::config::raw::Durability::Weak,
                    free_min: config.storage.free_min.0,
                    hostname: Some(config.hostname.clone()),
                    listeners: config.listeners.iter().flat_map(|l| l.addresses.clone()).collect(),
                    config: Some(config),
                };
                (setting, Finding::ok("configuration", format!("{name} can be read"), why))
            }
            Err(problems) => {
                let setting = Setting {
                    data_dir: "/var/lib/ringpost".into(),
                    weak: false,
                    free_min: 1 << 30,
                    hostname: None,
                    listeners: Vec::new(),
                    config: None,
                };
                let first = problems.0.first().map_or("", |p| &*p.message);
                let finding = Finding::ok("configuration", format!("{name}: {first}"), why);
                (setting, finding.change(format!("ringpost check -c {name}, then run doctor again")))
            }
        }
    }
}

/// Runs the command; prints to `out`.
pub fn run(args: &Args, out: &mut impl Write) -> Exit {
    let (setting, read) = Setting::read(&args.file);
    let mut findings = vec![read];
    findings.extend(host::checks());
    findings.extend(disk::checks(&setting));
    findings.extend(net::checks(&setting, args.reach.as_deref()));
    let printed = if args.json { print_json(&findings, out) } else { print(&findings, out) };
    let worst = findings.iter().map(|f| f.verdict).max();
    match (printed, worst) {
        (Err(_), _) => Exit::Io,
        (Ok(()), Some(Verdict::Must)) => Exit::Config,
        (Ok(()), _) => Exit::Ok,
    }
}

fn count(findings: &[Finding], verdict: Verdict) -> usize {
    findings.iter().filter(|f| f.verdict == verdict).count()
}

fn print(findings: &[Finding], out: &mut impl Write) -> std::io::Result<()> {
    for f in findings {
        let word = match f.verdict {
            Verdict::Ok => "ok",
            Verdict::Unknown => "unknown",
            Verdict::Change => "change",
            Verdict::Must => "MUST",
        };
        writeln!(out, "{word:<8}{:<30}{}", f.check, f.is)?;
        if f.verdict >= Verdict::Change {
            writeln!(out, "        change this:                  {}", f.change)?;
            writeln!(out, "        why:                          {}", f.why)?;
        }
    }
    let [must, change, unknown] =
        [Verdict::Must, Verdict::Change, Verdict::Unknown].map(|v| count(findings, v));
    match (must, change) {
        (0, 0) => writeln!(out, "this host is fit; {unknown} checks could not be made"),
        (0, _) => writeln!(out, "this host will do; {change} things could be better"),
        _ => writeln!(out, "this host will NOT do: {must} things must be changed, {change} could be better"),
    }
}

fn print_json(findings: &[Finding], out: &mut impl Write) -> std::io::Result<()> {
    let object = serde_json::json!({
        "fit": count(findings, Verdict::Must) == 0,
        "must": count(findings, Verdict::Must),
        "change": count(findings, Verdict::Change),
        "unknown": count(findings, Verdict::Unknown),
        "findings": findings,
    });
    writeln!(out, "{object:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(findings: &[Finding]) -> String {
        let mut out = Vec::new();
        print(findings, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_to_be_changed_is_said_with_the_reason() {
        let good = Finding::ok("kernel", "6.12", "old ones lack operations");
        assert!(
            shown(std::slice::from_ref(&good)).ends_with("this host is fit; 0 checks could not be made\n")
        );
        let bad = Finding::ok("limit", "1024", "sessions are descriptors").unless(false, "ulimit -n 1048576");
        let text = shown(&[good.clone(), bad.clone()]);
        assert!(text.contains("ok      kernel"), "{text}");
        assert!(text.contains("change this:                  ulimit -n 1048576\n"), "{text}");
        assert!(text.contains("why:                          sessions are descriptors\n"), "{text}");
        assert!(text.ends_with("this host will do; 1 things could be better\n"), "{text}");
        let worse = good.clone().must("boot a newer one");
        assert!(shown(&[bad, worse]).contains("will NOT do: 1 things must be changed, 1 could be better"));
        assert_eq!(good.clone().unless(true, "nothing"), good);
    }

    #[test]
    fn json_names_every_check() {
        let mut out = Vec::new();
        let unknown = Finding::unknown("clock", "not told", "times");
        print_json(&[unknown.clone(), unknown.must("x")], &mut out).unwrap();
        let object: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((object["fit"].as_bool(), object["unknown"].as_u64()), (Some(false), Some(1)));
        assert_eq!(object["findings"][0]["verdict"], "unknown");
        assert_eq!(object["findings"][1]["verdict"], "must");
    }
}
