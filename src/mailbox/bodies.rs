//! L2: bodies that are in the journal, and which messages have them.
//!
//! A body of the archive is not known here: it has a row in the index. Knows no disk. Naming a body that
//! is not here is no error: then it is in the archive. What mail programs ask of the latest bodies is kept
//! here too, within a bound ([`Facts`]): of the others their records must be read.

use crate::mailbox::ledger::Said;
use crate::mailbox::record::BodyView;
use crate::mailbox::types::{BodyId, Guid, MailboxId};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// What [`Facts`] take besides their bytes.
const FACTS_COST: usize = 128;

/// What is stored with a body.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// GUID.
    pub guid: Guid,
    /// The UIDL it was imported with, or empty.
    pub uidl: Box<[u8]>,
    /// What was made of it at delivery.
    pub summary: Box<[u8]>,
}

impl Facts {
    /// What the record of a body says.
    #[must_use]
    pub fn of(view: &BodyView<'_>) -> Self {
        Facts { guid: view.head.guid, uidl: view.uidl.into(), summary: view.summary.into() }
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn cost(&self) -> usize {
        FACTS_COST + self.uidl.len() + self.summary.len()
    }
}

/// A body in the journal.
#[derive(Debug)]
pub struct Body {
    /// Its record.
    pub said: Said,
    /// Number of its side file; 0: none.
    pub side: u64,
    /// The messages that have it.
    pub refs: SmallVec<[(MailboxId, u32); 1]>,
    /// It is on its way into the archive.
    pub leaving: bool,
    /// If they are kept.
    pub facts: Option<Rc<Facts>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Bodies {
    all: BTreeMap<BodyId, Body>,
    /// Those whose facts are kept, since long first; some may have gone meanwhile.
    known: VecDeque<BodyId>,
    /// Bytes of these facts.
    bytes: usize,
    /// At most so many.
    bytes_max: usize,
}

/// What has become of a body by an expunge.
#[derive(Debug)]
pub enum Fate {
    /// It is not in the journal.
    Elsewhere,
    /// Other messages have it.
    Needed {
        /// It is on its way into the archive.
        leaving: bool,
    },
    /// No message has it any more; it is not known here any more.
    Dead(Body),
}

impl Bodies {
    /// Keeps so many bytes of facts.
    pub fn keep_facts(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// A body has been committed.
    pub fn insert(&mut self, id: BodyId, said: Said, side: u64, facts: Option<Rc<Facts>>) {
        self.remove(id);
        self.all.insert(id, Body { said, side, refs: SmallVec::new(), leaving: false, facts: None });
        if let Some(facts) = facts {
            self.learn(id, facts);
        }
    }

    /// The facts of a body that is here: they are kept, and others are not, if there is no room for all.
    pub fn learn(&mut self, id: BodyId, facts: Rc<Facts>) {
        let Some(body) = self.all.get_mut(&id).filter(|b| b.facts.is_none()) else { return };
        self.bytes += facts.cost();
        body.facts = Some(facts);
        self.known.push_back(id);
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.known.pop_front()
        {
            let facts = self.all.get_mut(&oldest).and_then(|b| b.facts.take());
            self.bytes -= facts.map_or(0, |f| f.cost());
        }
        if self.known.len() > 64 + 2 * self.all.len() {
            self.known.retain(|id| self.all.get(id).is_some_and(|b| b.facts.is_some()));
        }
    }

    /// A body.
    #[must_use]
    pub fn get(&self, id: BodyId) -> Option<&Body> {
        self.all.get(&id)
    }

    /// A body.
    pub fn get_mut(&mut self, id: BodyId) -> Option<&mut Body> {
        self.all.get_mut(&id)
    }

    /// A message has the body.
    pub fn refer(&mut self, id: BodyId, mailbox: MailboxId, uid: u32) {
        if let Some(body) = self.all.get_mut(&id)
            && !body.refs.contains(&(mailbox, uid))
        {
            body.refs.push((mailbox, uid));
        }
    }

    /// A message has it no more.
    pub fn forget(&mut self, id: BodyId, mailbox: MailboxId, uid: u32) -> Fate {
        let Some(body) = self.all.get_mut(&id) else { return Fate::Elsewhere };
        body.refs.retain(|r| *r != (mailbox, uid));
        if !body.refs.is_empty() {
            return Fate::Needed { leaving: body.leaving };
        }
        Fate::Dead(self.remove(id).expect("just seen"))
    }

    /// The body is in the archive now, or was for nobody.
    pub fn remove(&mut self, id: BodyId) -> Option<Body> {
        let body = self.all.remove(&id)?;
        self.bytes -= body.facts.as_ref().map_or(0, |f| f.cost());
        Some(body)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (BodyId, &Body)> {
        self.all.iter().map(|(id, b)| (*id, b))
    }

    /// Number of bodies.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::ledger::{Freed, hold};
    use crate::storage::record::Location;

    #[test]
    fn a_body_dies_with_its_last_message() {
        let (freed, mut bodies) = (Freed::default(), Bodies::default());
        let at = Location { segment: 1, offset: 2, len: 3 };
        let (id, inbox, other) = (BodyId(5), MailboxId(1), MailboxId(2));
        bodies.insert(id, hold(at, &freed), 0, None);
        [(inbox, 1), (other, 1), (inbox, 1)].into_iter().for_each(|(m, uid)| bodies.refer(id, m, uid));
        assert!(matches!(bodies.forget(id, inbox, 1), Fate::Needed { leaving: false }));
        assert!(matches!(bodies.forget(id, inbox, 1), Fate::Needed { leaving: false }), "said twice");
        let Fate::Dead(dead) = bodies.forget(id, other, 1) else { panic!("the last one") };
        assert!(freed.borrow().is_empty() && bodies.is_empty());
        drop(dead);
        assert_eq!(freed.take(), [at]);
        assert!(matches!(bodies.forget(id, other, 1), Fate::Elsewhere));
    }

    #[test]
    fn facts_are_kept_within_their_bound() {
        let (freed, mut bodies) = (Freed::default(), Bodies::default());
        let at = Location { segment: 1, offset: 2, len: 3 };
        let facts = |n: u64| Rc::new(Facts { summary: vec![n as u8; 100].into(), ..Facts::default() });
        let kept = |bodies: &Bodies| {
            let known: Vec<u64> =
                bodies.iter().filter(|(_, b)| b.facts.is_some()).map(|(id, _)| id.0).collect();
            let cost: usize = bodies.iter().filter_map(|(_, b)| b.facts.as_ref()).map(|f| f.cost()).sum();
            assert_eq!(cost, bodies.bytes);
            known
        };
        bodies.keep_facts(3 * facts(0).cost());
        for n in 1..=4 {
            bodies.insert(BodyId(n), hold(at, &freed), 0, Some(facts(n)));
        }
        assert_eq!(kept(&bodies), [2, 3, 4]);
        // Who has been read again is known again.
        bodies.learn(BodyId(1), facts(1));
        bodies.learn(BodyId(1), facts(1));
        bodies.learn(BodyId(9), facts(9));
        assert_eq!(kept(&bodies), [1, 3, 4]);
        bodies.remove(BodyId(3));
        bodies.insert(BodyId(5), hold(at, &freed), 0, Some(facts(5)));
        assert_eq!(kept(&bodies), [1, 4, 5]);
        // Those that come and go leave nothing behind.
        for n in 10..1000 {
            bodies.insert(BodyId(n), hold(at, &freed), 0, Some(facts(n)));
            bodies.remove(BodyId(n));
        }
        assert!(bodies.known.len() < 100 && bodies.len() == 4, "{}", bodies.known.len());
    }
}
