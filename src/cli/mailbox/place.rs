//! Which shard an account is in, and what the data directory says of it.
//!
//! The shards lie in `mailbox/NNNN` below the data directory; `mailbox/shards` says how many there are. An
//! account is where the hash of its name says. Plain functions; knows no disk.

use std::path::{Path, PathBuf};

/// Shards at most.
pub const SHARDS_MAX: u16 = 1024;
/// The folder of the shards, in the data directory.
pub const FOLDER: &str = "mailbox";
/// The file in it that says how many there are.
pub const COUNT_FILE: &str = "shards";

/// The shard of an account, of `shards`: FNV-1a of the name, folded.
#[must_use]
pub fn shard_of(account: &str, shards: u16) -> u16 {
    let hash = account
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    u16::try_from((hash ^ hash >> 32) % u64::from(shards.max(1))).expect("less than the number of shards")
}

/// The directory of a shard.
#[must_use]
pub fn directory(data_dir: &Path, shard: u16) -> PathBuf {
    data_dir.join(FOLDER).join(format!("{shard:04}"))
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
