//! CRC-32C (Castagnoli), with a starting state.
//!
//! Owns nothing. Cannot fail. About 0.1 us for 4 KiB with the vector instructions of the machine.

use crc_fast::{CrcAlgorithm, Digest};

/// The starting state of a plain CRC-32C.
pub const PLAIN: u32 = 0xffff_ffff;

/// CRC-32C of the concatenated `parts`, starting from the state `seed` ([`PLAIN`] for the ordinary one).
#[must_use]
pub fn crc32c(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(seed));
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answer_and_seed() {
        assert_eq!(crc32c(PLAIN, &[b"123456789"]), 0xe306_9283, "RFC 3720 appendix B.4 family");
        assert_eq!(crc32c(PLAIN, &[b"1234", b"", b"56789"]), 0xe306_9283);
        assert_ne!(crc32c(7, &[b"123456789"]), 0xe306_9283);
    }
}
