//! Records as Postfix writes them, so that programs that read its log can read ours.
//!
//! pflogsumm, fail2ban's filters and exporters know these lines by their words: names of daemons, `to=`,
//! `relay=`, `delays=`, `dsn=`, `status=`. What a peer has sent loses its control characters here, and where
//! a word is meant also its blanks, so that it cannot add a line or a field.

use super::{Attempt, Client, Complaint, Fate, Form, Inner, Reception, Rejection, Returned, Stamp, cut};
use crate::base::ids::QueueId;
use crate::base::time::Wall;
use std::fmt;
use std::io::Write;
use std::time::Duration;

/// Where lines go, and what all begin with.
pub(super) struct Lines<'a> {
    pub inner: &'a Inner,
    pub out: &'a mut Vec<u8>,
    pub stamp: &'a Stamp,
    pub at: Wall,
}

impl Lines<'_> {
    /// One line of a daemon.
    fn line(&mut self, daemon: &str, text: fmt::Arguments<'_>) {
        if self.inner.form == (Form::Text { journal: true }) {
            // sd-daemon(3): informational.
            self.out.extend_from_slice(b"<6>");
        } else {
            self.stamp.put(self.out, self.at);
            self.out.push(b' ');
            self.out.extend_from_slice(self.inner.options.host.as_bytes());
            self.out.push(b' ');
        }
        // Writing to a Vec cannot fail.
        let _ = writeln!(self.out, "postfix/{daemon}[{}]: {text}", self.inner.pid);
    }
}

/// Printable, on one line.
struct Clean<'a>(&'a [u8]);

/// The same without blanks.
struct Word<'a>(&'a [u8]);

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(cut(self.0));
        text.chars().try_for_each(|c| write!(f, "{}", if c.is_control() { '?' } else { c }))
    }
}

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(cut(self.0));
        let bad = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>' | '[' | ']');
        text.chars().try_for_each(|c| write!(f, "{}", if bad(c) { '?' } else { c }))
    }
}

/// Seconds as Postfix writes them.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0.as_secs_f64();
        if s >= 10.0 { write!(f, "{s:.0}") } else { write!(f, "{s:.2}") }
    }
}

/// An id, or the word for none.
struct Id(Option<QueueId>);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => id.fmt(f),
            None => f.write_str("NOQUEUE"),
        }
    }
}

/// `name[address]`.
struct Peer<'a>(&'a Client<'a>);

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.0.name.is_empty() { b"unknown" } else { self.0.name };
        write!(f, "{}[{}]", Word(name), self.0.address)
    }
}

pub(super) fn reception(to: &mut Lines<'_>, r: &Reception<'_>) {
    let (id, count) = (Id(r.id), r.envelope.count());
    if let Some(client) = &r.client {
        let peer = Peer(client);
        match client.user {
            None => to.line("smtpd", format_args!("{id}: client={peer}")),
            Some(user) => {
                let user = Word(user.as_bytes());
                to.line("smtpd", format_args!("{id}: client={peer}, sasl_username={user}"));
            }
        }
    }
    let sender = Clean(r.envelope.sender());
    to.line("qmgr", format_args!("{id}: from=<{sender}>, size={}, nrcpt={count} (queue active)", r.size));
    if let Some(about) = r.about {
        to.line("bounce", format_args!("{about}: sender non-delivery notification: {id}"));
    }
}

pub(super) fn attempt(to: &mut Lines<'_>, a: &Attempt<'_>) {
    let (id, recipient) = (Id(a.id), Clean(a.recipient));
    let relay = match a.server {
        _ if a.local => "mailbox",
        "" => "none",
        server => server,
    };
    let (age, before) = (Seconds(a.age), Seconds(a.age.saturating_sub(a.took)));
    let took = Seconds(a.took);
    let (code, [class, subject, detail], text) = a.reply;
    let [class, subject, detail] = match (a.fate, class) {
        (_, 1..) => [class, subject, detail],
        (Fate::Delivery, _) => [2, 0, 0],
        (Fate::TransientFailure | Fate::Delayed, _) => [4, 0, 0],
        (Fate::Bounce | Fate::Expiration, _) => [5, 0, 0],
    };
    let said = Said { by: relay, code, enhanced: a.reply.1, text };
    let status = match a.fate {
        Fate::Delivery => "sent",
        Fate::TransientFailure => "deferred",
        Fate::Bounce | Fate::Expiration => "bounced",
        Fate::Delayed => {
            // No `status=`: it would be counted as another attempt.
            let dsn = format_args!("dsn={class}.{subject}.{detail}");
            let text = format_args!("to=<{recipient}>, delay={age}, {dsn} ({said})");
            return to.line("bounce", format_args!("{id}: sender delay notification: {text}"));
        }
    };
    let daemon = if a.local { "virtual" } else { "smtp" };
    to.line(
        daemon,
        format_args!(
            "{id}: to=<{recipient}>, relay={}, delay={age}, delays=0/{before}/0/{took}, \
             dsn={class}.{subject}.{detail}, status={status} ({said})",
            Word(relay.as_bytes())
        ),
    );
    if a.fate == Fate::Expiration {
        to.line("qmgr", format_args!("{id}: from=<{}>, status=expired, returned to sender", Clean(a.sender)));
    }
}

/// What was said, and by whom.
struct Said<'a> {
    by: &'a str,
    code: u16,
    enhanced: [u16; 3],
    text: &'a [u8],
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Said { by, code, enhanced: [class, subject, detail], text } = self;
        if *code > 0 {
            if *code >= 400 {
                write!(f, "host {} said: ", Word(by.as_bytes()))?;
            }
            write!(f, "{code} ")?;
        }
        if *class > 0 && *code > 0 {
            write!(f, "{class}.{subject}.{detail} ")?;
        }
        Clean(text).fmt(f)
    }
}

pub(super) fn rejection(to: &mut Lines<'_>, r: &Rejection<'_>) {
    let c = &r.client;
    let (peer, reply, sender) = (Peer(c), Clean(r.reply), Clean(r.sender));
    let (command, proto, helo) = (r.command, c.protocol, Clean(c.helo));
    let rcpt = Clean(r.recipient);
    if r.recipient.is_empty() {
        to.line(
            "smtpd",
            format_args!(
                "NOQUEUE: reject: {command} from {peer}: {reply}; from=<{sender}> proto={proto} helo=<{helo}>"
            ),
        );
    } else {
        let (code, rest) = r.reply.split_at(r.reply.len().min(3));
        let (enhanced, rest) = enhanced(rest);
        to.line(
            "smtpd",
            format_args!(
                "NOQUEUE: reject: {command} from {peer}: {}{} <{rcpt}>:{}; from=<{sender}> to=<{rcpt}> \
                 proto={proto} helo=<{helo}>",
                Clean(code),
                Clean(enhanced),
                Clean(rest)
            ),
        );
    }
}

/// ` 5.7.1`, and what comes behind it.
fn enhanced(rest: &[u8]) -> (&[u8], &[u8]) {
    let end = rest.iter().skip(1).position(|b| *b == b' ').map_or(rest.len(), |at| at + 1);
    let is_code = rest.get(1..end).is_some_and(|w| {
        w.iter().filter(|b| **b == b'.').count() == 2 && w.iter().all(|b| b.is_ascii_digit() || *b == b'.')
    });
    if is_code { rest.split_at(end) } else { (b"", rest) }
}

/// Not in the words of a delivery, or programs that count those would count it with them.
pub(super) fn complaint(to: &mut Lines<'_>, c: &Complaint<'_>) {
    let (f, first) = (c.feedback, c.feedback.recipients.first().map_or(&b""[..], |r| &r[..]));
    let (kind, sender) = (Word(&f.kind), Clean(&f.sender));
    to.line(
        "feedback",
        format_args!(
            "{}: {kind} reported by {}: sender=<{sender}>, original=<{}>",
            c.id,
            Word(&f.agent),
            Clean(first)
        ),
    );
}

pub(super) fn returned(to: &mut Lines<'_>, r: &Returned<'_>) {
    let [class, subject, detail] = r.of.status;
    let (action, address) = (r.of.action.text(), Clean(&r.of.address));
    to.line(
        "feedback",
        format_args!(
            "{}: {action} reported to <{}>: original=<{address}>, code {class}.{subject}.{detail} ({})",
            r.id,
            Clean(r.to),
            Clean(&r.of.said)
        ),
    );
}

pub(super) fn removal(to: &mut Lines<'_>, id: QueueId, reason: &[u8]) {
    to.line("postsuper", format_args!("{id}: removed ({})", Clean(reason)));
}
