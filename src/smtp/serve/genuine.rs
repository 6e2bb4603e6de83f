//! L4: where a message comes from, found out while it comes in; and the signatures of mail of our own users.
//!
//! Only where a listener has rules about it, or there are keys: else a session has no [`Looked`] and costs
//! nothing. The header is kept back until it has ended, so that what others say in our name can be left
//! out; the body goes on its usual way and is hashed in passing. Knows no policy: `authenticity` decides.

use super::Context;
use super::filter::Filtered;
use super::seal;
use super::session::Talk;
use crate::authenticity::check::Mail;
use crate::authenticity::fields;
use crate::authenticity::keys::{Key, Keys};
use crate::authenticity::results::{Outcome, Results};
use crate::authenticity::rules::{Refused, Rules};
use crate::authenticity::sign;
use crate::authenticity::watch::{Fed, Watch};
use crate::base::time::Wall;
use crate::intake::Intake;
use crate::message::body::BodyFacts;
use crate::runtime::Runtime;
use crate::smtp::reply::Reply;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of a header that is kept back: they count as those of bodies do.
struct Kept<R: Runtime> {
    ctx: Rc<Context<R>>,
    bytes: usize,
}

impl<R: Runtime> Kept<R> {
    fn set(&mut self, bytes: usize) {
        let held = &self.ctx.held;
        held.set(held.get() - self.bytes + bytes);
        self.bytes = bytes;
    }
}

impl<R: Runtime> Drop for Kept<R> {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A message that is looked at.
pub(super) struct Looked<R: Runtime> {
    kept: Kept<R>,
    pub(super) watch: Watch,
    pub(super) purpose: Purpose,
    /// Bytes of the header that were left out.
    removed: u64,
    /// The field that says what was found.
    front: Vec<u8>,
    /// For a seal: what came of the chain, and the hash of the body.
    pub(super) chain: Option<(Outcome, Vec<u8>)>,
}

/// What for.
pub(super) enum Purpose {
    /// A stranger's: where does it come from?
    Check(Rc<Rules>),
    /// One of our own users': it is signed. The domain of its author, once it is known.
    Sign(Arc<Keys>, Option<String>),
}

impl<R: Runtime> Looked<R> {
    /// What is put before the trace header.
    pub fn front(&self) -> &[u8] {
        &self.front
    }

    /// Takes the next piece.
    fn feed(&mut self, piece: &[u8]) -> Fed {
        let fed = self.watch.feed(piece);
        self.kept.set(self.watch.header().len());
        fed
    }
}

impl<R: Runtime> Talk<'_, R> {
    /// A message may follow: is it looked at?
    pub(super) fn begin_look(&mut self) {
        let ours = self.guest.trusted || self.login.name().is_some();
        let purpose = if ours {
            self.ctx.signers.get().map(|signers| Purpose::Sign(signers.keys(), None))
        } else {
            self.door.authenticity.clone().map(Purpose::Check)
        };
        self.looked = purpose.map(|purpose| {
            let (watch, front) = <(Watch, Vec<u8>)>::default();
            let kept = Kept { ctx: self.ctx.clone(), bytes: 0 };
            Box::new(Looked { kept, watch, purpose, removed: 0, front, chain: None })
        });
    }

    /// What is known of the message as it is stored.
    pub(super) fn facts(&self) -> BodyFacts {
        let mut facts = self.machine.body_facts();
        facts.len -= self.looked.as_ref().map_or(0, |l| l.removed);
        facts
    }

    /// A piece of it lies here in the receive buffer.
    pub(super) fn look_at(&mut self, range: Range<usize>) {
        let Some(looked) = &mut self.looked else { return };
        let from = match looked.feed(&self.buf[range.clone()]) {
            Fed::Header => return,
            Fed::Body => range.start,
            Fed::Ended(at) => {
                self.pass_header();
                range.start + at
            }
        };
        if from < range.end {
            self.hash(from..range.end);
            self.body.here(from..range.end, &self.buf);
        }
    }

    fn hash(&mut self, range: Range<usize>) {
        if let Some(looked) = &mut self.looked {
            looked.watch.hash(&self.buf[range]);
        }
    }

    /// A piece of it was inserted.
    pub(super) fn look_at_inserted(&mut self, bytes: &'static [u8]) {
        let Some(looked) = &mut self.looked else { return };
        let bytes = match looked.feed(bytes) {
            Fed::Header => return,
            Fed::Body => bytes,
            Fed::Ended(at) => {
                self.pass_header();
                &bytes[at..]
            }
        };
        if let Some(looked) = &mut self.looked
            && !bytes.is_empty()
        {
            looked.watch.hash(bytes);
            self.body.inserted(bytes, &self.buf);
        }
    }

    /// The header has ended: what is wanted of the body is known, and the header goes on its way.
    fn pass_header(&mut self) {
        let sender = self.machine.envelope().view().sender();
        let trusted = self.guest.trusted;
        let Some(looked) = &mut self.looked else { return };
        let left_out = match &mut looked.purpose {
            Purpose::Check(rules) => {
                looked.watch.want_for_signatures();
                if self.ctx.sealer.get().is_some() {
                    looked.watch.want_for_ours();
                }
                fields::in_our_name(looked.watch.header(), &rules.id)
            }
            Purpose::Sign(keys, author) => {
                *author = sign::author(keys, looked.watch.header(), (!trusted).then_some(sender));
                if author.is_some() {
                    looked.watch.want_for_ours();
                }
                Vec::new()
            }
        };
        looked.removed = left_out.iter().map(|r| r.len() as u64).sum();
        for piece in fields::without(looked.watch.header(), &left_out) {
            self.body.copied(piece, &self.buf);
        }
    }

    /// The message has ended. `Err`: it is refused.
    pub(super) async fn finish_look(&mut self) -> Result<(), Reply> {
        if self.looked.as_mut().is_some_and(|l| l.watch.end()) {
            self.pass_header();
        }
        let Some(mut looked) = self.looked.take() else { return Ok(()) };
        let result = if looked.watch.is_too_long() {
            Err(Reply::HEADER_TOO_BIG)
        } else if let Purpose::Check(rules) = &looked.purpose {
            let rules = rules.clone();
            self.check(&rules, &mut looked).await
        } else {
            Ok(())
        };
        self.looked = Some(looked);
        result
    }

    async fn check(&self, rules: &Rules, looked: &mut Looked<R>) -> Result<(), Reply> {
        let ctx = self.ctx;
        let Some(checker) = ctx.checker.get() else { return Err(Reply::LOCAL_ERROR) };
        let begun = ctx.rt.now();
        let expired = Box::pin(ctx.rt.sleep_until(begun.after(ctx.options.check)));
        let helo = String::from_utf8_lossy(self.machine.helo());
        let sender = String::from_utf8_lossy(self.machine.envelope().view().sender());
        let sums = looked.watch.sums();
        let of_body = seal::sum_of(&sums).map(<[u8]>::to_vec);
        let mail = Mail {
            client: self.peer.ip(),
            helo: &helo,
            sender: &sender,
            header: looked.watch.header(),
            sums,
            host: &ctx.options.hostname,
        };
        let mut results = checker.check(mail, rules.wanted(), expired).await;
        ctx.metrics.authenticity_seconds.record(ctx.rt.now().since(begun).as_secs_f64());
        let of_chain = results.arc.as_ref().map(|chain| chain.outcome);
        looked.chain = of_chain.zip(of_body).filter(|_| ctx.sealer.get().is_some());
        let refused = rules.refuses(&results);
        let treatment = rules.treatment(&results);
        rules.reduce(&mut results);
        self.count_results(&results);
        results.put(&mut looked.front, &rules.id, treatment);
        let Some(refused) = refused else { return Ok(()) };
        // By its code alone the reply could be a filter's, or an access map's.
        ctx.metrics.rejected_authenticity.increment(1);
        Err(reply(refused))
    }

    fn count_results(&self, results: &Results) {
        let families = &self.ctx.metrics.families;
        if let Some((outcome, _)) = &results.spf {
            families.spf[*outcome as usize].increment(1);
        }
        if results.dkim.is_some() {
            families.dkim[results.best_signature() as usize].increment(1);
        }
        if let Some(chain) = &results.arc {
            families.arc[chain.outcome as usize].increment(1);
        }
        if let Some(dmarc) = &results.dmarc {
            families.dmarc[dmarc.outcome as usize].increment(1);
        }
    }

    /// Puts the signatures of the message before its trace headers. What filters have changed is what is
    /// signed.
    pub(super) async fn sign(
        &mut self,
        intake: &Intake<R>,
        filtered: Option<&Filtered>,
        now: Wall,
    ) -> Result<(), Reply> {
        let Some(mut looked) = self.looked.take_if(|l| matches!(l.purpose, Purpose::Sign(..))) else {
            return Ok(());
        };
        if let Some(filtered) = filtered.filter(|f| f.is_changed()) {
            self.look_again(&mut looked, intake, filtered).await?;
        }
        let m = &self.ctx.metrics;
        let mut trace = self.trace().to_vec();
        if let Purpose::Sign(keys, author) = &looked.purpose {
            let sums = looked.watch.sums();
            if let (Some(author), Some((.., body))) = (author, sums.first()) {
                let header = looked.watch.header();
                let mail = sign::Mail { front: &trace, header, body, now: now.0 / 1000 };
                let (signatures, count) = self.signatures(keys, author, mail).await?;
                m.dkim_signatures.increment(count);
                trace.splice(..0, signatures);
            } else {
                m.dkim_unsigned.increment(1);
            }
        }
        self.set_trace(trace);
        self.looked = Some(looked);
        Ok(())
    }

    /// Those of all keys of the author's domain; on another thread if one of them takes long.
    async fn signatures(
        &self,
        keys: &Arc<Keys>,
        author: &str,
        mail: sign::Mail<'_>,
    ) -> Result<(Vec<u8>, u64), Reply> {
        let ctx = self.ctx;
        let aside = ctx.aside.get().filter(|_| keys.of(author).any(Key::is_slow));
        let Some(aside) = aside else { return Ok(sign::all(keys, author, &mail)) };
        let (keys, author, waiting) = (keys.clone(), author.to_owned(), sign::Waiting::from(mail));
        let signed = aside.ask(move || sign::all(&keys, &author, &waiting.mail())).await;
        // Nothing goes out unsigned because there is much to sign.
        signed.map_err(|_| {
            ctx.metrics.dkim_busy.increment(1);
            Reply::SIGNING_BUSY
        })
    }

    /// Reads the message as filters have left it.
    pub(super) async fn look_again(
        &self,
        looked: &mut Looked<R>,
        intake: &Intake<R>,
        filtered: &Filtered,
    ) -> Result<(), Reply> {
        looked.watch = Watch::default();
        match filtered.side() {
            None => self.slices(Some(filtered)).iter().for_each(|piece| self.feed_again(looked, piece)),
            Some(side) => {
                let mut reader = intake.open_side(side).await.map_err(|_| Reply::LOCAL_ERROR)?;
                while let Some(piece) = reader.next().await.map_err(|_| Reply::LOCAL_ERROR)? {
                    self.feed_again(looked, &piece);
                }
            }
        }
        if looked.watch.end() {
            self.want_again(looked);
        }
        Ok(())
    }

    fn feed_again(&self, looked: &mut Looked<R>, piece: &[u8]) {
        match looked.feed(piece) {
            Fed::Header => {}
            Fed::Body => looked.watch.hash(piece),
            Fed::Ended(at) => {
                self.want_again(looked);
                looked.watch.hash(&piece[at..]);
            }
        }
    }

    fn want_again(&self, looked: &mut Looked<R>) {
        let sender = (!self.guest.trusted).then(|| self.machine.envelope().view().sender());
        match &mut looked.purpose {
            Purpose::Check(_) => looked.watch.want_for_ours(),
            Purpose::Sign(keys, author) => {
                *author = sign::author(keys, looked.watch.header(), sender);
                if author.is_some() {
                    looked.watch.want_for_ours();
                }
            }
        }
    }
}

fn reply(refused: Refused) -> Reply {
    match refused {
        Refused::Spf => Reply::SPF_FAILED,
        Refused::SpfLater => Reply::SPF_LATER,
        Refused::Dkim => Reply::DKIM_FAILED,
        Refused::DkimLater => Reply::DKIM_LATER,
        Refused::Arc => Reply::ARC_FAILED,
        Refused::ArcLater => Reply::ARC_LATER,
        Refused::Dmarc => Reply::DMARC_FAILED,
        Refused::DmarcLater => Reply::DMARC_LATER,
        Refused::Authors => Reply::NOT_ONE_AUTHOR,
    }
}
