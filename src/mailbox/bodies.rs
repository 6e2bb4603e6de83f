//! L2: bodies that are in the journal, and which messages have them.
//!
//! A body of the archive is not known here: it has a row in the index. Knows no disk. Naming a body that
//! is not here is no error: then it is in the archive.

use crate::mailbox::ledger::Said;
use crate::mailbox::types::{BodyId, MailboxId};
use smallvec::SmallVec;
use std::collections::BTreeMap;

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
}

/// See the module.
#[derive(Debug, Default)]
pub struct Bodies(BTreeMap<BodyId, Body>);

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
    /// A body has been committed.
    pub fn insert(&mut self, id: BodyId, said: Said, side: u64) {
        self.0.insert(id, Body { said, side, refs: SmallVec::new(), leaving: false });
    }

    /// A body.
    #[must_use]
    pub fn get(&self, id: BodyId) -> Option<&Body> {
        self.0.get(&id)
    }

    /// A body.
    pub fn get_mut(&mut self, id: BodyId) -> Option<&mut Body> {
        self.0.get_mut(&id)
    }

    /// A message has the body.
    pub fn refer(&mut self, id: BodyId, mailbox: MailboxId, uid: u32) {
        if let Some(body) = self.0.get_mut(&id)
            && !body.refs.contains(&(mailbox, uid))
        {
            body.refs.push((mailbox, uid));
        }
    }

    /// A message has it no more.
    pub fn forget(&mut self, id: BodyId, mailbox: MailboxId, uid: u32) -> Fate {
        let Some(body) = self.0.get_mut(&id) else { return Fate::Elsewhere };
        body.refs.retain(|r| *r != (mailbox, uid));
        if !body.refs.is_empty() {
            return Fate::Needed { leaving: body.leaving };
        }
        Fate::Dead(self.0.remove(&id).expect("just seen"))
    }

    /// The body is in the archive now, or was for nobody.
    pub fn remove(&mut self, id: BodyId) -> Option<Body> {
        self.0.remove(&id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (BodyId, &Body)> {
        self.0.iter().map(|(id, b)| (*id, b))
    }

    /// Number of bodies.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
        bodies.insert(id, hold(at, &freed), 0);
        [(inbox, 1), (other, 1), (inbox, 1)].into_iter().for_each(|(m, uid)| bodies.refer(id, m, uid));
        assert!(matches!(bodies.forget(id, inbox, 1), Fate::Needed { leaving: false }));
        assert!(matches!(bodies.forget(id, inbox, 1), Fate::Needed { leaving: false }), "said twice");
        let Fate::Dead(dead) = bodies.forget(id, other, 1) else { panic!("the last one") };
        assert!(freed.borrow().is_empty() && bodies.is_empty());
        drop(dead);
        assert_eq!(freed.take(), [at]);
        assert!(matches!(bodies.forget(id, other, 1), Fate::Elsewhere));
    }
}
