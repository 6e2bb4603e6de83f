//! L4: a message while filters look at it: its header, its body wherever that is, what is to change.
//!
//! Bytes that no filter has changed are handed on as they are: a message in memory stays where it was
//! received, and a side file is written anew only if the header in it, or the body, is another one.

use super::Trouble;
use super::message::{Filtered, Rest};
use super::replacement::Replaced;
use crate::base::aligned::SharedBytes;
use crate::intake::Intake;
use crate::message::body::BodyFacts;
use crate::message::envelope::Envelope;
use crate::message::headers;
use crate::milter::Header;
use crate::runtime::Runtime;
use crate::smtp::serve::session::Talk;
use crate::storage::side::{SideFile, SideReader};
use smallvec::SmallVec;
use std::ops::Deref;

/// Longest line that RFC 5321 §4.5.3.1.6 permits, without CRLF.
const LINE_MAX: usize = 998;

/// Bytes of a header at most that filters get as one; what comes behind is body for them.
const HEADER_MAX: usize = 4 << 20;

/// Where a body is.
pub(super) enum Text {
    /// With the message that was received, in memory.
    Received,
    /// With the message that was received, in this side file.
    Side(SideFile),
    /// Sent by a filter.
    Replaced(Replaced),
}

/// A message that is being filtered.
pub(super) struct Draft {
    pub header: Header,
    pub envelope: Option<Envelope>,
    pub hold: Option<Vec<u8>>,
    pub text: Text,
    /// Bytes of the received message in front of its body: header, and the empty line if there is one.
    head: usize,
    /// Of them, the empty line.
    blank: usize,
    facts: BodyFacts,
}

/// A piece of a body.
pub(super) enum Bytes<'a> {
    Here(&'a [u8]),
    Read(SharedBytes),
}

impl Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Here(bytes) => bytes,
            Bytes::Read(bytes) => bytes,
        }
    }
}

/// A body, piece by piece.
pub(super) struct Pieces<'a, R: Runtime> {
    slices: SmallVec<[&'a [u8]; 10]>,
    at: usize,
    side: Option<SideReader<R>>,
    skip: usize,
}

impl<R: Runtime> Pieces<'_, R> {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes<'_>>, Trouble> {
        loop {
            let piece = match &mut self.side {
                Some(reader) => match reader.next().await.map_err(|_| Trouble::Ours)? {
                    None => return Ok(None),
                    Some(bytes) => Bytes::Read(bytes),
                },
                None => match self.slices.get(self.at) {
                    None => return Ok(None),
                    Some(slice) => {
                        self.at += 1;
                        Bytes::Here(slice)
                    }
                },
            };
            let skip = self.skip.min(piece.len());
            self.skip -= skip;
            if skip == piece.len() {
                continue;
            }
            return Ok(Some(match piece {
                Bytes::Here(bytes) => Bytes::Here(&bytes[skip..]),
                Bytes::Read(bytes) => {
                    let end = bytes.len();
                    Bytes::Read(bytes.part(skip..end))
                }
            }));
        }
    }
}

impl Draft {
    /// Reads the header of the message that has been received; it lies in `side` if it is not in memory.
    pub async fn read<R: Runtime>(
        talk: &Talk<'_, R>,
        intake: &Intake<R>,
        side: Option<SideFile>,
        header_max: u64,
    ) -> Result<Self, Trouble> {
        let text = side.map_or(Text::Received, Text::Side);
        let most = usize::try_from(header_max).map_or(HEADER_MAX, |n| n.min(HEADER_MAX)) + 4;
        let mut front = Vec::new();
        let mut pieces = pieces(talk, intake, &text, 0).await?;
        while let Some(piece) = pieces.next().await? {
            let from = front.len().saturating_sub(3);
            front.extend_from_slice(&piece);
            let ended = memchr::memmem::find(&front[from..], b"\r\n\r\n").is_some();
            if ended || front.len() >= most || front.starts_with(b"\r\n") {
                break;
            }
        }
        drop(pieces);
        let len: usize = headers::fields(&front).map(|f| f.raw.len()).sum();
        let blank = if front[len..].starts_with(b"\r\n") { 2 } else { 0 };
        let header = Header::new(talk.trace(), &front[..len]);
        let facts = talk.facts();
        Ok(Draft { header, envelope: None, hold: None, text, head: len + blank, blank, facts })
    }

    /// The body, from its beginning.
    pub async fn body<'a, R: Runtime>(
        &'a self,
        talk: &'a Talk<'_, R>,
        intake: &Intake<R>,
    ) -> Result<Pieces<'a, R>, Trouble> {
        let skip = if matches!(self.text, Text::Replaced(_)) { 0 } else { self.head };
        pieces(talk, intake, &self.text, skip).await
    }

    /// Bytes of the message as a filter sees it.
    pub fn seen_len(&self) -> u64 {
        let body = match &self.text {
            Text::Replaced(replaced) => replaced.facts.len,
            Text::Received | Text::Side(_) => self.facts.len - self.head as u64,
        };
        self.header.seen_len() as u64 + 2 + body
    }

    /// Another body; the side file of the one before, if it had one of its own.
    pub fn replace(&mut self, replaced: Replaced) -> Option<SideFile> {
        match std::mem::replace(&mut self.text, Text::Replaced(replaced)) {
            Text::Received => None,
            Text::Side(side) => Some(side),
            Text::Replaced(before) => before.side,
        }
    }

    /// The side file that it has.
    pub fn side(&self) -> Option<SideFile> {
        match &self.text {
            Text::Received => None,
            Text::Side(side) => Some(*side),
            Text::Replaced(replaced) => replaced.side,
        }
    }

    /// The message as it has become; `trace` is what stands in front of it.
    pub async fn finish<R: Runtime>(
        self,
        talk: &Talk<'_, R>,
        intake: &Intake<R>,
        trace: &mut Vec<u8>,
        waste: &mut Vec<SideFile>,
    ) -> Result<Filtered, Trouble> {
        let hold = self.hold.as_deref().map(printable);
        let changed = self.header.finish();
        let mut own = None;
        if let Some(changed) = changed {
            *trace = changed.trace;
            own = changed.own;
        }
        let mut facts = self.facts;
        if let Text::Replaced(replaced) = &self.text {
            facts = BodyFacts { hops: self.facts.hops, ..replaced.facts };
            facts.header_eight_bit = self.facts.header_eight_bit;
        }
        note_lines(&mut facts, trace);
        let is_replaced = matches!(self.text, Text::Replaced(_));
        let (head, skip) = match own {
            None if !is_replaced => {
                let rest = self.side().map_or(Rest::Received, Rest::Side);
                return Ok(Filtered { facts, head: Vec::new(), skip: 0, rest, hold });
            }
            None => (self.header.received().to_vec(), self.head - self.blank),
            Some(own) => (own, self.head - self.blank),
        };
        note_lines(&mut facts, &head);
        let mut head = head;
        if is_replaced {
            head.extend_from_slice(b"\r\n");
            facts.len += head.len() as u64;
        } else {
            facts.len = facts.len - skip as u64 + head.len() as u64;
        }
        let envelope = talk.machine.envelope();
        let needed = (envelope.bytes().len() + trace.len()) as u64 + facts.len;
        let long = needed > intake.inline_max(envelope.count()) as u64;
        if self.side().is_none() && !long {
            let rest = match self.text {
                Text::Replaced(replaced) => Rest::Memory(replaced.memory),
                Text::Received | Text::Side(_) => Rest::Received,
            };
            return Ok(Filtered { facts, head, skip, rest, hold });
        }
        let skip = if is_replaced { 0 } else { skip };
        let mut writer = intake.create_side().await.map_err(|_| Trouble::Ours)?;
        writer.write(&head).await.map_err(|_| Trouble::Ours)?;
        let mut rest = pieces(talk, intake, &self.text, skip).await?;
        while let Some(piece) = rest.next().await? {
            writer.write(&piece).await.map_err(|_| Trouble::Ours)?;
        }
        drop(rest);
        let file = writer.finish().await.map_err(|_| Trouble::Ours)?;
        waste.extend(self.side());
        Ok(Filtered { facts, head: Vec::new(), skip: 0, rest: Rest::Side(file), hold })
    }
}

/// The bytes of a message from byte `skip` on.
async fn pieces<'a, R: Runtime>(
    talk: &'a Talk<'_, R>,
    intake: &Intake<R>,
    text: &'a Text,
    skip: usize,
) -> Result<Pieces<'a, R>, Trouble> {
    let mut slices = SmallVec::new();
    let side = match text {
        Text::Received => {
            slices = talk.body.slices(&talk.buf);
            None
        }
        Text::Side(side) => Some(*side),
        Text::Replaced(replaced) => {
            slices.push(&replaced.memory[..]);
            replaced.side
        }
    };
    let side = match side {
        Some(side) => Some(intake.open_side(side).await.map_err(|_| Trouble::Ours)?),
        None => None,
    };
    Ok(Pieces { slices, at: 0, side, skip })
}

/// A reason of a filter as people may see it.
fn printable(reason: &[u8]) -> String {
    String::from_utf8_lossy(reason).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// What lines that were put in front mean for how the message can be sent on.
fn note_lines(facts: &mut BodyFacts, lines: &[u8]) {
    for line in lines.split_inclusive(|b| *b == b'\n') {
        facts.has_dot_lines |= line.starts_with(b".");
        facts.long_lines |= line.len() > LINE_MAX + 2;
        facts.eight_bit |= !line.is_ascii();
        facts.header_eight_bit |= !line.is_ascii();
    }
}
