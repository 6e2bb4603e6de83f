#!/usr/bin/env python3
"""Power loss, many times: records the block writes of a run and recovers from points of it.

    tests/crash/blockreplay.py                 the server: 500 points, nothing acknowledged is lost;
                                               then the control: 40 points of a run on a file system
                                               that passes no flush on (`nobarrier`): some is lost
    tests/crash/blockreplay.py --subject mailboxes  the same for mailboxes: messages under their UIDs, flags,
                                               copies, moves and deletions (see `mailboxes.py`)
    tests/crash/blockreplay.py --subject writer     the rig itself: a plain synced writer
    tests/crash/blockreplay.py --subject careless   a writer that never syncs: must be caught

Each point: the disk as far as the last flush, then all later writes or a random choice of their
sectors; mount (ext4 replays its own journal), start the server, list its queue. Every twentieth
point the next hop comes back and must get the bytes that were sent.

An id is owed at a point if it was acknowledged before it, and, for mail, had not reached the next
hop by then, nor its sender as a notification; a second after that it must be out of the queue. From the
end of its lifetime on a notification in the queue may stand for it. All times are turned into numbers of
log entries through samples taken each millisecond, on the safe side. Exit 0 if all is as it must be.
About five minutes.
"""

import argparse
import bisect
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import rig
from mailboxes import Site
from subjects import Server, Writer
from writelog import WriteLog, entry_count

DEEP_EACH = 20
# Nanoseconds after which a delivery must be on record.
SETTLED = 10**9


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
        i = bisect.bisect_left(self.times, at, key=lambda t: t[1]) - 1
        return self.counts[i] if i >= 0 else 0


class Recording:
    """A run of the subject on a logged disk: the log, and {id: (owed from, owed until)}."""

    def __init__(self, subject, folder, megabytes, seconds, options):
        self.folder, self.options = folder, options
        with rig.logged_disk(folder, megabytes) as (device, log):
            mount = os.path.join(folder, "mount")
            with rig.mounted(device, mount, format_it=True, options=options):
                rig.sh("sync", "-f", mount)
                sampler = Sampler(log)
                sampler.start()
                subject.run(mount, seconds)
                end = time.time_ns()
                time.sleep(0.1)
                sampler.ended.set()
                sampler.join()
                self.last = entry_count(log)
        # {id: from when on it must be out of the queue}
        over = {k: at + SETTLED for k, at in subject.gone.items()} if subject.over is None else subject.over
        self.over = {k: sampler.by(at) or 1 << 60 for k, at in over.items()}
        # {id: from when until when it must be in the queue}, and the same for it or its notification.
        self.owed, self.told = {}, {}
        for key, at in subject.acked.items():
            start = sampler.by(at)
            until = sampler.before(subject.gone[key]) if key in subject.gone else self.last
            sure = until
            if key in subject.returned:
                # Refused when it was first tried, or given up at the end of its lifetime.
                sure = -1
            elif key not in subject.gone and subject.lifetime:
                given_up = min(at + subject.lifetime * 10**9 - SETTLED, end - 2 * SETTLED)
                sure = sampler.before(given_up)
            if start is not None and start <= sure:
                self.owed[key] = (start, sure)
            if start is not None and max(start, sure) < until:
                self.told[key] = (max(start, sure + 1), until)
        if not self.owed:
            raise SystemExit(f"FAIL blockreplay: nothing was acknowledged: {subject.last_words()}")
        self.first = min(start for start, _ in self.owed.values())
        self.log = WriteLog(log)
        flushes = self.log.flushes(self.first, self.last)
        print(f"recorded ({options}) {self.last - self.first} entries, {flushes} of them flushes;"
              f" {len(subject.acked)} acknowledged, {len(self.owed)} owed some time,"
              f" {len(subject.returned)} returned, up to {subject.parked:.0f} in archive and index", flush=True)
        if subject.archives and subject.parked < len(subject.acked) / 10:
            raise SystemExit("FAIL blockreplay: archive and index were hardly used")
        if subject.archives and len(subject.returned) < len(subject.acked) / 100:
            raise SystemExit("FAIL blockreplay: hardly anything was returned")


class Replay:
    """Recoveries from points of a recording, and what came of them."""

    def __init__(self, subject, recording, loud):
        self.subject, self.recording, self.loud = subject, recording, loud
        self.points = self.torn = self.owing = self.bad = self.unmountable = self.unstarted = 0
        self.owed_least, self.owed_most, self.lost, self.deep, self.risen = 1 << 60, 0, 0, 0, 0
        self.pending = 0

    def run(self, count, rng):
        """Recovers from `count` points."""
        r = self.recording
        base, image = (os.path.join(r.folder, n) for n in ("prefix", "point"))
        with open(base, "wb") as f:
            f.truncate(os.stat(os.path.join(r.folder, "base")).st_size)
        fd, done = os.open(base, os.O_RDWR), 0
        for number, point in enumerate(sorted(rng.randint(r.first, r.last) for _ in range(count))):
            safe = max(done, r.log.safe_prefix(point))
            for i in range(done, safe):
                r.log.apply(fd, i)
            done = safe
            rig.sh("cp", "--sparse=always", base, image)
            target = os.open(image, os.O_RDWR)
            mode = "subset" if rng.random() < 0.7 else "prefix"
            self.torn += r.log.finish(target, done, point, rng, mode)
            os.close(target)
            deep = self.loud and number % DEEP_EACH == DEEP_EACH - 1
            self.check(image, point, mode, deep)
        os.close(fd)

    def check(self, image, point, mode, deep):
        """Recovers from `image` and notes what is missing."""
        at_point = lambda owed: {k for k, (start, until) in owed.items() if start <= point <= until}
        expected, told = at_point(self.recording.owed), at_point(self.recording.told)
        self.points += 1
        self.owing += bool(expected)
        self.owed_least = min(self.owed_least, len(expected))
        self.owed_most = max(self.owed_most, len(expected))
        why, missing = "", set()
        try:
            with rig.mounted(image, os.path.join(self.recording.folder, "mount")) as mount:
                try:
                    found, notifications = self.subject.recover(mount)
                    missing = expected - found
                    self.pending += len(told)
                    if len(untold := told - found) > notifications:
                        missing |= untold
                    self.risen += sum(1 for k in found if self.recording.over.get(k, 1 << 60) <= point)
                    if deep and not missing:
                        missing = self.subject.deliver(mount, expected)
                        self.deep += 1
                except (RuntimeError, OSError, subprocess.SubprocessError) as e:
                    self.unstarted += 1
                    why = str(e)
        except subprocess.SubprocessError as e:
            self.unmountable += 1
            why = f"{e} {e.stderr if hasattr(e, 'stderr') else ''}"
        self.lost += len(missing)
        self.bad += bool(missing or why)
        if self.loud and (missing or why):
            some = sorted(missing)[:5]
            print(f"point {point} ({mode}): {len(missing)} of {len(expected)} lost: {some} {why}", flush=True)
            kept = os.environ.get("KEEP_IMAGES")
            if kept:
                shutil.copy(image, os.path.join(kept, f"point-{point}"))

    def text(self):
        """What came of it."""
        text = f"{self.points} points ({self.owing} with something owed, {self.owed_least} to "
        text += f"{self.owed_most} messages, {self.pending / max(1, self.points):.0f} more that may be "
        text += f"notifications; {self.torn} torn writes): {self.bad} bad, {self.lost} lost, "
        text += f"{self.risen} back after they were gone, "
        text += f"{self.unmountable} mount failures, {self.unstarted} failed recoveries"
        return text + (f", {self.deep} delivered to the end" if self.deep else "")


def record_and_replay(make, folder, args, options, count, loud):
    """Both, in a folder of their own."""
    with contextlib.ExitStack() as stack:
        folder = os.path.join(folder, options)
        os.mkdir(folder)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        subject = make(folder)
        stack.callback(subject.close)
        replay = Replay(subject, Recording(subject, folder, args.megabytes, args.seconds, options), loud)
        begin = time.time()
        replay.run(count, random.Random(args.seed))
        print(f"{options}: {replay.text()}; {count / (time.time() - begin):.1f} points/s", flush=True)
        return replay


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--subject", choices=["server", "mailboxes", "writer", "careless"], default="server")
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--control", type=int, default=40, help="points of the control")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--lifetime", default="4s", help="of a message in the queue")
    parser.add_argument("--megabytes", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rig.prepare(600 + 2 * args.points)
    # In memory: the writes of thousands of recoveries would only wear the machine's disk.
    folder = tempfile.mkdtemp(prefix="blockreplay-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    server = lambda folder: Server(folder, journal=48, lifetime=args.lifetime)
    boxes = lambda folder: Site(folder, facts=True, pace=0.01, seed=args.seed, journal=48)
    makes = {"server": server, "mailboxes": boxes, "writer": lambda _: Writer(True), "careless": lambda _: Writer(False)}
    wrong = []
    try:
        if args.subject != "careless":
            real = record_and_replay(makes[args.subject], folder, args, "barrier", args.points, loud=True)
            wrong += [f"{real.bad} points are bad"] if real.bad else []
            wrong += ["what was gone is back"] if real.risen else []
            wrong += ["most points owe nothing"] if real.owing < args.points / 3 else []
            text, options = real.text() + "; ", "nobarrier"
        else:
            text, options = "", "barrier"
        control = record_and_replay(makes[args.subject], folder, args, options, args.control, loud=False)
        wrong += [] if control.lost else ["the control lost nothing: the rig sees nothing"]
        return rig.verdict("blockreplay", wrong, f"{text}control without sync: {control.text()}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
