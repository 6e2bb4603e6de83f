//! For tests: the runtime double of storage with a network of scripted SMTP servers.

use crate::base::aligned::{AlignedBuf, SharedBytes};
use crate::base::time::{Mono, Wall};
use crate::runtime::double::{MemTable, NoListener};
use crate::runtime::{Clock, Disk, Entropy, File, Lent, Net, OpenAs, Part, Runtime, Stream, TableOptions};
use crate::storage::double::{Double, MemFile, World};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// A message as a server got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub from: String,
    pub to: Vec<String>,
    pub data: String,
}

/// Says what the reply to RCPT is.
pub type Judge = dyn Fn(&str) -> String;

/// How a server behaves, and what it got.
pub struct Server {
    pub up: Cell<bool>,
    /// Reply to RCPT, by address.
    pub rcpt: RefCell<Box<Judge>>,
    /// Reply to the final dot; empty: the connection dies instead, after taking the message.
    pub dot: RefCell<String>,
    /// Dies at DATA.
    pub dies_at_data: Cell<bool>,
    pub dsn: Cell<bool>,
    pub got: RefCell<Vec<Mail>>,
    pub connects: Cell<u32>,
    pub open: Cell<u32>,
    pub most_open: Cell<u32>,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            up: Cell::new(true),
            rcpt: RefCell::new(Box::new(|_| "250 2.1.5 Ok".into())),
            dot: RefCell::new("250 2.0.0 Ok".into()),
            dies_at_data: Cell::new(false),
            dsn: Cell::new(false),
            got: RefCell::default(),
            connects: Cell::new(0),
            open: Cell::new(0),
            most_open: Cell::new(0),
        }
    }
}

/// A file whose writes can be held up.
pub struct SlowFile {
    inner: MemFile,
    rt: Double,
    held: Rc<Cell<bool>>,
}

impl File for SlowFile {
    async fn write_at(&self, bytes: SharedBytes, offset: u64) -> io::Result<()> {
        while self.held.get() {
            self.rt.sleep_until(self.rt.now().after(Duration::from_millis(10))).await;
        }
        self.inner.write_at(bytes, offset).await
    }
    fn read_at(&self, buf: AlignedBuf, offset: u64) -> impl Future<Output = Lent<(), AlignedBuf>> {
        self.inner.read_at(buf, offset)
    }
    fn sync(&self) -> impl Future<Output = io::Result<()>> {
        self.inner.sync()
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.inner.try_lock()
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}

/// A runtime whose connections lead to scripted servers.
#[derive(Clone)]
pub struct Rig {
    /// Writes wait while this is set.
    pub held: Rc<Cell<bool>>,
    pub inner: Double,
    pub servers: Rc<RefCell<BTreeMap<SocketAddr, Rc<Server>>>>,
    /// Wall-clock time when the monotonic one was 0, milliseconds.
    pub epoch: Rc<Cell<u64>>,
}

impl Rig {
    pub fn new(world: &Rc<World>, epoch: u64) -> Self {
        let epoch = Rc::new(Cell::new(epoch));
        Rig { held: Rc::default(), inner: Double::new(world), servers: Rc::default(), epoch }
    }
}

impl Rig {
    /// Sets the wall clock forward, or back.
    pub fn set_clock(&self, by: Duration, back: bool) {
        let (ms, old) = (by.as_millis() as u64, self.epoch.get());
        self.epoch.set(if back { old - ms } else { old + ms });
    }
}

impl Runtime for Rig {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.inner.spawn(task);
    }
}

impl Clock for Rig {
    fn now(&self) -> Mono {
        self.inner.now()
    }

    fn wall(&self) -> Wall {
        Wall(self.epoch.get() + self.inner.now().0 / 1_000_000)
    }

    fn sleep_until(&self, at: Mono) -> impl Future<Output = ()> + 'static {
        self.inner.sleep_until(at)
    }
}

impl Entropy for Rig {
    fn fill(&self, out: &mut [u8]) {
        self.inner.fill(out);
    }
}

impl Disk for Rig {
    type File = SlowFile;
    type Table = MemTable;

    fn create_zeroed(&self, path: &Path, len: u64) -> impl Future<Output = io::Result<()>> {
        self.inner.create_zeroed(path, len)
    }
    async fn open(&self, path: &Path, how: OpenAs) -> io::Result<SlowFile> {
        let inner = self.inner.open(path, how).await?;
        Ok(SlowFile { inner, rt: self.inner.clone(), held: self.held.clone() })
    }
    fn create_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>> {
        self.inner.create_dir(path)
    }
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<(String, u64)>>> {
        self.inner.list(dir)
    }
    fn list_dirs(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<String>>> {
        self.inner.list_dirs(dir)
    }
    fn rename_dir(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> {
        self.inner.rename_dir(from, to)
    }
    fn remove_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>> {
        self.inner.remove_dir(path)
    }
    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>> {
        self.inner.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>> {
        self.inner.sync_dir(dir)
    }
    fn free_bytes(&self, path: &Path) -> impl Future<Output = io::Result<u64>> {
        self.inner.free_bytes(path)
    }
    fn open_table(&self, path: &Path, options: TableOptions) -> impl Future<Output = io::Result<MemTable>> {
        self.inner.open_table(path, options)
    }
}

impl Net for Rig {
    type Stream = Conn;
    type Listener = NoListener<Conn>;

    async fn connect(&self, to: SocketAddr, _: Option<IpAddr>, _: Mono) -> io::Result<Conn> {
        let server = self.servers.borrow().get(&to).cloned();
        let server = server.filter(|s| s.up.get()).ok_or(io::ErrorKind::ConnectionRefused)?;
        server.connects.set(server.connects.get() + 1);
        server.open.set(server.open.get() + 1);
        server.most_open.set(server.most_open.get().max(server.open.get()));
        let talk = Talk { out: b"220 there ESMTP\r\n".to_vec(), ..Talk::default() };
        Ok(Conn { rt: self.inner.clone(), server, talk: RefCell::new(talk), deadline: Cell::new(None) })
    }
}

#[derive(Default)]
struct Talk {
    line: Vec<u8>,
    out: Vec<u8>,
    mail: Option<Mail>,
    in_data: bool,
    closed: bool,
}

/// A connection to a scripted server.
pub struct Conn {
    rt: Double,
    server: Rc<Server>,
    talk: RefCell<Talk>,
    deadline: Cell<Option<Mono>>,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.server.open.set(self.server.open.get() - 1);
    }
}

impl Conn {
    fn feed(&self, bytes: &[u8]) -> io::Result<()> {
        let mut talk = self.talk.borrow_mut();
        for &b in bytes {
            if talk.closed {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            talk.line.push(b);
            if b == b'\n' {
                let line = String::from_utf8(std::mem::take(&mut talk.line)).expect("text");
                self.line(&mut talk, line.trim_end_matches("\r\n"));
            }
        }
        Ok(())
    }

    fn line(&self, t: &mut Talk, line: &str) {
        if t.in_data {
            return self.data(t, line);
        }
        let path = || line.split(['<', '>']).nth(1).unwrap_or("").to_owned();
        let verb = line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
        let reply = match verb.as_str() {
            "EHLO" if self.server.dsn.get() => {
                "250-there\r\n250-8BITMIME\r\n250-DSN\r\n250 PIPELINING".into()
            }
            "EHLO" => "250-there\r\n250-8BITMIME\r\n250 PIPELINING".into(),
            "MAIL" => {
                t.mail = Some(Mail { from: path(), to: Vec::new(), data: String::new() });
                "250 2.1.0 Ok".into()
            }
            "RCPT" => {
                let reply = (self.server.rcpt.borrow())(&path());
                if let (true, Some(mail)) = (reply.starts_with('2'), &mut t.mail) {
                    mail.to.push(path());
                }
                reply
            }
            "DATA" if self.server.dies_at_data.get() => {
                t.closed = true;
                return;
            }
            "DATA" if t.mail.as_ref().is_none_or(|m| m.to.is_empty()) => "554 5.5.1 No recipients".into(),
            "DATA" => {
                t.in_data = true;
                "354 Go".into()
            }
            "RSET" => {
                t.mail = None;
                "250 2.0.0 Ok".into()
            }
            "QUIT" => {
                t.out.extend_from_slice(b"221 2.0.0 Bye\r\n");
                t.closed = true;
                return;
            }
            other => panic!("not a command: {other:?}"),
        };
        t.out.extend_from_slice(reply.as_bytes());
        t.out.extend_from_slice(b"\r\n");
    }

    fn data(&self, t: &mut Talk, line: &str) {
        let mail = t.mail.as_mut().expect("after MAIL");
        if line != "." {
            mail.data.push_str(line.strip_prefix('.').unwrap_or(line));
            mail.data.push('\n');
            return;
        }
        t.in_data = false;
        let mail = t.mail.take().expect("after MAIL");
        let reply = self.server.dot.borrow().clone();
        if reply.is_empty() || reply.starts_with('2') {
            self.server.got.borrow_mut().push(mail);
        }
        if reply.is_empty() {
            t.closed = true;
            return;
        }
        t.out.extend_from_slice(reply.as_bytes());
        t.out.extend_from_slice(b"\r\n");
    }

    /// Waits for bytes or the end, within the deadline.
    async fn arrived(&self) -> io::Result<()> {
        let at = self.deadline.get().unwrap_or(Mono(u64::MAX));
        let mut sleep = pin!(self.rt.sleep_until(at));
        let mut yielded = false;
        poll_fn(|cx| {
            if !yielded {
                yielded = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let t = self.talk.borrow();
            if !t.out.is_empty() || t.closed {
                return Poll::Ready(Ok(()));
            }
            drop(t);
            if at == Mono(u64::MAX) {
                return Poll::Pending;
            }
            sleep.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }
}

impl Stream for Conn {
    async fn recv(&self, mut buf: Vec<u8>) -> Lent<usize, Vec<u8>> {
        if let Err(e) = self.arrived().await {
            return (Err(e), buf);
        }
        let mut t = self.talk.borrow_mut();
        let n = t.out.len().min(buf.capacity() - buf.len());
        buf.extend(t.out.drain(..n));
        (Ok(n), buf)
    }

    async fn readable(&self) -> io::Result<()> {
        self.arrived().await
    }

    async fn send(&self, buf: Vec<u8>) -> Lent<(), Vec<u8>> {
        (self.feed(&buf), buf)
    }

    async fn send_parts(&self, parts: Vec<Part>) -> Lent<(), Vec<Part>> {
        let result = parts.iter().try_for_each(|p| self.feed(p.bytes()));
        (result, parts)
    }

    fn set_deadline(&self, at: Option<Mono>) {
        self.deadline.set(at);
    }

    fn shutdown(&self) {
        self.talk.borrow_mut().closed = true;
    }

    fn local(&self) -> SocketAddr {
        ([127, 0, 0, 1], 40_000).into()
    }
}
