//! A next hop under the test's control: an SMTP server that records what it is sent, byte for byte.
//!
//! Lenient on purpose: it takes whatever comes, so that the sender's faults can be seen. What it
//! answers can be changed at any time by [`Hop::answer`].
#![allow(clippy::disallowed_methods, reason = "a server in a test has sockets of its own")]

use super::PATIENCE;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A message as it was received.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Everything behind `MAIL FROM:`.
    pub from: String,
    /// Everything behind `RCPT TO:`, of the recipients that were accepted.
    pub to: Vec<String>,
    /// As it went over the wire by DATA, without the final dot; what came by BDAT has the same form.
    pub wire: Vec<u8>,
}

impl Mail {
    /// The content, dots taken away.
    pub fn content(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(self.wire.len());
        for line in self.wire.split_inclusive(|b| *b == b'\n') {
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        content
    }

    /// The trace field that was put in front, and the content behind it.
    pub fn split(&self) -> (String, Vec<u8>) {
        let content = self.content();
        let mut end = 0;
        for line in content.split_inclusive(|b| *b == b'\n') {
            if end > 0 && !line.starts_with(b"\t") {
                break;
            }
            end += line.len();
        }
        (String::from_utf8(content[..end].to_vec()).expect("the trace is ASCII"), content[end..].to_vec())
    }

    /// The content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content()).into_owned()
    }
}

/// What to answer to a command instead of the usual. The greeting is the command "", the end of a
/// message is ".". An empty answer closes the connection.
type Answer = Box<dyn FnMut(&str) -> Option<Vec<u8>> + Send>;

struct Shared {
    mails: Mutex<Vec<Mail>>,
    changed: Condvar,
    answer: Mutex<Answer>,
    hello: Mutex<String>,
    open: AtomicBool,
}

/// A running next hop. Ends with the test.
pub struct Hop {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Hop {
    /// Starts on a free port of an address of the loopback network.
    pub fn start() -> Hop {
        Self::on("127.0.0.1:0".parse().expect("an address"))
    }

    /// Starts on this address.
    pub fn on(address: SocketAddr) -> Hop {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let hello =
            "250-hop.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE\r\n250 ENHANCEDSTATUSCODES\r\n";
        let shared = Arc::new(Shared {
            mails: Mutex::default(),
            changed: Condvar::new(),
            answer: Mutex::new(Box::new(|_| None)),
            hello: Mutex::new(hello.into()),
            open: AtomicBool::new(true),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !serving.open.load(Ordering::Relaxed) {
                    return;
                }
                let shared = serving.clone();
                // The sender may cut the connection at any time.
                std::thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Hop { address, shared }
    }

    /// An address where nobody listens, for a hop that comes later. Taken from the network
    /// 127.0.0.0/8 by process and count, so that no other test gets the same.
    pub fn later() -> SocketAddr {
        static NEXT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let last = NEXT.fetch_add(1, Ordering::Relaxed);
        SocketAddr::from(([127, high | 0x40, low, last], 2525))
    }

    /// From now on answers with what `answer` gives, if it gives something.
    pub fn answer(&self, answer: impl FnMut(&str) -> Option<Vec<u8>> + Send + 'static) {
        *self.shared.answer.lock().expect("no panic") = Box::new(answer);
    }

    /// Answers `reply` to all commands that begin with `command`.
    pub fn refuse(&self, command: &'static str, reply: &'static str) {
        self.answer(move |c| c.starts_with(command).then(|| format!("{reply}\r\n").into_bytes()));
    }

    /// Answers as usual again.
    pub fn accept(&self) {
        self.answer(|_| None);
    }

    /// Offers exactly these extensions.
    pub fn offer(&self, extensions: &[&str]) {
        let mut lines = vec!["hop.test"];
        lines.extend(extensions);
        let last = lines.pop().expect("at least the name");
        let before: String = lines.iter().map(|l| format!("250-{l}\r\n")).collect();
        *self.shared.hello.lock().expect("no panic") = format!("{before}250 {last}\r\n");
    }

    /// Waits for `n` messages altogether; gives all there are.
    #[track_caller]
    pub fn wait(&self, n: usize) -> Vec<Mail> {
        let mails = self.shared.mails.lock().expect("no panic");
        let few = |m: &mut Vec<Mail>| m.len() < n;
        let (mails, timeout) =
            self.shared.changed.wait_timeout_while(mails, PATIENCE, few).expect("no panic");
        assert!(!timeout.timed_out(), "{} of {n} messages came", mails.len());
        mails.clone()
    }

    /// Waits for the first message.
    #[track_caller]
    pub fn one(&self) -> Mail {
        self.wait(1).remove(0)
    }

    /// The messages so far.
    pub fn mails(&self) -> Vec<Mail> {
        self.shared.mails.lock().expect("no panic").clone()
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.shared.open.store(false, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    let special = |command: &str| (shared.answer.lock().expect("no panic"))(command);
    let answer = |out: &mut TcpStream, reply: Vec<u8>| -> std::io::Result<bool> {
        out.write_all(&reply)?;
        if reply.is_empty() {
            out.shutdown(std::net::Shutdown::Both)?;
        }
        Ok(reply.first().is_some_and(|b| matches!(b, b'2' | b'3')))
    };
    let say = |out: &mut TcpStream, command: &str, usual: &str| -> std::io::Result<bool> {
        answer(out, special(command).unwrap_or_else(|| usual.as_bytes().to_vec()))
    };
    say(&mut out, "", "220 hop.test ESMTP\r\n")?;
    let (mut from, mut to, mut chunks) = (String::new(), Vec::new(), Vec::new());
    loop {
        let mut line = Vec::new();
        if (&mut input).take(1 << 20).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
        let rest = line.split_once(':').map_or("", |(_, r)| r).to_owned();
        let hello = shared.hello.lock().expect("no panic").clone();
        match verb.as_str() {
            "EHLO" | "HELO" => drop(say(&mut out, &line, &hello)?),
            "MAIL" if say(&mut out, &line, "250 2.1.0 Ok\r\n")? => {
                (from, to) = (rest, Vec::new());
                chunks.clear();
            }
            "RCPT" if say(&mut out, &line, "250 2.1.5 Ok\r\n")? => to.push(rest),
            "MAIL" | "RCPT" => {}
            "DATA" if to.is_empty() => drop(say(&mut out, &line, "554 5.5.1 No recipients\r\n")?),
            "DATA" if say(&mut out, &line, "354 Go\r\n")? => {
                let wire = message(&mut input)?;
                let mail = Mail { from: from.clone(), to: std::mem::take(&mut to), wire };
                if say(&mut out, ".", "250 2.0.0 Taken\r\n")? {
                    shared.keep(mail);
                }
            }
            "DATA" => {}
            "BDAT" => {
                let last = chunk(&line, &mut input, &mut chunks)?;
                let usual = usual_for_chunk(to.is_empty(), last);
                // The last chunk is a BDAT as well as the end of the message.
                let good = match last.then(|| special(&line)).flatten() {
                    Some(reply) => answer(&mut out, reply)?,
                    None => say(&mut out, if last { "." } else { &line }, usual)?,
                };
                if last {
                    let wire = stuffed(&std::mem::take(&mut chunks));
                    let mail = Mail { from: from.clone(), to: std::mem::take(&mut to), wire };
                    if good {
                        shared.keep(mail);
                    }
                }
            }
            "RSET" => {
                to.clear();
                chunks.clear();
                say(&mut out, &line, "250 2.0.0 Ok\r\n")?;
            }
            "QUIT" => return say(&mut out, &line, "221 2.0.0 Bye\r\n").map(drop),
            _ => drop(say(&mut out, &line, "250 2.0.0 Ok\r\n")?),
        }
    }
}

impl Shared {
    fn keep(&self, mail: Mail) {
        self.mails.lock().expect("no panic").push(mail);
        self.changed.notify_all();
    }
}

/// What is said to a chunk, if nothing else is to be.
fn usual_for_chunk(refused: bool, last: bool) -> &'static str {
    match (refused, last) {
        (true, _) => "554 5.5.1 No recipients\r\n",
        (_, true) => "250 2.0.0 Taken\r\n",
        _ => "250 2.0.0 Go on\r\n",
    }
}

/// Reads the chunk of a BDAT command; true if it is the last.
fn chunk(line: &str, input: &mut impl Read, chunks: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut words = line.split(' ').skip(1);
    let size = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
    let start = chunks.len();
    chunks.resize(start + size, 0);
    input.read_exact(&mut chunks[start..])?;
    Ok(words.next() == Some("LAST"))
}

/// With a dot before each line that begins with one.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len());
    for line in content.split_inclusive(|b| *b == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire
}

/// Reads to CRLF.CRLF; gives what is before, with its last CRLF.
fn message(input: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let begun = Instant::now();
    let mut wire = Vec::new();
    loop {
        let start = wire.len();
        if input.read_until(b'\n', &mut wire)? == 0 || begun.elapsed() > PATIENCE {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        // The dot ends the message only behind CRLF.
        if wire[start..] == *b".\r\n" && (start == 0 || wire[..start].ends_with(b"\r\n")) {
            wire.truncate(start);
            return Ok(wire);
        }
    }
}
