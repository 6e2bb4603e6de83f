//! L4: what is handed over to mailboxes, and whom it is handed to, as those who deliver see it.
//!
//! A [`Parcel`] is a message for accounts of one shard, all of it owned, so that it can go to another
//! thread. [`Post`] finds the shard and its core; behind it are rings between threads, or in tests the
//! shards themselves. Knows no SMTP. What cannot be delivered is answered, never dropped.

use crate::base::time::Wall;
use crate::mailbox::api::{Delivered, Refusal};
use crate::mailbox::types::DeliveryId;
use crate::message::body::BodyFlags;
use crate::storage::side::SideFile;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

/// An account, and the mailbox that an address extension names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resident {
    /// Name of the account.
    pub account: Box<str>,
    /// The mailbox; empty: INBOX. One that does not exist means INBOX, too.
    pub mailbox: Box<str>,
}

/// One recipient of a parcel.
#[derive(Clone, Debug)]
pub struct Addressee {
    /// Who.
    pub resident: Resident,
    /// The address that the message was sent to, for Delivered-To.
    pub address: Box<[u8]>,
    /// Of a hand-over from a queue: a second one with this id changes nothing.
    pub id: Option<DeliveryId>,
    /// Take it although the account is over its quota: RCPT was answered so.
    pub promised: bool,
}

/// Trace headers and body of a message: unstuffed, CRLF line ends.
#[derive(Clone, Debug)]
pub enum Letter {
    /// All of it.
    Memory(Vec<u8>),
    /// `head`, then what a side file of the journal in `journal` holds.
    Side {
        /// The bytes before the file's.
        head: Vec<u8>,
        /// Directory of the journal that the file belongs to.
        journal: PathBuf,
        /// The file; it stays until the answer is there.
        file: SideFile,
    },
}

impl Letter {
    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Letter::Memory(bytes) => bytes.len() as u64,
            Letter::Side { head, file, .. } => head.len() as u64 + file.len,
        }
    }
}

/// A message for accounts of one shard.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Sender, for Return-Path; may be empty.
    pub sender: Box<[u8]>,
    /// When it came in: INTERNALDATE.
    pub arrival: Wall,
    /// The message.
    pub letter: Letter,
    /// Facts about it.
    pub flags: BodyFlags,
    /// One or more, all of one shard.
    pub to: Vec<Addressee>,
}

/// Why a message is not in a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unable {
    /// The shard has refused.
    Refused(Refusal),
    /// It has been delivered to this address before: mail runs in a circle (5.4.6).
    Loop,
}

impl fmt::Display for Unable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unable::Refused(refusal) => refusal.fmt(f),
            Unable::Loop => f.write_str("mail forwarding loop: it was delivered to this address before"),
        }
    }
}

impl std::error::Error for Unable {}

/// One answer for each addressee, in order.
pub type Outcomes = Vec<Result<Delivered, Unable>>;

/// A future of no particular kind.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The way to all mailboxes, from one thread.
pub trait Post {
    /// Whose mailbox an address is; `None`: nobody's here.
    fn resident(&self, address: &[u8]) -> Option<Resident>;
    /// The shard of an account.
    fn shard(&self, account: &str) -> u16;
    /// Does the account take a message of `size` bytes (0: not known)? Bounded in time. Yes is a promise.
    fn willing<'a>(&'a self, account: &'a str, size: u64) -> Later<'a, Result<(), Refusal>>;
    /// Hands over. Whoever stops waiting does not take it back: it is delivered or it is not.
    fn deliver(&self, parcel: Parcel) -> Later<'_, Outcomes>;
    /// The queue will not hand these over again to this shard: their outcomes are durable there. A hint.
    fn settled(&self, shard: u16, ids: Vec<DeliveryId>);
}
