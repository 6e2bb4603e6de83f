//! L4: many messages described at once: those that have left the journal by rows and bodies that are read
//! together, the others one by one.
//!
//! A message that ends meanwhile is left out; one that cannot be read so is tried again by itself
//! (`operate`).

use crate::base::ids::MessageId;
use crate::queue::control::Listed;
use crate::queue::desk::Desk;
use crate::queue::desk::archiving::together;
use crate::queue::index::Key;
use crate::queue::row::RowView;
use crate::queue::stub::Marks;
use crate::runtime::Runtime;

/// Messages described at a time.
const TOGETHER: usize = 64;

impl<R: Runtime> Desk<R> {
    /// What operators are shown of these messages, in their order.
    pub(super) async fn listed_all(&self, keys: &[Key]) -> Vec<Listed> {
        let mut all = Vec::with_capacity(keys.len());
        for some in keys.chunks(TOGETHER) {
            let parked = self.listed_by_rows(some).await;
            let each = some.iter().zip(parked).map(|(key, listed)| async move {
                match listed {
                    Some(listed) => Some(listed),
                    None => self.listed(*key).await,
                }
            });
            all.extend(together(each).await.into_iter().flatten());
        }
        all
    }

    /// Those of `keys` that are parked, as far as they can be read together.
    async fn listed_by_rows(&self, keys: &[Key]) -> Vec<Option<Listed>> {
        let ids: Vec<Option<MessageId>> = {
            let s = self.0.state.borrow();
            keys.iter().map(|key| s.index.stub(*key).map(|stub| stub.id)).collect()
        };
        let read = self.read_parked_all(&ids).await;
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        let each = keys.iter().zip(read).map(|(key, read)| {
            let (row, payload) = read?;
            let (id, doubt) = s.index.stub(*key).map(|stub| (stub.id, stub.marks.has(Marks::IN_DOUBT)))?;
            let e = self.entry_of(s, id, &RowView::parse(&row).ok()?, &payload, doubt)?;
            let replies = e.archived.iter().flat_map(|a| a.replies.iter().cloned()).collect();
            Some(self.describe(s, &e, Some(&payload), &replies))
        });
        each.collect()
    }
}
