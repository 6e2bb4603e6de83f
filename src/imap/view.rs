//! A session's view of its mailbox: which messages a command means, and how changes are told.
//!
//! The view itself, a snapshot that moves on only when the client is told, is the mailbox store's;
//! here is what IMAP makes of it: [`resolve`] turns the set of a command into ranges of message sequence
//! numbers, [`may_expunge`] says when numbers may change, [`Teller`] writes changes in the order in
//! which they happened. No IO, no clock.

use crate::imap::encode::fetch::{self, Fetch};
use crate::imap::parse::flags::System;
use crate::imap::parse::{Messages, Verb};
use crate::imap::set::{Range, SeqSet};

/// The numbers of a view: UIDs in ascending order, each with its message sequence number from 1.
pub trait Numbers {
    /// How many messages.
    fn exists(&self) -> u32;
    /// The UID of a message sequence number.
    fn uid(&self, seq: u32) -> Option<u32>;
    /// The first message sequence number whose UID is `uid` or greater; `exists() + 1` if there is none.
    fn seq_from(&self, uid: u32) -> u32;
}

/// A message sequence number that is not there was written: BAD.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beyond;

/// The message sequence numbers that a command means, ascending and apart. `saved` is `$`, as UIDs.
/// UIDs that are not there are passed over (RFC 9051 §6.4.9).
///
/// # Errors
/// [`Beyond`] if the set is of message sequence numbers and one of them is not there.
pub fn resolve(
    view: &impl Numbers,
    messages: &Messages,
    uid: bool,
    saved: &SeqSet,
) -> Result<Vec<Range>, Beyond> {
    let exists = view.exists();
    let (set, uid) = match messages {
        Messages::Set(set) => (set, uid),
        Messages::Saved => (saved, true),
    };
    if !uid {
        return if set.is_beyond(exists) { Err(Beyond) } else { Ok(set.resolve(exists).collect()) };
    }
    let uid_max = view.uid(exists).unwrap_or(0);
    let mut ranges: Vec<Range> = Vec::new();
    for r in set.resolve(uid_max) {
        let first = view.seq_from(r.first);
        let after = r.last.checked_add(1).map_or(exists + 1, |next| view.seq_from(next));
        match ranges.last_mut() {
            _ if first == after => {}
            // Gaps between UIDs are none between the numbers.
            Some(end) if end.last + 1 == first => end.last = after - 1,
            _ => ranges.push(Range { first, last: after - 1 }),
        }
    }
    Ok(ranges)
}

/// The UIDs of ranges of message sequence numbers.
pub fn uids<'v>(view: &'v impl Numbers, ranges: &'v [Range]) -> impl Iterator<Item = u32> + 'v {
    ranges.iter().flat_map(|r| r.first..=r.last).filter_map(|seq| view.uid(seq))
}

/// True if the client may be told of expunged messages while or after this command is obeyed. RFC 9051
/// §7.5.1: not with FETCH, STORE and SEARCH (and so SORT and THREAD, RFC 5256 §3) without UID.
#[must_use]
pub fn may_expunge(verb: &Verb<'_>) -> bool {
    match verb {
        Verb::Fetch(fetch) => fetch.uid,
        Verb::Store(store) => store.uid,
        Verb::Search(search) => search.uid,
        Verb::Sort(sort) => sort.uid,
        Verb::Thread(thread) => thread.uid,
        _ => true,
    }
}

/// What a client wants to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mode {
    /// QRESYNC was enabled: VANISHED for EXPUNGE, UIDs with flags (RFC 7162 §3.2.4, §3.2.10).
    pub qresync: bool,
    /// Mod-sequences with flags (RFC 7162 §3.1.2).
    pub condstore: bool,
    /// IMAP4rev2 was enabled: UIDs with flags (RFC 9051 §7.5.2).
    pub rev2: bool,
}

/// Writes changes of a view. Expunges that follow one another become one VANISHED.
#[derive(Debug)]
pub struct Teller<'o> {
    out: &'o mut Vec<u8>,
    mode: Mode,
    vanished: SeqSet,
}

/// A message whose flags are told.
#[derive(Clone, Copy, Debug)]
pub struct Changed {
    /// Message sequence number, after all expunges that were told.
    pub seq: u32,
    /// UID.
    pub uid: u32,
    /// System flags.
    pub system: System,
    /// Mod-sequence.
    pub mod_seq: u64,
}

impl<'o> Teller<'o> {
    /// Begins.
    pub fn new(out: &'o mut Vec<u8>, mode: Mode) -> Self {
        Teller { out, mode, vanished: SeqSet::default() }
    }

    /// The message with this number, as of now, is gone.
    pub fn expunged(&mut self, seq: u32, uid: u32) {
        if self.mode.qresync {
            self.vanished.insert(uid, uid);
        } else {
            fetch::expunge(self.out, seq);
        }
    }

    /// There are so many messages now.
    pub fn exists(&mut self, n: u32) {
        self.flush();
        fetch::exists(self.out, n);
    }

    /// So many of them are recent (RFC 3501 §7.3.2; RFC 9051 has none).
    pub fn recent(&mut self, n: u32) {
        self.flush();
        if !self.mode.rev2 {
            fetch::recent(self.out, n);
        }
    }

    /// The flags of a message have changed.
    pub fn changed<'a>(&mut self, message: Changed, keywords: impl IntoIterator<Item = &'a [u8]>) {
        self.flush();
        let mut fetch = Fetch::begin(self.out, message.seq);
        if self.mode.qresync || self.mode.rev2 {
            fetch.uid(message.uid);
        }
        if self.mode.condstore || self.mode.qresync {
            fetch.mod_seq(message.mod_seq);
        }
        fetch.flags(message.system, keywords);
        fetch.end();
    }

    fn flush(&mut self) {
        fetch::vanished(self.out, false, &std::mem::take(&mut self.vanished));
    }

    /// Ends; what was gathered is written.
    pub fn end(mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::parse;
    use proptest::prelude::*;

    /// UIDs in ascending order.
    struct Naive(Vec<u32>);

    impl Numbers for Naive {
        fn exists(&self) -> u32 {
            self.0.len() as u32
        }

        fn uid(&self, seq: u32) -> Option<u32> {
            self.0.get((seq as usize).checked_sub(1)?).copied()
        }

        fn seq_from(&self, uid: u32) -> u32 {
            self.0.partition_point(|u| *u < uid) as u32 + 1
        }
    }

    fn messages(set: &str) -> Messages {
        if set == "$" { Messages::Saved } else { Messages::Set(SeqSet::parse(set.as_bytes()).unwrap().0) }
    }

    fn found(view: &Naive, set: &str, uid: bool) -> Result<Vec<(u32, u32)>, Beyond> {
        let ranges = resolve(view, &messages(set), uid, &SeqSet::of(20, 30))?;
        Ok(ranges.iter().map(|r| (r.first, r.last)).collect())
    }

    #[test]
    fn sets_of_commands() {
        let view = Naive(vec![10, 20, 30, 41]);
        assert_eq!(found(&view, "1:2,4", false), Ok(vec![(1, 2), (4, 4)]));
        assert_eq!(found(&view, "5", false), Err(Beyond));
        assert_eq!(found(&view, "9:*", false), Ok(vec![(4, 4)]));
        assert_eq!(found(&view, "1:10,15:25", true), Ok(vec![(1, 2)]));
        assert_eq!(found(&view, "11:19,31:40,99", true), Ok(vec![]));
        assert_eq!(found(&view, "99:*", true), Ok(vec![(4, 4)]));
        assert_eq!(found(&view, "1:4294967295", true), Ok(vec![(1, 4)]));
        assert_eq!(found(&view, "$", false), Ok(vec![(2, 3)]));
        let ranges = resolve(&view, &messages("2:3"), false, &SeqSet::default()).unwrap();
        assert_eq!(uids(&view, &ranges).collect::<Vec<_>>(), [20, 30]);
        let empty = Naive(vec![]);
        assert_eq!(found(&empty, "1:*", false), Ok(vec![]));
        assert_eq!(found(&empty, "*", true), Ok(vec![]));
        assert_eq!(found(&empty, "1", false), Err(Beyond));
    }

    #[test]
    fn numbers_stay_during_fetch_store_search() {
        for (text, may) in [
            ("a FETCH 1 FLAGS", false),
            ("a UID FETCH 1 FLAGS", true),
            ("a STORE 1 FLAGS ()", false),
            ("a UID STORE 1 FLAGS ()", true),
            ("a SEARCH ALL", false),
            ("a UID SEARCH ALL", true),
            ("a SORT (DATE) UTF-8 ALL", false),
            ("a THREAD REFERENCES UTF-8 ALL", false),
            ("a UID THREAD REFERENCES UTF-8 ALL", true),
            ("a NOOP", true),
            ("a EXPUNGE", true),
            ("a COPY 1 x", true),
        ] {
            assert_eq!(may_expunge(&parse::parse(text.as_bytes()).unwrap().verb), may, "{text}");
        }
    }

    /// What a client makes of the responses: numbers of messages with UIDs where it knows them.
    fn client(known: &mut Vec<u32>, appended: &mut std::vec::IntoIter<u32>, responses: &[u8]) {
        for line in std::str::from_utf8(responses).unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["*", seq, "EXPUNGE"] => drop(known.remove(seq.parse::<usize>().unwrap() - 1)),
                ["*", "VANISHED", set] => {
                    let set = SeqSet::parse(set.as_bytes()).unwrap().0;
                    known.retain(|u| !set.contains(*u, 0));
                }
                ["*", n, "EXISTS"] => {
                    let n = n.parse::<usize>().unwrap();
                    assert!(n >= known.len(), "EXISTS never takes messages away");
                    known.extend(appended.take(n - known.len()));
                }
                _ => panic!("{line}"),
            }
        }
    }

    proptest! {
        #[test]
        fn ranges_are_those_of_a_naive_search(
            gaps in prop::collection::vec(1u32..4, 0..20),
            parts in prop::collection::vec((1u32..60, 1u32..60), 1..5),
            star in any::<bool>(),
        ) {
            let mut uid = 0;
            let view = Naive(gaps.iter().map(|g| { uid += g; uid }).collect());
            let mut text: Vec<String> = parts.iter().map(|(a, b)| format!("{a}:{b}")).collect();
            text.extend(star.then(|| "50:*".to_string()));
            let Messages::Set(set) = messages(&text.join(",")) else { panic!("a set") };
            let ranges = resolve(&view, &Messages::Set(set.clone()), true, &SeqSet::default()).unwrap();
            let mut naive: Vec<u32> = (1..=view.exists()).collect();
            naive.retain(|seq| set.contains(view.0[*seq as usize - 1], uid));
            let got: Vec<u32> = ranges.iter().flat_map(|r| r.first..=r.last).collect();
            prop_assert_eq!(got, naive);
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].last + 1 < pair[1].first, "apart");
            }
        }

        #[test]
        fn a_client_that_believes_what_it_is_told_is_right(
            rounds in prop::collection::vec((prop::collection::vec(0usize..100, 0..5), 0u32..4), 0..12),
            qresync in any::<bool>(),
        ) {
            let (mut server, mut known, mut next) = (Vec::new(), Vec::new(), 1u32);
            for (expunges, new) in rounds {
                let mut out = Vec::new();
                let mut teller = Teller::new(&mut out, Mode { qresync, ..Mode::default() });
                for at in expunges {
                    if !server.is_empty() {
                        let at = at % server.len();
                        let uid = server.remove(at);
                        teller.expunged(at as u32 + 1, uid);
                    }
                }
                let appended: Vec<u32> = (next..next + new).collect();
                next += new;
                server.extend_from_slice(&appended);
                if new > 0 {
                    teller.exists(server.len() as u32);
                }
                teller.end();
                client(&mut known, &mut appended.into_iter(), &out);
                prop_assert_eq!(&known, &server);
            }
        }
    }

    #[test]
    fn flags_are_told_as_the_client_wants_them() {
        let told = |mode| {
            let mut out = Vec::new();
            let mut teller = Teller::new(&mut out, mode);
            teller.expunged(7, 70);
            let message = Changed { seq: 2, uid: 20, system: System::SEEN, mod_seq: 9 };
            teller.changed(message, [&b"Work"[..]]);
            teller.end();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(told(Mode::default()), "* 7 EXPUNGE\r\n* 2 FETCH (FLAGS (\\Seen Work))\r\n");
        assert_eq!(
            told(Mode { condstore: true, ..Mode::default() }),
            "* 7 EXPUNGE\r\n* 2 FETCH (MODSEQ (9) FLAGS (\\Seen Work))\r\n"
        );
        assert_eq!(
            told(Mode { condstore: true, qresync: true, ..Mode::default() }),
            "* VANISHED 70\r\n* 2 FETCH (UID 20 MODSEQ (9) FLAGS (\\Seen Work))\r\n"
        );
        assert_eq!(
            told(Mode { rev2: true, ..Mode::default() }),
            "* 7 EXPUNGE\r\n* 2 FETCH (UID 20 FLAGS (\\Seen Work))\r\n"
        );
    }
}
