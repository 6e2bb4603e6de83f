#!/usr/bin/env python3
"""Power loss, many times: records the block writes of a run and recovers from points of it.

    tests/crash/blockreplay.py                 the server: 500 points, nothing acknowledged is lost,
                                               then 40 on a disk that ignores flushes: some is
    tests/crash/blockreplay.py --subject writer     the rig itself: a plain synced writer
    tests/crash/blockreplay.py --subject careless   a writer that never syncs: must be caught

An id is owed at a point if it was acknowledged before it, and, for mail, had not reached the next
hop by then. Both times are turned into numbers of log entries through samples taken each
millisecond, on the safe side. Exit 0 if all is as it must be.
"""

import argparse
import bisect
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import rig
from subjects import Server, Writer
from writelog import WriteLog, entry_count


class Sampler(threading.Thread):
    """Notes each millisecond how many entries the log has."""

    def __init__(self, log):
        super().__init__(daemon=True)
        self.log, self.times, self.counts, self.ended = log, [], [], threading.Event()

    def run(self):
        while not self.ended.wait(0.001):
            before, count, after = time.time_ns(), entry_count(self.log), time.time_ns()
            self.times.append((before, after))
            self.counts.append(count)

    def by(self, at):
        """Entries that the log had for certain when `at` came: an upper bound for what came before."""
        i = bisect.bisect_left(self.times, (at, 0))
        return self.counts[i] if i < len(self.counts) else None

    def before(self, at):
        """Entries that the log had at least when `at` came: a lower bound."""
        i = bisect.bisect_left([t[1] for t in self.times], at) - 1
        return self.counts[i] if i >= 0 else 0


def record(subject, folder, megabytes, seconds):
    """Runs the subject on a logged disk; gives the log and {id: (owed from, owed until)}."""
    with rig.logged_disk(folder, megabytes) as (device, log):
        with rig.mounted(device, os.path.join(folder, "mount"), format_it=True) as mount:
            rig.sh("sync")
            first = entry_count(log)
            sampler = Sampler(log)
            sampler.start()
            subject.run(mount, seconds)
            time.sleep(0.1)
            sampler.ended.set()
            sampler.join()
            last = entry_count(log)
    owed = {}
    for key, at in subject.acked.items():
        start = sampler.by(at)
        until = sampler.before(subject.gone[key]) if key in subject.gone else last
        if start is not None and start <= until:
            owed[key] = (start, until)
    first = min((start for start, _ in owed.values()), default=first)
    print(f"recorded {last - first} writes, {len(subject.acked)} acknowledged, {len(owed)} owed some time")
    return WriteLog(log), owed, first, last


def check(subject, image, folder, expected):
    """Recovers from `image`; gives the ids that are owed and missing, all if it cannot recover."""
    try:
        with rig.mounted(image, os.path.join(folder, "mount")) as mount:
            return expected - subject.recover(mount)
    except (subprocess.SubprocessError, RuntimeError, OSError) as e:
        print(f"no recovery: {e}")
        return expected or {"everything"}


def replay(subject, recorded, folder, count, rng, lying):
    """Recovers from `count` points; gives the number of points that lost something."""
    log, owed, first, last = recorded
    base, image = os.path.join(folder, "prefix"), os.path.join(folder, "point")
    with open(base, "wb") as f:
        f.truncate(os.stat(os.path.join(folder, "base")).st_size)
    fd = os.open(base, os.O_RDWR)
    done = bad = torn = nothing = 0
    begin = time.time()
    for point in sorted(rng.randint(first, last) for _ in range(count)):
        safe = max(done, log.safe_prefix(point, lying))
        for i in range(done, safe):
            log.apply(fd, i)
        done = safe
        rig.sh("cp", "--sparse=always", base, image)
        target = os.open(image, os.O_RDWR)
        mode = "subset" if lying or rng.random() < 0.7 else "prefix"
        torn += log.finish(target, done, point, rng, mode)
        os.close(target)
        expected = {k for k, (start, until) in owed.items() if start <= point <= until}
        nothing += not expected
        lost = check(subject, image, folder, expected)
        if lost:
            bad += 1
            if not lying:
                print(f"point {point} ({mode}): {len(lost)} of {len(expected)} lost: {sorted(lost)[:5]}")
    os.close(fd)
    rate = count / (time.time() - begin)
    print(f"{count} points, {torn} torn writes, {nothing} without anything owed, {bad} lost mail, {rate:.1f}/s")
    if nothing > count / 2:
        raise SystemExit("most points owe nothing: the run proves too little")
    return bad


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--subject", choices=["server", "writer", "careless"], default="server")
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--megabytes", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rig.install()
    folder = tempfile.mkdtemp(prefix="blockreplay-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    try:
        makes = {"server": lambda: Server(folder), "writer": lambda: Writer(True)}
        subject = makes.get(args.subject, lambda: Writer(False))()
        recorded = record(subject, folder, args.megabytes, args.seconds)
        rng = random.Random(args.seed)
        bad = replay(subject, recorded, folder, args.points, rng, lying=False)
        if args.subject == "careless":
            return 0 if bad > 0 else "a writer without any sync lost nothing: the rig sees nothing"
        if bad:
            return f"{bad} points lost what was acknowledged"
        control = replay(subject, recorded, folder, 40, rng, lying=True)
        return 0 if control > 0 else "a disk that ignores flushes lost nothing: the rig sees nothing"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
