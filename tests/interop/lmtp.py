#!/usr/bin/env python3
"""Postfix and swaks from Debian as LMTP clients of ringpost, and what they gave, read back by POP3.

    client -> Postfix -> (LMTP, TCP) -> ringpost -> mailbox -> POP3
    swaks --protocol LMTP -> ringpost

Each body must come out octet for octet; a recipient without a mailbox must come back from Postfix as a
notification while the others of the same message have it; mail for one that is over quota must wait in Postfix's
queue or come back, and the others have theirs. Not in `cargo test`: needs root, and installs what it needs from
Debian.

    tests/interop/lmtp.py [path of the ringpost binary]

Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
"""
import contextlib
import os
import poplib
import shutil
import smtplib
import subprocess
import sys
import tempfile

import mta
from mta import check, content, free_port, greets, messages, wait_for, write

USERS = ("ann", "ben", "cat")
PASSWORD = "correct-horse"


class Postfix:
    """Passes everything for boxes.test to an LMTP server; notifications stay in a maildir."""

    def __init__(self, folder, port, lmtp):
        self.port, self.etc = port, os.path.join(folder, "etc")
        self.mail = os.path.join(folder, "mail")
        for name in ("etc", "spool", "data", "mail"):
            os.makedirs(os.path.join(folder, name))
        for path in (os.path.join(folder, "data"), self.mail):
            shutil.chown(path, "postfix")
        uid = os.stat(self.mail).st_uid
        write(os.path.join(self.etc, "main.cf"), f"""compatibility_level = 3.6
config_directory = {self.etc}
queue_directory = {folder}/spool
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
shlib_directory = /usr/lib/postfix
meta_directory = /etc/postfix
mail_owner = postfix
setgid_group = postdrop
maillog_file = /var/log/ringpost-interop-lmtp.log
myhostname = mx.postfix.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
relay_domains = boxes.test
relay_transport = lmtp:inet:127.0.0.1:{lmtp}
virtual_mailbox_domains = postfix.test
virtual_mailbox_maps = inline:{{ sender@postfix.test=sender/ }}
virtual_mailbox_base = {self.mail}
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{uid}
smtp_dns_support_level = disabled
minimal_backoff_time = 2s
queue_run_delay = 2s
""")
        write(os.path.join(self.etc, "master.cf"), f"""127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
""")
        self.run("start")

    def run(self, word):
        return subprocess.run(["postfix", "-c", self.etc, word], capture_output=True, text=True, timeout=60,
                              check=False)

    def queue(self):
        return subprocess.run(["postqueue", "-c", self.etc, "-j"], capture_output=True, text=True, timeout=30,
                              check=False).stdout

    def stop(self):
        self.run("stop")


class Ringpost:
    """Mailboxes of three users, 3 MiB each."""

    def __init__(self, folder):
        self.lmtp, self.pop3 = free_port(), free_port()
        self.log = os.path.join(folder, "log")
        write(os.path.join(folder, "users"), "".join(
            f"{name}:{{PLAIN}}{PASSWORD}\n" for name in USERS))
        config = write(os.path.join(folder, "ringpost.toml"), f"""
[server]
hostname = "mx.boxes.test"
data_dir = "{folder}/data"
user = ""
[cores]
mta = 1
access = 1
[storage]
segment_size = "1MiB"
free_min = "1MiB"
[domains]
local = ["boxes.test"]
postmaster = "ann@boxes.test"
[mailbox]
quota = "3MiB"
[auth]
users = "{folder}/users"
allow_plaintext = true
[metrics]
address = ""
[admin]
socket = ""
[events]
target = "{self.log}"
[[listener]]
protocol = "lmtp"
address = "127.0.0.1:{self.lmtp}"
[[listener]]
protocol = "pop3"
address = "127.0.0.1:{self.pop3}"
""")
        self.process = subprocess.Popen([mta.PROGRAM, "serve", "-c", config],
                                        stderr=open(os.path.join(folder, "err"), "wb"))
        if not wait_for("ringpost", lambda: greets(self.lmtp)):
            for name in ("log", "err"):
                with contextlib.suppress(OSError), open(os.path.join(folder, name), encoding="utf-8") as f:
                    print(f.read())
            sys.exit(1)

    def mails(self, user):
        """Everything in a mailbox, as it comes by POP3."""
        box = poplib.POP3("127.0.0.1", self.pop3, timeout=30)
        poplib._MAXLINE = 2 << 20
        box.user(user)
        box.pass_(PASSWORD)
        found = [b"\r\n".join(box.retr(n + 1)[1]) + b"\r\n" for n in range(box.stat()[0])]
        box.quit()
        # An empty body: poplib gives no line for the end of the header.
        return [m if b"\r\n\r\n" in m else m + b"\r\n" for m in found]

    def has(self, user, subject, data):
        """The message with that subject has the body that was sent (Postfix completes addresses in the header)."""
        marked, body = b"Subject: interop-" + subject.encode() + b"\r\n", data.split(b"\r\n\r\n", 1)[1]
        return any(m.split(b"\r\n\r\n", 1)[1] == body for m in self.mails(user) if marked in m)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def through_postfix(postfix, ringpost):
    for name, body in messages():
        data = content(name, body)
        with smtplib.SMTP("127.0.0.1", postfix.port, timeout=30) as s:
            s.sendmail("sender@postfix.test", ["ann@boxes.test", "cat@boxes.test"], data,
                       mail_options=["BODY=8BITMIME"])
        for user in ("ann", "cat"):
            check(f"Postfix by LMTP: {name} to {user}",
                  wait_for(name, lambda n=name, d=data, u=user: ringpost.has(u, n, d)))
    data = content("partly", b"one of two has no mailbox\r\n")
    with smtplib.SMTP("127.0.0.1", postfix.port, timeout=30) as s:
        s.sendmail("sender@postfix.test", ["nobody@boxes.test", "ann@boxes.test"], data)
    check("one of two recipients: who has a mailbox has the mail", wait_for(
        "partly", lambda: ringpost.has("ann", "partly", data)))
    bounced = wait_for("the notification", lambda: mta.find(postfix.mail, lambda m: b"nobody@boxes.test" in m))
    check("... and the other comes back", bounced and b"5.1.1" in bounced, bounced)
    # Two of these are more than a mailbox may hold.
    block = b"".join(b"%07d %s\r\n" % (n, b"z" * 60) for n in range(28000))
    with smtplib.SMTP("127.0.0.1", postfix.port, timeout=30) as s:
        s.sendmail("sender@postfix.test", ["ben@boxes.test"], content("first", block))
    check("a mailbox is filled", wait_for("first", lambda: ringpost.has("ben", "first", content("first", block))))
    data = content("big", block)
    with smtplib.SMTP("127.0.0.1", postfix.port, timeout=30) as s:
        s.sendmail("sender@postfix.test", ["ben@boxes.test", "cat@boxes.test"], data)
    check("a full mailbox: the other recipient has the mail", wait_for(
        "big", lambda: ringpost.has("cat", "big", data)))
    full = wait_for("a reply for the full one", lambda: b"5.2.2" in (mta.find(
        postfix.mail, lambda m: b"ben@boxes.test" in m) or b"") or "ben@boxes.test" in postfix.queue())
    check("... and the full one is told, or waits", full and not ringpost.has("ben", "big", data))
    check("Postfix's queue is empty but for that", wait_for("the queue", lambda: not [
        line for line in postfix.queue().splitlines() if "ben@boxes.test" not in line]), postfix.queue())


def by_swaks(ringpost):
    done = subprocess.run(
        ["swaks", "--protocol", "LMTP", "--server", f"127.0.0.1:{ringpost.lmtp}", "--from", "a@client.test", "--to",
         "ann@boxes.test,nobody@boxes.test,cat@boxes.test", "--header", "Subject: interop-swaks", "--body", "by swaks"],
        capture_output=True, text=True, timeout=60, check=False)
    check("swaks by LMTP: a reply for each recipient", "550 5.1.1" in done.stdout, done.stdout)
    for user in ("ann", "cat"):
        check(f"swaks by LMTP: {user} has it", any(b"Subject: interop-swaks\r\n" in m for m in ringpost.mails(user)))


def main():
    if os.geteuid() != 0:
        mta.skip("needs root")
    mta.get_postfix()
    if not shutil.which("swaks"):
        mta.apt("install", "--no-install-recommends", "swaks")
    with tempfile.TemporaryDirectory(prefix="ringpost-lmtp-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        for name in ("ringpost", "postfix"):
            os.mkdir(os.path.join(folder, name))
        ringpost = Ringpost(os.path.join(folder, "ringpost"))
        postfix = Postfix(os.path.join(folder, "postfix"), free_port(), ringpost.lmtp)
        try:
            if not wait_for("Postfix", lambda: greets(postfix.port)):
                mta.skip("Postfix does not start here")
            through_postfix(postfix, ringpost)
            if shutil.which("swaks"):
                by_swaks(ringpost)
            else:
                print("swaks is not installed and cannot be: left out")
        finally:
            postfix.stop()
            ringpost.stop()
    print("FAILED: " + ", ".join(mta.FAILED) if mta.FAILED else "all holds")
    sys.exit(1 if mta.FAILED else 0)


if __name__ == "__main__":
    main()
