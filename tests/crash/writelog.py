"""The write log of a block device (dm-log-writes format) and its replay in user space.

A point of the log stands for a power loss: everything up to the last flush before it is on the
disk; of the writes since then any subset of sectors is, in `subset` mode, or all, in `prefix`
mode. A disk that nobody flushes still writes in time: it holds back `CACHE_WRITES` at most.

Format (little endian): sector 0: magic u64, version u64, entries u64, sector size u32; then per
entry one sector {sector u64, sectors u64, flags u64, data length u64} and its data.
"""

import os
import struct

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
CACHE_WRITES = 400


def entry_count(path):
    """Number of complete entries, as the log says now."""
    with open(path, "rb") as f:
        magic, _, count, _ = struct.unpack("<QQQI", f.read(28))
    if magic != MAGIC:
        raise ValueError(f"{path}: not a write log")
    return count


class WriteLog:
    """A finished log."""

    def __init__(self, path):
        self.file = open(path, "rb")
        magic, version, count, self.sector = struct.unpack("<QQQI", self.file.read(28))
        if magic != MAGIC or version != 1:
            raise ValueError(f"{path}: not a write log of version 1")
        self.entries = []
        at = self.sector
        for _ in range(count):
            self.file.seek(at)
            sector, sectors, flags, _ = struct.unpack("<QQQQ", self.file.read(32))
            at += self.sector
            self.entries.append((sector, sectors, flags, at))
            if not flags & DISCARD:
                at += sectors * self.sector

    def apply(self, image, index, keep=None):
        """Writes entry `index` into the open file `image`; `keep(sector)` chooses its sectors."""
        sector, sectors, flags, at = self.entries[index]
        if sectors == 0 or flags & MARK:
            return 0
        if flags & DISCARD:
            if keep is None:
                os.pwrite(image, bytes(sectors * self.sector), sector * self.sector)
            return 0
        data = os.pread(self.file.fileno(), sectors * self.sector, at)
        if keep is None:
            os.pwrite(image, data, sector * self.sector)
            return 0
        torn = 0
        for i in range(sectors):
            if keep(i):
                part = data[i * self.sector : (i + 1) * self.sector]
                os.pwrite(image, part, (sector + i) * self.sector)
            else:
                torn += 1
        return 1 if 0 < torn < sectors else 0

    def flushes(self, first, last):
        """Number of flushes among these entries."""
        return sum(1 for entry in self.entries[first:last] if entry[2] & FLUSH)

    def last_flush(self, point):
        """Number of entries up to and with the last flush among the first `point`."""
        for i in range(point - 1, max(-1, point - CACHE_WRITES), -1):
            if self.entries[i][2] & FLUSH:
                return i + 1
        return 0

    def safe_prefix(self, point):
        """Entries that are certainly on the disk at `point`."""
        return max(self.last_flush(point), point - CACHE_WRITES)

    def finish(self, image, done, point, rng, mode):
        """Brings `image`, which holds the first `done` entries, to one state of `point`.

        Gives the number of torn writes.
        """
        if mode == "prefix":
            for i in range(done, point):
                self.apply(image, i)
            return 0
        share = rng.choice([0.0, 0.1, 0.5, 0.9])
        return sum(self.apply(image, i, lambda _: rng.random() < share) for i in range(done, point))
