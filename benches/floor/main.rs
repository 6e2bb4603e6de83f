//! The floor: what receiving, storing and passing on mail costs without any mail logic.
//!
//! One thread and one ring, the runtime of the server and nothing else of it. Each SMTP
//! transaction is recognised by its lines alone and never looked into; its bytes go as they came
//! into a zero-filled file, one `O_DIRECT|O_DSYNC` write for all that has come meanwhile, are
//! answered by canned replies after that write, and (with `--sink`) are sent on. The server is
//! compared with the CPU time per message printed here, same generator, same sink.
//!
//! ```text
//! cargo run --release --example floor -- --listen 127.0.0.1:2525 --file /var/tmp/floor
//! cargo run --release --example floor -- --listen 127.0.0.1:2525 --file /var/tmp/floor \
//!     --sink 127.0.0.1:2526 --connections 8
//! ringpost load smtp --to 127.0.0.1:2525 ...     (or Postfix's smtp-source)
//! ```
//!
//! `--no-disk` leaves the write out. Not a mail server: it accepts everything, checks nothing,
//! overwrites its file in a circle and ends at the first error of disk or sink.

mod outlet;
mod session;

use clap::Parser;
use ringpost::base::aligned::{AlignedBuf, PAGE, SharedBytes};
use ringpost::runtime::uring::{self, Uring};
use ringpost::runtime::{Clock, Disk, File as _, Listener as _, OpenAs, Runtime, listen};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Most bytes of one write.
const BATCH: usize = 4 << 20;
/// Messages waiting for the sink above which receiving pauses.
const BACKLOG: usize = 3000;

#[derive(Parser)]
struct Options {
    /// Address to receive on.
    #[arg(long, default_value = "127.0.0.1:2525")]
    listen: SocketAddr,
    /// File to write to; made of zeros if it is missing.
    #[arg(long, default_value = "/var/tmp/ringpost-floor")]
    file: PathBuf,
    /// Size of the file in MiB.
    #[arg(long, default_value_t = 256)]
    file_mib: u64,
    /// Receive and answer only.
    #[arg(long)]
    no_disk: bool,
    /// SMTP server to pass everything on to.
    #[arg(long)]
    sink: Option<SocketAddr>,
    /// Connections to it.
    #[arg(long, default_value_t = 8)]
    connections: usize,
}

/// A transaction in stored bytes: envelope commands up to DATA, then the body with its dot.
struct Mail {
    bytes: SharedBytes,
    commands: usize,
    recipients: usize,
}

/// What is written together.
#[derive(Default)]
struct Batch {
    done: Cell<bool>,
    waiting: Notify,
    /// Start, end of commands, end, recipients of each transaction.
    mails: RefCell<Vec<(usize, usize, usize, usize)>>,
}

impl Batch {
    async fn written(&self) {
        while !self.done.get() {
            self.waiting.notified().await;
        }
    }
}

struct Floor {
    options: Options,
    /// The open batch and its bytes.
    open: RefCell<(Rc<Batch>, Rc<AlignedBuf>)>,
    /// Used buffers: taken again when nothing is left to send of them.
    pool: RefCell<VecDeque<Rc<AlignedBuf>>>,
    staged: Notify,
    backlog: RefCell<VecDeque<Mail>>,
    queued: Notify,
    drained: Notify,
    received: Cell<u64>,
    sent: Cell<u64>,
    writes: Cell<u64>,
}

impl Floor {
    fn buffer(&self) -> Rc<AlignedBuf> {
        let mut pool = self.pool.borrow_mut();
        if let Some(mut buf) = pool.pop_front() {
            if let Some(free) = Rc::get_mut(&mut buf) {
                free.set_len(0);
                return buf;
            }
            pool.push_back(buf);
        }
        Rc::new(AlignedBuf::with_capacity(BATCH))
    }

    /// Copies a transaction into the open batch; `None` if it does not fit.
    fn stage(&self, bytes: &[u8], commands: usize, recipients: usize) -> Option<Rc<Batch>> {
        let (batch, buf) = &mut *self.open.borrow_mut();
        let buf = Rc::get_mut(buf).expect("the open batch is not shared");
        let start = buf.len();
        if buf.room() < bytes.len() {
            return None;
        }
        buf.put(bytes);
        batch.mails.borrow_mut().push((start, start + commands, buf.len(), recipients));
        self.received.set(self.received.get() + 1);
        self.staged.notify_one();
        Some(batch.clone())
    }
}

/// Writes batch after batch; the next one fills meanwhile.
async fn write(floor: Rc<Floor>, file: Option<uring::disk::File>) -> io::Result<()> {
    let mut offset = 0;
    loop {
        if floor.open.borrow().1.is_empty() {
            floor.staged.notified().await;
            continue;
        }
        let fresh = (Rc::default(), floor.buffer());
        let (batch, mut buf) = floor.open.replace(fresh);
        let padded = buf.len().div_ceil(PAGE) * PAGE;
        Rc::get_mut(&mut buf).expect("no longer shared than before").zero_to(padded);
        let bytes = SharedBytes::whole(buf.clone());
        if let Some(file) = &file {
            if offset + padded as u64 > floor.options.file_mib << 20 {
                offset = 0;
            }
            file.write_at(bytes.clone(), offset).await?;
            offset += padded as u64;
        }
        floor.writes.set(floor.writes.get() + 1);
        if floor.options.sink.is_some() {
            let mut backlog = floor.backlog.borrow_mut();
            for &(start, data, end, recipients) in &*batch.mails.borrow() {
                backlog.push_back(Mail { bytes: bytes.part(start..end), commands: data - start, recipients });
                floor.queued.notify_one();
            }
        }
        floor.pool.borrow_mut().push_back(buf);
        batch.done.set(true);
        batch.waiting.notify_waiters();
    }
}

/// Prints a line for each second with messages.
async fn report(floor: Rc<Floor>, uring: Uring) {
    let facts = || (floor.received.get(), floor.sent.get(), floor.writes.get(), uring::process_cpu());
    let mut before = facts();
    loop {
        uring.sleep_until(uring.now().after(Duration::from_secs(1))).await;
        let now = facts();
        let (received, writes) = (now.0 - before.0, now.2 - before.2);
        if received > 0 {
            let micros = (now.3 - before.3).as_secs_f64() * 1e6 / received as f64;
            let (sent, group) = (now.1 - before.1, received as f64 / writes.max(1) as f64);
            println!(
                "received {received}/s  passed on {sent}/s  CPU {micros:.2} us/message  \
                 {group:.1} messages/write  total {} {}",
                now.0, now.1
            );
        }
        before = now;
    }
}

fn fatal(what: &'static str, result: io::Result<()>) {
    if let Err(e) = result {
        eprintln!("{what}: {e}");
        std::process::exit(1);
    }
}

async fn serve(uring: Uring, options: Options) -> io::Result<()> {
    let file = if options.no_disk {
        None
    } else {
        match uring.create_zeroed(&options.file, options.file_mib << 20).await {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => Some(uring.open(&options.file, OpenAs::Segment).await?),
        }
    };
    let socket = listen::reserve(options.listen, 1).map_err(io::Error::other)?.remove(0);
    listen::listen(&socket)?;
    let listener = Rc::new(uring.listener(socket)?);
    println!("listening on {}, writing {:?}", listener.local(), file.as_ref().and_then(|f| f.method()));
    let (sink, connections) = (options.sink, options.connections);
    let open = RefCell::new((Rc::default(), Rc::new(AlignedBuf::with_capacity(BATCH))));
    let floor = Rc::new(Floor {
        options,
        open,
        pool: RefCell::default(),
        staged: Notify::new(),
        backlog: RefCell::default(),
        queued: Notify::new(),
        drained: Notify::new(),
        received: Cell::new(0),
        sent: Cell::new(0),
        writes: Cell::new(0),
    });
    let f = floor.clone();
    uring.spawn(async move { fatal("disk", write(f, file).await) });
    for _ in 0..sink.map_or(0, |_| connections) {
        let (f, u) = (floor.clone(), uring.clone());
        uring.spawn(async move { fatal("sink", outlet::forward(f, u, sink.expect("given")).await) });
    }
    uring.spawn(report(floor.clone(), uring.clone()));
    loop {
        let (stream, _) = listener.accept().await?;
        uring.spawn(session::run(floor.clone(), stream));
    }
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    uring::run(&uring::Options::production(), |uring| serve(uring, options))?
}
