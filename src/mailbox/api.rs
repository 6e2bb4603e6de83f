//! L1: the interface of the mailbox store: what a session may ask, and what it is answered.
//!
//! Traits and plain values; nothing is done here. Nothing that is asked shows before it is committed,
//! to nobody; every answer to a change carries a [`Committed`] ticket, or follows from one. Whoever
//! stops waiting for an answer does not take the operation back: it is committed or it is not.
//! Names of mailboxes are UTF-8 with `/` as the separator; protocols convert (`mailbox::name`).

use crate::base::aligned::SharedBytes;
use crate::base::time::{Mono, Wall};
use crate::mailbox::types::{
    AccountId, DeliveryId, Flags, Guid, MailboxId, Message, Quota, SpecialUse, Status, UidSet, Usage,
};
use crate::message::body::BodyFacts;
use crate::storage::side::SideFile;
use crate::storage::ticket::Committed;
use std::fmt;
use std::future::Future;
use std::ops::Range;

/// Why something is not done. Nothing has changed then, unless it says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is no such account. SMTP, LMTP: 550 5.1.1.
    NoAccount,
    /// There is no such mailbox. IMAP: NONEXISTENT, for a target TRYCREATE (RFC 9051 §7.1).
    NoMailbox,
    /// There is one already. IMAP: ALREADYEXISTS.
    Exists,
    /// The name cannot be one, or must not be touched (INBOX). IMAP: CANNOT.
    BadName,
    /// More than the quota allows. LMTP: 552 5.2.2 or 452 4.2.2; IMAP: OVERQUOTA (RFC 9208).
    OverQuota,
    /// More mailboxes, keywords or messages at once than there may be. IMAP: LIMIT.
    Limit,
    /// It has mailboxes below it and cannot go. IMAP: HASCHILDREN.
    HasChildren,
    /// Somebody else holds it. POP3: `[IN-USE]`.
    InUse,
    /// The message has been expunged, and its content is gone. IMAP: EXPUNGEISSUED.
    Expunged,
    /// No disk space: 452 4.3.1. Reading and deleting go on.
    Full,
    /// Too much waits for the disk at this moment: again in a moment, or 451 4.3.2.
    Busy,
    /// Nothing is taken any more: a failed write, or the end. 451 4.3.0.
    Closed,
    /// What is stored cannot be read. The operator is told. 451 4.3.0; IMAP: SERVERBUG.
    Damaged,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NoAccount => "no such account",
            Refusal::NoMailbox => "no such mailbox",
            Refusal::Exists => "it exists already",
            Refusal::BadName => "not a name for a mailbox",
            Refusal::OverQuota => "over quota",
            Refusal::Limit => "too many",
            Refusal::HasChildren => "there are mailboxes below it",
            Refusal::InUse => "in use",
            Refusal::Expunged => "the message has been expunged",
            Refusal::Full => "no disk space",
            Refusal::Busy => "the disk is busy",
            Refusal::Closed => "closed",
            Refusal::Damaged => "the mailbox store is damaged here",
        })
    }
}

impl std::error::Error for Refusal {}

/// Where the content of a new message is.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// In memory: the pieces in order. At most [`Mailboxes::inline_max`] bytes with head and summary.
    Slices(&'a [&'a [u8]]),
    /// In a finished side file of this shard, with `head` before it (trace headers).
    Large {
        /// Bytes before those of the file.
        head: &'a [u8],
        /// The file.
        file: SideFile,
    },
}

/// A message that comes in. The content is the same for all mailboxes it goes to: trace headers, if any,
/// are part of it, and who needs one of his own (Delivered-To) needs a delivery of his own. All of it is
/// copied when the operation is staged. If it is refused, or was delivered before, its side file is removed.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Header and body, unstuffed, CRLF line ends.
    pub content: Content<'a>,
    /// Facts about all of the content; `facts.len` is its length: the message's exact size.
    pub facts: BodyFacts,
    /// What `message::mime` made of it (ENVELOPE, BODYSTRUCTURE, preview); opaque here. May be empty;
    /// of more than 64 KiB nothing is kept.
    pub summary: &'a [u8],
    /// INTERNALDATE.
    pub internal: Wall,
    /// Of an import: the GUID it had.
    pub guid: Option<Guid>,
    /// Of an import: the UIDL it had, 1 to 70 bytes; empty: none.
    pub uidl: &'a [u8],
}

/// One recipient of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Whose.
    pub account: AccountId,
    /// Mailbox; empty, or one that does not exist: INBOX.
    pub mailbox: &'a str,
    /// Its flags from the start.
    pub flags: Flags,
    /// Of a hand-over from a queue: a second one with this id changes nothing.
    pub id: Option<DeliveryId>,
    /// Take it although it is over quota: it was promised before.
    pub promised: bool,
}

/// A message that is safe in a mailbox.
#[derive(Debug)]
pub struct Delivered {
    /// The proof.
    pub ticket: Committed,
    /// Where it is; `None`: it had been delivered before, by the delivery id.
    pub at: Option<Appended>,
}

/// Where a message has been put: APPENDUID and COPYUID (RFC 9051 §7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Its UIDVALIDITY.
    pub uidvalidity: u32,
    /// The UID.
    pub uid: u32,
}

/// What is appended.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// The message.
    pub message: Incoming<'a>,
    /// Its flags.
    pub flags: Flags,
    /// Its keywords.
    pub keywords: &'a [&'a str],
}

/// Whether an account takes a message. A promise: it is honoured later ([`Target::promised`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Willing {
    /// It does.
    Yes(AccountId),
    /// It does not.
    No(Refusal),
}

/// A mailbox in a list. Also a name that only has mailboxes below it, or is only subscribed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its counters; `None`: there is no such mailbox (`\NonExistent`, `\Noselect`).
    pub status: Option<Status>,
    /// There are mailboxes below it.
    pub children: bool,
    /// It is subscribed.
    pub subscribed: bool,
    /// What it is for.
    pub special: Option<SpecialUse>,
}

/// Commits with their proof.
#[derive(Debug)]
pub struct Done<T> {
    /// The proof.
    pub ticket: Committed,
    /// What was done.
    pub value: T,
}

/// How STORE changes flags (RFC 9051 §6.4.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alter {
    /// `+FLAGS`
    Add,
    /// `-FLAGS`
    Remove,
    /// `FLAGS`
    Replace,
}

/// What STORE did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stored {
    /// The MODSEQ of all messages it changed; `None`: it changed none.
    pub modseq: Option<u64>,
    /// Those that the command is about, as far as they are there, as they are now.
    pub now: Vec<Message>,
    /// Those that were left alone since they had changed: MODIFIED (RFC 7162 §3.1.3).
    pub modified: UidSet,
}

/// What COPY or MOVE did: COPYUID.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// UIDVALIDITY of the target.
    pub uidvalidity: u32,
    /// The UIDs here, in ascending order, and the UIDs there.
    pub uids: Vec<(u32, u32)>,
}

/// Something that a session's client does not know yet, in the order in which it must be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// The message with this sequence number, as of now, is gone: EXPUNGE, VANISHED.
    Expunged {
        /// Sequence number at this point of the list.
        seq: u32,
        /// The UID it had.
        uid: u32,
    },
    /// There are so many messages now: EXISTS.
    Exists(u32),
    /// So many of them are recent: RECENT (RFC 3501 §7.3.2).
    Recent(u32),
    /// A message was changed, or is new: FETCH (FLAGS MODSEQ).
    Changed {
        /// Sequence number after all expunges of this list.
        seq: u32,
        /// The message.
        message: Message,
    },
    /// There are new keywords: FLAGS.
    Keywords,
    /// The mailbox has been deleted: nothing can be done here any more but to leave.
    Deleted,
}

/// Expunges since a MODSEQ: VANISHED (EARLIER) (RFC 7162 §3.2.10).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Vanished {
    /// Exactly these.
    Exactly(UidSet),
    /// The history does not go back so far: every UID below UIDNEXT that is not there.
    Unknown,
}

/// One shard. A handle; clones are the same.
pub trait Mailboxes: Clone + 'static {
    /// See there.
    type Selected: Selected;
    /// Holds a maildrop for POP3 until it is dropped.
    type Maildrop: 'static;
    /// See there.
    type Large: Large;

    /// Names the shard for ever, for object ids (RFC 8474).
    fn number(&self) -> u64;

    /// The account of this name.
    fn account(&self, name: &str) -> impl Future<Output = Option<AccountId>>;
    /// Makes an account with INBOX and these mailboxes, all subscribed.
    fn create_account(
        &self,
        name: &str,
        mailboxes: &[(&str, Option<SpecialUse>)],
        quota: Quota,
    ) -> impl Future<Output = Result<Done<AccountId>, Refusal>>;
    /// Gives it another name.
    fn rename_account(&self, account: AccountId, to: &str)
    -> impl Future<Output = Result<Done<()>, Refusal>>;
    /// Removes it with all its mail.
    fn remove_account(&self, account: AccountId) -> impl Future<Output = Result<Done<()>, Refusal>>;
    /// Sets its quota.
    fn set_quota(&self, account: AccountId, quota: Quota) -> impl Future<Output = Result<Done<()>, Refusal>>;
    /// What it holds and may hold: the sum of its mailboxes, so it cannot drift from them.
    fn usage(&self, account: AccountId) -> impl Future<Output = Option<Usage>>;
    /// At RCPT: does the account exist, and take a message of `size` bytes (0: not known)?
    fn willing(&self, account: &str, size: u64) -> impl Future<Output = Willing>;

    /// Bytes of content and summary that one message may have in memory; above, a side file.
    fn inline_max(&self) -> usize;
    /// Begins the side file of a message that is too large for memory.
    fn large(&self) -> impl Future<Output = Result<Self::Large, Refusal>>;
    /// A finished side file is not needed: no message has it.
    fn discard(&self, file: SideFile);
    /// Delivers a message: one record, one body, for all targets. One answer per target, in order. Those
    /// that can be are delivered, whatever becomes of the others. Reads nothing from disk.
    fn deliver(
        &self,
        message: Incoming<'_>,
        targets: &[Target<'_>],
    ) -> impl Future<Output = Vec<Result<Delivered, Refusal>>>;
    /// The queue will not hand these over again: their outcomes are durable there. Only a hint.
    fn settled(&self, ids: &[DeliveryId]);

    /// Mailboxes and subscribed names of an account, by name.
    fn list(&self, account: AccountId) -> impl Future<Output = Result<Vec<Listed>, Refusal>>;
    /// Counters of a mailbox.
    fn status(&self, account: AccountId, mailbox: &str) -> impl Future<Output = Result<Status, Refusal>>;
    /// Makes a mailbox, and those above it.
    fn create(
        &self,
        account: AccountId,
        mailbox: &str,
        special: Option<SpecialUse>,
    ) -> impl Future<Output = Result<Done<MailboxId>, Refusal>>;
    /// Deletes a mailbox with its mail; one with others below it stays as a name (RFC 9051 §6.3.5).
    fn delete(&self, account: AccountId, mailbox: &str) -> impl Future<Output = Result<Done<()>, Refusal>>;
    /// Renames a mailbox and all below it; INBOX: moves its mail into a new one (RFC 9051 §6.3.6).
    fn rename(
        &self,
        account: AccountId,
        mailbox: &str,
        to: &str,
    ) -> impl Future<Output = Result<Done<()>, Refusal>>;
    /// Subscribes to a name, or no longer. It need not exist (RFC 9051 §6.3.7).
    fn subscribe(
        &self,
        account: AccountId,
        mailbox: &str,
        on: bool,
    ) -> impl Future<Output = Result<Done<()>, Refusal>>;

    /// Appends messages, all or none (RFC 3502).
    fn append(
        &self,
        account: AccountId,
        mailbox: &str,
        messages: &[Append<'_>],
    ) -> impl Future<Output = Result<Done<Vec<Appended>>, Refusal>>;
    /// Opens a mailbox. Costs a read of its rows if nobody has it open.
    fn select(
        &self,
        account: AccountId,
        mailbox: &str,
    ) -> impl Future<Output = Result<Self::Selected, Refusal>>;
    /// Takes the maildrop of an account (its INBOX) for one POP3 session: [`Refusal::InUse`] if another
    /// has it. IMAP sessions and deliveries go on; what comes in is not in the session's snapshot.
    fn maildrop(&self, account: AccountId) -> Result<Self::Maildrop, Refusal>;
}

/// A session's view of a mailbox: a snapshot that moves on in [`Self::sync`] only. Sequence numbers
/// are those of the snapshot (RFC 9051 §2.3.1.2, §7.5.1); messages are as they are now. Operations name
/// messages by UID and pass over those that are not there; some hundred thousand at once are too many
/// ([`Refusal::Limit`]): do it in parts. Dropping it leaves the mailbox.
pub trait Selected: 'static {
    /// A body being read.
    type Reader: Reader;

    /// The mailbox's counters as they are now (not as of the snapshot).
    fn status(&self) -> Status;
    /// Messages in the snapshot.
    fn exists(&self) -> u32;
    /// The message with this sequence number, from 1. Also one that has been expunged meanwhile and the
    /// client has not been told of.
    fn message(&self, seq: u32) -> Option<Message>;
    /// Appends the messages from sequence number `seq` on, at most `most`; fewer at the end only.
    fn window(&self, seq: u32, most: usize, out: &mut Vec<Message>);
    /// The sequence number of a message of the snapshot.
    fn seq(&self, uid: u32) -> Option<u32>;
    /// The first sequence number whose UID is `uid` or greater; [`Self::exists`] + 1 if there is none.
    fn seq_from(&self, uid: u32) -> u32;
    /// The sequence number of the first message that has not been seen, of those that have not been
    /// expunged. `None`: there is none, or it would take long to find it.
    fn first_unseen(&self) -> Option<u32>;
    /// Keywords of the mailbox; their positions are the bits of [`Message::keywords`].
    fn keywords(&self) -> Vec<String>;
    /// From now on this session is one that is told of messages: those that no session has been told of
    /// before are recent for it, and for no later one if it is `read_write` (RFC 3501 §2.3.2). Costs no
    /// write.
    fn meet(&mut self, read_write: bool);
    /// UIDs of what is recent for this session, whatever of them is gone.
    fn recent(&self) -> UidSet;
    /// How many of them are in the snapshot.
    fn recent_count(&self) -> u32;
    /// Moves the snapshot on, and says what the client must be told. `expunges`: they may be told now; if
    /// not (FETCH, STORE, SEARCH without UID), they wait (RFC 9051 §7.5.1).
    fn sync(&mut self, expunges: bool) -> Vec<News>;
    /// Changes with this MODSEQ are known to the client already (its own STORE): [`Self::sync`] passes
    /// over them.
    fn told(&mut self, modseq: u64);
    /// When the first message was committed that [`Self::sync`] has not told of; gives it once.
    fn waits(&self) -> Option<Mono>;
    /// Resolves when [`Self::sync`] has something to say. May be dropped.
    fn changed(&self) -> impl Future<Output = ()>;

    /// Changes flags and keywords of `uids`; of those that have changed since `unchanged_since`, nothing
    /// (RFC 7162 §3.1.3). One commit for all.
    fn store(
        &self,
        uids: &UidSet,
        how: Alter,
        flags: Flags,
        keywords: &[&str],
        unchanged_since: Option<u64>,
    ) -> impl Future<Output = Result<Done<Stored>, Refusal>>;
    /// Expunges those of `uids` that are marked `\Deleted`, or all of them if `marked` is false (POP3).
    /// One commit for all. The UIDs that it removed.
    fn expunge(&self, uids: &UidSet, marked: bool) -> impl Future<Output = Result<Done<UidSet>, Refusal>>;
    /// Copies `uids` to the end of another mailbox of the account; all or none.
    fn copy(&self, uids: &UidSet, to: &str) -> impl Future<Output = Result<Done<Copied>, Refusal>>;
    /// Moves `uids` (RFC 6851): copies and expunges in one commit, all or none.
    fn move_to(&self, uids: &UidSet, to: &str) -> impl Future<Output = Result<Done<Copied>, Refusal>>;
    /// Appends a message to a mailbox of the account and expunges `uid` here (RFC 8508): in one commit, both
    /// or none.
    fn replace(
        &self,
        uid: u32,
        to: &str,
        message: &Append<'_>,
    ) -> impl Future<Output = Result<Done<Vec<Appended>>, Refusal>>;
    /// What has been expunged since `modseq`.
    fn vanished(&self, modseq: u64) -> Vanished;

    /// Summaries of these messages (`message::mime`), in their order; `None`: gone or damaged.
    fn summaries(&self, uids: &[u32]) -> impl Future<Output = Vec<Option<Vec<u8>>>>;
    /// POP3 UIDLs of these messages, in their order. Stable for ever.
    fn uidls(&self, uids: &[u32]) -> impl Future<Output = Result<Vec<Vec<u8>>, Refusal>>;
    /// The GUID of a message.
    fn guid(&self, uid: u32) -> impl Future<Output = Result<Guid, Refusal>>;
    /// Reads bytes `range` of a message (the end may lie behind its end). Of one that was expunged as
    /// long as the snapshot shows it, for a bounded time.
    fn read(&self, uid: u32, range: Range<u64>) -> impl Future<Output = Result<Self::Reader, Refusal>>;
}

/// A side file being written; dropped unfinished, it is removed.
pub trait Large: 'static {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = Result<(), Refusal>>;
    /// Makes it durable. Then it must be appended, delivered or discarded.
    fn finish(self) -> impl Future<Output = Result<SideFile, Refusal>>;
}

/// A body being read; what it reads stays while it is held.
pub trait Reader: 'static {
    /// The next piece, verified; `None` at the end. Pieces are at most as large as a record.
    fn next(&mut self) -> impl Future<Output = Result<Option<SharedBytes>, Refusal>>;
}
