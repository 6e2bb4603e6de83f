#!/usr/bin/env python3
"""A disk that is full: new mail is refused for now, what is there is delivered, then all goes on.

    tests/crash/enospc.py

A file system of 32 MiB and a next hop that is away: the server must answer 452 before long and
never acknowledge what it cannot keep. Then the next hop comes back: the queue must drain on the
full disk, and new mail be taken again. Nothing may be lost. Exit 0 if so.
"""

import os
import shutil
import signal
import sys
import tempfile
import time

import rig
from kill9 import audit, drain
from subjects import Server


def final_reply(server):
    """The code a small message gets now, at whichever command it is refused."""
    with server.connection() as s, s.makefile("rwb") as f:
        def ask(line):
            if line:
                f.write(line + b"\r\n")
                f.flush()
            while (reply := f.readline())[3:4] == b"-":
                pass
            return reply[:3].decode()

        ask(b"")
        ask(b"EHLO test.example")
        code = "000"
        for line in (b"MAIL FROM:<a@a.example>", b"RCPT TO:<b@b.example>", b"DATA", b"Subject: x\r\n\r\n."):
            code = ask(line)
            if code[0] not in "23":
                break
        return code


def main():
    """See the head of this file."""
    rig.install()
    folder = tempfile.mkdtemp(prefix="enospc-")
    server, tools, wrong = Server(folder), [], []
    image = os.path.join(folder, "image")
    with open(image, "wb") as f:
        f.truncate(32 << 20)
    try:
        with rig.mounted(image, os.path.join(folder, "mount"), format_it=True) as mount:
            server.start(mount)
            tools.append(server.source(20, size=65536))
            time.sleep(20)
            full = final_reply(server)
            wrong += [] if full == "452" else [f"a full disk was answered with {full}"]
            tools[0].send_signal(signal.SIGINT)
            tools[0].wait(60)
            waiting = len(server.queue())
            tools.append(server.sink())
            drain(server, 120)
            taken = final_reply(server)
            wrong += [] if taken == "250" else [f"an empty queue was answered with {taken}"]
            drain(server, 60)
            server.kill()
            tools[1].send_signal(signal.SIGINT)
            tools[1].wait(30)
        verdict = audit(server)
        print(f"full at {waiting} messages; {verdict['acknowledged']} acknowledged, {verdict['lost']} lost")
        # The message of this script itself is not in the source's ledger: invented is 1 at most.
        wrong += [f"{verdict['lost']} lost"] if verdict["lost"] else []
        wrong += [f"{verdict['altered']} altered"] if verdict["altered"] else []
        wrong += [] if verdict["acknowledged"] else ["nothing was taken before the disk was full"]
        return "; ".join(wrong) or 0
    finally:
        server.kill()
        for tool in tools:
            tool.kill()
            tool.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
