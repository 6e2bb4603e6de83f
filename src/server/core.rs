//! One mta core: opens its queues, serves its listeners, sends its mail, ends in order.
//!
//! Runs on the core's own thread and ring. An error of the start is told to the control thread; a
//! poisoned journal closes the listeners, raises the alarm, and waits to be restarted.

use super::access::Posting;
use super::access::wires::{Near, Wires};
use super::accounts::Accounts;
use super::guard::Guard;
use super::mail_log;
use super::names::{self, Names};
use super::residents::Residents;
use super::settings;
use super::tables::Tables;
use crate::access::roll;
use crate::attempts::Attempts;
use crate::auth::client::Account;
use crate::auth::passwd::Users;
use crate::auth::service::Logins;
use crate::authenticity::aside;
use crate::authenticity::check::Checker;
use crate::authenticity::keys::Signers;
use crate::base::ids::{LogNumber, MessageId};
use crate::base::time::Mono;
use crate::config::Config;
use crate::config::outgoing::Outgoing;
use crate::delivery::agent;
use crate::delivery::logs::{self, Kept, Logs, News, Setup};
use crate::delivery::post;
use crate::delivery::trust::{self, Trust};
use crate::events::mail::MailLog;
use crate::events::trace::Tracer;
use crate::events::{Events, Level};
use crate::intake::Intake;
use crate::metrics::{self, destinations::Registry};
use crate::policy::greylist::Greylist;
use crate::queue::common::Commons;
use crate::queue::control::{Request, Response};
use crate::queue::desk::loading::Loaded;
use crate::queue::desk::open::{Parts, Recovery};
use crate::queue::desk::{Desk, Options as DeskOptions};
use crate::queue::limits::Admission;
use crate::queue::routing::Routing;
use crate::queue::rules::Rule;
use crate::queue::shares::Shares;
use crate::route::dns::Lookup;
use crate::route::tables::Router;
use crate::runtime::cross::Receiver;
use crate::runtime::uring::Uring;
use crate::runtime::{Clock, Listener, Net, Runtime, listen, memory};
use crate::smtp::serve::checks::Policy;
use crate::smtp::serve::lists::Lists;
use crate::smtp::serve::{self, Context, filter, names as client_names};
use crate::storage::options::Poison;
use crate::tls::Certificates;
use crate::tls::client::Rules;
use metrics_exporter_prometheus::PrometheusRecorder;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Names of files in one event.
const NAMES_TOLD: usize = 5;

/// What the control thread tells a core.
pub enum Note {
    /// New tables.
    Router(Arc<Router>),
    /// New users.
    Users(Arc<Users>),
    /// A request of an operator, and where the answer goes.
    Control(Request, oneshot::Sender<Response>),
    /// A question about its sessions, and where the answer goes.
    Roll(roll::Question, oneshot::Sender<roll::Answer>),
    /// Copy the mailbox shards into this directory, and where the answer goes: number and bytes of each, or
    /// why there is no copy.
    Backup(PathBuf, oneshot::Sender<Vec<(u16, Result<u64, String>)>>),
    /// Finish what is in hand within this time, and end.
    Stop(Duration),
}

/// What a core shows to others.
#[derive(Default)]
pub struct Health {
    state: AtomicU8,
    /// When it last went round; 0: it has not yet.
    beat: AtomicU64,
    /// An operator wants no new mail to be taken.
    draining: AtomicBool,
}

/// Values of [`Health`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// The queue is being read back.
    Starting = 0,
    /// New mail is taken.
    Ready = 1,
    /// No space for new mail.
    Full = 2,
    /// A write has failed.
    Poisoned = 3,
    /// No new mail any more.
    Stopping = 4,
    /// Everything is closed.
    Ended = 5,
}

impl Health {
    /// From now on so.
    pub fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// From now on no new mail is wanted; or it is again.
    pub fn set_draining(&self, on: bool) {
        self.draining.store(on, Ordering::Relaxed);
    }

    /// True if an operator wants no new mail to be taken.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// It goes round.
    pub fn beat(&self, now: Mono) {
        self.beat.store(now.0, Ordering::Relaxed);
    }

    /// How long ago it last went round, if it has begun to and has not ended.
    pub fn beat_age(&self, now: Mono) -> Option<Duration> {
        match (self.beat.load(Ordering::Relaxed), self.state()) {
            (0, _) | (_, State::Ended) => None,
            (at, _) => Some(now.since(Mono(at))),
        }
    }

    /// The state of the core.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Starting,
            1 => State::Ready,
            2 => State::Full,
            3 => State::Poisoned,
            4 => State::Stopping,
            _ => State::Ended,
        }
    }
}

/// What a core starts with.
pub struct Seed {
    /// Its number, which is also the number of its log.
    pub number: u16,
    /// How many there are.
    pub cores: usize,
    /// The configuration.
    pub config: Arc<Config>,
    /// The first tables.
    pub router: Arc<Router>,
    /// Counters of all cores.
    pub guard: Guard,
    /// For handshakes.
    pub certificates: Option<Certificates>,
    /// For mail that leaves.
    pub outgoing: Outgoing,
    /// Keys of mail of our own clients, if there are any.
    pub signers: Option<Signers>,
    /// Who makes signatures that take long.
    pub aside: Option<aside::Threads>,
    /// What seals mail of strangers that is passed on.
    pub sealer: Option<Signers>,
    /// Who has come again, if anybody is asked to.
    pub greylist: Option<Greylist>,
    /// Users, if there are any.
    pub accounts: Option<Accounts>,
    /// Limits of destinations, of all cores.
    pub commons: Arc<Commons>,
    /// Rules of operators.
    pub rules: Vec<Rule>,
    /// The poison of the data directory's file system.
    pub poison: Poison,
    /// Its series.
    pub metrics: metrics::Core,
    /// Where series of logs that it adopts are registered.
    pub recorder: Arc<PrometheusRecorder>,
    /// Where their destinations are counted.
    pub destinations: Registry,
    /// The way to mailboxes, if there are any here.
    pub post: Option<Post>,
    /// Its reserved sockets, in the order of [`Config::mail_listeners`].
    pub sockets: Vec<OwnedFd>,
    /// From the control thread.
    pub notes: Receiver<Note>,
    /// For others to see.
    pub health: Arc<Health>,
    /// Alarms.
    pub events: Events,
    /// Told when the core serves, or why it cannot.
    pub started: oneshot::Sender<Result<(), String>>,
}

/// The way of a mail core to mailboxes.
pub struct Post {
    /// How many shards there are.
    pub shards: u16,
    /// To each access core.
    pub near: Vec<Option<Near>>,
    /// Told when the core has no more mail for them.
    pub posting: Posting,
}

impl Seed {
    fn voice(&self) -> Voice {
        Voice { events: self.events.clone(), number: self.number }
    }
}

/// The events of one core.
#[derive(Clone)]
pub struct Voice {
    /// Where they go.
    pub events: Events,
    /// The core's number.
    pub number: u16,
}

impl Voice {
    /// Tells of something.
    pub fn say(&self, level: Level, name: &'static str, text: String) {
        self.events.send(level, name, text, Some(self.number));
    }
}

/// How a filter is told of that cannot be asked, or can be again.
fn filter_voice(voice: Voice) -> filter::Tell {
    Box::new(move |options, trouble| {
        let (name, place) = (&options.name, &options.place);
        match trouble {
            None => voice.say(Level::Info, "filter_works", format!("filter {name} answers again")),
            Some(why) => {
                let text = format!(
                    "filter {name} at {place}: {why}; mail without its verdict: {}",
                    match options.when_down {
                        filter::WhenDown::TempFail => "451, the client tries again",
                        filter::WhenDown::Accept => "taken",
                        filter::WhenDown::Reject => "refused",
                    }
                );
                voice.say(Level::Warn, "filter_failed", text);
            }
        }
    })
}

/// How the core finds hosts.
fn names(rt: &Uring, seed: &Seed) -> Result<Rc<Names<Uring>>, String> {
    let bound = seed.sockets.iter().filter_map(|s| listen::address(s).ok()).collect();
    let (voice, off) = (seed.voice(), seed.metrics.dnssec_off.clone());
    let tell = move |on: bool| {
        off.set(if on { 0.0 } else { 1.0 });
        if on {
            voice.say(Level::Info, "dnssec_on", "signatures come through again: DNSSEC is on".into());
        } else {
            let text = "the name servers strip DNSSEC signatures: DNSSEC is off, all answers count as \
                        insecure; use a validating resolver (dns.servers), or set dns.dnssec = \"off\"";
            voice.say(Level::Alarm, "dnssec_off", text.into());
        }
    };
    Names::new(rt, &seed.config, bound, &seed.metrics, Box::new(tell))
}

/// How the core's connections to next hops are secured.
fn trust(seed: &Seed) -> Result<Trust, String> {
    let rules = Rules::new(seed.outgoing.roots.clone()).map_err(|fault| fault.text)?;
    let account = seed.outgoing.login.clone().map(|(login, password)| Account::new(&login, password));
    let voice = seed.voice();
    let tell = move |news: &trust::News<'_>| match news {
        trust::News::Secured(text) => voice.say(Level::Info, "tls_out", (*text).into()),
        trust::News::InClear(text) => {
            let text = format!("{text}; mail goes there in clear text for an hour");
            voice.say(Level::Warn, "tls_out_failed", text);
        }
    };
    Ok(Trust::new(rules, account, Box::new(tell)))
}

/// What the queues of the core are made of.
fn setup(
    rt: &Uring,
    seed: &Seed,
    tables: &Rc<Tables>,
    names: Rc<Names<Uring>>,
    trust: Trust,
    post: Option<&Wires>,
) -> Setup<Uring> {
    let parts = Parts {
        rt: rt.clone(),
        storage: settings::storage(&seed.config),
        poison: seed.poison.clone(),
        log: LogNumber(seed.number),
        after: MessageId::default(),
        options: DeskOptions {
            brakes: seed.guard.brakes.clone(),
            ..settings::desk(&seed.config, seed.cores)
        },
        metrics: seed.metrics.clone(),
        routing: tables.clone(),
        shares: Rc::new(Shares::new(seed.commons.clone(), seed.number)),
    };
    let folder = seed.config.data_dir.join("queue");
    let (recorder, voice, place) = (seed.recorder.clone(), seed.voice(), folder.clone());
    let destinations = seed.destinations.clone();
    Setup {
        folder,
        cores: u16::try_from(seed.cores).expect("numbers of logs are that short"),
        parts,
        series: Box::new(move |log| {
            metrics::Core::new(&*recorder, usize::from(log.0)).counted_in(&destinations)
        }),
        rules: seed.rules.clone(),
        resolver: names,
        agent: agent::Options {
            trust: Some(Rc::new(trust)),
            post: post.map(|wires| -> Rc<dyn post::Post> { Rc::new(wires.clone()) }),
            ..settings::agent(&seed.config)
        },
        tell: Box::new(move |news| tell(&voice, &place, news)),
    }
}

/// The core's desk for logins, if there are users.
fn logins(rt: &Uring, seed: &Seed) -> Option<Rc<Logins<Uring>>> {
    let accounts = seed.accounts.as_ref()?;
    let voice = seed.voice();
    let tell = move |level, name, text| voice.say(level, name, text);
    Some(accounts.desk(rt, &seed.config, seed.cores, &seed.metrics, tell))
}

fn listen_at(rt: &Uring, sockets: &[OwnedFd]) -> io::Result<Vec<Rc<<Uring as Net>::Listener>>> {
    let open = |socket: &OwnedFd| {
        listen::listen(socket)?;
        Ok(Rc::new(rt.listener(socket.try_clone()?)?))
    };
    sockets.iter().map(open).collect()
}

/// The way to mailboxes, if there are any, and who is told when nothing more will go there.
fn wires(rt: &Uring, seed: &mut Seed) -> Option<(Wires, Posting)> {
    let residents = Residents::new(&seed.config, seed.accounts.as_ref().map(Accounts::users))?;
    let Post { shards, near, posting } = seed.post.take()?;
    Some((Wires::new(rt, shards, residents, None, near), posting))
}

/// How often a core gives memory back.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// Runs the core until it is told to stop.
pub async fn run(rt: Uring, mut seed: Seed) {
    let panics = seed.metrics.session_panics.clone();
    rt.on_panic(move || panics.increment(1));
    rt.spawn(beat(rt.clone(), seed.health.clone(), seed.metrics.core_lag.clone()));
    let (wires, posting) = wires(&rt, &mut seed).unzip();
    let tracer = Tracer::default();
    let tables = Tables::new(seed.config.clone(), seed.router.clone(), seed.guard.clone());
    wires.iter().for_each(|wires| tables.set_post(wires.clone()));
    let filters = settings::filters(&seed.config, || filter_voice(seed.voice()));
    let doors = settings::doors(&seed.config, seed.certificates.as_ref(), &filters);
    let strangers = || names::strangers(&rt, &seed.config, &seed.metrics);
    let checker = doors.iter().any(|d| d.authenticity.is_some()).then(strangers);
    let found = names(&rt, &seed).and_then(|names| Ok((names, trust(&seed)?, checker.transpose()?)));
    let (names, trust, checker) = match found {
        Ok(all) => all,
        Err(text) => return drop(seed.started.send(Err(text))),
    };
    let policy = policy(&rt, &seed, &names);
    let mut setup = setup(&rt, &seed, &tables, names, trust, wires.as_ref());
    setup.agent.tracer = tracer.clone();
    let (logs, told) = match Logs::open(setup).await {
        Ok((logs, recovery)) => {
            report(&seed.voice(), &recovery);
            (logs, recovery.index_lost)
        }
        Err((dir, e)) => {
            // The control thread waits for it or has given up.
            let _ = seed.started.send(Err(format!("queue {}: {e}", dir.display())));
            return;
        }
    };
    let logins = logins(&rt, &seed);
    let ctx = context(&rt, &seed, (&tables, &logs), logins.as_ref(), wires);
    ctx.set_tracer(tracer);
    policy.into_iter().for_each(|policy| ctx.set_policy(policy));
    checker.into_iter().for_each(|lookup| ctx.set_checker(self::checker(&seed, lookup)));
    let mail_log = record(&rt, &seed, &ctx, &logs);
    let listeners = match listen_at(&rt, &seed.sockets) {
        Ok(listeners) => listeners,
        Err(e) => {
            let _ = seed.started.send(Err(format!("cannot listen: {e}")));
            return logs.close().await;
        }
    };
    for (listener, door) in listeners.iter().zip(doors) {
        rt.spawn(serve::accept(ctx.clone(), listener.clone(), door));
    }
    let voice = seed.voice();
    let Seed { notes, health, started, .. } = seed;
    health.set(State::Ready);
    let _ = started.send(Ok(()));
    rt.spawn(report_loaded(logs.own().clone(), voice.clone(), told));
    // Behind the back of the sessions, however much there is.
    logs.adopt();
    rt.spawn(give_back(rt.clone()));
    rt.spawn(watch(rt.clone(), logs.clone(), health.clone(), listeners.clone(), voice));
    let grace = obey(&rt, notes, (&logs, &ctx), &tables, logins.as_ref()).await;
    health.set(State::Stopping);
    let until = rt.now().after(grace);
    listeners.iter().for_each(|l| l.close());
    ctx.stop();
    logs.stop();
    ctx.drained(until).await;
    logs.drained(until).await;
    posting.inspect(Posting::done);
    logs.close().await;
    mail_log.flush();
    health.set(State::Ended);
}

/// What sessions need.
fn context(
    rt: &Uring,
    seed: &Seed,
    (tables, logs): (&Rc<Tables>, &Logs<Uring>),
    logins: Option<&Rc<Logins<Uring>>>,
    wires: Option<Wires>,
) -> Rc<Context<Uring>> {
    let options = settings::sessions(&seed.config, seed.cores);
    let intake = Intake::new(logs.own().clone());
    let ctx = Context::new(rt.clone(), intake, tables.clone(), seed.metrics.clone(), options);
    let failures = seed.guard.failures.clone();
    ctx.set_attempts(Attempts::new(failures, seed.metrics.clone(), seed.events.clone(), seed.number));
    logins.into_iter().for_each(|logins| ctx.set_logins(logins.clone()));
    wires.into_iter().for_each(|wires| ctx.set_post(Rc::new(wires)));
    seed.signers.iter().for_each(|signers| ctx.set_signers(signers.clone()));
    seed.sealer.iter().for_each(|sealer| ctx.set_sealer(sealer.clone()));
    seed.aside.iter().for_each(|threads| ctx.set_aside(threads.clone()));
    seed.config.reports.iter().for_each(|reports| ctx.set_reports(reports.clone()));
    ctx
}

/// Who finds out where mail comes from.
fn checker(seed: &Seed, lookup: Rc<dyn Lookup>) -> Rc<Checker> {
    let checker = Checker::new(lookup);
    Rc::new(match seed.aside.clone() {
        None => checker,
        Some(threads) => {
            let busy = seed.metrics.authenticity_busy.clone();
            checker.with_threads(threads, Box::new(move || busy.increment(1)))
        }
    })
}

/// What holds clients back, if anything does.
fn policy(rt: &Uring, seed: &Seed, names: &Rc<Names<Uring>>) -> Option<Policy<Uring>> {
    let brakes = seed.guard.brakes.clone();
    let lists = (!seed.config.lists.lists.is_empty()).then(|| {
        // A resolver of their own: the many names of lists must not push out what mail finds its way by.
        // It was possible to make one a moment ago.
        let own = Names::new(rt, &seed.config, Vec::new(), &seed.metrics, Box::new(|_| {}));
        let own = own.unwrap_or_else(|_| names.clone());
        Lists::new(rt.clone(), own, seed.metrics.clone(), seed.config.lists.clone())
    });
    let greylist = seed.greylist.clone();
    // Its map may get names any time.
    let names = seed.config.access.client.as_ref().and_then(|_| {
        // It was possible to make one a moment ago.
        let lookup = names::strangers(rt, &seed.config, &seed.metrics).ok()?;
        Some(client_names::Names::new(rt.clone(), lookup, seed.metrics.clone()))
    });
    if brakes.is_none() && lists.is_none() && greylist.is_none() && names.is_none() {
        return None;
    }
    let voice = seed.voice();
    let tell = move |text| voice.say(Level::Warn, "brake", text);
    Some(Policy { brakes, lists, greylist, names, tell: Box::new(tell) })
}

/// The core's mail log, which sessions and queues have from now on.
fn record(rt: &Uring, seed: &Seed, ctx: &Context<Uring>, logs: &Logs<Uring>) -> MailLog {
    let log = mail_log::start(rt, &seed.events, &seed.config, seed.number, &seed.metrics);
    ctx.set_mail_log(log.clone());
    logs.set_mail_log(&log);
    log
}

/// How often a core shows that it goes round.
const BEAT: Duration = Duration::from_millis(250);

/// Shows that the core goes round, and how late it comes to what is due.
pub async fn beat(rt: Uring, health: Arc<Health>, lag: metrics::Histogram) {
    while health.state() != State::Ended {
        let due = rt.now().after(BEAT);
        rt.sleep_until(due).await;
        let now = rt.now();
        lag.record(now.since(due).as_secs_f64());
        health.beat(now);
    }
}

/// Gives memory back that is free for longer than a moment, also when nothing else happens.
pub async fn give_back(rt: Uring) {
    loop {
        rt.sleep_until(rt.now().after(GIVE_BACK)).await;
        memory::give_back();
    }
}

/// Does what the control thread says, until it says stop; gives the time for that.
async fn obey(
    rt: &Uring,
    notes: Receiver<Note>,
    (logs, ctx): (&Logs<Uring>, &Context<Uring>),
    tables: &Rc<Tables>,
    logins: Option<&Rc<Logins<Uring>>>,
) -> Duration {
    let routing: Rc<dyn Routing> = tables.clone();
    let mut notes = notes.on_ring();
    loop {
        match notes.recv().await {
            Some(Note::Router(router)) => {
                tables.set_router(router);
                logs.set_routing(&routing);
            }
            Some(Note::Users(users)) => {
                logins.into_iter().for_each(|l| l.set_store(Rc::new(users.clone())));
                tables.set_users(users);
            }
            Some(Note::Control(request, answer)) => {
                let logs = logs.clone();
                rt.spawn(async move {
                    // The asker may have gone.
                    let _ = answer.send(logs.control(&request).await);
                });
            }
            Some(Note::Roll(question, answer)) => {
                if let roll::Question::Drain(on) = question {
                    if on { ctx.stop() } else { ctx.resume() }
                }
                let told = roll::traced(ctx.tracer(), &question, rt.wall());
                // The asker may have gone.
                let _ = answer.send(told.unwrap_or_else(|| roll::answer(&[ctx], &question)));
            }
            // Shards are the access cores'.
            Some(Note::Backup(..)) => {}
            Some(Note::Stop(grace)) => return grace,
            // The control thread has died; so do we, in order.
            None => return Duration::from_secs(5),
        }
    }
}

/// Watches the queues: closes the door for good after a failed write, and says how things stand.
async fn watch<L: Listener>(
    rt: Uring,
    logs: Logs<Uring>,
    health: Arc<Health>,
    listeners: Vec<Rc<L>>,
    voice: Voice,
) {
    let mut full = false;
    loop {
        rt.sleep_until(rt.now().after(Duration::from_millis(100))).await;
        if health.state() == State::Stopping {
            return;
        }
        if logs.is_dead() {
            health.set(State::Poisoned);
            listeners.iter().for_each(|l| l.close());
            let text = "a write to the journal, the archive or the index failed: no mail is accepted and \
                        none is sent until a restart; look at the disk, then restart";
            voice.say(Level::Alarm, "journal_poisoned", text.into());
            return;
        }
        // Adopted logs take no mail: only the own one can be full.
        let is_full = logs.own().admission() == Admission::Full;
        if is_full != full {
            full = is_full;
            let (level, text) = if full {
                (Level::Alarm, "no space for new mail: clients get 452; deliveries go on")
            } else {
                (Level::Info, "new mail is taken again")
            };
            health.set(if full { State::Full } else { State::Ready });
            voice.say(level, "queue_full", text.into());
        }
    }
}

fn report(voice: &Voice, r: &Recovery) {
    let j = &r.journal;
    voice.say(
        Level::Info,
        "queue_opened",
        format!(
            "{} messages in the queue, {} recipients in doubt; {} segments, {} records read; \
             {} torn batch at the end",
            r.messages, r.in_doubt, j.segments, j.records, j.tears
        ),
    );
    report_faults(voice, "", r);
}

/// What is wrong with a log; `of` says which, in front of each sentence.
fn report_faults(voice: &Voice, of: &str, r: &Recovery) {
    let j = &r.journal;
    if j.damage_count > 0 || j.set_aside > 0 || !r.malformed.is_empty() {
        let text = format!(
            "{of}the journal is damaged: {} places, {} files set aside, {} records unreadable; \
             first: {:?} {:?}",
            j.damage_count,
            j.set_aside,
            r.malformed.len(),
            j.damages.first(),
            r.malformed.first()
        );
        voice.say(Level::Alarm, "journal_damaged", text);
    }
    let a = &r.archive;
    if a.set_aside > 0 || a.bad_heads > 0 {
        let text = format!(
            "{of}the archive is damaged: {} files set aside, {} damaged copies of heads; files: {:?}",
            a.set_aside,
            a.bad_heads,
            &a.set_aside_names[..a.set_aside_names.len().min(NAMES_TOLD)]
        );
        voice.say(Level::Alarm, "archive_damaged", text);
    }
    if r.index_lost {
        report_lost(voice, of);
    }
}

fn report_lost(voice: &Voice, of: &str) {
    let text = format!(
        "{of}the index is not there, or not what the journal needs: it is being made anew from archive and \
         journal"
    );
    voice.say(Level::Warn, "index_lost", text);
}

/// Tells what was found in the index of the core's own log when all of it has been read. `told`: that
/// it was lost has been told.
async fn report_loaded(desk: Desk<Uring>, voice: Voice, told: bool) {
    if desk.index_lost().await == Some(true) && !told {
        report_lost(&voice, "");
    }
    if let Some(loaded) = desk.loaded().await {
        tell_loaded(&voice, "", &loaded);
    }
}

fn tell_loaded(voice: &Voice, of: &str, loaded: &Loaded) {
    let Loaded { parked, in_doubt, unreadable, rebuilt, orphans } = loaded;
    if let Some(again) = rebuilt.filter(|n| *n > 0) {
        let text = format!(
            "{of}the index was lost and has been made anew from the archive: {again} messages may be sent \
             again; `ringpost queue list --in-doubt` has them until they are tried"
        );
        voice.say(Level::Alarm, "index_rebuilt", text);
    }
    if *unreadable > 0 {
        let text = format!(
            "{of}{unreadable} messages of the index cannot be found in the archive: they are not sent; \
             their rows are kept"
        );
        voice.say(Level::Alarm, "index_damaged", text);
    }
    let text = format!(
        "{of}{parked} messages parked in the archive, {in_doubt} recipients of them in doubt; {orphans} \
         bodies without a message removed"
    );
    voice.say(Level::Info, "queue_loaded", text);
}

fn of_log(log: LogNumber) -> String {
    format!("log {:04}: ", log.0)
}

/// What becomes of the logs of cores that are gone.
fn tell(voice: &Voice, folder: &Path, news: &News<'_>) {
    let core = voice.number;
    match news {
        News::Adopted(log, r) => {
            let (log, messages, doubt) = (log.0, r.messages, r.in_doubt);
            let text = format!(
                "log {log:04} adopted by core {core}: {messages} messages, {doubt} recipients in doubt"
            );
            voice.say(Level::Info, "log_adopted", text);
            report_faults(voice, &of_log(LogNumber(log)), r);
        }
        News::Loaded(log, loaded) => tell_loaded(voice, &of_log(*log), loaded),
        News::NotAdopted(log, e) => {
            let text =
                format!("log {:04} cannot be opened, its mail waits; next try in a minute: {e}", log.0);
            voice.say(Level::Alarm, "log_not_adopted", text);
        }
        News::Removed(log) => {
            voice.say(Level::Info, "log_removed", format!("log {:04} is empty and removed", log.0));
        }
        News::Kept(log, why) => {
            let dir = logs::directory(folder, *log);
            let why = match why {
                Kept::Damaged => "something in it could not be read; look at it, then remove it".to_owned(),
                Kept::Holds(path) => format!("{} does not belong to it", path.display()),
                Kept::Failed(e) => format!("it cannot be removed, the next start tries again: {e}"),
            };
            let text = format!("log {:04} is empty but stays in {}: {why}", log.0, dir.display());
            voice.say(Level::Warn, "log_kept", text);
        }
    }
}
