//! What is imported: a mailbox of another server with its messages, whatever the format; and one message
//! read, made fit, and held until it is taken.
//!
//! Knows the store's limits for one message, not where messages go. What cannot be read is an error of the
//! one message; a failed write ends it all.

use super::convert::Lines;
use super::shards::Shard;
use super::{Exit, Failure};
use crate::base::time::Wall;
use crate::mailbox::api::{Content, Incoming, Reader, Refusal};
use crate::mailbox::store::import::Import;
use crate::mailbox::types::{Flags, Guid};
use crate::message::body::{BodyFacts, BodyFlags};
use crate::message::mime::Scanner;
use crate::runtime::uring::Uring;
use crate::storage::side::{SideError, SideFile, SideWriter};
use std::io::{self, Read};

/// Bytes read at a time.
const STEP: usize = 64 << 10;
/// Room for summary and UIDL in a record.
const ROOM: usize = 65 << 10;

/// What is known of a message besides its content.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Its UID; 0: none that is to be kept.
    pub uid: u32,
    /// Its UIDL, or empty.
    pub uidl: Vec<u8>,
    /// Its GUID.
    pub guid: Option<Guid>,
    /// Its flags.
    pub flags: Flags,
    /// Its keywords.
    pub keywords: Vec<String>,
    /// When it came in.
    pub internal: Wall,
    /// When it came into its mailbox, if that is known.
    pub saved: Option<Wall>,
}

/// A message that can be imported.
pub struct Held {
    about: About,
    bytes: Vec<u8>,
    side: Option<SideFile>,
    facts: BodyFacts,
    summary: Vec<u8>,
    /// NULs that were replaced.
    pub nuls: u64,
}

impl Held {
    /// Reads a message. `Ok(Err)`: it cannot be read.
    pub async fn read(store: &Shard, about: About, from: &mut dyn Read) -> Result<io::Result<Self>, Failure> {
        let (mut lines, mut scanner) = (Lines::new(), Scanner::new());
        let mut side: Option<SideWriter<Uring>> = None;
        let (mut bytes, mut step) = (Vec::new(), vec![0; STEP]);
        // Bytes before this one have been scanned.
        let mut scanned = 0;
        loop {
            let n = match from.read(&mut step) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Ok(Err(e)),
            };
            if n == 0 {
                break;
            }
            lines.feed(&step[..n], &mut bytes);
            scanner.feed(&bytes[scanned..]);
            scanned = bytes.len();
            if side.is_none() && bytes.len() + ROOM > store.import_max() {
                side = Some(store.begin_large().await.map_err(unwritten)?);
            }
            if let Some(side) = &mut side {
                side.write(&bytes).await.map_err(unwritten)?;
                bytes.clear();
                scanned = 0;
            }
        }
        let nuls = lines.nuls;
        let facts = lines.finish(&mut bytes);
        scanner.feed(&bytes[scanned..]);
        let mut summary = Vec::new();
        scanner.finish(&mut summary);
        let side = match side {
            None => None,
            Some(mut side) => {
                side.write(&bytes).await.map_err(unwritten)?;
                bytes.clear();
                Some(side.finish().await.map_err(unwritten)?)
            }
        };
        bytes.shrink_to_fit();
        Ok(Ok(Held { about, bytes, side, facts, summary, nuls }))
    }

    /// Takes a message of another shard over, byte for byte.
    pub async fn copied(
        store: &Shard,
        about: About,
        (mut from, flags): (crate::mailbox::store::Content<Uring>, BodyFlags),
    ) -> Result<Self, Failure> {
        let mut scanner = Scanner::new();
        let (mut bytes, mut side, mut len) = (Vec::new(), None::<SideWriter<Uring>>, 0);
        let damaged = |e: Refusal| Failure::refused("a message", e);
        while let Some(piece) = from.next().await.map_err(damaged)? {
            scanner.feed(&piece);
            len += piece.len() as u64;
            bytes.extend_from_slice(&piece);
            if side.is_none() && bytes.len() + ROOM > store.import_max() {
                side = Some(store.begin_large().await.map_err(unwritten)?);
            }
            if let Some(side) = &mut side {
                side.write(&bytes).await.map_err(unwritten)?;
                bytes.clear();
            }
        }
        let side = match side {
            None => None,
            Some(side) => Some(side.finish().await.map_err(unwritten)?),
        };
        let mut summary = Vec::new();
        scanner.finish(&mut summary);
        let facts = BodyFacts {
            len,
            has_dot_lines: flags.has_dot_lines(),
            eight_bit: flags.eight_bit(),
            header_eight_bit: flags.header_eight_bit(),
            hops: 0,
            long_lines: flags.long_lines(),
        };
        Ok(Held { about, bytes, side, facts, summary, nuls: 0 })
    }

    /// Bytes that it has in memory.
    pub fn weight(&self) -> usize {
        self.bytes.len() + self.summary.len()
    }

    /// Its exact size.
    pub fn size(&self) -> u64 {
        self.facts.len
    }

    /// Whether it has keywords.
    pub fn has_keywords(&self) -> bool {
        !self.about.keywords.is_empty()
    }

    /// Loses them.
    pub fn forget_keywords(&mut self) {
        self.about.keywords.clear();
    }
}

fn unwritten(e: SideError) -> Failure {
    match e {
        SideError::Full => Failure::refused("a large message", Refusal::Full),
        SideError::Poisoned => Failure::new(Exit::Io, "a write has failed: look at the disk"),
    }
}

/// Messages as they are handed over, with what must live as long.
pub struct Parcel<'a> {
    held: &'a [Held],
    slices: Vec<[&'a [u8]; 1]>,
    keywords: Vec<Vec<&'a str>>,
}

impl<'a> Parcel<'a> {
    /// Of these.
    pub fn of(held: &'a [Held]) -> Self {
        Parcel {
            held,
            slices: held.iter().map(|h| [&h.bytes[..]]).collect(),
            keywords: held.iter().map(|h| h.about.keywords.iter().map(String::as_str).collect()).collect(),
        }
    }

    /// What the store is given.
    pub fn imports(&self) -> Vec<Import<'_>> {
        let one = |(n, h): (usize, &'a Held)| {
            let content = match h.side {
                None => Content::Slices(&self.slices[n]),
                Some(file) => Content::Large { head: &[], file },
            };
            let message = Incoming {
                content,
                facts: h.facts,
                summary: &h.summary,
                internal: h.about.internal,
                guid: h.about.guid,
                uidl: &h.about.uidl,
            };
            let (flags, keywords) = (h.about.flags, &self.keywords[n][..]);
            Import { message, flags, keywords, uid: h.about.uid, saved: h.about.saved }
        };
        self.held.iter().enumerate().map(one).collect()
    }
}

/// A keyword as the store takes it; `None`: it cannot be one (RFC 9051 §9: an atom).
pub fn keyword(text: &str) -> Option<String> {
    let name = text.trim();
    let special = |b: u8| b"(){%*\"\\]".contains(&b);
    let good = (1..=crate::mailbox::types::KEYWORD_LEN_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_graphic() && !special(b));
    good.then(|| name.to_owned())
}
