//! What clients were promised and what remote servers got, and the check of one against the other.
//!
//! The oracle: outside of the product and never restarted. It names each letter by the number in
//! its first header, `X-Sim`. Its findings are texts; none means that all promises were kept.

use crate::rng::hash;
use crate::world::SEC;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Shared handle to the ledger.
pub type SharedLedger = Rc<RefCell<Ledger>>;

/// Servers refuse recipients whose names begin so, for good.
pub const NOBODY: &str = "nobody";

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
    /// Its sender wants to know of success.
    success: bool,
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

/// One notification that reached the sender, about one recipient of a letter.
struct Notice {
    about: Owed,
    /// Its Message-ID: the same one may arrive twice, as any letter.
    id: String,
    sent: u64,
}

/// The index of the server under test was lost.
struct Loss {
    at: u64,
    /// So many letters may come again, it said.
    told: Option<u64>,
}

/// What a start found in the queue, before anything was sent.
struct Inspection {
    at: u64,
    in_doubt: BTreeSet<Owed>,
}

/// A letter and one of its recipients.
pub type Owed = (u64, String);

/// Until then an outcome has been staged and written, by a slow disk too.
const NOTED: u64 = 5 * SEC;

/// See the module.
#[derive(Default)]
pub struct Ledger {
    letters: BTreeMap<u64, Letter>,
    deliveries: Vec<Delivery>,
    /// All that was delivered.
    delivered: BTreeSet<Owed>,
    /// Named as failed in a notification that reached the sender.
    bounces: Vec<Notice>,
    bounced: BTreeSet<Owed>,
    /// Named as late in one.
    warnings: BTreeMap<Owed, String>,
    /// Named as passed on in one: by which, and when it was sent.
    relayed: BTreeMap<Owed, (String, u64)>,
    crashes: Vec<Crash>,
    losses: Vec<Loss>,
    inspections: Vec<Inspection>,
    /// Letters that an operator wants gone, and when that was confirmed.
    deleted: BTreeMap<u64, Option<u64>>,
    /// Letters are given up within the history.
    expiring: bool,
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
            success: false,
            fate: Fate::Abandoned,
        };
        let old = self.letters.insert(number, letter);
        assert!(old.is_none(), "letter {number} was sent before");
    }

    /// The sender of the letter wants to know of success.
    pub fn asks_for_success(&mut self, number: u64) {
        self.letters.get_mut(&number).expect("begun").success = true;
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

    /// How many recipients were reported as late.
    pub fn warned(&self) -> usize {
        self.warnings.len()
    }

    /// How many recipients were reported as passed on.
    pub fn relayed(&self) -> usize {
        self.relayed.len()
    }

    /// How far a letter came, if it was begun.
    pub fn fate(&self, number: u64) -> Option<Fate> {
        self.letters.get(&number).map(|l| l.fate)
    }

    /// How many letters have this fate.
    pub fn count(&self, fate: Fate) -> usize {
        self.letters.values().filter(|l| l.fate == fate).count()
    }

    /// The server under test lost its memory at `at`; `sound`: no write of its had failed.
    pub fn crashed(&mut self, at: u64, sound: bool) {
        self.crashes.push(Crash { at, sound });
    }

    /// From now on letters may be given up because their time is over.
    pub fn expire(&mut self) {
        self.expiring = true;
    }

    /// The index was lost at `at`.
    pub fn index_lost(&mut self, at: u64) {
        self.losses.push(Loss { at, told: None });
    }

    /// The server has made its index anew, and says that `count` letters may come again.
    pub fn rebuilt(&mut self, count: u64) {
        self.losses.iter_mut().filter(|l| l.told.is_none()).for_each(|l| l.told = Some(count));
    }

    /// An operator deletes a letter.
    pub fn deleting(&mut self, number: u64) {
        self.deleted.entry(number).or_default();
    }

    /// At `at` the server had said that the letter was deleted.
    pub fn deleted(&mut self, number: u64, at: u64) {
        self.deleted.entry(number).or_default().get_or_insert(at);
    }

    /// At a start, before anything was sent, the queue held these, and called those in doubt.
    pub fn inspected(&mut self, at: u64, queued: &BTreeSet<Owed>, in_doubt: BTreeSet<Owed>) {
        for (n, r) in self.owed().into_iter().filter(|o| !queued.contains(o)) {
            self.odd.push(format!("lost: letter {n} for {r} is not in the queue after a start"));
        }
        self.inspections.push(Inspection { at, in_doubt });
    }

    /// A remote server took `data`, sent to it at `sent`; gives the delivery numbers.
    pub fn deliver(&mut self, sender: &str, recipients: &[String], data: &[u8], sent: u64) -> Vec<usize> {
        let (traces, rest) = strip_traces(data);
        let number = letter_number(rest);
        if sender.is_empty() {
            self.bounce(recipients, data, sent);
            return Vec::new();
        }
        let hash = hash(rest);
        let first = self.deliveries.len();
        self.delivered.extend(number.iter().flat_map(|n| recipients.iter().map(move |r| (*n, r.clone()))));
        self.deliveries.extend(recipients.iter().map(|r| {
            let recipient = r.clone();
            Delivery { number, recipient, hash, traces, sent, confirmed: None }
        }));
        (first..self.deliveries.len()).collect()
    }

    /// When each letter was sent to each of its recipients first.
    pub fn sent(&self) -> BTreeMap<Owed, u64> {
        let mut sent = BTreeMap::new();
        for d in &self.deliveries {
            let Some(number) = d.number else { continue };
            sent.entry((number, d.recipient.clone())).or_insert(d.sent);
        }
        sent
    }

    /// At `now` the sender is known to have read the 250 for these deliveries.
    pub fn confirm(&mut self, deliveries: &[usize], now: u64) {
        deliveries.iter().for_each(|&i| self.deliveries[i].confirmed = Some(now));
    }

    fn bounce(&mut self, recipients: &[String], data: &[u8], sent: u64) {
        let mut report = report(data);
        if report.number == 0 {
            // A body that cannot be read is not returned; who sent to whom tells letters apart, too.
            let of = |l: &Letter| {
                let mut named = report.failed.iter().chain(&report.relayed);
                recipients.contains(&l.sender) && named.any(|r| l.recipients.contains(r))
            };
            report.number = self.letters.iter().find(|(_, l)| of(l)).map_or(0, |(&n, _)| n);
        }
        // RFC 3463 3.5: delivery time expired.
        if report.expired && !self.expiring {
            self.odd.push(format!("expired: letter {}, before its time", report.number));
        }
        for about in report.delayed.drain(..).map(|r| (report.number, r)) {
            if self.warnings.insert(about.clone(), report.id.clone()).is_some_and(|id| id != report.id)
                && self.losses.is_empty()
            {
                self.odd.push(format!("warned: {about:?} was reported as late twice"));
            }
        }
        for about in report.relayed.drain(..).map(|r| (report.number, r)) {
            self.told_of_success(about, &report.id, sent);
        }
        let sender = self.letters.get(&report.number).map(|l| l.sender.as_str());
        if recipients.iter().any(|r| Some(r.as_str()) == sender) {
            for failed in report.failed {
                let about = (report.number, failed);
                self.bounced.insert(about.clone());
                self.bounces.push(Notice { about, id: report.id.clone(), sent });
            }
        }
    }

    fn told_of_success(&mut self, about: Owed, id: &str, sent: u64) {
        let asked = self.letters.get(&about.0).is_some_and(|l| l.success);
        if !asked || !self.delivered.contains(&about) {
            self.odd.push(format!("told: {about:?} was reported as passed on, asked for: {asked}"));
        }
        let (first, at) = self.relayed.entry(about.clone()).or_insert((id.to_owned(), sent)).clone();
        if first != id && !self.lost_between(0, at.max(sent)) {
            self.odd.push(format!("told: {about:?} was reported as passed on twice: {first}, {id}"));
        }
    }

    /// What is still owed: acknowledged recipients neither delivered nor bounced, or delivered without a
    /// word to a sender who wants to know, of letters that nobody has deleted.
    pub fn owed(&self) -> Vec<Owed> {
        let acked =
            self.letters.iter().filter(|(n, l)| l.fate == Fate::Acked && !self.deleted.contains_key(n));
        acked
            .flat_map(|(&n, l)| l.recipients.iter().map(move |r| ((n, r.clone()), l.success)))
            .filter(|(owed, success)| {
                let done =
                    if *success { self.relayed.contains_key(owed) } else { self.delivered.contains(owed) };
                !done && !self.bounced.contains(owed)
            })
            .map(|(owed, _)| owed)
            .collect()
    }

    /// Of that, what can be had where only some are `there`: the letter is owed to its recipient or, once
    /// that one's server has taken or refused it, a word to its sender.
    pub fn owed_to(&self, there: impl Fn(&str) -> bool) -> Vec<Owed> {
        let mut owed = self.owed();
        owed.retain(|o| {
            let sender = there(&self.letters[&o.0].sender);
            if self.delivered.contains(o) {
                return sender;
            }
            there(&o.1) && (sender || !o.1.starts_with(NOBODY))
        });
        owed
    }

    /// Broken promises, given that each letter passed `hops` servers. Call it when the queue must
    /// be empty.
    pub fn check(&self, hops: usize) -> Vec<String> {
        let mut found: Vec<String> = self
            .owed()
            .iter()
            .map(|(n, r)| {
                let passed = self.delivered.contains(&(*n, r.clone()));
                let what = if passed { "passed on, its sender was not told" } else { "acknowledged" };
                format!("lost: letter {n} for {r} was {what}")
            })
            .collect();
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
        let mut again = BTreeSet::new();
        found.extend(self.duplicates(&mut again));
        found.extend(self.risen(&mut again));
        if self.losses.iter().all(|l| l.told.is_some()) {
            let told: u64 = self.losses.iter().filter_map(|l| l.told).sum();
            if again.len() as u64 > told {
                found.push(format!("untold: {} letters came again, of {told} it was said", again.len()));
            }
        }
        found
    }

    /// True if the index was lost between these times.
    fn lost_between(&self, from: u64, to: u64) -> bool {
        self.losses.iter().any(|l| from <= l.at && l.at <= to)
    }

    /// Letters that were over, deleted or reported as failed, and came all the same. `again`: those
    /// that a lost index excuses.
    fn risen(&self, again: &mut BTreeSet<u64>) -> Vec<String> {
        let mut found = Vec::new();
        let mut ended: BTreeMap<&Owed, &Notice> = BTreeMap::new();
        for b in &self.bounces {
            let first = *ended.entry(&b.about).or_insert(b);
            if first.id == b.id {
                continue;
            }
            // Either may have been made long before it was sent.
            if self.lost_between(0, first.sent.max(b.sent)) {
                again.insert(b.about.0);
            } else {
                found.push(format!(
                    "risen: {:?} was reported as failed twice: {} at {}, {} at {}",
                    b.about, first.id, first.sent, b.id, b.sent
                ));
            }
        }
        for d in &self.deliveries {
            let Some(n) = d.number else { continue };
            let mut over = |what: &str, from: u64| {
                if self.lost_between(from, d.sent) {
                    again.insert(n);
                } else {
                    found.push(format!("risen: letter {n} for {} was {what}, and came", d.recipient));
                }
            };
            if let Some(b) = ended.get(&(n, d.recipient.clone())).filter(|b| b.sent < d.sent) {
                over("reported as failed", b.sent);
            }
            // What was in flight when it was deleted ends with the process.
            let deleted = self.deleted.get(&n).copied().flatten();
            if let Some(at) = deleted.filter(|at| self.crashes.iter().any(|c| *at < c.at && c.at < d.sent)) {
                over("deleted", at);
            }
        }
        found
    }

    /// Duplicates without an excuse. They are compared in the order in which they were sent, not in
    /// which they arrived: what a killed process had handed to its kernel may arrive long after a
    /// new process has sent the letter once more, and was in flight at the crash all the same.
    ///
    /// Excuses, as the promise has them: the answer to the first was not read (the connection was
    /// lost after the final dot), or the memory of it was lost: by a crash before its outcome can
    /// have been written, or by any crash after an error of the journal.
    ///
    /// What a crash excuses must have been listed as in doubt by the start that followed. `again`: letters
    /// that only a lost index excuses.
    fn duplicates(&self, again: &mut BTreeSet<u64>) -> Vec<String> {
        let mut sent: Vec<&Delivery> = self.deliveries.iter().collect();
        sent.sort_by_key(|d| d.sent);
        let mut last: BTreeMap<(Option<u64>, &str), &Delivery> = BTreeMap::new();
        let mut found = Vec::new();
        for d in sent {
            let Some(before) = last.insert((d.number, &d.recipient), d) else { continue };
            let Some(read) = before.confirmed else { continue };
            let lost = self.lost_between(before.sent, d.sent);
            let forgotten =
                |c: &&Crash| before.sent <= c.at && c.at <= d.sent && (!c.sound || c.at <= read + NOTED);
            match self.crashes.iter().find(forgotten) {
                _ if lost => again.extend(d.number),
                None => {
                    found.push(format!("duplicate: letter {:?} for {}, no excuse", d.number, d.recipient))
                }
                Some(crash) => found.extend(self.unlisted(before, crash, d)),
            }
        }
        found
    }

    fn unlisted(&self, before: &Delivery, crash: &Crash, d: &Delivery) -> Option<String> {
        // A start that nobody looked at may have tried it again and been put off: it is not in doubt then.
        let next = self.crashes.iter().map(|c| c.at).filter(|at| *at > crash.at).min().unwrap_or(u64::MAX);
        let after = |i: &&Inspection| crash.at < i.at && i.at < d.sent.min(next);
        let inspection = self.inspections.iter().find(after)?;
        let about = (d.number?, d.recipient.clone());
        let told = inspection.in_doubt.contains(&about) || before.confirmed > Some(crash.at);
        (!told).then(|| format!("duplicate: {about:?} was not listed as in doubt after the crash"))
    }
}

/// What a notification says.
pub struct Report {
    /// Of which letter; 0: it does not say.
    pub number: u64,
    /// Its recipients that have failed.
    pub failed: Vec<String>,
    /// Those that are late.
    delayed: Vec<String>,
    /// Those that were passed on.
    pub relayed: Vec<String>,
    /// Its Message-ID.
    id: String,
    /// Because their time was over.
    expired: bool,
}

/// Reads a notification.
pub fn report(data: &[u8]) -> Report {
    let text = String::from_utf8_lossy(data);
    let number = text.lines().find_map(|l| l.strip_prefix("X-Sim: ")?.trim().parse().ok()).unwrap_or(0);
    let id = text.lines().find_map(|l| l.strip_prefix("Message-ID:")).unwrap_or_default();
    let id = id.trim().to_owned();
    let (failed, delayed, relayed) = Default::default();
    let mut out = Report { number, failed, delayed, relayed, id, expired: false };
    let mut recipient = None;
    for line in text.lines() {
        if let Some(address) = line.strip_prefix("Final-Recipient: rfc822;") {
            recipient = Some(address.trim().to_owned());
        } else if line.trim() == "Action: failed" {
            out.failed.extend(recipient.take());
        } else if line.trim() == "Action: delayed" {
            out.delayed.extend(recipient.take());
        } else if line.trim() == "Action: relayed" {
            out.relayed.extend(recipient.take());
        }
        out.expired |= line.trim() == "Status: 5.4.7";
    }
    out
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
        let dsn = [b"Subject: x\r\n\r\nFinal-Recipient: rfc822; b@b.example\r\nAction: failed\r\n\r\n", BODY]
            .concat();
        l.deliver("", &to("someone@else.example"), &dsn, 5);
        assert_eq!(l.owed().len(), 1, "the notification went to somebody else");
        l.deliver("", &to("a@a.example"), &dsn, 5);
        assert_eq!(l.check(1), Vec::<String>::new());
    }

    #[test]
    fn success_is_told_once_to_who_asks() {
        let report = |id: &str| {
            let fields = "Final-Recipient: rfc822; b@b.example\r\nAction: relayed\r\n\r\n";
            [format!("Message-ID: <{id}>\r\n\r\n{fields}").as_bytes(), BODY].concat()
        };
        let told = |asks: bool, reports: &[&str]| {
            let mut l = acked();
            if asks {
                l.asks_for_success(7);
            }
            l.deliver("a@a.example", &to("b@b.example"), BODY, 5);
            reports.iter().for_each(|id| drop(l.deliver("", &to("a@a.example"), &report(id), 6)));
            (l.relayed(), l.check(0).len())
        };
        assert_eq!((told(true, &["x"]), told(true, &["x", "x"]), told(false, &[])), ((1, 0), (1, 0), (0, 0)));
        assert_eq!((told(true, &[]).1, told(true, &["x", "y"]).1, told(false, &["x"]).1), (1, 1, 1));
    }

    #[test]
    fn what_is_owed_to_those_who_are_there() {
        let at = |domain: &'static str| move |to: &str| to.ends_with(domain);
        let mut l = acked();
        l.asks_for_success(7);
        assert_eq!((l.owed_to(at("a.example")).len(), l.owed_to(at("b.example")).len()), (0, 1));
        l.deliver("a@a.example", &to("b@b.example"), BODY, 5);
        assert_eq!((l.owed_to(at("a.example")).len(), l.owed_to(at("b.example")).len()), (1, 0));
        // Refused for good: who sent it is told, once both servers are there.
        let mut l = acked();
        l.recipient(7, "nobody@b.example");
        l.deliver("a@a.example", &to("b@b.example"), BODY, 5);
        assert_eq!((l.owed_to(at("a.example")).len(), l.owed_to(at("b.example")).len()), (0, 0));
        assert_eq!(l.owed_to(at(".example")).len(), 1);
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
