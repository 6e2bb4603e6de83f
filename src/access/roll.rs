//! Who is here: what others see of a session, and how one is found and ended from outside.
//!
//! Plain data and a badge that each session wears; used by all protocols. Knows no protocol. Cannot fail.

use crate::base::time::{Mono, Wall};
use crate::events::trace::{Line, Tracer, Way};
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};

/// Sessions at most in one page.
pub const PAGE_MAX: usize = 500;
/// Places looked at in one turn.
pub const LOOKED_MAX: usize = 5000;

/// What others see of a session.
pub struct Badge {
    since: Mono,
    service: Cell<&'static str>,
    peer: Cell<SocketAddr>,
    user: RefCell<Box<str>>,
    expelled: Cell<bool>,
}

impl Badge {
    /// Of a session that has begun at `since`.
    #[must_use]
    pub fn new(since: Mono, service: &'static str, peer: SocketAddr) -> Self {
        let (service, peer) = (Cell::new(service), Cell::new(peer));
        Badge { since, service, peer, user: RefCell::default(), expelled: Cell::new(false) }
    }

    /// The client is this one: a proxy has said so.
    pub fn set_peer(&self, peer: SocketAddr) {
        self.peer.set(peer);
    }

    /// The client is this user; empty: nobody any more.
    pub fn set_user(&self, login: &str) {
        if **self.user.borrow() != *login {
            self.user.replace(login.into());
        }
    }

    /// It is to end.
    pub fn expel(&self) {
        self.expelled.set(true);
    }

    /// True if it is to end.
    #[must_use]
    pub fn is_expelled(&self) -> bool {
        self.expelled.get()
    }

    /// True if it is one of those.
    #[must_use]
    pub fn is(&self, whom: &Whom) -> bool {
        match whom {
            Whom::User(login) => !login.is_empty() && **self.user.borrow() == **login,
            Whom::Address(address) => self.peer.get().ip() == *address,
        }
    }

    /// What is told of it.
    #[must_use]
    pub fn present(&self, now: Mono, idle: bool) -> Present {
        Present {
            service: self.service.get(),
            peer: self.peer.get().to_string(),
            user: self.user.borrow().to_string(),
            seconds: now.since(self.since).as_secs(),
            state: if idle { "idle" } else { "busy" },
        }
    }
}

/// A session that is open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Present {
    /// The protocol.
    pub service: &'static str,
    /// Address and port of the client.
    pub peer: String,
    /// Its login; empty: nobody has logged in.
    pub user: String,
    /// Seconds since the connection; of a session that came from another core, since then.
    pub seconds: u64,
    /// `idle`: it waits for a command; or `busy`.
    pub state: &'static str,
}

/// Whose sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whom {
    /// Of this login, prepared.
    User(String),
    /// From this address; IPv4 is never in IPv6 form.
    Address(IpAddr),
}

/// A question about the sessions of a core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// Who they are, from this place on.
    Who(Place),
    /// Ends some, from this place on.
    Expel(Whom, Place),
    /// No new mail is taken any more; or it is again.
    Drain(bool),
    /// What has passed since the question before with this number.
    Trace(u64, Way, String),
}

/// A place among the sessions of a core: number of the protocol, number of the session.
pub type Place = (usize, usize);

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Some sessions, and the place where to go on.
    Who(Vec<Present>, Option<Place>),
    /// So many were ended, and the place where to go on.
    Expelled(u64, Option<Place>),
    /// Lines that have passed, and how many were not kept.
    Traced(Vec<Line>, u64),
    /// So it is.
    Done,
}

/// Sessions that can be seen from outside.
pub trait Roll {
    /// How many places there are, free ones included.
    fn places(&self) -> usize;
    /// What is told of the one in this place.
    fn present(&self, place: usize) -> Option<Present>;
    /// Ends the one in this place if it is one of those.
    fn expel(&self, place: usize, whom: &Whom) -> bool;
}

/// Answers a question about lines that have passed.
#[must_use]
pub fn traced(tracer: &Tracer, question: &Question, now: Wall) -> Option<Answer> {
    let Question::Trace(number, way, peer) = question else { return None };
    let (lines, dropped) = tracer.ask(*number, *way, peer, now);
    Some(Answer::Traced(lines, dropped))
}

/// Answers `question` for the sessions of several protocols.
#[must_use]
pub fn answer(rolls: &[&dyn Roll], question: &Question) -> Answer {
    let (Question::Who(from) | Question::Expel(_, from)) = question else { return Answer::Done };
    let Some(roll) = rolls.get(from.0) else {
        return match question {
            Question::Who(_) => Answer::Who(Vec::new(), None),
            _ => Answer::Expelled(0, None),
        };
    };
    let next = |at: usize| match at < roll.places() {
        true => Some((from.0, at)),
        false => Some((from.0 + 1, 0)).filter(|next| next.0 < rolls.len()),
    };
    let last = roll.places().min(from.1.saturating_add(LOOKED_MAX));
    match question {
        Question::Expel(whom, _) => {
            let count = (from.1..last).filter(|place| roll.expel(*place, whom)).count();
            Answer::Expelled(count as u64, next(last))
        }
        _ => {
            let (mut all, mut at) = (Vec::new(), from.1);
            while at < last && all.len() < PAGE_MAX {
                all.extend(roll.present(at));
                at += 1;
            }
            Answer::Who(all, next(at))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Few(Vec<Option<Badge>>);

    impl Roll for Few {
        fn places(&self) -> usize {
            self.0.len()
        }

        fn present(&self, place: usize) -> Option<Present> {
            self.0[place].as_ref().map(|b| b.present(Mono(5_000_000_000), true))
        }

        fn expel(&self, place: usize, whom: &Whom) -> bool {
            let badge = self.0[place].as_ref().filter(|b| b.is(whom));
            badge.inspect(|b| b.expel()).is_some()
        }
    }

    fn badge(n: u16) -> Badge {
        let badge = Badge::new(Mono(0), "smtp", ([192, 0, 2, 1], n).into());
        badge.set_user(if n.is_multiple_of(2) { "ann" } else { "" });
        badge
    }

    #[test]
    fn pages_show_everybody_once() {
        let few = Few(vec![None, Some(badge(1))]);
        let many = Few((0..1200).map(|n| (n % 3 != 0).then(|| badge(n))).collect());
        let rolls: [&dyn Roll; 3] = [&few, &Few(Vec::new()), &many];
        let (mut all, mut from) = (Vec::new(), Some((0, 0)));
        while let Some(place) = from {
            let Answer::Who(page, next) = answer(&rolls, &Question::Who(place)) else { panic!("who") };
            assert!(page.len() <= PAGE_MAX);
            all.extend(page);
            from = next;
        }
        assert_eq!((all.len(), all[0].seconds), (801, 5));
    }

    #[test]
    fn some_are_ended_and_the_others_not() {
        let few = Few(vec![Some(badge(1)), Some(badge(2)), None]);
        let expel = |whom| answer(&[&few], &Question::Expel(whom, (0, 0)));
        assert_eq!(expel(Whom::User("ann".into())), Answer::Expelled(1, None));
        let is = |n: usize| few.0[n].as_ref().is_some_and(Badge::is_expelled);
        assert_eq!((is(0), is(1)), (false, true));
        assert_eq!(expel(Whom::User(String::new())), Answer::Expelled(0, None), "nobody in particular");
        assert_eq!(expel(Whom::Address([192, 0, 2, 1].into())), Answer::Expelled(2, None));
    }
}
