//! Chance for the simulator: one small generator, so that a seed names one history.
//!
//! Not for secrets. Knows nothing of the world; cannot fail.

/// SplitMix64: every seed, also 0, gives a good sequence.
pub struct Rng(u64);

impl Rng {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Rng(mix(seed ^ 0x6a09_e667_f3bc_c908))
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

/// A bijection that spreads every bit over all bits; also the step of the trace hash.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash of bytes that is the same in every run (unlike the hashers of `std`).
pub fn hash(bytes: &[u8]) -> u64 {
    let start = mix(bytes.len() as u64 + 1);
    bytes.chunks(8).fold(start, |h, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(h ^ u64::from_le_bytes(word)).wrapping_add(h.rotate_left(23))
    })
}
