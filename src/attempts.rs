//! L4: attempts to log in, of all protocols: lets a client try, makes it wait, or refuses; counts and
//! tells.
//!
//! Stands between a protocol and whatever checks passwords: ask [`Attempts::may_try`] first, say how it
//! ended. Knows no password. Waiting costs a timer and nothing else; how many wait is bounded by the
//! sessions that are let in.

use crate::events::Events;
use crate::events::login::FailedLogin;
use crate::metrics;
use crate::policy::failures::{Failures, Guess, Verdict, Who};
use crate::runtime::Clock;
use std::net::SocketAddr;
use std::time::Duration;

/// The attempts of one core. Cheap to clone.
#[derive(Clone)]
pub struct Attempts {
    failures: Failures,
    metrics: metrics::Core,
    events: Events,
    core: u16,
}

/// Who tries to log in, and how.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The client; through a proxy, the one that the proxy names.
    pub client: SocketAddr,
    /// Failures count against the client. Not so for those that may relay, behind which may be many
    /// (a webmail): there it is the login that counts.
    pub counted: bool,
    /// `smtp`, `submission`, `imap`...
    pub service: &'a str,
    /// SASL mechanism, or the command of a protocol.
    pub mechanism: &'a str,
    /// What the client calls itself; anything at all.
    pub login: &'a [u8],
}

/// The client has failed too often: its password is not even looked at. 421 4.7.0, or the like of other
/// protocols.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyFailures;

/// How often somebody looks whether other guesses of its client have ended: about the time of a hash.
const LOOK: Duration = Duration::from_millis(20);
/// So long at most; each of the others ends within the time for hashes.
const PATIENCE: Duration = Duration::from_secs(60);

impl Attempt<'_> {
    fn who(&self) -> Who {
        Who { address: self.client.ip(), counted: self.counted }
    }
}

impl Attempts {
    /// Attempts of core number `core`, with counters shared by all.
    #[must_use]
    pub fn new(failures: Failures, metrics: metrics::Core, events: Events, core: u16) -> Self {
        Attempts { failures, metrics, events, core }
    }

    /// Returns when the client may try: at once, or after the wait that its failures have earned, those
    /// of its other guesses included that end meanwhile. `waited` is what this exchange has waited for
    /// already. What comes back is to be kept until it has been said how the attempt ended.
    pub async fn may_try(
        &self,
        clock: &impl Clock,
        a: &Attempt<'_>,
        waited: &mut Duration,
    ) -> Result<Guess, TooManyFailures> {
        let before = *waited;
        let patience = clock.now().after(PATIENCE);
        loop {
            let now = clock.now();
            let wait = match self.failures.delay(a.who(), a.login, now) {
                Verdict::Allowed => Duration::ZERO,
                Verdict::Wait(time) => time.saturating_sub(*waited),
                Verdict::Refused => break,
            };
            let pause = if wait.is_zero() {
                match self.failures.begin(a.who(), a.login, now) {
                    Some(guess) => return Ok(guess),
                    // Others of this client are under way; when they have ended its wait may be longer.
                    None if now < patience => LOOK,
                    None => break,
                }
            } else {
                if *waited == before {
                    self.metrics.logins_delayed.increment(1);
                }
                *waited += wait;
                wait
            };
            clock.sleep_until(now.after(pause)).await;
        }
        self.metrics.logins_refused.increment(1);
        self.tell(a, true);
        Err(TooManyFailures)
    }

    /// The password was wrong, or there is no such user. Not for failures of ours.
    pub fn failed(&self, clock: &impl Clock, a: &Attempt<'_>) {
        self.failures.failed(a.who(), a.login, clock.now());
        self.tell(a, false);
    }

    /// It is who it says.
    pub fn succeeded(&self, clock: &impl Clock, a: &Attempt<'_>) {
        self.failures.succeeded(a.who(), a.login, clock.now());
    }

    fn tell(&self, a: &Attempt<'_>, unseen: bool) {
        let Attempt { client, service, mechanism, login, .. } = *a;
        FailedLogin { client, service, mechanism, login, unseen }.send(&self.events, Some(self.core));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::{Mono, Wall};
    use crate::metrics::NoopRecorder;
    use crate::policy::failures::{Options, UNDER_WAY};
    use std::cell::{Cell, RefCell};
    use std::future::Future;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    /// A clock that jumps to wherever somebody sleeps; what is to happen then happens before.
    #[derive(Clone, Default)]
    struct Jumping(Rc<Cell<u64>>, Rc<RefCell<Vec<Box<dyn FnOnce()>>>>);

    impl Clock for Jumping {
        fn now(&self) -> Mono {
            Mono(self.0.get())
        }
        fn wall(&self) -> Wall {
            Wall(0)
        }
        fn sleep_until(&self, at: Mono) -> impl Future<Output = ()> + 'static {
            let (clock, events) = (self.0.clone(), self.1.clone());
            async move {
                let next = events.borrow_mut().pop();
                next.into_iter().for_each(|event| event());
                clock.set(clock.get().max(at.0));
            }
        }
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("nothing here waits for others"),
        }
    }

    #[test]
    fn waits_grow_and_end_in_a_refusal() {
        let failures = Failures::new(Options { per_client: 5, ..Options::default() }, || 7);
        let attempts = Attempts::new(failures, metrics::Core::new(&NoopRecorder, 0), Events::nowhere(), 0);
        let clock = Jumping::default();
        let client = "192.0.2.7:1".parse().unwrap();
        let a = Attempt { client, counted: true, service: "submission", mechanism: "PLAIN", login: b"me" };
        let mut waits = Vec::new();
        for _ in 0..5 {
            let before = clock.now();
            drop(now(attempts.may_try(&clock, &a, &mut Duration::default())).unwrap());
            waits.push(clock.now().since(before).as_secs());
            attempts.failed(&clock, &a);
        }
        assert_eq!(waits, [0, 2, 4, 8, 15]);
        assert!(now(attempts.may_try(&clock, &a, &mut Duration::default())).is_err());
        // Known elsewhere: that client is not concerned.
        let home = Attempt { client: "198.51.100.7:1".parse().unwrap(), ..a };
        attempts.succeeded(&clock, &home);
        let before = clock.now();
        drop(now(attempts.may_try(&clock, &home, &mut Duration::default())).unwrap());
        assert_eq!(clock.now().since(before), Duration::ZERO);
    }

    /// A thousand connections that all guess at once are no faster than one after the other.
    #[test]
    fn parallel_guesses_wait_for_the_first_to_end() {
        let failures = Failures::new(Options::default(), || 7);
        let attempts = Attempts::new(failures, metrics::Core::new(&NoopRecorder, 0), Events::nowhere(), 0);
        let clock = Jumping::default();
        let client = "192.0.2.7:1".parse().unwrap();
        let a = Attempt { client, counted: true, service: "submission", mechanism: "PLAIN", login: b"me" };
        let try_now = || now(attempts.may_try(&clock, &a, &mut Duration::default()));
        let mut held: Vec<_> = (0..UNDER_WAY).map(|_| try_now().unwrap()).collect();
        assert_eq!(clock.now(), Mono(0));
        // The first ends, wrong, while the fifth waits for a place: it waits as after any failure.
        let (first, told, at) = (held.remove(0), attempts.clone(), clock.clone());
        clock.1.borrow_mut().push(Box::new(move || {
            told.failed(&at, &a);
            drop(first);
        }));
        let before = clock.now();
        held.push(try_now().unwrap());
        assert_eq!(clock.now().since(before), LOOK + Duration::from_secs(2));
        // They do not end: nobody waits for ever.
        let before = clock.now();
        assert!(try_now().is_err());
        assert!(clock.now().since(before) >= PATIENCE);
        // What an exchange has waited for counts once.
        held.clear();
        let (before, mut waited) = (clock.now(), Duration::ZERO);
        drop(now(attempts.may_try(&clock, &a, &mut waited)).unwrap());
        drop(now(attempts.may_try(&clock, &a, &mut waited)).unwrap());
        assert_eq!(clock.now().since(before), Duration::from_secs(2));
    }
}
