//! What clients were promised and what remote servers got, and the check of one against the other.
//!
//! The oracle: outside of the product and never restarted. It names each letter by the number in
//! its first header, `X-Sim`. Its findings are texts; none means that all promises were kept.

use crate::rng::hash;
use crate::world::SEC;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Shared handle to the ledger.
pub type SharedLedger = Rc<RefCell<Ledger>>;

/// How far a letter came, seen from the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Its end of data was never sent in whole: nobody may ever get it.
    Abandoned,
    /// Its end of data was sent, no answer came: anything is right.
    Unknown,
    /// 4xx at its end of data: the client will send it again.
    PutOff,
    /// 5xx at its end of data, or all its recipients refused.
    Refused,
    /// `250` at its end of data.
    Acked,
}

struct Letter {
    sender: String,
    hash: u64,
    /// Those whose RCPT was answered with 250.
    recipients: Vec<String>,
    fate: Fate,
}

/// One letter, taken by a remote server for one recipient.
struct Delivery {
    number: Option<u64>,
    recipient: String,
    hash: u64,
    traces: usize,
    /// When the server under test sent its end.
    sent: u64,
    /// When it was seen that the 250 had been read: the sender had gone on.
    confirmed: Option<u64>,
}

/// The server under test lost its memory.
struct Crash {
    at: u64,
    /// Its journal had worked till then: what it had known for [`NOTED`] was on the disk.
    sound: bool,
}

/// Until then an outcome has been staged and written, by a slow disk too.
const NOTED: u64 = 5 * SEC;

/// See the module.
#[derive(Default)]
pub struct Ledger {
    letters: BTreeMap<u64, Letter>,
    deliveries: Vec<Delivery>,
    /// (letter, recipient) named as failed in a notification that reached the sender.
    bounced: Vec<(u64, String)>,
    crashes: Vec<Crash>,
    /// What notifications said that they must not say.
    odd: Vec<String>,
}

impl Ledger {
    /// A client begins a letter.
    pub fn begin(&mut self, number: u64, sender: &str, body: &[u8]) {
        let letter = Letter {
            sender: sender.to_owned(),
            hash: hash(body),
            recipients: Vec::new(),
            fate: Fate::Abandoned,
        };
        let old = self.letters.insert(number, letter);
        assert!(old.is_none(), "letter {number} was sent before");
    }

    /// RCPT was answered with 250.
    pub fn recipient(&mut self, number: u64, address: &str) {
        let letter = self.letters.get_mut(&number).expect("begun");
        letter.recipients.push(address.to_owned());
    }

    /// The letter has come so far.
    pub fn set_fate(&mut self, number: u64, fate: Fate) {
        self.letters.get_mut(&number).expect("begun").fate = fate;
    }

    /// How many letters have this fate.
    pub fn count(&self, fate: Fate) -> usize {
        self.letters.values().filter(|l| l.fate == fate).count()
    }

    /// The server under test lost its memory at `at`; `sound`: no write of its had failed.
    pub fn crashed(&mut self, at: u64, sound: bool) {
        self.crashes.push(Crash { at, sound });
    }

    /// A remote server took `data`, sent to it at `sent`; gives the delivery numbers.
    pub fn deliver(&mut self, sender: &str, recipients: &[String], data: &[u8], sent: u64) -> Vec<usize> {
        let (traces, rest) = strip_traces(data);
        let number = letter_number(rest);
        if sender.is_empty() {
            self.bounce(recipients, data);
            return Vec::new();
        }
        let hash = hash(rest);
        let first = self.deliveries.len();
        self.deliveries.extend(recipients.iter().map(|r| {
            let recipient = r.clone();
            Delivery { number, recipient, hash, traces, sent, confirmed: None }
        }));
        (first..self.deliveries.len()).collect()
    }

    /// At `now` the sender is known to have read the 250 for these deliveries.
    pub fn confirm(&mut self, deliveries: &[usize], now: u64) {
        deliveries.iter().for_each(|&i| self.deliveries[i].confirmed = Some(now));
    }

    fn bounce(&mut self, recipients: &[String], data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        let named = || text.lines().filter_map(|l| l.strip_prefix("Final-Recipient: rfc822;")).map(str::trim);
        let marked = text.lines().find_map(|l| l.strip_prefix("X-Sim: ")?.trim().parse().ok());
        // A body that cannot be read is not returned; who sent to whom tells letters apart, too.
        let of = |l: &Letter| {
            recipients.contains(&l.sender) && named().any(|r| l.recipients.iter().any(|known| known == r))
        };
        let found = || self.letters.iter().find(|(_, l)| of(l)).map(|(&n, _)| n);
        let Some(number) = marked.or_else(found) else { return };
        // RFC 3463 3.5: delivery time expired. No history lasts as long as a letter is tried.
        if text.lines().any(|l| l.trim() == "Status: 5.4.7") {
            self.odd.push(format!("expired: letter {number}, before its time"));
        }
        let sender = self.letters.get(&number).map(|l| l.sender.as_str());
        if recipients.iter().any(|r| Some(r.as_str()) == sender) {
            self.bounced.extend(named().map(|r| (number, r.to_owned())));
        }
    }

    /// What is still owed: acknowledged recipients neither delivered nor bounced.
    pub fn owed(&self) -> Vec<(u64, String)> {
        let acked = self.letters.iter().filter(|(_, l)| l.fate == Fate::Acked);
        acked
            .flat_map(|(&n, l)| l.recipients.iter().map(move |r| (n, r.clone())))
            .filter(|(n, r)| !self.deliveries.iter().any(|d| d.number == Some(*n) && d.recipient == *r))
            .filter(|owed| !self.bounced.contains(owed))
            .collect()
    }

    /// Broken promises, given that each letter passed `hops` servers. Call it when the queue must
    /// be empty.
    pub fn check(&self, hops: usize) -> Vec<String> {
        let mut found: Vec<String> =
            self.owed().iter().map(|(n, r)| format!("lost: letter {n} for {r} was acknowledged")).collect();
        for d in &self.deliveries {
            let Some(letter) = d.number.and_then(|n| self.letters.get(&n)) else {
                found.push(format!("invented: {} got a letter nobody sent", d.recipient));
                continue;
            };
            let n = d.number.unwrap_or(0);
            if d.hash != letter.hash || d.traces != hops {
                found.push(format!("altered: letter {n} for {} ({} Received)", d.recipient, d.traces));
            }
            if !letter.recipients.contains(&d.recipient) {
                found.push(format!("invented: {} is no recipient of letter {n}", d.recipient));
            }
            if matches!(letter.fate, Fate::Abandoned | Fate::Refused) {
                found.push(format!("invented: letter {n} was {:?}, {} got it", letter.fate, d.recipient));
            }
        }
        found.extend(self.odd.iter().cloned());
        found.extend(self.duplicates());
        found
    }

    /// Duplicates without an excuse. They are compared in the order in which they were sent, not in
    /// which they arrived: what a killed process had handed to its kernel may arrive long after a
    /// new process has sent the letter once more, and was in flight at the crash all the same.
    ///
    /// Excuses, as the promise has them: the answer to the first was not read (the connection was
    /// lost after the final dot), or the memory of it was lost: by a crash before its outcome can
    /// have been written, or by any crash after an error of the journal.
    fn duplicates(&self) -> Vec<String> {
        let mut sent: Vec<&Delivery> = self.deliveries.iter().collect();
        sent.sort_by_key(|d| d.sent);
        let mut last: BTreeMap<(Option<u64>, &str), &Delivery> = BTreeMap::new();
        let mut found = Vec::new();
        for d in sent {
            let Some(before) = last.insert((d.number, &d.recipient), d) else { continue };
            let Some(read) = before.confirmed else { continue };
            let forgotten =
                |c: &&Crash| before.sent <= c.at && c.at <= d.sent && (!c.sound || c.at <= read + NOTED);
            if !self.crashes.iter().any(|c| forgotten(&c)) {
                found.push(format!("duplicate: letter {:?} for {}, no excuse", d.number, d.recipient));
            }
        }
        found
    }
}

/// Number of Received fields at the top, and what follows them.
fn strip_traces(data: &[u8]) -> (usize, &[u8]) {
    let (mut count, mut rest) = (0, data);
    while rest.starts_with(b"Received:") {
        count += 1;
        loop {
            let end = rest.iter().position(|&b| b == b'\n').map_or(rest.len(), |i| i + 1);
            rest = &rest[end..];
            if !rest.starts_with(b" ") && !rest.starts_with(b"\t") {
                break;
            }
        }
    }
    (count, rest)
}

fn letter_number(body: &[u8]) -> Option<u64> {
    let line = body.split(|&b| b == b'\r').next()?;
    std::str::from_utf8(line).ok()?.strip_prefix("X-Sim: ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"X-Sim: 7\r\n\r\nhello\r\n";

    fn acked() -> Ledger {
        let mut l = Ledger::default();
        l.begin(7, "a@a.example", BODY);
        l.recipient(7, "b@b.example");
        l.set_fate(7, Fate::Acked);
        l
    }

    fn to(address: &str) -> Vec<String> {
        vec![address.to_owned()]
    }

    #[test]
    fn finds_loss_and_takes_delivery_or_bounce() {
        let mut l = acked();
        assert!(l.check(0)[0].starts_with("lost"));
        let traced = [&b"Received: from x\r\n\tby y\r\n"[..], BODY].concat();
        l.deliver("a@a.example", &to("b@b.example"), &traced, 5);
        assert_eq!(l.check(1), Vec::<String>::new());
        let mut l = acked();
        let dsn = [b"Subject: x\r\n\r\nFinal-Recipient: rfc822; b@b.example\r\n\r\n", BODY].concat();
        l.deliver("", &to("someone@else.example"), &dsn, 5);
        assert_eq!(l.owed().len(), 1, "the notification went to somebody else");
        l.deliver("", &to("a@a.example"), &dsn, 5);
        assert_eq!(l.check(1), Vec::<String>::new());
    }

    #[test]
    fn finds_what_was_invented_or_altered() {
        let mut l = acked();
        l.deliver("a@a.example", &to("b@b.example"), b"X-Sim: 7\r\n\r\nhallo\r\n", 5);
        l.deliver("a@a.example", &to("c@c.example"), BODY, 5);
        l.deliver("a@a.example", &to("b@b.example"), b"X-Sim: 8\r\n\r\n", 5);
        l.begin(9, "a@a.example", b"X-Sim: 9\r\n");
        l.recipient(9, "b@b.example");
        l.deliver("a@a.example", &to("b@b.example"), b"X-Sim: 9\r\n", 5);
        let found = l.check(0);
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn duplicates_need_an_excuse() {
        let twice = |read: Option<u64>, crash: Option<(u64, bool)>, second: u64| {
            let mut l = acked();
            let first = l.deliver("a@a.example", &to("b@b.example"), BODY, 5);
            if let Some(at) = read {
                l.confirm(&first, at);
            }
            crash.into_iter().for_each(|(c, sound)| l.crashed(c, sound));
            let again = l.deliver("a@a.example", &to("b@b.example"), BODY, second);
            l.confirm(&again, 50);
            l.check(0).len()
        };
        assert_eq!(twice(Some(6), None, 9), 1);
        assert_eq!(twice(Some(6), Some((20, true)), 9), 1, "the crash came later");
        assert_eq!(twice(Some(6), Some((7, true)), 9), 0);
        assert_eq!(twice(None, None, 9), 0);
        let late = 6 + NOTED + 1;
        assert_eq!(twice(Some(6), Some((late, true)), late + 1), 1, "its outcome was on the disk");
        assert_eq!(twice(Some(6), Some((late, false)), late + 1), 0);
        // Sent by a process that died, and arrived after what the next one sent.
        assert_eq!(twice(Some(6), Some((4, true)), 3), 0);
        assert_eq!(twice(Some(6), Some((2, true)), 3), 1);
    }
}
