//! Any bytes as an IMAP session, in any segments: no panic, whole lines at every command, bounded responses,
//! and segments make no difference. The mailbox is a few messages in memory; nothing in it can be changed,
//! since only a journal makes the tickets that say so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::base::aligned::SharedBytes;
use ringpost::base::time::{Mono, Wall};
use ringpost::imap::session::{Answer, Ask, Denial, Now, Offer, Options, Said, Session, Step};
use ringpost::mailbox::api::{
    Alter, Append, Appended, Copied, Done, Listed, News, Reader, Refusal, Selected, Stored, Vanished,
};
use ringpost::mailbox::types::{
    BodyId, Flags, Guid, Keywords, MailboxId, Message, SpecialUse, Status, UidSet, Usage,
};
use ringpost::message::mime::Scanner;
use std::ops::Range;
use std::rc::Rc;

const MAIL: [&[u8]; 3] = [
    b"Subject: =?utf-8?q?a?=\r\nFrom: a <b@c>\r\nDate: 1 Jan 2020 00:00 +0000\r\n\r\nbody\r\n",
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\n\
      Content-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\ntwo\r\n--b\r\nContent-Transfer-Encoding: \
      base64\r\n\r\nAGE=\r\n--b--\r\n",
    b"",
];

struct Mailbox;

struct Nothing;

impl Reader for Nothing {
    async fn next(&mut self) -> Result<Option<SharedBytes>, Refusal> {
        Ok(None)
    }
}

fn message(n: usize) -> Message {
    Message {
        modseq: n as u64 + 2,
        keywords: Keywords(n as u64 & 1),
        body: BodyId(n as u64 + 1),
        internal: Wall(1_600_000_000_000),
        saved: Wall(1_600_000_000_000),
        uid: n as u32 * 2 + 1,
        size: MAIL[n].len() as u32,
        flags: Flags(n as u8),
        ..Message::default()
    }
}

impl Selected for Mailbox {
    type Reader = Nothing;

    fn status(&self) -> Status {
        status()
    }
    fn exists(&self) -> u32 {
        MAIL.len() as u32
    }
    fn message(&self, seq: u32) -> Option<Message> {
        (1..=MAIL.len() as u32).contains(&seq).then(|| message(seq as usize - 1))
    }
    fn window(&self, seq: u32, most: usize, out: &mut Vec<Message>) {
        out.extend((seq..).map_while(|seq| self.message(seq)).take(most));
    }
    fn seq(&self, uid: u32) -> Option<u32> {
        (1..=MAIL.len() as u32).find(|seq| message(*seq as usize - 1).uid == uid)
    }
    fn seq_from(&self, uid: u32) -> u32 {
        (1..=MAIL.len() as u32).find(|seq| message(*seq as usize - 1).uid >= uid).unwrap_or(4)
    }
    fn first_unseen(&self) -> Option<u32> {
        (1..=MAIL.len() as u32).find(|seq| message(*seq as usize - 1).is_unseen())
    }
    fn keywords(&self) -> Vec<String> {
        vec!["Work".to_owned()]
    }
    fn sync(&mut self, _expunges: bool) -> Vec<News> {
        Vec::new()
    }
    fn told(&mut self, _modseq: u64) {}
    fn meet(&mut self, _read_write: bool) {}
    fn recent(&self) -> UidSet {
        [3].into_iter().collect()
    }
    fn recent_count(&self) -> u32 {
        1
    }
    fn waits(&self) -> Option<Mono> {
        None
    }
    async fn changed(&self) {}
    async fn store(
        &self,
        _uids: &UidSet,
        _how: Alter,
        _flags: Flags,
        _keywords: &[&str],
        _unchanged_since: Option<u64>,
    ) -> Result<Done<Stored>, Refusal> {
        Err(Refusal::Closed)
    }
    async fn expunge(&self, _uids: &UidSet, _marked: bool) -> Result<Done<UidSet>, Refusal> {
        Err(Refusal::Closed)
    }
    async fn copy(&self, _uids: &UidSet, _to: &str) -> Result<Done<Copied>, Refusal> {
        Err(Refusal::Closed)
    }
    async fn move_to(&self, _uids: &UidSet, _to: &str) -> Result<Done<Copied>, Refusal> {
        Err(Refusal::Closed)
    }
    async fn replace(&self, _: u32, _: &str, _: &Append<'_>) -> Result<Done<Vec<Appended>>, Refusal> {
        Err(Refusal::Closed)
    }
    fn vanished(&self, modseq: u64) -> Vanished {
        if modseq < 2 { Vanished::Unknown } else { Vanished::Exactly([2].into_iter().collect()) }
    }
    async fn summaries(&self, _uids: &[u32]) -> Vec<Option<Vec<u8>>> {
        Vec::new()
    }
    async fn uidls(&self, _uids: &[u32]) -> Result<Vec<Vec<u8>>, Refusal> {
        Err(Refusal::Closed)
    }
    async fn guid(&self, _uid: u32) -> Result<Guid, Refusal> {
        Err(Refusal::Closed)
    }
    async fn read(&self, _uid: u32, _range: Range<u64>) -> Result<Nothing, Refusal> {
        Err(Refusal::Closed)
    }
}

fn status() -> Status {
    Status {
        mailbox: MailboxId(1),
        uidvalidity: 1,
        uidnext: 9,
        highest_modseq: 9,
        messages: 3,
        unseen: 1,
        deleted: 1,
        bytes: 300,
        recent: 1,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&segment, wire)) = input.split_first() else { return };
    let whole = run(wire, wire.len().max(1));
    let parts = run(wire, usize::from(segment).max(1));
    assert_eq!(whole.0.escape_ascii().to_string(), parts.0.escape_ascii().to_string());
    assert_eq!(whole.1, parts.1);
    assert!(whole.0.is_empty() || whole.0.ends_with(b"\r\n"));
});

/// Responses, and whether the session has ended.
fn run(wire: &[u8], segment: usize) -> (Vec<u8>, bool) {
    let now = Now { mono: Mono(0), wall: Wall(1_700_000_000_000) };
    let mut session: Session<Mailbox> = Session::new(Rc::new(Options::tiny()), now.mono);
    session.offer(Offer { passwords: true, mechanisms: "PLAIN LOGIN".into(), under_tls: "EXTERNAL".into() });
    let (mut replies, mut at, mut open) = (Vec::new(), 0, (0, 0..0));
    for end in (0..wire.len()).step_by(segment).map(|from| (from + segment).min(wire.len())) {
        for turn in 0.. {
            assert!(turn < 1_000_000, "it ends");
            let mut out = Vec::new();
            let (used, step) = session.receive(now, &wire[at..end], &mut out);
            at += used;
            match step {
                Step::Ask => answer(&mut session, now, &mut open, &mut out),
                Step::Send => {
                    let (n, range): (usize, Range<u64>) = open.clone();
                    let bytes = part(n, range);
                    match session.pass_whole(bytes) {
                        Some((range, _)) => out.extend_from_slice(&bytes[range]),
                        None => drop(session.pass(bytes, &mut out)),
                    }
                    session.sent(now.mono, &mut out);
                }
                Step::Take => session.incoming().clear(),
                Step::StartTls => unreachable!("TLS is not offered here"),
                Step::NeedInput | Step::Idle | Step::Yield | Step::Compress | Step::Close => {}
            }
            assert!(out.len() < 64 << 10, "responses of one call are bounded");
            replies.extend_from_slice(&out);
            match step {
                Step::Close => return (replies, true),
                Step::NeedInput | Step::Idle => break,
                _ => {}
            }
        }
    }
    (replies, false)
}

fn part(n: usize, range: Range<u64>) -> &'static [u8] {
    let end = (range.end as usize).min(MAIL[n].len());
    &MAIL[n][(range.start as usize).min(end)..end]
}

fn place(uid: u32) -> usize {
    (0..MAIL.len()).find(|n| message(*n).uid == uid).expect("a message that is there")
}

fn answer(session: &mut Session<Mailbox>, now: Now, open: &mut (usize, Range<u64>), out: &mut Vec<u8>) {
    let answer = match session.asked().clone() {
        Ask::Login => match session.said() {
            Said::Password { password, .. } if password.expose() == b"p" => Answer::Accept,
            Said::Begin { initial: None, .. } => Answer::Challenge(b"Username:"),
            Said::Begin { initial: Some(said), .. } if said.expose().len() > 3 => Answer::Accept,
            Said::Response(said) if said.expose().is_empty() => Answer::Challenge(b""),
            _ => Answer::Deny(Denial::FAILED),
        },
        Ask::Tls => Answer::Deny(Denial::NO_TLS),
        Ask::Enter => Answer::Entered(7),
        Ask::Leave | Ask::Forget => Answer::Accept,
        Ask::List => Answer::Listed(Ok(names())),
        Ask::Status(name, _) if name == "INBOX" => Answer::Status(Ok((status(), 5))),
        Ask::Status(..) => Answer::Status(Err(Refusal::NoMailbox)),
        Ask::Create(..) => Answer::Created(Err(Refusal::Exists)),
        Ask::Delete(_) | Ask::Rename(..) | Ask::Subscribe(..) => Answer::Done(Err(Refusal::Closed)),
        Ask::Select(name) if name == "INBOX" => Answer::Selected(Ok(Mailbox)),
        Ask::Select(_) => Answer::Selected(Err(Refusal::NoMailbox)),
        Ask::Usage => Answer::Usage(Some(Usage::default())),
        Ask::Summaries(uids) => Answer::Summaries(uids.iter().map(|uid| summary(*uid)).collect()),
        Ask::Store(_) => Answer::Stored(Err(Refusal::Closed)),
        Ask::Expunge(_) => Answer::Expunged(Err(Refusal::Closed)),
        Ask::Copy { .. } => Answer::Copied(Err(Refusal::NoMailbox)),
        Ask::Open { uid, range } => {
            *open = (place(uid), range);
            Answer::Read(Ok(()))
        }
        Ask::Read { uid, range } => {
            let bytes = part(place(uid), range);
            let _ = bytes.chunks(7).all(|piece| session.piece(piece));
            Answer::Read(Ok(()))
        }
        Ask::Room { mailbox, .. } if mailbox == "INBOX" => Answer::Room(Ok(())),
        Ask::Room { .. } => Answer::Room(Err(Refusal::NoMailbox)),
        Ask::Append => {
            session.incoming().clear();
            Answer::Appended(Err(Refusal::Full))
        }
    };
    session.answer(now, answer, out);
}

fn summary(uid: u32) -> Option<Vec<u8>> {
    let (mut scanner, mut out) = (Scanner::new(), Vec::new());
    scanner.feed(MAIL[place(uid)]);
    scanner.finish(&mut out);
    Some(out)
}

fn names() -> Vec<Listed> {
    let listed = |name: &str, there: bool, special| Listed {
        name: name.to_owned(),
        status: there.then(status),
        children: !there,
        subscribed: there,
        special,
    };
    vec![listed("INBOX", true, None), listed("a", false, None), listed("a/b", true, Some(SpecialUse::Junk))]
}
