//! The desk for logins on a real core with real threads: stores that are slow or down, unknown logins,
//! what is kept, what is offered.

use super::*;
use crate::auth::hashing::{Limits, Threads};
use crate::auth::passwd::Users;
use crate::auth::store::{Found, Serves, Unavailable};
use crate::metrics::{Core, NoopRecorder};
use crate::runtime::Clock;
use crate::runtime::uring::{self, Uring};
use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::sync::Arc;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

/// bcrypt with the least cost: a hash that is not quick, but done soon. Of `secret`.
fn slow() -> String {
    bcrypt::hash_with_salt("secret", 4, [5; 16]).unwrap().to_string()
}

fn users(text: &str) -> Rc<dyn Store> {
    let (users, bad) = Users::parse(text.as_bytes(), [1; 32]);
    assert_eq!(bad, []);
    Rc::new(Arc::new(users))
}

/// A store that cannot answer, or takes for ever.
struct Down {
    down: bool,
}

impl Store for Down {
    fn lookup<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Found> + 'a>> {
        if self.down { Box::pin(ready(Err(Unavailable))) } else { Box::pin(pending()) }
    }

    fn serves(&self) -> Serves {
        let plain = Set::NONE.with(Mechanism::Plain);
        Serves { all: plain, some: plain }
    }
}

type Heard = Rc<RefCell<Vec<String>>>;

fn desk(rt: &Uring, store: Rc<dyn Store>, mechanisms: Option<Set>) -> (Rc<Logins<Uring>>, Heard) {
    let metrics = Core::new(&NoopRecorder, 0);
    let limits = Limits { waiting: 10, time: Duration::from_secs(20) };
    let hashing = Hashing::new(rt.clone(), Threads::start(1, 1).unwrap(), limits, metrics.clone());
    let options = Options {
        host: "mx.test".into(),
        mechanisms,
        allow_plaintext: true,
        store_time: Duration::from_millis(20),
        cache_most: 10,
        cache_time: Duration::from_secs(60),
    };
    let heard = Heard::default();
    let told = heard.clone();
    let tell = Box::new(move |t: &Told<'_>| told.borrow_mut().push(format!("{t:?}")));
    (Logins::new(rt.clone(), options, store, hashing, metrics, [2; 32], tell), heard)
}

/// The end of a login by PLAIN.
async fn plain(desk: &Logins<Uring>, login: &str, password: &str) -> Outcome {
    let mut exchange = desk.begin(Mechanism::Plain, &Channel::default());
    let turn = exchange.begin(Some(format!("\0{login}\0{password}").as_bytes()));
    desk.drive(&mut exchange, turn, CLIENT).await
}

fn on_a_core(main: impl AsyncFnOnce(Uring)) {
    let main = async |rt| tokio::time::timeout(Duration::from_secs(60), main(rt)).await;
    uring::run(&uring::Options::small(), main).unwrap().unwrap();
}

const REFUSED: Outcome = Outcome::Failure(Why::Refused);
const UNAVAILABLE: Outcome = Outcome::Failure(Why::Unavailable);

#[test]
fn passwords_are_checked_and_remembered_until_the_entry_changes() {
    on_a_core(async |rt| {
        let (desk, heard) = desk(&rt, users(&format!("ann:{}\n", slow())), None);
        assert_eq!(plain(&desk, "Ann", "secret").await, Outcome::Success);
        assert_eq!(plain(&desk, "ann", "wrong").await, REFUSED);
        assert_eq!(plain(&desk, "eve", "secret").await, REFUSED);
        assert_eq!(desk.cache.borrow().len(), 1);
        assert_eq!(plain(&desk, "ann", "secret").await, Outcome::Success);
        let other = bcrypt::hash_with_salt("secret", 4, [6; 16]).unwrap().to_string();
        desk.set_store(users(&format!("ann:{other}\n")));
        assert_eq!(plain(&desk, "ann", "secret").await, Outcome::Success);
        assert_eq!(desk.cache.borrow().len(), 2, "the old one was of no use");
        desk.set_store(users("ann:!\n"));
        assert_eq!(plain(&desk, "ann", "secret").await, REFUSED);
        let heard = heard.borrow().join("\n");
        assert!(heard.contains("\"ann\"") && !heard.contains("secret") && !heard.contains("wrong"));
    });
}

#[test]
fn a_store_that_is_down_or_slow_concerns_only_who_needs_it() {
    on_a_core(async |rt| {
        let (desk, _) = desk(&rt, Rc::new(Down { down: true }), None);
        assert_eq!(plain(&desk, "ann", "secret").await, UNAVAILABLE);
        desk.set_store(Rc::new(Down { down: false }));
        let (waiting, late) = (desk.clone(), Rc::new(std::cell::Cell::new(false)));
        let told = late.clone();
        rt.spawn(async move {
            assert_eq!(plain(&waiting, "ann", "secret").await, UNAVAILABLE);
            told.set(true);
        });
        crate::runtime::yield_now().await;
        desk.set_store(users("ann:{PLAIN}secret\n"));
        assert_eq!(plain(&desk, "ann", "secret").await, Outcome::Success);
        while !late.get() {
            rt.sleep_until(rt.now().after(Duration::from_millis(5))).await;
        }
    });
}

/// Who comes beyond the bound, and who waits, is told at once; the rest is done in turn.
#[test]
fn more_than_may_wait() {
    on_a_core(async |rt| {
        // Slower than 30 who come at once, and ten of them are done before anybody has waited too long.
        let slow = bcrypt::hash_with_salt("secret", 6, [5; 16]).unwrap().to_string();
        let (desk, _) = desk(&rt, users(&format!("ann:{slow}\n")), None);
        let ends: Rc<RefCell<Vec<Outcome>>> = Rc::default();
        for n in 0..30 {
            let (desk, ends) = (desk.clone(), ends.clone());
            rt.spawn(async move {
                let end = plain(&desk, "ann", &format!("wrong{n}")).await;
                ends.borrow_mut().push(end);
            });
        }
        while ends.borrow().len() < 30 {
            rt.sleep_until(rt.now().after(Duration::from_millis(5))).await;
        }
        let count = |end: &Outcome| ends.borrow().iter().filter(|e| *e == end).count();
        // One of a client of which nothing is known is in hand, ten wait.
        assert_eq!((count(&REFUSED), count(&UNAVAILABLE)), (11, 19));
        assert_eq!(plain(&desk, "ann", "secret").await, Outcome::Success);
    });
}

#[test]
fn offers() {
    on_a_core(async |rt| {
        let clear = Channel::default();
        let tls = Channel { secure: true, exporter: Some(vec![1; 32]), ..Channel::default() };
        let known = Channel { identity: Some("ann".into()), ..tls.clone() };
        let (desk, _) = desk(&rt, users("ann:{PLAIN}x\n"), None);
        let names = |channel: &Channel| desk.offer(channel).names();
        let scram = "SCRAM-SHA-256 SCRAM-SHA-1";
        assert_eq!(names(&clear), format!("{scram} PLAIN LOGIN"));
        assert_eq!(names(&tls), format!("{scram} PLAIN LOGIN"));
        assert_eq!(names(&known), format!("{scram} EXTERNAL PLAIN LOGIN"));
        desk.set_store(users(&format!("ann:{{PLAIN}}x\nbob:{}\n", slow())));
        assert_eq!(names(&tls), "PLAIN LOGIN");
        desk.set_store(users(""));
        assert_eq!(names(&tls), "");
        let mut exchange = desk.begin(Mechanism::External, &known);
        desk.set_store(users("ann:{PLAIN}x\n"));
        let turn = exchange.begin(Some(b""));
        assert_eq!(desk.drive(&mut exchange, turn, CLIENT).await, Outcome::Success);
    });
}

/// What SCRAM shows for a login that does not exist is the same each time, and looks real.
#[test]
fn verifiers_of_nobody() {
    on_a_core(async |rt| {
        let maker =
            crate::auth::scheme::Maker { iterations: 5000, ..crate::auth::scheme::Maker::new([3; 16]) };
        let entry = maker.make(&"secret".into()).unwrap();
        let (desk, _) = desk(&rt, users(&format!("ann:{entry}\n")), None);
        let (ann, real) = desk.verifier(Hash::Sha256, "ann", CLIENT).await.unwrap();
        assert!(real && ann.iterations == 5000);
        let (eve, real) = desk.verifier(Hash::Sha256, "eve", CLIENT).await.unwrap();
        let again = desk.verifier(Hash::Sha256, "eve", CLIENT).await.unwrap().0;
        assert!(!real && eve == again && eve.salt != ann.salt);
        assert_eq!((eve.iterations, eve.salt.len()), (5000, ann.salt.len()));
        let (other, _) = desk.verifier(Hash::Sha256, "mallory", CLIENT).await.unwrap();
        assert!(other.salt != eve.salt);
        // In clear text: the verifier is made, and fits.
        desk.set_store(users("ann:{PLAIN}secret\n"));
        let (made, real) = desk.verifier(Hash::Sha1, "ann", CLIENT).await.unwrap();
        assert!(real && made.fits(b"secret") && !made.fits(b"wrong"));
        assert!(!desk.verifier(Hash::Sha1, "eve", CLIENT).await.unwrap().1);
    });
}
