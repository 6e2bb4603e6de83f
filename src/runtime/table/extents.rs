//! Which blocks of a file are allocated, as the file system tells (ioctl FIEMAP).
//!
//! To allocate them once more would tell, too, but XFS refuses that on a full disk. Unknown is told
//! as none.

#![allow(unsafe_code)]

use std::fs::File;
use std::mem::size_of;
use std::os::fd::AsRawFd;

/// `_IOWR('f', 11, struct fiemap)` of linux/fiemap.h.
const FIEMAP: u64 = 0xc020_660b;
/// Writes what is waiting first, so that it has its blocks.
const FLAG_SYNC: u32 = 1;
const EXTENT_LAST: u32 = 1;
/// No blocks yet.
const EXTENT_UNKNOWN: u32 = 2;
const EXTENTS: usize = 128;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` with room for its extents.
#[repr(C)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

const _: () = assert!(size_of::<Extent>() == 56 && size_of::<Map>() == 32 + EXTENTS * 56);

/// End of the blocks that are allocated from the start of the file on without a hole, also behind
/// its end; 0 if the file system does not tell.
pub(super) fn allocated(file: &File) -> u64 {
    let mut end = 0;
    loop {
        let mut map = Map {
            start: end,
            length: u64::MAX - end,
            flags: FLAG_SYNC,
            mapped: 0,
            count: EXTENTS as u32,
            reserved: 0,
            extents: [Extent::default(); EXTENTS],
        };
        // SAFETY: the descriptor is borrowed open; the kernel writes at most `count` extents, which
        // the map has room for.
        let res = unsafe { libc::ioctl(file.as_raw_fd(), FIEMAP as libc::Ioctl, &raw mut map) };
        if res != 0 {
            return end;
        }
        let found = &map.extents[..(map.mapped as usize).min(EXTENTS)];
        if found.is_empty() {
            return end;
        }
        for extent in found {
            if extent.logical > end || extent.flags & EXTENT_UNKNOWN != 0 {
                return end;
            }
            end = end.max(extent.logical.saturating_add(extent.length));
            if extent.flags & EXTENT_LAST != 0 {
                return end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn blocks_end_where_the_first_hole_is() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(allocated(&file), 0);
        file.write_all_at(&[1; 10_000], 0).unwrap();
        file.write_all_at(&[1; 10_000], 1 << 20).unwrap();
        let end = allocated(&file);
        // The whole blocks of the first piece, or nothing is told.
        assert!(end == 0 || (10_000..100_000).contains(&end), "{end}");
    }
}
