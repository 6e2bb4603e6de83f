//! L1: numbers of variable length, and differences to the number before: the alphabet of records and
//! rows. Readers are total: what is not there is [`Malformed`].

use std::fmt;

/// The bytes are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a mailbox record or row of a known form")
    }
}

impl std::error::Error for Malformed {}

/// Appends `n`: seven bits a byte, the lowest first, the highest bit set on all but the last.
pub fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends `bytes` with their length before them.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends the difference of `n` to `last`, of either sign, and makes `n` the last.
pub fn put_step(out: &mut Vec<u8>, last: &mut u64, n: u64) {
    let step = n.wrapping_sub(*last) as i64;
    put(out, (step << 1 ^ step >> 63) as u64);
    *last = n;
}

/// Bytes being read.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next `n` bytes.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    /// One byte.
    #[inline]
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    /// A number.
    #[inline]
    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut n = 0;
        // Nine bytes are 63 bits: nothing falls off.
        for (at, b) in self.0.iter().take(9).enumerate() {
            n |= u64::from(b & 0x7f) << (7 * at);
            if *b < 0x80 {
                self.0 = &self.0[at + 1..];
                // One form of each number only.
                return if *b == 0 && at > 0 { Err(Malformed) } else { Ok(n) };
            }
        }
        // Of the tenth one bit is left, and it is set.
        if self.0.get(9) != Some(&1) {
            return Err(Malformed);
        }
        self.0 = &self.0[10..];
        Ok(n | 1 << 63)
    }

    /// A number below 2^32.
    #[inline]
    pub fn small(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed)
    }

    /// A number that was put as a difference to `last`.
    #[inline]
    pub fn step(&mut self, last: &mut u64) -> Result<u64, Malformed> {
        let n = self.number()?;
        *last = last.wrapping_add((n >> 1) ^ (n & 1).wrapping_neg());
        Ok(*last)
    }

    /// As [`Self::step`], below 2^32.
    #[inline]
    pub fn small_step(&mut self, last: &mut u64) -> Result<u32, Malformed> {
        u32::try_from(self.step(last)?).map_err(|_| Malformed)
    }

    /// Bytes with their length before them.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let n = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        self.take(n)
    }

    /// Text with its length before it.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    /// True at the end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_have_one_form(
            numbers in proptest::collection::vec(any::<u64>(), 0..20),
            cut in 0usize..200,
        ) {
            let (mut out, mut last) = (Vec::new(), 7);
            for n in &numbers {
                put(&mut out, *n >> (n % 64));
                put_step(&mut out, &mut last, *n);
            }
            let (mut input, mut last) = (Input(&out), 7);
            for n in &numbers {
                prop_assert_eq!(input.number(), Ok(*n >> (n % 64)));
                prop_assert_eq!(input.step(&mut last), Ok(*n));
            }
            prop_assert!(input.is_empty());
            let mut short = Input(&out[..cut.min(out.len())]);
            while short.number().is_ok() {}
        }

        #[test]
        fn what_reads_is_what_is_written(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut input = Input(&bytes);
            if let Ok(n) = input.number() {
                let mut again = Vec::new();
                put(&mut again, n);
                prop_assert_eq!(&bytes[..bytes.len() - input.0.len()], &again[..]);
            }
        }
    }
}
