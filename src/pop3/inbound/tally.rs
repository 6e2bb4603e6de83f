//! Which commands a session has obeyed, for whoever counts them.
//!
//! Numbers only: how long they took is the shell's to know. Cannot fail.

use crate::pop3::command::Command;

/// Kinds of commands.
pub const KINDS: usize = 6;

/// Commands by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally([u8; KINDS]);

impl Tally {
    /// One more.
    pub(super) fn count(&mut self, command: &Command<'_>) {
        let n = &mut self.0[kind(command)];
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

/// The kind of a command: login, list, retr, dele, quit, other. USER says nothing yet and is one of the
/// others.
fn kind(command: &Command<'_>) -> usize {
    match command {
        Command::Pass(_) | Command::Apop { .. } | Command::Auth { .. } => 0,
        Command::Stat | Command::List(_) | Command::Uidl(_) => 1,
        Command::Retr(_) | Command::Top { .. } => 2,
        Command::Dele(_) => 3,
        Command::Quit => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_counted_by_kind() {
        let mut tally = Tally::default();
        assert!(tally.is_empty());
        for command in [Command::Stat, Command::Retr(1), Command::User(b"a"), Command::List(None)] {
            tally.count(&command);
        }
        assert_eq!(tally.iter().collect::<Vec<_>>(), [(1, 2), (2, 1), (5, 1)]);
        (0..300).for_each(|_| tally.count(&Command::Quit));
        assert_eq!(tally.iter().find(|k| k.0 == 4), Some((4, 255)));
    }
}
