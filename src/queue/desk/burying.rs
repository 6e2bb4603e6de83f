//! L4: an operator removes a parked message, whether its body can be read or not.
//!
//! Its row says where the body is, and that is all that is needed to end it: the journal says that it is
//! gone, then the index loses the row, and the body counts as dead. A message without a row stays.

use crate::base::ids::MessageId;
use crate::queue::control::ControlError;
use crate::queue::desk::{Desk, done};
use crate::queue::index::Key;
use crate::queue::record;
use crate::queue::row::RowView;
use crate::queue::state::{About, Answer, State};
use crate::queue::stub::Marks;
use crate::runtime::Runtime;

impl<R: Runtime> Desk<R> {
    /// Ends those of `keys` that are parked, without reading their bodies; gives how many, once that is on
    /// stable storage. An error: some can be ended no more than read.
    pub(crate) async fn bury(&self, keys: &[Key], note: &[u8]) -> Result<u64, ControlError> {
        let mut count = 0;
        for key in keys {
            let Some(id) = self.0.state.borrow().index.stub(*key).map(|stub| stub.id) else { continue };
            let row = self.row(id).await.ok_or(ControlError::Unreadable)?;
            let view = RowView::parse(&row).map_err(|_| ControlError::Unreadable)?;
            let slip = {
                let mut s = self.0.state.borrow_mut();
                let s = &mut *s;
                if s.dead || s.closing {
                    return Err(ControlError::Closed);
                }
                // Or somebody reads it back after all, or has.
                let there = s.index.stub(*key).is_some_and(|stub| !stub.marks.has(Marks::RECALLING));
                there.then(|| {
                    let slip = s.slips.take();
                    self.bury_one(s, *key, id, &view, (note, Some(slip)));
                    slip
                })
            };
            match slip {
                None => {}
                Some(slip) if matches!(self.answer(slip).await, Answer::Committed(_)) => count += 1,
                Some(_) => return Err(ControlError::Closed),
            }
        }
        Ok(count)
    }

    /// Ends a parked message that nobody reads back, by its row. `slip`: somebody waits for it.
    pub(super) fn bury_one(
        &self,
        s: &mut State,
        key: Key,
        id: MessageId,
        view: &RowView<'_>,
        (note, slip): (&[u8], Option<usize>),
    ) {
        let timer = s.index.change_stub(key, |stub| stub.timer.take()).flatten();
        s.index.remove(key);
        s.whose.leave(id);
        s.vias.forget(id);
        if let Some(timer) = timer {
            s.timers.cancel(timer);
        }
        self.record_removal(id, note);
        let after = done(view.side, slip);
        self.note_about(s, record::REMOVED, id, note, None, (About::Gone(id, view.place), after));
    }
}
