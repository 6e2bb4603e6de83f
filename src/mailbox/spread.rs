//! L1: which shard an account is in, and what the data directory says of it.
//!
//! The shards lie in `mailbox/NNNN` below the data directory; `mailbox/shards` says how many there are.
//! The number is fixed when the first one is made: an account is where the hash of its name says, so
//! another number would look for its mail in the wrong place. Knows no disk.

use std::path::{Path, PathBuf};

/// Shards at most.
pub const SHARDS_MAX: u16 = 1024;
/// The folder of the shards, in the data directory.
pub const FOLDER: &str = "mailbox";
/// The file in it that says how many there are.
pub const COUNT_FILE: &str = "shards";

/// The file in it that says over how many shards the accounts are being spread; while it is there, some are
/// not where they belong.
pub const UNFINISHED_FILE: &str = "resharding";

/// The shard of an account, of `shards`.
///
/// FNV-1a of the name, stirred as MurmurHash3 does at its end. The function is part of what is on the disk:
/// it never changes.
#[must_use]
pub fn shard_of(account: &str, shards: u16) -> u16 {
    let mut hash = account
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    // The low bits of FNV-1a alone tell short names apart badly.
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ hash >> 33).wrapping_mul(factor);
    }
    u16::try_from((hash ^ hash >> 33) % u64::from(shards.max(1))).expect("less than the number of shards")
}

/// The directory of a shard.
#[must_use]
pub fn directory(data_dir: &Path, shard: u16) -> PathBuf {
    data_dir.join(FOLDER).join(format!("{shard:04}"))
}

/// The access core that owns a shard, of `cores`.
#[must_use]
pub fn owner(shard: u16, cores: usize) -> usize {
    usize::from(shard) % cores.max(1)
}

/// The text of the file that says how many shards there are.
#[must_use]
pub fn text(shards: u16) -> String {
    format!("shards = {shards}\n")
}

/// Reads [`text`] back; `None`: it is something else.
#[must_use]
pub fn parse(text: &str) -> Option<u16> {
    let number = text.strip_prefix("shards = ")?.strip_suffix('\n')?;
    number.parse().ok().filter(|n| (1..=SHARDS_MAX).contains(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_stay_where_they_are_and_are_spread() {
        // On disks of others: these never change.
        let known = [("a", 4), ("user@example.net", 4), ("", 7), ("user1@example.net", 16)];
        assert_eq!(known.map(|(name, n)| shard_of(name, n)), KNOWN);
        let mut counts = [0u32; 8];
        (0..8000).for_each(|n| counts[usize::from(shard_of(&format!("user{n}@example.net"), 8))] += 1);
        assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
        assert_eq!(shard_of("anybody", 1), 0);
    }

    const KNOWN: [u16; 4] = [3, 1, 1, 10];

    #[test]
    fn the_number_is_written_and_read() {
        assert_eq!((parse(&text(8)), parse(&text(SHARDS_MAX))), (Some(8), Some(SHARDS_MAX)));
        for bad in ["", "shards = 0\n", "shards = 8", "8\n", "shards = 1025\n", "shards = x\n"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(directory(Path::new("/d"), 7), Path::new("/d/mailbox/0007"));
        assert_eq!([0, 1, 2, 5].map(|s| owner(s, 2)), [0, 1, 0, 1]);
    }
}
