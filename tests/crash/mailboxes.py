"""Mailboxes on a crashing server: two shards, mail that comes by SMTP and LMTP, people who read, mark, copy,
move, append and delete it by IMAP and POP3, and what must be true of it afterwards.

Each account has one person, who does one thing after the other and knows what was answered: the model. What
was under way when the server died has happened as a whole or not at all; all else is as it was answered.
`Site` is the server with its accounts; as a subject of `blockreplay.py` it turns the model into facts that
hold from one time to another.
"""

import contextlib
import glob
import itertools
import os
import random
import re
import shutil
import socket
import threading
import time

from subjects import Server, free_port

SECRET, DOMAIN = "correct-horse", "here.test"
BOXES = ("INBOX", "Archive", "Work")
# What a person lets a mailbox hold before more is deleted than read.
PLENTY = 120
FLAGS = ("\\Seen", "\\Flagged", "\\Answered", "\\Deleted", "$Crash")

CONFIG = """[server]
hostname = "crash.example"
data_dir = "{data}"
user = ""
stop_grace = "5s"
[cores]
mta = 1
access = 2
shards = 2
[storage]
segment_size = "1MiB"
journal_limit = "{journal}MiB"
journal_window = "{window}MiB"
free_min = "{free}MiB"
[domains]
local = ["here.test"]
postmaster = "a0@here.test"
[auth]
users = "{folder}/users"
allow_plaintext = true
[limits]
sessions_per_address = 0
sessions_per_network = 0
sessions_per_user = 0
connections_per_minute = 0
connections_per_minute_per_network = 0
messages_per_session = 0
[timeouts]
greeting_delay = "0s"
[memory]
spill = "64KiB"
[metrics]
address = "127.0.0.1:{metrics}"
[admin]
socket = "{folder}/admin.sock"
"""


class Gone(Exception):
    """The server has closed the connection, or is not there."""


class Wrong(Exception):
    """Something is not as it must be."""


def content(number):
    """The bytes of a message: most are small, one in sixty goes into a side file."""
    rng = random.Random(number)
    size = 120_000 if number % 60 == 7 else rng.randint(100, 5000)
    lines = [f"Message-ID: <{number}@crash.example>", "From: sender@crash.example", f"Subject: {number}", ""]
    while size > 0:
        lines.append(("." if rng.random() < 0.1 else "") + f"{rng.getrandbits(240):x}")
        size -= len(lines[-1]) + 2
    return "\r\n".join(lines).encode() + b"\r\n"


class Line:
    """A connection that speaks lines."""

    def __init__(self, port):
        try:
            self.sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        except OSError as e:
            raise Gone(str(e)) from e
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        try:
            self.sock.sendall(data)
        except TimeoutError as e:
            raise Wrong("the server does not read") from e
        except OSError as e:
            raise Gone(str(e)) from e

    def more(self):
        try:
            data = self.sock.recv(1 << 18)
        except TimeoutError as e:
            raise Wrong("the server does not answer for 30 s") from e
        except OSError as e:
            raise Gone(str(e)) from e
        if not data:
            raise Gone("closed")
        self.buffer += data

    def line(self):
        while b"\n" not in self.buffer:
            self.more()
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line + b"\n"

    def exactly(self, count):
        while len(self.buffer) < count:
            self.more()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data


def stuffed(data):
    """As DATA wants it."""
    return re.sub(rb"(?m)^\.", b"..", data) + b".\r\n"


class Post(Line):
    """Delivers by SMTP or LMTP."""

    def __init__(self, port, lmtp):
        super().__init__(port)
        self.lmtp = lmtp
        self.reply(b"220")
        self.send(b"LHLO sender.test\r\n" if lmtp else b"EHLO sender.test\r\n")
        self.reply(b"250")

    def reply(self, good=None):
        line = self.line()
        while line[3:4] == b"-":
            line = self.line()
        if line.startswith(b"421"):
            raise Gone("421")
        if good and not line.startswith(good):
            raise Wrong(f"delivery: {line[:200]!r}")
        return line

    def deliver(self, accounts, data):
        """Gives the accounts for which it was acknowledged."""
        self.send(b"MAIL FROM:<sender@crash.example>\r\n")
        if not self.reply().startswith(b"250"):
            return []
        willing = []
        for name in accounts:
            self.send(f"RCPT TO:<{name}@{DOMAIN}>\r\n".encode())
            if self.reply().startswith(b"250"):
                willing.append(name)
        if willing:
            self.send(b"DATA\r\n")
        if not willing or not self.reply().startswith(b"354"):
            self.send(b"RSET\r\n")
            self.reply(b"250")
            return []
        self.send(stuffed(data))
        if self.lmtp:
            return [name for name in willing if self.reply().startswith(b"250")]
        return willing if self.reply().startswith(b"250") else []


class Pop3(Line):
    """A session of POP3."""

    def __init__(self, port, user):
        super().__init__(port)
        self.ok()
        for command in (f"USER {user}", f"PASS {SECRET}"):
            self.ask(command)

    def ok(self):
        line = self.line()
        if not line.startswith(b"+OK"):
            raise Wrong(f"POP3: {line[:200]!r}")
        return line

    def ask(self, command):
        self.send(command.encode() + b"\r\n")
        return self.ok()

    def many(self, command):
        self.ask(command)
        lines = []
        while (line := self.line()) != b".\r\n":
            lines.append(line[1:] if line.startswith(b".") else line)
        return lines

    def uidls(self):
        """{number: UIDL}."""
        return {int(n): uidl for n, uidl in (line.split() for line in self.many("UIDL"))}


class Refused(Exception):
    """NO."""


class Imap(Line):
    """A session of IMAP that knows MODSEQ."""

    def __init__(self, port, user):
        super().__init__(port)
        self.line()
        self.tags = 0
        self.ask(f"LOGIN {user} {SECRET}")
        self.ask("ENABLE QRESYNC")

    def response(self):
        """One response, with its literals."""
        whole = self.line()
        while found := re.search(rb"\{(\d+)\}\r\n$", whole):
            whole += self.exactly(int(found[1])) + self.line()
        return whole

    def ask(self, *parts):
        """A command; parts after the first are literals and text in turns. Gives the untagged responses and
        the tagged one."""
        self.tags += 1
        tag = b"t%d " % self.tags
        text = tag
        for number, part in enumerate(parts):
            text += (b"{%d+}\r\n" % len(part) + part) if number % 2 else part.encode()
        self.send(text + b"\r\n")
        untagged = []
        while not (response := self.response()).startswith(tag):
            if response.startswith(b"* BYE"):
                raise Gone("BYE")
            untagged.append(response)
        if response.startswith(tag + b"NO"):
            raise Refused(response.decode("latin-1"))
        if not response.startswith(tag + b"OK"):
            raise Wrong(f"IMAP: {parts[0]}: {response[:200]!r}")
        return untagged, response

    def select(self, box, since=None):
        """Opens a mailbox; `since`: (UIDVALIDITY, MODSEQ). Gives (UIDVALIDITY, UIDNEXT, HIGHESTMODSEQ, vanished,
        fetched)."""
        how = f" (QRESYNC ({since[0]} {since[1]}))" if since else ""
        untagged, _ = self.ask(f"SELECT {box}{how}")
        text = b"".join(untagged)
        numbers = [int(re.search(word + rb" (\d+)", text)[1])
                   for word in (rb"UIDVALIDITY", rb"UIDNEXT", rb"HIGHESTMODSEQ")]
        return (*numbers, vanished(untagged), fetched(untagged))

    def messages(self, first=1):
        """{uid: Seen} from this UID on, with numbers of the contents."""
        what = "(UID FLAGS MODSEQ RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])"
        untagged, _ = self.ask(f"UID FETCH {first}:* {what}")
        return {uid: seen for uid, seen in fetched(untagged).items() if uid >= first and seen.number}

    def bytes_of(self, uid):
        """The whole message."""
        untagged, _ = self.ask(f"UID FETCH {uid} (BODY.PEEK[])")
        for response in untagged:
            if found := re.search(rb"BODY\[\] \{(\d+)\}\r\n", response):
                return response[found.end():found.end() + int(found[1])]
        raise Wrong(f"message {uid} has no content")


class Seen:
    """What IMAP says of a message."""

    def __init__(self, response):
        number = re.search(rb"<(\d+)@crash\.example>", response)
        self.number = int(number[1]) if number else None
        flags = re.search(rb"FLAGS \(([^)]*)\)", response)
        self.flags = frozenset(flags[1].decode().split()) - {"\\Recent"} if flags else None
        modseq = re.search(rb"MODSEQ \((\d+)\)", response)
        self.modseq = int(modseq[1]) if modseq else None
        size = re.search(rb"RFC822\.SIZE (\d+)", response)
        self.size = int(size[1]) if size else None


def fetched(untagged):
    """{uid: Seen} of FETCH responses."""
    out = {}
    for response in untagged:
        if re.match(rb"\* \d+ FETCH ", response) and (uid := re.search(rb"UID (\d+)", response)):
            out[int(uid[1])] = Seen(response)
    return out


def uids_of(text):
    """A set of UIDs."""
    out = set()
    for part in text.decode().split(","):
        first, _, last = part.partition(":")
        out |= set(range(int(first), int(last or first) + 1))
    return out


def vanished(untagged):
    """UIDs of VANISHED (EARLIER) responses."""
    out = set()
    for response in untagged:
        if found := re.match(rb"\* VANISHED \(EARLIER\) (\S+)", response):
            out |= uids_of(found[1])
    return out


class Box:
    """What is known of a mailbox."""

    def __init__(self):
        self.validity, self.next, self.modseq, self.top = None, 0, 0, 0
        self.mail = {}
        # (UIDVALIDITY, MODSEQ, {uid: flags}) of some earlier moment.
        self.mark = None


class Doing:
    """What is under way: `changes` {(box, uid): new flags, or None for gone}; `arrive` [(box, number)]."""

    def __init__(self, what, changes=None, arrive=()):
        self.what, self.changes, self.arrive = what, changes or {}, list(arrive)


class Facts:
    """What holds from when until when, in nanoseconds: for block replay. Threads write different keys."""

    def __init__(self):
        self.begun, self.ends, self.over, self.copies = {}, {}, {}, set()

    def holds(self, key):
        self.begun.setdefault(key, time.time_ns())

    def may_end(self, keys):
        for key in keys:
            self.ends.setdefault(key, time.time_ns())

    def ended(self, keys):
        for key in keys:
            self.over[key] = time.time_ns()

    def stays(self, keys):
        for key in keys:
            self.ends.pop(key, None)


class Account:
    """One account: the model, and the person who works on it."""

    def __init__(self, site, name, seed):
        self.site, self.name, self.rng = site, name, random.Random(seed)
        self.boxes = {box: Box() for box in BOXES}
        # Numbers that were sent here; acknowledged; ever seen in INBOX.
        self.tried, self.acked, self.known = set(), set(), set()
        self.uidls, self.doing, self.done = {}, None, {}
        # {(box, number): copies} that were acknowledged and have not been seen yet.
        self.arrived = {}

    # ---- facts ----

    def state(self, box, uid, seen):
        return ("state", self.name, box, uid, seen.number, seen.modseq, " ".join(sorted(seen.flags)))

    def touched(self, changes):
        """Keys of facts that end with these changes."""
        keys, going = [], {}
        for (box, uid), after in changes.items():
            seen = self.boxes[box].mail[uid]
            keys.append(self.state(box, uid, seen))
            if after is None:
                going.setdefault(seen.number, set()).add((box, uid))
        for number, places in going.items():
            there = {(b, u) for b in BOXES for u, s in self.boxes[b].mail.items() if s.number == number}
            coming = {n for _, n in self.doing.arrive} | {n for _, n in self.arrived}
            if there == places and number not in coming:
                keys.append(("mail", self.name, number))
        return keys

    # ---- doing ----

    def attempt(self, doing, act):
        """Does something that has happened as a whole or not at all if the server dies."""
        self.doing = doing
        facts = self.site.facts
        keys = self.touched(doing.changes) if facts else []
        if facts:
            facts.may_end(keys)
        try:
            result = act()
        except Refused:
            # A full disk, or a message that is not there: nothing was done.
            self.doing = None
            if facts:
                facts.stays(keys)
            return None
        if facts:
            facts.ended(keys)
        for (box, uid), after in doing.changes.items():
            if after is None:
                del self.boxes[box].mail[uid]
            else:
                self.boxes[box].mail[uid].flags = after
        for key in doing.arrive:
            self.arrived[key] = self.arrived.get(key, 0) + 1
        self.doing = None
        self.done[doing.what] = self.done.get(doing.what, 0) + 1
        return result

    def note(self, box, messages):
        """Messages that were seen."""
        b = self.boxes[box]
        for uid, seen in messages.items():
            if uid not in b.mail and (box, seen.number) in self.arrived:
                self.arrived[box, seen.number] -= 1
                if not self.arrived[box, seen.number]:
                    del self.arrived[box, seen.number]
            b.mail[uid] = seen
            b.top = max(b.top, uid)
            b.modseq = max(b.modseq, seen.modseq)
            if box == "INBOX":
                self.known.add(seen.number)
            if self.site.facts:
                self.site.facts.holds(("mail", self.name, seen.number))
                self.site.facts.holds(self.state(box, uid, seen))

    def work(self):
        """Works until the server is gone."""
        try:
            while True:
                if self.rng.random() < 0.25:
                    self.by_pop3()
                else:
                    self.by_imap()
        except Gone:
            pass
        except Exception as e:  # pylint: disable=broad-except
            self.site.wrong.append(f"{self.name}: {e!r}")

    def by_pop3(self):
        """One session: learns UIDLs, deletes some messages that are known."""
        with Pop3(self.site.ports["pop3"], self.name) as session:
            numbers = self.learn_uidls(session)
            of_number = {s.number: uid for uid, s in self.boxes["INBOX"].mail.items()}
            living = [(n, of_number[number]) for n, number in numbers.items() if number in of_number]
            chosen = self.rng.sample(living, min(len(living), self.rng.randint(0, 8)))
            for n, _ in chosen:
                session.ask(f"DELE {n}")
            changes = {("INBOX", uid): None for _, uid in chosen}
            self.attempt(Doing("DELE", changes), lambda: session.ask("QUIT"))

    def learn_uidls(self, session):
        """{number of POP3: number of the content}; UIDLs never change."""
        out, back = {}, {uidl: number for number, uidl in self.uidls.items()}
        for n, uidl in session.uidls().items():
            if uidl not in back:
                top = b"".join(session.many(f"TOP {n} 0"))
                number = int(re.search(rb"<(\d+)@crash\.example>", top)[1])
                if self.uidls.setdefault(number, uidl) != uidl:
                    raise Wrong(f"the UIDL of {number} was {self.uidls[number]} and is {uidl}")
                back[uidl] = number
            out[n] = back[uidl]
        return out

    def by_imap(self):
        """One session in one mailbox."""
        box = self.rng.choice(("INBOX", "INBOX", "Archive", "Work"))
        with Imap(self.site.ports["imap"], self.name) as session:
            b = self.boxes[box]
            if b.validity is None:
                for name in BOXES[1:]:
                    try:
                        session.ask(f"CREATE {name}")
                    except Refused:
                        pass  # It is there already.
            validity, after, modseq, _, _ = session.select(box)
            if (b.validity or validity) != validity or after < b.next or modseq < b.modseq:
                raise Wrong(f"{box}: {b.validity} {b.next} {b.modseq} became {validity} {after} {modseq}")
            b.validity, b.next, b.modseq = validity, after, modseq
            self.note(box, session.messages(b.top + 1))
            if self.rng.random() < 0.3 or not b.mark:
                b.mark = (validity, modseq, {u: s.flags for u, s in b.mail.items() if s.modseq <= modseq})
            for _ in range(self.rng.randint(1, 6)):
                self.act(session, box)

    def act(self, session, box):
        """One operation."""
        mail = self.boxes[box].mail
        most = 20 if len(mail) > PLENTY else 5
        uids = self.rng.sample(sorted(mail), min(len(mail), self.rng.randint(1, most)))
        to = self.rng.choice([name for name in BOXES[1:] if name != box])
        kind = self.rng.choice(("STORE", "STORE", "COPY", "MOVE", "APPEND", "EXPUNGE", "EXPUNGE"))
        if len(mail) > PLENTY and self.rng.random() < 0.7:
            kind = "EXPUNGE"
        if kind == "APPEND":
            return self.append(session, self.rng.choice(BOXES))
        if not uids:
            return None
        if kind == "STORE":
            return self.flag(session, box, uids)
        text = ",".join(map(str, uids))
        if kind == "EXPUNGE":
            self.flag(session, box, uids, ("\\Deleted",))
            if any("\\Deleted" not in mail[uid].flags for uid in uids):
                return None  # Refused.
            changes = {(box, uid): None for uid in uids}
            return self.attempt(Doing("EXPUNGE", changes), lambda: session.ask(f"UID EXPUNGE {text}"))
        arrive = [(to, mail[uid].number) for uid in uids]
        changes = {(box, uid): None for uid in uids} if kind == "MOVE" else {}
        if kind == "COPY" and self.site.facts:
            self.site.facts.copies |= {(self.name, number) for _, number in arrive}
        return self.attempt(Doing(kind, changes, arrive), lambda: session.ask(f"UID {kind} {text} {to}"))

    def flag(self, session, box, uids, flags=None):
        """Changes flags, and learns the MODSEQs of that."""
        mail = self.boxes[box].mail
        flags = flags or self.rng.sample(FLAGS, self.rng.randint(1, 3))
        on = "\\Deleted" in flags or self.rng.random() < 0.6
        new = {uid: mail[uid].flags | set(flags) if on else mail[uid].flags - set(flags) for uid in uids}
        changes = {(box, uid): after for uid, after in new.items() if after != mail[uid].flags}
        if not changes:
            return
        command = f"UID STORE {','.join(map(str, uids))} {'+' if on else '-'}FLAGS ({' '.join(flags)})"
        before = self.boxes[box].modseq
        answer = self.attempt(Doing("STORE", changes), lambda: session.ask(command))
        if not answer:
            return
        said = fetched(answer[0])
        for _, uid in changes:
            seen = said.get(uid)
            if not seen or not seen.modseq or seen.modseq <= before:
                raise Wrong(f"{box}: STORE of {uid}: {answer} after MODSEQ {before}")
            mail[uid].modseq = seen.modseq
            self.note(box, {uid: mail[uid]})

    def append(self, session, box):
        """One message or two."""
        numbers = [self.site.number() for _ in range(self.rng.randint(1, 2))]
        numbers = [n if n % 60 != 7 else self.site.number() for n in numbers]
        parts = [f"APPEND {box} "]
        for number in numbers:
            parts += [content(number), " "]
        self.attempt(Doing("APPEND", {}, [(box, n) for n in numbers]), lambda: session.ask(*parts[:-1]))

    # ---- what is there ----

    def look(self):
        """Reads everything: {box: (UIDVALIDITY, UIDNEXT, HIGHESTMODSEQ, {uid: Seen})}; checks QRESYNC on the way."""
        out = {}
        for box, b in self.boxes.items():
            with Imap(self.site.ports["imap"], self.name) as session:
                mark = b.mark
                try:
                    validity, after, modseq, gone, changed = session.select(box, mark and mark[:2])
                except Refused:
                    if b.validity:
                        raise Wrong(f"{self.name}: {box} is lost") from None
                    continue
                mail = session.messages()
                out[box] = (validity, after, modseq, mail)
                if mark and mark[0] == validity:
                    self.check_sync(box, mark, (after, gone, changed), mail)
        return out

    def check_sync(self, box, mark, said, mail):
        """What QRESYNC says of the time since a mark is the difference."""
        after, gone, changed = said
        if gone & mail.keys():
            raise Wrong(f"{self.name} {box}: QRESYNC says that {gone & mail.keys()} have vanished: they are there")
        if lost := mark[2].keys() - mail.keys() - gone:
            raise Wrong(f"{self.name} {box}: QRESYNC does not say that {lost} have vanished")
        newer = {uid for uid, seen in mail.items() if seen.modseq > mark[1] and uid < after}
        if newer != {uid for uid in changed if uid < after}:
            raise Wrong(f"{self.name} {box}: QRESYNC tells of {sorted(changed)}, newer than {mark[1]} are {sorted(newer)}")
        for uid, flags in mark[2].items():
            if uid in mail and uid not in newer and mail[uid].flags != flags:
                raise Wrong(f"{self.name} {box}: flags of {uid} were {flags}, are {mail[uid].flags}: not told")

    def check(self, patience=20):
        """After a restart: all is as it was answered. Then that is what is known. Mail that was taken for
        several shards may still be in the queue for a moment."""
        end = time.time() + patience
        while True:
            there = self.look()
            arrived = {s.number for s in there.get("INBOX", (0, 0, 0, {}))[3].values()}
            missing = self.acked - self.known - arrived
            if not missing or time.time() > end:
                break
            time.sleep(0.1)
        wrong = [f"{len(missing)} acknowledged are lost, such as {min(missing)}"] if missing else []
        doing, outcomes, late = self.doing or Doing("nothing"), set(), {}
        for box, (validity, after, modseq, mail) in there.items():
            b = self.boxes[box]
            if b.validity not in (None, validity):
                wrong.append(f"{box}: UIDVALIDITY was {b.validity}, is {validity}")
            if after < b.next or after <= b.top or modseq < b.modseq:
                wrong.append(f"{box}: UIDNEXT, MODSEQ were {b.next}, {b.modseq}, are {after}, {modseq}")
            wrong += self.check_old(box, b, mail, doing, outcomes)
            for uid, seen in mail.items():
                if uid in b.mail:
                    continue
                late.setdefault((box, seen.number), []).append(uid)
                if uid <= b.top:
                    wrong.append(f"{box}: {uid} is new or back, although {b.top} was given already")
        wrong += self.check_new(late, doing, outcomes)
        if len(outcomes) > 1:
            wrong.append(f"half of {doing.what} has happened: {doing.changes} {doing.arrive}")
        wrong += self.check_pop3(there)
        self.take_over(there)
        return [f"{self.name}: {w}" for w in wrong]

    def take_over(self, there):
        """What is there is what is known from now on."""
        for box, (validity, after, modseq, mail) in there.items():
            b = self.boxes[box]
            b.validity, b.next, b.modseq, b.mail = validity, after, modseq, {}
            self.note(box, mail)
        self.doing = None

    def begin_anew(self):
        """Forgets what has been, and learns what is there."""
        self.boxes = {box: Box() for box in BOXES}
        self.acked, self.known, self.uidls, self.arrived = set(), set(), {}, {}
        self.take_over(self.look())

    def check_old(self, box, b, mail, doing, outcomes):
        """Messages that were known."""
        wrong = []
        for uid, old in b.mail.items():
            new = mail.get(uid)
            if (box, uid) in doing.changes:
                after = doing.changes[box, uid]
                done = new is None if after is None else new and new.flags == after
                outcomes.add(bool(done))
                if done or (new and new.flags == old.flags):
                    continue
            if not new:
                wrong.append(f"{box}: {uid} is lost")
            elif (new.number, new.flags) != (old.number, old.flags):
                wrong.append(f"{box}: {uid} was {old.number} {old.flags}, is {new.number} {new.flags}")
            elif new.modseq != old.modseq:
                wrong.append(f"{box}: MODSEQ of {uid} was {old.modseq}, is {new.modseq}")
        return wrong

    def check_new(self, late, doing, outcomes):
        """Messages that were not known: they were sent here, or were under way."""
        wrong, expected = [], {}
        for key in doing.arrive:
            expected[key] = expected.get(key, 0) + 1
        for key, count in expected.items():
            had = len(late.get(key, ())) - self.arrived.get(key, 0)
            if had not in (0, count):
                wrong.append(f"{had} of {count} copies of {key} have arrived")
            outcomes.add(had == count)
        for key, uids in late.items():
            box, number = key
            allowed = expected.get(key, 0) + self.arrived.get(key, 0)
            allowed += box == "INBOX" and number in self.tried and number not in self.known
            if len(uids) > allowed:
                wrong.append(f"{box}: {number} is there {len(uids)} times more, as {uids}")
        missing = {k: n for k, n in self.arrived.items() if len(late.get(k, ())) < n}
        wrong += [f"{len(missing)} that were copied or appended are lost: {sorted(missing)[:3]}"] if missing else []
        self.arrived = {}
        return wrong

    def check_pop3(self, there):
        """POP3 shows the same, of the same size, under the same UIDLs."""
        if "INBOX" not in there:
            return []
        with Pop3(self.site.ports["pop3"], self.name) as session:
            try:
                numbers = self.learn_uidls(session)
            except Wrong as e:
                return [str(e)]
            sizes = {numbers[int(n)]: int(size) for n, size in (l.split() for l in session.many("LIST"))}
            shown = {s.number: s.size for s in there["INBOX"][3].values()}
            session.ask("QUIT")
        if sizes == shown:
            return []
        return [f"POP3 shows {sorted(sizes.items() - shown.items())[:3]}, IMAP {sorted(shown.items() - sizes.items())[:3]}"]

    def check_contents(self, most=1 << 30):
        """Contents are what was sent."""
        wrong = []
        for box, b in self.boxes.items():
            if b.validity is None:
                continue
            with Imap(self.site.ports["imap"], self.name) as session:
                session.select(box)
                for uid in self.rng.sample(sorted(b.mail), min(len(b.mail), most)):
                    try:
                        if not session.bytes_of(uid).endswith(content(b.mail[uid].number)):
                            wrong.append(f"{self.name} {box}: {uid} is not what was sent")
                    except (Refused, Wrong) as e:
                        wrong.append(f"{self.name} {box}: {uid} ({b.mail[uid].number}) cannot be read: {e}")
        return wrong


class Site(Server):
    """The server with its accounts and those who write to them; a subject of `blockreplay.py`."""

    archives, lifetime = False, None
    POSTMEN = 3

    def __init__(self, folder, accounts=6, facts=False, pace=0.0, seed=1, **sizes):
        super().__init__(folder, **sizes)
        self.ports |= {name: free_port() for name in ("lmtp", "pop3", "imap")}
        self.pace, self.wrong, self.numbers = pace, [], itertools.count(1)
        self.facts, self.rng, self.data = Facts() if facts else None, random.Random(seed), None
        self.accounts = {f"a{n}": Account(self, f"a{n}", seed + n) for n in range(accounts)}
        with open(os.path.join(folder, "users"), "w") as f:
            f.writelines(f"{name}:{{PLAIN}}{SECRET}\n" for name in self.accounts)
        self.over = None

    def number(self):
        """The number of the next content."""
        return next(self.numbers)

    def spawn(self, mount, silent=False):
        """Starts the process on `mount`, and does not wait for it."""
        self.data = os.path.join(mount, "data")
        text = CONFIG.format(data=self.data, folder=self.folder, metrics=self.ports["metrics"], **self.sizes)
        for name in ("smtp", "lmtp", "pop3", "imap"):
            text += f'[[listener]]\nprotocol = "{name}"\naddress = ["127.0.0.1:{self.ports[name]}"]\n'
        with open(self.config, "w") as f:
            f.write(text)
        self.launch()

    def start(self, mount, seconds=30, silent=False):
        """Starts the server and waits until all its ports answer."""
        super().start(mount, seconds, silent)
        end = time.time() + seconds
        while not all(self.listens(port) for port in ("lmtp", "pop3", "imap")):
            if time.time() > end:
                raise RuntimeError(f"mailboxes are not served: {self.last_words()}")
            time.sleep(0.01)

    def archive_bytes(self):
        """Bytes of the archives of all shards."""
        return sum(os.path.getsize(path) for path in glob.glob(f"{self.data}/mailbox/0*/archive/*"))

    def post(self, lmtp):
        """Delivers until the server is gone."""
        rng, names = random.Random(self.rng.random()), sorted(self.accounts)
        try:
            with Post(self.ports["lmtp" if lmtp else "smtp"], lmtp) as session:
                while True:
                    number, to = self.number(), rng.sample(names, rng.choice((1, 1, 1, 2, 3)))
                    for name in to:
                        self.accounts[name].tried.add(number)
                    for name in session.deliver(to, content(number)):
                        self.accounts[name].acked.add(number)
                        if self.facts and lmtp:
                            # What SMTP takes for several shards is in the queue first.
                            self.facts.holds(("mail", name, number))
                    time.sleep(self.pace * rng.random() * 2)
        except Gone:
            pass
        except Exception as e:  # pylint: disable=broad-except
            self.wrong.append(f"delivery: {e!r}")

    @contextlib.contextmanager
    def busy(self):
        """Everybody is at work; at the end the server must be gone, and they are done."""
        works = [account.work for account in self.accounts.values()]
        works += [lambda n=n: self.post(n % 2 == 0) for n in range(self.POSTMEN)]
        threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.kill()
            for thread in threads:
                thread.join(60)
            if any(thread.is_alive() for thread in threads):
                self.wrong.append("somebody still waits for a server that is gone")

    def check(self):
        """Everything is as it was answered; gives what is not."""
        wrong = []
        for account in self.accounts.values():
            try:
                wrong += account.check()
            except (Wrong, Gone, Refused) as e:
                wrong.append(f"{account.name}: {e!r}")
        return wrong

    def counts(self):
        """{operation: how often it was acknowledged}."""
        out = {}
        for account in self.accounts.values():
            for what, count in account.done.items():
                out[what] = out.get(what, 0) + count
        return out

    def keep(self, folder):
        """A copy of the shards of a server that does not run."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(os.path.join(self.data, "mailbox"), folder)

    def put_back(self, folder):
        """The shards are as they were when they were copied."""
        shutil.rmtree(os.path.join(self.data, "mailbox"))
        shutil.copytree(folder, os.path.join(self.data, "mailbox"))

    # ---- as a subject of block replay ----

    def run(self, mount, seconds):
        """Everybody is at work for so long; then the server is killed."""
        self.start(mount)
        with self.busy():
            time.sleep(seconds)
        if self.wrong:
            raise SystemExit(f"FAIL blockreplay: {self.wrong[:3]}")
        if self.archive_bytes() < 1 << 20:
            raise SystemExit("FAIL blockreplay: the archive was hardly used")
        self.acked, self.gone, self.over = self.facts.begun, self.facts.ends, self.facts.over
        print(f"acknowledged: {self.counts()}", flush=True)

    def recover(self, mount):
        """Starts on what a crash left; gives the facts that hold."""
        try:
            self.start(mount)
            found = set()
            for account in self.accounts.values():
                # What a mark is compared with may be younger than the point.
                for b in account.boxes.values():
                    b.mark = b.validity = None
                places = {}
                for box, (_, after, modseq, mail) in account.look().items():
                    for uid, seen in mail.items():
                        found |= {("mail", account.name, seen.number), account.state(box, uid, seen)}
                        places.setdefault(seen.number, []).append((box, uid))
                        if uid >= after or seen.modseq > modseq:
                            raise RuntimeError(f"{account.name} {box}: {uid} {seen.modseq} beyond {after} {modseq}")
                for number, where in places.items():
                    if len(where) > 1 and (account.name, number) not in self.facts.copies:
                        raise RuntimeError(f"{account.name}: {number} is there twice, as {where}")
            return found, 0
        except (Wrong, Gone, Refused) as e:
            raise RuntimeError(repr(e)) from e
        finally:
            self.kill()

    def deliver(self, mount, expected):
        """Reads every message; gives facts that do not hold after one more restart."""
        found, _ = self.recover(mount)
        try:
            self.start(mount)
            for account in self.accounts.values():
                for box, (validity, after, modseq, mail) in account.look().items():
                    b = account.boxes[box]
                    b.validity, b.next, b.modseq, b.mail = validity, after, modseq, mail
                if wrong := account.check_contents():
                    raise RuntimeError(wrong[0])
        except (Wrong, Gone, Refused) as e:
            raise RuntimeError(repr(e)) from e
        finally:
            self.kill()
        return expected - found
