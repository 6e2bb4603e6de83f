//! `ringpost queue`: look at the queue of a running server and change it.
//!
//! Talks to the admin socket; reads no journal. Exit codes: 0 done, 65 no such message, 69 no server
//! there, 74 the connection broke, 75 the server could not do it now, 78 the configuration is wrong.

#![allow(clippy::disallowed_methods, reason = "a program for operators: opens the admin socket")]

use crate::admin::wire::{Command, Line, Which};
use crate::config::Config;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

/// Look at the queue of a running server, and change it.
#[derive(Debug, Args)]
pub struct QueueArgs {
    /// Configuration file, for the place of the admin socket.
    #[arg(short, long, global = true, default_value = "/etc/ringpost/ringpost.toml", value_name = "FILE")]
    config: PathBuf,
    /// Admin socket, instead of asking the configuration file.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Lines of JSON with the field names of `postqueue -j`.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// All messages, oldest first within each core's queue.
    List {
        /// Only those that may have been delivered twice: they were in flight when the last run ended.
        #[arg(long)]
        in_doubt: bool,
    },
    /// Everything that is known of a message.
    Show {
        /// Queue id.
        id: String,
    },
    /// The text of a message: trace headers and body.
    Cat {
        /// Queue id.
        id: String,
    },
    /// Try what waits for a retry now. Limits of destinations hold.
    Flush(Chosen),
    /// Make no attempts until released.
    Hold(Changed),
    /// Let held messages go.
    Release(Changed),
    /// Remove messages. Nobody is notified.
    Delete(Changed),
    /// Counts of each queue and its destinations.
    Stats,
}

/// Which messages.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Chosen {
    /// Queue ids.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Messages waiting for this destination (its name as `queue stats` shows it).
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// All messages.
    #[arg(long)]
    all: bool,
}

impl Chosen {
    fn which(self) -> Which {
        match self {
            Chosen { destination: Some(name), .. } => Which::Destination(name),
            Chosen { all: true, .. } => Which::All,
            Chosen { ids, .. } => Which::Ids(ids),
        }
    }
}

#[derive(Debug, Args)]
struct Changed {
    #[command(flatten)]
    chosen: Chosen,
    /// Why; kept with the change.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
}

impl QueueArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let socket = match self.socket {
            Some(path) => path,
            None => match Config::load(&self.config) {
                Ok((config, _)) => match config.admin_socket {
                    Some(path) => path,
                    None => return fail(78, "admin.socket is empty: the server has no admin socket"),
                },
                Err(problems) => return fail(78, &problems.to_string()),
            },
        };
        let command = match self.command {
            QueueCommand::List { in_doubt } => Command::List { in_doubt },
            QueueCommand::Show { id } => Command::Show { id },
            QueueCommand::Cat { id } => Command::Cat { id },
            QueueCommand::Flush(chosen) => Command::Flush { which: chosen.which() },
            QueueCommand::Hold(c) => Command::Hold { which: c.chosen.which(), reason: c.reason },
            QueueCommand::Release(c) => Command::Release { which: c.chosen.which(), reason: c.reason },
            QueueCommand::Delete(c) => Command::Delete { which: c.chosen.which(), reason: c.reason },
            QueueCommand::Stats => Command::Stats,
        };
        let stream = match UnixStream::connect(&socket) {
            Ok(stream) => stream,
            Err(e) => {
                let why =
                    format!("no server answers at {}: {e} (is `ringpost serve` running?)", socket.display());
                return fail(69, &why);
            }
        };
        let mut printer =
            Printer { json: self.json, brief: matches!(command, Command::List { .. }), ..Printer::default() };
        match printer.converse(stream, &command) {
            Ok(code) => ExitCode::from(code),
            // The reader of a pipe has gone, as in `| head`.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(e) => fail(74, &format!("the connection to the server broke: {e}")),
        }
    }
}

fn fail(code: u8, text: &str) -> ExitCode {
    eprintln!("ringpost queue: {text}");
    ExitCode::from(code)
}

#[derive(Default)]
struct Printer {
    json: bool,
    /// A line or two a message, and a sum at the end, as `mailq` does.
    brief: bool,
    messages: u64,
    bytes: u64,
}

impl Printer {
    fn converse(&mut self, mut stream: UnixStream, command: &Command) -> io::Result<u8> {
        let mut text = serde_json::to_vec(command)?;
        text.push(b'\n');
        stream.write_all(&text)?;
        let mut input = BufReader::new(stream);
        let mut out = io::stdout().lock();
        let mut code = 0;
        loop {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match serde_json::from_str(&line)? {
                Line::Message(m) => self.message(&mut out, &m)?,
                Line::Stats(s) if self.json => writeln!(out, "{s}")?,
                Line::Stats(s) => stats(&mut out, &s)?,
                Line::Bytes(n) => {
                    io::copy(&mut (&mut input).take(n), &mut out)?;
                }
                // Asked for by `ringpost storage` only.
                Line::Copied(_) => {}
                Line::Done(n) if self.json => writeln!(out, "{{\"changed\":{n}}}")?,
                Line::Done(n) => writeln!(out, "{n} messages changed")?,
                Line::Error { text, code: c } => {
                    eprintln!("ringpost queue: {text}");
                    code = c;
                }
                Line::End => break,
            }
        }
        if self.brief && !self.json && code == 0 {
            // The words that scripts around `mailq` look for.
            match self.messages {
                0 => writeln!(out, "Mail queue is empty")?,
                n => writeln!(out, "-- {} Kbytes in {n} Requests.", self.bytes.div_ceil(1024))?,
            }
        }
        out.flush()?;
        Ok(code)
    }

    fn message(&mut self, out: &mut impl Write, m: &Value) -> io::Result<()> {
        if self.json {
            return writeln!(out, "{m}");
        }
        let text = |key: &str| m[key].as_str().unwrap_or("").to_owned();
        let size = m["message_size"].as_u64().unwrap_or(0);
        if self.brief && self.messages == 0 {
            writeln!(out, "-Queue ID-       --Size-- ----Arrival Time---- -Sender/Recipient-------")?;
        }
        self.messages += 1;
        self.bytes += size;
        // `mailq` marks: active, on hold.
        let mark = match m["queue_name"].as_str() {
            Some("active") => "*",
            Some("hold") => "!",
            _ => " ",
        };
        let at = crate::base::time::Wall(m["arrival_time"].as_u64().unwrap_or(0) * 1000).to_string();
        let sender = Some(text("sender")).filter(|s| !s.is_empty()).unwrap_or("MAILER-DAEMON".into());
        let id = text("queue_id");
        writeln!(out, "{id}{mark} {size:>9} {} {}", &at[..19], escape(&sender))?;
        for r in m["recipients"].as_array().into_iter().flatten() {
            let part = |key: &str| escape(r[key].as_str().unwrap_or(""));
            if let Some(reason) = r["delay_reason"].as_str() {
                writeln!(out, "{:>47}({})", "", escape(reason))?;
            }
            writeln!(out, "{:>47}{}", "", part("address"))?;
            if !self.brief {
                let attempts = r["attempts"].as_u64().unwrap_or(0);
                let due = r["due_in_ms"].as_u64().map(|ms| format!(", next in {} s", ms / 1000));
                let doubt = if r["in_doubt"] == Value::Bool(true) { ", in doubt" } else { "" };
                let (due, to) = (due.unwrap_or_default(), part("destination"));
                writeln!(out, "{:>49}destination {to}, attempts {attempts}{due}{doubt}", "")?;
            }
        }
        if self.brief { Ok(()) } else { writeln!(out) }
    }
}

/// Bytes from the network must not steer the terminal.
fn escape(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn stats(out: &mut impl Write, s: &Value) -> io::Result<()> {
    for (key, value) in s.as_object().into_iter().flatten() {
        match value {
            Value::Array(list) => {
                for entry in list {
                    writeln!(out, "  {entry}")?;
                }
            }
            _ => writeln!(out, "{key}: {value}")?,
        }
    }
    Ok(())
}
