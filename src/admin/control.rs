//! L5: requests of operators, carried to the cores and back, whoever has brought them.
//!
//! Runs on the control thread (plain tokio). Knows the requests, not what they do, and not how they travel
//! ([`super::api`] does). A core that does not answer in time is reported, others are not held up.

use super::office::Office;
use super::render::Piece;
use super::rules::New;
use super::wire::{Command, Line, Problem};
use crate::access::roll;
use crate::queue::control::{ControlError, Listed, PAGE_MAX, Request, Response};
use crate::queue::pick::Pick;
use crate::queue::rules::Rule;
use crate::runtime::uring::wall_now;
use serde_json::Value;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a core may take for one answer.
const ANSWER: Duration = Duration::from_secs(60);
/// How long the copies of a core's indexes may take.
const COPY: Duration = Duration::from_secs(3600);

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
    /// True if it is not, for an operator has said so.
    fn is_draining(&self) -> bool;
}

/// Where an answer goes, piece by piece. An error: nobody listens any more.
pub(super) struct Out(mpsc::Sender<Piece>);

impl Out {
    pub(super) fn new(to: mpsc::Sender<Piece>) -> Out {
        Out(to)
    }

    async fn piece(&mut self, piece: Piece) -> io::Result<()> {
        let sent = tokio::time::timeout(ANSWER, self.0.send(piece)).await?;
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    pub(super) async fn line(&mut self, line: Line) -> io::Result<()> {
        self.piece(Piece::Line(Box::new(line))).await
    }

    pub(super) async fn bytes(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.piece(Piece::Bytes(bytes)).await
    }

    /// `code`: see [`Problem::new`].
    pub(super) async fn error(&mut self, text: &str, code: u8) -> io::Result<()> {
        self.problem(Problem::new(code, text)).await
    }

    pub(super) async fn problem(&mut self, problem: Problem) -> io::Result<()> {
        self.line(Line::Problem(problem)).await
    }

    /// That was all.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        self.piece(Piece::End).await
    }
}

pub(super) struct Conversation<'a, Q> {
    pub(super) queues: &'a Q,
    pub(super) office: &'a Office,
    pub(super) who: String,
    pub(super) out: &'a mut Out,
}

impl<Q: Queues> Conversation<'_, Q> {
    pub(super) async fn obey(&mut self, command: Command) -> io::Result<()> {
        let who = self.who.clone();
        match command {
            Command::List { pick, in_doubt, count } => self.listing(*pick, in_doubt, count).await,
            Command::Show { id } => self.show(&id).await,
            Command::Cat { id } => self.cat(&id).await,
            Command::Why { id } => self.why(&id).await,
            Command::Change(change) => self.change(change).await,
            Command::Undo { number } => self.undo(number).await,
            Command::Holds => self.holds().await,
            Command::Suspend { what, reason, seconds } => {
                let new = New { what: &what, reason: &reason, by: &who, seconds };
                self.suspend(&new).await
            }
            Command::Resume { which } => self.resume(&which).await,
            Command::Rules => self.rules(self.office.book.rules(wall_now())).await,
            Command::Who => self.people().await,
            Command::Kick { whom } => self.kick(&whom).await,
            Command::Drain { on } => self.drain(on).await,
            Command::Disable { login, reason } => self.disable(&login, &reason).await,
            Command::Enable { login } => self.enable(&login).await,
            Command::Disabled => self.disabled().await,
            Command::Trace { outwards, peer, seconds } => self.trace(outwards, &peer, seconds).await,
            Command::State => self.state().await,
            Command::Top { seconds } => self.top(seconds.unwrap_or(1)).await,
            Command::Metrics => {
                let text = (self.office.metrics)();
                self.out.bytes(text.into_bytes()).await
            }
            Command::Stats => self.stats().await,
            Command::Storage => self.storage().await,
            Command::CopyIndex { dir } => self.copy_index(dir).await,
            Command::BackupMailboxes { dir } => self.backup_mailboxes(dir).await,
            Command::Reload => self.reload().await,
            Command::Description => {
                let text = super::openapi::text();
                self.out.bytes(text.into_bytes()).await
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

    async fn listing(&mut self, pick: Pick, in_doubt: bool, count: bool) -> io::Result<()> {
        match (pick == Pick::default(), in_doubt) {
            (true, _) if !count => self.list(in_doubt).await,
            (_, false) => self.look(pick, count).await,
            (_, true) => self.out.error("in doubt goes with no other condition", 64).await,
        }
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
        self.out.line(Line::Message(value)).await
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
                    return self.out.line(Line::Why(value)).await;
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
            Err(e) => self.out.error(&e.to_string(), code_of(&e)).await,
        }
    }

    async fn resume(&mut self, which: &str) -> io::Result<()> {
        match self.office.book.remove(which, wall_now()) {
            Ok(0) => self.out.error("no such rule", 65).await,
            Ok(n) => {
                self.office.tell(&self.who, "resume", n as u64, which, "");
                self.hand_out().await?;
                self.out.line(Line::Changed(n as u64)).await
            }
            Err(e) => self.out.error(&e.to_string(), code_of(&e)).await,
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
            self.out.line(Line::Rule(value)).await?;
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
                        offset += bytes.len() as u64;
                        self.out.bytes(bytes).await?;
                    }
                    Response::Error(ControlError::NotFound) if offset == 0 => break,
                    other => return self.refuse(&other).await,
                }
            }
        }
        self.refuse(&Response::Error(ControlError::NotFound)).await
    }

    /// The counts of all queues that answer; of the others it is said that they do not.
    pub(super) async fn counts(&mut self) -> io::Result<Vec<Value>> {
        let mut all = Vec::new();
        for queue in 0..self.queues.count() {
            match self.ask(queue, Request::Stats).await {
                Response::Stats(queues) => {
                    for stats in &queues {
                        all.push(serde_json::to_value(stats).map_err(io::Error::other)?);
                    }
                }
                other => self.refuse(&other).await?,
            }
        }
        Ok(all)
    }

    async fn stats(&mut self) -> io::Result<()> {
        for stats in self.counts().await? {
            self.out.line(Line::Stats(stats)).await?;
        }
        Ok(())
    }

    async fn copy_index(&mut self, dir: PathBuf) -> io::Result<()> {
        for queue in 0..self.queues.count() {
            match self.ask_within(COPY, queue, Request::CopyIndex(dir.clone())).await {
                Response::Copied(copies) => {
                    for copy in &copies {
                        let value = serde_json::to_value(copy).map_err(io::Error::other)?;
                        self.out.line(Line::Copied(value)).await?;
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

/// What is wrong with a change of a file of ours: what was asked, or the file.
pub(super) fn code_of(e: &io::Error) -> u8 {
    match e.kind() {
        io::ErrorKind::InvalidInput => 64,
        _ => 73,
    }
}
