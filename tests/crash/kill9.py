#!/usr/bin/env python3
"""SIGKILL under load, fifty times: the server comes back each time and loses nothing.

    tests/crash/kill9.py [--kills 50]

Sources and sinks write ledgers and are not killed. The next hop is there for some kills and away for
more, so that a backlog goes into archive and index, and is drained from there, while the server dies;
a part of the mail is refused by the next hop for now, a part for good, and what waits longer than its
lifetime is returned. After each kill the server is started with a next hop that says nothing, asked
what is in doubt (`queue list --in-doubt`), killed again, and started for real; one start in five is
also killed while it reads its journal or its index. At the end the queue must drain; then nothing may
be lost, invented or altered, and nothing delivered twice, or delivered after its sender was told that
it was not, that was not in doubt (`ringpost load audit --in-doubt`). Independently of what the server
says of itself, each second delivery must have a kill shortly after the first. Exit 0 if so. About two
minutes.
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
from subjects import Server, join_ledgers, ledger_lines

# Nanoseconds from a delivery to a kill that explains why it is repeated. The sink may take a little
# before it reads what the killed server had sent.
IN_FLIGHT, SLACK = 2 * 10**9, 10**9
# Restarts with the next hop away, and with it there, before it changes.
AWAY, THERE = (4, 7), (2, 4)
# Nanoseconds after which a repeated notification is not the retry of one that was in flight.
SETTLED = 40 * 10**9


def without_excuse(taken, kills):
    """Repeated deliveries that no kill within two seconds of the first explains."""
    last, found = {}, []
    for words in sorted(ledger_lines(taken), key=lambda words: int(words[2])):
        for recipient in words[5].split(","):
            if words[1] != "delivered":
                continue
            key, at = (words[0], recipient), int(words[2])
            before = last.get(key)
            window = (before - SLACK, before + IN_FLIGHT) if before else (0, 0)
            if before and not any(window[0] <= k <= min(at, window[1]) for k in kills):
                found.append(key)
            last[key] = at
    return found


def returned_and_back(server, doubt):
    """Messages that were returned to their sender and came back to life all the same."""
    queue_ids = {words[0]: words[1] for words in ledger_lines(server.sent)}
    told, back = {}, set()
    for words in sorted(ledger_lines(server.taken), key=lambda words: int(words[2])):
        at = int(words[2])
        first = told.get(words[0])
        if words[1] == "notified":
            told.setdefault(words[0], at)
            if first and at > first + SETTLED:
                back.add(words[0])
        elif first and queue_ids.get(words[0]) not in doubt:
            back.add(words[0])
    return back, len(told)


class NextHop:
    """Comes and goes; its ledgers are brought together at the end."""

    def __init__(self, server):
        self.server, self.tool = server, None
        # Where notifications go is always there.
        self.ledgers = [os.path.join(server.folder, "back.ledger")]
        self.back = server.sink(ledger=self.ledgers[0], port="back")

    def come(self, *options):
        """Listens, and refuses what `options` say."""
        self.ledgers.append(os.path.join(self.server.folder, f"taken-{len(self.ledgers)}.ledger"))
        self.tool = self.server.sink(*options, ledger=self.ledgers[-1])

    def go(self):
        """Is not there any more."""
        if self.tool:
            self.tool.send_signal(signal.SIGINT)
            self.tool.wait(30)
        self.tool = None

    def gather(self):
        """Makes one ledger of all."""
        self.back.send_signal(signal.SIGINT)
        self.back.wait(30)
        join_ledgers(self.ledgers, self.server.taken)


def kill_and_restart(server, folder, rng, kills, doubt, seen):
    """One kill, at a random moment of the load, and the way back; gives the seconds it took."""
    time.sleep(rng.uniform(0.05, 1.2))
    seen.append(server.parked_now())
    kills.append(server.kill())
    begin = time.time()
    if rng.random() < 0.2:
        # With the silent next hop: a start that delivers would empty the list of what was in doubt.
        server.spawn(folder, silent=True)
        time.sleep(rng.uniform(0.0, 0.4))
        kills.append(server.kill())
    server.start(folder, silent=True)
    listed = server.queue("--in-doubt")
    server.kill()
    doubt |= listed
    server.start(folder)
    return time.time() - begin


def run(server, folder, args, rng):
    """All kills; gives (wrong, times of the kills, what was in doubt, parked at each kill, slowest)."""
    kills, doubt, seen, slowest, wrong = [], set(), [], 0.0, []
    hop, change = NextHop(server), rng.randint(*AWAY)
    server.start(folder)
    server.load(args.kills * 10, rate=args.rate)
    for number in range(args.kills):
        if number == change:
            if hop.tool:
                hop.go()
            else:
                hop.come("--tempfail", "5%", "--reject", "2%")
            change = number + rng.randint(*(THERE if hop.tool else AWAY))
        slowest = max(slowest, kill_and_restart(server, folder, rng, kills, doubt, seen))
    server.end_load()
    if not hop.tool:
        hop.come()
    if left := server.drain(120):
        wrong.append(f"{len(left)} messages do not leave the queue")
    hop.go()
    hop.gather()
    return wrong, kills, doubt, seen, slowest


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=int, default=1000, help="messages per second")
    parser.add_argument("--lifetime", default="12s", help="of a message in the queue")
    parser.add_argument("--folder", help="where the data directory goes; default: a new one below /var/tmp")
    args = parser.parse_args()
    rig.prepare(180 + args.kills * 10)
    folder = tempfile.mkdtemp(prefix="kill9-", dir=args.folder or "/var/tmp")
    server = Server(folder, journal=256, free=0, window=2, lifetime=args.lifetime)
    try:
        wrong, kills, doubt, seen, slowest = run(server, folder, args, random.Random(args.seed))
        listed = os.path.join(folder, "in-doubt")
        with open(listed, "w") as f:
            f.writelines(f"{i}\n" for i in sorted(doubt))
        v, odd = server.audit(listed), without_excuse(server.taken, kills)
        back, told = returned_and_back(server, doubt)
        checks = ("lost", "invented", "altered", "duplicates_unexcused")
        wrong += [f"{v[k]} {k}" for k in checks if v[k]]
        wrong += [f"{len(odd)} duplicates without a kill, such as {odd[0]}"] if odd else []
        wrong += [f"{len(back)} returned messages are back, such as {min(back)}"] if back else []
        wrong += [] if v["pass"] else ["the audit fails"]
        wrong += ["too little mail went through"] if v["acknowledged"] < 50 * args.kills else []
        archived = sum(n > 100 for n in seen)
        wrong += ["archive and index were hardly used"] if archived < args.kills / 2 else []
        wrong += [f"the server said {e}" for e in ("journal_damaged", "index_lost", "index_damaged",
                                                   "archive_damaged") if server.said(e)]
        for line in v["examples"]:
            print(line)
        text = f"{len(kills)} kills under load or in recovery, {archived} of them with mail in archive and "
        text += f"index (up to {max(seen)} messages), slowest way back {slowest:.2f} s; "
        text += f"{v['acknowledged']} acknowledged, {v['delivered']} delivered, {told} returned, "
        text += f"{v['lost']} lost, {v['invented']} invented, {v['altered']} altered, "
        text += f"{v['duplicates']} duplicates, {v['duplicates_unexcused']} of them without excuse, "
        text += f"{len(back)} back after they were returned; {len(doubt)} messages were in doubt"
        if wrong:
            print(server.last_words())
        return rig.verdict("kill9", wrong, text)
    finally:
        server.close()
        if os.environ.get("KEEP_FOLDER"):
            print(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
