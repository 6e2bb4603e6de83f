//! L2: whose mail waits: for limits on the mail of one login.
//!
//! Only where a rule asks; then a number for each message that came with a login. Mail that was in the
//! archive when the process began is not known here. Cannot fail.

use crate::base::ids::MessageId;
use crate::policy::place;
use crate::policy::waiting::Waiting;
use hashbrown::HashMap;

/// The messages of one queue that are counted. What it has counted it takes back when it is dropped.
#[derive(Default)]
pub struct Whose {
    waiting: Option<Waiting>,
    keys: HashMap<MessageId, u64>,
}

impl Whose {
    /// Counts there; `None`: nobody asks.
    #[must_use]
    pub fn new(waiting: Option<Waiting>) -> Self {
        Whose { waiting, keys: HashMap::new() }
    }

    /// The number of a login; 0: none.
    #[must_use]
    pub fn key(user: &[u8]) -> u64 {
        if user.is_empty() { 0 } else { place::name(user) }
    }

    /// A message of the login with this number waits.
    pub fn enter(&mut self, id: MessageId, key: u64) {
        if let Some(waiting) = self.waiting.as_ref().filter(|_| key != 0)
            && self.keys.insert(id, key).is_none()
        {
            waiting.add(key);
        }
    }

    /// A message is gone.
    pub fn leave(&mut self, id: MessageId) {
        if let Some(waiting) = &self.waiting
            && let Some(key) = self.keys.remove(&id)
        {
            waiting.take_back(key);
        }
    }
}

impl Drop for Whose {
    fn drop(&mut self) {
        if let Some(waiting) = &self.waiting {
            self.keys.values().for_each(|key| waiting.take_back(*key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_taken_back() {
        let waiting = Waiting::new(64, 7);
        let mut whose = Whose::new(Some(waiting.clone()));
        let ann = Whose::key(b"ann");
        assert_eq!((Whose::key(b"ANN"), Whose::key(b"")), (ann, 0));
        [1, 2, 2, 3].iter().for_each(|id| whose.enter(MessageId(*id), ann));
        whose.enter(MessageId(9), 0);
        assert_eq!(waiting.level(ann), 3);
        whose.leave(MessageId(2));
        whose.leave(MessageId(2));
        whose.leave(MessageId(9));
        assert_eq!(waiting.level(ann), 2);
        drop(whose);
        assert_eq!(waiting.level(ann), 0);
        let mut nobody = Whose::default();
        nobody.enter(MessageId(1), ann);
        nobody.leave(MessageId(1));
        assert!(nobody.keys.is_empty());
    }
}
