"""Deliveries by LMTP: into many mailboxes, and into one that holds much already.

A session sends the end of one message and the envelope of the next in one write (PIPELINING); latency runs
from there to the first bytes of the answer, which is the 250 of the message.
"""
import itertools
import socket
import time

import mail
import wire

# Bodies are numbered on through the whole run: no two messages are equal.
NUMBERS = itertools.count(1)


class Load:
    """What all sessions of a run share. Sessions end at the time, between two messages."""

    def __init__(self, users, maker, seconds, messages=None):
        self.users, self.maker = itertools.cycle(users), maker
        self.end, self.left, self.latency = time.monotonic() + seconds, messages, []

    def more(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                return False
        return time.monotonic() < self.end

    def envelope(self):
        return b"MAIL FROM:<sender@load.test>\r\nRCPT TO:<%s@bench.test>\r\nDATA\r\n" % next(self.users).encode()

    def session(self, line):
        """One session; ends without QUIT, in an envelope: nothing of it is delivered."""
        yield from wire.replied(b"220")
        line.send(b"LHLO load.test\r\n")
        yield from wire.replied(b"250")
        line.send(self.envelope())
        yield from wire.upto(b"354", (b"\r\n4", b"\r\n5"))
        clock, message, latency = time.perf_counter, self.maker.message, self.latency
        while self.more():
            began = clock()
            line.send(message(next(NUMBERS)) + b".\r\n" + self.envelope())
            buf = yield
            took = clock() - began
            while buf.count(b"\n") < 4:
                buf += yield
            # The message's own answer, MAIL's, RCPT's; then DATA's.
            if not buf.startswith(b"250") or b"\n354" not in buf:
                raise wire.Wrong(buf[:300].decode("latin-1"))
            latency.append(took)


def deliver(server, load, sessions, most):
    """Runs the load; gives the engine, which knows of errors."""
    begun = iter([load.session] * sessions)
    engine = wire.Engine(server.port["lmtp"], lambda: next(begun, None))
    try:
        engine.run(sessions, most)
    except (wire.Wrong, OSError) as e:
        engine.errors, engine.said = engine.errors + 1, engine.said or str(e)
    server.alive()
    return engine


def once_each(server, users):
    """One message for each user: the mailboxes are there then. Not measured."""
    engine = deliver(server, Load(users, mail.Maker(1024), 300, len(users)), min(10, len(users)), 330)
    if engine.errors:
        raise SystemExit(f"{server.name}: no mail into fresh mailboxes: {engine.said}")


def quantiles(latency):
    latency = sorted(latency) or [0]
    return {"p50_ms": latency[len(latency) // 2] * 1e3, "p99_ms": latency[len(latency) * 99 // 100] * 1e3}


def measure(server, users, maker, sessions, seconds):
    with server.measured() as m:
        load = Load(users, maker, seconds)
        engine = deliver(server, load, sessions, seconds + 60)
    row = m.row(len(load.latency)) | quantiles(load.latency) | {"errors": engine.errors}
    return row | ({"said": engine.said} if engine.said else {})


def many(args, servers):
    """Into many accounts."""
    maker = mail.Maker(args.size)
    for server in servers:
        once_each(server, args.users)
    for sessions in args.connections:
        for server in servers:
            yield server, f"LMTP into {len(args.users)} accounts, {sessions} connections", \
                measure(server, args.users, maker, sessions, args.seconds)


def fill(server, user, count, size, most):
    """So many messages into an INBOX, by APPEND of many at once. Not measured; gives messages a second."""
    maker, began = mail.Maker(size), time.monotonic()
    client = wire.Single(server.port["imap"], patience=120).imap(user, server.password)
    try:
        for first in range(0, count, server.batch):
            if time.monotonic() - began > most:
                raise SystemExit(f"{server.name}: only {first} of {count} messages in {most} s; less --existing?")
            parts = [maker.message(n) for n in range(first, min(count, first + server.batch))]
            client.command(b"APPEND INBOX" + b"".join(b" (\\Seen) {%d+}\r\n%s" % (len(p), p) for p in parts))
    finally:
        client.close()
    server.group.settle(20)
    return count / (time.monotonic() - began)


def existing(args, servers):
    """Into a mailbox with many messages and into an empty one, in turns."""
    maker = mail.Maker(args.size)
    for server in servers:
        args.filled(server, "big")
        once_each(server, [args.empty])
    for sessions in args.parallel:
        rows = {}
        for _ in range(args.turns):
            for server in servers:
                for kind, user in (("empty", args.empty), ("full", args.big)):
                    row = measure(server, [user], maker, sessions, args.seconds)
                    rows.setdefault((server, kind), []).append(row)
        for (server, kind), found in rows.items():
            what = f"{args.existing} messages" if kind == "full" else "few messages"
            yield server, f"LMTP into one mailbox with {what}, {sessions} connections", middle(found)


def middle(rows):
    """The run in the middle by CPU."""
    return sorted(rows, key=lambda row: row["cpu_us"])[len(rows) // 2] | {"runs": len(rows)}


class Postman:
    """Delivers one message when told; for those who watch."""

    def __init__(self, server):
        self.maker = mail.Maker(1024)
        self.sock = socket.create_connection(("127.0.0.1", server.port["lmtp"]), 30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.expect(b"220")
        self.ask(b"LHLO load.test\r\n", b"250")

    def ask(self, data, code):
        self.sock.sendall(data)
        return self.expect(code)

    def expect(self, code):
        buf = self.sock.recv(4096)
        while not (buf.endswith(b"\r\n") and buf[buf.rfind(b"\n", 0, -1) + 1:][3:4] == b" "):
            piece = self.sock.recv(4096)
            if not piece:
                raise wire.Wrong("LMTP: the server has closed")
            buf += piece
        if not buf.startswith(code):
            raise wire.Wrong(buf[:300].decode("latin-1"))
        return buf

    def begin(self, user):
        self.ask(b"MAIL FROM:<sender@load.test>\r\n", b"250")
        self.ask(b"RCPT TO:<%s@bench.test>\r\n" % user.encode(), b"250")
        self.ask(b"DATA\r\n", b"354")

    def end(self):
        """The message; its answer is the caller's to read."""
        self.sock.sendall(self.maker.message(next(NUMBERS)) + b".\r\n")
