#!/usr/bin/env python3
"""SIGKILL under load, fifty times: the server comes back each time and loses nothing.

    tests/crash/kill9.py [--kills 50]

Sources and sink write ledgers and are not killed. After each kill the server is started with a
next hop that says nothing, asked what is in doubt (`queue list --in-doubt`), killed again, and
started for real; one start in five is also killed while it reads its journal. At the end the queue
must drain; then nothing may be lost, invented or altered, and nothing delivered twice that was not
in doubt (`ringpost load audit --in-doubt`). Independently of what the server says of itself, each
second delivery must have a kill shortly after the first. Exit 0 if so. About two minutes.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time

import rig
from subjects import Server, ledger_lines

# Nanoseconds from a delivery to a kill that explains why it is repeated. The sink may take a little
# before it reads what the killed server had sent.
IN_FLIGHT, SLACK = 2 * 10**9, 10**9


def without_excuse(taken, kills):
    """Repeated deliveries that no kill within two seconds of the first explains."""
    last, found = {}, []
    for words in ledger_lines(taken):
        for recipient in words[5].split(","):
            key, at = (words[0], recipient), int(words[2])
            before = last.get(key)
            window = (before - SLACK, before + IN_FLIGHT) if before else (0, 0)
            if before and not any(window[0] <= k <= min(at, window[1]) for k in kills):
                found.append(key)
            last[key] = at
    return found


def kill_and_restart(server, folder, rng, kills, doubt):
    """One kill, at a random moment of the load, and the way back; gives the seconds it took."""
    time.sleep(rng.uniform(0.05, 0.8))
    kills.append(server.kill())
    begin = time.time()
    if rng.random() < 0.2:
        # With the silent next hop: a start that delivers would empty the list of what was in doubt.
        server.spawn(folder, silent=True)
        time.sleep(rng.uniform(0.0, 0.15))
        kills.append(server.kill())
    server.start(folder, silent=True)
    listed = server.queue("--in-doubt")
    server.kill()
    doubt |= listed
    server.start(folder)
    return time.time() - begin


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=int, default=1500, help="messages per second")
    parser.add_argument("--folder", help="where the data directory goes; default: a new one below /var/tmp")
    args = parser.parse_args()
    rig.prepare(120 + args.kills * 10)
    rng = random.Random(args.seed)
    folder = tempfile.mkdtemp(prefix="kill9-", dir=args.folder or "/var/tmp")
    server, kills, doubt, slowest, wrong = Server(folder, journal=256, free=0), [], set(), 0.0, []
    try:
        server.start(folder)
        sink = server.sink()
        server.load(args.kills * 10, rate=args.rate)
        for _ in range(args.kills):
            slowest = max(slowest, kill_and_restart(server, folder, rng, kills, doubt))
        server.end_load()
        if left := server.drain(120):
            wrong.append(f"{len(left)} messages do not leave the queue")
        sink.send_signal(signal.SIGINT)
        sink.wait(30)
        listed = os.path.join(folder, "in-doubt")
        with open(listed, "w") as f:
            f.writelines(f"{i}\n" for i in sorted(doubt))
        v, odd = server.audit(listed), without_excuse(server.taken, kills)
        checks = ("lost", "invented", "altered", "duplicates_unexcused")
        wrong += [f"{v[k]} {k}" for k in checks if v[k]]
        wrong += [f"{len(odd)} duplicates without a kill, such as {odd[0]}"] if odd else []
        wrong += [] if v["pass"] else ["the audit fails"]
        wrong += ["too little mail went through"] if v["acknowledged"] < 50 * args.kills else []
        for line in v["examples"]:
            print(line)
        text = f"{len(kills)} kills under load or in recovery, slowest way back {slowest:.2f} s; "
        text += f"{v['acknowledged']} acknowledged, {v['delivered']} delivered, {v['lost']} lost, "
        text += f"{v['invented']} invented, {v['altered']} altered, {v['duplicates']} duplicates, "
        text += f"{v['duplicates_unexcused']} of them without excuse; {len(doubt)} messages were in doubt"
        return rig.verdict("kill9", wrong, text)
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
