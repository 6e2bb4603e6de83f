//! L1: delivery status notifications as text (RFC 3464 in RFC 6522; RFC 6533 for SMTPUTF8).
//!
//! A pure function from facts to a message in stored form: CRLF line ends, no line over 998 bytes.
//! Owns wording and escaping; knows no queue and no clock. Everything that came from a peer
//! (addresses, ORCPT, ENVID, reply texts) is cleaned here: none of it can add a line, a field or a
//! part. Cannot fail: what cannot be shown is left out or replaced.
//!
//! The caller sends it from `<>` with NOTIFY=NEVER (RFC 3461 §5.2, §6.1), and never to `<>`.

mod escape;

use crate::base::ids::QueueId;
use crate::base::time::Wall;
use crate::message::date;
use crate::message::envelope::Ret;
use escape::{ascii_address, clean, quoted_printable, word, xtext};
use std::io::Write;

/// Most bytes of the original's header that a report carries.
pub const HEADER_MAX: usize = 50_000;
/// Longest line written, without CRLF (RFC 5322 §2.1.1).
const LINE_MAX: usize = 998;
/// Most bytes of one value from a peer.
const VALUE_MAX: usize = 900;
/// Width of the text for people.
const WIDTH: usize = 76;

/// What has been done for a recipient (RFC 3464 §2.3.3), in order of gravity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// Given up.
    Failed,
    /// Still trying.
    Delayed,
    /// Passed on to a server that does not report (RFC 3461 §5.2.2).
    Relayed,
    /// Replaced by several others.
    Expanded,
    /// Arrived.
    Delivered,
}

impl Action {
    fn keyword(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Relayed => "relayed",
            Action::Expanded => "expanded",
            Action::Delivered => "delivered",
        }
    }

    fn subject(self) -> &'static str {
        match self {
            Action::Failed => "Undelivered mail returned to sender",
            Action::Delayed => "Delayed mail (still being tried)",
            Action::Relayed | Action::Expanded | Action::Delivered => "Successful mail delivery report",
        }
    }

    fn introduction(self) -> &'static str {
        match self {
            Action::Failed => {
                "Your message could not be delivered to the recipients below.\r\n\
                 The server has given up; it will not try again."
            }
            Action::Delayed => {
                "Your message has not yet been delivered to the recipients below.\r\n\
                 YOU DO NOT NEED TO SEND IT AGAIN. The server goes on trying."
            }
            Action::Relayed | Action::Expanded | Action::Delivered => {
                "Your message has been passed on as you see below."
            }
        }
    }

    fn comment(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Relayed => "relayed to a server that does not send such reports",
            Action::Expanded => "passed on to several addresses",
            Action::Delivered => "delivered",
        }
    }
}

/// What is to be said about one recipient.
#[derive(Clone, Copy, Debug)]
pub struct RecipientReport<'a> {
    /// Its address.
    pub address: &'a [u8],
    /// ORCPT= as given (`type;xtext`), empty if not.
    pub orcpt: &'a [u8],
    /// What has been done.
    pub action: Action,
    /// Status code (RFC 3463); see [`status`].
    pub status: [u16; 3],
    /// Name of the server that replied, if one did.
    pub remote_mta: Option<&'a str>,
    /// Its reply code; 0 if `text` is ours.
    pub code: u16,
    /// Its enhanced code.
    pub enhanced: Option<[u16; 3]>,
    /// Text of its reply, or why there is none.
    pub text: &'a [u8],
    /// Time of the last attempt.
    pub last_attempt: Option<Wall>,
    /// For a delay: when the server will give up.
    pub retry_until: Option<Wall>,
}

/// What is returned of the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Original<'a> {
    /// Its header.
    Headers(&'a [u8]),
    /// All of it.
    Full(&'a [u8]),
}

impl<'a> Original<'a> {
    /// What is returned of a message that has failed: all of it up to `most` bytes, unless RET= asks
    /// for the header; else the header. Where RET= is missing, which RFC 3461 §4.3 leaves to us, a message
    /// with 8-bit bytes is not returned either: not every server would take the report. `message`: the
    /// first bytes of the message, at least [`HEADER_MAX`] and `most` if it has as many; `len`: bytes
    /// of all of it.
    #[must_use]
    pub fn choose(ret: Option<Ret>, message: &'a [u8], len: u64, most: usize) -> Self {
        let whole = len == message.len() as u64 && message.len() <= most;
        let wanted = match ret {
            Some(Ret::Full) => true,
            Some(Ret::Headers) => false,
            None => message.is_ascii(),
        };
        let short_lines = || message.split(|&b| b == b'\n').all(|l| l.len() <= LINE_MAX + 1);
        if wanted && whole && short_lines() {
            return Original::Full(message);
        }
        Original::header(message)
    }

    /// The header of `message`, as much as a report carries of it.
    #[must_use]
    pub fn header(message: &'a [u8]) -> Self {
        Original::Headers(header_of(message))
    }

    /// True if it is all of the message.
    #[must_use]
    pub fn is_full(self) -> bool {
        matches!(self, Original::Full(_))
    }

    /// True if nothing is returned.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.bytes().is_empty()
    }

    fn bytes(self) -> &'a [u8] {
        match self {
            Original::Headers(b) | Original::Full(b) => b,
        }
    }
}

/// All facts of a report.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Our host name.
    pub host: &'a str,
    /// Id of the report itself: for Message-ID and boundary.
    pub id: QueueId,
    /// Id of the message that is reported on.
    pub original_id: QueueId,
    /// Now.
    pub now: Wall,
    /// When the message came in.
    pub arrival: Wall,
    /// The sender of the message, who gets the report. Not empty.
    pub sender: &'a [u8],
    /// ENVID= as given (xtext), empty if not.
    pub envid: &'a [u8],
    /// The report goes with SMTPUTF8: its reader's address is not ASCII. Else it is ASCII, but for what
    /// is returned in full of a message with 8-bit bytes.
    pub utf8: bool,
    /// The message came with SMTPUTF8.
    pub international: bool,
    /// At least one recipient.
    pub recipients: &'a [RecipientReport<'a>],
    /// What is returned.
    pub original: Original<'a>,
}

/// The status of a recipient from the reply about it: the enhanced code, or the class alone.
#[must_use]
pub fn status(action: Action, code: u16, enhanced: Option<[u16; 3]>) -> [u16; 3] {
    let class = match action {
        Action::Failed if code / 100 == 4 => 4,
        Action::Failed => 5,
        Action::Delayed => 4,
        Action::Relayed | Action::Expanded | Action::Delivered => 2,
    };
    enhanced.unwrap_or([class, 0, 0])
}

/// Appends the report. Panics without recipients or for the null sender: both are bugs.
pub fn write(report: &Report<'_>, out: &mut Vec<u8>) {
    assert!(!report.recipients.is_empty(), "a report about nobody");
    // RFC 5321 §6.1
    assert!(!report.sender.is_empty(), "never a report to the null sender");
    let boundary = boundary(report);
    let gravest = report.recipients.iter().map(|r| r.action).min().unwrap_or(Action::Failed);
    header(report, gravest, &boundary, out);
    line(out, format_args!("This is a report in MIME format (RFC 3464)."));
    part(
        out,
        &boundary,
        if report.utf8 { "text/plain; charset=utf-8" } else { "text/plain; charset=us-ascii" },
    );
    if report.utf8 {
        line(out, format_args!("Content-Transfer-Encoding: 8bit"));
    }
    line(out, format_args!(""));
    for_people(report, gravest, out);
    part(
        out,
        &boundary,
        if report.utf8 { "message/global-delivery-status" } else { "message/delivery-status" },
    );
    if report.utf8 {
        line(out, format_args!("Content-Transfer-Encoding: 8bit"));
    }
    line(out, format_args!(""));
    for_programs(report, out);
    returned(report, &boundary, out);
    line(out, format_args!(""));
    line(out, format_args!("--{boundary}--"));
}

fn header(r: &Report<'_>, gravest: Action, boundary: &str, out: &mut Vec<u8>) {
    let host = word(r.host);
    line(out, format_args!("Date: {}", Date(r.now)));
    line(out, format_args!("From: MAILER-DAEMON@{host} (Mail Delivery System)"));
    line(out, format_args!("To: <{}>", clean(r.sender, r.utf8, VALUE_MAX)));
    line(out, format_args!("Subject: {}", gravest.subject()));
    line(out, format_args!("Message-ID: <{}@{host}>", r.id));
    // RFC 3834 §5: nobody is to reply to this.
    line(out, format_args!("Auto-Submitted: auto-replied"));
    line(out, format_args!("MIME-Version: 1.0"));
    line(out, format_args!("Content-Type: multipart/report; report-type=delivery-status;"));
    line(out, format_args!("\tboundary=\"{boundary}\""));
    if r.utf8 || form(r).1 == Coding::EightBit {
        line(out, format_args!("Content-Transfer-Encoding: 8bit"));
    }
    line(out, format_args!(""));
}

fn for_people(r: &Report<'_>, gravest: Action, out: &mut Vec<u8>) {
    line(out, format_args!("This is the mail server at {}.", word(r.host)));
    line(out, format_args!(""));
    line(out, format_args!("{}", gravest.introduction()));
    for one in r.recipients {
        line(out, format_args!(""));
        line(out, format_args!("<{}>: {}", clean(one.address, r.utf8, VALUE_MAX), one.action.comment()));
        let text = diagnostic(one, r.utf8);
        match one.remote_mta {
            Some(mta) if one.code > 0 => wrapped(&format!("{} said: {text}", word(mta)), out),
            _ => wrapped(&text, out),
        }
        if let (Action::Delayed, Some(until)) = (one.action, one.retry_until) {
            line(out, format_args!("    The server tries until {}.", Date(until)));
        }
    }
    line(out, format_args!(""));
    line(out, format_args!("Message id at this server: {}", r.original_id));
}

/// RFC 3464 §2.2, §2.3
fn for_programs(r: &Report<'_>, out: &mut Vec<u8>) {
    if !r.envid.is_empty() {
        let decoded = xtext(r.envid);
        line(out, format_args!("Original-Envelope-Id: {}", clean(&decoded, r.utf8, VALUE_MAX)));
    }
    line(out, format_args!("Reporting-MTA: dns; {}", word(r.host)));
    line(out, format_args!("X-Queue-Id: {}", r.original_id));
    line(out, format_args!("Arrival-Date: {}", Date(r.arrival)));
    for one in r.recipients {
        line(out, format_args!(""));
        original_recipient(one, r.utf8, out);
        final_recipient(one.address, r.utf8, out);
        line(out, format_args!("Action: {}", one.action.keyword()));
        let [class, subject, detail] = one.status;
        line(out, format_args!("Status: {class}.{subject}.{detail}"));
        if let Some(mta) = one.remote_mta {
            line(out, format_args!("Remote-MTA: dns; {}", word(mta)));
        }
        let kind = if one.code > 0 { "smtp" } else { "x-ringpost" };
        if one.code > 0 || !one.text.is_empty() {
            line(out, format_args!("Diagnostic-Code: {kind}; {}", diagnostic(one, r.utf8)));
        }
        if let Some(at) = one.last_attempt {
            line(out, format_args!("Last-Attempt-Date: {}", Date(at)));
        }
        if let (Action::Delayed, Some(until)) = (one.action, one.retry_until) {
            line(out, format_args!("Will-Retry-Until: {}", Date(until)));
        }
    }
}

/// RFC 6533 §3: type "utf-8" where the address is not ASCII, escaped where the report is.
fn final_recipient(address: &[u8], utf8: bool, out: &mut Vec<u8>) {
    let kind = if address.is_ascii() { "rfc822" } else { "utf-8" };
    let address = if address.is_ascii() || utf8 {
        clean(address, utf8, VALUE_MAX)
    } else {
        ascii_address(address, VALUE_MAX)
    };
    line(out, format_args!("Final-Recipient: {kind}; {address}"));
}

fn original_recipient(one: &RecipientReport<'_>, utf8: bool, out: &mut Vec<u8>) {
    // RFC 3461 §4.2
    let Some(semicolon) = one.orcpt.iter().position(|&b| b == b';') else { return };
    let (kind, address) = (&one.orcpt[..semicolon], &one.orcpt[semicolon + 1..]);
    let atom = |&b: &u8| b.is_ascii_alphanumeric() || b == b'-';
    if kind.is_empty() || kind.len() > 64 || !kind.iter().all(atom) {
        return;
    }
    let kind = String::from_utf8_lossy(kind);
    let address = xtext(address);
    let address = if address.is_ascii() || utf8 || !kind.eq_ignore_ascii_case("utf-8") {
        clean(&address, utf8, VALUE_MAX)
    } else {
        ascii_address(&address, VALUE_MAX)
    };
    line(out, format_args!("Original-Recipient: {kind}; {address}"));
}

fn diagnostic(one: &RecipientReport<'_>, utf8: bool) -> String {
    let text = clean(one.text, utf8, VALUE_MAX);
    match (one.code, one.enhanced) {
        (0, _) => text,
        (code, Some([a, b, c])) => format!("{code} {a}.{b}.{c} {text}"),
        (code, None) => format!("{code} {text}"),
    }
}

/// How the returned part is encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    SevenBit,
    EightBit,
    QuotedPrintable,
}

/// Type and coding of the returned part. Headers, and what RFC 6532 §3.7 calls message/global, may be
/// encoded, so that the report passes every server; message/rfc822 may not (RFC 2046 §5.2.1).
fn form(r: &Report<'_>) -> (&'static str, Coding) {
    let ascii = r.original.bytes().is_ascii();
    let kind = match (r.original, r.international && !ascii) {
        (Original::Headers(_), false) => "text/rfc822-headers",
        (Original::Headers(_), true) => "message/global-headers",
        (Original::Full(_), false) => "message/rfc822",
        (Original::Full(_), true) => "message/global",
    };
    let coding = match kind {
        _ if ascii => Coding::SevenBit,
        "message/rfc822" => Coding::EightBit,
        _ if r.utf8 => Coding::EightBit,
        _ => Coding::QuotedPrintable,
    };
    (kind, coding)
}

/// RFC 6522 §3 (3)
fn returned(r: &Report<'_>, boundary: &str, out: &mut Vec<u8>) {
    let (kind, coding) = form(r);
    part(out, boundary, kind);
    match coding {
        Coding::SevenBit => {}
        Coding::EightBit => line(out, format_args!("Content-Transfer-Encoding: 8bit")),
        Coding::QuotedPrintable => {
            line(out, format_args!("Content-Transfer-Encoding: quoted-printable"));
            line(out, format_args!(""));
            return quoted_printable(r.original.bytes(), out);
        }
    }
    line(out, format_args!(""));
    for text in r.original.bytes().split_inclusive(|&b| b == b'\n') {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        // A longer line is folded: only headers come here with such.
        let mut pieces = text.chunks(LINE_MAX - 1);
        out.extend_from_slice(pieces.next().unwrap_or_default());
        for piece in pieces {
            out.extend_from_slice(b"\r\n ");
            out.extend_from_slice(piece);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The header of a message, whole lines, at most [`HEADER_MAX`] bytes.
fn header_of(message: &[u8]) -> &[u8] {
    let end = match memchr::memmem::find(message, b"\r\n\r\n") {
        Some(at) => at + 2,
        None if message.starts_with(b"\r\n") => 0,
        None => message.len(),
    };
    let end = if message.starts_with(b"\r\n") { 0 } else { end };
    if end <= HEADER_MAX {
        return &message[..end];
    }
    let cut = memchr::memmem::rfind(&message[..HEADER_MAX], b"\r\n").map_or(HEADER_MAX, |at| at + 2);
    &message[..cut]
}

/// A boundary that the original does not contain.
fn boundary(r: &Report<'_>) -> String {
    let mut n = 0u32;
    loop {
        let boundary = format!("=_{}.{n}", r.id);
        if memchr::memmem::find(r.original.bytes(), boundary.as_bytes()).is_none() {
            return boundary;
        }
        n += 1;
    }
}

fn part(out: &mut Vec<u8>, boundary: &str, kind: &str) {
    line(out, format_args!(""));
    line(out, format_args!("--{boundary}"));
    line(out, format_args!("Content-Type: {kind}"));
}

fn line(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes all");
    out.extend_from_slice(b"\r\n");
}

/// A paragraph for people, indented; words longer than the width stay whole.
fn wrapped(text: &str, out: &mut Vec<u8>) {
    let mut column = 0;
    for word in text.split(' ').filter(|w| !w.is_empty()) {
        if column > 0 && column + 1 + word.len() > WIDTH {
            out.extend_from_slice(b"\r\n");
            column = 0;
        }
        let space: &[u8] = if column == 0 { b"    " } else { b" " };
        out.extend_from_slice(space);
        out.extend_from_slice(word.as_bytes());
        column += space.len() + word.len();
    }
    if column > 0 {
        out.extend_from_slice(b"\r\n");
    }
}

/// RFC 5322 §3.3
struct Date(Wall);

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        date::text(self.0).escape_ascii().fmt(f)
    }
}

#[cfg(test)]
mod tests;
