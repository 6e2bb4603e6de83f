//! Where an access core's listeners meet the protocols: each socket is given to the shell that speaks it,
//! and so is each session that comes from another core.
//!
//! A shell works with what is in [`Access`]: the shards of this core, the way to all others, users, limits,
//! certificates. Knows no protocol itself. A protocol that nobody serves is an error of the start.

use super::Access;
use super::wires::{Traveller, Wires};
use crate::access::gate::{Door, Gate, Guest, Permit, Tls};
use crate::access::host::{Host, Meters};
use crate::access::live::Seen;
use crate::access::moving::{Parcel, Roads, Sending};
use crate::access::roll::{self, Answer, Question, Roll};
use crate::attempts::Attempts;
use crate::base::time::Mono;
use crate::config::raw::{OverQuota, Protocol};
use crate::config::resolve::Listener;
use crate::delivery::post::{Post, Unable};
use crate::imap::serve as imap;
use crate::mailbox::api as mailbox;
use crate::mailbox::store::Store;
use crate::policy::access::Networks;
use crate::policy::sessions::Full;
use crate::pop3::inbound::Luggage;
use crate::pop3::serve::{self as pop3, Found, Home, Homes};
use crate::runtime::pool::Pool;
use crate::runtime::uring::Uring;
use crate::runtime::{Clock, Listener as _, Net, Runtime};
use crate::server::guard::Guard;
use crate::server::mail_log;
use crate::server::settings;
use crate::smtp::inbound;
use crate::smtp::reply::Refusal;
use crate::smtp::serve::local::{self, Local};
use crate::smtp::serve::{self as smtp, Asked, Caller, Goal, Refused, Sender};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// A listening socket of an access core.
pub type Socket = Rc<<Uring as Net>::Listener>;

/// The shells of one access core. A handle; clones are the same.
#[derive(Clone)]
pub struct Front(Rc<Shells>);

struct Shells {
    access: Rc<Access>,
    pop3: Rc<pop3::Context<Uring, Store<Uring>>>,
    imap: Rc<imap::Context<Uring, Store<Uring>>>,
    /// None: this core has no shard that can be read.
    lmtp: Option<Rc<smtp::Context<Uring>>>,
}

impl Front {
    /// Shells without listeners.
    pub fn new(access: &Rc<Access>) -> Self {
        let pool = Rc::new(Pool::new(1024));
        let places = Rc::new(Places(access.clone()));
        let of_pop3 = host(access, &pool, pop3::meters(&access.metrics));
        let options = settings::pop3(&access.config);
        let pop3 = pop3::Context::new(Rc::new(of_pop3), options, places.clone(), places.clone());
        let of_imap = host(access, &pool, imap::meters(&access.metrics));
        let options = settings::imap(&access.config, access.cores);
        let imap = imap::Context::new(Rc::new(of_imap), options, places.clone(), places);
        Front(Rc::new(Shells { access: access.clone(), pop3, imap, lmtp: lmtp(access) }))
    }

    /// Begins to serve `socket`, which is one of `listener`'s. `shared`: all cores have the same one.
    ///
    /// # Errors
    /// There is no shell for its protocol.
    pub fn serve(&self, listener: &Listener, socket: &Socket, shared: bool) -> Result<(), String> {
        let Shells { access, pop3, imap, lmtp } = &*self.0;
        match listener.protocol {
            Protocol::Smtp | Protocol::Submission | Protocol::Submissions => {
                Err("mail is taken by the mail cores".into())
            }
            Protocol::Pop3 | Protocol::Pop3s => {
                let service = if listener.protocol == Protocol::Pop3s { "pop3s" } else { "pop3" };
                let door = Rc::new(door(access, listener, "pop3", service));
                access.rt.spawn(pop3::accept(pop3.clone(), socket.clone(), door));
                Ok(())
            }
            Protocol::Imap | Protocol::Imaps => {
                let service = if listener.protocol == Protocol::Imaps { "imaps" } else { "imap" };
                let door = Rc::new(door(access, listener, "imap", service));
                access.rt.spawn(imap::accept(imap.clone(), socket.clone(), door));
                Ok(())
            }
            Protocol::Lmtp => {
                match lmtp {
                    Some(lmtp) => {
                        let door = Rc::new(lmtp_door(access, listener));
                        access.rt.spawn(smtp::accept(lmtp.clone(), socket.clone(), door));
                    }
                    // Without a shard there is no place for long messages: the other cores take its clients,
                    // from the same socket, or from theirs once this one is gone.
                    None if shared => {}
                    None => socket.close(),
                }
                Ok(())
            }
            other => Err(format!("\"{other}\" is not available in this version")),
        }
    }

    /// A session comes from another core.
    pub fn adopt(&self, traveller: Traveller) {
        match traveller {
            Traveller::Pop3(parcel) => {
                self.0.access.rt.spawn(pop3::adopt(self.0.pop3.clone(), parcel));
            }
            Traveller::Imap(parcel) => {
                self.0.access.rt.spawn(imap::adopt(self.0.imap.clone(), parcel));
            }
        }
    }

    /// Answers a question about the sessions of this core.
    pub fn answer(&self, question: &Question) -> Answer {
        let Shells { access, pop3, imap, lmtp } = &*self.0;
        let now = access.rt.now();
        let (pop3, imap) = (Seen(&pop3.host().live, now), Seen(&imap.host().live, now));
        let mut rolls: Vec<&dyn Roll> = vec![&pop3, &imap];
        if let Some(lmtp) = lmtp {
            if let Question::Drain(on) = question {
                if *on { lmtp.stop() } else { lmtp.resume() }
            }
            if let Some(traced) = roll::traced(lmtp.tracer(), question, access.rt.wall()) {
                return traced;
            }
            rolls.push(&**lmtp);
        }
        roll::answer(&rolls, question)
    }

    /// Ends sessions that wait for a command, and the others at their next one.
    pub fn stop(&self) {
        self.0.pop3.host().stop();
        self.0.imap.host().stop();
        self.0.lmtp.iter().for_each(|lmtp| lmtp.stop());
    }

    /// Waits until no session is open, at most until `until`; then cuts the rest off.
    pub async fn drained(&self, until: Mono) {
        self.0.pop3.host().drained(until).await;
        self.0.imap.host().drained(until).await;
        if let Some(lmtp) = &self.0.lmtp {
            lmtp.drained(until).await;
        }
    }
}

/// What the sessions of a protocol share, of which these are the series.
fn host(access: &Rc<Access>, pool: &Rc<Pool>, meters: Meters) -> Host<Uring> {
    let gate: Rc<dyn Gate> = Rc::new(Counters::of(access));
    let options = settings::access_host(&access.config);
    let host = Host::new(access.rt.clone(), gate, (access.metrics.clone(), meters), options, pool.clone());
    let failures = access.guard.failures.clone();
    let events = access.voice.events.clone();
    let attempts = Attempts::new(failures, access.metrics.clone(), events, access.number);
    host.set_logins(access.logins.clone(), Some(attempts));
    host
}

fn door(access: &Access, listener: &Listener, protocol: &'static str, service: &'static str) -> Door {
    Door {
        protocol,
        service,
        tls: match listener.tls {
            inbound::Tls::Off => Tls::Off,
            // Without TLS no password is taken, unless the configuration says so for all.
            inbound::Tls::Offered | inbound::Tls::Required => Tls::Offered,
            inbound::Tls::Implicit => Tls::Implicit,
        },
        certificates: access.certificates.clone(),
        ask_certificate: true,
        proxies: Networks::new(listener.proxies.iter().copied()),
    }
}

/// The shell of LMTP.
fn lmtp(access: &Rc<Access>) -> Option<Rc<smtp::Context<Uring>>> {
    let defer_full = access.config.mailbox.over_quota == OverQuota::Defer;
    let post = Rc::new(access.wires.clone());
    let beside = access.shards.any()?.clone();
    let gate = Residence { counters: Counters::of(access), wires: access.wires.clone(), defer_full };
    let goal = Goal::Mailboxes(Local { post, beside, defer_full });
    let options = settings::lmtp(&access.config, access.cores);
    let metrics = access.metrics.clone();
    let log = mail_log::start(&access.rt, &access.voice.events, &access.config, access.number, &metrics);
    let context = smtp::Context::with_goal(access.rt.clone(), goal, Rc::new(gate), metrics, options);
    context.set_mail_log(log);
    Some(context)
}

fn lmtp_door(access: &Access, listener: &Listener) -> smtp::Door {
    smtp::Door {
        tls: listener.tls,
        certificates: access.certificates.clone(),
        proxies: Networks::new(listener.proxies.iter().copied()),
        forwarders: Networks::new(listener.forwarders.iter().copied()),
        lmtp: true,
        ..smtp::Door::default()
    }
}

/// Who may deliver by LMTP, and to whom: everybody who can connect, to those who have a mailbox.
struct Residence {
    counters: Counters,
    wires: Wires,
    defer_full: bool,
}

impl smtp::Gate for Residence {
    fn admit(&self, caller: &Caller, now: Mono) -> Result<smtp::Guest, Refused> {
        let Guest { trusted, permit } = self.counters.admit(caller, now)?;
        Ok(smtp::Guest { trusted, permit })
    }

    fn sender(&self, _: Sender<'_>, _: &[u8], _: Mono) -> Result<(), Refusal<'static>> {
        Ok(())
    }

    fn recipient(&self, _: Sender<'_>, address: &[u8], _: Mono) -> Result<(), Refusal<'static>> {
        let found = self.wires.resident(address).map(drop);
        found.ok_or_else(|| local::refusal(Unable::Refused(mailbox::Refusal::NoAccount), self.defer_full))
    }

    fn willing<'a>(&'a self, address: &'a [u8], size: u64) -> Option<Asked<'a>> {
        let account = self.wires.resident(address)?.account;
        Some(Box::pin(async move {
            let willing = self.wires.willing(&account, size).await;
            willing.map_err(|r| local::refusal(Unable::Refused(r), self.defer_full))
        }))
    }
}

/// The counters of all cores, as sessions ask for them.
struct Counters {
    networks: Networks,
    guard: Guard,
}

impl Counters {
    fn of(access: &Access) -> Self {
        let networks = Networks::new(access.config.relay.networks.iter().copied());
        Counters { networks, guard: access.guard.clone() }
    }
}

impl Gate for Counters {
    fn admit(&self, caller: &Caller, now: Mono) -> Result<Guest, Refused> {
        let trusted = caller.may_relay && self.networks.contains(caller.address);
        let counted = (!trusted && !caller.speaks_for_others).then_some(caller.address);
        if counted.is_some_and(|address| !self.guard.may_connect(address, now)) {
            return Err(Refused::Rate);
        }
        match self.guard.sessions.enter(counted) {
            Ok(permit) => Ok(Guest { trusted, permit: Box::new(permit) }),
            Err(Full::All) => Err(Refused::Sessions),
            Err(Full::Address) => Err(Refused::Address),
            Err(Full::Network) => Err(Refused::Network),
        }
    }

    fn login(&self, login: &str) -> Option<Permit> {
        Some(Box::new(self.guard.user_sessions.enter(login)?))
    }
}

/// Where accounts are.
struct Places(Rc<Access>);

impl Homes<Store<Uring>> for Places {
    fn home(&self, login: &str) -> Result<Home<Store<Uring>>, mailbox::Refusal> {
        self.0.wires.home(login)
    }

    fn account<'a>(&'a self, _: &'a Store<Uring>, login: &'a str) -> Found<'a> {
        Box::pin(self.0.wires.account(login))
    }
}

impl Roads<OwnedFd, imap::Luggage> for Places {
    fn send(
        &self,
        core: u16,
        parcel: Box<Parcel<OwnedFd, imap::Luggage>>,
    ) -> Sending<'_, OwnedFd, imap::Luggage> {
        Box::pin(async move {
            match self.0.wires.hand_over(core, Traveller::Imap(parcel)).await {
                Err(Traveller::Imap(parcel)) => Err(parcel),
                Err(Traveller::Pop3(_)) => unreachable!("what comes back is what was sent"),
                Ok(()) => Ok(()),
            }
        })
    }
}

impl Roads<OwnedFd, Luggage> for Places {
    fn send(&self, core: u16, parcel: Box<Parcel<OwnedFd, Luggage>>) -> Sending<'_, OwnedFd, Luggage> {
        Box::pin(async move {
            match self.0.wires.hand_over(core, Traveller::Pop3(parcel)).await {
                Err(Traveller::Pop3(parcel)) => Err(parcel),
                Err(Traveller::Imap(_)) => unreachable!("what comes back is what was sent"),
                Ok(()) => Ok(()),
            }
        })
    }
}
