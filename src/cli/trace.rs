//! `ringpost trace`: the lines of protocols that pass between the server and a peer, live.
//!
//! Owns the print-out. Ends when it is interrupted, or after `--for`. Exit codes as those of
//! `ringpost queue`.

use super::queue::{Contact, converse, escape};
use crate::admin::wire::{Command, Line};
use crate::config::units::Duration;
use clap::{Args, ValueEnum};
use std::io::{self, Write};
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, Args)]
pub struct TraceArgs {
    #[command(flatten)]
    contact: Contact,
    /// Sessions that the peer has opened, or connections that we have
    #[arg(value_enum)]
    way: WayWord,
    /// An address; outwards also the name of a host, or the end of one; or *
    peer: String,
    /// End after this time
    #[arg(long = "for", value_name = "TIME", default_value = "1h")]
    time: Duration,
    /// Lines of JSON
    #[arg(long)]
    json: bool,
}

/// Who has connected to whom.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum WayWord {
    In,
    Out,
}

impl TraceArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let json = self.json;
        let command = Command::Trace {
            outwards: matches!(self.way, WayWord::Out),
            peer: self.peer,
            seconds: self.time.0.as_secs().max(1),
        };
        let mut out = io::stdout().lock();
        converse(&self.contact, &command, "trace", |line| match line {
            Line::Traced(value) if json => writeln!(out, "{value}").and_then(|()| out.flush()),
            Line::Traced(value) => {
                let word = |key: &str| escape(value[key].as_str().unwrap_or(""));
                let mark = if value["client"] == true { "C:" } else { "S:" };
                let time = word("time");
                let clock = time.get(11..23).unwrap_or(&time);
                writeln!(out, "{clock} {} {mark} {}", word("peer"), word("text"))?;
                out.flush()
            }
            Line::Progress { done, .. } if done > 0 => {
                eprintln!("{done} lines were not kept: they came too fast");
                Ok(())
            }
            _ => Ok(()),
        })
    }
}
