"""Sessions that do nothing: what each costs in memory, and how soon all of them know of a new message.

Memory is PSS of all processes of the server (shared pages divided among those who share them) with all
sessions, less that with half of them. Kernel memory of sockets is in neither figure.
"""
import select
import time

import deliver
import wire


def sessions(server, protocol, users):
    """A session for each of them, logged in; of IMAP in IDLE with INBOX selected."""
    found = []
    try:
        for user in users:
            client = wire.Single(server.port[protocol], secure=protocol.endswith("s"))
            found.append(client)
            if protocol.startswith("imap"):
                client.imap(user, server.password)
                client.command("SELECT INBOX")
                client.send(b"i IDLE\r\n")
                client.line(b"+")
            else:
                client.pop3(user, server.password)
    except BaseException:
        for client in found:
            client.close()
        raise
    return found


def still(server, most):
    """Memory when it no longer changes by more than a hundredth in a second."""
    end, before = time.monotonic() + most, server.group.pss()
    while time.monotonic() < end:
        time.sleep(1)
        now = server.group.pss()
        if abs(now[0] - before[0]) * 100 < before[0]:
            return now
        before = now
    return before


WHAT = {"pop3": "POP3", "imap": "IMAP in IDLE", "pop3s": "POP3 with TLS", "imaps": "IMAP in IDLE with TLS"}
# Dovecot hibernates after 2 s. Processes that are used again would stay when their sessions hibernate.
OPTIONS = {"hibernate": "2s", "reuse": 1}


def memory(args, servers):
    """Each kind of session against new processes. Each session has a mailbox of its own with a message in it."""
    for server in servers:
        server.start(**OPTIONS)
        deliver.once_each(server, args.idlers)
        for protocol, what in WHAT.items():
            server.start(keep=True, **OPTIONS)
            yield server, f"{args.sessions} idle sessions, {what}", one_kind(server, protocol, args.idlers)
        server.stop()


def one_kind(server, protocol, users):
    """What the second half of the sessions adds: the first half uses up what the start has left free."""
    half = len(users) // 2
    clients = sessions(server, protocol, users[:half])
    try:
        before, _ = hushed(server)
        began = time.monotonic()
        clients += sessions(server, protocol, users[half:])
        took = time.monotonic() - began
        after, processes = hushed(server)
        cpu = server.group.cpu()
        time.sleep(3)
        cpu = server.group.cpu() - cpu
    finally:
        for client in clients:
            client.close()
    server.alive()
    return {"kib_per_session": (after - before) / (len(users) - half) / 1024, "pss_half_mib": before / 2**20,
            "pss_mib": after / 2**20, "processes": processes, "half_opened_in_s": took,
            "idle_cpu_ms_per_s": cpu / 3 * 1e3}


def hushed(server):
    time.sleep(4)
    server.group.settle(5)
    return still(server, 20)


def watching(server, clients, postman, user, most):
    """One delivery: seconds from its 250 until all sessions know of it, and how many do."""
    epoll = select.epoll()
    waiting = {client.sock.fileno(): client for client in clients}
    for fd in waiting:
        epoll.register(fd, select.EPOLLIN)
    letters = postman.sock.fileno()
    epoll.register(letters, select.EPOLLIN)
    postman.begin(user)
    taken = last = None
    postman.end()
    sent = time.monotonic()
    while (waiting or taken is None) and time.monotonic() - sent < most:
        for fd, _ in epoll.poll(0.5):
            if fd == letters:
                postman.expect(b"250")
                taken = time.monotonic()
                epoll.unregister(fd)
            elif b" EXISTS" in waiting[fd].piece():
                last = time.monotonic()
                epoll.unregister(fd)
                del waiting[fd]
    epoll.close()
    if taken is None:
        raise SystemExit(f"{server.name}: no answer to a delivery within {most} s")
    return (last or taken) - taken, len(clients) - len(waiting)


def notified(args, servers):
    """All of one mailbox, and one delivery after the other."""
    count, user, rounds = args.watchers, args.watched, 5
    for server in servers:
        args.ready(server)
        deliver.once_each(server, [user])
        clients = sessions(server, "imap", [user] * count)
        try:
            postman = deliver.Postman(server)
            watching(server, clients, postman, user, 40)          # warm
            time.sleep(1)
            with server.measured() as m:
                results = [watching(server, clients, postman, user, 40) for _ in range(rounds)]
            postman.sock.close()
        finally:
            for client in clients:
                client.close()
        server.alive()
        times = sorted(took for took, _ in results)
        row = m.row(rounds) | {"last_knows_ms": times[rounds // 2] * 1e3, "last_knows_most_ms": times[-1] * 1e3}
        missing = sum(count - knew for _, knew in results)
        yield server, f"{count} IDLE sessions of one mailbox told of a delivery", row | {"errors": missing}
