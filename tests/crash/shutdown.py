#!/usr/bin/env python3
"""The file system stops at once, as when the power goes: ext4 and XFS, under load.

    tests/crash/shutdown.py [--rounds 5]

`xfs_io -x -c shutdown` (FS_IOC_SHUTDOWN) cuts the file system off without writing its log: what was
not synced is gone. The server must treat it as a failed write; after unmount, mount and restart
every acknowledged message must be there or have reached the next hop. Rounds for each file system;
each goes on with the disk that the round before left. Exit 0 if so. About two minutes.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time

import rig
from subjects import Server

GRACE = 10**9


def round_once(server, image, kind, number, rng):
    """One stop; gives what is wrong."""
    mount = os.path.join(server.folder, "mount")
    with rig.mounted(image, mount, format_it=number == 0, kind=kind):
        server.start(mount)
        server.load(120)
        if number % 2:
            server.sink()
        time.sleep(rng.uniform(1.0, 3.0))
        rig.sh("xfs_io", "-x", "-c", "shutdown", mount)
        failed = time.time_ns()
        time.sleep(2)
        wrong = [] if server.said("journal_poisoned") else ["no alarm"]
        wrong += [] if server.readiness() == 503 else ["still ready"]
        server.end_load()
        server.kill()
        for tool in server.tools:
            rig.end(tool)
    server.read_ledgers()
    late = [k for k, at in server.acked.items() if at > failed + GRACE]
    with rig.mounted(image, mount, kind=kind):
        server.start(mount, silent=True)
        lost = set(server.acked) - set(server.gone) - server.queue()
        # The next round begins with an empty queue.
        server.kill()
        server.start(mount)
        sink = server.sink()
        left = server.drain(60)
        server.kill()
        rig.end(sink)
    server.read_ledgers()
    undelivered = set(server.acked) - set(server.gone)
    wrong += [f"{len(late)} acknowledged late"] if late else []
    wrong += [f"{len(lost)} lost"] if lost else []
    wrong += [f"{len(left)} do not leave the queue"] if left else []
    wrong += [f"{len(undelivered)} never delivered"] if undelivered else []
    acked = len(server.acked)
    wrong += [] if acked > 50 else ["too little was acknowledged"]
    print(f"{kind} round {number}: {acked} acknowledged, {'; '.join(wrong) or 'nothing lost'}", flush=True)
    if wrong:
        print(server.last_words())
    return [f"{kind} round {number}: {w}" for w in wrong], acked


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rig.prepare(60 + 120 * args.rounds)
    rng, wrong, acked = random.Random(args.seed), [], 0
    for kind, megabytes in (("ext4", 128), ("xfs", 320)):
        folder = tempfile.mkdtemp(prefix="shutdown-")
        image = os.path.join(folder, "image")
        with open(image, "wb") as f:
            f.truncate(megabytes << 20)
        try:
            for number in range(args.rounds):
                server = Server(folder)
                try:
                    found = round_once(server, image, kind, number, rng)
                finally:
                    server.close()
                for name in ("sent.ledger", "taken.ledger", "server.log"):
                    os.unlink(os.path.join(folder, name))
                wrong, acked = wrong + found[0], acked + found[1]
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    text = f"{2 * args.rounds} stops of ext4 and XFS, {acked} acknowledged, "
    return rig.verdict("shutdown", wrong, text + ("0 lost" if not wrong else "see above"))


if __name__ == "__main__":
    sys.exit(main())
