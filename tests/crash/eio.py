#!/usr/bin/env python3
"""A disk that fails writes from some moment on, for good or for a tenth of a second.

    tests/crash/eio.py [--rounds 4]

After the first failed write no message may be acknowledged or delivered (a grace of one second
covers what is on its way), also when the disk is well again; the server must say so on stderr
(event `journal_poisoned`), answer 503 on /readyz, show it in its metrics and take no connections.
Then the page cache is dropped with the file system, and a restart must know every acknowledged
message. Rounds: the disk fails for good and is then repaired, or fails for 0.1 s; the loop device
goes through the page cache, or past it. Exit 0 if so. About a minute.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time

import rig
from subjects import Server

GRACE = 10**9


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


def round_once(number):
    """One failure; gives what is wrong."""
    folder = tempfile.mkdtemp(prefix="eio-")
    server, wrong = Server(folder), []
    short, direct = number % 2 == 1, number % 4 >= 2
    try:
        with rig.failing_disk(folder, 128) as (device, trigger):
            mount = os.path.join(folder, "mount")
            with rig.mounted(device, mount, format_it=True, direct=direct):
                server.start(mount)
                sink = server.sink()
                server.load(60)
                time.sleep(1.5 + 0.3 * number)
                # The next hop goes, the queue fills: some of both is wanted.
                rig.end(sink)
                time.sleep(1)
                failed = fail(trigger, 0.1 if short else 3)
                time.sleep(1.5)
                # Well again; the next hop is back; nothing may move any more.
                back = time.time_ns()
                server.taken += ".later"
                sink = server.sink()
                time.sleep(3)
                wrong += symptoms(server)
                server.kill()
                rig.end(sink)
            later, server.taken = server.taken, server.taken.removesuffix(".later")
            server.end_load()
            server.read_ledgers()
            late = [k for k, at in server.acked.items() if at > failed + GRACE]
            moved = delivered_lines(later)
            with rig.mounted(device, mount):
                recovered = server.recover(mount)
            lost = set(server.acked) - set(server.gone) - recovered
        kind = ("0.1 s" if short else "for good") + (", direct" if direct else "")
        print(f"round {number} ({kind}): {len(server.acked)} acknowledged, {len(server.gone)} delivered before,"
              f" {len(late)} acknowledged late, {moved} delivered after, {len(lost)} lost;"
              f" {'; '.join(wrong) or 'all alarms given'}", flush=True)
        wrong += [f"{len(late)} acknowledged after the failure"] if late else []
        wrong += [f"{moved} delivered after the failure, from {back}"] if moved else []
        wrong += [f"{len(lost)} lost"] if lost else []
        wrong += [] if len(server.acked) > 100 and server.gone else ["too little went on before the failure"]
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
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    rig.prepare(60 + 60 * args.rounds)
    wrong, acked, lost = [], 0, 0
    for number in range(args.rounds):
        found = round_once(number)
        wrong, acked, lost = wrong + found[0], acked + found[1], lost + found[2]
    return rig.verdict("eio", wrong, f"{args.rounds} failures, {acked} acknowledged before, {lost} lost")


if __name__ == "__main__":
    sys.exit(main())
