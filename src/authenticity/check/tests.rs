//! Who is asked and what comes of it, with name servers of the test.

use super::*;
use crate::authenticity::aside;
use crate::authenticity::keys::{Key, generate};
use crate::authenticity::sign;
use crate::route::dns::Asked;
use crate::route::mx::{Found, Missing, Mx, Security};
use crate::route::tlsa::Record;
use mail_auth::common::crypto::HashAlgorithm;
use mail_auth::dkim::Canonicalization;
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Waker};
use std::time::Duration;

/// Texts and addresses; of names that begin with "failing" nobody can say anything.
#[derive(Default)]
struct Script {
    texts: HashMap<String, String>,
    addresses: HashMap<String, IpAddr>,
    asked: Cell<usize>,
    at_once: Cell<usize>,
    most: Cell<usize>,
}

impl Script {
    fn answer<'a, T: 'a>(&'a self, name: &str, found: Option<T>) -> Asked<'a, T> {
        let name: Box<str> = name.into();
        let (security, ttl) = (Security::Insecure, Duration::ZERO);
        self.asked.set(self.asked.get() + 1);
        Box::pin(async move {
            self.at_once.set(self.at_once.get() + 1);
            self.most.set(self.most.get().max(self.at_once.get()));
            yield_now().await;
            self.at_once.set(self.at_once.get() - 1);
            let why =
                if name.starts_with("failing") { Why::Failed("on purpose".into()) } else { Why::NoName };
            match found {
                Some(one) => Ok(Found { records: vec![one], name, security, ttl }),
                None => Err(Missing { why, security, ttl }),
            }
        })
    }
}

impl Lookup for Script {
    fn mx<'a>(&'a self, name: &'a str) -> Asked<'a, Mx> {
        self.answer(name, None)
    }

    fn ipv4<'a>(&'a self, name: &'a str) -> Asked<'a, IpAddr> {
        self.answer(name, self.addresses.get(name).copied())
    }

    fn ipv6<'a>(&'a self, name: &'a str) -> Asked<'a, IpAddr> {
        self.answer(name, None)
    }

    fn tlsa<'a>(&'a self, name: &'a str, _: u16) -> Asked<'a, Record> {
        self.answer(name, None)
    }

    fn txt<'a>(&'a self, name: &'a str) -> Asked<'a, Box<[u8]>> {
        self.answer(name, self.texts.get(name).map(|text| text.as_bytes().into()))
    }

    fn names<'a>(&'a self, address: IpAddr) -> Asked<'a, Box<str>> {
        self.answer(&address.to_string(), None)
    }
}

fn alone<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

const OFF: Modes = Modes { spf: Mode::Off, dkim: Mode::Off, dmarc: Mode::Off, arc: Mode::Off };
const BODY: [u8; 32] = [7; 32];

async fn look(checker: &Checker, sender: &str, header: &str, wanted: Modes) -> Results {
    let sums = vec![(Canonicalization::Relaxed, HashAlgorithm::Sha256, 0, BODY.to_vec())];
    let client = IpAddr::from([192, 0, 2, 1]);
    let mail = Mail { client, helo: "x.test", sender, header: header.as_bytes(), sums, host: "mx.test" };
    checker.check(mail, wanted, Box::pin(std::future::pending())).await
}

/// A message with so many fields and signatures, and its key.
fn signed(fields: usize, signatures: usize) -> (String, Script) {
    let key = Key::parse("a.test", "s", generate(None).unwrap().as_bytes()).unwrap();
    let plain = "From: x@a.test\r\n".to_owned() + &"a:b\r\n".repeat(fields) + "\r\n";
    let mut header = plain.clone();
    for _ in 0..signatures {
        let mut out = Vec::new();
        let mail = sign::Mail { front: b"", header: plain.as_bytes(), body: &BODY, now: 1 };
        assert!(sign::put(&mut out, &key, &mail));
        header.insert_str(0, std::str::from_utf8(&out).unwrap());
    }
    let texts = HashMap::from([(key.name(), key.record())]);
    (header, Script { texts, ..Script::default() })
}

fn outcomes(results: &Results) -> Vec<Outcome> {
    results.dkim.as_ref().expect("it was asked for").iter().map(|s| s.outcome).collect()
}

#[test]
fn what_takes_long_is_done_aside_or_not_now() {
    let wanted = Modes { dkim: Mode::Tag, ..OFF };
    alone(async {
        let busy = Rc::new(Cell::new(0));
        for (fields, heavy) in [(10, false), (20_000, true)] {
            let (header, script) = signed(fields, 2);
            assert_eq!(Work::new(header.as_bytes(), Vec::new()).signatures(), 2);
            let threads = aside::Threads::start(1).unwrap();
            let told = busy.clone();
            let tell = Box::new(move || told.set(told.get() + 1));
            let checker = Checker::new(Rc::new(script)).with_threads(threads.clone(), tell);
            let results = look(&checker, "x@a.test", &header, wanted).await;
            assert_eq!(outcomes(&results), [Outcome::Pass, Outcome::Pass], "{fields} fields");
            // The thread is at work on something else, and much waits for it.
            let (open, gate) = channel::<()>();
            let (began, begun) = channel::<()>();
            let wait = |began: Sender<()>, gate: Receiver<()>| {
                move || {
                    let _ = began.send(());
                    gate.recv().unwrap_or(());
                }
            };
            let mut cx = Context::from_waker(Waker::noop());
            let mut jobs = vec![Box::pin(threads.ask(wait(began, gate)))];
            assert!(jobs[0].as_mut().poll(&mut cx).is_pending());
            begun.recv().unwrap();
            loop {
                let (began, gate) = (channel().0, channel().1);
                jobs.push(Box::pin(threads.ask(wait(began, gate))));
                if jobs.last_mut().unwrap().as_mut().poll(&mut cx).is_ready() {
                    break;
                }
            }
            let before = busy.get();
            let results = look(&checker, "x@a.test", &header, wanted).await;
            let expected = if heavy { Outcome::TempError } else { Outcome::Pass };
            assert_eq!(outcomes(&results), [expected, expected], "{fields} fields");
            assert_eq!(busy.get() - before, i32::from(heavy));
            drop(open);
        }
    });
}

#[test]
fn keys_are_looked_up_once_and_a_few_at_a_time() {
    let (header, mut script) = signed(3, 2);
    let mut all = header.clone();
    for n in 0..8 {
        all.insert_str(0, &header[..header.find("From: ").unwrap()].replace("s=s", &format!("s=s{n}")));
        script.texts.insert(format!("s{n}._domainkey.a.test"), "v=DKIM1; p=".into());
    }
    let script = Rc::new(script);
    let checker = Checker::new(script.clone());
    let results = alone(look(&checker, "x@a.test", &all, Modes { dkim: Mode::Tag, ..OFF }));
    assert_eq!(outcomes(&results).len(), SIGNATURES);
    assert!(script.asked.get() <= SIGNATURES && script.most.get() == OF_EACH, "{}", script.most.get());
}

/// Signatures that are looked at.
const SIGNATURES: usize = super::super::verify::SIGNATURES_MAX;

#[test]
fn a_missing_domain_has_its_own_policy_and_trouble_is_told() {
    let texts =
        HashMap::from([("_dmarc.a.test".into(), "v=DMARC1; p=none; sp=quarantine; np=reject".into())]);
    let addresses = HashMap::from([("there.a.test".into(), IpAddr::from([192, 0, 2, 9]))]);
    let checker = Checker::new(Rc::new(Script { texts, addresses, ..Script::default() }));
    for (domain, outcome, wish) in [
        ("there.a.test", Outcome::Fail, Wish::Quarantine),
        ("missing.a.test", Outcome::Fail, Wish::Reject),
        ("failing.a.test", Outcome::TempError, Wish::None),
        ("a.test", Outcome::Fail, Wish::None),
    ] {
        let header = format!("From: x@{domain}\r\n\r\n");
        let results = alone(look(&checker, "x@b.test", &header, Modes { dmarc: Mode::Tag, ..OFF }));
        let dmarc = results.dmarc.expect("it was asked for");
        assert_eq!((dmarc.outcome, dmarc.wish), (outcome, wish), "{domain}");
    }
}

#[test]
fn silence_ends_with_the_time() {
    let checker = Checker::new(Rc::new(Script::default()));
    let header = "From: x@a.test\r\n\r\n";
    let wanted = Modes { spf: Mode::Tag, dmarc: Mode::Tag, ..OFF };
    let client = IpAddr::from([192, 0, 2, 1]);
    let mail = Mail {
        client,
        helo: "x.test",
        sender: "x@a.test",
        header: header.as_bytes(),
        sums: vec![],
        host: "mx",
    };
    let results = alone(checker.check(mail, wanted, Box::pin(std::future::ready(()))));
    assert_eq!(results.spf.map(|spf| spf.0), Some(Outcome::TempError));
    assert_eq!(results.dmarc.map(|dmarc| dmarc.outcome), Some(Outcome::TempError));
}
