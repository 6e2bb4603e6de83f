//! A cheap 64-bit digest that shows whether a message's bytes were altered on the way.
//!
//! Four independent lanes of multiply and rotate, 32 bytes per step. It detects accidents, not
//! malice: it is no cryptographic hash and no promise is made between versions. Cannot fail.

const KEYS: [u64; 4] =
    [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9, 0xd6e8_feb8_6659_fd93];

/// The digest of a sequence of bytes; how the bytes were split over the calls makes no difference.
#[derive(Clone)]
pub struct Digest {
    lanes: [u64; 4],
    held: [u8; 32],
    held_len: usize,
    len: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}

impl Digest {
    /// The digest of nothing so far.
    #[must_use]
    pub fn new() -> Self {
        Digest { lanes: KEYS, held: [0; 32], held_len: 0, len: 0 }
    }

    /// The digest of `bytes` alone.
    #[must_use]
    pub fn of(bytes: &[u8]) -> u64 {
        let mut d = Digest::new();
        d.update(bytes);
        d.value()
    }

    /// Appends `bytes`.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        if self.held_len > 0 {
            let take = bytes.len().min(32 - self.held_len);
            self.held[self.held_len..self.held_len + take].copy_from_slice(&bytes[..take]);
            self.held_len += take;
            bytes = &bytes[take..];
            if self.held_len < 32 {
                return;
            }
            let block = self.held;
            self.step(&block);
            self.held_len = 0;
        }
        let mut blocks = bytes.chunks_exact(32);
        for block in &mut blocks {
            self.step(block.try_into().unwrap_or(&[0; 32]));
        }
        let rest = blocks.remainder();
        self.held[..rest.len()].copy_from_slice(rest);
        self.held_len = rest.len();
    }

    #[inline]
    fn step(&mut self, block: &[u8; 32]) {
        for (lane, (word, key)) in self.lanes.iter_mut().zip(block.as_chunks::<8>().0.iter().zip(KEYS)) {
            // For a fixed lane this is a bijection of the word, and the other way round: one altered
            // word can never cancel itself.
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(key).rotate_left(29);
        }
    }

    /// The digest of all bytes appended so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        let mut d = self.clone();
        if d.held_len > 0 {
            d.held[d.held_len..].fill(0);
            let block = d.held;
            d.step(&block);
        }
        let mut out = d.len;
        for lane in d.lanes {
            out = mix(out ^ lane);
        }
        out
    }
}

/// A bijection of 64 bits in which every input bit reaches every output bit.
#[must_use]
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_do_not_matter() {
        let bytes: Vec<u8> = (0..200u8).collect();
        let whole = Digest::of(&bytes);
        for cut in 0..bytes.len() {
            let mut d = Digest::new();
            d.update(&bytes[..cut]);
            d.update(&bytes[cut..cut + (bytes.len() - cut) / 2]);
            d.update(&bytes[cut + (bytes.len() - cut) / 2..]);
            assert_eq!(d.value(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn every_altered_byte_shows() {
        let bytes = vec![b'x'; 130];
        let whole = Digest::of(&bytes);
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 0x20;
            assert_ne!(Digest::of(&altered), whole, "byte {at}");
            assert_ne!(Digest::of(&bytes[..at]), whole, "cut at {at}");
        }
        assert_ne!(Digest::of(&[&bytes[..], &[0]].concat()), whole, "a zero byte more");
    }
}
