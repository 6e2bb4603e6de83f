//! L4: finds out whether a message comes from whom it says: SPF, DKIM, DMARC, ARC by `mail-auth`.
//!
//! Owns who is asked, how often and for how long: look-ups of SPF (RFC 7208 §4.6.4), all others of a
//! message, and all of them together in time. What answers mean is `known`'s: a part of the message is run
//! through with what is known, what it lacks is looked up, and it is run again, until it lacks nothing.
//! Between two runs and two signatures others have their turn. What cannot be asked in time is a temporary
//! error.

use super::aside::Threads;
use super::fields::author_domains;
use super::known::{Aim, Known, Question, Run, Said, Stop, Text, no_record, no_use};
use super::results::{Aligned, Chain, Outcome, Results, Wish};
use super::rules::{Mode, Modes};
use super::verify::{LIGHT, Verified, Work, ready};
use super::watch::Sum;
use crate::route::dns::{self, Lookup};
use crate::route::mx::{Answer, Why};
use crate::runtime::{both, yield_now};
use mail_auth::common::to_a_label;
use mail_auth::dmarc::{Policy, verify::DmarcParameters};
use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::hickory_resolver::config::ResolverConfig;
use mail_auth::hickory_resolver::net::runtime::TokioRuntimeProvider;
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{
    AuthenticatedMessage, DkimOutput, DmarcOutput, DmarcResult, MessageAuthenticator, SpfOutput, SpfResult,
    Txt,
};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use tokio::sync::Semaphore;

/// Look-ups for one message, the mechanisms of SPF not counted.
const LOOKUPS_MAX: u32 = 100;
/// Look-ups of SPF that find nothing (RFC 7208 §4.6.4).
const VOID_MAX: u32 = 2;
/// Runs of one part; the bounds of SPF end it before.
const RUNS_MAX: usize = 300;
/// Times that a message goes to another thread: keys are known before, third parties may be asked for then.
const ASIDE_MAX: usize = 3;
/// Look-ups at a time, of all messages, and of each: one whose name servers are silent must not take all.
const AT_A_TIME: usize = 1024;
const OF_EACH: usize = 4;

/// What is looked at.
pub struct Mail<'a> {
    /// Address of the client.
    pub client: IpAddr,
    /// Its name in EHLO.
    pub helo: &'a str,
    /// Address of the sender; empty: a notification.
    pub sender: &'a str,
    /// The header as it came.
    pub header: &'a [u8],
    /// Hashes of the body, those that [`super::watch::Watch::want_for_signatures`] has asked for.
    pub sums: Vec<Sum>,
    /// Our own name.
    pub host: &'a str,
}

/// Ends when there is no more time.
pub type Expired<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Who can say it.
pub trait Check {
    /// What there is to be said of the message, for all methods that are not off.
    fn check<'a>(
        &'a self,
        mail: Mail<'a>,
        wanted: Modes,
        expired: Expired<'a>,
    ) -> Pin<Box<dyn Future<Output = Results> + 'a>>;
}

/// Name servers, and what their answers mean.
pub struct Checker {
    lookup: Rc<dyn Lookup>,
    places: Semaphore,
    /// It knows no name servers: all it needs is known before.
    engine: MessageAuthenticator,
    threads: Option<Aside>,
}

/// Where what takes long is done.
struct Aside {
    threads: Threads,
    busy: Box<dyn Fn()>,
}

/// What is wanted of a message's content.
#[derive(Clone, Copy)]
struct Content {
    dkim: bool,
    arc: bool,
}

impl Checker {
    /// Asks this.
    ///
    /// # Panics
    /// Never: a resolver without servers can be made.
    #[must_use]
    pub fn new(lookup: Rc<dyn Lookup>) -> Self {
        let nobody = ResolverConfig::from_name_servers(Vec::new());
        let builder = TokioResolver::builder_with_config(nobody, TokioRuntimeProvider::default());
        let engine = MessageAuthenticator(builder.build().expect("nothing can fail about no servers"));
        Checker { lookup, places: Semaphore::new(AT_A_TIME), engine, threads: None }
    }

    /// Signatures that take long are verified there. `busy` is called when there is too much of it: the
    /// signatures of that message are temporary errors.
    #[must_use]
    pub fn with_threads(mut self, threads: Threads, busy: Box<dyn Fn()>) -> Self {
        self.threads = Some(Aside { threads, busy });
        self
    }
}

impl Check for Checker {
    fn check<'a>(
        &'a self,
        mail: Mail<'a>,
        wanted: Modes,
        expired: Expired<'a>,
    ) -> Pin<Box<dyn Future<Output = Results> + 'a>> {
        let case = Case {
            client: mail.client.to_canonical(),
            known: RefCell::default(),
            asked: Cell::default(),
            places: Semaphore::new(OF_EACH),
            time: Time { expired: RefCell::new(expired), over: Cell::new(false) },
        };
        Box::pin(self.check_all(case, mail, wanted))
    }
}

/// A message that is being looked at.
struct Case<'a> {
    client: IpAddr,
    known: RefCell<Known>,
    asked: Cell<u32>,
    places: Semaphore,
    time: Time<'a>,
}

/// The time that is left for all look-ups of a message together.
struct Time<'a> {
    expired: RefCell<Expired<'a>>,
    over: Cell<bool>,
}

impl Time<'_> {
    async fn within<T>(&self, mut work: Pin<Box<impl Future<Output = T>>>) -> Option<T> {
        poll_fn(|cx| {
            if self.over.get() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(value) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            if self.expired.borrow_mut().as_mut().poll(cx).is_ready() {
                self.over.set(true);
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }
}

/// What the answer says; none that could be given is a failure.
fn said<T>(answer: Answer<T>, make: impl FnOnce(Vec<T>) -> Said) -> Said {
    match answer {
        Ok(found) => make(found.records),
        Err(missing) => match missing.why {
            Why::NoName => Said::None(true),
            Why::NoData => Said::None(false),
            Why::Bogus | Why::Failed(_) => Said::Failed,
        },
    }
}

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(a) = ip { Some(a) } else { None }
}

fn v6(ip: IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(a) = ip { Some(a) } else { None }
}

impl Checker {
    async fn ask(&self, question: &Question, case: &Case<'_>) -> Said {
        let _own = case.places.acquire().await.expect("never closed");
        let _place = self.places.acquire().await.expect("never closed");
        match question {
            Question::Text(what, name) => {
                said(self.lookup.txt(name).await, |texts| Said::of_texts(*what, &texts))
            }
            Question::Mx(name) => said(self.lookup.mx(name).await, |list| {
                Said::Mx(list.into_iter().map(|mx| (mx.preference, mx.host)).collect())
            }),
            Question::V4(name) => {
                said(self.lookup.ipv4(name).await, |list| Said::V4(list.into_iter().filter_map(v4).collect()))
            }
            Question::V6(name) => {
                said(self.lookup.ipv6(name).await, |list| Said::V6(list.into_iter().filter_map(v6).collect()))
            }
            // RFC 7208 §5.5: trouble is no name, here alone.
            Question::Names => {
                let names = dns::confirmed(&*self.lookup, case.client).await;
                Said::Names(names.map_or_else(|_| Vec::new(), |(names, _)| names))
            }
        }
    }

    /// Finds an answer out; `None`: there is no more time.
    async fn learn(&self, case: &Case<'_>, question: Question, counted: bool) -> Option<()> {
        if case.known.borrow().get(&question).is_some() {
            return Some(());
        }
        if counted {
            case.asked.set(case.asked.get() + 1);
        }
        let said = if counted && case.asked.get() > LOOKUPS_MAX {
            Said::Failed
        } else {
            case.time.within(Box::pin(self.ask(&question, case))).await?
        };
        case.known.borrow_mut().learn(question, said);
        Some(())
    }

    /// Runs a part through until it lacks nothing; `None`: there is no more time.
    async fn settle<T>(
        &self,
        case: &Case<'_>,
        counted: bool,
        mut run: impl FnMut(&Known) -> Result<T, Question>,
    ) -> Option<T> {
        for _ in 0..RUNS_MAX {
            let result = run(&case.known.borrow());
            match result {
                Ok(value) => return Some(value),
                Err(question) => self.learn(case, question, counted).await?,
            }
            yield_now().await;
        }
        None
    }

    async fn check_all(&self, case: Case<'_>, mut mail: Mail<'_>, wanted: Modes) -> Results {
        let on = |mode: Mode| mode != Mode::Off;
        let sums = std::mem::take(&mut mail.sums);
        let work = Work::new(mail.header, sums.clone());
        let authors = author_domains(work.message());
        // All that DMARC wants to know of it.
        let message = AuthenticatedMessage { from: work.message().from.clone(), ..Default::default() };
        let of_client = async {
            if on(wanted.spf) || on(wanted.dmarc) { Some(self.spf(&case, &mail).await) } else { None }
        };
        let content = Content { dkim: on(wanted.dkim) || on(wanted.dmarc), arc: on(wanted.arc) };
        let of_content = self.content(&case, (mail.header, &sums), work, content);
        let (spf, (dkim, arc)) = both(of_client, of_content).await;
        let mut results =
            Results { author: authors.first().cloned().unwrap_or_default(), arc, ..Results::default() };
        if let (Some(spf), true) = (&spf, on(wanted.dmarc)) {
            let outputs: Vec<DkimOutput<'_>> = dkim.iter().filter_map(Verified::output).collect();
            let params = || DmarcParameters {
                message: &message,
                dkim_output: &outputs,
                dkim2_output: None,
                rfc5321_mail_from_domain: &spf.domain,
                spf_output: &spf.main,
            };
            results.dmarc = Some(self.dmarc(&case, authors.len(), params).await);
        }
        if let (Some(spf), true) = (spf, on(wanted.spf)) {
            results.spf = Some((outcome_of_spf(spf.main.result()), spf.domain));
            results.helo = spf.helo.map(|(outcome, name)| (outcome_of_spf(outcome), name));
        }
        results.dkim = on(wanted.dkim).then(|| dkim.into_iter().map(|s| s.signed).collect());
        results
    }

    async fn spf(&self, case: &Case<'_>, mail: &Mail<'_>) -> Spf {
        let helo = to_a_label(mail.helo).into_owned();
        let ehlo = || SpfParameters::verify_ehlo(case.client, &helo, mail.host);
        let of_helo = self.host(case, &helo, ehlo);
        let Some((local, domain)) = mail.sender.rsplit_once('@') else {
            // RFC 7208 §2.4: postmaster at the name in EHLO.
            return Spf { main: of_helo.await, helo: None, domain: helo.clone() };
        };
        let domain = to_a_label(domain).into_owned();
        let sender = format!("{local}@{domain}");
        let of_sender = || SpfParameters::verify_mail_from(case.client, &helo, mail.host, &sender);
        let (main, of_helo) = both(self.host(case, &domain, of_sender), of_helo).await;
        Spf { main, helo: Some((of_helo.result(), helo.clone())), domain }
    }

    /// `check_host()` of RFC 7208 §4.
    async fn host<'p>(
        &self,
        case: &Case<'_>,
        domain: &str,
        params: impl Fn() -> SpfParameters<'p>,
    ) -> SpfOutput {
        let output = |result| SpfOutput::new(domain.to_owned()).with_result(result);
        // RFC 7208 §4.3: neither an address literal nor a single label is looked up.
        let name = domain.trim_end_matches('.');
        if !name.contains('.') || name.starts_with('[') {
            return output(SpfResult::None);
        }
        let first = Question::Text(Text::Spf, name.to_lowercase().into());
        if self.learn(case, first.clone(), false).await.is_none() {
            return output(SpfResult::TempError);
        }
        let result = match case.known.borrow().get(&first) {
            Some(Said::Text(Txt::Spf(_))) => None,
            Some(Said::None(_)) => Some(SpfResult::None),
            Some(Said::Text(Txt::Error(e))) if *e == no_record() => Some(SpfResult::None),
            // There is a record, and it cannot be used.
            Some(Said::Text(Txt::Error(e))) if *e == no_use() => Some(SpfResult::PermError),
            _ => Some(SpfResult::TempError),
        };
        if let Some(result) = result {
            return output(result);
        }
        let checked = self.settle(case, false, |known| {
            let run = Run::new(known, Aim::Spf);
            let checked = ready(self.engine.check_host(run.with(params())));
            match (run.stopped(), checked) {
                (Some(Stop::Need(question)), _) => Err(question),
                (Some(Stop::Failed), _) | (_, None) => Ok(output(SpfResult::TempError)),
                (None, Some(checked)) => Ok(match checked.result() {
                    SpfResult::None => output(SpfResult::PermError),
                    SpfResult::TempError | SpfResult::PermError => checked,
                    _ if run.voids() > VOID_MAX => output(SpfResult::PermError),
                    _ => checked,
                }),
            }
        });
        checked.await.unwrap_or_else(|| output(SpfResult::TempError))
    }

    /// Signatures and seals. `sums` are hashes of the body.
    async fn content(
        &self,
        case: &Case<'_>,
        (header, sums): (&[u8], &[Sum]),
        mut work: Work<'_>,
        wanted: Content,
    ) -> (Vec<Verified>, Option<Chain>) {
        let keys = work.keys(wanted.dkim, wanted.arc).into_iter().map(|key| self.learn(case, key, true));
        dns::all(keys.collect()).await;
        let heavy = work.weight(wanted.dkim, wanted.arc) > LIGHT;
        let (outcomes, chain) = match self.threads.as_ref().filter(|_| heavy) {
            Some(threads) => match self.aside(case, (header, sums), threads, wanted).await {
                Some((outcomes, chain)) => (outcomes, chain),
                None => (work.undecided(), None),
            },
            None => self.here(case, &mut work, wanted).await,
        };
        let lost = || Chain { outcome: Outcome::TempError, sealer: String::new() };
        let chain = wanted.arc.then(|| chain.unwrap_or_else(lost));
        (if wanted.dkim { work.verified(outcomes) } else { Vec::new() }, chain)
    }

    /// One after the other, and others in between.
    async fn here(
        &self,
        case: &Case<'_>,
        work: &mut Work<'_>,
        wanted: Content,
    ) -> (Vec<Outcome>, Option<Chain>) {
        let mut outcomes = Vec::new();
        for n in 0..if wanted.dkim { work.signatures() } else { 0 } {
            let verified = self.settle(case, true, |known| work.signature(n, &self.engine, known)).await;
            outcomes.push(verified.unwrap_or(Outcome::TempError));
            yield_now().await;
        }
        if !wanted.arc {
            return (outcomes, None);
        }
        (outcomes, self.settle(case, true, |known| work.chain(&self.engine, known)).await)
    }

    /// On another thread; `None`: there are no threads to be had, or no more time.
    async fn aside(
        &self,
        case: &Case<'_>,
        (header, sums): (&[u8], &[Sum]),
        threads: &Aside,
        wanted: Content,
    ) -> Option<(Vec<Outcome>, Option<Chain>)> {
        for _ in 0..ASIDE_MAX {
            let (engine, known) = (self.engine.clone(), case.known.borrow().clone());
            let (header, sums) = (header.to_vec(), sums.to_vec());
            let job = move || Work::new(&header, sums).all(&engine, &known, wanted.dkim, wanted.arc);
            let Ok(done) = case.time.within(Box::pin(threads.threads.ask(job))).await? else {
                (threads.busy)();
                return None;
            };
            let mut lacks: Vec<Question> =
                done.signatures.iter().filter_map(|one| one.as_ref().err().cloned()).collect();
            lacks.extend(done.chain.iter().filter_map(|one| one.as_ref().err().cloned()));
            if lacks.is_empty() {
                let outcomes = done.signatures.into_iter().map(|o| o.unwrap_or(Outcome::TempError));
                return Some((outcomes.collect(), done.chain.and_then(Result::ok)));
            }
            dns::all(lacks.into_iter().map(|lack| self.learn(case, lack, true)).collect()).await;
        }
        None
    }

    async fn dmarc<'p>(
        &self,
        case: &Case<'_>,
        authors: usize,
        params: impl Fn() -> DmarcParameters<'p>,
    ) -> Aligned {
        let aligned = |outcome, wish| Aligned { outcome, wish, authors };
        if authors != 1 {
            return aligned(Outcome::PermError, Wish::None);
        }
        let checked = self.settle(case, true, |known| {
            let run = Run::new(known, Aim::Dmarc);
            let checked = ready(self.engine.verify_dmarc(run.with(params())));
            match (run.stopped(), checked) {
                (Some(Stop::Need(question)), _) => Err(question),
                (_, None) => Ok(aligned(Outcome::TempError, Wish::None)),
                (_, Some(output)) => Ok(match outcome_of_dmarc(&output) {
                    // Which policy holds depends on whether the author's domain is there.
                    Outcome::Fail if run.failed() => aligned(Outcome::TempError, Wish::None),
                    outcome => aligned(outcome, wish(&output, run.no_name())),
                }),
            }
        });
        checked.await.unwrap_or_else(|| aligned(Outcome::TempError, Wish::None))
    }
}

/// SPF of both identities.
struct Spf {
    main: SpfOutput,
    /// The name in EHLO, where the sender is another identity.
    helo: Option<(SpfResult, String)>,
    /// Of the main one.
    domain: String,
}

fn outcome_of_spf(result: SpfResult) -> Outcome {
    match result {
        SpfResult::Pass => Outcome::Pass,
        SpfResult::Fail => Outcome::Fail,
        SpfResult::SoftFail => Outcome::SoftFail,
        SpfResult::Neutral => Outcome::Neutral,
        SpfResult::TempError => Outcome::TempError,
        SpfResult::PermError => Outcome::PermError,
        SpfResult::None => Outcome::None,
    }
}

fn outcome_of_dmarc(output: &DmarcOutput) -> Outcome {
    match output.result() {
        DmarcResult::Pass => Outcome::Pass,
        DmarcResult::Fail(_) => Outcome::Fail,
        DmarcResult::TempError(_) => Outcome::TempError,
        DmarcResult::PermError(_) => Outcome::PermError,
        DmarcResult::None => Outcome::None,
    }
}

/// What the domain's owner wishes; `missing`: there is no such domain.
fn wish(output: &DmarcOutput, missing: bool) -> Wish {
    let mut policy = output.policy();
    if let Some(record) = output.dmarc_record().filter(|_| missing) {
        // RFC 9989 §4.7: of a domain that is not there, and one level lower in test mode.
        policy = match record.np {
            Policy::Reject if record.t => Policy::Quarantine,
            Policy::Quarantine if record.t => Policy::None,
            policy => policy,
        };
    }
    match policy {
        Policy::Reject => Wish::Reject,
        Policy::Quarantine => Wish::Quarantine,
        Policy::None | Policy::Unspecified => Wish::None,
    }
}

#[cfg(test)]
mod tests;
