//! L4: asks DNS lists about clients: in the background, bounded in number and time, and remembers what they
//! say.
//!
//! A list that does not answer, or not in time, says nothing about a client, and is counted. Knows no
//! session.

use crate::base::time::Mono;
use crate::metrics;
use crate::policy::brakes::Action;
use crate::policy::lists::{self, List, Said, Verdict};
use crate::route::dns::{Asked, within};
use crate::route::mx::Why;
use crate::runtime::Runtime;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// Name servers.
pub trait Ask {
    /// A records of `name`.
    fn ipv4<'a>(&'a self, name: &'a str) -> Asked<'a, IpAddr>;
}

/// How lists are asked, and what is done.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// The lists; none: nobody is asked.
    pub lists: Vec<List>,
    /// From this sum of scores on.
    pub threshold: i32,
    /// This is done.
    pub action: Action,
    /// The text of a refusal: `%a` is the address, `%z` the zone.
    pub text: String,
    /// How long all lists together may take.
    pub time: Duration,
}

/// The lists as one core asks them.
pub struct Lists<R: Runtime> {
    rt: R,
    ask: Rc<dyn Ask>,
    metrics: metrics::Core,
    pub(super) options: Options,
    kept: RefCell<HashMap<IpAddr, (Rc<Verdict>, Mono)>>,
    /// Clients that are being asked about.
    under_way: Cell<usize>,
}

/// A question about a client.
#[derive(Default)]
pub struct Question {
    verdict: OnceCell<Rc<Verdict>>,
    done: Notify,
}

/// Answers kept.
const KEPT: usize = 20_000;
/// They are kept no shorter and no longer than that, whatever DNS says.
const KEEP: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// How long "one of them did not answer" is kept.
const KEEP_FAILURE: Duration = Duration::from_secs(30);
/// Clients asked about at a time; more are not asked about.
const AT_A_TIME: usize = 512;

impl<R: Runtime> Lists<R> {
    /// Asks `ask`.
    #[must_use]
    pub fn new(rt: R, ask: Rc<dyn Ask>, metrics: metrics::Core, options: Options) -> Rc<Self> {
        Rc::new(Lists { rt, ask, metrics, options, kept: RefCell::default(), under_way: Cell::new(0) })
    }

    /// Begins to ask about `address`.
    pub fn begin(self: &Rc<Self>, address: IpAddr) -> Rc<Question> {
        let question = Rc::<Question>::default();
        let known = self.kept.borrow().get(&address).filter(|k| k.1 > self.rt.now()).map(|k| k.0.clone());
        if let Some(known) = known {
            self.metrics.dnsbl_cached.increment(1);
            question.settle(known);
        } else if self.under_way.get() >= AT_A_TIME {
            self.metrics.dnsbl_failed.increment(1);
            question.settle(Rc::default());
        } else {
            self.under_way.set(self.under_way.get() + 1);
            let (lists, asked) = (self.clone(), question.clone());
            self.rt.spawn(async move {
                let _end = End(&lists.under_way, &asked);
                asked.settle(lists.look_up(address).await);
            });
        }
        question
    }

    async fn look_up(&self, address: IpAddr) -> Rc<Verdict> {
        let until = self.rt.now().after(self.options.time);
        let answers =
            crate::route::dns::all(self.options.lists.iter().map(|l| self.one(l, address, until)).collect());
        let (mut verdict, mut keep) = (Verdict::default(), KEEP.1);
        for (list, (said, ttl)) in self.options.lists.iter().zip(answers.await) {
            keep = keep.min(ttl);
            match said {
                Some(said) => verdict.add(list, said),
                None => self.metrics.dnsbl_failed.increment(1),
            }
        }
        let m = &self.metrics;
        let listed = verdict.listed(self.options.threshold).is_some();
        if listed {
            m.dnsbl_listed.increment(1)
        } else {
            m.dnsbl_clean.increment(1)
        };
        let verdict = Rc::new(verdict);
        self.keep(address, verdict.clone(), keep);
        verdict
    }

    /// What one list says, and for how long; `None`: it does not answer.
    async fn one(&self, list: &List, address: IpAddr, until: Mono) -> (Option<Said>, Duration) {
        let name = lists::name(address, &list.zone);
        let bounded = |ttl: Duration| ttl.clamp(KEEP.0, KEEP.1);
        match within(&self.rt, until, self.ask.ipv4(&name)).await {
            Some(Ok(found)) => match list.read(&found.records) {
                Said::Refused => (None, KEEP_FAILURE),
                said => (Some(said), bounded(found.ttl)),
            },
            Some(Err(missing)) => match missing.why {
                Why::NoName | Why::NoData => (Some(Said::Clean), bounded(missing.ttl)),
                Why::Bogus | Why::Failed(_) => (None, KEEP_FAILURE),
            },
            None => (None, KEEP_FAILURE),
        }
    }

    fn keep(&self, address: IpAddr, verdict: Rc<Verdict>, time: Duration) {
        let now = self.rt.now();
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= KEPT {
            kept.retain(|_, k| k.1 > now);
        }
        if kept.len() >= KEPT {
            // A flood of addresses: what was learnt first is as good as what comes now.
            kept.clear();
        }
        kept.insert(address, (verdict, now.after(time)));
    }
}

/// The end of a look-up, however it ends.
struct End<'a>(&'a Cell<usize>, &'a Question);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
        // If there is none, it has failed.
        self.1.settle(Rc::default());
    }
}

impl Question {
    fn settle(&self, verdict: Rc<Verdict>) {
        // The first one counts.
        let _ = self.verdict.set(verdict);
        self.done.notify_waiters();
    }

    /// What the lists say; bounded in time.
    pub async fn verdict(&self) -> Rc<Verdict> {
        loop {
            let done = self.done.notified();
            if let Some(verdict) = self.verdict.get() {
                return verdict.clone();
            }
            done.await;
        }
    }
}
