//! `ringpost who`, `kick`, `drain`, `suspend`, `resume`: the running server's sessions and ways out.
//!
//! Owns arguments and print-out. Exit codes as those of `ringpost queue`.

#![allow(clippy::disallowed_methods, reason = "a program for operators waits for the server")]

use super::queue::{Contact, converse, escape, fail, simply};
use crate::admin::wire::{Command, Line};
use crate::config::units::Duration;
use clap::Args;
use serde_json::Value;
use std::io::{self, Write};
use std::process::ExitCode;

/// Arguments of commands without any of their own.
#[derive(Debug, Args)]
pub struct Plain {
    #[command(flatten)]
    contact: Contact,
    /// Lines of JSON
    #[arg(long)]
    json: bool,
}

impl Plain {
    /// `ringpost who`.
    pub fn who(self) -> ExitCode {
        let mut out = io::stdout().lock();
        let mut count = 0u64;
        let json = self.json;
        let code = converse(&self.contact, &Command::Who, "who", |line| {
            let Line::Session(s) = line else { return Ok(()) };
            if json {
                return writeln!(out, "{s}");
            }
            if count == 0 {
                writeln!(
                    out,
                    "{:<12} {:>4} {:<6} {:>9}  {:<30} USER",
                    "PROTOCOL", "CORE", "STATE", "AGE", "FROM"
                )?;
            }
            count += 1;
            session(&mut out, &s)
        });
        if code == ExitCode::SUCCESS && !json {
            println!("{count} sessions");
        }
        code
    }
}

fn session(out: &mut impl Write, s: &Value) -> io::Result<()> {
    let word = |key: &str| escape(s[key].as_str().unwrap_or(""));
    let age = Duration::s(s["seconds"].as_u64().unwrap_or(0));
    let (service, state, peer, user) = (word("service"), word("state"), word("peer"), word("user"));
    let (core, age) = (&s["core"], age.to_string());
    writeln!(out, "{service:<12} {core:>4} {state:<6} {age:>9}  {peer:<30} {user}")
}

/// Arguments of `kick`.
#[derive(Debug, Args)]
pub struct KickArgs {
    #[command(flatten)]
    plain: Plain,
    /// A login, or an address
    #[arg(value_name = "USER|ADDRESS")]
    whom: String,
}

impl KickArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        simply(&self.plain.contact, self.plain.json, Command::Kick { whom: self.whom }, "kick")
    }
}

/// Arguments of `suspend`.
#[derive(Debug, Args)]
pub struct SuspendArgs {
    #[command(flatten)]
    plain: Plain,
    /// A destination, a site or a domain as `queue stats` and `why` name it; or `*.example.net`, or `*`
    #[arg(required_unless_present = "list", conflicts_with = "list")]
    destination: Option<String>,
    /// Why; shown by `why`, and told to senders whose mail expires meanwhile
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Resume by itself after this time, such as 30m or 4h
    #[arg(long = "for", value_name = "TIME")]
    time: Option<Duration>,
    /// List what is suspended
    #[arg(long)]
    list: bool,
}

impl SuspendArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let command = match self.destination {
            Some(what) => {
                Command::Suspend { what, reason: self.reason, seconds: self.time.map(|t| t.0.as_secs()) }
            }
            None => Command::Rules,
        };
        simply(&self.plain.contact, self.plain.json, command, "suspend")
    }
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    plain: Plain,
    /// What was suspended, or the number of the rule
    destination: String,
}

impl ResumeArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        simply(&self.plain.contact, self.plain.json, Command::Resume { which: self.destination }, "resume")
    }
}

/// Arguments of `drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    plain: Plain,
    /// Take mail again
    #[arg(long, conflicts_with_all = ["wait", "limit"])]
    cancel: bool,
    /// Say how it goes until the queue is empty; the server goes on when this is interrupted
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this; exit code 75 if the queue is not empty then
    #[arg(long = "for", value_name = "TIME", requires = "wait")]
    limit: Option<Duration>,
}

/// What is left.
#[derive(Default, Clone, Copy)]
struct Left {
    messages: u64,
    active: u64,
    deferred: u64,
    held: u64,
}

impl DrainArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let (contact, json) = (&self.plain.contact, self.plain.json);
        let code = converse(contact, &Command::Drain { on: !self.cancel }, "drain", |_| Ok(()));
        if code != ExitCode::SUCCESS {
            return code;
        }
        if self.cancel {
            if !json {
                println!("mail is taken again");
            }
            return code;
        }
        let begun = std::time::Instant::now();
        loop {
            let left = match left(contact) {
                Ok(left) => left,
                Err(code) => return code,
            };
            tell(left, json);
            if left.messages == 0 || !self.wait {
                return ExitCode::SUCCESS;
            }
            if self.limit.is_some_and(|limit| begun.elapsed() >= limit.0) {
                return fail("drain", 75, "the queue is not empty yet; no mail is taken");
            }
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
}

fn left(contact: &Contact) -> Result<Left, ExitCode> {
    let mut left = Left::default();
    let code = converse(contact, &Command::Stats, "drain", |line| {
        if let Line::Stats(s) = line {
            let number = |key: &str| s[key].as_u64().unwrap_or(0);
            left.messages += number("messages");
            left.active += number("active");
            left.deferred += number("deferred");
            left.held += number("held");
        }
        Ok(())
    });
    if code == ExitCode::SUCCESS { Ok(left) } else { Err(code) }
}

fn tell(left: Left, json: bool) {
    let Left { messages, active, deferred, held } = left;
    if json {
        println!("{{\"messages\":{messages},\"active\":{active},\"deferred\":{deferred},\"held\":{held}}}");
    } else {
        println!(
            "no mail is taken; {messages} messages left: {active} active, {deferred} deferred, {held} held"
        );
    }
}
