//! A text that is looked for, and text that is looked through in pieces.
//!
//! Both are mapped by i;unicode-casemap. A piece keeps as much of the one before as a match may need.

use crate::imap::casemap;
use crate::imap::charset;
use encoding_rs::Encoding;
use memchr::memmem::Finder;

/// A text that is looked for.
#[derive(Debug)]
pub struct Needle {
    finder: Finder<'static>,
}

impl Needle {
    /// `text` in `charset`.
    #[must_use]
    pub fn new(text: &[u8], charset: &'static Encoding) -> Self {
        let mapped = casemap::folded(&charset::text(text, Some(charset)));
        Needle { finder: Finder::new(&mapped).into_owned() }
    }

    /// Its length in bytes, mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.finder.needle().len()
    }

    /// True for the empty text, which is everywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if it is somewhere in `mapped`.
    #[must_use]
    pub fn is_in(&self, mapped: &[u8]) -> bool {
        self.finder.find(mapped).is_some()
    }
}

/// Text that comes in pieces.
#[derive(Debug)]
pub struct Scan {
    stream: charset::Stream,
    /// The end of what came before, and the current piece; mapped.
    mapped: Vec<u8>,
    text: String,
}

impl Default for Scan {
    fn default() -> Self {
        Scan { stream: charset::Stream::new(None), mapped: Vec::new(), text: String::new() }
    }
}

impl Scan {
    /// A text begins; nothing matches across its start.
    pub fn begin(&mut self, charset: Option<&'static Encoding>) {
        self.stream = charset::Stream::new(charset);
        self.mapped.clear();
    }

    /// The next bytes; what can be looked through now.
    pub fn feed(&mut self, bytes: &[u8], last: bool) -> &[u8] {
        self.text.clear();
        self.stream.feed(bytes, last, &mut self.text);
        casemap::fold(&self.text, &mut self.mapped);
        &self.mapped
    }

    /// Keeps the last `n` bytes for matches that go on in the next piece.
    pub fn keep(&mut self, n: usize) {
        let gone = self.mapped.len().saturating_sub(n);
        self.mapped.drain(..gone);
    }
}
