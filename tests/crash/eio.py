#!/usr/bin/env python3
"""A disk that fails writes from some moment on, for good or for a tenth of a second.

    tests/crash/eio.py [--rounds 6]

After the first failed write no message may be acknowledged or delivered (a grace of one second
covers what is on its way), also when the disk is well again; the server must say so on stderr
(event `journal_poisoned`), answer 503 on /readyz, show it in its metrics and take no connections.
Then the page cache is dropped with the file system, and a restart must know every acknowledged
message. Rounds: the disk fails for good and is then repaired, or fails for 0.1 s; the loop device
goes through the page cache, or past it; in the last two only the archive, or only the index, lies on
the disk that fails (then the grace covers also the time until it is written to). Exit 0 if so. About
two minutes.
"""

import argparse
import contextlib
import functools
import os
import shutil
import signal
import sys
import tempfile
import time

import rig
from subjects import Server

GRACE = 10**9
# Until the archive or the index is written to.
LATER = 3 * 10**9
QUEUE = "data/queue/0000"


def fail(trigger, seconds):
    """Lets all writes fail for so long; gives the time of the beginning."""
    open(trigger, "w").close()
    at = time.time_ns()
    time.sleep(seconds)
    os.unlink(trigger)
    return at


def symptoms(server):
    """What the server does not show although it should."""
    wrong = []
    wrong += [] if server.said("journal_poisoned") else ["no alarm on stderr"]
    wrong += [] if server.metric("ringpost_journal_poisoned") else ["no alarm in the metrics"]
    wrong += [] if server.readiness() == 503 else [f"/readyz answers {server.readiness()}"]
    wrong += ["its port takes connections"] if server.listens() else []
    return wrong


@contextlib.contextmanager
def whole(device, mount, direct, format_it=False):
    """All data are on the failing disk; gives the folder of the data directory."""
    with rig.mounted(device, mount, format_it=format_it, direct=direct) as folder:
        yield folder


@contextlib.contextmanager
def only(part, server, device, mount, format_it=False):
    """Only the archive or the index is on the failing disk."""
    plain = os.path.join(server.folder, "plain")
    place = os.path.join(plain, QUEUE, part)
    if format_it:
        # A first start makes all directories and an empty index.
        os.makedirs(plain)
        server.start(plain)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)
    with rig.mounted(device, mount, format_it=format_it) as folder:
        if format_it:
            shutil.move(place, os.path.join(folder, part))
            os.symlink(os.path.join(folder, part), place)
        yield plain


def rounds(number, server, mount):
    """The place of the data, their kind in words, seconds of failure, grace."""
    if number % 6 >= 4:
        part = ("archive", "index")[number % 2]
        return functools.partial(only, part, server), f"only the {part}", 3, LATER
    short, direct = number % 2 == 1, number % 6 >= 2
    kind = ("0.1 s" if short else "for good") + (", direct" if direct else "")
    return functools.partial(whole, direct=direct), kind, 0.1 if short else 3, GRACE


def round_once(number):
    """One failure; gives what is wrong."""
    folder = tempfile.mkdtemp(prefix="eio-")
    server, wrong = Server(folder), []
    mount = os.path.join(folder, "mount")
    placed, kind, seconds, grace = rounds(number, server, mount)
    try:
        with rig.failing_disk(folder, 128) as (device, trigger):
            with placed(device, mount=mount, format_it=True) as data:
                server.start(data)
                sink = server.sink()
                server.load(60, rate=800)
                time.sleep(1.5 + 0.3 * number)
                # The next hop goes, the queue fills: some of both is wanted.
                rig.end(sink)
                time.sleep(4)
                parked = server.metric("ringpost_queue_parked") or 0
                failed = fail(trigger, seconds)
                time.sleep(4)
                # Well again; the next hop is back; nothing may move any more.
                server.taken += ".later"
                sink = server.sink()
                time.sleep(3)
                wrong += symptoms(server)
                server.kill()
                rig.end(sink)
            later, server.taken = server.taken, server.taken.removesuffix(".later")
            server.end_load()
            server.read_ledgers()
            late = [k for k, at in server.acked.items() if at > failed + grace]
            moved = delivered_lines(later)
            with placed(device, mount=mount) as data:
                recovered, _ = server.recover(data)
            lost = set(server.acked) - set(server.gone) - recovered
        print(f"round {number} ({kind}): {len(server.acked)} acknowledged, {len(server.gone)} delivered,"
              f" {parked:.0f} parked before; {len(late)} acknowledged, {moved} delivered after;"
              f" {len(lost)} lost; {'; '.join(wrong) or 'all alarms given'}", flush=True)
        wrong += [f"{len(late)} acknowledged after the failure"] if late else []
        wrong += [f"{moved} delivered after the failure"] if moved else []
        wrong += [f"{len(lost)} lost"] if lost else []
        wrong += [] if len(server.acked) > 100 and server.gone else ["too little went on before the failure"]
        wrong += [] if parked > 100 else ["archive and index were hardly used"]
        if wrong:
            print(server.last_words())
        return [f"round {number}: {w}" for w in wrong], len(server.acked), len(lost)
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


def delivered_lines(path):
    """Messages in a sink's ledger."""
    with open(path) as f:
        return sum(1 for line in f if not line.startswith("#"))


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    rig.prepare(60 + 60 * args.rounds)
    wrong, acked, lost = [], 0, 0
    for number in range(args.rounds):
        found = round_once(number)
        wrong, acked, lost = wrong + found[0], acked + found[1], lost + found[2]
    return rig.verdict("eio", wrong, f"{args.rounds} failures, {acked} acknowledged before, {lost} lost")


if __name__ == "__main__":
    sys.exit(main())
