//! Status responses (RFC 9051 §7.1) and their codes (RFC 5530 and the extensions named below).

use super::flags;
use crate::imap::parse::flags::System;
use crate::imap::parse::input::Bad;
use crate::imap::parse::session::Extensions;
use crate::imap::set::{SeqSet, number, write_numbers};
use std::io::Write;

/// The condition that a response states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// OK.
    Ok,
    /// NO.
    No,
    /// BAD.
    Bad,
    /// BYE; untagged.
    Bye,
    /// PREAUTH; untagged.
    Preauth,
}

impl Condition {
    fn text(self) -> &'static str {
        match self {
            Condition::Ok => "OK",
            Condition::No => "NO",
            Condition::Bad => "BAD",
            Condition::Bye => "BYE",
            Condition::Preauth => "PREAUTH",
        }
    }
}

/// A response code.
#[derive(Clone, Copy, Debug)]
pub enum Code<'a> {
    /// ALERT.
    Alert,
    /// One of the codes without argument, RFC 5530 §3 and others.
    Word(Word),
    /// BADCHARSET with the charsets there are.
    BadCharset(&'a [&'a str]),
    /// CAPABILITY with the list.
    Capability(&'a [u8]),
    /// PERMANENTFLAGS: system flags, keywords, and whether new keywords can be made (`\*`).
    PermanentFlags(System, &'a [&'a [u8]], bool),
    /// UIDNEXT.
    UidNext(u32),
    /// UIDVALIDITY.
    UidValidity(u32),
    /// UNSEEN (RFC 3501 §7.1): the first message without `\Seen`.
    Unseen(u32),
    /// HIGHESTMODSEQ (RFC 7162 §3.1.2.1).
    HighestModSeq(u64),
    /// MODIFIED (RFC 7162 §3.1.3): these were left alone.
    Modified(&'a SeqSet),
    /// APPENDUID (RFC 4315 §3): UIDVALIDITY and ascending UIDs.
    AppendUid(u32, &'a [u32]),
    /// COPYUID (RFC 4315 §3): UIDVALIDITY, UIDs here, UIDs there; both ascending, none empty.
    CopyUid(u32, &'a [u32], &'a [u32]),
    /// MAILBOXID (RFC 8474 §4.1).
    MailboxId(&'a [u8]),
    /// DOWNGRADED (RFC 6858 §3.3): of these UIDs something has been shown otherwise than it is.
    Downgraded(&'a SeqSet),
}

macro_rules! words {
    ($( $(#[$doc:meta])* $name:ident = $text:literal; )*) => {
        /// A code without argument.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Word { $( $(#[$doc])* $name, )* }

        impl Word {
            /// All of them.
            pub const ALL: &'static [Word] = &[ $( Word::$name, )* ];

            /// As it is written.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $( Word::$name => $text, )* }
            }
        }
    };
}

words! {
    /// The mailbox exists already.
    AlreadyExists = "ALREADYEXISTS";
    /// Name or password are wrong.
    AuthenticationFailed = "AUTHENTICATIONFAILED";
    /// Authenticated, but may not act as that user.
    AuthorizationFailed = "AUTHORIZATIONFAILED";
    /// This can never be done.
    Cannot = "CANNOT";
    /// The client has done something wrong.
    ClientBug = "CLIENTBUG";
    /// The mailbox selected before is closed (RFC 7162 §3.2.11).
    Closed = "CLOSED";
    /// COMPRESS is active already (RFC 4978 §3).
    CompressionActive = "COMPRESSIONACTIVE";
    /// The user must speak to the operator.
    ContactAdmin = "CONTACTADMIN";
    /// What is stored cannot be read.
    Corruption = "CORRUPTION";
    /// The password is too old.
    Expired = "EXPIRED";
    /// Some messages of the command have been expunged by others.
    ExpungeIssued = "EXPUNGEISSUED";
    /// The mailbox has mailboxes below it (RFC 9051 §7.1).
    HasChildren = "HASCHILDREN";
    /// Somebody else holds it.
    InUse = "INUSE";
    /// More than there may be.
    Limit = "LIMIT";
    /// Mod-sequences cannot be kept for it (RFC 7162 §3.1.2.2).
    NoModSeq = "NOMODSEQ";
    /// There is no such mailbox.
    NonExistent = "NONEXISTENT";
    /// No right to do it.
    NoPerm = "NOPERM";
    /// The result of a search is not saved (RFC 5182 §2.1).
    NotSaved = "NOTSAVED";
    /// Over quota (RFC 9208 §4.3).
    OverQuota = "OVERQUOTA";
    /// The message is not of the form of mail.
    Parse = "PARSE";
    /// Only under TLS.
    PrivacyRequired = "PRIVACYREQUIRED";
    /// The mailbox can be read only.
    ReadOnly = "READ-ONLY";
    /// The mailbox can be changed.
    ReadWrite = "READ-WRITE";
    /// The server has done something wrong.
    ServerBug = "SERVERBUG";
    /// A message or a literal that is larger than what is taken (RFC 4469 §4.2, RFC 7889 §5).
    TooBig = "TOOBIG";
    /// The mailbox does not exist, but could be created.
    TryCreate = "TRYCREATE";
    /// UIDs are not kept (RFC 4315 §3).
    UidNotSticky = "UIDNOTSTICKY";
    /// A part of the server does not answer.
    Unavailable = "UNAVAILABLE";
    /// BINARY: an encoding that cannot be taken away (RFC 3516 §3).
    UnknownCte = "UNKNOWN-CTE";
    /// A special use that cannot be (RFC 6154 §3).
    UseAttr = "USEATTR";
}

impl Code<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Code::Alert => out.extend_from_slice(b"ALERT"),
            Code::Word(word) => out.extend_from_slice(word.text().as_bytes()),
            Code::BadCharset(charsets) => {
                out.extend_from_slice(b"BADCHARSET (");
                out.extend_from_slice(charsets.join(" ").as_bytes());
                out.push(b')');
            }
            Code::Capability(list) => named_bytes(out, "CAPABILITY ", list),
            Code::PermanentFlags(system, keywords, new) => {
                out.extend_from_slice(b"PERMANENTFLAGS ");
                flags(out, *system, keywords.iter().copied().chain(new.then_some(&b"\\*"[..])));
            }
            Code::UidNext(n) => named(out, "UIDNEXT ", u64::from(*n)),
            Code::UidValidity(n) => named(out, "UIDVALIDITY ", u64::from(*n)),
            Code::Unseen(n) => named(out, "UNSEEN ", u64::from(*n)),
            Code::HighestModSeq(n) => named(out, "HIGHESTMODSEQ ", *n),
            Code::Modified(set) => {
                out.extend_from_slice(b"MODIFIED ");
                set.write(out);
            }
            Code::AppendUid(validity, uids) => {
                named(out, "APPENDUID ", u64::from(*validity));
                out.push(b' ');
                write_numbers(out, uids.iter().copied());
            }
            Code::CopyUid(validity, from, to) => {
                named(out, "COPYUID ", u64::from(*validity));
                out.push(b' ');
                write_numbers(out, from.iter().copied());
                out.push(b' ');
                write_numbers(out, to.iter().copied());
            }
            Code::Downgraded(set) => {
                out.extend_from_slice(b"DOWNGRADED ");
                set.write(out);
            }
            Code::MailboxId(id) => {
                named_bytes(out, "MAILBOXID (", id);
                out.push(b')');
            }
        }
    }
}

fn named(out: &mut Vec<u8>, name: &str, n: u64) {
    out.extend_from_slice(name.as_bytes());
    number(out, n);
}

fn named_bytes(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a status response. `tag` is `*` for an untagged one; `text` is plain ASCII for people, at
/// least one character.
pub fn status(out: &mut Vec<u8>, tag: &[u8], condition: Condition, code: Option<Code<'_>>, text: &str) {
    out.extend_from_slice(tag);
    out.push(b' ');
    out.extend_from_slice(condition.text().as_bytes());
    out.push(b' ');
    if let Some(code) = code {
        out.push(b'[');
        code.write(out);
        out.extend_from_slice(b"] ");
    }
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends the answer to a command that cannot be read.
pub fn bad(out: &mut Vec<u8>, tag: &[u8], bad: Bad) {
    out.extend_from_slice(tag);
    // Writing to a vector cannot fail.
    let _ = write!(out, " BAD {bad}\r\n");
}

/// Appends a continuation request (RFC 9051 §7.6); `text` as above, or base64.
pub fn continuation(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(b"+ ");
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// Appends `* ENABLED` (RFC 5161 §3.2): exactly what has been enabled by this command, perhaps nothing.
pub fn enabled(out: &mut Vec<u8>, extensions: Extensions) {
    out.extend_from_slice(b"* ENABLED");
    for (_, name) in Extensions::NAMES.iter().filter(|(e, _)| extensions.has(*e)) {
        out.push(b' ');
        out.extend_from_slice(name.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}
