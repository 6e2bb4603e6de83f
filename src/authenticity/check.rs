//! L4: asks name servers whether a message comes from whom it says: SPF, DKIM, DMARC, ARC by `mail-auth`.
//!
//! Owns the bounds: of look-ups in number (RFC 7208 §4.6.4 and one for all of a message) and, all together,
//! in time; of signatures, of the names each of them covers, and of seals. Between two signatures others
//! have their turn, so that a message with many holds up nobody. What cannot be asked in time is a
//! temporary error. Answers are kept by the resolver, as long as DNS says and within its bound.

use super::fields::author_domains;
use super::results::{Aligned, Chain, Outcome, Results, Signed, Wish};
use super::rules::{Mode, Modes};
use super::watch::Sum;
use crate::runtime::{both, yield_now};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{Name, RData};
use mail_auth::arc::ArcError;
use mail_auth::common::crypto::Algorithm;
use mail_auth::common::to_a_label;
use mail_auth::dkim::{DkimError, Signature};
use mail_auth::dmarc::{Policy, verify::DmarcParameters};
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{
    AuthenticatedMessage, DkimOutput, DkimResult, DmarcOutput, DmarcResult, DnsError, Error,
    MessageAuthenticator, Parameters, RecordSet, ResolverCache, SpfOutput, SpfResult, Txt,
};
use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::hash_map::DefaultHasher;
use std::future::{Future, poll_fn};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::task::Poll;

/// Signatures that are looked at; further ones are left out.
pub const SIGNATURES_MAX: usize = 10;
/// Names of fields that a signature covers; more is not accepted.
const NAMES_MAX: usize = 200;
/// Seals of a chain; RFC 8617 §4.2.1 has 50, but each costs two looks at all before it.
const SEALS_MAX: usize = 20;
/// Look-ups for one message, the mechanisms of SPF not counted.
const LOOKUPS_MAX: u32 = 100;
/// Look-ups of SPF that find nothing (RFC 7208 §4.6.4).
const VOID_MAX: u32 = 2;
/// Characters of `b=` that tell signatures apart (RFC 6008 §4).
const BEGIN: usize = 8;

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
pub struct Checker(MessageAuthenticator);

impl Checker {
    /// Asks by this resolver, whose sockets belong to the core.
    #[must_use]
    pub fn new(resolver: TokioResolver) -> Self {
        Checker(MessageAuthenticator(resolver))
    }
}

impl Check for Checker {
    fn check<'a>(
        &'a self,
        mail: Mail<'a>,
        wanted: Modes,
        expired: Expired<'a>,
    ) -> Pin<Box<dyn Future<Output = Results> + 'a>> {
        Box::pin(self.check_all(
            mail,
            wanted,
            Time { expired: RefCell::new(expired), over: Cell::new(false) },
        ))
    }
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

/// What is about to be asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Txt,
    Mx,
    Ptr,
    V4,
    V6,
    /// Both of the last: the mechanism `exists`, whose answer is not shown to us.
    Exists,
}

/// Stands where a cache could: sees each question, and each answer that has records.
#[derive(Default)]
struct Count {
    asked: Cell<u32>,
    void: Cell<u32>,
    /// Has no answer yet.
    open: Cell<Option<(Asked, u64)>>,
}

impl Count {
    fn ask<Q: Hash + ?Sized>(&self, what: Asked, name: &Q) -> bool {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let name = hasher.finish();
        if what == Asked::V6 && self.open.get() == Some((Asked::V4, name)) {
            self.open.set(Some((Asked::Exists, name)));
            return true;
        }
        self.settle();
        self.open.set(Some((what, name)));
        self.asked.set(self.asked.get() + 1);
        self.asked.get() <= LOOKUPS_MAX
    }

    /// What is open still has found nothing.
    fn settle(&self) {
        if self.open.take().is_some_and(|(what, _)| what != Asked::Exists) {
            self.void.set(self.void.get() + 1);
        }
    }

    fn voids(&self) -> u32 {
        self.settle();
        self.void.get()
    }
}

macro_rules! counts {
    ($($key:ty => $value:ty, $asked:ident, |$many:ident| $answer:expr;)*) => { $(
        impl ResolverCache<$key, $value> for Count {
            fn get<Q>(&self, name: &Q) -> Option<$value>
            where
                $key: Borrow<Q>,
                Q: Hash + Eq + ?Sized,
            {
                let $many = !self.ask(Asked::$asked, name);
                $answer
            }

            fn remove<Q>(&self, _: &Q) -> Option<$value>
            where
                $key: Borrow<Q>,
                Q: Hash + Eq + ?Sized,
            {
                None
            }

            fn insert(&self, _: $key, _: $value, _: std::time::Instant) {
                self.open.set(None);
            }
        }
    )* };
}

counts! {
    Box<str> => Txt, Txt, |many| many.then(|| Txt::Error(no_answer("too many look-ups")));
    Box<str> => RecordSet<mail_auth::MX>, Mx, |_many| None;
    Box<str> => RecordSet<Ipv4Addr>, V4, |_many| None;
    Box<str> => RecordSet<Ipv6Addr>, V6, |_many| None;
    IpAddr => RecordSet<Box<str>>, Ptr, |_many| None;
}

fn no_answer(why: &str) -> Error {
    Error::Dns(DnsError::Resolver(why.to_owned()))
}

/// The question with all its answers counted.
fn counted<P>(params: P, count: &Count) -> Parameters<'_, P, Count, Count, Count, Count, Count> {
    Parameters {
        params,
        cache_txt: Some(count),
        cache_mx: Some(count),
        cache_ptr: Some(count),
        cache_ipv4: Some(count),
        cache_ipv6: Some(count),
    }
}

impl Checker {
    async fn check_all(&self, mut mail: Mail<'_>, wanted: Modes, time: Time<'_>) -> Results {
        let on = |mode: Mode| mode != Mode::Off;
        let mut message = AuthenticatedMessage::parse(mail.header).unwrap_or_default();
        message.body_hashes = std::mem::take(&mut mail.sums);
        let authors = author_domains(&message);
        let count = Count::default();
        let of_client = async {
            if on(wanted.spf) || on(wanted.dmarc) { Some(self.spf(&time, &mail).await) } else { None }
        };
        let of_content = async {
            let signed = on(wanted.dkim) || on(wanted.dmarc);
            let dkim = if signed { self.dkim(&time, &mut message, &count).await } else { Vec::new() };
            let arc = if on(wanted.arc) { Some(self.arc(&time, &message, &count).await) } else { None };
            (dkim, arc)
        };
        let (spf, (dkim, arc)) = both(of_client, of_content).await;
        let mut results =
            Results { author: authors.first().cloned().unwrap_or_default(), arc, ..Results::default() };
        if let (Some(spf), true) = (&spf, on(wanted.dmarc)) {
            let aligned = self.dmarc(&time, &count, (&message, authors.len()), (spf, &dkim)).await;
            results.dmarc = Some(aligned);
        }
        if let (Some(spf), true) = (spf, on(wanted.spf)) {
            results.spf = Some((outcome_of_spf(spf.main.result()), spf.domain));
            results.helo = spf.helo.map(|(outcome, name)| (outcome_of_spf(outcome), name));
        }
        results.dkim = on(wanted.dkim).then(|| dkim.into_iter().map(|s| s.signed).collect());
        results
    }

    async fn spf(&self, time: &Time<'_>, mail: &Mail<'_>) -> Spf {
        let client = mail.client.to_canonical();
        let helo = to_a_label(mail.helo).into_owned();
        let ehlo = SpfParameters::verify_ehlo(client, &helo, mail.host);
        let of_helo = self.host(time, &helo, ehlo);
        let Some((local, domain)) = mail.sender.rsplit_once('@') else {
            // RFC 7208 §2.4: postmaster at the name in EHLO.
            return Spf { main: of_helo.await, helo: None, domain: helo.clone() };
        };
        let domain = to_a_label(domain).into_owned();
        let sender = format!("{local}@{domain}");
        let of_sender = SpfParameters::verify_mail_from(client, &helo, mail.host, &sender);
        let (main, of_helo) = both(self.host(time, &domain, of_sender), of_helo).await;
        Spf { main, helo: Some((of_helo.result(), helo.clone())), domain }
    }

    /// `check_host()` of RFC 7208 §4.
    async fn host(&self, time: &Time<'_>, domain: &str, params: SpfParameters<'_>) -> SpfOutput {
        let output = SpfOutput::new(domain.to_owned());
        // RFC 7208 §4.3: neither an address literal nor a single label is looked up.
        let name = Name::from_ascii(format!("{}.", domain.trim_end_matches('.'))).ok();
        let Some(name) = name.filter(|n| n.num_labels() > 1 && !domain.starts_with('[')) else {
            return output.with_result(SpfResult::None);
        };
        match time.within(Box::pin(self.0.resolver().txt_lookup(name))).await {
            None => return output.with_result(SpfResult::TempError),
            Some(Err(e)) if e.is_no_records_found() => return output.with_result(SpfResult::None),
            Some(Err(_)) => return output.with_result(SpfResult::TempError),
            // RFC 7208 §4.5: one record, no more.
            Some(Ok(found)) => {
                let records: Vec<_> = found.answers().iter().filter_map(|r| spf_text(&r.data)).collect();
                match &records[..] {
                    [] => return output.with_result(SpfResult::None),
                    [record] if terms_are_known(record) => {}
                    _ => return output.with_result(SpfResult::PermError),
                }
            }
        }
        let count = Count::default();
        let checked = time.within(Box::pin(self.0.check_host(counted(params, &count)))).await;
        let Some(checked) = checked else { return output.with_result(SpfResult::TempError) };
        match checked.result() {
            // There is a record, and it cannot be read.
            SpfResult::None => output.with_result(SpfResult::PermError),
            SpfResult::TempError | SpfResult::PermError => checked,
            _ if count.voids() > VOID_MAX => output.with_result(SpfResult::PermError),
            _ => checked,
        }
    }

    /// One signature after the other.
    async fn dkim(
        &self,
        time: &Time<'_>,
        message: &mut AuthenticatedMessage<'_>,
        count: &Count,
    ) -> Vec<Verified> {
        let mut all = Vec::new();
        let broken = std::mem::take(&mut message.errors);
        let of_dkim = broken.iter().filter(|h| h.name.eq_ignore_ascii_case(b"DKIM-Signature"));
        for header in of_dkim.take(SIGNATURES_MAX) {
            // RFC 8601 §2.7.1: what cannot be read is neutral; what signs a part of the body only is
            // not accepted here (RFC 6376 §8.2).
            let partly = matches!(header.header, Error::Dkim(DkimError::SignatureLength));
            let outcome = if partly { Outcome::Policy } else { Outcome::Neutral };
            all.push(Verified { signed: Signed { outcome, ..Signed::default() }, signature: None });
        }
        message.errors = broken;
        message.errors.retain(|h| !matches!(h.header, Error::Dkim(_)));
        let headers = std::mem::take(&mut message.dkim_headers);
        for mut header in headers.into_iter().take(SIGNATURES_MAX - all.len().min(SIGNATURES_MAX)) {
            // Nobody reads reports of ours; asking for their address is a look-up less.
            header.header.r = false;
            let mut outcome = acceptable(&header.header, &message.body_hashes);
            if outcome.is_none() {
                message.dkim_headers.push(header.clone());
                let verified = Box::pin(self.0.verify_dkim(counted(&*message, count)));
                outcome = Some(match time.within(verified).await {
                    Some(outputs) => outputs.last().map_or(Outcome::None, |o| outcome_of(o.result())),
                    None => Outcome::TempError,
                });
                message.dkim_headers.clear();
                yield_now().await;
            }
            let s = header.header;
            let begin: String = STANDARD.encode(&s.b).chars().take(BEGIN).collect();
            let signed = Signed {
                outcome: outcome.unwrap_or_default(),
                domain: s.d.clone(),
                selector: s.s.clone(),
                algorithm: s.a.name(),
                begin,
            };
            all.push(Verified { signed, signature: Some(s) });
        }
        all
    }

    async fn arc(&self, time: &Time<'_>, message: &AuthenticatedMessage<'_>, count: &Count) -> Chain {
        let chain = |outcome| Chain { outcome, sealer: String::new() };
        let sets = message.as_headers.len();
        let whole = message.ams_headers.len() == sets && message.aar_headers.len() == sets;
        if message.has_arc_errors || !whole {
            // RFC 8617 §5.2: a chain that is not in order has failed.
            return chain(Outcome::Fail);
        }
        if sets > SEALS_MAX || message.ams_headers.iter().any(|h| h.header.h.len() > NAMES_MAX) {
            return chain(Outcome::Policy);
        }
        let known = |h: &mail_auth::arc::Signature| has_sum(&message.body_hashes, h.cb, h.a);
        if !message.ams_headers.iter().all(|h| known(&h.header)) {
            return chain(Outcome::PermError);
        }
        match time.within(Box::pin(self.0.verify_arc(counted(message, count)))).await {
            None => chain(Outcome::TempError),
            Some(output) => Chain {
                outcome: outcome_of(output.result()),
                sealer: output.sets().last().map_or(String::new(), |set| set.seal.header.d.clone()),
            },
        }
    }

    async fn dmarc(
        &self,
        time: &Time<'_>,
        count: &Count,
        (message, authors): (&AuthenticatedMessage<'_>, usize),
        (spf, dkim): (&Spf, &[Verified]),
    ) -> Aligned {
        let aligned = |outcome, wish| Aligned { outcome, wish, authors };
        if authors != 1 {
            return aligned(Outcome::PermError, Wish::None);
        }
        let outputs: Vec<DkimOutput<'_>> = dkim.iter().filter_map(of_verified).collect();
        let params = DmarcParameters {
            message,
            dkim_output: &outputs,
            dkim2_output: None,
            rfc5321_mail_from_domain: &spf.domain,
            spf_output: &spf.main,
        };
        match time.within(Box::pin(self.0.verify_dmarc(counted(params, count)))).await {
            None => aligned(Outcome::TempError, Wish::None),
            Some(output) => aligned(outcome_of_dmarc(&output), wish(&output)),
        }
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

/// A signature and what has come of it.
struct Verified {
    signed: Signed,
    signature: Option<Signature>,
}

/// As DMARC wants it; what can neither pass nor become a pass is nothing to it.
fn of_verified(v: &Verified) -> Option<DkimOutput<'_>> {
    let output = match v.signed.outcome {
        Outcome::Pass => DkimOutput::pass(),
        Outcome::TempError => DkimOutput::temp_err(no_answer("no key")),
        _ => return None,
    };
    Some(output.with_signature(v.signature.as_ref()?))
}

/// Why a signature is not even verified.
fn acceptable(s: &Signature, sums: &[Sum]) -> Option<Outcome> {
    // RFC 8301 §3.1: SHA-1 proves nothing any more.
    if s.a == Algorithm::RsaSha1 || s.h.len() > NAMES_MAX {
        return Some(Outcome::Policy);
    }
    (!has_sum(sums, s.cb, s.a)).then_some(Outcome::PermError)
}

fn has_sum(sums: &[Sum], how: mail_auth::dkim::Canonicalization, a: Algorithm) -> bool {
    let algorithm = a.into();
    sums.iter().any(|(c, with, len, _)| (*c, *with, *len) == (how, algorithm, 0))
}

/// The text of a record of SPF (RFC 7208 §3.3, §4.5).
fn spf_text(data: &RData) -> Option<Vec<u8>> {
    let RData::TXT(txt) = data else { return None };
    let text: Vec<u8> = txt.txt_data.concat();
    let (version, behind) = text.split_at(text.len().min(6));
    let is = version.eq_ignore_ascii_case(b"v=spf1") && behind.first().is_none_or(|b| *b == b' ');
    is.then_some(text)
}

/// Each term is a mechanism that there is, or a modifier; modifiers that nobody knows are passed over
/// (RFC 7208 §6).
fn terms_are_known(record: &[u8]) -> bool {
    const MECHANISMS: [&[u8]; 8] = [b"all", b"include", b"a", b"mx", b"ptr", b"ip4", b"ip6", b"exists"];
    record.split(|b| *b == b' ').skip(1).filter(|term| !term.is_empty()).all(|term| {
        let bare = term.strip_prefix(b"+").or_else(|| term.strip_prefix(b"-"));
        let bare = bare.or_else(|| term.strip_prefix(b"?")).or_else(|| term.strip_prefix(b"~"));
        let bare = bare.unwrap_or(term);
        let end = bare.iter().position(|b| matches!(b, b':' | b'/' | b'=')).unwrap_or(bare.len());
        let (name, behind) = bare.split_at(end);
        match behind.first() {
            Some(b'=') => !name.is_empty() && bare.len() == term.len(),
            _ => MECHANISMS.iter().any(|m| name.eq_ignore_ascii_case(m)) && lengths_fit(name, behind),
        }
    })
}

/// Whether the lengths of prefixes behind a mechanism are possible (RFC 7208 §5.6).
fn lengths_fit(name: &[u8], behind: &[u8]) -> bool {
    let fits = |digits: &[u8], most: u8| {
        let number = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        number.and_then(|d| d.parse::<u8>().ok()).is_some_and(|n| n <= most)
    };
    // Macros may have slashes of their own.
    let slash = memchr::memchr(b'/', behind).filter(|_| !behind.contains(&b'%'));
    let Some(slash) = slash else { return true };
    let lengths = &behind[slash + 1..];
    if name.eq_ignore_ascii_case(b"ip6") {
        return fits(lengths, 128);
    }
    match memchr::memmem::find(&behind[slash..], b"//") {
        Some(at) => {
            (at == 0 || fits(&behind[slash + 1..slash + at], 32)) && fits(&behind[slash + at + 2..], 128)
        }
        None => fits(lengths, 32),
    }
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

fn outcome_of(result: &DkimResult) -> Outcome {
    use Error::{Arc, Dkim};
    match result {
        DkimResult::Pass => Outcome::Pass,
        // The content has changed, or it is too late: it does not hold.
        DkimResult::Neutral(Dkim(DkimError::FailedBodyHashMatch | DkimError::SignatureExpired))
        | DkimResult::Neutral(Arc(ArcError::FailedBodyHashMatch | ArcError::SignatureExpired))
        | DkimResult::Fail(_) => Outcome::Fail,
        DkimResult::Neutral(_) => Outcome::Neutral,
        DkimResult::PermError(_) => Outcome::PermError,
        DkimResult::TempError(_) => Outcome::TempError,
        DkimResult::None => Outcome::None,
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

fn wish(output: &DmarcOutput) -> Wish {
    match output.policy() {
        Policy::Reject => Wish::Reject,
        Policy::Quarantine => Wish::Quarantine,
        Policy::None | Policy::Unspecified => Wish::None,
    }
}
