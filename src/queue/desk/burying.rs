//! L4: an operator gives up a parked message whose body cannot be read.
//!
//! Its row says where the body is, and that is all that is needed to end it: the journal says that it is
//! gone, then the index loses the row, and the body counts as dead. A message without a row stays.

use crate::base::ids::MessageId;
use crate::queue::control::ControlError;
use crate::queue::desk::Desk;
use crate::queue::index::Key;
use crate::queue::record;
use crate::queue::row::RowView;
use crate::queue::state::{About, After, Answer, State};
use crate::queue::stub::Marks;
use crate::runtime::Runtime;
use crate::storage::archive::Place;

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
                self.bury_one(s, *key, id, (view.place, view.side), note)
            };
            match slip {
                None => {}
                Some(slip) if matches!(self.answer(slip).await, Answer::Committed(_)) => count += 1,
                Some(_) => return Err(ControlError::Closed),
            }
        }
        Ok(count)
    }

    /// `None`: somebody reads it back after all, or has.
    fn bury_one(
        &self,
        s: &mut State,
        key: Key,
        id: MessageId,
        (place, side): (Place, u64),
        note: &[u8],
    ) -> Option<usize> {
        let timer = s.index.stub(key).filter(|stub| !stub.marks.has(Marks::RECALLING))?.timer;
        s.index.remove(key);
        s.whose.leave(id);
        if let Some(timer) = timer {
            s.timers.cancel(timer);
        }
        self.record_removal(id, note);
        let slip = s.slips.take();
        let after = After::Done { side, slip: Some(slip) };
        self.note_about(s, record::REMOVED, id, note, None, (About::Gone(id, place), after));
        Some(slip)
    }
}
