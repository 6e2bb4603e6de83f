//! L5: the admin socket: requests of the command line, carried to the cores and back.
//!
//! Runs on the control thread (plain tokio). Knows the requests, not what they do. Only those who
//! may open the socket get in: mode 0600, owner the server's user. A bad request is answered and
//! ends its connection; a core that does not answer in time is reported, others are not held up.

use super::office::Office;
use super::rules::New;
use super::verbs::Wish;
use super::wire::{Command, Line, REQUEST_MAX, Which};
use crate::access::roll;
use crate::queue::control;
use crate::queue::control::{ControlError, Listed, PAGE_MAX, Request, Response};
use crate::queue::rules::Rule;
use crate::runtime::uring::wall_now;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// How long a core may take for one answer.
const ANSWER: Duration = Duration::from_secs(60);
/// How long the copies of a core's indexes may take.
const COPY: Duration = Duration::from_secs(3600);
/// Connections at a time.
const CONNECTIONS: usize = 32;

/// The queues of this server.
pub trait Queues: 'static {
    /// How many there are.
    fn count(&self) -> usize;
    /// Asks one; `None`: it does not answer.
    fn ask(&self, queue: usize, request: Request) -> impl Future<Output = Option<Response>>;
    /// How many cores there are, of all kinds.
    fn cores(&self) -> usize;
    /// Asks a core about its sessions; `None`: it does not answer.
    fn ask_roll(&self, core: usize, question: roll::Question) -> impl Future<Output = Option<roll::Answer>>;
    /// Asks a core, one behind the queues', for copies of its mailbox shards below a directory; `None`: it
    /// does not answer.
    fn ask_backup(
        &self,
        core: usize,
        dir: PathBuf,
    ) -> impl Future<Output = Option<Vec<(u16, Result<u64, String>)>>>;
    /// Says whether new mail is taken.
    fn set_draining(&self, on: bool);
}

/// Serves the socket for ever. To be run in a `LocalSet`.
pub async fn serve(listener: UnixListener, queues: Rc<impl Queues>, office: Rc<Office>) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (queues, office) = (queues.clone(), office.clone());
        tokio::task::spawn_local(async move {
            // The other end may go away at any time; that is its affair.
            let _ = connection(stream, &*queues, &office).await;
            drop(place);
        });
    }
}

async fn connection(stream: UnixStream, queues: &impl Queues, office: &Office) -> io::Result<()> {
    let who = stream.peer_cred().map_or_else(|_| "unknown user".to_owned(), |c| format!("uid {}", c.uid()));
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let mut bounded = (&mut stream).take(REQUEST_MAX as u64);
    let read = bounded.read_until(b'\n', &mut line);
    tokio::time::timeout(ANSWER, read).await??;
    let mut out = Out(stream);
    match serde_json::from_slice::<Command>(&line) {
        Ok(command) => Conversation { queues, office, who, out: &mut out }.obey(command).await?,
        Err(e) => out.error(&format!("not a request: {e}"), 65).await?,
    }
    out.line(&Line::End).await
}

pub(super) struct Out(BufReader<UnixStream>);

impl Out {
    /// The next line of the client, without its end; empty: it has gone.
    pub(super) async fn hear(&mut self, patience: Duration) -> io::Result<String> {
        let mut line = String::new();
        let mut bounded = (&mut self.0).take(REQUEST_MAX as u64);
        tokio::time::timeout(patience, bounded.read_line(&mut line)).await??;
        Ok(line.trim_end().to_owned())
    }

    pub(super) async fn line(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line).map_err(io::Error::other)?;
        text.push(b'\n');
        self.bytes(&text).await
    }

    pub(super) async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        tokio::time::timeout(ANSWER, self.0.get_mut().write_all(bytes)).await?
    }

    pub(super) async fn error(&mut self, text: &str, code: u8) -> io::Result<()> {
        self.line(&Line::Error { text: text.to_owned(), code }).await
    }
}

pub(super) struct Conversation<'a, Q> {
    pub(super) queues: &'a Q,
    pub(super) office: &'a Office,
    pub(super) who: String,
    pub(super) out: &'a mut Out,
}

impl<Q: Queues> Conversation<'_, Q> {
    async fn obey(&mut self, command: Command) -> io::Result<()> {
        let who = self.who.clone();
        let note = |reason: String| if reason.is_empty() { who.clone() } else { format!("{who}: {reason}") };
        match command {
            Command::List { in_doubt } => self.list(in_doubt).await,
            Command::Show { id } => self.show(&id).await,
            Command::Cat { id } => self.cat(&id).await,
            Command::Flush { which } => self.change(which, Request::Flush).await,
            Command::Hold { which, reason } => {
                let note = note(reason);
                self.change(which, |which| Request::Hold { which, note: note.clone() }).await
            }
            Command::Release { which, reason } => {
                let note = note(reason);
                self.change(which, |which| Request::Release { which, note: note.clone() }).await
            }
            Command::Delete { which, reason } => {
                let note = note(reason);
                self.change(which, |which| Request::Delete { which, note: note.clone() }).await
            }
            Command::Why { id } => self.why(&id).await,
            Command::Suspend { what, reason, seconds } => {
                let new = New { what: &what, reason: &reason, by: &who, seconds };
                self.suspend(&new).await
            }
            Command::Resume { which } => self.resume(&which).await,
            Command::Rules => self.rules(self.office.book.rules(wall_now())).await,
            Command::Stats => self.stats().await,
            Command::CopyIndex { dir } => self.copy_index(dir).await,
            Command::BackupMailboxes { dir } => self.backup_mailboxes(dir).await,
            Command::Pick { pick, verb, ids, reason, dry_run, ask, seconds, to } => {
                self.pick(Wish { pick: *pick, verb, ids, reason, dry_run, ask, seconds, to }).await
            }
            Command::Undo { number } => self.undo(number).await,
            Command::Holds => self.holds().await,
            Command::Who => self.people().await,
            Command::Kick { whom } => self.kick(&whom).await,
            Command::Drain { on } => self.drain(on).await,
            Command::Disable { login, reason } => self.disable(&login, &reason).await,
            Command::Enable { login } => self.enable(&login).await,
            Command::Disabled => self.disabled().await,
            Command::Trace { outwards, peer, seconds } => self.trace(outwards, &peer, seconds).await,
            Command::Metrics => {
                let text = (self.office.metrics)();
                self.out.line(&Line::Bytes(text.len() as u64)).await?;
                self.out.bytes(text.as_bytes()).await
            }
        }
    }

    pub(super) async fn ask(&self, queue: usize, request: Request) -> Response {
        self.ask_within(ANSWER, queue, request).await
    }

    async fn ask_within(&self, limit: Duration, queue: usize, request: Request) -> Response {
        let answer = tokio::time::timeout(limit, self.queues.ask(queue, request)).await;
        answer.ok().flatten().unwrap_or(Response::Error(ControlError::Closed))
    }

    async fn list(&mut self, in_doubt: bool) -> io::Result<()> {
        for queue in 0..self.queues.count() {
            let mut after = None;
            loop {
                match self.ask(queue, Request::List { after, limit: PAGE_MAX, in_doubt }).await {
                    Response::Page { messages, next } => {
                        for message in &messages {
                            self.message(message).await?;
                        }
                        after = next;
                        if after.is_none() {
                            break;
                        }
                    }
                    other => {
                        self.refuse(&other).await?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) async fn message(&mut self, message: &Listed) -> io::Result<()> {
        let value = serde_json::to_value(message).map_err(io::Error::other)?;
        self.out.line(&Line::Message(value)).await
    }

    async fn show(&mut self, id: &str) -> io::Result<()> {
        let Ok(id) = id.parse() else { return self.bad_id(id).await };
        for queue in 0..self.queues.count() {
            match self.ask(queue, Request::Show(id)).await {
                Response::Page { messages, .. } => {
                    for message in &messages {
                        self.message(message).await?;
                    }
                    return Ok(());
                }
                Response::Error(ControlError::NotFound) => {}
                other => return self.refuse(&other).await,
            }
        }
        self.refuse(&Response::Error(ControlError::NotFound)).await
    }

    async fn why(&mut self, id: &str) -> io::Result<()> {
        let Ok(id) = id.parse() else { return self.bad_id(id).await };
        for queue in 0..self.queues.count() {
            match self.ask(queue, Request::Why(id)).await {
                Response::Why(why) => {
                    let value = serde_json::to_value(&why).map_err(io::Error::other)?;
                    return self.out.line(&Line::Why(value)).await;
                }
                Response::Error(ControlError::NotFound) => {}
                other => return self.refuse(&other).await,
            }
        }
        self.refuse(&Response::Error(ControlError::NotFound)).await
    }

    async fn suspend(&mut self, new: &New<'_>) -> io::Result<()> {
        match self.office.book.add(new, wall_now()) {
            Ok(rule) => {
                self.office.tell(&self.who, "suspend", rule.number.into(), &rule.what, &rule.reason);
                self.hand_out().await?;
                self.rules(vec![rule]).await
            }
            Err(e) => self.out.error(&e.to_string(), 73).await,
        }
    }

    async fn resume(&mut self, which: &str) -> io::Result<()> {
        match self.office.book.remove(which, wall_now()) {
            Ok(0) => self.out.error("no such rule", 65).await,
            Ok(n) => {
                self.office.tell(&self.who, "resume", n as u64, which, "");
                self.hand_out().await?;
                self.out.line(&Line::Done(n as u64)).await
            }
            Err(e) => self.out.error(&e.to_string(), 73).await,
        }
    }

    /// All queues learn of the rules.
    async fn hand_out(&mut self) -> io::Result<()> {
        for queue in 0..self.queues.count() {
            match self.ask(queue, Request::Rules(self.office.book.rules(wall_now()))).await {
                Response::Done(_) => {}
                other => self.refuse(&other).await?,
            }
        }
        Ok(())
    }

    async fn rules(&mut self, rules: Vec<Rule>) -> io::Result<()> {
        for rule in &rules {
            let value = serde_json::to_value(rule).map_err(io::Error::other)?;
            self.out.line(&Line::Rule(value)).await?;
        }
        Ok(())
    }

    async fn cat(&mut self, id: &str) -> io::Result<()> {
        let Ok(id) = id.parse() else { return self.bad_id(id).await };
        for queue in 0..self.queues.count() {
            let mut offset = 0;
            loop {
                match self.ask(queue, Request::Cat { id, offset }).await {
                    Response::Piece { bytes, .. } if bytes.is_empty() => return Ok(()),
                    Response::Piece { bytes, .. } => {
                        self.out.line(&Line::Bytes(bytes.len() as u64)).await?;
                        self.out.bytes(&bytes).await?;
                        offset += bytes.len() as u64;
                    }
                    Response::Error(ControlError::NotFound) if offset == 0 => break,
                    other => return self.refuse(&other).await,
                }
            }
        }
        self.refuse(&Response::Error(ControlError::NotFound)).await
    }

    async fn change(&mut self, which: Which, make: impl Fn(control::Which) -> Request) -> io::Result<()> {
        let what = match &which {
            Which::All => "all".to_owned(),
            Which::Destination(name) => format!("destination {name}"),
            Which::Ids(ids) => ids.join(" "),
        };
        let mut targets = Vec::new();
        match which {
            Which::All => targets.push(control::Which::All),
            Which::Destination(name) => targets.push(control::Which::Destination(name)),
            Which::Ids(ids) => {
                for id in ids {
                    let Ok(id) = id.parse() else { return self.bad_id(&id).await };
                    targets.push(control::Which::One(id));
                }
            }
        }
        let mut changed = 0;
        for target in targets {
            let mut found = !matches!(target, control::Which::One(_));
            for queue in 0..self.queues.count() {
                match self.ask(queue, make(target.clone())).await {
                    Response::Done(n) => {
                        changed += n;
                        found = true;
                    }
                    Response::Error(ControlError::NotFound) => {}
                    other => return self.refuse(&other).await,
                }
            }
            if let (false, control::Which::One(id)) = (found, target) {
                self.out.error(&format!("{id}: {}", ControlError::NotFound), 65).await?;
            }
        }
        let (word, note) = words(&make(control::Which::All));
        let reason = note.strip_prefix(&self.who).unwrap_or(&note).trim_start_matches(": ");
        self.office.tell(&self.who, word, changed, &what, reason);
        self.out.line(&Line::Done(changed)).await
    }

    async fn stats(&mut self) -> io::Result<()> {
        for queue in 0..self.queues.count() {
            match self.ask(queue, Request::Stats).await {
                Response::Stats(queues) => {
                    for stats in &queues {
                        let value = serde_json::to_value(stats).map_err(io::Error::other)?;
                        self.out.line(&Line::Stats(value)).await?;
                    }
                }
                other => self.refuse(&other).await?,
            }
        }
        Ok(())
    }

    async fn copy_index(&mut self, dir: PathBuf) -> io::Result<()> {
        for queue in 0..self.queues.count() {
            match self.ask_within(COPY, queue, Request::CopyIndex(dir.clone())).await {
                Response::Copied(copies) => {
                    for copy in &copies {
                        let value = serde_json::to_value(copy).map_err(io::Error::other)?;
                        self.out.line(&Line::Copied(value)).await?;
                    }
                }
                other => return self.refuse(&other).await,
            }
        }
        Ok(())
    }

    pub(super) async fn bad_id(&mut self, id: &str) -> io::Result<()> {
        let id: String = id.chars().take(40).collect();
        self.out.error(&format!("{id:?}: {}", crate::base::ids::NotAQueueId), 65).await
    }

    pub(super) async fn refuse(&mut self, response: &Response) -> io::Result<()> {
        match response {
            Response::Error(ControlError::NotFound) => {
                self.out.error("no such message in the queue", 65).await
            }
            Response::Error(e @ ControlError::NotCopied(_)) => self.out.error(&e.to_string(), 73).await,
            Response::Error(e) => self.out.error(&e.to_string(), 75).await,
            _ => self.out.error("the queue gave an answer that does not fit the request", 70).await,
        }
    }
}

/// The word for a change, and what is noted with it.
fn words(request: &Request) -> (&'static str, String) {
    match request {
        Request::Hold { note, .. } => ("hold", note.clone()),
        Request::Release { note, .. } => ("release", note.clone()),
        Request::Delete { note, .. } => ("delete", note.clone()),
        _ => ("flush", String::new()),
    }
}
