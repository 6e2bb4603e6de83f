//! L2: what a log says of the queue: records in, messages that are still to be delivered out.
//!
//! A pure function over the records in their order. Knows no journal and no clock; routing comes as
//! an argument. A record that cannot be read is counted and passed over: the rest is not lost
//! because of it.

use crate::base::ids::MessageId;
use crate::base::time::Wall;
use crate::message::body::BodyFlags;
use crate::queue::index::NOWHERE;
use crate::queue::record::{self, Effect, Fate, Malformed, MessageView, StatesView};
use crate::queue::routing::{Hop, Plan};
use crate::storage::record::{Location, Recovered};
use std::collections::BTreeMap;
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
    /// In the order of the envelope.
    pub recipients: Vec<Recipient>,
}

impl Found {
    /// True if nothing more is to be done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.recipients.iter().all(|r| r.fate.is_done())
    }
}

/// A queue being read back.
#[derive(Debug, Default)]
pub struct Rebuild {
    /// What is there, by id; done ones may be among them.
    pub messages: BTreeMap<MessageId, Found>,
    /// Hops of the recipients.
    pub hops: Vec<Rc<Hop>>,
    /// Kind and id of records that could not be read.
    pub malformed: Vec<(u8, u64)>,
    /// The greatest id seen.
    pub last: MessageId,
    names: BTreeMap<String, usize>,
}

impl Rebuild {
    /// Takes the next record.
    pub fn visit(&mut self, r: &Recovered<'_>, plan: &dyn Fn(&[u8]) -> Plan) {
        let id = MessageId(r.head.id);
        self.last = self.last.max(id);
        let read = match r.head.kind {
            _ if r.head.version != record::VERSION => Err(Malformed),
            record::MESSAGE => self.message(id, r, plan),
            record::OUTCOME => StatesView::parse(r.payload).map(|v| self.outcome(id, r.location, &v)),
            record::ATTEMPT => self.attempt(id, r.payload),
            record::WITHDRAW | record::REMOVED => {
                self.messages.remove(&id);
                Ok(())
            }
            record::HOLD => Ok(self.mark(id, record::HELD, true)),
            record::RELEASE => Ok(self.mark(id, record::HELD, false)),
            record::STOPPED => Ok(self.stopped()),
            _ => Err(Malformed),
        };
        if read.is_err() {
            self.malformed.push((r.head.kind, r.head.id));
        }
    }

    fn message(
        &mut self,
        id: MessageId,
        r: &Recovered<'_>,
        plan: &dyn Fn(&[u8]) -> Plan,
    ) -> Result<(), Malformed> {
        let view = MessageView::parse(r.payload)?;
        let mut recipients = Vec::with_capacity(view.envelope.count() as usize);
        for to in view.envelope.recipients() {
            let way = self.way(plan(to.address));
            let fresh = Recipient {
                way,
                fate: Fate::Fresh,
                attempts: 0,
                due: Wall(0),
                said: NOWHERE,
                in_doubt: true,
            };
            recipients.push(fresh);
        }
        let found = Found {
            at: r.location,
            size: view.head.size,
            side: view.head.side,
            body: view.head.body,
            marks: view.head.flags,
            null_sender: view.envelope.sender().is_empty(),
            recipients,
        };
        self.messages.insert(id, found);
        if let Some(states) = view.states {
            self.outcome(id, r.location, &states);
        }
        if view.head.origin != MessageId(0) && view.states.is_none() {
            self.reported(&view);
        }
        Ok(())
    }

    /// A notification implies what it reports.
    fn reported(&mut self, view: &MessageView<'_>) {
        let Some(origin) = self.messages.get_mut(&view.head.origin) else { return };
        match view.head.effect {
            Effect::None | Effect::Delivered => {}
            Effect::Warned => origin.marks |= record::WARNED,
            Effect::Failed => {
                for i in view.reported() {
                    if let Some(r) = origin.recipients.get_mut(i as usize) {
                        r.fate = Fate::Failed;
                    }
                }
            }
        }
    }

    fn outcome(&mut self, id: MessageId, at: Location, view: &StatesView<'_>) {
        let Some(found) = self.messages.get_mut(&id) else { return };
        if view.snapshot {
            found.marks = view.flags | found.marks & record::DOUBLE_BOUNCE;
        } else {
            found.marks |= view.flags & record::WARNED;
        }
        for s in view.states() {
            let Some(r) = found.recipients.get_mut(s.index as usize) else { continue };
            r.fate = s.fate;
            r.attempts = s.attempts;
            r.due = s.due;
            r.said = at;
            r.in_doubt = matches!(s.fate, Fate::Fresh | Fate::Attempting);
        }
    }

    fn attempt(&mut self, id: MessageId, payload: &[u8]) -> Result<(), Malformed> {
        let indexes = record::attempt(payload)?;
        let Some(found) = self.messages.get_mut(&id) else { return Ok(()) };
        for i in indexes {
            if let Some(r) = found.recipients.get_mut(i as usize).filter(|r| !r.fate.is_done()) {
                r.fate = Fate::Attempting;
                r.in_doubt = true;
            }
        }
        Ok(())
    }

    fn mark(&mut self, id: MessageId, mark: u8, set: bool) {
        if let Some(found) = self.messages.get_mut(&id) {
            found.marks = if set { found.marks | mark } else { found.marks & !mark };
        }
    }

    /// After a clean stop nothing that came before is in flight.
    fn stopped(&mut self) {
        for r in self.messages.values_mut().flat_map(|f| &mut f.recipients) {
            r.in_doubt = false;
        }
    }

    fn way(&mut self, plan: Plan) -> Way {
        match plan {
            Plan::Local => Way::Local,
            Plan::NoRoute => Way::None,
            Plan::Relay(hop) => {
                let next = self.hops.len();
                let n = *self.names.entry(hop.key.clone()).or_insert(next);
                if n == next {
                    self.hops.push(hop);
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
    use crate::queue::record::{MessageHead, Reply, State};
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
        ]);
        let (one, two) = (&r.messages[&MessageId(1)], &r.messages[&MessageId(2)]);
        assert!(!one.is_done() && !one.recipients[1].in_doubt && two.recipients[0].in_doubt);
        assert_eq!((one.recipients[1].said.offset, one.recipients[1].due), (2, Wall(50)));
        assert_eq!((two.marks, r.messages.len()), (record::HELD, 2));
        let mut a = Vec::new();
        record::put_attempt(&mut a, &[1]);
        let mut log = vec![(record::MESSAGE, 1, m)];
        log.push((record::OUTCOME, 1, states(0, &[(1, Fate::Deferred)])));
        log.push((record::STOPPED, 0, vec![]));
        assert!(run(&log).messages[&MessageId(1)].recipients.iter().all(|r| !r.in_doubt));
        log.push((record::ATTEMPT, 1, a));
        let doubt: Vec<_> = run(&log).messages[&MessageId(1)].recipients.iter().map(|r| r.in_doubt).collect();
        assert_eq!(doubt, [false, true]);
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

    proptest! {
        #[test]
        fn total(records in proptest::collection::vec(
            (0u8..10, 0u64..4, proptest::collection::vec(any::<u8>(), 0..60)), 0..20))
        {
            run(&records);
        }
    }
}
