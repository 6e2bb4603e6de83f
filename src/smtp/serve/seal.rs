//! L4: seals (ARC) of strangers' mail that is passed on to other servers.
//!
//! Behind the filters, of what they have left, as signatures are. Only where there is a key, and the chain
//! was looked at as the message came in; a message that stays in mailboxes here has none. Knows no rule of
//! chains: `authenticity::seal` does.

use super::filter::Filtered;
use super::genuine::{Looked, Purpose};
use super::session::Talk;
use crate::authenticity::fields::{Field, fields};
use crate::authenticity::keys::Keys;
use crate::authenticity::results::{self, Outcome};
use crate::authenticity::seal::{self, Before};
use crate::authenticity::sign::{Mail, Waiting};
use crate::authenticity::watch::Sum;
use crate::base::time::Wall;
use crate::intake::Intake;
use crate::runtime::Runtime;
use crate::smtp::reply::Reply;
use mail_auth::common::crypto::HashAlgorithm;
use mail_auth::dkim::Canonicalization;
use std::sync::Arc;

/// The hash that a seal is about.
pub(super) fn sum_of(sums: &[Sum]) -> Option<&[u8]> {
    let ours = (Canonicalization::Relaxed, HashAlgorithm::Sha256, 0);
    sums.iter().find(|(how, algorithm, len, _)| (*how, *algorithm, *len) == ours).map(|sum| &sum.3[..])
}

impl<R: Runtime> Talk<'_, R> {
    /// Puts signatures, or a seal, of the message before its trace header. On an error it is refused.
    pub(super) async fn vouch(
        &mut self,
        intake: &Intake<R>,
        filtered: Option<&Filtered>,
        now: Wall,
    ) -> Result<(), Reply> {
        let done = match self.sign(intake, filtered, now).await {
            Ok(()) => self.seal(intake, filtered, now).await,
            refused => refused,
        };
        if done.is_err() {
            // What filters have written is for nobody.
            filtered.and_then(Filtered::side).into_iter().for_each(|side| intake.discard_side(side));
        }
        done
    }

    /// Puts a seal of the message before its trace header, if it is passed on.
    async fn seal(
        &mut self,
        intake: &Intake<R>,
        filtered: Option<&Filtered>,
        now: Wall,
    ) -> Result<(), Reply> {
        let Some(sealer) = self.ctx.sealer.get() else { return Ok(()) };
        if !self.looked.as_ref().is_some_and(|l| matches!(l.purpose, Purpose::Check(_))) {
            return Ok(());
        }
        let redirected = self.checks.redirected(self.machine.envelope());
        let passed_on = intake.passes_on(redirected.as_ref().unwrap_or(self.machine.envelope()));
        let Some(mut looked) = self.looked.take_if(|_| passed_on) else { return Ok(()) };
        let (mut chain, keys) = (looked.chain.take(), sealer.keys());
        if let Some(filtered) = filtered.filter(|f| f.is_changed() && chain.is_some()) {
            self.look_again(&mut looked, intake, filtered).await?;
            let sums = looked.watch.sums();
            chain = chain.and_then(|(outcome, _)| Some((outcome, sum_of(&sums)?.to_vec())));
        }
        let before = match (chain, keys.0.first()) {
            (Some((outcome, body)), Some(_)) => {
                let sealed = self.put_seal(&looked, &keys, (outcome, &body), now).await;
                let sealed = sealed.inspect_err(|_| self.ctx.metrics.dkim_busy.increment(1));
                match sealed {
                    Ok(before) => before,
                    Err(reply) => {
                        self.looked = Some(looked);
                        return Err(reply);
                    }
                }
            }
            _ => None,
        };
        let m = &self.ctx.metrics;
        match before {
            None => m.arc_unsealed.increment(1),
            Some(Before::None) => m.arc_none.increment(1),
            Some(Before::Pass) => m.arc_pass.increment(1),
            Some(Before::Fail) => m.arc_fail.increment(1),
        }
        self.looked = Some(looked);
        Ok(())
    }

    async fn put_seal(
        &mut self,
        looked: &Looked<R>,
        keys: &Arc<Keys>,
        (found, body): (Outcome, &[u8]),
        now: Wall,
    ) -> Result<Option<Before>, Reply> {
        let mut trace = self.trace().to_vec();
        let mail = Mail { front: &trace, header: looked.watch.header(), body, now: now.0 / 1000 };
        let said = results::said(looked.front());
        let aside = self.ctx.aside.get().filter(|_| keys.0[0].is_slow());
        let (before, set) = match aside {
            None => seal::set(&keys.0[0], &mail, said, found),
            Some(aside) => {
                let (keys, said, waiting) = (keys.clone(), said.to_vec(), Waiting::from(mail));
                let work = move || seal::set(&keys.0[0], &waiting.mail(), &said, found);
                aside.ask(work).await.map_err(|_| Reply::SIGNING_BUSY)?
            }
        };
        // Below our results, which say at the very beginning what becomes of the message here.
        let of_ours = |f: &Field<'_>| f.name.eq_ignore_ascii_case(b"Received");
        let at = fields(&trace).find(of_ours).map_or(0, |f| f.range.start);
        trace.splice(at..at, set);
        self.set_trace(trace);
        Ok(before)
    }
}
