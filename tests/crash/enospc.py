#!/usr/bin/env python3
"""A full disk: new mail is refused for now, what is there is delivered, then all goes on.

    tests/crash/enospc.py

A file system of 64 MiB, a next hop that is away, and mail of all sizes. Then
 1. the disk is filled to its last block by somebody else: the server must answer 452 4.3.1 before
    long, say so (event `queue_full`, 503 on /readyz), and never acknowledge what it cannot keep;
 2. half of that is removed again: new mail must be taken within the time of its next look;
 3. the disk is filled again, and the server killed and restarted on the full disk;
 4. the next hop comes back: the queue must drain, outcomes and all, on the full disk;
 5. the other files go: new mail of any size must be taken.
Nothing may be lost, altered or invented in all this. Exit 0 if so. About a minute.
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
    return os.statvfs(mount).f_bfree


def run(server, mount):
    """All five steps; gives (what is wrong, what was seen)."""
    wrong, seen = [], []

    def expect(what, found, good):
        seen.append(f"{what}: {found}")
        print(seen[-1], flush=True)
        wrong.extend([] if good else [f"{what}: {found}"])

    server.start(mount)
    server.load(600)
    time.sleep(3)
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
    waiting = len(server.queue())
    expect("queue after a restart on the full disk", waiting, waiting > 100)
    server.end_load()
    server.sink()
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
    rig.prepare(400)
    folder = tempfile.mkdtemp(prefix="enospc-")
    server = Server(folder, journal=48, free=0)
    image = os.path.join(folder, "image")
    with open(image, "wb") as f:
        f.truncate(64 << 20)
    try:
        with rig.mounted(image, os.path.join(folder, "mount"), format_it=True) as mount:
            try:
                wrong = run(server, mount)
            finally:
                server.kill()
        server.tools[-1].send_signal(signal.SIGINT)
        server.tools[-1].wait(30)
        v = server.audit()
        wrong += [f"{v[k]} {k}" for k in ("lost", "altered") if v[k]]
        # The probes of this script carry no id; the sink does not list them.
        wrong += [f"{v['invented']} invented"] if v["invented"] else []
        if wrong:
            print(server.last_words())
        text = f"{v['acknowledged']} acknowledged, {v['delivered']} delivered, {v['lost']} lost, "
        text += f"{v['altered']} altered, {v['refused_delivered']} delivered although refused, "
        return rig.verdict("enospc", wrong, text + f"{v['duplicates']} duplicates")
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
