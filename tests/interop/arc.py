#!/usr/bin/env python3
"""Chains of ARC with dkimpy (PyPI), in both directions: what it seals ringpost verifies and seals on, what ringpost has
sealed it verifies; a message that was changed on the way breaks the chain for both. And senders of forwarded
mail, which must lead back.

    client [dkimpy seals] -> ringpost [verifies, seals, forwards with another sender] -> sink [dkimpy verifies]

Keys come from a name server in this program. Not in `cargo test`: gets dkimpy into a directory of its own.

    tests/interop/arc.py [path of the ringpost binary]

Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
"""
import contextlib
import os
import re
import smtplib
import socket
import struct
import subprocess
import sys
import tempfile
import threading

from mta import PROGRAM, free_port, greets, skip, wait_for, write

RECORDS = {}
FAILED = []


def check(good, what):
    print(f"{'ok    ' if good else 'FAILED'}  {what}")
    if not good:
        FAILED.append(what)


def get_dkimpy(folder):
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", folder, "dkimpy", "authres",
                           "dnspython", "pynacl"], capture_output=True, text=True, timeout=300, check=False)
    sys.path.insert(0, folder)
    try:
        import dkim
    except ImportError as e:
        skip(f"dkimpy cannot be had: {e}; {done.stderr[-200:]}")
    return dkim


class NameServer:
    """Answers with the texts of RECORDS; NXDOMAIN for all else."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            question, peer = self.socket.recvfrom(4096)
            with contextlib.suppress(IndexError, ValueError):
                self.socket.sendto(self.answer(question), peer)

    @staticmethod
    def answer(question):
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1:at + 1 + question[at]].decode().lower())
            at += 1 + question[at]
        asked = question[12:at + 5]
        text = RECORDS.get(".".join(labels)) if question[at + 1:at + 3] == b"\0\x10" else None
        flags = 0x8180 if text else 0x8183
        head = question[:2] + struct.pack(">HHHHH", flags, 1, 1 if text else 0, 0, 0)
        if not text:
            return head + asked
        pieces = [text[n:n + 255].encode() for n in range(0, len(text), 255)]
        data = b"".join(bytes([len(p)]) + p for p in pieces)
        return head + asked + b"\xc0\x0c" + struct.pack(">HHIH", 16, 1, 60, len(data)) + data


class Sink:
    """Takes mail; (sender, recipient, content) of each."""

    def __init__(self):
        self.mails = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            peer, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        with peer, peer.makefile("rb") as lines:
            peer.sendall(b"220 sink ESMTP\r\n")
            sender = to = ""
            for line in lines:
                word = line[:4].upper()
                if word == b"MAIL":
                    sender = re.search(rb"<(.*?)>", line)[1].decode()
                elif word == b"RCPT":
                    to = re.search(rb"<(.*?)>", line)[1].decode()
                elif word == b"DATA":
                    peer.sendall(b"354 go on\r\n")
                    content = b""
                    for text in lines:
                        if text == b".\r\n":
                            break
                        content += text[1:] if text.startswith(b".") else text
                    self.mails.append((sender, to, content))
                elif word == b"QUIT":
                    peer.sendall(b"221 bye\r\n")
                    return
                peer.sendall(b"250 ok\r\n")

    def wait(self, n):
        if not wait_for(f"{n} messages", lambda: len(self.mails) >= n):
            skip("nothing came out of ringpost")
        return self.mails[n - 1]


def key(folder, domain):
    """A key of RSA: its file, and its record among RECORDS."""
    file = os.path.join(folder, f"{domain}.pem")
    out = subprocess.run([PROGRAM, "dkim", "keygen", domain, "s", "--rsa", "2048", "--out", file], capture_output=True,
                         text=True, check=True).stdout
    line = next(l for l in out.splitlines() if " IN TXT " in l)
    RECORDS[f"s._domainkey.{domain}"] = "".join(re.findall(r'"([^"]*)"', line))
    return file


def configure(folder, names, sink, port, pem):
    write(os.path.join(folder, "aliases"), "away: x@far.test\n")
    write(os.path.join(folder, "secrets"), "a secret that is long enough\n")
    return write(os.path.join(folder, "ringpost.toml"), f"""
[server]
hostname = "mx.here.test"
data_dir = "{folder}/data"
user = ""
[cores]
mta = 1
pin = "off"
[storage]
durability = "weak"
free_min = "1MiB"
[relay]
smarthost = "127.0.0.1:{sink}"
networks = ["127.0.0.9/32"]
[domains]
local = ["here.test"]
aliases = "{folder}/aliases"
postmaster = "p@far.test"
[dns]
servers = ["127.0.0.1:{names}"]
dnssec = "off"
[authenticity]
arc = "tag"
dkim = "tag"
[arc]
domain = "here.test"
selector = "s"
file = "{pem}"
[srs]
domain = "srs.here.test"
key_file = "{folder}/secrets"
[metrics]
address = ""
[admin]
socket = "{folder}/admin"
[[listener]]
protocol = "smtp"
address = "127.0.0.1:{port}"
""")


def run(folder, dkim):
    def dns(name, timeout=5):
        del timeout
        return RECORDS.get((name.decode() if isinstance(name, bytes) else name).rstrip(".").lower())

    own, other = key(folder, "here.test"), key(folder, "list.test")
    with open(other, "rb") as f:
        secret = f.read()
    # dkimpy reads PKCS #1.
    pkcs1 = subprocess.run(["openssl", "rsa", "-in", other, "-traditional"], capture_output=True, check=False).stdout
    secret = pkcs1 or secret
    names, sink, port = NameServer(), Sink(), free_port()
    config = configure(folder, names.port, sink.port, port, own)
    server = subprocess.Popen([PROGRAM, "serve", "-c", config], stdout=subprocess.DEVNULL,
                              stderr=open(os.path.join(folder, "log"), "wb"))
    try:
        if not wait_for("ringpost", lambda: greets(port)):
            with open(os.path.join(folder, "log"), encoding="utf-8") as f:
                print(f.read())
            sys.exit("ringpost does not start")

        def send(message, sender="joe@a.test", to="away@here.test"):
            before = len(sink.mails)
            with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", source_address=("127.0.0.2", 0)) as s:
                s.sendmail(sender, [to], message)
            return sink.wait(before + 1)

        plain = (b"From: Joe <joe@a.test>\r\nTo: x@here.test\r\nSubject:  odd   blanks\r\n\tfolded\r\nMessage-ID: <1@a.test>\r\n"
                 b"Date: Fri, 27 Nov 2026 12:00:00 +0000\r\n\r\nHi \t there\r\n\r\n.dot\r\n\r\n\r\n")
        sender, to, first = send(plain)
        cv, results, reason = dkim.arc_verify(first, dnsfunc=dns)
        check(cv == b"pass" and len(results) == 1, f"a first seal of ringpost holds for dkimpy ({cv}, {reason})")
        check(sender.startswith("SRS0=") and to == "x@far.test", f"the sender was rewritten ({sender})")
        back = send(b"Subject: bounce\r\n\r\n", "", sender)
        check(back[1] == "joe@a.test", f"and leads back ({back[1]})")

        with_results = b"Authentication-Results: list.test; spf=pass smtp.mailfrom=a.test\r\n" + plain
        sealed = b"".join(dkim.arc_sign(with_results, b"s", b"list.test", secret, b"list.test")) + with_results
        check(dkim.arc_verify(sealed, dnsfunc=dns)[0] == b"pass", "dkimpy believes its own seal")
        _, _, second = send(sealed)
        cv, results, reason = dkim.arc_verify(second, dnsfunc=dns)
        check(b"cv=pass; d=here.test" in second, "ringpost verifies the chain of dkimpy")
        check(cv == b"pass" and len(results) == 2, f"dkimpy verifies the chain that ringpost went on with ({cv}, {reason})")

        _, _, torn = send(sealed.replace(b"Hi", b"Ha"))
        cv, _, reason = dkim.arc_verify(torn, dnsfunc=dns)
        # dkimpy gives no result for a chain that somebody has ended.
        check(b"cv=fail; d=here.test" in torn and cv in (b"fail", None), f"a broken chain is one for both ({reason})")
        long = plain + b"a long line of text, again and again\r\n" * 100_000
        cv, _, reason = dkim.arc_verify(send(long)[2], dnsfunc=dns)
        check(cv == b"pass", f"a message of {len(long)} bytes in a side file ({cv}, {reason})")
    finally:
        server.terminate()
        server.wait(30)


def main():
    if not os.path.exists(PROGRAM):
        skip(f"{PROGRAM} is not there")
    with tempfile.TemporaryDirectory(prefix="ringpost-arc-") as folder:
        run(folder, get_dkimpy(os.path.join(folder, "python")))
    print(f"{len(FAILED)} failed")
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
