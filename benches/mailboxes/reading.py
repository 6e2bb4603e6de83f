"""Logins, POP3 downloads, and what IMAP clients do, one command after the other.

Commands are repeated for a while; "first" rows are the first time that the server is asked for it in this
mailbox (Dovecot computes what its cache lacks, and keeps it), the others are what comes after.
"""
import itertools
import time

import deliver
import mail
import wire


# ---- logins: a connection each ----

def pop3_login(user, password):
    def script(line):
        yield from wire.upto(b"+OK")
        for command in (f"USER {user}\r\n", f"PASS {password}\r\n", "QUIT\r\n"):
            line.send(command.encode())
            yield from wire.upto(b"\r\n", (b"-ERR",))
    return script


def imap_login(user, password, select):
    def script(line):
        yield from wire.upto(b"* OK")
        line.send(f"a LOGIN {user} {password}\r\n".encode())
        yield from wire.upto(b"a OK", (b"a NO", b"a BAD"))
        if select:
            line.send(b"b SELECT INBOX\r\n")
            yield from wire.upto(b"b OK", (b"b NO", b"b BAD"))
        line.send(b"c LOGOUT\r\n")
        yield from wire.upto(b"c OK")
    return script


def logins(args, servers, protocol, what, script):
    for server in servers:
        deliver.once_each(server, args.users)
    for sessions in args.parallel:
        for server in servers:
            for seconds in (1, args.seconds):         # the first is to warm up
                users, count = itertools.cycle(args.users), itertools.count()
                with server.measured() as m:
                    end = time.monotonic() + seconds

                    def again():
                        if time.monotonic() > end:
                            return None
                        next(count)
                        return script(next(users), server.password)
                    engine = wire.Engine(server.port[protocol], again)
                    engine.run(sessions, seconds + 60)
                server.alive()
            row = m.row(next(count) - engine.errors) | {"errors": engine.errors}
            yield server, f"{what}, {sessions} at a time", row | ({"said": engine.said} if engine.said else {})


def repeated(server, seconds, most, once):
    """Calls until the time is over, `most` times at most."""
    with server.measured() as m:
        count, end, extra = 0, time.monotonic() + seconds, 0
        while count == 0 or (time.monotonic() < end and count < most):
            extra += once() or 0
            count += 1
    server.alive()
    return m, count, extra


def pop3(args, servers):
    yield from logins(args, servers, "pop3", "POP3 login (USER, PASS, QUIT)", pop3_login)
    for server in servers:
        args.filled(server, "ten")
    for window in (1, 20):
        for server in servers:
            clients = (wire.Single(server.port["pop3"]).pop3(args.ten, server.password) for _ in itertools.count())

            def once():
                client = next(clients)
                total = client.retrieve(args.messages, window)
                client.send(b"QUIT\r\n")
                client.line(b"+OK")
                client.close()
                return total
            once()
            m, count, total = repeated(server, args.seconds, 50, once)
            row = m.row(count * args.messages) | {"mb_per_second": total / m.wall / 1e6}
            yield server, f"POP3 login and RETR of {args.messages} messages of {args.size} bytes, window {window}", row


def imap(args, servers):
    yield from logins(args, servers, "imap", "IMAP login (LOGIN, LOGOUT)", lambda u, p: imap_login(u, p, False))
    yield from logins(args, servers, "imap", "IMAP login with SELECT", lambda u, p: imap_login(u, p, True))
    for server in servers:
        args.filled(server, "big")
        args.filled(server, "ten")
    big, ten = f"of {args.existing}", f"of {args.messages}"
    commands = [
        (args.big, f"SELECT {big}", "SELECT INBOX", 0),
        (args.big, f"UID FETCH 1:* (FLAGS) {big}", "UID FETCH 1:* (FLAGS)", args.existing),
        (args.ten, f"ENVELOPE {ten}", "UID FETCH 1:* (ENVELOPE)", args.messages),
        (args.ten, f"whole messages, {ten}", "UID FETCH 1:* (BODY.PEEK[])", args.messages),
        (args.ten, f"SEARCH by header {ten}", "UID SEARCH SUBJECT \"message 777\"", 0),
        (args.ten, f"SEARCH by body {ten}", "UID SEARCH BODY \"zzzqqq\"", 0),
    ]
    for user, what, command, messages in commands:
        for server in servers:
            yield from one_command(args, server, user, what, command, messages)
    yield from changes(args, servers)


def one_command(args, server, user, what, command, messages):
    """The first time, and what comes after, in one session."""
    client = wire.Single(server.port["imap"]).imap(user, server.password)
    try:
        if not command.startswith("SELECT"):
            client.command("SELECT INBOX")

        def once():
            if not messages:
                return client.command(command)
            found = client.command(command, counting=b" FETCH (")
            if found < messages:
                raise SystemExit(f"{server.name}: {command} gives {found} of {messages}")
            return None
        m, _, _ = repeated(server, 0, 1, once)
        yield server, f"IMAP {what}, first", m.row(1)
        m, count, _ = repeated(server, args.seconds, 2000, once)
        yield server, f"IMAP {what}", m.row(count)
    finally:
        client.close()


# ---- changes: sessions side by side, each waits for its answer ----

def changing(server, users, seconds, command):
    """A session for each user; `command(session's number, turn)` gives what to send."""
    done, latency = itertools.count(), []
    end = [0.0]

    def session(number, user):
        def script(line):
            yield from wire.upto(b"* OK")
            line.send(f"a LOGIN {user} {server.password}\r\n".encode())
            yield from wire.upto(b"a OK", (b"a NO", b"a BAD"))
            line.send(b"b SELECT INBOX\r\n")
            yield from wire.upto(b"b OK", (b"b NO", b"b BAD"))
            turn = 0
            while time.monotonic() < end[0]:
                began = time.perf_counter()
                line.send(command(number, turn))
                yield from wire.upto(b"c OK", (b"c NO", b"c BAD"))
                latency.append(time.perf_counter() - began)
                next(done)
                turn += 1
        return script
    scripts = iter([session(n, user) for n, user in enumerate(users)])
    with server.measured() as m:
        end[0] = time.monotonic() + seconds
        engine = wire.Engine(server.port["imap"], lambda: next(scripts, None))
        engine.run(len(users), seconds + 60)
    server.alive()
    row = m.row(next(done)) | deliver.quantiles(latency) | {"errors": engine.errors}
    return row | ({"said": engine.said} if engine.said else {})


def changes(args, servers):
    maker = mail.Maker(args.size)

    def append(_number, _turn):
        message = maker.message(next(deliver.NUMBERS))
        return b"c APPEND INBOX (\\Seen) {%d+}\r\n%s\r\n" % (len(message), message)

    def store(_number, turn):
        return b"c UID STORE %d %sFLAGS.SILENT (\\Flagged)\r\n" % (turn % 100 + 1, b"-" if turn // 100 % 2 else b"+")
    for what, command in (("APPEND", append), ("UID STORE of one message", store)):
        for sessions in (1, 8):
            users = args.writers[:sessions]
            for server in servers:
                if what != "APPEND":
                    for user in users:
                        deliver.fill(server, user, 100, 1024, 60)
                yield server, f"IMAP {what}, {sessions} sessions", changing(server, users, args.seconds, command)
