//! The messages of a session: their sizes, and which are to be deleted. Twelve bytes a message at most.

/// A maildrop as the session sees it: it does not change but by DELE and RSET.
#[derive(Debug)]
pub(super) struct Maildrop {
    sizes: Vec<u64>,
    /// A bit for each message that is to be deleted.
    marks: Vec<u64>,
    left: u32,
    octets: u64,
    /// The highest number that has been fetched (RFC 1460, LAST).
    pub last: u32,
}

impl Maildrop {
    pub fn new(sizes: Vec<u64>) -> Self {
        let left = u32::try_from(sizes.len()).expect("message numbers have 32 bits");
        let octets = sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size));
        Maildrop { marks: vec![0; sizes.len().div_ceil(64)], left, octets, last: 0, sizes }
    }

    /// Messages, marked ones too.
    pub fn len(&self) -> u32 {
        self.sizes.len() as u32
    }

    /// Messages that are not marked, and their bytes.
    pub fn left(&self) -> (u32, u64) {
        (self.left, self.octets)
    }

    fn bit(number: u32) -> (usize, u64) {
        let index = number as usize - 1;
        (index / 64, 1 << (index % 64))
    }

    /// The size of the message with this number (from 1), if it is there and not marked.
    pub fn size(&self, number: u32) -> Option<u64> {
        let size = *self.sizes.get((number as usize).checked_sub(1)?)?;
        let (word, bit) = Self::bit(number);
        (self.marks[word] & bit == 0).then_some(size)
    }

    /// Marks it; false if it is not there.
    pub fn mark(&mut self, number: u32) -> bool {
        let Some(size) = self.size(number) else { return false };
        let (word, bit) = Self::bit(number);
        self.marks[word] |= bit;
        self.left -= 1;
        self.octets = self.octets.saturating_sub(size);
        true
    }

    /// Takes all marks away.
    pub fn reset(&mut self) {
        *self = Maildrop::new(std::mem::take(&mut self.sizes));
    }

    /// Numbers of marked messages.
    pub fn marked(&self) -> impl Iterator<Item = u32> + '_ {
        (1..=self.len()).filter(|&number| self.size(number).is_none())
    }
}
