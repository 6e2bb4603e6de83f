//! A world for the tests of this room: a clock that moves only when somebody waits, and a server
//! at the other end of an in-memory stream. No future of it is ever pending for long, so that
//! `block_on` is a loop.

use crate::base::time::{Mono, Wall};
use crate::runtime::double::{MemTable, Never, NoListener};
use crate::runtime::{Clock, Disk, Entropy, Lent, Net, OpenAs, Part, Runtime, Stream, TableOptions};
use crate::tls::{Certificates, Connection};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Runs a future that needs nobody else.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(done) = future.as_mut().poll(&mut cx) {
            return done;
        }
    }
    panic!("hangs");
}

/// What the server does instead of its reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Say(&'static str),
    /// Closes without a word.
    Close,
    /// Resets: the send fails, what was said is lost.
    Reset,
    /// Says nothing, for ever.
    Silence,
}

type Script = Box<dyn FnMut(usize, &str) -> Option<Act>>;

/// A server: answers each command with sense, unless its script says otherwise. The script sees
/// the number of the transaction (from 1) and the command; `.` for the end of data, by dot or chunk.
#[derive(Default)]
pub struct Server {
    pub script: Option<Script>,
    pub ehlo: &'static str,
    /// Answers 502 to BDAT, whatever it has offered.
    pub knows_no_bdat: bool,
    pub receive_at_most: usize,
    /// All bytes from the client.
    pub wire: Vec<u8>,
    pub sends: usize,
    /// Recipients and message of each transaction whose final dot got a 2xx.
    pub taken: Vec<(Vec<String>, Vec<u8>)>,
    pub commands: Vec<String>,
    pub shared_bytes: usize,
    pub transactions: usize,
    pub recipients: Vec<String>,
    /// Sender of the transaction.
    pub sender: String,
    /// Senders of the messages that have come in whole and hold something, taken or not.
    pub ended: Vec<String>,
    pub pending: Vec<u8>,
    pub message: Option<Vec<u8>>,
    /// A chunk: how long, and whether it is the last.
    pub chunk: Option<(usize, bool)>,
    pub chunks: Vec<u8>,
    pub said: Vec<u8>,
    /// STARTTLS works, with this.
    pub certificates: Option<Certificates>,
    pub tls: Option<Box<Connection>>,
    /// What it does with the first bytes behind STARTTLS instead of a handshake.
    pub deaf: Option<Act>,
    /// All bytes that came in clear text.
    pub clear: Vec<u8>,
    /// To be received as it is.
    pub sealed: Vec<u8>,
    /// Offered under TLS; as in clear text if empty.
    pub ehlo_secured: &'static str,
    pub closed: bool,
    pub reset: bool,
    pub silent: bool,
}

impl Server {
    fn connected(&mut self) {
        self.answer("connect", "220 hi\r\n");
    }

    fn answer(&mut self, command: &str, sense: &'static str) -> bool {
        if self.closed || self.silent {
            return false;
        }
        let act = self.script.as_mut().and_then(|s| s(self.transactions, command));
        let say = match act.unwrap_or(Act::Say(sense)) {
            Act::Say(text) => text,
            Act::Close => {
                self.closed = true;
                return false;
            }
            Act::Reset => {
                (self.closed, self.reset) = (true, true);
                self.said.clear();
                self.sealed.clear();
                return false;
            }
            Act::Silence => {
                self.silent = true;
                return false;
            }
        };
        self.said.extend_from_slice(say.as_bytes());
        self.closed |= say.starts_with("421") || say.starts_with("221");
        say.starts_with('2') || say.starts_with('3')
    }

    /// Bytes from the client, in clear text or sealed.
    fn arrive(&mut self, mut bytes: &[u8]) {
        if self.tls.is_some()
            && let Some(act) = self.deaf.take()
        {
            self.tls = None;
            self.script = Some(Box::new(move |_, _| Some(act)));
            self.answer("handshake", "");
            return;
        }
        if self.tls.is_none() {
            self.clear.extend_from_slice(bytes);
            return self.hear(bytes);
        }
        while !bytes.is_empty() {
            let tls = self.tls.as_mut().expect("just seen");
            let Ok(n) = tls.feed(bytes) else {
                self.closed = true;
                return tls.pull(&mut self.sealed);
            };
            bytes = &bytes[n..];
            let mut plain = Vec::with_capacity(1 << 20);
            tls.read(&mut plain);
            self.hear(&plain);
        }
    }

    /// Moves what has been said to what is received.
    fn flush(&mut self) {
        match &mut self.tls {
            None => self.sealed.append(&mut self.said),
            Some(tls) => {
                if !tls.is_handshaking() && !self.said.is_empty() {
                    tls.write(&self.said, &mut self.sealed);
                    self.said.clear();
                }
                tls.pull(&mut self.sealed);
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.wire.extend_from_slice(bytes);
        self.pending.extend_from_slice(bytes);
        let mut pending = std::mem::take(&mut self.pending);
        let mut used = 0;
        loop {
            if let Some((size, last)) = self.chunk {
                let Some(bytes) = pending.get(used..used + size) else { break };
                used += size;
                self.end_of_chunk(bytes, last);
                continue;
            }
            let Some(end) = memchr::memmem::find(&pending[used..], b"\r\n") else { break };
            let line = pending[used..used + end + 2].to_vec();
            used += end + 2;
            self.line(&line);
        }
        pending.drain(..used);
        self.pending = pending;
    }

    fn end_of_chunk(&mut self, bytes: &[u8], last: bool) {
        self.chunk = None;
        self.chunks.extend_from_slice(bytes);
        let nobody = self.recipients.is_empty();
        let sense = if nobody { "554 5.5.1 nobody\r\n" } else { "250 2.0.0 queued\r\n" };
        let sense = if self.knows_no_bdat { "502 5.5.1 what\r\n" } else { sense };
        let good = self.answer(if last { "." } else { "BDAT" }, sense);
        if last {
            let message = std::mem::take(&mut self.chunks);
            if !message.is_empty() {
                self.ended.push(self.sender.clone());
            }
            let recipients = std::mem::take(&mut self.recipients);
            if good && !nobody {
                self.taken.push((recipients, message));
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        if let Some(message) = &mut self.message {
            if line != b".\r\n" {
                message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
                return;
            }
            let message = self.message.take().expect("just seen");
            if !message.is_empty() {
                self.ended.push(self.sender.clone());
            }
            if self.answer(".", "250 2.0.0 queued\r\n") {
                self.taken.push((std::mem::take(&mut self.recipients), message));
            }
            return;
        }
        let text = String::from_utf8(line.to_vec()).expect("commands are text");
        let command = text.trim_end();
        self.commands.push(command.to_owned());
        let secured = self.tls.is_some() && !self.ehlo_secured.is_empty();
        let ehlo = if secured { self.ehlo_secured } else { self.ehlo };
        if command.starts_with("MAIL") {
            self.transactions += 1;
            self.sender = command["MAIL FROM:".len()..].split(' ').next().unwrap_or("").to_owned();
            self.recipients.clear();
            self.chunks.clear();
        }
        if let Some(rest) = command.strip_prefix("BDAT ") {
            let size = rest.trim_end_matches(" LAST").parse().expect("a size");
            self.chunk = Some((size, rest.ends_with(" LAST")));
            return;
        }
        if command == "RSET" {
            self.recipients.clear();
            self.chunks.clear();
        }
        let sense = match command {
            c if c.starts_with("EHLO") => ehlo,
            "DATA" => "354 go\r\n",
            "QUIT" => "221 bye\r\n",
            _ => "250 ok\r\n",
        };
        let good = self.answer(command, sense);
        if good && command == "STARTTLS" {
            // What is received next must still be the reply.
            self.sealed.append(&mut self.said);
            let certificates = self.certificates.as_ref().expect("STARTTLS works");
            self.tls =
                Some(Box::new(Connection::accept(certificates.current(), "smtp", false).expect("chance")));
        }
        if good && command == "DATA" {
            self.message = Some(Vec::new());
        }
        if good && command.starts_with("RCPT") {
            self.recipients.push(command.to_owned());
        }
    }
}

#[derive(Clone, Default)]
pub struct World {
    pub now: Rc<Cell<u64>>,
}

impl World {
    pub fn connect(&self, server: Server) -> (Pipe, Rc<RefCell<Server>>) {
        let server = Rc::new(RefCell::new(server));
        server.borrow_mut().connected();
        (Pipe { world: self.clone(), server: server.clone(), deadline: Cell::new(None) }, server)
    }
}

pub struct Pipe {
    world: World,
    server: Rc<RefCell<Server>>,
    deadline: Cell<Option<Mono>>,
}

impl Pipe {
    fn give(&self, parts: &[Part]) -> io::Result<()> {
        let mut server = self.server.borrow_mut();
        server.sends += 1;
        if server.closed {
            if let Some(tls) = &mut server.tls {
                // It hears no more, but for the end.
                parts.iter().for_each(|part| drop(tls.feed(part.bytes())));
            }
            return if server.reset { Err(ErrorKind::ConnectionReset.into()) } else { Ok(()) };
        }
        for part in parts {
            assert!(!part.bytes().is_empty(), "an empty part is sent");
            if let Part::Shared(bytes) = part {
                server.shared_bytes += bytes.len();
            }
            server.arrive(part.bytes());
        }
        if server.reset { Err(ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }

    fn take(&self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let mut server = self.server.borrow_mut();
        server.flush();
        if server.sealed.is_empty() {
            if server.reset {
                return Err(ErrorKind::ConnectionReset.into());
            }
            if server.closed {
                return Ok(0);
            }
            let Some(deadline) = self.deadline.get() else { return Err(ErrorKind::WouldBlock.into()) };
            self.world.now.set(self.world.now.get().max(deadline.0));
            return Err(ErrorKind::TimedOut.into());
        }
        assert!(buf.capacity() > buf.len(), "no room to receive into");
        let most = if server.receive_at_most > 0 { server.receive_at_most } else { usize::MAX };
        let n = server.sealed.len().min(buf.capacity() - buf.len()).min(most);
        buf.extend(server.sealed.drain(..n));
        Ok(n)
    }
}

impl Stream for Pipe {
    async fn recv(&self, mut buf: Vec<u8>) -> Lent<usize, Vec<u8>> {
        // Without a deadline it waits until there is something.
        poll_fn(|_| match self.take(&mut buf) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready((result, std::mem::take(&mut buf))),
        })
        .await
    }
    async fn readable(&self) -> io::Result<()> {
        Ok(())
    }
    async fn send(&self, buf: Vec<u8>) -> Lent<(), Vec<u8>> {
        let (result, mut parts) = self.send_parts(vec![Part::Owned(buf)]).await;
        let Some(Part::Owned(buf)) = parts.pop() else { panic!("the part is there") };
        (result, buf)
    }
    async fn send_parts(&self, parts: Vec<Part>) -> Lent<(), Vec<Part>> {
        (self.give(&parts), parts)
    }
    fn set_deadline(&self, at: Option<Mono>) {
        self.deadline.set(at);
    }
    fn shutdown(&self) {
        self.server.borrow_mut().closed = true;
    }
    fn local(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 1))
    }
}

impl Clock for World {
    fn now(&self) -> Mono {
        Mono(self.now.get())
    }
    fn wall(&self) -> Wall {
        Wall(self.now.get() / 1_000_000)
    }
    fn sleep_until(&self, at: Mono) -> impl Future<Output = ()> + 'static {
        self.now.set(self.now.get().max(at.0));
        std::future::ready(())
    }
}

impl Entropy for World {
    fn fill(&self, out: &mut [u8]) {
        out.fill(7);
    }
}

impl Runtime for World {
    fn spawn(&self, _: impl Future<Output = ()> + 'static) {
        panic!("one task only");
    }
}

fn no<T>() -> io::Result<T> {
    Err(ErrorKind::Unsupported.into())
}

impl Net for World {
    type Stream = Pipe;
    type Listener = NoListener<Pipe>;
    async fn connect(&self, _: SocketAddr, _: Option<IpAddr>, _: Mono) -> io::Result<Pipe> {
        no()
    }
}

impl Disk for World {
    type File = Never;
    type Table = MemTable;
    async fn create_zeroed(&self, _: &Path, _: u64) -> io::Result<()> {
        no()
    }
    async fn open(&self, _: &Path, _: OpenAs) -> io::Result<Never> {
        no()
    }
    async fn create_dir(&self, _: &Path) -> io::Result<()> {
        no()
    }
    async fn list(&self, _: &Path) -> io::Result<Vec<(String, u64)>> {
        no()
    }
    async fn list_dirs(&self, _: &Path) -> io::Result<Vec<String>> {
        no()
    }
    async fn rename_dir(&self, _: &Path, _: &Path) -> io::Result<()> {
        no()
    }
    async fn remove_dir(&self, _: &Path) -> io::Result<()> {
        no()
    }
    async fn remove(&self, _: &Path) -> io::Result<()> {
        no()
    }
    async fn sync_dir(&self, _: &Path) -> io::Result<()> {
        no()
    }
    async fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        no()
    }
    async fn open_table(&self, _: &Path, _: TableOptions) -> io::Result<MemTable> {
        no()
    }
}
