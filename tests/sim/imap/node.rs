//! A machine with two cores that serve IMAP, each with one shard, put together as `server` does it. A
//! login whose shard the other core has moves there.

use crate::machine::SimRuntime;
use crate::world::MS;
use ringpost::access::gate::{Door, Gate, Guest, Permit};
use ringpost::access::host::{self, Host};
use ringpost::access::moving::{Parcel, Roads, Sending};
use ringpost::auth::hashing::{Hashing, Limits, Threads};
use ringpost::auth::passwd::Users;
use ringpost::auth::service::{self, Logins};
use ringpost::base::time::Mono;
use ringpost::imap::serve::{self, Context};
use ringpost::imap::session::{self, Luggage};
use ringpost::mailbox::api::{Mailboxes, Refusal};
use ringpost::mailbox::store::opening::Parts;
use ringpost::mailbox::store::{self, Store};
use ringpost::mailbox::types::Quota;
use ringpost::metrics::{self, NoopRecorder};
use ringpost::pop3::serve::{Found, Home, Homes};
use ringpost::runtime::Runtime;
use ringpost::runtime::pool::Pool;
use ringpost::smtp::serve::{Caller, Refused};
use ringpost::storage::{self, Poison, archive};
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// Where core 0 serves; core 1 behind it.
pub const PORT: u16 = 143;
/// Everybody's password.
pub const PASSWORD: &str = "open sesame";
/// Names of users; the last digit says the shard.
pub const USERS: [&str; 4] = ["u0", "u1", "u2", "u3"];

type Shard = Store<SimRuntime>;
type Imap = Context<SimRuntime, Shard>;

/// The core that owns the account of this login.
pub fn core_of(login: &str) -> usize {
    usize::from(login.as_bytes().last().copied().unwrap_or(b'0') & 1)
}

/// What is counted for sessions: taken and not given back.
#[derive(Clone, Default)]
pub struct Counted(pub Arc<std::sync::atomic::AtomicI64>);

/// Gives back once.
struct Place(Counted);

impl Counted {
    fn take(&self) -> Permit {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::new(Place(self.clone()))
    }

    /// How many are taken now.
    pub fn count(&self) -> i64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl std::ops::Deref for Counted {
    type Target = std::sync::atomic::AtomicI64;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

struct Open(Counted);

impl Gate for Open {
    fn admit(&self, _caller: &Caller, _now: Mono) -> Result<Guest, Refused> {
        Ok(Guest { trusted: false, permit: self.0.take() })
    }

    fn login(&self, _login: &str) -> Option<Permit> {
        Some(self.0.take())
    }
}

struct Map {
    me: usize,
    shard: Shard,
}

impl Homes<Shard> for Map {
    fn home(&self, login: &str) -> Result<Home<Shard>, Refusal> {
        let core = core_of(login);
        Ok(if core == self.me { Home::Here(self.shard.clone()) } else { Home::There(core as u16) })
    }

    fn account<'a>(&'a self, shard: &'a Shard, login: &'a str) -> Found<'a> {
        Box::pin(async move { shard.account(login).await.ok_or(Refusal::NoAccount) })
    }
}

/// The way between the two cores: takes its time, and now and then says that the other one stops.
struct Ways {
    rt: SimRuntime,
    cores: RefCell<Vec<Weak<Imap>>>,
    refuses: Cell<bool>,
}

impl Roads<u64, Luggage> for Ways {
    fn send(&self, core: u16, parcel: Box<Parcel<u64, Luggage>>) -> Sending<'_, u64, Luggage> {
        let target = self.cores.borrow().get(usize::from(core)).and_then(Weak::upgrade);
        Box::pin(async move {
            let world = self.rt.world();
            world.pause(world.below(2 * MS)).await;
            match target.filter(|_| !(self.refuses.get() && world.chance(300))) {
                None => Err(parcel),
                Some(ctx) => {
                    self.rt.spawn(serve::adopt(ctx, parcel));
                    Ok(())
                }
            }
        })
    }
}

/// What a history wants otherwise.
#[derive(Clone)]
pub struct Wish {
    /// Limits and times of sessions.
    pub session: session::Options,
    /// How clients come in.
    pub door: Door,
    /// Cores refuse a moved session now and then.
    pub refuses: bool,
}

async fn open_shard(rt: &SimRuntime, number: usize) -> Result<Shard, String> {
    let wait = Duration::from_secs(60);
    let storage = storage::Options { lock_wait: wait, ..storage::Options::tiny() };
    let archive = archive::Options { lock_wait: wait, ..archive::Options::tiny() };
    let options = store::Options { archive, resident_max: 0, changes_max: 200, ..store::Options::default() };
    let parts = Parts { rt: rt.clone(), storage, poison: Poison::new(), options };
    let folder = PathBuf::from(format!("/data/mailbox/{number:04}"));
    let (shard, _) = Store::open(&folder, parts).await.map_err(|e| e.to_string())?;
    for login in USERS.iter().filter(|login| core_of(login) == number) {
        while shard.account(login).await.is_none() {
            match shard.create_account(login, &[("Trash", None)], Quota::default()).await {
                Ok(_) => {}
                Err(Refusal::Busy) => rt.world().pause(MS).await,
                Err(e) => return Err(e.to_string()),
            }
        }
    }
    Ok(shard)
}

fn logins(rt: &SimRuntime) -> Rc<Logins<SimRuntime>> {
    let text: String = USERS.iter().map(|u| format!("{u}:{{PLAIN}}{PASSWORD}\n")).collect();
    let (users, bad) = Users::parse(text.as_bytes(), [1; 32]);
    assert!(bad.is_empty(), "{bad:?}");
    let m = metrics::Core::new(&NoopRecorder, 0);
    let limits = Limits { waiting: 10, time: Duration::from_secs(20) };
    // Passwords in clear text need no hash.
    let threads = Threads::start(1, 1).expect("a thread");
    let hashing = Hashing::new(rt.clone(), threads, limits, m.clone());
    let options = service::Options {
        host: "mx.example".into(),
        mechanisms: None,
        allow_plaintext: true,
        store_time: Duration::from_secs(5),
        cache_most: 10,
        cache_time: Duration::from_secs(60),
    };
    Logins::new(rt.clone(), options, Rc::new(Arc::new(users)), hashing, m, [2; 32], Box::new(|_| {}))
}

/// Opens both shards, which are given back, and serves; the accounts are there. `Err`: the disk did not let
/// us.
pub async fn start(rt: &SimRuntime, counted: &Counted, wish: Wish) -> Result<Vec<Shard>, String> {
    let ways = Rc::new(Ways { rt: rt.clone(), cores: RefCell::default(), refuses: Cell::new(wish.refuses) });
    let mut shards = Vec::new();
    for me in 0..2 {
        let shard = open_shard(rt, me).await?;
        let m = metrics::Core::new(&NoopRecorder, me);
        let meters = serve::meters(&m);
        let gate = Rc::new(Open(counted.clone()));
        let host = Host::new(rt.clone(), gate, (m, meters), host::Options::default(), Rc::new(Pool::new(64)));
        host.set_logins(logins(rt), None);
        let options = serve::Options { session: Rc::new(wish.session.clone()), ..serve::Options::default() };
        let map = Rc::new(Map { me, shard: shard.clone() });
        let imap = Context::new(Rc::new(host), options, map, ways.clone());
        ways.cores.borrow_mut().push(Rc::downgrade(&imap));
        let listener = Rc::new(rt.listen(PORT + me as u16));
        rt.spawn(serve::accept(imap, listener, Rc::new(wish.door.clone())));
        shards.push(shard);
    }
    Ok(shards)
}
