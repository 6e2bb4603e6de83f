//! Passwords that were right a moment ago, so that a mail program that looks every minute does not cost
//! a hash each time.
//!
//! One for each core. What is kept is a keyed digest of login, stored password and password: nobody can
//! make passwords of it without the key, which dies with the process, and when the entry of the user
//! changes, it fits no more. Wrong passwords are never kept. Bounded in number and time.

use super::sasl::Hash;
use crate::base::secret::Secret;
use crate::base::time::Mono;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

/// What is kept of a success.
type Mark = [u8; 32];

/// Recent successes.
pub struct Cache {
    key: Secret,
    until: HashMap<Mark, Mono>,
    /// In the order in which they were kept.
    order: VecDeque<(Mark, Mono)>,
    most: usize,
    time: Duration,
}

impl Cache {
    /// Keeps at most `most` successes for `time`; `key` is random.
    #[must_use]
    pub fn new(key: [u8; 32], most: usize, time: Duration) -> Self {
        Cache { key: key[..].into(), until: HashMap::new(), order: VecDeque::new(), most, time }
    }

    /// The mark of this password with this entry (`stored`, the text of the store).
    #[must_use]
    pub fn mark(&self, login: &str, stored: &[u8], password: &Secret) -> Mark {
        let mut text = Vec::with_capacity(login.len() + stored.len() + password.expose().len() + 16);
        for part in [login.as_bytes(), stored, password.expose()] {
            text.extend_from_slice(&(part.len() as u64).to_le_bytes());
            text.extend_from_slice(part);
        }
        let text = Secret::new(text);
        let mac = Hash::Sha256.mac(self.key.expose(), text.expose());
        mac.try_into().expect("32 bytes")
    }

    /// Was it right, not long ago?
    #[must_use]
    pub fn has(&self, mark: &Mark, now: Mono) -> bool {
        self.until.get(mark).is_some_and(|&until| now < until)
    }

    /// It is right. Time runs from the first success on.
    pub fn keep(&mut self, mark: Mark, now: Mono) {
        if self.most == 0 || self.time.is_zero() || self.has(&mark, now) {
            return;
        }
        let until = now.after(self.time);
        self.until.insert(mark, until);
        self.order.push_back((mark, until));
        while let Some(&(first, end)) = self.order.front() {
            if self.order.len() <= self.most && now < end {
                break;
            }
            self.order.pop_front();
            // One that was kept again since stays.
            if self.until.get(&first) == Some(&end) {
                self.until.remove(&first);
            }
        }
    }

    /// Successes kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.until.len()
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(0).after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_success_is_known_for_its_time_and_its_entry() {
        let mut cache = Cache::new([1; 32], 10, Duration::from_secs(60));
        let mark = cache.mark("a", b"{X}1", &"p".into());
        assert!(!cache.has(&mark, at(0)));
        cache.keep(mark, at(0));
        assert!(cache.has(&mark, at(59)) && !cache.has(&mark, at(60)));
        for (login, stored, password) in [("b", "{X}1", "p"), ("a", "{X}2", "p"), ("a", "{X}1", "q")] {
            assert!(!cache.has(&cache.mark(login, stored.as_bytes(), &password.into()), at(1)));
        }
        // The parts are told apart.
        assert_ne!(cache.mark("ab", b"c", &"d".into()), cache.mark("a", b"bc", &"d".into()));
        assert_ne!(mark, Cache::new([2; 32], 10, Duration::ZERO).mark("a", b"{X}1", &"p".into()));
    }

    #[test]
    fn bounded_in_number() {
        let mut cache = Cache::new([1; 32], 3, Duration::from_secs(60));
        let marks: Vec<Mark> = (0..5).map(|n| cache.mark(&n.to_string(), b"", &"p".into())).collect();
        for mark in &marks {
            cache.keep(*mark, at(0));
        }
        assert_eq!((cache.len(), cache.has(&marks[1], at(1)), cache.has(&marks[2], at(1))), (3, false, true));
        for _ in 0..100 {
            cache.keep(marks[4], at(1));
        }
        assert!(cache.order.len() == 3 && cache.has(&marks[4], at(59)) && !cache.has(&marks[4], at(60)));
        cache.keep(marks[4], at(60));
        assert!(cache.has(&marks[4], at(119)));
        cache.keep(marks[0], at(200));
        assert_eq!(cache.len(), 1);
        let mut off = Cache::new([1; 32], 0, Duration::from_secs(60));
        off.keep(marks[0], at(0));
        assert!(off.is_empty());
    }
}
