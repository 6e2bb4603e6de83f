//! L4: the round through the rows of the index that finds the names of destinations that none needs.
//!
//! Begun by the pulse when there are many names (`queue::names`); reads rows a page at a time beside
//! everything else. One that cannot be read to its end forgets nothing.

use crate::queue::desk::Desk;
use crate::queue::row;
use crate::queue::state::State;
use crate::runtime::table::{ScanLimit, Table};
use crate::runtime::{Runtime, yield_now};

/// Rows read at a time, and looked at before others run.
const PAGE: ScanLimit = ScanLimit { rows: 4096, bytes: 1 << 20 };
const LOOKED: usize = 1024;

impl<R: Runtime> Desk<R> {
    /// Begins a round if one is due.
    pub(crate) fn look_for_unused_names(&self, s: &mut State) {
        if !s.loaded || s.closing || s.dead || !s.ledger.begin_round(self.0.options.limits.names) {
            return;
        }
        let desk = self.clone();
        self.0.rt.spawn(async move {
            let whole = desk.names_round().await;
            desk.0.state.borrow_mut().ledger.end_round(whole);
        });
    }

    /// Tells the ledger all rows of the index. `false`: not all could be read.
    async fn names_round(&self) -> bool {
        let mut after = vec![row::MESSAGES];
        loop {
            if self.is_closed() {
                return false;
            }
            let Ok(rows) = self.0.table().scan(&[row::MESSAGES], &after, PAGE).await else { return false };
            let Some(last) = rows.last_key() else { return true };
            after = last.to_vec();
            let mut rows = rows.iter().peekable();
            while rows.peek().is_some() {
                {
                    let mut s = self.0.state.borrow_mut();
                    rows.by_ref().take(LOOKED).for_each(|(_, row)| s.ledger.names_row(row));
                }
                yield_now().await;
            }
        }
    }
}
