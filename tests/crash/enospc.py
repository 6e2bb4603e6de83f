#!/usr/bin/env python3
"""A full disk: new mail is refused for now, what is there is delivered, then all goes on.

    tests/crash/enospc.py

A file system of 128 MiB, a next hop that is away, and mail of all sizes, most of it in archive and
index. Then
 1. the disk is filled to its last block by somebody else, while mail is taken and archived: the server
    must answer 452 4.3.1 before long, say so (event `queue_full`, 503 on /readyz), and never
    acknowledge what it cannot keep;
 2. half of that is removed again: new mail must be taken within the time of its next look;
 3. the disk is filled again, and the server killed and restarted on the full disk;
 4. operators delete messages on the full disk;
 5. the next hop comes back and refuses some: the queue must drain, outcomes, index, notifications and
    all, on the full disk;
 6. the other files go: new mail of any size must be taken.
Nothing may be lost, altered or invented in all this. Exit 0 if so. About two minutes.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time

import rig
from subjects import Server, join_ledgers, ledger_lines


def final_reply(server, size=100):
    """The first seven characters of the reply to a message, at whichever command it is refused."""
    with server.connection() as s, s.makefile("rwb") as f:
        s.settimeout(30)

        def ask(line):
            if line:
                f.write(line + b"\r\n")
                f.flush()
            while (reply := f.readline())[3:4] == b"-":
                pass
            return reply.decode().strip()

        ask(b"")
        ask(b"EHLO test.example")
        body = b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * (size // 72) + b"."
        reply = ""
        for line in (b"MAIL FROM:<a@a.example>", b"RCPT TO:<b@b.example>", b"DATA", body):
            reply = ask(line)
            if reply[:1] not in "23":
                break
        return reply


def becomes(server, code, seconds, size=100):
    """Waits until a message gets this reply; gives the last one."""
    end = time.time() + seconds
    while not (reply := final_reply(server, size)).startswith(code) and time.time() < end:
        time.sleep(0.5)
    return reply


def fill(mount, name):
    """Takes the file system's last block."""
    with open(os.path.join(mount, name), "wb", buffering=0) as f:
        for size in (1 << 20, 4096, 512):
            try:
                while True:
                    f.write(bytes(size))
                    os.fsync(f.fileno())
            except OSError:
                pass
    return os.statvfs(mount).f_bavail


def run(server, mount, deleted):
    """All steps; gives what is wrong. The ids of deleted messages go into `deleted`."""
    wrong, seen = [], []

    def expect(what, found, good):
        seen.append(f"{what}: {found}")
        print(seen[-1], flush=True)
        wrong.extend([] if good else [f"{what}: {found}"])

    server.start(mount)
    server.load(600, rate=800)
    time.sleep(6)
    parked = server.metric("ringpost_queue_parked")
    expect("messages in archive and index", parked, parked > 500)
    reply = final_reply(server)
    expect("before", reply, reply.startswith("250"))
    expect("free blocks", free := fill(mount, "filler-1"), free == 0)
    reply = becomes(server, "452", 60)
    expect("full", reply, reply.startswith("452 4.3.1"))
    large = becomes(server, "452", 10, size=200_000)
    expect("full, large message", large, large.startswith("452 4.3.1"))
    expect("readiness", ready := server.readiness(), ready == 503)
    expect("alarms", said := server.said("queue_full"), said > 0)
    os.truncate(os.path.join(mount, "filler-1"), os.path.getsize(os.path.join(mount, "filler-1")) // 2)
    reply = becomes(server, "250", 25)
    expect("some space", reply, reply.startswith("250"))
    fill(mount, "filler-2")
    reply = becomes(server, "452", 60)
    expect("full again", reply, reply.startswith("452 4.3.1"))
    server.kill()
    fill(mount, "filler-3")
    server.start(mount)
    waiting = sorted(server.queue())
    expect("queue after a restart on the full disk", len(waiting), len(waiting) > 1000)
    reply = final_reply(server)
    expect("full after the restart", reply, reply.startswith("452 4.3.1"))
    server.end_load()
    # Whether there is more space after the deletes is of no interest: it is not to be used.
    deleted.update(waiting[: len(waiting) // 10 : 2])
    done = server.delete(sorted(deleted))
    expect("deleted", done, 0 < done <= len(deleted))
    left = server.queue() & deleted
    expect("deleted, and in the queue", len(left), not left)
    fill(mount, "filler-4")
    server.sink("--reject", "3%")
    server.sink(ledger=server.taken + ".back", port="back")
    left = server.drain(90)
    expect("left of it with the next hop back", len(left), not left)
    for name in os.listdir(mount):
        if name.startswith("filler"):
            os.unlink(os.path.join(mount, name))
    reply = becomes(server, "250", 25)
    expect("space", reply, reply.startswith("250"))
    large = becomes(server, "250", 25, size=200_000)
    expect("space, large message", large, large.startswith("250"))
    left = server.drain(30)
    expect("left at the end", len(left), not left)
    return wrong


def main():
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.parse_args()
    rig.prepare(600)
    folder = tempfile.mkdtemp(prefix="enospc-")
    server, deleted = Server(folder, journal=48, free=0, window=2), set()
    image = os.path.join(folder, "image")
    with open(image, "wb") as f:
        f.truncate(128 << 20)
    try:
        with rig.mounted(image, os.path.join(folder, "mount"), format_it=True) as mount:
            try:
                wrong = run(server, mount, deleted)
            finally:
                server.kill()
        for tool in server.tools[-2:]:
            tool.send_signal(signal.SIGINT)
            tool.wait(30)
        taken, server.taken = server.taken, os.path.join(folder, "all.ledger")
        join_ledgers([taken, taken + ".back"], server.taken)
        queued = os.path.join(folder, "deleted")
        with open(queued, "w") as f:
            f.writelines(f"{i}\n" for i in sorted(deleted))
        # What an operator has deleted is not lost.
        v = server.audit(queued=queued)
        wrong += [f"{v[k]} {k}" for k in ("lost", "altered") if v[k]]
        wrong += [] if v["notified"] else ["nothing was returned"]
        wrong += server.said("journal_poisoned") * ["the journal is poisoned"]
        # The messages of this script itself are in no source's ledger.
        own = sum(words[5] == "b@b.example" for words in ledger_lines(server.taken))
        wrong += [f"{v['invented'] - own} invented"] if v["invented"] != own else []
        if wrong:
            print(server.last_words())
        text = f"{v['acknowledged']} acknowledged, {v['delivered']} delivered, {v['lost']} lost, "
        text += f"{v['notified']} returned, {len(deleted)} deleted, {v['altered']} altered, {v['refused_delivered']} delivered although refused, "
        return rig.verdict("enospc", wrong, text + f"{v['duplicates']} duplicates")
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
