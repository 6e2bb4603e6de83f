//! The server side of an IMAP session (RFC 9051, RFC 3501) as a state machine without IO.
//!
//! Bytes and time go in, responses and [`Step`]s come out. It knows no socket, clock, password or disk:
//! the shell checks the login, asks the mailbox store what [`Ask`] says, and streams content. The opened
//! mailbox belongs to the session (`S`), which uses what of it never waits: its snapshot. Errors of the
//! peer end in a response or in [`Step::Close`], never in a panic. Calls out of order (an answer without
//! a question) are bugs of the shell and panic.
//!
//! How a shell drives it: [`Session::greet`]; then [`Session::receive`] with all input not yet
//! consumed, again and again, doing what each step says. Consumed bytes are not shown again; the others
//! stay at the front of the buffer, in front of what arrives next. Responses are appended to `out`; the
//! shell sends it at every step but [`Step::Ask`] and [`Step::Take`], where it may, so that pipelined
//! commands are answered by one write. When [`Session::deadline`] passes: [`Session::expire`].
//!
//! One command is under way at a time; what is left of it is its `Task`. Its tagged response comes
//! after the changes of the mailbox that the client may be told of at that moment (`tell`). A positive
//! response to a change is made of a [`Committed`] ticket.

mod append;
mod command;
mod copy;
mod fetch;
mod folders;
mod intake;
mod list;
mod login;
mod moving;
mod names;
mod options;
mod order;
mod quota;
mod refusal;
mod search;
mod section;
mod select;
mod store;
mod summary;
pub mod tally;
mod tell;

pub use append::Appending;
pub use intake::Intake;
pub use login::{Denial, Offer, Said, Tls};
pub use moving::Luggage;
pub use options::Options;

use crate::base::security::Security;
use crate::base::time::{Mono, Wall};
use crate::imap::encode::Wire;
use crate::imap::encode::status::{Code, Condition, status};
use crate::imap::line::{Framer, Limits, Tag};
use crate::imap::parse::session::Extensions;
use crate::imap::set::SeqSet;
use crate::mailbox::api::{Alter, Appended, Copied, Done, Listed, Refusal, Selected, Stored};
use crate::mailbox::types::{Flags, MailboxId, SpecialUse, Status, UidSet, Usage};
use crate::storage::ticket::Committed;
use login::Login;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// What time it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// For deadlines.
    pub mono: Mono,
    /// For dates.
    pub wall: Wall,
}

/// What the shell must do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send the responses, then wait for input (until the deadline).
    NeedInput,
    /// The same; if [`Selected::changed`] of [`Session::mailbox`] resolves before: [`Session::changed`].
    Idle,
    /// Find the answer to [`Session::asked`], give it to [`Session::answer`], call again.
    Ask,
    /// Send the responses and behind them the content that the last [`Ask::Open`] has opened, through
    /// [`Session::pass`]; then [`Session::sent`], and call again. If it cannot be sent to its end: close
    /// without a word, since no response can stand within a literal.
    Send,
    /// Put the bytes of [`Session::incoming`] behind those of the message that comes in; call again.
    Take,
    /// Enough for one turn: send the responses, let others run, call again.
    Yield,
    /// Send the responses, drop all input (it came in clear text), do a TLS handshake (until the
    /// deadline); then [`Session::secured`], or close without a word.
    StartTls,
    /// Send the responses; all that follows is deflated, both ways, also the input that is not consumed
    /// (RFC 4978 §3). Call again.
    Compress,
    /// Send the responses, close.
    Close,
}

/// What only the shell can know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// What becomes of a login? It is in [`Session::said`].
    Login,
    /// Can there be a TLS handshake now?
    Tls,
    /// The login is good: move to the core that owns the account. [`Answer::Entered`].
    Enter,
    /// The user has logged out (UNAUTHENTICATE): forget whose session it is. [`Answer::Accept`].
    Leave,
    /// All mailboxes and subscribed names. [`Answer::Listed`].
    List,
    /// Counters of a mailbox, and if asked for the bytes of its messages that are marked `\Deleted`.
    /// [`Answer::Status`].
    Status(String, bool),
    /// Make a mailbox. [`Answer::Created`].
    Create(String, Option<SpecialUse>),
    /// Delete a mailbox. [`Answer::Done`].
    Delete(String),
    /// Rename a mailbox. [`Answer::Done`].
    Rename(String, String),
    /// Subscribe to a name, or no longer. [`Answer::Done`].
    Subscribe(String, bool),
    /// Open a mailbox. [`Answer::Selected`].
    Select(String),
    /// What the account holds and may hold. [`Answer::Usage`].
    Usage,
    /// Summaries of these messages, made anew if need be. [`Answer::Summaries`].
    Summaries(Vec<u32>),
    /// Change flags. [`Answer::Stored`].
    Store(Change),
    /// Expunge those of these messages that are marked. [`Answer::Expunged`].
    Expunge(UidSet),
    /// Copy messages, or move them. [`Answer::Copied`].
    Copy {
        /// Which.
        uids: UidSet,
        /// Where to.
        to: String,
        /// They do not stay here.
        remove: bool,
    },
    /// Open content, for [`Step::Send`]. [`Answer::Read`].
    Open {
        /// Of which message.
        uid: u32,
        /// Which bytes; at least one.
        range: Range<u64>,
    },
    /// Read content and show it to [`Session::piece`], until it says that it is enough. [`Answer::Read`].
    Read {
        /// Of which message.
        uid: u32,
        /// Which bytes.
        range: Range<u64>,
    },
    /// Will the mailbox take a message of that length? Then make room for it, behind those of the same
    /// APPEND that came before. [`Answer::Room`].
    Room {
        /// Where to.
        mailbox: String,
        /// Bytes that are announced.
        len: u64,
        /// It is the first of its APPEND.
        first: bool,
    },
    /// Append the messages of [`Session::appending`], all or none. [`Answer::Appended`].
    Append,
    /// Forget what has been taken of them. [`Answer::Accept`].
    Forget,
}

/// What STORE changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Of which messages.
    pub uids: UidSet,
    /// How.
    pub how: Alter,
    /// System flags.
    pub flags: Flags,
    /// Keywords.
    pub keywords: Vec<String>,
    /// Only of those that have not changed since.
    pub unchanged_since: Option<u64>,
}

/// The answer to an [`Ask`].
#[derive(Debug)]
pub enum Answer<'a, S> {
    /// Yes.
    Accept,
    /// No. To [`Ask::Login`], [`Ask::Tls`] and [`Ask::Enter`].
    Deny(Denial),
    /// To [`Ask::Login`]: the client must answer this first.
    Challenge(&'a [u8]),
    /// To [`Ask::Enter`]: this core owns the account. A number that names the shard for ever.
    Entered(u64),
    /// See the question.
    Listed(Result<Vec<Listed>, Refusal>),
    /// See the question.
    Status(Result<(Status, u64), Refusal>),
    /// See the question.
    Created(Result<Done<MailboxId>, Refusal>),
    /// See the question.
    Done(Result<Committed, Refusal>),
    /// See the question.
    Selected(Result<S, Refusal>),
    /// See the question.
    Usage(Option<Usage>),
    /// In the order of the question; none: it is gone, or cannot be read.
    Summaries(Vec<Option<Vec<u8>>>),
    /// See the question.
    Stored(Result<Done<Stored>, Refusal>),
    /// See the question.
    Expunged(Result<Done<UidSet>, Refusal>),
    /// See the question.
    Copied(Result<Done<Copied>, Refusal>),
    /// See the question.
    Read(Result<(), Refusal>),
    /// See the question.
    Room(Result<(), Refusal>),
    /// See the question.
    Appended(Result<Done<Vec<Appended>>, Refusal>),
}

/// A mailbox that the session has selected.
#[derive(Debug)]
struct Chosen<S> {
    mailbox: S,
    /// Its name when it was selected.
    name: String,
    /// EXAMINE.
    read_only: bool,
    /// Keywords that the client has been told of.
    keywords: usize,
}

/// One session. `S` is what the store gives for an opened mailbox.
#[derive(Debug)]
pub struct Session<S> {
    options: Rc<Options>,
    state: State,
    task: Task,
    framer: Framer,
    /// Of the current command.
    tag: Tag,
    tls: Tls,
    security: Option<Rc<Security>>,
    login: Login,
    /// Names the shard; of a session that has logged in.
    owner: Option<u64>,
    enabled: Extensions,
    /// COMPRESS is active; it is never turned off.
    compressed: bool,
    chosen: Option<Chosen<S>>,
    /// The result of the last SEARCH with SAVE, as UIDs.
    saved: SeqSet,
    sending: fetch::Sending,
    /// An APPEND that has begun.
    appending: Option<Box<Appending>>,
    incoming: Vec<u8>,
    /// Commands since the shell last had its turn.
    burst: u32,
    /// Commands before the login.
    commands: u32,
    errors: u32,
    /// Since when the peer has been owing us something.
    since: Mono,
    shutting_down: bool,
    /// Commands obeyed since the shell last asked.
    tally: tally::Tally,
}

/// Where the session is.
#[derive(Debug)]
enum State {
    /// The greeting has not been written.
    Fresh,
    /// At a command, or within the messages of an APPEND.
    Command,
    /// At the start of a line that answers a challenge.
    Auth,
    /// Within IDLE.
    Idle,
    /// A question waits for its answer.
    Asking(Ask),
    /// The task goes on.
    Running,
    /// Content is on its way.
    Sending,
    /// The handshake is the shell's; the greeting has not been written if `fresh`.
    Securing { fresh: bool },
    /// The last response has been written.
    Closing,
}

/// What is left to do of the current command.
#[derive(Debug, Default)]
enum Task {
    #[default]
    None,
    Login,
    Tls,
    Leave,
    Tell(tell::Telling),
    List(Box<list::Listing>),
    Status(list::StatusOf),
    Folder(folders::Work),
    Quota(quota::Work),
    Select(Box<select::Selecting>),
    Close(Box<copy::Expunging>),
    Expunge(Box<copy::Expunging>),
    Copy(copy::Copying),
    Store(Box<store::Storing>),
    Fetch(Box<fetch::Fetching>),
    Search(Box<search::Searching>),
    Numbers(search::Numbers),
    Append,
}

impl<S: Selected> Session<S> {
    /// A session whose peer has just connected.
    #[must_use]
    pub fn new(options: Rc<Options>, now: Mono) -> Self {
        Session {
            options,
            state: State::Fresh,
            task: Task::None,
            framer: Framer::new(Limits::BEFORE_LOGIN),
            tag: Tag::of(b""),
            tls: Tls::default(),
            security: None,
            login: Login::default(),
            owner: None,
            enabled: Extensions::default(),
            compressed: false,
            chosen: None,
            saved: SeqSet::default(),
            sending: fetch::Sending::default(),
            appending: None,
            incoming: Vec::new(),
            burst: 0,
            commands: 0,
            errors: 0,
            since: now,
            shutting_down: false,
            tally: tally::Tally::default(),
        }
    }

    /// All responses to the commands so far are written.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.appending.is_none() && matches!(self.state, State::Command | State::Idle | State::Closing)
    }

    /// Commands obeyed since the last call.
    pub fn take_tally(&mut self) -> tally::Tally {
        std::mem::take(&mut self.tally)
    }

    /// Takes all input that is not yet consumed. Gives how much of it is consumed now, and what to do
    /// next.
    pub fn receive(&mut self, now: Now, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let (n, step) = match &self.state {
                State::Fresh => {
                    self.greet(now.mono, out);
                    (0, None)
                }
                State::Command => self.at_command(now, rest, out),
                State::Auth | State::Idle => self.at_line(now, rest, out),
                State::Asking(_) => (0, Some(Step::Ask)),
                State::Running => (0, self.run(now, out)),
                State::Sending => (0, Some(Step::Send)),
                // All that has come in clear text is gone with this (RFC 9051 §11.1).
                State::Securing { .. } => (rest.len(), Some(Step::StartTls)),
                State::Closing => (rest.len(), Some(Step::Close)),
            };
            used += n;
            if let Some(step) = step {
                if !matches!(step, Step::Ask | Step::Take) {
                    self.burst = 0;
                }
                return (used, step);
            }
        }
    }

    /// Goes on with the task.
    fn run(&mut self, now: Now, out: &mut Vec<u8>) -> Option<Step> {
        // One client never gets more than its turn, and never more responses than it has read.
        if out.len() >= self.options.replies_max {
            return Some(Step::Yield);
        }
        match std::mem::take(&mut self.task) {
            Task::Tell(telling) => self.tell_on(telling, out),
            Task::List(listing) => self.list_on(listing, out),
            Task::Select(selecting) => self.select_on(selecting, out),
            Task::Close(expunging) => self.close_on(expunging, out),
            Task::Expunge(expunging) => self.expunge_on(expunging, out),
            Task::Store(storing) => self.store_on(storing, out),
            Task::Fetch(fetching) => self.fetch_on(fetching, out),
            Task::Search(searching) => self.search_on(now, searching, out),
            Task::Numbers(numbers) => self.numbers_on(numbers, out),
            task => panic!("{task:?} does not go on by itself"),
        }
    }

    /// What the last [`Step::Ask`] is about.
    #[must_use]
    pub fn asked(&self) -> &Ask {
        let State::Asking(ask) = &self.state else { panic!("nothing has been asked") };
        ask
    }

    /// Answers it.
    pub fn answer(&mut self, now: Now, answer: Answer<'_, S>, out: &mut Vec<u8>) {
        let State::Asking(ask) = std::mem::replace(&mut self.state, State::Command) else {
            panic!("an answer without a question")
        };
        // The peer is not made to pay for our time.
        self.since = now.mono;
        match std::mem::take(&mut self.task) {
            Task::Login => self.login_answer(&ask, answer, out),
            Task::Tls => self.tls_answer(answer, out),
            Task::Leave => self.left(out),
            Task::List(listing) => self.list_answer(listing, answer, out),
            Task::Status(of) => self.status_answer(of, answer, out),
            Task::Folder(work) => self.folder_answer(work, answer, out),
            Task::Quota(work) => self.quota_answer(work, answer, out),
            Task::Select(selecting) => self.select_answer(selecting, answer, out),
            Task::Close(expunging) => self.close_answer(expunging, answer),
            Task::Expunge(expunging) => self.expunge_answer(expunging, answer, out),
            Task::Copy(copying) => self.copy_answer(copying, answer, out),
            Task::Store(storing) => self.store_answer(storing, answer, out),
            Task::Fetch(fetching) => self.fetch_answer(fetching, answer, out),
            Task::Search(searching) => self.search_answer(searching, answer),
            Task::Append => self.append_answer(&ask, answer, out),
            task => panic!("{task:?} has asked nothing"),
        }
    }

    /// Asks for the current task.
    fn ask(&mut self, task: Task, ask: Ask) -> Option<Step> {
        self.task = task;
        self.state = State::Asking(ask);
        Some(Step::Ask)
    }

    /// The task goes on at the next turn of the loop.
    fn go_on(&mut self, task: Task) {
        self.task = task;
        self.state = State::Running;
    }

    /// The task goes on when others have had their turn.
    fn pause(&mut self, task: Task) -> Option<Step> {
        self.go_on(task);
        Some(Step::Yield)
    }

    /// Writes the tagged response of a command during which nothing of the mailbox is told.
    fn say(&mut self, condition: Condition, code: Option<Code<'_>>, text: &str, out: &mut Vec<u8>) {
        status(out, self.tag.bytes(), condition, code, text);
        self.state = State::Command;
    }

    /// A response that belongs to no command.
    fn untagged(code: Option<Code<'_>>, text: &str, out: &mut Vec<u8>) {
        status(out, b"*", Condition::Ok, code, text);
    }

    /// Ends the session.
    fn bye(&mut self, text: &str, out: &mut Vec<u8>) -> Step {
        status(out, b"*", Condition::Bye, None, text);
        self.state = State::Closing;
        Step::Close
    }

    /// How text that is not ASCII may be written.
    fn wire(&self) -> Wire {
        let utf8 = self.enabled.has(Extensions::UTF8_ACCEPT) || self.is_rev2();
        if utf8 { Wire::Utf8 } else { Wire::Ascii }
    }

    /// IMAP4rev2 has been enabled.
    fn is_rev2(&self) -> bool {
        self.enabled.has(Extensions::IMAP4REV2)
    }

    /// The mailbox that is selected; what of it waits is the shell's.
    ///
    /// # Panics
    /// If none is selected.
    #[must_use]
    pub fn mailbox(&self) -> &S {
        &self.chosen.as_ref().expect("asked about a mailbox that is selected").mailbox
    }

    /// True if a mailbox is selected.
    #[must_use]
    pub fn is_selected(&self) -> bool {
        self.chosen.is_some()
    }

    /// Bytes of a message that has been sent by the client; the shell takes them all.
    pub fn incoming(&mut self) -> &mut Vec<u8> {
        &mut self.incoming
    }

    /// When [`Self::expire`] is due. Far away while it is the shell's turn.
    #[must_use]
    pub fn deadline(&self) -> Mono {
        let o = &self.options;
        match self.state {
            State::Asking(_) | State::Closing | State::Running => Mono(u64::MAX),
            State::Securing { .. } => self.since.after(o.tls_time),
            State::Sending => self.since.after(o.send_time),
            State::Idle => self.since.after(o.keepalive),
            _ if self.appending.is_some() => self.since.after(o.send_time),
            _ if self.owner.is_some() => self.since.after(o.idle_time),
            _ => self.since.after(o.login_time),
        }
    }

    /// Ends the session if its deadline has passed, or shows within IDLE that we are still here.
    pub fn expire(&mut self, now: Mono, out: &mut Vec<u8>) -> Step {
        match self.state {
            _ if now < self.deadline() => Step::NeedInput,
            State::Idle => {
                self.since = now;
                Self::untagged(None, "Still here", out);
                Step::Idle
            }
            State::Command if self.appending.is_none() => self.bye("You have said nothing for too long", out),
            _ => {
                self.state = State::Closing;
                Step::Close
            }
        }
    }

    /// Some of what the peer waits for, or of what it sends, is on its way: the deadline moves.
    pub fn progress(&mut self, now: Mono) {
        self.since = now;
    }

    /// Moves the deadline: for so long it was not the peer who kept us waiting.
    pub fn excuse(&mut self, time: Duration) {
        self.since = self.since.after(time);
    }

    /// Ends the session at the next command boundary: now, if that is where it stands.
    pub fn shutdown(&mut self, out: &mut Vec<u8>) -> Step {
        self.shutting_down = true;
        match self.state {
            State::Fresh | State::Command | State::Auth | State::Idle if self.appending.is_none() => {
                self.bye("The server is stopping", out)
            }
            // No response can be read within a handshake.
            State::Securing { .. } => {
                self.state = State::Closing;
                Step::Close
            }
            State::Closing => Step::Close,
            _ => Step::NeedInput,
        }
    }

    /// True at a command boundary or within IDLE: the session needs no buffers.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let waits = matches!(self.state, State::Fresh | State::Command | State::Auth | State::Idle);
        waits && self.appending.is_none()
    }

    /// True once somebody has logged in.
    #[must_use]
    pub fn is_logged_in(&self) -> bool {
        self.owner.is_some()
    }
}
