#!/usr/bin/env python3
"""SIGKILL under load, fifty times, with mailboxes: nothing that was answered is lost, changed or back.

    tests/crash/kill9_mailboxes.py [--kills 50] [--seed 1]
    tests/crash/kill9_mailboxes.py --control --kills 10

Two shards, six accounts. Mail comes by SMTP and LMTP, to one recipient or several; six people read, mark, copy,
move, append and expunge by IMAP and delete by POP3. After each kill (one start in five is killed, too, while it
reads its journal and index) everything is read by IMAP and POP3:

* acknowledged mail is there, once; each message under the UID, with the flags and MODSEQ that were seen;
* what is new has a greater UID than all before; UIDVALIDITY is the same, UIDNEXT and HIGHESTMODSEQ no smaller;
* what was under way has happened as a whole or not at all (DELE with QUIT, COPY, MOVE, APPEND of two, STORE,
  EXPUNGE of several), what was answered has happened;
* QRESYNC with what was known some time before the kill gives exactly the difference;
* POP3 shows what IMAP shows, of the same size, under the same UIDLs; contents are octet for octet what was sent.

The control puts older shards back after each kill, so that things are lost: it must find something each time.
Exit 0 if all is as it must be. About three minutes.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time

import rig
from mailboxes import Site

# What must have been acknowledged for a kill on average, and in all of each kind.
EACH, ALL = 20, 10


def way_back(site, folder, rng):
    """Starts after a kill, maybe killed once more; gives the seconds of the start that stayed."""
    if rng.random() < 0.2:
        site.spawn(folder)
        time.sleep(rng.uniform(0.0, 0.4))
        site.kill()
    begin = time.time()
    site.start(folder)
    return time.time() - begin


def run(site, folder, args, rng):
    """All kills; gives (what is wrong, kills for which the control found something, slowest start)."""
    wrong, caught, slowest = [], 0, 0.0
    older = os.path.join(folder, "older")
    site.start(folder)
    for number in range(args.kills):
        with site.busy():
            time.sleep(rng.uniform(0.2, 1.5))
        wrong += [f"kill {number}: {w}" for w in site.wrong]
        site.wrong.clear()
        if args.control and number:
            site.put_back(older)
        slowest = max(slowest, way_back(site, folder, rng))
        found = site.check()
        for account in site.accounts.values():
            found += account.check_contents(most=5)
        if args.control:
            caught += bool(found)
            if found:
                print(f"kill {number}: found {len(found)}, such as {found[0]}", flush=True)
            for account in site.accounts.values():
                account.begin_anew()
            site.kill()
            site.keep(older)
            site.start(folder)
        else:
            wrong += [f"kill {number}: {w}" for w in found]
        if len(wrong) > 20:
            break
    return wrong, caught, slowest


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--control", action="store_true", help="put older shards back: must be noticed")
    parser.add_argument("--folder", help="where the data directory goes; default: a new one below /var/tmp")
    args = parser.parse_args()
    rig.prepare(180 + args.kills * 20)
    folder = tempfile.mkdtemp(prefix="kill9-mailboxes-", dir=args.folder or "/var/tmp")
    site = Site(folder, seed=args.seed, journal=256, free=0, window=2)
    try:
        wrong, caught, slowest = run(site, folder, args, random.Random(args.seed))
        counts, taken = site.counts(), sum(len(a.acked) for a in site.accounts.values())
        text = f"{args.kills} kills, slowest start {slowest:.2f} s; {taken} deliveries acknowledged, {counts}; "
        text += f"{site.archive_bytes() >> 20} MiB in archives"
        if args.control:
            wrong += [] if caught == args.kills - 1 else [f"only {caught} of {args.kills - 1} losses were found"]
            return rig.verdict("kill9_mailboxes control", wrong, f"{text}; {caught} losses found")
        for line in wrong[:20]:
            print(line)
        kinds = ("DELE", "STORE", "COPY", "MOVE", "APPEND", "EXPUNGE")
        wrong += [f"few of {kind}" for kind in kinds if counts.get(kind, 0) < min(ALL, args.kills)]
        wrong += ["too little mail went through"] if taken < EACH * args.kills else []
        wrong += ["archives were not used"] if site.archive_bytes() < 1 << 20 else []
        said = ("journal_damaged", "mailboxes_damaged", "mailboxes_rebuilt", "mailboxes_poisoned")
        wrong += [f"the server said {e}" for e in said if site.said(e)]
        if wrong:
            print(site.last_words())
        return rig.verdict("kill9_mailboxes", wrong[:10], text)
    finally:
        site.close()
        if os.environ.get("KEEP_FOLDER"):
            print(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
