//! A server of LMTP under the test's control, over TCP or a socket in the file system.
//!
//! Answers each recipient for itself, also by not answering at all. What it has answered with 2xx is kept,
//! once for each recipient.
#![allow(clippy::disallowed_methods, reason = "a server in a test has sockets of its own")]

use super::PATIENCE;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What is done instead of the usual reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Say(&'static str),
    /// Nothing is said, and the session goes on.
    Nothing,
    /// The connection is closed.
    Close,
}

/// A message for one recipient that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// As behind `RCPT TO:`.
    pub to: String,
    pub content: Vec<u8>,
    /// It came by BDAT.
    pub chunk: bool,
    /// Number of the connection, from 1.
    pub connection: usize,
}

type Script = Box<dyn FnMut(&str) -> Option<Act> + Send>;

struct Shared {
    taken: Mutex<Vec<Taken>>,
    said: Mutex<Vec<String>>,
    script: Mutex<Script>,
    hello: Mutex<String>,
    connections: Mutex<usize>,
}

/// A running server. Serves until the test process ends.
pub struct Lmtp(Arc<Shared>);

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

impl Lmtp {
    fn new() -> Lmtp {
        Lmtp(Arc::new(Shared {
            taken: Mutex::default(),
            said: Mutex::default(),
            script: Mutex::new(Box::new(|_| None)),
            hello: Mutex::new("250-box.test\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n".into()),
            connections: Mutex::default(),
        }))
    }

    /// Starts on a free port.
    pub fn start() -> (Lmtp, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let lmtp = Lmtp::new();
        let shared = lmtp.0.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let stream: TcpStream = stream;
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                let shared = shared.clone();
                // The client may cut the connection at any time.
                std::thread::spawn(move || drop(serve(&mut BufReader::new(&mut &stream), &shared)));
            }
        });
        (lmtp, address)
    }

    /// Starts on a socket at `path`.
    pub fn at(path: &Path) -> Lmtp {
        let listener = UnixListener::bind(path).expect("a free name");
        let lmtp = Lmtp::new();
        let shared = lmtp.0.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let stream: UnixStream = stream;
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                let shared = shared.clone();
                std::thread::spawn(move || drop(serve(&mut BufReader::new(&mut &stream), &shared)));
            }
        });
        lmtp
    }

    /// From now on does what `script` gives, if it gives something. The greeting is the command "", the
    /// reply for a recipient after the end of a message is ". <address>".
    pub fn script(&self, script: impl FnMut(&str) -> Option<Act> + Send + 'static) {
        *self.0.script.lock().expect("no panic") = Box::new(script);
    }

    /// Offers exactly these extensions.
    pub fn offer(&self, extensions: &[&str]) {
        let lines: String = extensions.iter().map(|e| format!("250-{e}\r\n")).collect();
        *self.0.hello.lock().expect("no panic") = format!("250-box.test\r\n{lines}250 HELP\r\n");
    }

    /// What has been taken so far.
    pub fn taken(&self) -> Vec<Taken> {
        self.0.taken.lock().expect("no panic").clone()
    }

    /// Waits until so many have been taken altogether; there are not more.
    #[track_caller]
    pub fn wait(&self, n: usize) -> Vec<Taken> {
        super::until("deliveries by LMTP", || (self.taken().len() >= n).then_some(()));
        let all = self.taken();
        assert_eq!(all.len(), n, "{all:?}");
        all
    }

    /// All commands so far that begin so.
    pub fn said(&self, begin: &str) -> Vec<String> {
        let said = self.0.said.lock().expect("no panic");
        said.iter().filter(|line| line.starts_with(begin)).cloned().collect()
    }
}

/// One session, as one sees it from outside.
struct Session<'a> {
    shared: &'a Shared,
    connection: usize,
    to: Vec<String>,
    open: bool,
}

fn serve<'s, S>(input: &mut BufReader<&mut &'s S>, shared: &Shared) -> std::io::Result<()>
where
    &'s S: Wire,
{
    let connection = {
        let mut connections = shared.connections.lock().expect("no panic");
        *connections += 1;
        *connections
    };
    let mut session = Session { shared, connection, to: Vec::new(), open: true };
    session.say(input, "", "220 box.test LMTP\r\n")?;
    while session.open {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        shared.said.lock().expect("no panic").push(line.to_owned());
        session.command(input, line)?;
    }
    Ok(())
}

impl Session<'_> {
    /// Says what is to be said to `command`; true if it was a 2xx or 3xx.
    fn say<'s, S>(
        &mut self,
        input: &mut BufReader<&mut &'s S>,
        command: &str,
        usual: &str,
    ) -> std::io::Result<bool>
    where
        &'s S: Wire,
    {
        let act = (self.shared.script.lock().expect("no panic"))(command);
        let text = match act {
            None => usual.to_owned(),
            Some(Act::Say(text)) => format!("{text}\r\n"),
            Some(Act::Nothing) => return Ok(false),
            Some(Act::Close) => {
                self.open = false;
                return Ok(false);
            }
        };
        input.get_mut().write_all(text.as_bytes())?;
        // RFC 5321 section 3.8: who says so closes.
        self.open &= !text.starts_with("421");
        Ok(text.starts_with(['2', '3']))
    }

    fn command<'s, S>(&mut self, input: &mut BufReader<&mut &'s S>, line: &str) -> std::io::Result<()>
    where
        &'s S: Wire,
    {
        let verb = line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
        match verb.as_str() {
            "LHLO" => {
                let hello = self.shared.hello.lock().expect("no panic").clone();
                self.say(input, line, &hello)?;
            }
            // RFC 2033 section 4.1.
            "EHLO" | "HELO" => drop(self.say(input, line, "500 5.5.1 This is LMTP\r\n")?),
            "MAIL" | "RSET" => {
                self.to.clear();
                self.say(input, line, "250 2.1.0 Ok\r\n")?;
            }
            "RCPT" => {
                if self.say(input, line, "250 2.1.5 Ok\r\n")? {
                    self.to.push(line.split_once(':').map_or("", |(_, r)| r).to_owned());
                }
            }
            "DATA" if self.to.is_empty() => drop(self.say(input, line, "503 5.5.1 Nobody\r\n")?),
            "DATA" => {
                if self.say(input, line, "354 Go\r\n")? {
                    let content = dotted(input)?;
                    self.end(input, &content, false)?;
                }
            }
            "BDAT" => {
                let mut words = line.split(' ').skip(1);
                let size = words.next().and_then(|w| w.parse().ok()).expect("a size");
                assert_eq!(words.next(), Some("LAST"), "a message in one chunk");
                let mut content = vec![0; size];
                input.read_exact(&mut content)?;
                self.end(input, &content, true)?;
            }
            "QUIT" => {
                self.say(input, line, "221 2.0.0 Bye\r\n")?;
                self.open = false;
            }
            _ => drop(self.say(input, line, "500 5.5.1 What\r\n")?),
        }
        Ok(())
    }

    /// RFC 2033 section 4.2: one reply for each recipient.
    fn end<'s, S>(
        &mut self,
        input: &mut BufReader<&mut &'s S>,
        content: &[u8],
        chunk: bool,
    ) -> std::io::Result<()>
    where
        &'s S: Wire,
    {
        for to in std::mem::take(&mut self.to) {
            let taken = Taken { to: to.clone(), content: content.into(), chunk, connection: self.connection };
            if self.say(input, &format!(". {to}"), "250 2.0.0 Saved\r\n")? {
                self.shared.taken.lock().expect("no panic").push(taken);
            }
            if !self.open {
                break;
            }
        }
        Ok(())
    }
}

/// Reads to the lone dot, and takes the dots away.
fn dotted(input: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == b".\r\n" {
            return Ok(content);
        }
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}
