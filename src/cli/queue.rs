//! `ringpost queue`: look at the queue of a running server and change it.
//!
//! Talks to the admin socket; reads no journal. Exit codes: 0 done, 64 wrong arguments, 65 no such message,
//! 69 no server there, 73 a file cannot be made, 74 the connection broke, 75 the server could not do it now,
//! 78 the configuration is wrong.

#![allow(clippy::disallowed_methods, reason = "a program for operators: opens the admin socket")]

mod exchange;

use super::http::{self, Body};
use super::pick::{Chosen, Picked, Teller};
use crate::admin::wire::{Change, Command, Line, Which};
use crate::config::Config;
use crate::queue::pick::{Pick, Verb};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

/// How the server is found.
#[derive(Clone, Debug, Args)]
pub struct Contact {
    /// Configuration file, for the place of the admin socket.
    #[arg(short, long, global = true, default_value = super::CONFIG_FILE, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Admin socket, instead of asking the configuration file.
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
}

/// Look at the queue of a running server, and change it.
#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(flatten)]
    contact: Contact,
    /// Lines of JSON with the field names of `postqueue -j`.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// Messages, oldest first within each core's queue: all, or those of which all conditions hold.
    List {
        /// Only those that may have been delivered twice: they were in flight when the last run ended.
        #[arg(long)]
        in_doubt: bool,
        /// Say only how many they are.
        #[arg(long, conflicts_with = "in_doubt")]
        count: bool,
        #[command(flatten)]
        picked: Picked,
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
    Hold {
        #[command(flatten)]
        changed: Changed,
        /// Let go by itself after this time, such as 2h.
        #[arg(long = "for", value_name = "TIME")]
        time: Option<crate::config::units::Duration>,
    },
    /// Let held messages go.
    Release(Changed),
    /// Take a hold back: what it has held and is still held goes.
    Undo {
        /// Its number.
        number: u32,
    },
    /// Holds that can be taken back.
    Holds,
    /// Route what waits anew, by today's routes and maps, forget its attempts so far, and try it now.
    Requeue(Changed),
    /// Send what waits by another next hop, whatever routes say, and try it now.
    Reroute {
        #[command(flatten)]
        changed: Changed,
        /// A next hop as in the configuration (host:port, mx:domain, lmtp:...), mx (the mail exchangers of
        /// each recipient's domain), or default (as routes say again)
        #[arg(long, value_name = "NEXT_HOP")]
        to: String,
    },
    /// Give messages up. Their senders get a notification with the reason.
    Bounce(Changed),
    /// Remove messages. Nobody is notified.
    Delete(Changed),
    /// Copy messages into files: ID.eml has trace headers and body, ID.json sender and recipients.
    Export {
        /// Directory; made if it is not there.
        dir: PathBuf,
        /// All messages.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        picked: Picked,
    },
    /// Submit exported messages anew, over SMTP, to those recipients that were still to be served.
    Import {
        /// A directory of `queue export`.
        dir: PathBuf,
        /// Where SMTP is spoken, instead of asking the configuration file.
        #[arg(long, value_name = "ADDRESS:PORT")]
        smtp: Option<String>,
    },
    /// Send nothing to some destinations until they are resumed; their mail keeps its place.
    Suspend {
        /// A destination, a site or a domain as `queue stats` and `why` name it; or `*.example.net`, or `*`.
        what: String,
        /// Why; shown by `why`, and told to senders whose mail expires meanwhile.
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
        /// Resume by itself after this time, such as 30m or 4h.
        #[arg(long = "for", value_name = "TIME")]
        time: Option<crate::config::units::Duration>,
    },
    /// End a suspension.
    Resume {
        /// Number of the rule, or what it is about.
        which: String,
    },
    /// Suspensions that hold.
    Rules,
    /// Counts of each queue and its destinations.
    Stats,
}

#[derive(Debug, Args)]
struct Changed {
    #[command(flatten)]
    chosen: Chosen,
    /// Why; kept with the change.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
}

/// A change of messages that are chosen. By ids, one destination or all it is made as it always was, unless
/// there is more to it.
fn change(verb: Verb, changed: Changed, seconds: Option<u64>) -> Result<Command, &'static str> {
    let Changed { chosen, reason } = changed;
    chosen.check()?;
    let which = match (&*chosen.ids, chosen.all, chosen.picked.only_destination()) {
        ([_, ..], _, _) => Some(Which::Ids(chosen.ids.clone())),
        (_, _, Some(name)) => Some(Which::Destination(name)),
        (_, true, None) if chosen.picked.is_empty() => Some(Which::All),
        _ => None,
    };
    let simple = matches!(verb, Verb::Flush | Verb::Hold | Verb::Release | Verb::Delete);
    let plain = simple && !chosen.dry_run && seconds.is_none();
    Ok(Command::Change(match which.filter(|_| plain) {
        Some(which) => Change { reason, ..Change::of(verb, which) },
        None => chosen.change(verb, reason, seconds)?,
    }))
}

fn look(pick: Pick, count: bool) -> Command {
    Command::List { pick: Box::new(pick), in_doubt: false, count }
}

impl QueueCommand {
    /// What to ask the server; not of export and import.
    fn command(self) -> Result<Command, &'static str> {
        let seconds = |time: Option<crate::config::units::Duration>| time.map(|t| t.0.as_secs());
        Ok(match self {
            QueueCommand::List { count, picked, in_doubt } if count || !picked.is_empty() => {
                if in_doubt {
                    return Err("--in-doubt goes with no other condition");
                }
                look(picked.pick(), count)
            }
            QueueCommand::List { in_doubt, .. } => {
                Command::List { pick: Box::default(), in_doubt, count: false }
            }
            QueueCommand::Show { id } => Command::Show { id },
            QueueCommand::Cat { id } => Command::Cat { id },
            QueueCommand::Flush(chosen) => {
                return change(Verb::Flush, Changed { chosen, reason: String::new() }, None);
            }
            QueueCommand::Hold { changed, time } => return change(Verb::Hold, changed, seconds(time)),
            QueueCommand::Release(c) => return change(Verb::Release, c, None),
            QueueCommand::Requeue(c) => return change(Verb::Requeue, c, None),
            QueueCommand::Reroute { changed, to } => {
                let mut command = change(Verb::Reroute, changed, None)?;
                if let Command::Change(change) = &mut command {
                    change.to = Some(to);
                }
                return Ok(command);
            }
            QueueCommand::Bounce(c) => return change(Verb::Bounce, c, None),
            QueueCommand::Delete(c) => return change(Verb::Delete, c, None),
            QueueCommand::Undo { number } => Command::Undo { number },
            QueueCommand::Holds => Command::Holds,
            QueueCommand::Suspend { what, reason, time } => {
                Command::Suspend { what, reason, seconds: seconds(time) }
            }
            QueueCommand::Resume { which } => Command::Resume { which },
            QueueCommand::Rules => Command::Rules,
            QueueCommand::Stats => Command::Stats,
            QueueCommand::Export { .. } | QueueCommand::Import { .. } => {
                return Err("export and import are more than one request");
            }
        })
    }
}

impl QueueArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let (contact, json) = (self.contact, self.json);
        match self.command {
            QueueCommand::Export { all, picked, .. } if !all && picked.is_empty() => {
                fail("queue", 64, "say which messages: conditions, or --all")
            }
            QueueCommand::Export { dir, picked, .. } => {
                exchange::export(&contact, json, look(picked.pick(), false), &dir)
            }
            QueueCommand::Import { dir, smtp } => exchange::import(&contact, json, &dir, smtp.as_deref()),
            command => match command.command() {
                Ok(command) => simply(&contact, json, command, "queue"),
                Err(text) => fail("queue", 64, text),
            },
        }
    }
}

/// Asks the server, and prints what it says. On a change that must not be unseen, asks the operator in
/// between.
pub(super) fn simply(contact: &Contact, json: bool, command: Command, name: &str) -> ExitCode {
    let (verb, seen) = match &command {
        Command::Change(change) => {
            let wants = matches!(change.which, Some(Which::Pick(_))) && !change.unseen && !change.preview;
            (change.verb, !wants)
        }
        _ => (Verb::Look, true),
    };
    let mut teller = Teller::new(json, verb);
    let command = match command {
        Command::Change(change) if !seen => match question(contact, &mut teller, change, name) {
            Ok(change) => Command::Change(change),
            Err(code) => return code,
        },
        command => command,
    };
    let mut printer = Printer {
        json,
        brief: matches!(command, Command::List { count: false, .. }),
        noun: match command {
            Command::Resume { .. } => "rules changed",
            Command::Kick { .. } | Command::Disable { .. } => "sessions ended",
            Command::Enable { .. } => "users changed",
            _ => "messages changed",
        },
        ..Printer::default()
    };
    let mut out = io::stdout().lock();
    let code = match command {
        Command::Cat { .. } => fetch(contact, &command, name, |body| io::copy(body, &mut out).map(drop)),
        command => converse(contact, &command, name, |line| {
            if teller.line(&mut out, &line)? { Ok(()) } else { printer.line(&mut out, line) }
        }),
    };
    if code != ExitCode::SUCCESS {
        return code;
    }
    match printer.end(&mut out) {
        Ok(()) => code,
        Err(e) => broken(name, &e),
    }
}

/// Shows the operator how much a change is; gives the change of just that, or how it ends without.
fn question(contact: &Contact, teller: &mut Teller, change: Change, name: &str) -> Result<Change, ExitCode> {
    let mut found = None;
    let preview = Command::Change(Change { preview: true, ..change.clone() });
    let code = converse(contact, &preview, name, |line| match line {
        Line::Matches { messages, bytes, unread, stamp: Some(stamp) } => {
            found = Some((messages, bytes, unread, stamp));
            Ok(())
        }
        line => teller.line(&mut io::stdout().lock(), &line).map(drop),
    });
    let Some((messages, bytes, unread, stamp)) = found.filter(|_| code == ExitCode::SUCCESS) else {
        return Err(code);
    };
    match teller.ask(messages, bytes, unread) {
        Ok(true) => Ok(Change { which: None, stamp: Some(stamp), ..change }),
        Ok(false) => Err(code),
        Err(e) => Err(broken(name, &e)),
    }
}

/// Asks the server; `each` gets the lines of the answer. Errors are printed, as `ringpost NAME`.
pub(super) fn converse(
    contact: &Contact,
    command: &Command,
    name: &str,
    mut each: impl FnMut(Line) -> io::Result<()>,
) -> ExitCode {
    let mut worst = 0;
    let code = fetch(contact, command, name, |body| {
        http::lines(body, |line| match line {
            Line::Problem(problem) => {
                eprintln!("ringpost {name}: {}", problem.detail);
                worst = problem.exit_code;
                Ok(())
            }
            line => each(line),
        })
    });
    if code == ExitCode::SUCCESS { ExitCode::from(worst) } else { code }
}

/// Where the server is asked. Errors are printed.
fn socket(contact: &Contact, name: &str) -> Result<PathBuf, ExitCode> {
    if let Some(path) = &contact.socket {
        return Ok(path.clone());
    }
    match Config::load(&contact.config) {
        Ok((config, _)) => match config.admin.socket {
            Some(path) => Ok(path),
            None => Err(fail(name, 78, "admin.socket is empty: the server has no admin socket")),
        },
        Err(problems) => Err(fail(name, 78, &problems.to_string())),
    }
}

/// As [`converse`], for an answer that is not made of lines.
pub(super) fn fetch(
    contact: &Contact,
    command: &Command,
    name: &str,
    read: impl FnOnce(&mut Body<UnixStream>) -> io::Result<()>,
) -> ExitCode {
    let socket = match socket(contact, name) {
        Ok(path) => path,
        Err(code) => return code,
    };
    let stream = match UnixStream::connect(&socket) {
        Ok(stream) => stream,
        Err(e) => {
            let why =
                format!("no server answers at {}: {e} (is `ringpost serve` running?)", socket.display());
            return fail(name, 69, &why);
        }
    };
    match http::ask(stream, command) {
        Ok(Ok(mut body)) => match read(&mut body) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => broken(name, &e),
        },
        Ok(Err(problem)) => fail(name, problem.exit_code, &problem.detail),
        Err(e) => broken(name, &e),
    }
}

fn broken(name: &str, e: &io::Error) -> ExitCode {
    match e.kind() {
        // The reader of a pipe has gone, as in `| head`.
        io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        _ => fail(name, 74, &format!("the connection to the server broke: {e}")),
    }
}

pub(super) fn fail(name: &str, code: u8, text: &str) -> ExitCode {
    eprintln!("ringpost {name}: {text}");
    ExitCode::from(code)
}

#[derive(Default)]
struct Printer {
    json: bool,
    /// A line or two a message, and a sum at the end, as `mailq` does.
    brief: bool,
    /// What is changed.
    noun: &'static str,
    messages: u64,
    bytes: u64,
}

impl Printer {
    fn line(&mut self, out: &mut impl Write, line: Line) -> io::Result<()> {
        match line {
            Line::Message(m) => self.message(out, &m),
            Line::Stats(s) if self.json => writeln!(out, "{s}"),
            Line::Stats(s) => stats(out, &s),
            Line::Locked(l) => writeln!(out, "{l}"),
            Line::Rule(r) if self.json => writeln!(out, "{r}"),
            Line::Rule(r) => rule(out, &r),
            Line::Reloaded(r) if self.json => writeln!(out, "{r}"),
            Line::Reloaded(r) => reloaded(out, &r),
            Line::Changed(n) if self.json => writeln!(out, "{{\"changed\":{n}}}"),
            Line::Changed(n) => writeln!(out, "{n} {}", self.noun),
            // Asked for by other commands only.
            _ => Ok(()),
        }
    }

    fn end(&self, out: &mut impl Write) -> io::Result<()> {
        if self.brief && !self.json {
            // The words that scripts around `mailq` look for.
            match self.messages {
                0 => writeln!(out, "Mail queue is empty")?,
                n => writeln!(out, "-- {} Kbytes in {n} Requests.", self.bytes.div_ceil(1024))?,
            }
        }
        out.flush()
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
        let unreadable = m["unreadable"] == Value::Bool(true);
        let nobody = if unreadable { "(cannot be read from the disk)" } else { "MAILER-DAEMON" };
        let sender = Some(text("sender")).filter(|s| !s.is_empty()).unwrap_or(nobody.into());
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
        if self.brief {
            return Ok(());
        }
        if let Some(to) = m["rerouted"].as_str() {
            writeln!(out, "{:>47}rerouted by an operator to {}", "", escape(to))?;
        }
        writeln!(out)
    }
}

/// Bytes from the network must not steer the terminal.
pub(super) fn escape(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn rule(out: &mut impl Write, r: &Value) -> io::Result<()> {
    let (what, reason, by) = (&r["what"], &r["reason"], &r["by"]);
    let word = |v: &Value| escape(v.as_str().unwrap_or(""));
    let until =
        r["until"].as_u64().map_or("it is resumed".into(), |ms| crate::base::time::Wall(ms).to_string());
    writeln!(out, "{}  {} suspended until {until} by {}: {}", r["number"], word(what), word(by), word(reason))
}

fn reloaded(out: &mut impl Write, r: &Value) -> io::Result<()> {
    let word = |v: &Value| escape(v.as_str().unwrap_or(""));
    let said = r["said"].as_array().map_or(&[][..], Vec::as_slice);
    for said in said {
        writeln!(out, "{} {}: {}", word(&said["level"]), word(&said["event"]), word(&said["text"]))?;
    }
    match said.is_empty() {
        true => writeln!(out, "no file has changed"),
        false => Ok(()),
    }
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
