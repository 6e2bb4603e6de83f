#!/usr/bin/env python3
"""Debian's Thunderbird, under Xvfb with a profile made for it, reads and sends mail of a running server.

    anna  IMAP with STARTTLS; submission with STARTTLS and a login; whole messages only when they are opened
    bert  IMAP under TLS, as Thunderbird is set up by itself (bodies fetched in the background) and with CONDSTORE;
          folders with special uses that have other names; submission under TLS
    carl  POP3 with STLS that leaves the mail on the server, then no longer
    dora  POP3 under TLS that takes the mail away

The program is driven from inside: thunderbird.js runs in it, sent there with Marionette (the remote control of Mozilla's
own tests). What must have reached the server is looked up there with imaplib and poplib. In the end
Thunderbird's own log of IMAP must show no command refused. Not in `cargo test`: it installs thunderbird and xvfb from
Debian. Needs no name service and no network but loopback.

    tests/interop/thunderbird.py [path of the ringpost binary]

Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run. KEEP=1 keeps
the folder with all logs.
"""

import base64
import email
import email.header
import email.policy
import os
import random
import re
import shutil
import signal
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from thunderbird_rig import (FAILED, PASSWORD, SERVER, USERS, Ringpost, Thunderbird, address, certificates, get_programs,
                             good, skip, step, wait_for)

ROOT = os.path.dirname(os.path.dirname(HERE))
PROGRAM = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "target", "debug", "ringpost"))
# For everything together; each wait has a bound of its own.
SECONDS = 600
ATTACHMENT = random.Random(7).randbytes(300_000)
TEXT = ("first\r\n.\r\n..dots\r\nFrom a line that a mailbox file would quote\r\n>From the same\r\n"
        "Grüße, ☃, trailing blanks   \r\n\r\n" + "x" * 990 + "\r\n\r\nlast\r\n")
EIGHT = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"


def messages():
    """Subject, octets. The third is fetched in pieces by Thunderbird."""
    def of(subject, rest, day):
        return subject, (f"From: =?utf-8?q?B=C3=B6b?= <bob@far.example>\r\nTo: you <you@test.example>\r\n"
                         f"Date: Mon, {day} Mar 2026 10:00:00 +0100\r\nMessage-ID: <{day}@far.example>\r\n"
                         f"Subject: {subject if subject.isascii() else coded(subject)}\r\n{rest}").encode()

    def coded(subject):
        return email.header.Header(subject, "utf-8").encode()

    lines = base64.encodebytes(ATTACHMENT).decode().replace("\n", "\r\n")
    yield of("plain", EIGHT + "\r\n" + TEXT, 2)
    yield of("Grüße ☃", "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"
             "Content-Transfer-Encoding: quoted-printable\r\n\r\nn=E4chste Stra=DFe\r\n", 9)
    yield of("attached", "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=xx\r\n\r\n--xx\r\n"
             "Content-Type: text/plain\r\n\r\nsee there\r\n--xx\r\nContent-Type: application/octet-stream\r\n"
             "Content-Disposition: attachment; filename*=utf-8''%C3%9Cbersicht.bin\r\n"
             f"Content-Transfer-Encoding: base64\r\n\r\n{lines}--xx--\r\n", 16)
    yield of("nested", "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=yy\r\n\r\n--yy\r\n"
             "Content-Type: multipart/alternative; boundary=zz\r\n\r\n--zz\r\n\r\nplain words\r\n--zz\r\n"
             "Content-Type: text/html\r\n\r\n<p>html words</p>\r\n--zz--\r\n--yy\r\nContent-Type: message/rfc822\r\n\r\n"
             "Subject: inner\r\n\r\ninner words\r\n--yy--\r\n", 23)
    yield of("empty", "\r\n", 30)


MESSAGES = dict(messages())


class Test:
    """The checks, in their order: later ones stand on what earlier ones have done."""

    def __init__(self, ring, bird):
        self.ring, self.bird, self.do = ring, bird, bird.marionette.run

    def on(self, user, action, *given):
        return self.do(action, SERVER[user], *given)

    def listed(self, user, name="INBOX"):
        return {m["subject"]: m for m in self.on(user, "list", name)}

    def octets(self, user, name, subject):
        """What Thunderbird has; two lines of its own stand before what it keeps offline."""
        got = base64.b64decode(self.on(user, "octets", name, subject))
        return re.sub(rb"\A(X-Mozilla-Status2?: [0-9a-f]+\r?\n)+", b"", got)

    def server_has(self, user, name, subject, *flags):
        """Waits for a message with these flags and no others, aside from one that Thunderbird sets of itself."""
        def there():
            got = self.ring.mailbox(user, name).get(subject)
            return got is not None and got[0] - {"\\Recent", "$MDNSent"} == set(flags)

        wait_for(f"{subject} in {name} with {flags}", there, 20)

    def server_has_not(self, user, name, subject):
        wait_for(f"{subject} to leave {name}", lambda: subject not in self.ring.mailbox(user, name), 20)

    def prepare(self):
        for user in USERS:
            for data in MESSAGES.values():
                self.ring.deliver(user, data)
        for user in USERS:
            wait_for("the deliveries", lambda u=user: len(self.ring.mailbox(u)) == len(MESSAGES))
        with self.ring.imap("bert") as m:
            for old, new, use in (("Sent", "Gesendet", "Sent"), ("Trash", "Papierkorb", "Trash"),
                                  ("Drafts", "Entw&APw-rfe", "Drafts")):
                good(m.delete(old))
                good(m._simple_command("CREATE", f'"{new}"', f"(USE (\\{use}))"))
                good(m.subscribe(f'"{new}"'))
        with open(os.path.join(self.bird.folder, "ca.pem"), encoding="ascii") as f:
            authority = "".join(line.strip() for line in f if not line.startswith("-----"))
        logins = [(scheme, address(user), PASSWORD) for user in USERS
                  for scheme in ("smtp", "imap" if user in ("anna", "bert") else "mailbox")]
        version = self.do("prepare", authority, logins)
        print(f"        Thunderbird {version}", flush=True)

    def folders(self):
        for user, how in (("anna", "STARTTLS"), ("bert", "TLS")):
            with step(f"IMAP under {how}: login, folders"):
                self.on(user, "expand", "INBOX")
                self.on(user, "update", "INBOX")
                got = set(self.on(user, "names"))
                # The names with & are in modified UTF-7 there and are looked at by the next check.
                lacking = {name for name in self.ring.names(user) if "&" not in name} - got
                assert not lacking, (lacking, got)
        with step("folders with special uses are found"):
            got = self.on("anna", "special")
            assert got == {"sent": ["Sent"], "drafts": ["Drafts"], "trash": ["Trash"], "archive": ["Archive"],
                           "junk": ["Junk"]}, got
        with step("folders with special uses are found under any name"):
            got = self.on("bert", "special")
            want = {"sent": "Gesendet", "drafts": "Entwürfe", "trash": "Papierkorb"}
            assert all(name in got[use] for use, name in want.items()), got

    def reading(self):
        for user in ("anna", "bert"):
            with step(f"{user}: INBOX has all messages with their headers"):
                got = self.listed(user)
                assert set(got) == set(MESSAGES) and len(got) == len(MESSAGES), got
                for subject, (_, octets) in self.ring.mailbox(user).items():
                    one, parsed = got[subject], email.message_from_bytes(octets, policy=email.policy.default)
                    assert one["author"] == "Böb <bob@far.example>", one
                    assert f"<{one['id']}>" == parsed["Message-ID"] and one["size"] == len(octets), one
                    assert one["date"] == parsed["Date"].datetime.timestamp() and not one["read"], one
            with step(f"{user}: each message is the same octets"):
                there = self.ring.mailbox(user)
                for subject, sent in MESSAGES.items():
                    got = self.octets(user, "INBOX", subject)
                    assert got == there[subject][1], (subject, len(got), len(there[subject][1]))
                    assert got.endswith(sent), subject
            with step(f"{user}: attachments are the same octets"):
                (name, coded), = self.on(user, "attachments", "INBOX", "attached")
                assert name == "Übersicht.bin" and base64.b64decode(coded) == ATTACHMENT, (name, len(coded))
                (_, coded), = self.on(user, "attachments", "INBOX", "nested")
                assert b"inner words" in base64.b64decode(coded), coded
        with step("large messages are fetched in pieces"):
            assert re.search(r"UID fetch \d+ \(.*BODY\.PEEK\[\]<\d+\.\d+>|BODY\.PEEK\[\S*\]<0\.\d+>",
                             self.bird.imap_said(), re.I)

    def flags(self):
        with step("read, starred, tagged, answered: the server has the flags"):
            self.on("anna", "read", "INBOX", "plain", True)
            self.server_has("anna", "INBOX", "plain", "\\Seen")
            self.on("anna", "flag", "INBOX", "plain", True)
            self.server_has("anna", "INBOX", "plain", "\\Seen", "\\Flagged")
            self.on("anna", "tag", "INBOX", "plain", "$label1")
            self.server_has("anna", "INBOX", "plain", "\\Seen", "\\Flagged", "$label1")
            self.on("anna", "answered", "INBOX", "plain")
            self.server_has("anna", "INBOX", "plain", "\\Seen", "\\Flagged", "$label1", "\\Answered")
        with step("unread, not starred: the server has no such flags"):
            self.on("anna", "read", "INBOX", "plain", False)
            self.on("anna", "flag", "INBOX", "plain", False)
            self.server_has("anna", "INBOX", "plain", "$label1", "\\Answered")

    def idling(self, user):
        """Waits until INBOX has been read again and a session waits there; how much of the log there is then."""
        idle = re.compile(r"S-INBOX:SendData: \S+ IDLE")
        before = len(idle.findall(self.bird.imap_said()))
        self.on(user, "update", "INBOX")
        wait_for("IDLE", lambda: len(idle.findall(self.bird.imap_said())) > before)
        return len(self.bird.imap_said())

    def idle(self):
        """What others do is seen without asking."""
        for user in ("anna", "bert"):
            with step(f"{user}: told of new mail while idle"):
                before = self.idling(user)
                self.ring.deliver(user, MESSAGES["plain"].replace(b"Subject: plain", b"Subject: told"))
                self.on(user, "told", "INBOX", "told")
                # The news came before the end of IDLE.
                news = re.findall(r"IMAP (\S+):localhost:S-INBOX:(?:SendData: (DONE)|\S+ \* \d+ (EXISTS))",
                                  self.bird.imap_said()[before:])
                first = {session: done or exists for session, done, exists in reversed(news)}
                assert "EXISTS" in first.values(), news
                got = self.octets(user, "INBOX", "told")
                assert got == self.ring.mailbox(user)["told"][1], got[:500]
            with step(f"{user}: told of flags and of the end of a message while idle"):
                with self.ring.imap(user) as m:
                    good(m.select())
                    number = good(m.search(None, "SUBJECT", "told"))[0].decode()
                    good(m.store(number, "+FLAGS", "(\\Flagged)"))
                    self.on(user, "told", "INBOX", "told", "isFlagged", True)
                    good(m.store(number, "+FLAGS", "(\\Deleted)"))
                    good(m.expunge())
                self.on(user, "gone", "INBOX", "told")

    def moving(self):
        with step("folders: create with its child, names that are not ASCII"):
            self.on("anna", "create", "", "Bücher & mehr", "Bücher & mehr")
            self.on("anna", "create", "Bücher & mehr", "日本", "Bücher & mehr/日本")
            assert {"B&APw-cher &- mehr", "B&APw-cher &- mehr/&ZeVnLA-"} <= self.ring.names("anna")
        with step("copy to a folder, move to a folder"):
            self.on("anna", "copy", "INBOX", "plain", "Bücher & mehr", False)
            self.server_has("anna", "B&APw-cher &- mehr", "plain", "$label1", "\\Answered")
            self.on("anna", "copy", "INBOX", "attached", "Bücher & mehr/日本", True)
            self.server_has("anna", "B&APw-cher &- mehr/&ZeVnLA-", "attached")
            self.server_has_not("anna", "INBOX", "attached")
            assert "plain" in self.ring.mailbox("anna")
            self.on("anna", "update", "Bücher & mehr/日本")
            got = self.octets("anna", "Bücher & mehr/日本", "attached")
            assert got == self.ring.mailbox("anna", "B&APw-cher &- mehr/&ZeVnLA-")["attached"][1], len(got)
        with step("copy from one account to another"):
            self.on("anna", "copy", "INBOX", "nested", "Archive", False, SERVER["bert"])
            self.server_has("bert", "Archive", "nested")
            assert self.ring.mailbox("bert", "Archive")["nested"][1] == self.ring.mailbox("anna")["nested"][1]
        with step("folders: rename with the child, delete"):
            self.on("anna", "rename", "Bücher & mehr", "Regal", "Regal")
            wait_for("the new names", lambda: {"Regal", "Regal/&ZeVnLA-"} <= self.ring.names("anna"))
            assert not any(name.startswith("B&APw-cher") for name in self.ring.names("anna"))
            assert "attached" in self.ring.mailbox("anna", "Regal/&ZeVnLA-")
            self.on("anna", "moveFolder", "Regal", "Trash")
            wait_for("the folder in the trash", lambda: "Trash/Regal/&ZeVnLA-" in self.ring.names("anna"))
            self.on("anna", "expand", "Trash/Regal")
            self.on("anna", "deleteFolder", "Trash/Regal/日本")
            self.on("anna", "deleteFolder", "Trash/Regal")
            wait_for("the end of the folder", lambda: not any("Regal" in n for n in self.ring.names("anna")))
        with step("delete goes to the trash, and empty the trash"):
            self.on("anna", "remove", "INBOX", "empty")
            self.server_has("anna", "Trash", "empty")
            self.server_has_not("anna", "INBOX", "empty")
            self.on("anna", "update", "Trash")
            self.on("anna", "emptyTrash")
            wait_for("an empty trash", lambda: not self.ring.mailbox("anna", "Trash"))

    def sending(self):
        path = os.path.join(self.bird.folder, "Anhang.bin")
        with open(path, "wb") as f:
            f.write(ATTACHMENT)
        for sender, to, sent_name, how in (("anna", "bert", "Sent", "STARTTLS"), ("bert", "anna", None, "TLS")):
            with step(f"submission under {how}: the mail arrives, with a copy among the sent"):
                subject = f"from {sender} ✓"
                body = "Grüße\r\n.\r\n..\r\nend"
                self.on(sender, "compose", "Now", {"to": address(to), "subject": subject, "body": body, "file": path})
                self.on(to, "told", "INBOX", subject)
                octets = self.ring.mailbox(to)[subject][1]
                parts = email.message_from_bytes(octets, policy=email.policy.default)
                kept, = parts.iter_attachments()
                assert kept.get_content() == ATTACHMENT
                text = parts.get_body().get_content().splitlines()
                assert text[:4] == ["Grüße", ".", "..", "end"], text
                assert re.search(r"with (UTF8SMTP|ESMTP)SA", octets.decode("utf-8", "replace")), octets[:1000]
                names = [sent_name] if sent_name else ["Gesendet", "Sent"]
                copy = next((box[subject] for box in (self.ring.mailbox(sender, name) for name in names
                                                      if name in self.ring.names(sender)) if subject in box), None)
                assert copy is not None, self.ring.names(sender)
                assert "\\Seen" in copy[0] and octets.endswith(copy[1].split(b"Message-ID:", 1)[1]), copy
        with step("a draft is saved, and saved again in place of the first"):
            draft = {"to": address("bert"), "subject": "draft", "body": "one"}
            self.on("anna", "compose", "SaveAsDraft", draft)
            self.server_has("anna", "Drafts", "draft", "\\Draft")
            self.on("anna", "update", "Drafts")
            self.on("anna", "compose", "SaveAsDraft", dict(draft, body="two", subject="draft two",
                                                           replaces=self.on("anna", "draft", "Drafts", "draft")))
            self.server_has("anna", "Drafts", "draft two", "\\Draft")
            self.server_has_not("anna", "Drafts", "draft")

    def searching(self):
        for attribute, words, subjects in (("Body", "html words", ["nested"]), ("Subject", "Grüße", ["Grüße ☃"]),
                                           ("Body", "nächste", ["Grüße ☃"]), ("Sender", "far.example", None),
                                           ("Body", "nowhere", [])):
            with step(f"search on the server: {attribute} {words}"):
                if subjects is None:
                    subjects = sorted(subject for subject, (_, octets) in self.ring.mailbox("anna").items()
                                      if b"<bob@far.example>" in octets)
                got = self.on("anna", "search", "INBOX", attribute, words)
                assert got == subjects, (got, subjects)

    def catching_up(self):
        with step("what has changed between two sessions is seen, with CONDSTORE"):
            self.on("bert", "disconnect")
            with self.ring.imap("bert") as m:
                good(m.select())
                good(m.store(good(m.search(None, "SUBJECT", "plain"))[0].decode(), "+FLAGS", "(\\Flagged)"))
                good(m.store(good(m.search(None, "SUBJECT", "empty"))[0].decode(), "+FLAGS", "(\\Deleted)"))
                good(m.expunge())
            self.on("bert", "update", "INBOX")
            self.on("bert", "told", "INBOX", "plain", "isFlagged", True)
            self.on("bert", "gone", "INBOX", "empty")
            assert "CHANGEDSINCE" in self.bird.imap_said()
        with step("a folder is downloaded to be read offline"):
            self.on("anna", "download", "INBOX")
            got = self.listed("anna")
            assert got and all(m["offline"] for m in got.values()), got
        with step("what is done offline reaches the server later"):
            self.do("offline")
            self.on("anna", "flag", "INBOX", "plain", True)
            assert self.octets("anna", "INBOX", "plain") == self.ring.mailbox("anna")["plain"][1]
            self.do("online")
            self.server_has("anna", "INBOX", "plain", "$label1", "\\Answered", "\\Flagged")
            self.do("offline")
            self.on("anna", "copy", "INBOX", "nested", "Archive", True)
            self.do("online")
            self.server_has("anna", "Archive", "nested")
            self.server_has_not("anna", "INBOX", "nested")

    def pop3(self):
        def same(user):
            for subject, sent in MESSAGES.items():
                got = re.sub(rb"\r?\n", b"\r\n", self.octets(user, "INBOX", subject))
                assert got.endswith(sent), (subject, got[-300:])

        extra = MESSAGES["plain"].replace(b"Subject: plain", b"Subject: extra")
        with step("POP3 with STLS: all mail, which stays on the server"):
            self.on("carl", "update", "INBOX")
            assert set(self.listed("carl")) == set(MESSAGES), self.listed("carl")
            same("carl")
            assert self.ring.pop3("carl") == len(MESSAGES)
        with step("POP3: only what is new is fetched again"):
            self.ring.deliver("carl", extra)
            self.on("carl", "update", "INBOX")
            assert sorted(m["subject"] for m in self.on("carl", "list", "INBOX")) == sorted([*MESSAGES, "extra"])
            assert self.ring.pop3("carl") == len(MESSAGES) + 1
        with step("POP3: without leaving it there it is gone from the server"):
            self.on("carl", "leave", False)
            self.on("carl", "update", "INBOX")
            assert self.ring.pop3("carl") == 0
            assert len(self.on("carl", "list", "INBOX")) == len(MESSAGES) + 1
        with step("POP3 under TLS: all mail is taken away"):
            self.on("dora", "update", "INBOX")
            assert set(self.listed("dora")) == set(MESSAGES), self.listed("dora")
            same("dora")
            assert self.ring.pop3("dora") == 0

    def ending(self):
        with step("Thunderbird ends by itself"):
            assert self.bird.quit() == 0
        with step("no command of Thunderbird was refused"):
            said = self.bird.imap_said()
            assert "SendData" in said
            # It asks for what it has deleted itself a moment ago, and says LOGOUT.
            refused = [line for line in re.findall(r"CreateNewLineFromSocket: (\S+ (?:BAD|BYE|NO) .*)", said)
                       if " NO [NONEXISTENT] " not in line and line.strip() != "* BYE Logging out"]
            assert not refused, "\n".join(refused)
        with step("Thunderbird understood every answer"):
            odd = re.findall(r"Syntax Error on line: .*", self.bird.imap_said())
            assert not odd, f"{len(odd)}: {sorted(set(odd))}"
        with step("no password in the logs"):
            assert PASSWORD not in self.ring.said()


def main():
    if not os.access(PROGRAM, os.X_OK):
        skip(f"no program at {PROGRAM}: cargo build first")
    program, xvfb = get_programs()
    folder = tempfile.mkdtemp(prefix="ringpost-thunderbird-")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"FAILED  not ready after {SECONDS} s"))
    signal.alarm(SECONDS)
    ring = bird = None
    try:
        certificates(folder)
        ring = Ringpost(folder, PROGRAM)
        bird = Thunderbird(folder, program, xvfb, ring.ports)
        test = Test(ring, bird)
        test.prepare()
        for part in (test.folders, test.reading, test.flags, test.idle, test.moving, test.sending, test.searching,
                     test.catching_up, test.pop3, test.ending):
            part()
        with step("the server runs on"):
            assert ring.process.poll() is None, ring.said()[-2000:]
    finally:
        signal.alarm(0)
        if bird:
            bird.stop()
        if ring:
            ring.process.terminate()
            ring.process.wait(30)
        if os.environ.get("KEEP"):
            print(f"        logs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if FAILED:
        print(f"{len(FAILED)} failed: {', '.join(FAILED)}")
        sys.exit(1)
    print("all holds")


if __name__ == "__main__":
    main()
