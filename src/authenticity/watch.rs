//! A message while it comes in: its header is kept, its body hashed.
//!
//! The bytes come in pieces of any length, once; which hashes are wanted is said when the header has ended.
//! So a long body, or one in a side file, is never read again, and no piece is longer than a receive
//! buffer. Bounded: a header above [`HEADER_MAX`] is given up, and whoever looks is told.

use super::HEADER_MAX;
use mail_auth::AuthenticatedMessage;
use mail_auth::common::crypto::{HashAlgorithm, HashContext, HashImpl, Sha1, Sha256};
use mail_auth::dkim::Canonicalization;
use mail_auth::dkim::canonicalize::BodyHasher;

type Hasher = BodyHasher<<Sha256 as HashImpl>::Context>;

/// A hash of a body: how it was made, how many bytes were to be taken (0: all), its value.
pub type Sum = (Canonicalization, HashAlgorithm, u64, Vec<u8>);

/// Whose bytes a piece was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fed {
    /// All of the header's.
    Header,
    /// The header has ended, with the empty line; the body's begin here in the piece.
    Ended(usize),
    /// All of the body's.
    Body,
}

/// See the module.
#[derive(Default)]
pub struct Watch {
    header: Vec<u8>,
    ended: bool,
    too_long: bool,
    hashers: Vec<(Canonicalization, HashAlgorithm, Hasher)>,
}

impl Watch {
    /// Takes the next piece. What belongs to the body is not hashed yet: [`Self::hash`].
    pub fn feed(&mut self, piece: &[u8]) -> Fed {
        if self.ended {
            return Fed::Body;
        }
        let end = if self.too_long { None } else { self.end_in(piece) };
        let of_header = &piece[..end.unwrap_or(piece.len())];
        if self.too_long || self.header.len() + of_header.len() > HEADER_MAX {
            self.too_long = true;
            self.header = Vec::new();
            return Fed::Header;
        }
        self.header.extend_from_slice(of_header);
        self.ended = end.is_some();
        end.map_or(Fed::Header, Fed::Ended)
    }

    /// Where the header ends in the next piece: behind an empty line, which may have begun before.
    fn end_in(&self, piece: &[u8]) -> Option<usize> {
        let before = &self.header[self.header.len().saturating_sub(3)..];
        let seam = [before, &piece[..piece.len().min(3)]].concat();
        // RFC 5322 §2.1: without a field, the empty line is the first.
        if self.header.len() < 2 && seam.starts_with(b"\r\n") {
            return Some(2 - before.len());
        }
        let at_seam = memchr::memmem::find(&seam, b"\r\n\r\n").map(|at| at + 4 - before.len());
        at_seam.or_else(|| memchr::memmem::find(piece, b"\r\n\r\n").map(|at| at + 4))
    }

    /// The message has ended; true if its header has ended only with it.
    pub fn end(&mut self) -> bool {
        !std::mem::replace(&mut self.ended, true)
    }

    /// The header was too long to be looked at.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// The header as it came, with the empty line at its end if there was one.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The hashes that the signatures in the header are about are wanted.
    pub fn want_for_signatures(&mut self) {
        let wanted = AuthenticatedMessage::parse(&self.header).map(|m| m.body_hashes).unwrap_or_default();
        wanted.into_iter().for_each(|(how, algorithm, ..)| self.want(how, algorithm));
    }

    /// The hash that a signature of ours is about is wanted.
    pub fn want_for_ours(&mut self) {
        self.want(Canonicalization::Relaxed, HashAlgorithm::Sha256);
    }

    /// This hash of all of the body is wanted.
    pub fn want(&mut self, how: Canonicalization, algorithm: HashAlgorithm) {
        if self.hashers.iter().any(|(c, a, _)| (*c, *a) == (how, algorithm)) {
            return;
        }
        let context = match algorithm {
            HashAlgorithm::Sha1 => Sha1::hasher(),
            HashAlgorithm::Sha256 => Sha256::hasher(),
        };
        self.hashers.push((how, algorithm, BodyHasher::new(context, how, 0)));
    }

    /// Takes a piece of the body.
    pub fn hash(&mut self, piece: &[u8]) {
        self.hashers.iter_mut().for_each(|(_, _, hasher)| hasher.write(piece));
    }

    /// The hashes that were wanted; to be asked for once.
    pub fn sums(&mut self) -> Vec<Sum> {
        let value = |hasher: Hasher| hasher.finish().0.complete().as_ref().to_vec();
        self.hashers.drain(..).map(|(how, algorithm, hasher)| (how, algorithm, 0, value(hasher))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SUMS: [(Canonicalization, HashAlgorithm); 4] = [
        (Canonicalization::Simple, HashAlgorithm::Sha1),
        (Canonicalization::Simple, HashAlgorithm::Sha256),
        (Canonicalization::Relaxed, HashAlgorithm::Sha1),
        (Canonicalization::Relaxed, HashAlgorithm::Sha256),
    ];

    /// Feeds `message` in pieces that end at `cuts`; header, where the body began, hashes.
    fn watched(message: &[u8], cuts: &[usize]) -> (Vec<u8>, Option<usize>, Vec<Sum>) {
        let mut watch = Watch::default();
        let (mut at, mut body) = (0, None);
        for end in cuts.iter().copied().chain([message.len()]) {
            let end = end.clamp(at, message.len());
            let piece = &message[at..end];
            match watch.feed(piece) {
                Fed::Header => {}
                Fed::Ended(from) => {
                    SUMS.into_iter().for_each(|(how, algorithm)| watch.want(how, algorithm));
                    watch.want(SUMS[0].0, SUMS[0].1);
                    watch.hash(&piece[from..]);
                    body = Some(at + from);
                }
                Fed::Body => watch.hash(piece),
            }
            at = end;
        }
        assert_eq!(watch.end(), body.is_none());
        (watch.header().to_vec(), body, watch.sums())
    }

    proptest! {
        #[test]
        fn pieces_are_the_whole(
            header in "(A: [a-c ]{0,5}\r\n){0,3}",
            body in "([ \tab]{0,4}\r\n){0,8}[ab]{0,2}",
            mut cuts in prop::collection::vec(0..60_usize, 0..12),
        ) {
            cuts.sort_unstable();
            let message = format!("{header}\r\n{body}");
            let (kept, at, sums) = watched(message.as_bytes(), &cuts);
            prop_assert_eq!(kept, format!("{header}\r\n").into_bytes());
            prop_assert_eq!(at, Some(header.len() + 2));
            for (sum, (how, algorithm)) in sums.iter().zip(SUMS) {
                let whole = algorithm.hash(how.canonical_body(body.as_bytes(), 0));
                prop_assert_eq!(&sum.3[..], whole.as_ref());
            }
            prop_assert_eq!(sums.len(), 4);
        }
    }

    #[test]
    fn header_without_body_and_header_without_end() {
        assert_eq!(watched(b"A: 1\r\n", &[3]).0, b"A: 1\r\n");
        assert_eq!(watched(b"A: 1\r\n", &[3]).1, None);
        assert_eq!(watched(b"\r\nA: 1\r\n", &[1]).1, Some(2));
        let mut watch = Watch::default();
        let line = [&b"A: "[..], &[b'x'; 4000], b"\r\n"].concat();
        for _ in 0..HEADER_MAX / line.len() + 1 {
            assert_eq!(watch.feed(&line), Fed::Header);
        }
        assert!(watch.is_too_long() && watch.header().is_empty());
        assert_eq!(watch.feed(b"\r\nbody"), Fed::Header);
        // A long body behind a short header, in one piece.
        let mut watch = Watch::default();
        let piece = [&b"A: 1\r\n\r\n"[..], &vec![b'x'; HEADER_MAX - 100]].concat();
        assert_eq!(watch.feed(&piece), Fed::Ended(8));
        assert_eq!((watch.is_too_long(), watch.header()), (false, &b"A: 1\r\n\r\n"[..]));
    }
}
