//! `ringpost demo`: the whole thing on loopback, with real messages, told step by step.
//!
//! Starts the server with a data directory of its own and a sink as the next hop, sends mail through
//! it, shows what came of it, and keeps running so that any mail program can be tried. Needs no
//! root, no configuration and no free port 25. Exit codes: 0 all mail arrived, else as `serve`.

#![allow(clippy::disallowed_methods, reason = "a program for operators: temporary files, waiting")]

use crate::config::Config;
use crate::load::{sink, source};
use crate::server::{self, Failure, Running};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Messages of the burst.
const BURST: u64 = 20_000;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// End after the round trip, with exit code 0 if all mail arrived
    #[arg(long)]
    once: bool,
    /// Port for mail programs; 0 takes a free one
    #[arg(long, default_value_t = 2525)]
    port: u16,
    /// Where to keep the data; default: a new directory under /var/tmp, removed at the end
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// A message as the sink had it.
struct Arrived {
    from: String,
    to: String,
    text: Vec<u8>,
}

/// Runs the demo.
pub fn run(args: &DemoArgs) -> ExitCode {
    match demo(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ringpost demo: {}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}

fn io_failed(what: &str) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |e| Failure { code: 74, text: format!("{what}: {e}") }
}

fn demo(args: &DemoArgs) -> Result<(), Failure> {
    let data = Data::new(args.data.clone())?;
    let (arrived, sink_address, sink) = start_sink()?;
    let (server, smtp) = start_server(args, &data, sink_address)?;
    step(1, &format!("the server takes mail at {smtp}"));
    say(&format!("data in {}", data.path.display()));
    if !data.durable {
        say("that file system promises nothing after a power loss; good enough for a demo, not for mail");
    }
    say(&format!("everything goes to a sink at {sink_address}, which stands for the next server"));
    let id = round_trip(smtp, &arrived)?;
    burst(smtp, &sink)?;
    if let Some(metrics) = server.metrics {
        step(6, &format!("figures for Prometheus: http://{metrics}/metrics"));
    }
    if args.once {
        say(&format!("message {id} went all the way; ending"));
        server.stop()?;
    } else {
        step(
            7,
            &format!(
                "try it: any mail program, outgoing server {}, port {}, no password",
                smtp.ip(),
                smtp.port()
            ),
        );
        say(&format!("swaks --server {smtp} --from you@example.org --to friend@example.net"));
        say("what arrives is shown here; Ctrl-C ends");
        std::thread::spawn(move || arrived.iter().for_each(|a| show(&a)));
        server.wait()?;
        println!("\nstopped: nothing was in hand any more");
    }
    drop(sink);
    Ok(())
}

/// The data directory, removed at the end if it is ours.
struct Data {
    path: PathBuf,
    ours: bool,
    /// The file system can promise that a completed write survives a power loss.
    durable: bool,
}

impl Data {
    fn new(wanted: Option<PathBuf>) -> Result<Self, Failure> {
        let ours = wanted.is_none();
        // Not /tmp, which is often in memory only.
        let path = wanted.unwrap_or_else(|| format!("/var/tmp/ringpost-demo-{}", std::process::id()).into());
        let path = std::path::absolute(&path).map_err(io_failed("data directory"))?;
        std::fs::create_dir_all(&path).map_err(io_failed("data directory"))?;
        let durable = crate::runtime::checks::file_system(&path, false).is_ok();
        Ok(Data { path, ours, durable })
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if self.ours {
            // The worst that a failure leaves behind is a directory in /var/tmp.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn start_sink() -> Result<(Receiver<Arrived>, SocketAddr, sink::Running), Failure> {
    let failed = io_failed("sink");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (mut sink, address) = sink::Sink::bind(any, sink::Options::default()).map_err(&failed)?;
    let (tell, arrived) = channel();
    sink.on_message(move |m| {
        // Those of the burst are counted, not shown.
        if m.id.is_empty() {
            let arrived =
                Arrived { from: m.from.to_owned(), to: m.recipients.to_owned(), text: m.content.to_vec() };
            // The demo may be over.
            let _ = tell.send(arrived);
        }
    });
    Ok((arrived, address, sink.spawn().map_err(&failed)?))
}

fn start_server(args: &DemoArgs, data: &Data, sink: SocketAddr) -> Result<(Running, SocketAddr), Failure> {
    let text = format!(
        r#"
[server]
hostname = "demo.ringpost.example"
data_dir = "{data}"
user = ""
stop_grace = "5s"
[storage]
segment_size = "4MiB"
journal_limit = "256MiB"
free_min = "0"
durability = "{durability}"
[cores]
mta = 1
pin = "off"
[[listener]]
protocol = "smtp"
address = ["127.0.0.1:{port}"]
[[route]]
domain = "*"
next_hop = "{sink}"
tls = "none"
[metrics]
address = "127.0.0.1:0"
[admin]
socket = "{data}/admin.sock"
[events]
format = "postfix"
target = "{data}/events.log"
"#,
        data = data.path.display(),
        durability = if data.durable { "full" } else { "weak" },
        port = args.port,
    );
    let (config, _) = Config::parse(&text, "demo").map_err(|p| Failure { code: 70, text: p.to_string() })?;
    let server = server::start(Arc::new(config))?;
    let smtp = server.smtp[0];
    Ok((server, smtp))
}

/// One message, spoken by hand so that the dialogue can be shown.
fn round_trip(smtp: SocketAddr, arrived: &Receiver<Arrived>) -> Result<String, Failure> {
    step(2, "a client hands a message over");
    let failed = io_failed("dialogue");
    let stream = TcpStream::connect_timeout(&smtp, Duration::from_secs(5)).map_err(&failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(&failed)?;
    let mut talk = Talk { input: BufReader::new(stream.try_clone().map_err(&failed)?), output: stream };
    talk.hear()?;
    for command in
        ["EHLO client.example", "MAIL FROM:<alice@example.org>", "RCPT TO:<bob@example.net>", "DATA"]
    {
        talk.say(command)?;
    }
    for line in [
        "From: Alice <alice@example.org>",
        "To: Bob <bob@example.net>",
        "Subject: first light",
        "",
        "It works.",
    ] {
        println!("     C: {line}");
        talk.send(line)?;
    }
    let before = Instant::now();
    let reply = talk.say(".")?;
    let took = before.elapsed();
    let id = reply.rsplit(' ').next().unwrap_or_default().to_owned();
    talk.say("QUIT")?;
    step(
        3,
        &format!(
            "the 250 came after {:.1} ms: the message was on stable storage by then",
            took.as_secs_f64() * 1e3
        ),
    );
    say(&format!("its queue id is {id}"));
    step(4, "the next server has it:");
    let wait = Duration::from_secs(30);
    let message = arrived.recv_timeout(wait).map_err(|_| Failure {
        code: 75,
        text: format!("message {id} did not arrive within {} s", wait.as_secs()),
    })?;
    show(&message);
    Ok(id)
}

struct Talk {
    input: BufReader<TcpStream>,
    output: TcpStream,
}

impl Talk {
    fn send(&mut self, line: &str) -> Result<(), Failure> {
        self.output.write_all(format!("{line}\r\n").as_bytes()).map_err(io_failed("dialogue"))
    }

    /// Sends a command, shows it and the reply; a refusal ends the demo.
    fn say(&mut self, line: &str) -> Result<String, Failure> {
        println!("     C: {line}");
        self.send(line)?;
        self.hear()
    }

    fn hear(&mut self) -> Result<String, Failure> {
        loop {
            let mut line = String::new();
            self.input.read_line(&mut line).map_err(io_failed("dialogue"))?;
            let line = line.trim_end();
            println!("     S: {line}");
            match line.as_bytes() {
                [b'2' | b'3', _, _, b' ', ..] => return Ok(line.to_owned()),
                [b'2' | b'3', _, _, b'-', ..] => {}
                _ => return Err(Failure { code: 75, text: format!("the server said {line:?}") }),
            }
        }
    }
}

/// Many messages at once.
fn burst(smtp: SocketAddr, sink: &sink::Running) -> Result<(), Failure> {
    let before = sink.counters().messages.get();
    let options =
        source::Options { connections: 20, messages: Some(BURST), size: 4096, ..source::Options::new(smtp) };
    let begin = Instant::now();
    let report = source::run(&options, &crate::load::Stop::default()).map_err(io_failed("load"))?;
    while sink.counters().messages.get() - before < report.acknowledged {
        if begin.elapsed() > Duration::from_secs(120) {
            let text = format!("of {} messages not all arrived", report.acknowledged);
            return Err(Failure { code: 75, text });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let per_second = report.acknowledged as f64 / begin.elapsed().as_secs_f64();
    step(5, &format!("{BURST} messages of 4 KiB over 20 connections: each on stable storage before its 250"));
    say(&format!("{} acknowledged and delivered, {per_second:.0} a second end to end", report.acknowledged));
    say(&format!(
        "dot to 250: half within {:.1} ms, 99 % within {:.1} ms",
        report.latency.p50_us / 1e3,
        report.latency.p99_us / 1e3
    ));
    if report.acknowledged < BURST {
        return Err(Failure {
            code: 75,
            text: format!("only {} of {BURST} were taken", report.acknowledged),
        });
    }
    Ok(())
}

fn show(a: &Arrived) {
    println!("     from <{}> to <{}>, {} bytes:", a.from, a.to, a.text.len());
    for line in String::from_utf8_lossy(&a.text).lines().take(30) {
        let clean: String = line.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect();
        println!("       | {clean}");
    }
}

fn step(n: u32, text: &str) {
    println!("\n {n}. {text}");
}

fn say(text: &str) {
    println!("    {text}");
}
