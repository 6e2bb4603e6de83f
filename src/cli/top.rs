//! `ringpost top`: what the running server does, on a terminal screen, once a second.
//!
//! Owns the screen and the sums. All figures are series of `/metrics` and `queue stats`, asked for over the
//! admin socket; rates are what has been added since the frame before. Plain escape sequences: home and
//! clear, nothing that must be undone at the end. Exit codes as those of `ringpost queue`.

#![allow(clippy::disallowed_methods, reason = "a program for operators looks at the clock, and waits")]

use super::queue::{Contact, converse, escape};
use crate::admin::wire::{Command, Line};
use crate::config::units::Duration;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Instant;

/// Arguments.
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    contact: Contact,
    /// One frame, then the end: for pipes
    #[arg(long)]
    once: bool,
    /// One JSON object a frame
    #[arg(long)]
    json: bool,
    /// Time between two frames
    #[arg(long, value_name = "TIME", default_value = "1s")]
    every: Duration,
    /// Destinations at most
    #[arg(long, value_name = "N", default_value_t = 12)]
    destinations: usize,
}

/// Series by name and labels as they stand in the text.
type Series = BTreeMap<String, f64>;

/// What the server says at one moment.
struct Sample {
    at: Instant,
    series: Series,
    queues: Vec<Value>,
}

/// Open sessions, by protocol.
const SESSIONS: [&str; 3] = ["ringpost_smtp_sessions", "ringpost_pop3_sessions", "ringpost_imap_sessions"];
/// Shortest time between two frames.
const SHORTEST: std::time::Duration = std::time::Duration::from_millis(100);

impl TopArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let mut before = match self.sample() {
            Ok(sample) => sample,
            Err(code) => return code,
        };
        loop {
            std::thread::sleep(self.every.0.max(SHORTEST));
            let now = match self.sample() {
                Ok(sample) => sample,
                Err(code) => return code,
            };
            let frame = frame(&before, &now, self.destinations);
            let text = match (self.json, self.once) {
                (true, _) => format!("{frame}\n"),
                (false, true) => screen(&frame),
                (false, false) => format!("\x1b[H\x1b[J{}", screen(&frame)),
            };
            let mut out = io::stdout().lock();
            // The reader of a pipe has gone: nobody looks any more.
            if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() || self.once {
                return ExitCode::SUCCESS;
            }
            before = now;
        }
    }

    fn sample(&self) -> Result<Sample, ExitCode> {
        let (mut text, mut queues) = (String::new(), Vec::new());
        let code = converse(&self.contact, &Command::Metrics, "top", |line, input| {
            let Line::Bytes(n) = line else { return Ok(()) };
            input.take(n).read_to_string(&mut text).map(drop)
        });
        if code != ExitCode::SUCCESS {
            return Err(code);
        }
        let code = converse(&self.contact, &Command::Stats, "top", |line, _| {
            if let Line::Stats(stats) = line {
                queues.push(stats);
            }
            Ok(())
        });
        let sample = Sample { at: Instant::now(), series: series(&text), queues };
        if code == ExitCode::SUCCESS { Ok(sample) } else { Err(code) }
    }
}

/// The series of the text of `/metrics`.
fn series(text: &str) -> Series {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' ').and_then(|(name, v)| Some((name.into(), v.parse().ok()?))))
        .collect()
}

/// The sum of the series `name` whose labels contain `label`.
fn sum(series: &Series, name: &str, label: &str) -> f64 {
    let of_name = series.range(name.to_owned()..).take_while(|(key, _)| key.starts_with(name));
    let fits = |key: &str| {
        let rest = &key[name.len()..];
        (rest.is_empty() || rest.starts_with('{')) && rest.contains(label)
    };
    of_name.filter(|(key, _)| fits(key)).map(|(_, v)| v).sum()
}

/// The value of a label in the text of a series.
fn label<'a>(key: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = key.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

/// All that is shown.
fn frame(before: &Sample, now: &Sample, most: usize) -> Value {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
    let rate = |name: &str, label: &str| {
        let added = sum(&now.series, name, label) - sum(&before.series, name, label);
        (added.max(0.0) / seconds * 10.0).round() / 10.0
    };
    let level = |name: &str, label: &str| sum(&now.series, name, label) as u64;
    let of_queues = |key: &str| now.queues.iter().filter_map(|q| q[key].as_u64()).sum::<u64>();
    json!({
        "cores": cores(before, now, seconds),
        "rates": {
            "in": rate("ringpost_messages_received_total", ""),
            "in_bytes": rate("ringpost_bytes_received_total", ""),
            "delivered": rate("ringpost_deliveries_total", "result=\"delivered\""),
            "deferred": rate("ringpost_deliveries_total", "result=\"deferred\""),
            "bounced": rate("ringpost_deliveries_total", "result=\"bounced\""),
            "rejected": rate("ringpost_rejections_total", ""),
            "commits": rate("ringpost_commits_total", ""),
        },
        "sessions": {
            "smtp": level("ringpost_smtp_sessions", ""),
            "pop3": level("ringpost_pop3_sessions", ""),
            "imap": level("ringpost_imap_sessions", ""),
            "out": level("ringpost_connections", "direction=\"out\""),
        },
        "queue": {
            "messages": of_queues("messages"),
            "active": of_queues("active"),
            "deferred": of_queues("deferred"),
            "held": of_queues("held"),
            "bytes": of_queues("bytes"),
            "oldest_seconds": level_max(&now.series, "ringpost_queue_oldest_seconds"),
        },
        "destinations": destinations(now, most),
    })
}

fn level_max(series: &Series, name: &str) -> u64 {
    let of_name = series.range(name.to_owned()..).take_while(|(key, _)| key.starts_with(name));
    of_name.map(|(_, v)| *v as u64).max().unwrap_or(0)
}

fn cores(before: &Sample, now: &Sample, seconds: f64) -> Vec<Value> {
    let name = "ringpost_core_cpu_seconds_total";
    let all = now.series.range(name.to_owned()..).take_while(|(key, _)| key.starts_with(name));
    all.map(|(key, value)| {
        let core = label(key, "core").unwrap_or("");
        let mine = format!("core=\"{core}\"");
        let states = now.series.range("ringpost_core_state{".to_owned()..);
        let states = states.take_while(|(key, _)| key.starts_with("ringpost_core_state{"));
        let mut states = states.filter(|(key, v)| **v == 1.0 && key.contains(&mine));
        let state = states.find_map(|(key, _)| label(key, "state"));
        let used = value - before.series.get(key).copied().unwrap_or(*value);
        let per = |name: &str| sum(&now.series, name, &mine) as u64;
        json!({
            "core": core,
            "role": label(key, "role"),
            "state": state,
            "cpu_percent": (used / seconds * 1000.0).round() / 10.0,
            "sessions": SESSIONS.iter().map(|name| per(name)).sum::<u64>(),
        })
    })
    .collect()
}

/// Those with the most messages; several queues may have the same.
fn destinations(now: &Sample, most: usize) -> Vec<Value> {
    let mut all: BTreeMap<String, (u64, u64, u64, String)> = BTreeMap::new();
    for d in now.queues.iter().filter_map(|q| q["destinations"].as_array()).flatten() {
        let number = |key: &str| d[key].as_u64().unwrap_or(0);
        let one = all.entry(d["name"].as_str().unwrap_or("").to_owned()).or_default();
        one.0 += number("ready");
        one.1 += number("connections");
        one.2 = one.2.max(number("failures"));
        if let Some(reason) = d["reason"].as_str() {
            reason.clone_into(&mut one.3);
        }
    }
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by(|a, b| (b.1.0, b.1.1).cmp(&(a.1.0, a.1.1)).then_with(|| a.0.cmp(&b.0)));
    let one = |(name, d): (String, (u64, u64, u64, String))| {
        let (ready, connections, failures, reason) = d;
        json!({
            "name": name,
            "ready": ready,
            "connections": connections,
            "failures": failures,
            "reason": reason,
        })
    };
    all.into_iter().take(most).map(one).collect()
}

fn screen(frame: &Value) -> String {
    let mut out = String::new();
    let word = |v: &Value| escape(v.as_str().unwrap_or("-"));
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{:>4} {:<7} {:<9} {:>6} {:>9}", "CORE", "ROLE", "STATE", "CPU%", "SESSIONS");
    for c in frame["cores"].as_array().into_iter().flatten() {
        let (core, role, state) = (word(&c["core"]), word(&c["role"]), word(&c["state"]));
        let cpu = c["cpu_percent"].as_f64().unwrap_or(0.0);
        let _ = writeln!(out, "{core:>4} {role:<7} {state:<9} {cpu:>6.1} {:>9}", c["sessions"].to_string());
    }
    let (r, q, s) = (&frame["rates"], &frame["queue"], &frame["sessions"]);
    let _ = writeln!(
        out,
        "\nqueue     {} messages: {} active, {} deferred, {} held; {} KiB; oldest {} s",
        q["messages"],
        q["active"],
        q["deferred"],
        q["held"],
        q["bytes"].as_u64().unwrap_or(0) / 1024,
        q["oldest_seconds"]
    );
    let _ = writeln!(
        out,
        "a second  in {}, delivered {}, deferred {}, bounced {}, rejected {}; {} KiB in, {} commits",
        r["in"],
        r["delivered"],
        r["deferred"],
        r["bounced"],
        r["rejected"],
        (r["in_bytes"].as_f64().unwrap_or(0.0) / 1024.0).round(),
        r["commits"]
    );
    let _ = writeln!(
        out,
        "sessions  smtp {}, pop3 {}, imap {}; connections out {}\n",
        s["smtp"], s["pop3"], s["imap"], s["out"]
    );
    let _ = writeln!(out, "{:>8} {:>5} {:>8}  DESTINATION", "READY", "CONN", "FAILURES");
    for d in frame["destinations"].as_array().into_iter().flatten() {
        let reason: String = word(&d["reason"]).chars().take(60).collect();
        let numbers = [&d["ready"], &d["connections"], &d["failures"]].map(Value::to_string);
        let [ready, connections, failures] = numbers;
        let _ = writeln!(out, "{ready:>8} {connections:>5} {failures:>8}  {} {reason}", word(&d["name"]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# HELP x y\nringpost_messages_received_total{core=\"0\"} 10\n\
        ringpost_messages_received_total{core=\"1\"} 5\n\
        ringpost_core_cpu_seconds_total{core=\"0\",role=\"mta\"} 1.0\n";
    const AFTER: &str = "ringpost_messages_received_total{core=\"0\"} 30\n\
        ringpost_messages_received_total{core=\"1\"} 5\n\
        ringpost_core_cpu_seconds_total{core=\"0\",role=\"mta\"} 2.0\n\
        ringpost_core_state{core=\"0\",role=\"mta\",state=\"ready\"} 1\n\
        ringpost_core_state{core=\"0\",role=\"mta\",state=\"full\"} 0\n\
        ringpost_smtp_sessions{core=\"0\"} 7\nringpost_smtp_sessions_x{core=\"0\"} 100\n";

    fn sample(text: &str, at: Instant) -> Sample {
        let d =
            json!({"name": "mx:a\u{1b}", "ready": 4, "connections": 1, "failures": 2, "reason": "450 no"});
        let small = json!({"name": "mx:b", "ready": 1, "connections": 0, "failures": 0});
        let queue = json!({"messages": 9, "active": 5, "deferred": 4, "held": 0, "bytes": 2048,
            "destinations": [small, d]});
        Sample { at, series: series(text), queues: vec![queue.clone(), queue] }
    }

    #[test]
    fn a_frame_has_rates_cores_and_the_largest_destinations() {
        let at = Instant::now();
        let (before, now) = (sample(BEFORE, at), sample(AFTER, at + std::time::Duration::from_secs(2)));
        let frame = frame(&before, &now, 1);
        assert_eq!(frame["rates"]["in"], 10.0);
        assert_eq!(
            (&frame["cores"][0]["cpu_percent"], &frame["cores"][0]["state"]),
            (&50.0.into(), &"ready".into())
        );
        assert_eq!((&frame["sessions"]["smtp"], &frame["queue"]["messages"]), (&7.into(), &18.into()));
        let d = frame["destinations"].as_array().unwrap();
        assert_eq!((d.len(), &d[0]["ready"], &d[0]["connections"]), (1, &8.into(), &2.into()));
        let text = screen(&frame);
        assert!(text.contains("in 10.0, delivered 0.0") && text.contains("450 no"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
