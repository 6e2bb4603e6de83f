//! L2: following the records of one archive segment, over damage if need be.
//!
//! A pure machine over a window of bytes; for cleaning, rebuilding and verifying. Never panics on
//! any bytes. What does not verify is *damage* if something later vouches that it was durable: the
//! trailer, or the mark of a later run. In the last run of a segment without trailer nothing does: there
//! it is damage or what a crash left of a write, and that is said. The footer's offsets lead to the next
//! record; without them a damaged record is stepped over by its length, and if that leads nowhere the
//! next record is looked for at every byte: only one of this segment has the right CRC, which starts
//! from a secret. What that may cost is bounded (`TRIES`); beyond it the rest of the run is given up.

use crate::base::aligned::PAGE;
use crate::storage::archive::format::{HEAD_BYTES, KIND_MARK, MARK, RECORD_MAX, mark};
use crate::storage::record::{self, RECORD_HEAD, RecordHead, u32_at};
use crate::storage::segment::Keys;
use crate::storage::walk::Window;

/// Bytes of candidates that are verified while records are looked for, in all: so many times those of the
/// segment. (Mail has no candidates: a length has a zero byte, and mail has none.)
const TRIES: u64 = 4;

/// What [`Scan::step`] wants or has.
#[derive(Debug)]
pub enum Step<'a> {
    /// These bytes must be in the window (more is welcome).
    Read {
        /// First byte, on a page boundary.
        offset: u32,
        /// Number of bytes, whole pages.
        len: u32,
    },
    /// The next record.
    Record {
        /// Its head.
        head: RecordHead,
        /// Where it starts.
        offset: u32,
        /// Bytes of head and payload.
        len: u32,
        /// Its payload.
        payload: &'a [u8],
    },
    /// Bytes that do not verify. The records in them are lost.
    Damage {
        /// First byte.
        from: u32,
        /// End.
        to: u32,
        /// They were durable. If not, nothing says so: a crash may have left them, and then none was lost.
        sure: bool,
    },
    /// The end.
    End {
        /// Where.
        at: u32,
        /// Something behind it was never finished, or is damaged.
        torn: bool,
    },
}

/// Follows the records of one segment.
pub struct Scan {
    number: u32,
    keys: Keys,
    at: u32,
    end: u32,
    /// Offsets of all records, ascending, from the footer.
    starts: Option<Vec<u32>>,
    /// All records are known to have been durable up to here.
    vouched: u32,
    /// There is no mark behind what was looked at last; this is the end of the last page with anything in it.
    dirt: Option<u32>,
    /// Bytes of candidates that may still be verified.
    tries: u64,
    doing: Doing,
}

#[derive(Clone, Copy)]
enum Doing {
    Records,
    /// Looking for a mark, page by page from here; `dirt`: the end of the last page with anything in it.
    Search {
        probe: u32,
        dirt: u32,
    },
    /// Whether a record begins where the damaged one ends.
    Try {
        next: u32,
    },
    /// Looking for a record or a mark, byte by byte from here.
    Seek {
        probe: u32,
    },
    /// Damage up to the next mark: whether it stands here.
    SeekMark {
        probe: u32,
    },
}

/// What stands at a place.
enum Found<'a> {
    Record(RecordHead, &'a [u8], u32),
    Mark,
    Nothing,
}

impl Scan {
    /// Of segment `number`, whose records end at `end` (whole pages). `sealed`: it has a trailer.
    /// `starts`: the offsets of all records, if its footer can be read.
    #[must_use]
    pub fn new(number: u32, keys: Keys, end: u32, sealed: bool, starts: Option<Vec<u32>>) -> Self {
        let end = end / PAGE as u32 * PAGE as u32;
        let vouched = if sealed { end } else { 0 };
        let (tries, doing) = (u64::from(end) * TRIES, Doing::Records);
        Scan { number, keys, at: HEAD_BYTES, end, starts, vouched, dirt: None, tries, doing }
    }

    /// Goes on.
    pub fn step<'a>(&mut self, window: Window<'a>) -> Step<'a> {
        loop {
            let result = match self.doing {
                Doing::Records => self.records(window),
                Doing::Search { probe, dirt } => self.search(window, probe, dirt),
                Doing::Try { next } => self.try_next(window, next),
                Doing::Seek { probe } => self.seek(window, probe),
                Doing::SeekMark { probe } => self.seek_mark(window, probe),
            };
            match result {
                Ok(Some(step)) => return step,
                Ok(None) => {}
                Err((from, len)) => {
                    let page = PAGE as u32;
                    let offset = from / page * page;
                    return Step::Read { offset, len: (from + len).next_multiple_of(page) - offset };
                }
            }
        }
    }

    /// `Err`: bytes that are not in the window.
    fn records<'a>(&mut self, window: Window<'a>) -> Result<Option<Step<'a>>, (u32, u32)> {
        if self.at >= self.end {
            return Ok(Some(Step::End { at: self.end, torn: false }));
        }
        let offset = self.at;
        match self.look(window, offset)? {
            Found::Record(head, payload, len) => {
                self.at += len;
                Ok(Some(Step::Record { head, offset, len, payload }))
            }
            Found::Mark => {
                self.at += MARK as u32;
                Ok(None)
            }
            Found::Nothing => {
                let rest = (PAGE - offset as usize % PAGE) % PAGE;
                let zeros = self.get(window, offset, rest as u32)?;
                if rest > 0 && zeros.iter().all(|&b| b == 0) {
                    self.at += rest as u32;
                    return Ok(None);
                }
                self.bad(window)
            }
        }
    }

    /// What is at `at` does not verify.
    fn bad<'a>(&mut self, window: Window<'a>) -> Result<Option<Step<'a>>, (u32, u32)> {
        if let Some(starts) = &self.starts {
            let next = starts.get(starts.partition_point(|&s| s <= self.at));
            return Ok(Some(self.damage(next.copied().unwrap_or(self.end))));
        }
        if self.at < self.vouched {
            return self.begin_seek(window, self.vouched);
        }
        let Some(dirt) = self.dirt else { return self.begin_search(window) };
        let page = self.at.next_multiple_of(PAGE as u32);
        let here = self.get(window, self.at, page - self.at)?;
        if page >= dirt && here.iter().all(|&b| b == 0) {
            return Ok(Some(Step::End { at: self.at, torn: false }));
        }
        self.begin_seek(window, dirt)
    }

    /// Is there a later run, which says that this one was durable?
    fn begin_search<'a>(&mut self, window: Window<'a>) -> Result<Option<Step<'a>>, (u32, u32)> {
        let probe = self.at.next_multiple_of(PAGE as u32);
        // A page that should begin with a mark and does not is not looked at twice.
        let probe = if probe == self.at { probe + PAGE as u32 } else { probe };
        let before = self.get(window, self.at, probe - self.at)?;
        let dirt = if before.iter().any(|&b| b != 0) { probe } else { self.at };
        self.doing = Doing::Search { probe, dirt };
        Ok(None)
    }

    /// First where the damaged record would end. Nothing is looked for from `limit` on.
    fn begin_seek<'a>(&mut self, window: Window<'a>, limit: u32) -> Result<Option<Step<'a>>, (u32, u32)> {
        let left = self.end - self.at;
        let head = self.get(window, self.at, left.min(RECORD_HEAD as u32))?;
        let len = if head.len() < RECORD_HEAD { None } else { record::record_len(u32_at(head, 4) as usize) };
        let next = len.and_then(|len| self.at.checked_add(len)).filter(|&next| next < limit);
        self.doing = next.map_or(Doing::Seek { probe: self.at + 1 }, |next| Doing::Try { next });
        Ok(None)
    }

    fn search<'a>(
        &mut self,
        window: Window<'a>,
        probe: u32,
        dirt: u32,
    ) -> Result<Option<Step<'a>>, (u32, u32)> {
        if probe >= self.end {
            self.dirt = Some(dirt);
            self.doing = Doing::Records;
            return Ok(None);
        }
        let page = self.get(window, probe, PAGE as u32)?;
        if self.is_mark(page, probe) {
            self.vouched = probe;
            self.doing = Doing::Records;
        } else {
            let next = probe + PAGE as u32;
            let dirt = if page.iter().any(|&b| b != 0) { next } else { dirt };
            self.doing = Doing::Search { probe: next, dirt };
        }
        Ok(None)
    }

    fn try_next<'a>(&mut self, window: Window<'a>, next: u32) -> Result<Option<Step<'a>>, (u32, u32)> {
        if !matches!(self.look(window, next)?, Found::Nothing) {
            return Ok(Some(self.damage(next)));
        }
        self.doing = Doing::Seek { probe: self.at + 1 };
        Ok(None)
    }

    /// A record or a mark somewhere behind `at`.
    fn seek<'a>(&mut self, window: Window<'a>, from: u32) -> Result<Option<Step<'a>>, (u32, u32)> {
        let sure = self.at < self.vouched;
        let (limit, most) = match self.dirt {
            Some(dirt) if !sure => (dirt, self.end),
            _ => (self.vouched, self.vouched),
        };
        for probe in from..limit {
            if probe + RECORD_HEAD as u32 > most {
                break;
            }
            // Where to go on when it is read.
            self.doing = Doing::Seek { probe };
            let head = self.get(window, probe, RECORD_HEAD as u32)?;
            let Some(len) = candidate(head, probe).filter(|&len| len <= most - probe) else { continue };
            if u64::from(len) > self.tries {
                if sure {
                    self.doing = Doing::SeekMark { probe: (self.at + 1).next_multiple_of(PAGE as u32) };
                    return Ok(None);
                }
                break;
            }
            if !matches!(self.look(window, probe)?, Found::Nothing) {
                return Ok(Some(self.damage(probe)));
            }
            self.tries -= u64::from(len);
        }
        if sure {
            return Ok(Some(self.damage(self.vouched)));
        }
        self.doing = Doing::Seek { probe: limit };
        Ok(Some(Step::End { at: self.at, torn: true }))
    }

    /// One of the marks before `vouched`, or that itself.
    fn seek_mark<'a>(&mut self, window: Window<'a>, probe: u32) -> Result<Option<Step<'a>>, (u32, u32)> {
        if probe >= self.vouched {
            return Ok(Some(self.damage(self.vouched)));
        }
        if self.is_mark(self.get(window, probe, MARK as u32)?, probe) {
            return Ok(Some(self.damage(probe)));
        }
        self.doing = Doing::SeekMark { probe: probe + PAGE as u32 };
        Ok(None)
    }

    fn damage<'a>(&mut self, to: u32) -> Step<'a> {
        let from = std::mem::replace(&mut self.at, to);
        self.doing = Doing::Records;
        Step::Damage { from, to, sure: from < self.vouched }
    }

    fn is_mark(&self, bytes: &[u8], offset: u32) -> bool {
        bytes.get(..MARK).is_some_and(|b| *b == mark(offset, &self.keys))
    }

    fn look<'a>(&self, window: Window<'a>, offset: u32) -> Result<Found<'a>, (u32, u32)> {
        let left = self.end - offset;
        if left < RECORD_HEAD as u32 {
            return Ok(Found::Nothing);
        }
        let head = self.get(window, offset, RECORD_HEAD as u32)?;
        let Some(len) = record::record_len(u32_at(head, 4) as usize) else { return Ok(Found::Nothing) };
        if len > left.min(RECORD_MAX) {
            return Ok(Found::Nothing);
        }
        let bytes = self.get(window, offset, len)?;
        Ok(match record::decode(bytes, &self.keys) {
            Some((head, ..)) if head.kind == KIND_MARK => {
                if self.is_mark(bytes, offset) {
                    Found::Mark
                } else {
                    Found::Nothing
                }
            }
            Some((head, payload, len)) => Found::Record(head, payload, len),
            None => Found::Nothing,
        })
    }

    fn get<'a>(&self, window: Window<'a>, at: u32, len: u32) -> Result<&'a [u8], (u32, u32)> {
        window.get(self.number, at, len).ok_or((at, len))
    }
}

/// The length of what stands at `probe`, if it may be a record or a mark.
fn candidate(head: &[u8], probe: u32) -> Option<u32> {
    let stray = head[8] == KIND_MARK && !(probe as usize).is_multiple_of(PAGE);
    let len = record::record_len(u32_at(head, 4) as usize)?;
    (len <= RECORD_MAX && !stray).then_some(len)
}
