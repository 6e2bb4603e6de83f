//! L4: reports that come in: bounces and complaints become records of the mail log, and are counted.
//!
//! Only for the addresses that the configuration names. The message is read when it has come in, its
//! beginning only; it goes on as any other, or is thrown away for these addresses. What it says is told once
//! the message was taken. One that is no report is counted, and goes the same way.

use super::filter::{Filtered, Stop};
use super::session::Talk;
use crate::base::ids::QueueId;
use crate::events::mail::{Complaint, Returned};
use crate::intake::Intake;
use crate::message::envelope::Envelope;
use crate::message::report::{self, Action, Recipient, Report};
use crate::policy::reports::For;
use crate::runtime::Runtime;
use crate::storage::side::SideFile;

/// A report, and whom it came to.
pub(super) struct Heard {
    to: Box<[u8]>,
    sender: Box<[u8]>,
    what: For,
    report: Option<Report>,
}

impl<R: Runtime> Talk<'_, R> {
    /// The address is one of those whose mail is read and thrown away.
    pub(super) fn is_only_read(&self, address: &[u8]) -> bool {
        self.ctx.reports.get().is_some_and(|r| r.discard && r.of(address).is_some())
    }

    /// Reads the message that has come in, if it is for such an address. The envelope without those that are
    /// only read; `None`: it stays as it is. An error: nobody is left.
    pub(super) async fn hear(
        &mut self,
        intake: &Intake<R>,
        id: QueueId,
        filtered: Option<&Filtered>,
        side: Option<SideFile>,
    ) -> Result<Option<Envelope>, Stop> {
        let ctx = self.ctx;
        let Some(reports) = ctx.reports.get() else { return Ok(None) };
        let view = self.machine.envelope().view();
        let found = view.recipients().find_map(|r| Some((r.address, reports.of(r.address)?)));
        let Some((to, what)) = found else { return Ok(None) };
        let (to, sender) = (to.into(), view.sender().into());
        let mut begin = Vec::new();
        let room = |begin: &Vec<u8>| report::LOOKED_AT - begin.len();
        match side {
            None => {
                for piece in self.slices(filtered) {
                    begin.extend_from_slice(&piece[..piece.len().min(room(&begin))]);
                }
            }
            Some(side) => {
                // One that cannot be read now is stored all the same.
                if let Ok(mut reader) = intake.open_side(side).await {
                    while let (1.., Ok(Some(piece))) = (room(&begin), reader.next().await) {
                        begin.extend_from_slice(&piece[..piece.len().min(room(&begin))]);
                    }
                }
            }
        }
        self.heard = Some(Box::new(Heard { to, sender, what, report: report::parse(&begin) }));
        if !reports.discard {
            return Ok(None);
        }
        let before = self.machine.envelope().view();
        let mut rest = Envelope::default();
        rest.begin(before.sender(), before.options(), before.envid());
        for r in before.recipients().filter(|r| reports.of(r.address).is_none()) {
            rest.push(r.address, r.notify, r.orcpt);
        }
        if rest.count() > 0 {
            return Ok(Some(rest));
        }
        side.into_iter().for_each(|side| intake.discard_side(side));
        Err(Stop::Discarded(id, "a report that was read".into()))
    }

    /// The message was taken: what it has reported is told.
    pub(super) fn tell_heard(&mut self, id: QueueId) {
        let Some(heard) = self.heard.take() else { return };
        let ctx = self.ctx;
        let (m, log, wall) = (&ctx.metrics, ctx.mail_log.get(), ctx.rt.wall());
        let Heard { to, sender, what, report } = *heard;
        let named = match &what {
            For::Bounces(recipient) => &recipient[..],
            For::Feedback => b"",
        };
        match &report {
            None => m.reports_unreadable.increment(1),
            Some(Report::Feedback(feedback)) => {
                m.reports_feedback.increment(1);
                let complaint = Complaint { id, sender: &sender, recipient: &to, feedback };
                log.into_iter().for_each(|log| log.complaint(wall, &complaint));
            }
            Some(Report::Delivery(delivery)) => {
                let is_bad = |r: &&Recipient| matches!(r.action, Action::Failed | Action::Delayed);
                let bad: Vec<&Recipient> = delivery.recipients.iter().filter(is_bad).collect();
                let counter = if bad.is_empty() { &m.reports_delivered } else { &m.reports_bounce };
                counter.increment(1);
                for of in bad {
                    let returned = Returned { id, to: &to, named, delivery, of };
                    log.into_iter().for_each(|log| log.returned(wall, &returned));
                }
            }
        }
    }
}
