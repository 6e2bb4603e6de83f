//! Which commands a session has obeyed, for whoever counts them.
//!
//! Numbers only: how long they took is the shell's to know. Cannot fail.

use crate::imap::parse::Verb;

/// Kinds of commands.
pub const KINDS: usize = 13;

/// Commands by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally([u8; KINDS]);

impl Tally {
    /// One more.
    pub(super) fn count(&mut self, verb: &Verb<'_>) {
        let n = &mut self.0[kind(verb)];
        *n = n.saturating_add(1);
    }

    /// None.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Tally::default()
    }

    /// Kinds with their numbers, without those that there are none of.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u8)> + use<> {
        self.0.into_iter().enumerate().filter(|(_, n)| *n > 0)
    }
}

/// The kind of a command: login, select, list, status, fetch, store, search, append, copy, expunge, idle,
/// noop, other.
fn kind(verb: &Verb<'_>) -> usize {
    match verb {
        Verb::Authenticate(_) | Verb::Login(_) => 0,
        Verb::Select(_) | Verb::Examine(_) => 1,
        Verb::List(_) | Verb::Lsub(_) => 2,
        Verb::Status(_) => 3,
        Verb::Fetch(_) => 4,
        Verb::Store(_) => 5,
        Verb::Search(_) | Verb::Sort(_) | Verb::Thread(_) => 6,
        Verb::Append(_) | Verb::Replace(_) => 7,
        Verb::Copy(_) | Verb::Move(_) => 8,
        Verb::Expunge(_) | Verb::Close => 9,
        Verb::Idle => 10,
        Verb::Noop | Verb::Check => 11,
        _ => 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_counted_by_kind() {
        let mut tally = Tally::default();
        assert!(tally.is_empty());
        for verb in [Verb::Noop, Verb::Check, Verb::Idle, Verb::Capability, Verb::Close] {
            tally.count(&verb);
        }
        assert_eq!(tally.iter().collect::<Vec<_>>(), [(9, 1), (10, 1), (11, 2), (12, 1)]);
        for _ in 0..300 {
            tally.count(&Verb::Noop);
        }
        assert_eq!(tally.iter().find(|k| k.0 == 11), Some((11, 255)));
    }
}
