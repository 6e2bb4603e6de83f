//! `ringpost load`: message source, message sink, and the audit of their ledgers.
//!
//! Owns the command line and how reports are printed. Exit codes: 0 all as asked, 1 something was
//! refused, lost or broken (the report says what), 64 a wrong argument, 74 a file or socket of ours.

#![allow(clippy::disallowed_methods, reason = "a program for operators: pins itself and prints")]

use crate::base::secret::Secret;
use crate::load::sink::fault::{Fault, Kind, Phase};
use crate::load::{Stop, audit, sink, source, units};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// Wrong arguments (sysexits.h EX_USAGE).
const USAGE: u8 = 64;
/// Files and sockets of ours (sysexits.h EX_IOERR).
const IO_ERROR: u8 = 74;

/// Tools to load a mail server and to check that nothing was lost.
#[derive(Debug, Subcommand)]
pub enum LoadCommand {
    /// Send messages over SMTP, count the replies, measure the time from dot to 250.
    Smtp(Box<SmtpArgs>),
    /// Receive messages over SMTP, count them, answer with faults by share.
    Sink(SinkArgs),
    /// Compare the ledger of a source with that of a sink: lost, duplicated, invented, altered.
    Audit(AuditArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tls {
    Starttls,
    Implicit,
}

/// Arguments of `load smtp`.
#[derive(Debug, Args)]
pub struct SmtpArgs {
    /// Server, as host:port.
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    to: SocketAddr,
    /// Sessions at the same time.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Messages altogether; without it, as many as --duration allows (or 1000).
    #[arg(long)]
    messages: Option<u64>,
    /// Messages per session before QUIT; default: no limit.
    #[arg(long, value_name = "K")]
    messages_per_connection: Option<u64>,
    /// Bytes per message with its header: 1024, 10KiB, 1MiB.
    #[arg(long, default_value = "1KiB", value_parser = units::size)]
    size: u64,
    /// Messages per second over all sessions: 500/s, 3000/min; default: as fast as they are taken.
    #[arg(long, value_parser = units::rate)]
    rate: Option<f64>,
    /// Use PIPELINING where offered: body, dot and the next envelope in one write.
    #[arg(long, value_enum, default_value = "on")]
    pipelining: Switch,
    /// TLS after STARTTLS or from the first byte; any certificate will do.
    #[arg(long, value_enum)]
    tls: Option<Tls>,
    /// Resume TLS sessions of earlier connections.
    #[arg(long)]
    tls_resume: bool,
    /// Recipients per message.
    #[arg(long, default_value_t = 1)]
    recipients: u32,
    /// Sender address; "" is the null sender.
    #[arg(long, default_value = "sender@load.invalid")]
    from: String,
    /// Recipient address; {n} becomes the message number, {r} the recipient's number.
    #[arg(long, value_name = "PATTERN", default_value = "rcpt{r}@load.invalid")]
    rcpt: String,
    /// When to end, such as 30s.
    #[arg(long, value_parser = units::duration)]
    duration: Option<Duration>,
    /// Write a line for each acknowledged, unanswered or refused message to this file.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Run on these CPUs only: 1 or 1,3 or 0-3.
    #[arg(long, value_name = "CPUS")]
    pin: Option<String>,
    /// Connect from N addresses 127.0.1.x, so that ports do not run out.
    #[arg(long, value_name = "N", default_value_t = 0)]
    source_addresses: u8,
    /// Try connections that fail again for so long.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = units::duration)]
    retry_connect: Duration,
    /// Let greeted sessions idle for so long before they send.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = units::duration)]
    hold: Duration,
    /// Longest wait for a reply.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration)]
    timeout: Duration,
    /// Begin every eighth body line with a dot.
    #[arg(long)]
    dot_lines: bool,
    /// Run id, the first part of message ids; default: a new one.
    #[arg(long)]
    run: Option<String>,
    /// Log in as USER by AUTH PLAIN after EHLO.
    #[arg(long, value_name = "USER", requires = "password_file")]
    auth: Option<String>,
    /// File with the password of --auth in its first line.
    #[arg(long, value_name = "FILE", requires = "auth")]
    password_file: Option<PathBuf>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Arguments of `load sink`.
#[derive(Debug, Args)]
pub struct SinkArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    listen: SocketAddr,
    /// Write a line for each message taken to this file.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Keep the counters in this file as JSON, replaced about every 80 ms.
    #[arg(long, value_name = "FILE")]
    status: Option<PathBuf>,
    /// End when N messages were taken.
    #[arg(long, value_name = "N")]
    expect: Option<u64>,
    /// End when no message has come for so long after the first.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    idle: Option<Duration>,
    /// Answer 451 in this share: 10% or 10%:PHASE (connect, mail, rcpt, data, dot; default rcpt).
    #[arg(long, value_name = "SHARE", value_parser = tempfail)]
    tempfail: Vec<Fault>,
    /// Answer 550 in this share (default phase rcpt).
    #[arg(long, value_name = "SHARE", value_parser = reject)]
    reject: Vec<Fault>,
    /// Wait before the reply: 50ms:10% or 50ms:10%:PHASE (default phase dot).
    #[arg(long, value_name = "TIME:SHARE", value_parser = Fault::parse_delay)]
    delay: Vec<Fault>,
    /// Drop the connection in this share (default phase data: within the body).
    #[arg(long, value_name = "SHARE", value_parser = drop_connection)]
    drop: Vec<Fault>,
    /// Drop the connection after the final dot, without a reply; the message is not taken.
    #[arg(long, value_name = "SHARE", value_parser = drop_after_dot)]
    drop_after_dot: Vec<Fault>,
    /// Seed of the dice for all these shares.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Do not offer PIPELINING.
    #[arg(long)]
    no_pipelining: bool,
    /// Do not offer CHUNKING: messages come by DATA.
    #[arg(long)]
    no_chunking: bool,
    /// Largest message, 0: any.
    #[arg(long, default_value = "0", value_parser = units::size)]
    max_size: u64,
    /// Put every message into this maildir.
    #[arg(long, value_name = "DIR")]
    maildir: Option<PathBuf>,
    /// Print every message.
    #[arg(long)]
    print: bool,
    /// Run on these CPUs only: 1 or 1,3 or 0-3.
    #[arg(long, value_name = "CPUS")]
    pin: Option<String>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Arguments of `load audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Ledger of `load smtp`.
    sent: PathBuf,
    /// Ledger of `load sink`.
    received: PathBuf,
    /// Queue ids the server reported as in doubt, one per line: any other duplicate is a failure.
    #[arg(long, value_name = "FILE")]
    in_doubt: Option<PathBuf>,
    /// Queue ids still in the server's queue, one per line: these are not lost.
    #[arg(long, value_name = "FILE")]
    queued: Option<PathBuf>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl LoadCommand {
    /// Runs the command and prints its report.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = match self {
            LoadCommand::Smtp(args) => args.run(),
            LoadCommand::Sink(args) => args.run(),
            LoadCommand::Audit(args) => args.run(),
        };
        match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(e) => {
                eprintln!("ringpost load: {e}");
                let usage = e.kind() == io::ErrorKind::InvalidInput;
                ExitCode::from(if usage { USAGE } else { IO_ERROR })
            }
        }
    }
}

impl SmtpArgs {
    fn run(self) -> io::Result<bool> {
        pin(self.pin.as_deref())?;
        let json = self.json;
        let stop = Stop::default();
        stop_on_signals(&stop)?;
        let auth = self.login()?;
        let report = source::run(&source::Options { auth, ..self.options() }, &stop)?;
        print(json, &report, || source_text(&report));
        Ok(report.complete())
    }

    /// Login and password of `--auth`.
    fn login(&self) -> io::Result<Option<(String, Secret)>> {
        let (Some(login), Some(file)) = (&self.auth, &self.password_file) else { return Ok(None) };
        let text = Secret::new(std::fs::read(file)?);
        let line = text.expose().split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default();
        Ok(Some((login.clone(), line.into())))
    }

    fn options(self) -> source::Options {
        let messages = self.messages.or(self.duration.is_none().then_some(1000));
        source::Options {
            connections: self.connections,
            messages,
            messages_per_connection: self.messages_per_connection.unwrap_or(u64::MAX),
            size: self.size,
            rate: self.rate,
            pipelining: self.pipelining == Switch::On,
            tls: self.tls.map(|tls| match tls {
                Tls::Starttls => source::secure::Tls::Starttls,
                Tls::Implicit => source::secure::Tls::Implicit,
            }),
            tls_resume: self.tls_resume,
            recipients: self.recipients,
            from: self.from,
            recipient: self.rcpt,
            duration: self.duration,
            ledger: self.ledger,
            threads: self.threads,
            source_addresses: self.source_addresses,
            retry_connect: self.retry_connect,
            hold: self.hold,
            timeout: self.timeout,
            dot_lines: self.dot_lines,
            run: self.run,
            ..source::Options::new(self.to)
        }
    }
}

impl SinkArgs {
    fn run(self) -> io::Result<bool> {
        pin(self.pin.as_deref())?;
        let faults = [self.tempfail, self.reject, self.delay, self.drop, self.drop_after_dot].concat();
        let options = sink::Options {
            pipelining: !self.no_pipelining,
            chunking: !self.no_chunking,
            max_size: self.max_size,
            faults,
            seed: self.seed,
            ledger: self.ledger,
            maildir: self.maildir,
            status: self.status,
            expect: self.expect,
            idle: self.idle,
            ..sink::Options::default()
        };
        let (mut sink, address) = sink::Sink::bind(self.listen, options)?;
        if self.print {
            sink.on_message(|m| {
                println!("---- from <{}> to <{}>, {} bytes", m.from, m.recipients, m.size);
                println!("{}", String::from_utf8_lossy(m.content));
            });
        }
        stop_on_signals(&sink.stopper())?;
        eprintln!("load sink: listening on {address}");
        let report = sink.run()?;
        print(self.json, &report, || sink_text(&report));
        Ok(report.violations == 0 && self.expect.is_none_or(|n| report.messages >= n))
    }
}

impl AuditArgs {
    fn run(self) -> io::Result<bool> {
        let excuses = audit::Excuses { in_doubt: self.in_doubt, queued: self.queued };
        let verdict = audit::compare(&self.sent, &self.received, &excuses)?;
        print(self.json, &verdict, || verdict.explain());
        Ok(verdict.pass)
    }
}

fn print(json: bool, report: &impl Serialize, text: impl FnOnce() -> String) {
    if json {
        println!("{}", serde_json::to_string(report).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}")));
    } else {
        print!("{}", text());
    }
}

fn source_text(r: &source::Report) -> String {
    let l = &r.latency;
    let mut out = format!(
        "run {}: {} messages of {} bytes acknowledged in {:.3} s: {:.0} messages/s, {:.2} MB/s\n\
         dot to 250: p50 {:.1} us, p90 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us\n\
         {} connections; own CPU {:.2} us per message\n",
        r.run,
        r.acknowledged,
        r.message_bytes,
        r.seconds,
        r.messages_per_second,
        r.megabytes_per_second,
        l.p50_us,
        l.p90_us,
        l.p99_us,
        l.p999_us,
        l.max_us,
        r.connections,
        r.source_cpu_us_per_message,
    );
    for (count, what) in [
        (r.refused, "refused after the final dot"),
        (r.failed, "given up before the final dot"),
        (r.unanswered, "without a reply to the final dot"),
        (r.not_sent, "not sent"),
    ] {
        if count > 0 {
            out.push_str(&format!("{count} messages {what}\n"));
        }
    }
    for (what, map) in
        [("reply", &r.replies), ("connection failed:", &r.connect_errors), ("connection broke:", &r.broken)]
    {
        for (key, n) in map {
            out.push_str(&format!("{what} {key}: {n} times\n"));
        }
    }
    out
}

fn sink_text(r: &sink::stats::Report) -> String {
    let mut out = format!(
        "{} messages for {} recipients, {} bytes, in {:.3} s: {:.0} messages/s\n\
         {} connections; own CPU {:.2} us per message\n",
        r.messages,
        r.recipients,
        r.bytes,
        r.seconds,
        r.messages_per_second,
        r.connections,
        r.sink_cpu_us_per_message,
    );
    for (count, what) in [
        (r.notifications, "notifications"),
        (r.foreign, "messages that are no load messages"),
        (r.tempfails, "replies 4xx played"),
        (r.rejects, "replies 5xx played"),
        (r.dropped, "connections dropped as played"),
        (r.broken, "connections broke"),
        (r.refused_connections, "connections above the limit"),
        (r.oversized, "messages too big"),
        (r.undeclared_eight_bit, "messages with undeclared 8-bit content"),
        (r.violations, "BREACHES OF THE PROTOCOL by clients"),
    ] {
        if count > 0 {
            out.push_str(&format!("{count} {what}\n"));
        }
    }
    out
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut all = text.to_socket_addrs().map_err(|e| format!("\"{text}\" is not host:port: {e}"))?;
    all.next().ok_or_else(|| format!("\"{text}\" has no address"))
}

fn tempfail(text: &str) -> Result<Fault, String> {
    Fault::parse(Kind::Tempfail, text, Phase::Rcpt)
}

fn reject(text: &str) -> Result<Fault, String> {
    Fault::parse(Kind::Reject, text, Phase::Rcpt)
}

fn drop_connection(text: &str) -> Result<Fault, String> {
    Fault::parse(Kind::Drop, text, Phase::Data)
}

fn drop_after_dot(text: &str) -> Result<Fault, String> {
    Fault::parse(Kind::Drop, text, Phase::Dot)
}

/// Restricts this process to `cpus`. Done by taskset(1), before any thread is started, because a
/// load tool is no place for unsafe code.
fn pin(cpus: Option<&str>) -> io::Result<()> {
    let Some(cpus) = cpus else { return Ok(()) };
    if !cpus.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b'-') || cpus.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "--pin takes CPU numbers such as 1 or 0-3"));
    }
    let pid = std::process::id().to_string();
    let status = Command::new("taskset")
        .args(["-a", "-c", "-p", cpus, &pid])
        .stdout(Stdio::null())
        .status()
        .map_err(|e| io::Error::new(e.kind(), format!("--pin needs taskset from util-linux: {e}")))?;
    if status.success() { Ok(()) } else { Err(io::Error::other("taskset could not pin this process")) }
}

/// Sets `stop` at SIGINT or SIGTERM.
fn stop_on_signals(stop: &Stop) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        stop.set();
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        load: LoadCommand,
    }

    #[test]
    fn source_arguments() {
        let line = "load smtp --to 127.0.0.1:2525 --connections 20 --messages-per-connection 1 --size 10KiB \
            --rate 500/s --pipelining off --duration 5s --source-addresses 200";
        let Ok(Cli { load: LoadCommand::Smtp(args) }) = Cli::try_parse_from(line.split_whitespace()) else {
            panic!("not parsed");
        };
        let o = args.options();
        assert_eq!((o.connections, o.size, o.messages_per_connection), (20, 10_240, 1));
        assert_eq!((o.rate, o.pipelining, o.messages), (Some(500.0), false, None));
        assert!(Cli::try_parse_from("load smtp --to nowhere".split(' ')).is_err());
    }

    #[test]
    fn sink_arguments() {
        let line = "load sink --listen 127.0.0.1:0 --tempfail 10% --reject 1%:dot --delay 50ms:10% \
            --drop-after-dot 1% --idle 2s --expect 5";
        let Ok(Cli { load: LoadCommand::Sink(args) }) = Cli::try_parse_from(line.split_whitespace()) else {
            panic!("not parsed");
        };
        assert_eq!(args.reject[0], Fault { kind: Kind::Reject, ppm: 10_000, phase: Phase::Dot });
        assert_eq!(args.drop_after_dot[0].phase, Phase::Dot);
        assert!(Cli::try_parse_from("load sink --listen 127.0.0.1:0 --drop 200%".split(' ')).is_err());
    }
}
