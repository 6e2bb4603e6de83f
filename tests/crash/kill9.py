#!/usr/bin/env python3
"""SIGKILL under load, fifty times: the server comes back each time and loses nothing.

    tests/crash/kill9.py [--kills 50]

Source and sink write ledgers and are not killed. At the end the queue must drain; then nothing
may be lost, invented or altered (`ringpost load audit`), and each second delivery must have a kill
between it and the first. Exit 0 if so.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from subjects import Server, ledger_lines

IN_FLIGHT_SECONDS = 30


def drain(server, seconds):
    """Waits until the queue is empty."""
    end = time.time() + seconds
    while time.time() < end:
        if not server.queue():
            return
        time.sleep(0.5)
    raise SystemExit(f"the queue does not drain: {len(server.queue())} left")


def without_excuse(taken, kills):
    """Repeated deliveries between which nobody was killed."""
    last, found = {}, []
    for words in ledger_lines(taken):
        for recipient in words[5].split(","):
            key, at = (words[0], recipient), int(words[2])
            before = last.get(key)
            if before is not None and not any(before - IN_FLIGHT_SECONDS * 10**9 <= k <= at for k in kills):
                found.append(key)
            last[key] = at
    return found


def audit(server):
    """The verdict of the product's own audit."""
    words = [server.binary, "load", "audit", server.sent, server.taken, "--json"]
    out = subprocess.run(words, timeout=120, capture_output=True, text=True, check=False).stdout
    return json.loads(out)


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", help="where the data directory goes; default: a new one below /var/tmp")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    folder = tempfile.mkdtemp(prefix="kill9-", dir=args.folder or "/var/tmp")
    server, tools, kills, slowest = Server(folder), [], [], 0.0
    try:
        server.start(folder)
        tools = [server.sink(), server.source(args.kills * 2, connections=16)]
        for _ in range(args.kills):
            time.sleep(rng.uniform(0.05, 0.8))
            kills.append(server.kill())
            begin = time.time()
            server.start(folder)
            slowest = max(slowest, time.time() - begin)
        tools[1].send_signal(signal.SIGINT)
        tools[1].wait(60)
        drain(server, 120)
        tools[0].send_signal(signal.SIGINT)
        tools[0].wait(30)
        verdict, odd = audit(server), without_excuse(server.taken, kills)
        print(json.dumps(verdict, indent=1))
        print(f"{len(kills)} kills, slowest restart {slowest:.2f} s, {len(odd)} duplicates without excuse")
        bad = [k for k in ("lost", "invented", "altered") if verdict[k]]
        if bad or odd:
            return f"broken: {bad} {odd[:5]}"
        return 0 if verdict["acknowledged"] > args.kills else "too little mail went through"
    finally:
        server.kill()
        for tool in tools:
            tool.kill()
            tool.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
