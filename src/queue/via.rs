//! L2: messages that operators send another way than routes say: by which next hop.
//!
//! A next hop is a text, in the words of the configuration, or [`MX`]; what it means is said by the tables
//! when a message is routed ([`Routing::via`](crate::queue::routing::Routing::via)). Here is what is known of
//! resident messages; what keeps it over a restart are records and rows. Nothing is kept of other messages.
//! Cannot fail.

use crate::base::ids::MessageId;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

/// Instead of a next hop: the mail exchangers of each recipient's domain.
pub const MX: &str = "mx";
/// Next hops kept that nothing names any more, before they are forgotten.
const WORDS_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct Vias {
    of: HashMap<MessageId, Rc<str>>,
    words: BTreeSet<Rc<str>>,
}

impl Vias {
    /// The next hop of a message; `None`: as routes say.
    #[must_use]
    pub fn get(&self, id: MessageId) -> Option<&str> {
        if self.of.is_empty() {
            return None;
        }
        self.of.get(&id).map(|via| &**via)
    }

    /// The message goes by `via` from now on; by routes again if that is empty.
    pub fn set(&mut self, id: MessageId, via: &str) {
        if via.is_empty() {
            return self.forget(id);
        }
        let word = match self.words.get(via) {
            Some(word) => word.clone(),
            None => {
                if self.words.len() >= WORDS_MAX {
                    self.words.retain(|word| Rc::strong_count(word) > 1);
                }
                let word: Rc<str> = via.into();
                self.words.insert(word.clone());
                word
            }
        };
        self.of.insert(id, word);
    }

    /// The message has gone.
    pub fn forget(&mut self, id: MessageId) {
        if !self.of.is_empty() {
            self.of.remove(&id);
        }
    }
}

/// What is kept as the address that leads to a destination of rerouted mail.
#[must_use]
pub fn sample(via: &str, address: &[u8]) -> Vec<u8> {
    [b"\0", via.as_bytes(), b"\0", address].concat()
}

/// The next hop of such a sample, empty for none, and its address.
#[must_use]
pub fn parse_sample(sample: &[u8]) -> (&str, &[u8]) {
    let Some(rest) = sample.strip_prefix(b"\0") else { return ("", sample) };
    let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
    (std::str::from_utf8(&rest[..end]).unwrap_or(""), rest.get(end + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_kept() {
        let mut vias = Vias::default();
        for n in 0..1000 {
            vias.set(MessageId(n), &format!("hop{n}.example"));
            vias.set(MessageId(n + 1), "mx");
            assert_eq!((vias.get(MessageId(n + 1)), vias.get(MessageId(n + 2))), (Some("mx"), None));
            vias.forget(MessageId(n));
            vias.set(MessageId(n + 1), "");
        }
        assert!(vias.of.is_empty() && vias.words.len() <= WORDS_MAX);
    }

    #[test]
    fn samples_say_what_leads_there() {
        assert_eq!(parse_sample(&sample("lmtp:a:24", b"x@y")), ("lmtp:a:24", &b"x@y"[..]));
        assert_eq!(parse_sample(b"x@y"), ("", &b"x@y"[..]));
        assert_eq!((parse_sample(b"\0a"), parse_sample(b"")), (("a", &b""[..]), ("", &b""[..])));
    }
}
