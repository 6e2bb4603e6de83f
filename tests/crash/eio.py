#!/usr/bin/env python3
"""A disk that fails every write from some moment on.

    tests/crash/eio.py [--rounds 4]

After the first failed write no message may be acknowledged (a grace of one second covers replies
on their way), the alarm series must say so and /readyz fail. Then the disk is well again, the
page cache is dropped with the file system, and a restart must know every acknowledged message.
Exit 0 if so.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time

import rig
from subjects import Server

GRACE_SECONDS = 1


def round_once(number):
    """One failure; gives what is wrong."""
    folder = tempfile.mkdtemp(prefix="eio-")
    server, wrong = Server(folder), []
    source = None
    try:
        with rig.failing_disk(folder, 96) as (device, trigger):
            mount = os.path.join(folder, "mount")
            with rig.mounted(device, mount, format_it=True):
                server.start(mount)
                source = server.source(8)
                time.sleep(1 + number % 3)
                open(trigger, "w").close()
                failed = time.time_ns()
                time.sleep(4)
                poisoned, ready = server.metric("ringpost_journal_poisoned"), server.ready()
                source.send_signal(signal.SIGINT)
                source.wait(60)
                os.unlink(trigger)
                server.kill()
            server.read_ledgers()
            late = [k for k, at in server.acked.items() if at > failed + GRACE_SECONDS * 10**9]
            with rig.mounted(device, mount):
                lost = set(server.acked) - set(server.gone) - server.recover(mount)
        print(f"round {number}: {len(server.acked)} acknowledged, poisoned {poisoned}, ready {ready}")
        wrong += [f"{len(late)} acknowledged after the failure"] if late else []
        wrong += [f"{len(lost)} lost"] if lost else []
        wrong += [] if poisoned else ["no alarm"]
        wrong += ["still ready"] if ready else []
        wrong += [] if server.acked else ["nothing was acknowledged before the failure"]
        return wrong
    finally:
        server.kill()
        if source:
            source.kill()
            source.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    rig.install()
    wrong = [w for n in range(args.rounds) for w in round_once(n)]
    return "; ".join(wrong) or 0


if __name__ == "__main__":
    sys.exit(main())
