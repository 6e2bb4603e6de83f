//! L2: what a log says of the queue: records in, messages that are still to be delivered out.
//!
//! A pure function over the records in their order. Knows no journal and no clock; routing comes as
//! an argument. A record that cannot be read is counted and passed over: the rest is not lost
//! because of it.

use crate::base::ids::MessageId;
use crate::base::time::Wall;
use crate::message::body::BodyFlags;
use crate::message::envelope::Notify;
use crate::queue::index::NOWHERE;
use crate::queue::record::{self, Effect, Fate, Malformed, MessageView, State, StatesView};
use crate::queue::routing::{Hop, Plan};
use crate::queue::state::domain_of_all;
use crate::queue::whose::Whose;
use crate::storage::record::{Location, Recovered};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Where a recovered recipient goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// To a hop of [`Rebuild::hops`].
    Hop(usize),
    /// To a mailbox here.
    Local,
    /// Nowhere.
    None,
}

/// A recovered recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recipient {
    /// Where it goes.
    pub way: Way,
    /// What is known.
    pub fate: Fate,
    /// Attempts that ended without success.
    pub attempts: u16,
    /// When the next is due.
    pub due: Wall,
    /// The record with its last reply; length 0: none.
    pub said: Location,
    /// An attempt may have been under way when the log ended.
    pub in_doubt: bool,
}

/// A recovered message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its record.
    pub at: Location,
    /// Bytes of trace headers and body.
    pub size: u64,
    /// Side file; 0: none.
    pub side: u64,
    /// Facts about the body.
    pub body: BodyFlags,
    /// [`record::HELD`], [`record::WARNED`], [`record::DOUBLE_BOUNCE`].
    pub marks: u8,
    /// The sender is null.
    pub null_sender: bool,
    /// Number of its login, as [`Whose::key`] gives it.
    pub user: u64,
    /// The domain that all recipients are of, in [`Rebuild::domains`]; none: several.
    pub domain: Option<u32>,
    /// The next hop that an operator has given it; empty: routes say.
    pub via: Box<str>,
    /// In the order of the envelope.
    pub recipients: Vec<Recipient>,
}

impl Default for Found {
    fn default() -> Self {
        Found {
            at: NOWHERE,
            size: 0,
            side: 0,
            body: BodyFlags(0),
            marks: 0,
            null_sender: false,
            user: 0,
            domain: None,
            via: Box::default(),
            recipients: Vec::new(),
        }
    }
}

impl Found {
    /// The message of a record, before anything was said of it.
    pub fn of(view: &MessageView<'_>, at: Location, mut way: impl FnMut(&[u8]) -> Way) -> Self {
        let fresh = |to: crate::message::envelope::Recipient<'_>| Recipient {
            way: way(to.address),
            fate: if to.notify.has(Notify::EXPANDED) { Fate::Passed } else { Fate::Fresh },
            attempts: 0,
            due: Wall(0),
            said: NOWHERE,
            in_doubt: !to.notify.has(Notify::EXPANDED),
        };
        Found {
            at,
            size: view.head.size,
            side: view.head.side,
            body: view.head.body,
            marks: view.head.flags,
            null_sender: view.envelope.sender().is_empty(),
            user: Whose::key(view.user),
            domain: None,
            via: view.via.into(),
            recipients: view.envelope.recipients().map(fresh).collect(),
        }
    }

    /// True if nothing more is to be done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.recipients.iter().all(|r| r.fate.is_done())
    }

    /// Takes what a record of `kind` at `at` says; `true`: nothing more is to be done.
    pub fn apply(&mut self, kind: u8, payload: &[u8], at: Location) -> Result<bool, Malformed> {
        match kind {
            record::OUTCOME => self.outcome(at, &StatesView::parse(payload)?),
            record::ATTEMPT => self.attempt(payload)?,
            record::WITHDRAW | record::REMOVED => return Ok(true),
            record::HOLD => self.marks |= record::HELD,
            record::RELEASE => self.marks &= !record::HELD,
            record::REROUTE => self.via = record::reroute(payload)?.into(),
            _ => return Err(Malformed),
        }
        Ok(self.is_done())
    }

    /// Takes the states that its own record carries.
    pub fn take_states(&mut self, view: &StatesView<'_>) {
        self.outcome(self.at, view);
    }

    fn outcome(&mut self, at: Location, view: &StatesView<'_>) {
        if view.snapshot {
            self.marks = view.flags | self.marks & record::DOUBLE_BOUNCE;
        } else {
            self.marks |= view.flags & record::WARNED;
        }
        for s in view.states() {
            let Some(r) = self.recipients.get_mut(s.index as usize) else { continue };
            r.fate = s.fate;
            r.attempts = s.attempts;
            r.due = s.due;
            r.said = at;
            r.in_doubt = matches!(s.fate, Fate::Fresh | Fate::Attempting);
        }
    }

    fn attempt(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        for i in record::attempt(payload)? {
            if let Some(r) = self.recipients.get_mut(i as usize).filter(|r| !r.fate.is_done()) {
                r.fate = Fate::Attempting;
                r.in_doubt = true;
            }
        }
        Ok(())
    }
}

/// What was found in the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Loaded {
    /// Messages that wait, bodies in the archive.
    pub parked: u64,
    /// Recipients of them that may have been in flight.
    pub in_doubt: u64,
    /// Rows that could not be read. Their messages are in the archive still.
    pub unreadable: u64,
    /// The index was made anew: so many of the messages may have been sent before.
    pub rebuilt: Option<u64>,
    /// Side files that no message named.
    pub orphans: u64,
}

/// How far an index is that is being made anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Segments of the archive that have been read.
    pub segments: usize,
    /// Segments of the archive.
    pub of: usize,
    /// Messages found in them so far that are still to be sent.
    pub messages: u64,
}

/// Something that the log says of a message whose state is in the index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// Kind of the record.
    pub kind: u8,
    /// Its payload.
    pub payload: Box<[u8]>,
    /// Its place, if it keeps its segment.
    pub at: Option<Location>,
}

/// A queue being read back.
#[derive(Debug, Default)]
pub struct Rebuild {
    /// What is still to be done, by id.
    pub messages: BTreeMap<MessageId, Found>,
    /// What was said of messages that are in the index (or were), in order. The index may know
    /// some of it already: all of it once more gives the same.
    pub archived: BTreeMap<MessageId, Vec<Said>>,
    /// The last clean stop of the log: what the index calls under way was not, unless `archived` says so.
    pub stopped: Option<Location>,
    /// Messages that it excepts: recipients of theirs may have been in flight in an earlier run.
    pub kept: BTreeSet<MessageId>,
    /// The last segment with a record.
    pub newest: u64,
    /// Hops of the recipients, each with an address that leads there.
    pub hops: Vec<(Rc<Hop>, Box<[u8]>)>,
    /// Kind and id of records that could not be read.
    pub malformed: Vec<(u8, u64)>,
    /// The greatest id seen.
    pub last: MessageId,
    /// Domains of recipients.
    pub domains: Vec<Box<[u8]>>,
    names: BTreeMap<String, usize>,
    domain_numbers: BTreeMap<Box<[u8]>, u32>,
}

impl Rebuild {
    /// Takes the next record.
    pub fn visit(&mut self, r: &Recovered<'_>, plan: &dyn Fn(&[u8]) -> Plan) {
        let id = MessageId(r.head.id);
        self.last = self.last.max(id);
        self.newest = self.newest.max(r.location.segment);
        let read = match r.head.kind {
            _ if r.head.version != record::VERSION => Err(Malformed),
            record::MESSAGE => self.message(id, r, plan),
            record::STOPPED => self.stopped(r),
            kind => self.said(id, kind, r),
        };
        if read.is_err() {
            self.malformed.push((r.head.kind, r.head.id));
        }
    }

    /// Recipients that may have been in flight when the log ended.
    #[must_use]
    pub fn in_doubt(&self) -> usize {
        let all = self.messages.values().flat_map(|f| &f.recipients);
        all.filter(|r| r.in_doubt && !r.fate.is_done()).count()
    }

    fn said(&mut self, id: MessageId, kind: u8, r: &Recovered<'_>) -> Result<(), Malformed> {
        match self.messages.get_mut(&id) {
            Some(found) => {
                if found.apply(kind, r.payload, r.location)? {
                    self.messages.remove(&id);
                }
            }
            // Of a message that is gone, or in the index: it must be readable all the same.
            None => drop(Found::default().apply(kind, r.payload, r.location)?),
        }
        if r.head.flags & record::ARCHIVED != 0 {
            let said = Said { kind, payload: r.payload.into(), at: Some(r.location) };
            self.archived.entry(id).or_default().push(said);
        }
        Ok(())
    }

    fn message(
        &mut self,
        id: MessageId,
        r: &Recovered<'_>,
        plan: &dyn Fn(&[u8]) -> Plan,
    ) -> Result<(), Malformed> {
        let view = MessageView::parse(r.payload)?;
        let mut found = Found::of(&view, r.location, |address| self.way(address, plan(address)));
        found.domain = self.domain(&view);
        let moved = view.states.is_some();
        if let Some(states) = view.states {
            found.outcome(r.location, &states);
        }
        self.messages.insert(id, found);
        self.forget_done(id);
        if view.head.origin != MessageId(0) && !moved {
            self.reported(&view);
        }
        Ok(())
    }

    fn domain(&mut self, view: &MessageView<'_>) -> Option<u32> {
        let domain = domain_of_all(view.envelope.recipients().map(|r| r.address))?;
        if let Some(number) = self.domain_numbers.get(&domain[..]) {
            return Some(*number);
        }
        let number = self.domains.len() as u32;
        self.domains.push((&domain[..]).into());
        self.domain_numbers.insert((&domain[..]).into(), number);
        Some(number)
    }

    /// A notification implies that the sender has been told what it reports.
    fn reported(&mut self, view: &MessageView<'_>) {
        let id = view.head.origin;
        let fate = match view.head.effect {
            Effect::None => return,
            Effect::Warned => None,
            Effect::Failed => Some(Fate::Failed),
            Effect::Delivered => Some(Fate::Delivered),
        };
        let mut states = Vec::new();
        match fate {
            None => record::put_states_head(&mut states, record::WARNED, 0),
            Some(fate) => {
                record::put_states_head(&mut states, 0, view.reported().count() as u32);
                for index in view.reported() {
                    record::put_state(&mut states, &State { index, fate, ..State::default() });
                }
            }
        }
        if let Some(origin) = self.messages.get_mut(&id) {
            origin.outcome(NOWHERE, &StatesView::parse(&states).expect("just written"));
            self.forget_done(id);
        }
        // The index may have it, too.
        let said = Said { kind: record::OUTCOME, payload: states.into(), at: None };
        self.archived.entry(id).or_default().push(said);
    }

    /// Messages that are done are forgotten at once: a log holds far more of them than live ones.
    fn forget_done(&mut self, id: MessageId) {
        if self.messages.get(&id).is_some_and(Found::is_done) {
            self.messages.remove(&id);
        }
    }

    /// After a clean stop nothing that came before is in flight, but for what it excepts.
    fn stopped(&mut self, r: &Recovered<'_>) -> Result<(), Malformed> {
        self.kept = record::stopped(r.payload)?.collect();
        self.stopped = Some(r.location);
        let kept = &self.kept;
        let sure = self.messages.iter_mut().filter(|(id, _)| !kept.contains(id));
        for r in sure.flat_map(|(_, found)| &mut found.recipients) {
            r.in_doubt = false;
        }
        let sure = self.archived.iter_mut().filter(|(id, _)| !kept.contains(id));
        for said in sure.flat_map(|(_, said)| said).filter(|s| s.kind == record::ATTEMPT) {
            // It says nothing any more.
            said.payload = Box::new([0; 4]);
        }
        Ok(())
    }

    /// The number in [`Self::hops`] of the hop that `plan` names.
    pub fn way(&mut self, address: &[u8], plan: Plan) -> Way {
        match plan {
            Plan::Local => Way::Local,
            Plan::NoRoute => Way::None,
            Plan::Relay(hop) => {
                let next = self.hops.len();
                let n = *self.names.entry(hop.key.clone()).or_insert(next);
                if n == next {
                    self.hops.push((hop, address.into()));
                }
                Way::Hop(n)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::envelope::{Envelope, Notify, SenderOptions};
    use crate::queue::record::{MessageHead, Reply};
    use crate::storage::record::RecordHead;
    use proptest::prelude::*;

    fn message(origin: u64, effect: Effect, reported: &[u32], states: &[u8]) -> Vec<u8> {
        let mut e = Envelope::default();
        e.begin(b"a@b.example", SenderOptions::default(), b"");
        e.push(b"c@d.example", Notify::DEFAULT, b"");
        e.push(b"e@f.example", Notify::DEFAULT, b"");
        let head = MessageHead { size: 4, origin: MessageId(origin), effect, ..MessageHead::default() };
        let mut out = head.encode(4 * reported.len(), states.len(), e.bytes().len()).to_vec();
        reported.iter().for_each(|r| out.extend(r.to_le_bytes()));
        out.extend(states);
        out.extend(e.bytes());
        out.extend(b"body");
        out
    }

    fn states(flags: u8, list: &[(u32, Fate)]) -> Vec<u8> {
        let mut out = Vec::new();
        record::put_states_head(&mut out, flags, list.len() as u32);
        for &(index, fate) in list {
            let s = State { index, fate, attempts: 2, due: Wall(50), reply: Reply::default() };
            record::put_state(&mut out, &s);
        }
        out
    }

    fn run(records: &[(u8, u64, Vec<u8>)]) -> Rebuild {
        let mut r = Rebuild::default();
        for (i, (kind, id, payload)) in records.iter().enumerate() {
            let head = RecordHead { kind: *kind, version: 1, flags: 0, id: *id };
            let location = Location { segment: 1, offset: i as u32, len: 1 };
            r.visit(&Recovered { head, location, payload }, &|_| Plan::NoRoute);
        }
        r
    }

    #[test]
    fn outcomes_attempts_and_clean_stops() {
        let m = message(0, Effect::None, &[], b"");
        let r = run(&[
            (record::MESSAGE, 1, m.clone()),
            (record::MESSAGE, 2, m.clone()),
            (record::OUTCOME, 1, states(0, &[(0, Fate::Delivered), (1, Fate::Deferred)])),
            (record::MESSAGE, 3, m.clone()),
            (record::WITHDRAW, 3, vec![]),
            (record::HOLD, 2, b"why".to_vec()),
            (record::REROUTE, 2, b"\x02mxwhy".to_vec()),
        ]);
        let (one, two) = (&r.messages[&MessageId(1)], &r.messages[&MessageId(2)]);
        assert!(!one.is_done() && !one.recipients[1].in_doubt && two.recipients[0].in_doubt);
        assert_eq!((one.recipients[1].said.offset, one.recipients[1].due), (2, Wall(50)));
        assert_eq!((two.marks, &*two.via, r.messages.len()), (record::HELD, "mx", 2));
        let mut a = Vec::new();
        record::put_attempt(&mut a, &[1]);
        let mut log = vec![(record::MESSAGE, 1, m)];
        log.push((record::OUTCOME, 1, states(0, &[(1, Fate::Deferred)])));
        log.push((record::STOPPED, 0, vec![]));
        assert!(run(&log).messages[&MessageId(1)].recipients.iter().all(|r| !r.in_doubt));
        log.push((record::ATTEMPT, 1, a));
        let doubt = |log: &[(u8, u64, Vec<u8>)]| -> Vec<_> {
            run(log).messages[&MessageId(1)].recipients.iter().map(|r| r.in_doubt).collect()
        };
        assert_eq!(doubt(&log), [false, true]);
        // A stop that excepts it, one that does not, and one that says something else.
        for (kept, expected) in [(vec![1u64], [false, true]), (vec![7], [false, false])] {
            log.push((record::STOPPED, 0, kept.iter().flat_map(|id| id.to_le_bytes()).collect()));
            assert_eq!(
                (doubt(&log), run(&log).kept),
                (expected.to_vec(), kept.into_iter().map(MessageId).collect())
            );
            log.pop();
        }
        log.push((record::STOPPED, 0, vec![1; 7]));
        assert_eq!((doubt(&log), run(&log).malformed), (vec![false, true], vec![(record::STOPPED, 0)]));
    }

    #[test]
    fn a_notification_alone_settles_what_it_reports() {
        let m = message(0, Effect::None, &[], b"");
        let bounce = message(1, Effect::Failed, &[1], b"");
        let r = run(&[(record::MESSAGE, 1, m), (record::MESSAGE, 2, bounce)]);
        let fates: Vec<_> = r.messages[&MessageId(1)].recipients.iter().map(|r| r.fate).collect();
        assert_eq!(fates, [Fate::Fresh, Fate::Failed]);
        assert!(!r.messages[&MessageId(2)].is_done());
    }

    #[test]
    fn what_is_owed_is_there_until_a_notification_says_it() {
        let mut e = Envelope::default();
        e.begin(b"a@b.example", SenderOptions::default(), b"");
        e.push(b"all@d.example", Notify::EXPANDED, b"");
        e.push(b"e@f.example", Notify::SUCCESS, b"");
        let head = MessageHead { size: 4, ..MessageHead::default() };
        let m = [&head.encode(0, 0, e.bytes().len())[..], e.bytes(), b"body"].concat();
        let owed = states(0, &[(1, Fate::Passed)]);
        let log = [(record::MESSAGE, 1, m), (record::OUTCOME, 1, owed)];
        let found = run(&log).messages.remove(&MessageId(1)).expect("the sender is to be told");
        let fates: Vec<_> = found.recipients.iter().map(|r| (r.fate, r.in_doubt, r.said.len)).collect();
        assert_eq!(fates, [(Fate::Passed, false, 0), (Fate::Passed, false, 1)]);
        assert_eq!(found.recipients[1].due, Wall(50));
        let mut log = log.to_vec();
        log.push((record::MESSAGE, 2, message(1, Effect::Delivered, &[1], b"")));
        assert!(run(&log).messages.contains_key(&MessageId(1)));
        log.push((record::MESSAGE, 3, message(1, Effect::Delivered, &[0], b"")));
        assert_eq!(run(&log).messages.keys().map(|k| k.0).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_moved_message_replaces_what_was_said() {
        let moved = states(record::SNAPSHOT | record::HELD, &[(0, Fate::Delivered), (1, Fate::Attempting)]);
        let r = run(&[
            (record::MESSAGE, 1, message(0, Effect::None, &[], b"")),
            (record::OUTCOME, 1, states(0, &[(1, Fate::Delivered)])),
            (record::MESSAGE, 1, message(0, Effect::None, &[], &moved)),
        ]);
        let f = &r.messages[&MessageId(1)];
        assert_eq!((f.at.offset, f.marks), (2, record::HELD));
        assert_eq!((f.recipients[0].fate, f.recipients[1].in_doubt), (Fate::Delivered, true));
    }

    #[test]
    fn what_is_said_of_indexed_messages_is_kept_in_order() {
        let mut r = Rebuild::default();
        let mut at = 0;
        let mut say = |kind, id, flags, payload: &[u8]| {
            at += 1;
            let head = RecordHead { kind, version: 1, flags, id };
            let location = Location { segment: 1, offset: at, len: 1 };
            r.visit(&Recovered { head, location, payload }, &|_| Plan::NoRoute);
        };
        let mut attempt = Vec::new();
        record::put_attempt(&mut attempt, &[0]);
        say(record::OUTCOME, 7, 0, &states(0, &[(0, Fate::Delivered)]));
        say(record::ATTEMPT, 8, record::ARCHIVED, &attempt);
        say(record::STOPPED, 0, 0, b"");
        say(record::OUTCOME, 8, record::ARCHIVED, &states(0, &[(0, Fate::Deferred)]));
        say(record::MESSAGE, 9, 0, &message(8, Effect::Failed, &[0], b""));
        say(record::MESSAGE, 10, 0, &message(0, Effect::None, &[], b""));
        say(record::REMOVED, 10, record::ARCHIVED, b"by hand");
        say(record::OUTCOME, 11, record::ARCHIVED, b"damaged");
        assert_eq!(r.archived.keys().map(|k| k.0).collect::<Vec<_>>(), [8, 10]);
        assert_eq!((r.malformed, r.stopped.is_some()), (vec![(record::OUTCOME, 11)], true));
        assert_eq!(r.messages.keys().map(|k| k.0).collect::<Vec<_>>(), [9]);
        let places: Vec<_> = r.archived[&MessageId(8)].iter().map(|s| s.at.map(|l| l.offset)).collect();
        assert_eq!(places, [Some(2), Some(4), None], "the notification has a life of its own");
        let mut found =
            Found { recipients: vec![Recipient { in_doubt: false, ..recipient() }], ..Found::default() };
        let mut fates = Vec::new();
        for said in &r.archived[&MessageId(8)] {
            let done = found.apply(said.kind, &said.payload, NOWHERE).unwrap();
            fates.push((found.recipients[0].fate, found.recipients[0].in_doubt, done));
        }
        let fresh = (Fate::Fresh, false, false);
        assert_eq!(fates, [fresh, (Fate::Deferred, false, false), (Fate::Failed, false, true)]);
    }

    fn recipient() -> Recipient {
        Recipient {
            way: Way::None,
            fate: Fate::Fresh,
            attempts: 0,
            due: Wall(0),
            said: NOWHERE,
            in_doubt: true,
        }
    }

    proptest! {
        #[test]
        fn total(records in proptest::collection::vec(
            (0u8..10, 0u64..4, proptest::collection::vec(any::<u8>(), 0..60)), 0..20))
        {
            run(&records);
        }
    }
}
