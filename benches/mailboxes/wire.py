"""Generator: many sessions on one epoll, and single sessions that wait.

Knows the line protocols as far as the cases need them. A session on the epoll is a Python generator that is
given what has arrived; an answer that is not the expected one is an error of the run (`Wrong`), and so is
time that runs out: nothing waits for ever.
"""
import select
import socket
import ssl
import time

PIECE = 1 << 18


class Wrong(Exception):
    """The server said something else."""


class Wire:
    """One session on the epoll."""
    __slots__ = ("sock", "script", "engine", "out")

    def __init__(self, engine, sock, script):
        self.engine, self.sock, self.script, self.out = engine, sock, script(self), b""

    def send(self, data):
        if self.out:
            self.out += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self.out = data[sent:]
            self.engine.epoll.modify(self.sock, select.EPOLLIN | select.EPOLLOUT)

    def writable(self):
        data, self.out = self.out, b""
        self.engine.epoll.modify(self.sock, select.EPOLLIN)
        self.send(data)


class Engine:
    """Runs sessions until all have ended. `again()` gives the script of the next one, or None."""

    def __init__(self, port, again):
        self.port, self.again = port, again
        self.epoll, self.wires, self.errors, self.said = select.epoll(), {}, 0, None

    def open(self):
        script = self.again()
        if script is None:
            return
        sock = socket.create_connection(("127.0.0.1", self.port), 20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        wire = Wire(self, sock, script)
        self.wires[sock.fileno()] = wire
        self.epoll.register(sock, select.EPOLLIN)
        next(wire.script)

    def drop(self, fd):
        wire = self.wires.pop(fd)
        self.epoll.unregister(wire.sock)
        wire.sock.close()
        self.open()

    def step(self, fd, event):
        wire = self.wires[fd]
        if event & select.EPOLLOUT:
            wire.writable()
        if not event & ~select.EPOLLOUT:
            return
        try:
            data = wire.sock.recv(PIECE)
            if not data:
                raise Wrong("the server has closed")
            wire.script.send(data)
        except StopIteration:
            self.drop(fd)
        except BlockingIOError:
            pass
        except (Wrong, OSError) as e:
            self.errors += 1
            self.said = self.said or str(e)
            if self.errors > 50:
                raise
            self.drop(fd)

    def run(self, sessions, most):
        """With so many at once; `most` seconds are the bound."""
        end = time.monotonic() + most
        try:
            for _ in range(sessions):
                self.open()
            while self.wires:
                if time.monotonic() > end:
                    raise Wrong(f"{len(self.wires)} sessions have not ended in {most} s")
                for fd, event in self.epoll.poll(1):
                    self.step(fd, event)
        finally:
            for wire in self.wires.values():
                wire.sock.close()
            self.epoll.close()


# ---- sub-generators: what a script waits for ----

def upto(mark, wrong=()):
    """Reads until `mark` has come."""
    buf = yield
    while mark not in buf:
        for word in wrong:
            if word in buf:
                raise Wrong(buf[:300].decode("latin-1"))
        buf += yield
    return buf


def replied(code):
    """Reads one SMTP reply, of several lines maybe."""
    buf = yield
    while not (buf.endswith(b"\r\n") and buf[buf.rfind(b"\n", 0, -1) + 1:][3:4] == b" "):
        buf += yield
    if not buf.startswith(code):
        raise Wrong(buf[:300].decode("latin-1"))
    return buf


class Single:
    """One session that waits for each answer; TLS if asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def __init__(self, port, secure=False, patience=60):
        self.sock = socket.create_connection(("127.0.0.1", port), patience)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if secure:
            self.sock = self.context.wrap_socket(self.sock)
        self.tags = 0

    def close(self):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def piece(self):
        data = self.sock.recv(PIECE)
        if not data:
            raise Wrong("the server has closed")
        return data

    def line(self, good):
        """One answer of one line or of several, all of it here; it must begin so."""
        buf = self.piece()
        while not buf.endswith(b"\r\n"):
            buf += self.piece()
        if not buf.startswith(good):
            raise Wrong(buf[:300].decode("latin-1"))
        return buf

    # ---- POP3 ----

    def pop3(self, user, password):
        self.line(b"+OK")
        for command in (f"USER {user}", f"PASS {password}"):
            self.send(command.encode() + b"\r\n")
            self.line(b"+OK")
        return self

    def retrieve(self, count, window):
        """RETR 1 to `count`, so many on the way at once; gives the bytes received."""
        sent = got = total = 0
        tail = b""
        while got < count:
            if sent < count and sent - got < window:
                upto_ = min(count, got + window)
                self.send(b"".join(b"RETR %d\r\n" % n for n in range(sent + 1, upto_ + 1)))
                sent = upto_
            data = self.piece()
            total += len(data)
            tail += data
            got += tail.count(b"\r\n.\r\n")
            tail = tail[-4:]
        return total

    # ---- IMAP ----

    def imap(self, user, password):
        self.line(b"* OK")
        self.command(f"LOGIN {user} {password}")
        return self

    def command(self, text, keep=False, counting=None):
        """One command; gives the bytes received, or the answer itself, or how often a word was in it."""
        self.tags += 1
        tag = b"t%d " % self.tags
        self.send(tag + (text if isinstance(text, bytes) else text.encode()) + b"\r\n")
        total, found, tail, kept = 0, 0, b"", []
        while True:
            data = self.piece()
            total += len(data)
            if keep:
                kept.append(data)
            if counting:
                found += (tail[-len(counting) + 1:] + data).count(counting)
            tail = (tail + data)[-2000:]
            if data.endswith(b"\r\n"):
                last = tail[tail.rfind(b"\n", 0, -1) + 1:]
                if last.startswith(tag):
                    break
        if not last.startswith(tag + b"OK"):
            raise Wrong(last.decode("latin-1"))
        return b"".join(kept) if keep else found if counting else total
