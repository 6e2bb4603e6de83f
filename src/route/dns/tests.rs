//! The plans of a core with name servers that a test controls: kept, shared, bounded.

use super::*;
use crate::queue::desk::double::Rig;
use crate::route::mx::{Found, Missing, Security};
use crate::runtime::Clock;
use std::cell::Cell;

/// Answers by name, after a time; counts the questions for MX records.
struct Script {
    rig: Rig,
    asked: Cell<u32>,
    at_once: Cell<u32>,
    most_at_once: Cell<u32>,
}

impl Script {
    fn answer(&self, name: &str) -> Answer<Mx> {
        let security = Security::Insecure;
        let missing = |why, seconds| Err(Missing { why, security, ttl: Duration::from_secs(seconds) });
        let found = |host: &str, seconds| {
            let records = vec![Mx { preference: 10, host: host.into() }];
            Ok(Found { records, name: name.into(), security, ttl: Duration::from_secs(seconds) })
        };
        match name {
            "gone.example" => missing(Why::NoName, 60),
            "broken.example" => missing(Why::Failed("SERVFAIL".into()), 0),
            "short.example" => found("mx.example", 0),
            "long.example" => found("mx.example", 1_000_000),
            _ => found("mx.example", 600),
        }
    }

    fn time(name: &str) -> Duration {
        if name.starts_with("never") { Duration::from_secs(1 << 30) } else { Duration::from_millis(200) }
    }
}

/// Name servers behind a count, so that the test can look at them too.
struct Shared(Rc<Script>);

impl Lookup for Shared {
    fn mx<'a>(&'a self, name: &'a str) -> Asked<'a, Mx> {
        Box::pin(async move {
            let s = &self.0;
            s.asked.set(s.asked.get() + 1);
            s.at_once.set(s.at_once.get() + 1);
            s.most_at_once.set(s.most_at_once.get().max(s.at_once.get()));
            s.rig.sleep_until(s.rig.now().after(Script::time(name))).await;
            s.at_once.set(s.at_once.get() - 1);
            s.answer(name)
        })
    }

    fn ipv4<'a>(&'a self, name: &'a str) -> Asked<'a, IpAddr> {
        let (records, security) = (vec![IpAddr::from([192, 0, 2, 1])], Security::Insecure);
        let ttl = Duration::from_secs(1 << 30);
        Box::pin(async move { Ok(Found { records, name: name.into(), security, ttl }) })
    }

    fn tlsa<'a>(&'a self, _: &'a str, _: u16) -> Asked<'a, Record> {
        panic!("nobody asks for TLSA records here")
    }

    fn txt<'a>(&'a self, _: &'a str) -> Asked<'a, Box<[u8]>> {
        panic!("nobody asks for TXT records here")
    }

    fn names<'a>(&'a self, _: IpAddr) -> Asked<'a, Box<str>> {
        panic!("nobody asks for names here")
    }

    fn ipv6<'a>(&'a self, _: &'a str) -> Asked<'a, IpAddr> {
        let (why, security, ttl) = (Why::NoData, Security::Insecure, Duration::from_secs(1 << 30));
        Box::pin(async move { Err(Missing { why, security, ttl }) })
    }
}

fn planner(rig: &Rig, options: Options) -> (Planner<Rig>, Rc<Script>) {
    let script = Rc::new(Script {
        rig: rig.clone(),
        asked: Cell::new(0),
        at_once: Cell::new(0),
        most_at_once: Cell::new(0),
    });
    let metrics = metrics::Core::new(&::metrics::NoopRecorder, 0);
    let lookup = Box::new(Shared(script.clone()));
    (Planner::new(rig.clone(), lookup, Box::new(|_| false), metrics, options), script)
}

fn rig() -> Rig {
    Rig::new(&Rc::default(), 1)
}

async fn sleep(rig: &Rig, seconds: u64) {
    rig.sleep_until(rig.now().after(Duration::from_secs(seconds))).await;
}

#[test]
fn plans_are_kept_as_long_as_dns_says_within_bounds() {
    let rig = rig();
    rig.inner.block_on(async {
        let (planner, script) = planner(&rig, Options::default());
        for (domain, kept, gone) in [
            ("usual.example", 599, 2),
            ("short.example", 4, 2),
            ("long.example", 3599, 2),
            ("gone.example", 59, 2),
            ("broken.example", 9, 2),
        ] {
            let before = script.asked.get();
            let first = planner.plan(domain).await;
            assert_eq!(first.is_ok(), !matches!(domain, "gone.example" | "broken.example"), "{domain}");
            sleep(&rig, kept).await;
            assert_eq!(planner.plan(&domain.to_uppercase()).await, first);
            assert_eq!(script.asked.get(), before + 1, "{domain} is kept");
            sleep(&rig, gone).await;
            assert_eq!(planner.plan(domain).await, first);
            assert_eq!(script.asked.get(), before + 2, "{domain} is asked again");
        }
    });
}

#[test]
fn one_look_up_of_a_domain_serves_all_who_wait() {
    let rig = rig();
    rig.inner.block_on(async {
        let (planner, script) = planner(&rig, Options::default());
        let many = all((0..50).map(|_| planner.plan("a.example")).collect()).await;
        assert!(many.iter().all(Result::is_ok));
        assert_eq!(script.asked.get(), 1);
    });
}

#[test]
fn look_ups_in_flight_are_bounded_and_none_waits_for_ever() {
    let rig = rig();
    rig.inner.block_on(async {
        let options = Options { at_a_time: 3, ..Options::default() };
        let (planner, script) = planner(&rig, options);
        let names: Vec<String> = (0..10).map(|n| format!("d{n}.example")).collect();
        let many = all(names.iter().map(|n| planner.plan(n)).collect()).await;
        assert!(many.iter().all(Result::is_ok));
        assert_eq!(script.most_at_once.get(), 3);
        // A name server that does not answer holds up its own domain only.
        let begun = rig.now();
        let (slow, quick) = (planner.plan("never.example"), planner.plan("e.example"));
        let quick = async { (quick.await.is_ok(), rig.now().since(begun)) };
        let both = all(vec![
            Box::pin(async { (slow.await == Err(too_slow()), rig.now().since(begun)) })
                as Pin<Box<dyn Future<Output = (bool, Duration)> + '_>>,
            Box::pin(quick),
        ])
        .await;
        assert!(both[0].0 && both[0].1 >= Duration::from_secs(30) && both[0].1 < Duration::from_secs(31));
        assert!(both[1].0 && both[1].1 < Duration::from_secs(1), "{:?}", both[1].1);
    });
}

#[test]
fn who_looks_up_may_go_without_an_answer() {
    let rig = rig();
    rig.inner.block_on(async {
        let (planner, script) = planner(&rig, Options::default());
        {
            let first = pin!(planner.plan("a.example"));
            let gone = within(&rig, rig.now().after(Duration::from_millis(50)), first).await;
            assert_eq!(gone, None);
        }
        assert!(planner.plan("a.example").await.is_ok());
        assert_eq!(script.asked.get(), 2);
        assert!(planner.0.flights.borrow().is_empty());
    });
}

#[test]
fn plans_kept_are_bounded() {
    let rig = rig();
    rig.inner.block_on(async {
        let options = Options { plans: 20, ..Options::default() };
        let (planner, _) = planner(&rig, options);
        for n in 0..100 {
            planner.plan(&format!("d{n}.example")).await.unwrap();
            assert!(planner.0.kept.borrow().len() <= 20);
        }
        assert!(planner.0.kept.borrow().len() > 10);
    });
}

#[test]
fn an_address_literal_is_not_asked_for() {
    let rig = rig();
    rig.inner.block_on(async {
        let (planner, script) = planner(&rig, Options::default());
        let plan = planner.plan("[192.0.2.7]").await.unwrap();
        assert_eq!(plan.hosts[0].ipv4, [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(script.asked.get(), 0);
    });
}
