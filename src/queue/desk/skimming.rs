//! L4: many messages looked at on the disk at once: neighbours in one read, and of a long message only its
//! beginning.
//!
//! Owns which reads are made. Records that are short are verified; of a beginning only id and length are, so
//! it may say that a message is not meant, and whoever acts on one that is reads the whole. What is not
//! there, or not sound, is left to the caller, who reads it by itself. Must not know what is looked for.

use crate::base::aligned::SharedBytes;
use crate::base::ids::MessageId;
use crate::queue::desk::Desk;
use crate::queue::desk::archiving::together;
use crate::queue::desk::recall::Source;
use crate::queue::index::Key;
use crate::queue::record::MessageView;
use crate::queue::row::RowView;
use crate::runtime::Runtime;
use crate::storage::stretch::Stretch;

/// Bytes of one read, but for a longer message.
const STRETCH: u32 = 256 << 10;
/// Bytes between two messages that are read with them, for that is cheaper than another read.
const GAP: u32 = 8 << 10;
/// Bytes of a message that are read if its beginning will do: nearly all envelopes are shorter.
pub(super) const BEGINNING: u32 = 4 << 10;

/// What has been read of a message.
pub(super) enum Skimmed {
    /// Its record, verified.
    Whole(SharedBytes),
    /// So many bytes of the payload, which has so many; not verified.
    Beginning(SharedBytes, usize),
}

/// Where a record begins, what of it is wanted, and its number among those that are wanted.
struct Wish {
    at: Source,
    id: MessageId,
    to: u32,
    number: usize,
}

impl Wish {
    /// The log and the segment; where the record begins there, and its length.
    fn range(&self) -> ((bool, u64), u32, u32) {
        match self.at {
            Source::Journal(at) => ((false, at.segment), at.offset, at.len),
            Source::Archive(at) => ((true, at.segment.into()), at.offset, at.len),
        }
    }
}

impl<R: Runtime> Desk<R> {
    /// Reads these records, or their beginnings. `None`: that has to be read by itself.
    pub(super) async fn skim(&self, of: &[Option<(Source, MessageId)>], whole: bool) -> Vec<Option<Skimmed>> {
        let wishes = of.iter().enumerate().filter_map(|(number, of)| {
            let (at, id) = (*of)?;
            let mut wish = Wish { at, id, to: 0, number };
            let (_, offset, len) = wish.range();
            wish.to = offset.checked_add(if whole { len } else { len.min(BEGINNING) })?;
            Some(wish)
        });
        let mut wishes: Vec<Wish> = wishes.collect();
        wishes.sort_unstable_by_key(Wish::range);
        let mut out: Vec<Option<Skimmed>> = of.iter().map(|_| None).collect();
        let reads = together(stretches(&wishes).map(|some| self.read_all(some))).await;
        for (number, found) in reads.into_iter().flatten() {
            out[number] = found;
        }
        out
    }

    /// Rows and bodies of those that are parked, as far as they can be read together. `None`: not so.
    pub(super) async fn read_parked_all(
        &self,
        ids: &[Option<MessageId>],
    ) -> Vec<Option<(Box<[u8]>, SharedBytes)>> {
        let parked = ids.iter().copied().flatten();
        let mut rows = match parked.clone().next() {
            None => Vec::new(),
            // Whoever reads them one by one says what is wrong.
            Some(_) => self.rows(parked).await.unwrap_or_default(),
        }
        .into_iter();
        let rows: Vec<Option<Box<[u8]>>> =
            ids.iter().map(|id| id.and_then(|_| rows.next().flatten())).collect();
        let place = |row: &[u8]| RowView::parse(row).ok().map(|view| Source::Archive(view.place));
        let sources = ids.iter().zip(&rows).map(|(id, row)| Some((place(row.as_deref()?)?, (*id)?)));
        let read = self.skim(&sources.collect::<Vec<_>>(), true).await;
        let each = rows.into_iter().zip(read).map(|(row, read)| match (row, read) {
            (Some(row), Some(Skimmed::Whole(payload))) if MessageView::parse(&payload).is_ok() => {
                Some((row, payload))
            }
            _ => None,
        });
        each.collect()
    }

    /// The records of messages that are not parked, from memory or from the disk, neighbours together.
    pub(super) async fn read_back_all(&self, keys: &[Key]) -> Vec<Option<SharedBytes>> {
        let sources: Vec<Option<(Source, MessageId)>> = {
            let s = self.0.state.borrow();
            let on_disk = |key: &Key| s.index.get(*key).filter(|e| e.payload.is_none());
            keys.iter().map(|key| on_disk(key).map(|e| (Source::of(e), e.id))).collect()
        };
        let read = self.skim(&sources, true).await;
        let each = keys.iter().zip(read).map(|(key, read)| async move {
            match read {
                Some(Skimmed::Whole(payload)) if MessageView::parse(&payload).is_ok() => Some(payload),
                _ => self.read_back(*key).await,
            }
        });
        together(each).await
    }

    async fn read_all(&self, some: &[Wish]) -> Vec<(usize, Option<Skimmed>)> {
        let to = some.iter().map(|wish| wish.to).max().unwrap_or(0);
        let read = match some[0].at {
            Source::Journal(at) => self.0.keeper.read_stretch(at.segment, at.offset, to).await,
            Source::Archive(at) => self.0.vault.read_stretch(at, to).await,
        };
        let Ok(stretch) = read else { return Vec::new() };
        some.iter().map(|wish| (wish.number, found(&stretch, wish))).collect()
    }
}

fn found(stretch: &Stretch, wish: &Wish) -> Option<Skimmed> {
    let (_, offset, len) = wish.range();
    // Of a longer one all may be here, too, for the sake of the next.
    if stretch.covers(offset, offset.saturating_add(len)) {
        return stretch.record(offset, len, wish.id.0).map(Skimmed::Whole);
    }
    let (begins, payload) = stretch.beginning(offset, len, wish.id.0)?;
    Some(Skimmed::Beginning(begins, payload))
}

/// Those that are read at once, of some in their order on the disk.
fn stretches(wishes: &[Wish]) -> impl Iterator<Item = &[Wish]> {
    let mut from = wishes.first().map_or(0, |wish| wish.range().1);
    wishes.chunk_by(move |a, b| {
        let ((log, _, _), (next, offset, _)) = (a.range(), b.range());
        let near = log == next && offset <= a.to.saturating_add(GAP) && b.to <= from.saturating_add(STRETCH);
        if !near {
            from = offset;
        }
        near
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::archive::Place;
    use crate::storage::record::Location;

    fn at(segment: u64, offset: u32, to: u32) -> Wish {
        let place = Location { segment, offset, len: to - offset };
        Wish { at: Source::Journal(place), id: MessageId(1), to, number: 0 }
    }

    #[test]
    fn neighbours_are_read_at_once_and_a_read_is_bounded() {
        let lens = |wishes: &[Wish]| stretches(wishes).map(<[Wish]>::len).collect::<Vec<_>>();
        assert!(lens(&[]).is_empty());
        let far = 300 + GAP + 1;
        let archived = Place { segment: 8, offset: far + 100, len: 100 };
        let archived = Wish { at: Source::Archive(archived), ..at(8, 0, far + 200) };
        let wishes =
            [at(7, 100, 200), at(7, 200, 300), at(7, far, far + 100), at(8, far + 100, far + 200), archived];
        assert_eq!(lens(&wishes), [2, 1, 1, 1]);
        // A thousand in a row, and one that is longer than a read.
        let mut row: Vec<Wish> = (0..1000).map(|n| at(7, n * 1000, (n + 1) * 1000)).collect();
        row.push(at(7, 1_000_000, 1_000_000 + 2 * STRETCH));
        row.push(at(7, 1_000_000 + 2 * STRETCH, 1_000_100 + 2 * STRETCH));
        let all: Vec<&[Wish]> = stretches(&row).collect();
        assert_eq!(all.iter().map(|some| some.len()).sum::<usize>(), row.len());
        for some in all {
            let (from, to) = (some[0].range().1, some[some.len() - 1].to);
            assert!(to - from <= STRETCH || some.len() == 1, "{from} {to}");
        }
    }
}
