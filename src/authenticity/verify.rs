//! Signatures and seals of a message, verified with the keys that are known.
//!
//! Owns the bounds: of signatures, of the names each of them covers, and of seals; and what they weigh, so
//! that those who wait for nothing can be spared what takes long. Asks nobody: what key is missing is the
//! answer. A key that nobody could look up is a temporary error.

use super::known::{Aim, Known, Question, Run, Stop, Text, no_answer};
use super::results::{Chain, Outcome, Signed};
use super::watch::Sum;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::arc::ArcError;
use mail_auth::common::crypto::Algorithm;
use mail_auth::common::headers::Header;
use mail_auth::common::verify::VerifySignature;
use mail_auth::dkim::{Canonicalization, DkimError, Signature};
use mail_auth::{AuthenticatedMessage, DkimOutput, DkimResult, Error, MessageAuthenticator};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Signatures that are looked at; further ones are left out.
pub const SIGNATURES_MAX: usize = 10;
/// Names of fields that a signature covers; more is not accepted.
const NAMES_MAX: usize = 200;
/// Seals of a chain; RFC 8617 §4.2.1 has 50, but each costs two looks at all before it.
const SEALS_MAX: usize = 20;
/// Characters of `b=` that tell signatures apart (RFC 6008 §4).
const BEGIN: usize = 8;

/// Work that weighs no more is done where it comes up; see [`Work::weight`].
pub const LIGHT: u64 = 500_000;
/// What a signature of RSA with 2048 bits weighs; it goes with the square of the bits.
const RSA: u64 = 30_000;
/// What one of Ed25519 weighs.
const ED25519: u64 = 60_000;
/// What a byte weighs that is put into its canonical form and hashed, each time.
const BYTE: u64 = 3;
/// What it weighs to look whether a field has a name.
const NAME: u64 = 2;

/// The result of what never waits; `None`: it would.
pub fn ready<T>(work: impl Future<Output = T>) -> Option<T> {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// A signature and what has come of it.
pub struct Verified {
    /// For who reads the results.
    pub signed: Signed,
    signature: Option<Signature>,
}

impl Verified {
    /// As DMARC wants it; what can neither pass nor become a pass is nothing to it.
    #[must_use]
    pub fn output(&self) -> Option<DkimOutput<'_>> {
        let output = match self.signed.outcome {
            Outcome::Pass => DkimOutput::pass(),
            Outcome::TempError => DkimOutput::temp_err(no_answer("no key")),
            _ => return None,
        };
        Some(output.with_signature(self.signature.as_ref()?))
    }
}

/// What has come of all that is to be verified: results, or what has to be known first.
pub struct All {
    /// Of each signature that can be read.
    pub signatures: Vec<Result<Outcome, Question>>,
    /// Of the chain, if it was asked for.
    pub chain: Option<Result<Chain, Question>>,
}

/// What there is to be verified.
pub struct Work<'x> {
    message: AuthenticatedMessage<'x>,
    /// What cannot even be read.
    broken: Vec<Verified>,
    /// The others, and what has come of them without any key.
    signatures: Vec<(Header<'x, Signature>, Option<Outcome>)>,
    /// The same of the chain.
    chain: Option<Outcome>,
}

impl<'x> Work<'x> {
    /// Takes the message; `sums` are hashes of its body.
    #[must_use]
    pub fn new(header: &'x [u8], sums: Vec<Sum>) -> Self {
        let mut message = AuthenticatedMessage::parse(header).unwrap_or_default();
        message.body_hashes = sums;
        let of_dkim = |h: &&Header<'_, Error>| h.name.eq_ignore_ascii_case(b"DKIM-Signature");
        let broken: Vec<_> =
            message.errors.iter().filter(of_dkim).take(SIGNATURES_MAX).map(unreadable).collect();
        message.errors.retain(|h| !matches!(h.header, Error::Dkim(_)));
        let left = SIGNATURES_MAX - broken.len();
        let taken = std::mem::take(&mut message.dkim_headers).into_iter().take(left);
        let signatures = taken.map(|mut header| {
            // Nobody reads reports of ours; asking for their address is a look-up less.
            header.header.r = false;
            let early = acceptable(&header.header, &message.body_hashes);
            (header, early)
        });
        let signatures = signatures.collect();
        let chain = chain_early(&message);
        Work { message, broken, signatures, chain }
    }

    /// The message without its signatures of DKIM.
    #[must_use]
    pub fn message(&self) -> &AuthenticatedMessage<'x> {
        &self.message
    }

    /// Signatures that can be read.
    #[must_use]
    pub fn signatures(&self) -> usize {
        self.signatures.len()
    }

    /// The keys that will be asked for.
    #[must_use]
    pub fn keys(&self, dkim: bool, arc: bool) -> Vec<Question> {
        let key = |name: String| Question::Text(Text::Key, name.trim_end_matches('.').to_lowercase().into());
        let mut keys = Vec::new();
        let good = |(header, early): &&(Header<'_, Signature>, Option<Outcome>)| {
            let s = &header.header;
            early.is_none() && sum(&self.message.body_hashes, s.cb, s.a) == Some(&s.bh)
        };
        if dkim {
            keys.extend(
                self.signatures.iter().filter(good).map(|(header, _)| key(header.header.domain_key())),
            );
        }
        if arc && self.chain.is_none() {
            keys.extend(self.message.ams_headers.last().map(|h| key(h.header.domain_key())));
            keys.extend(self.message.as_headers.iter().map(|h| key(h.header.domain_key())));
        }
        keys.sort_by(|a, b| format!("{a:?}").cmp(&format!("{b:?}")));
        keys.dedup();
        keys
    }

    /// How long it will take at most, about, in nanoseconds.
    #[must_use]
    pub fn weight(&self, dkim: bool, arc: bool) -> u64 {
        let m = &self.message;
        let key = |a: Algorithm, signature: &[u8]| match a {
            Algorithm::Ed25519Sha256 => ED25519,
            // The bits of the key are those of the signature, or it does not hold.
            _ => RSA * (signature.len() as u64 / 128).pow(2) / 4,
        };
        let fields =
            |names: usize| names as u64 * m.headers.len() as u64 * NAME + m.raw_message.len() as u64 * BYTE;
        let mut weight = 0;
        if dkim {
            let left = self.signatures.iter().filter(|(_, early)| early.is_none()).map(|(h, _)| &h.header);
            weight += left.map(|s| fields(s.h.len()) + key(s.a, &s.b)).sum::<u64>();
        }
        if arc && self.chain.is_none() {
            let last = m.ams_headers.last().map(|h| &h.header);
            weight += last.map_or(0, |s| fields(s.h.len()) + key(s.a, &s.b));
            // Each seal is over all the sets before it.
            weight += m.as_headers.iter().map(|h| key(h.header.a, &h.header.b)).sum::<u64>();
            weight += m.as_headers.len() as u64 * m.raw_message.len() as u64 * BYTE;
        }
        weight
    }

    /// Verifies all of it at once.
    #[must_use]
    pub fn all(mut self, engine: &MessageAuthenticator, known: &Known, dkim: bool, arc: bool) -> All {
        let count = if dkim { self.signatures.len() } else { 0 };
        let signatures = (0..count).map(|n| self.signature(n, engine, known)).collect();
        All { signatures, chain: arc.then(|| self.chain(engine, known)) }
    }

    /// What has come of the signatures without any key; what has not been decided by that could not be.
    #[must_use]
    pub fn undecided(&self) -> Vec<Outcome> {
        self.signatures.iter().map(|(_, early)| early.unwrap_or(Outcome::TempError)).collect()
    }

    /// What has come of a signature.
    ///
    /// # Errors
    /// What has to be known first.
    pub fn signature(
        &mut self,
        n: usize,
        engine: &MessageAuthenticator,
        known: &Known,
    ) -> Result<Outcome, Question> {
        let (header, early) = &self.signatures[n];
        if let Some(outcome) = early {
            return Ok(*outcome);
        }
        self.message.dkim_headers.push(header.clone());
        let run = Run::new(known, Aim::Keys);
        let outputs = ready(engine.verify_dkim(run.with(&self.message)));
        let last = outputs.as_ref().and_then(|outputs| outputs.last());
        let outcome = last.map_or(Outcome::TempError, |o| outcome_of(o.result()));
        drop(outputs);
        self.message.dkim_headers.clear();
        settled(&run, outcome)
    }

    /// What has come of the chain of seals.
    ///
    /// # Errors
    /// What has to be known first.
    pub fn chain(&self, engine: &MessageAuthenticator, known: &Known) -> Result<Chain, Question> {
        if let Some(outcome) = self.chain {
            return Ok(Chain { outcome, sealer: String::new() });
        }
        let run = Run::new(known, Aim::Keys);
        let Some(output) = ready(engine.verify_arc(run.with(&self.message))) else {
            return Ok(Chain { outcome: Outcome::TempError, sealer: String::new() });
        };
        let sealer = output.sets().last().map_or(String::new(), |set| set.seal.header.d.clone());
        Ok(Chain { outcome: settled(&run, outcome_of(output.result()))?, sealer })
    }

    /// All signatures with these results.
    #[must_use]
    pub fn verified(self, outcomes: Vec<Outcome>) -> Vec<Verified> {
        let mut all = self.broken;
        for ((header, _), outcome) in self.signatures.into_iter().zip(outcomes) {
            let s = header.header;
            let begin: String = STANDARD.encode(&s.b).chars().take(BEGIN).collect();
            let signed =
                Signed { outcome, domain: s.d.clone(), selector: s.s.clone(), algorithm: s.a.name(), begin };
            all.push(Verified { signed, signature: Some(s) });
        }
        all
    }
}

fn settled(run: &Run<'_>, outcome: Outcome) -> Result<Outcome, Question> {
    match run.stopped() {
        Some(Stop::Need(question)) => Err(question),
        Some(Stop::Failed) => Ok(Outcome::TempError),
        None => Ok(outcome),
    }
}

/// RFC 8601 §2.7.1: what cannot be read is neutral; what signs a part of the body only is not accepted here
/// (RFC 6376 §8.2).
fn unreadable(header: &Header<'_, Error>) -> Verified {
    let partly = matches!(header.header, Error::Dkim(DkimError::SignatureLength));
    let outcome = if partly { Outcome::Policy } else { Outcome::Neutral };
    Verified { signed: Signed { outcome, ..Signed::default() }, signature: None }
}

/// Why a signature is not even verified.
fn acceptable(s: &Signature, sums: &[Sum]) -> Option<Outcome> {
    // RFC 8301 §3.1: SHA-1 proves nothing any more.
    if s.a == Algorithm::RsaSha1 || s.h.len() > NAMES_MAX {
        return Some(Outcome::Policy);
    }
    sum(sums, s.cb, s.a).is_none().then_some(Outcome::PermError)
}

/// What comes of a chain that is not even verified.
fn chain_early(message: &AuthenticatedMessage<'_>) -> Option<Outcome> {
    let sets = message.as_headers.len();
    let whole = message.ams_headers.len() == sets && message.aar_headers.len() == sets;
    if message.has_arc_errors || !whole {
        // RFC 8617 §5.2: a chain that is not in order has failed.
        return Some(Outcome::Fail);
    }
    if sets > SEALS_MAX || message.ams_headers.iter().any(|h| h.header.h.len() > NAMES_MAX) {
        return Some(Outcome::Policy);
    }
    let known = |h: &mail_auth::arc::Signature| sum(&message.body_hashes, h.cb, h.a).is_some();
    (!message.ams_headers.iter().all(|h| known(&h.header))).then_some(Outcome::PermError)
}

fn sum(sums: &[Sum], how: Canonicalization, a: Algorithm) -> Option<&Vec<u8>> {
    let algorithm = a.into();
    sums.iter().find(|(c, with, len, _)| (*c, *with, *len) == (how, algorithm, 0)).map(|(.., sum)| sum)
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
