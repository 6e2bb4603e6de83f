//! `ringpost top`: what the running server does, on a terminal screen, once a second.
//!
//! Owns the words on the screen. All figures are series of `/metrics` and `queue stats`, asked for over the
//! admin socket; rates are what has been added since the frame before ([`crate::admin::frame`]). A terminal
//! is used as it is: what does not fit is cut, `q` and Ctrl-C end it. Exit codes as those of `ringpost
//! queue`.

#![allow(clippy::disallowed_methods, reason = "a program for operators looks at the clock, and waits")]

use super::queue::{Contact, converse, escape, fetch};
use super::terminal::{Terminal, Woken};
use crate::admin::frame::{Sample, frame, series};
use crate::admin::wire::{Command, Line};
use crate::config::units::Duration;
use clap::Args;
use serde_json::Value;
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
    /// Destinations at most; on a terminal as many as fit, else 12
    #[arg(long, value_name = "N")]
    destinations: Option<usize>,
}

/// Destinations where there is no terminal.
const DESTINATIONS: usize = 12;
/// Shortest time between two frames.
const SHORTEST: std::time::Duration = std::time::Duration::from_millis(100);

impl TopArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let mut before = match self.sample() {
            Ok(sample) => sample,
            Err(code) => return code,
        };
        let mut terminal = if self.once || self.json { None } else { Terminal::take() };
        let mut shown = String::new();
        loop {
            let until = Instant::now() + self.every.0.max(SHORTEST);
            match &mut terminal {
                None => std::thread::sleep(until.saturating_duration_since(Instant::now())),
                Some(terminal) => loop {
                    match terminal.wait(until) {
                        Woken::Time => break,
                        Woken::Quit => return ExitCode::SUCCESS,
                        Woken::Resized => terminal.show(&shown),
                    }
                },
            }
            let now = match self.sample() {
                Ok(sample) => sample,
                Err(code) => return code,
            };
            let rows = terminal.as_ref().map_or(DESTINATIONS, |t| t.size().rows);
            let frame = frame(&before, &now, self.destinations.unwrap_or(rows));
            match &terminal {
                Some(terminal) => {
                    shown = screen(&frame);
                    terminal.show(&shown);
                }
                None => {
                    let text = if self.json { format!("{frame}\n") } else { screen(&frame) };
                    let mut out = io::stdout().lock();
                    // The reader of a pipe has gone: nobody looks any more.
                    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() || self.once {
                        return ExitCode::SUCCESS;
                    }
                }
            }
            before = now;
        }
    }

    fn sample(&self) -> Result<Sample, ExitCode> {
        let (mut text, mut queues) = (String::new(), Vec::new());
        let code =
            fetch(&self.contact, &Command::Metrics, "top", |body| body.read_to_string(&mut text).map(drop));
        if code != ExitCode::SUCCESS {
            return Err(code);
        }
        let code = converse(&self.contact, &Command::Stats, "top", |line| {
            if let Line::Stats(stats) = line {
                queues.push(stats);
            }
            Ok(())
        });
        let sample = Sample { at: Instant::now(), series: series(&text), queues };
        if code == ExitCode::SUCCESS { Ok(sample) } else { Err(code) }
    }
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
    use serde_json::json;

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
