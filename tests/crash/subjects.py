"""What is put on a crashing disk: the server under load, or a writer of twenty lines that proves
the rig (with O_DSYNC it must lose nothing, without any sync it must lose).

A subject can `run(mount, seconds)` and then knows `acked` and `gone` as {id: unix nanoseconds},
and can `recover(mount)`, which gives the ids that a start finds.
"""

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import zlib

PAGE = 4096


class Writer:
    """Appends numbered pages to a file of zeros and acknowledges each."""

    PAGES = 4096

    def __init__(self, synced):
        self.synced, self.acked, self.gone = synced, {}, {}

    @staticmethod
    def page(number):
        body = number.to_bytes(8, "little") + os.urandom(PAGE - 12)
        return body + zlib.crc32(body).to_bytes(4, "little")

    def run(self, mount, seconds):
        """Writes until the time is over or the file is full."""
        path = os.path.join(mount, "log")
        with open(path, "wb") as f:
            f.write(bytes(self.PAGES * PAGE))
            os.fsync(f.fileno())
        flags = os.O_DIRECT | os.O_DSYNC if self.synced else 0
        fd, buffer, end = os.open(path, os.O_WRONLY | flags), mmap.mmap(-1, PAGE), time.time() + seconds
        for number in range(1, self.PAGES):
            buffer[:] = self.page(number)
            os.pwrite(fd, buffer, number * PAGE)
            self.acked[number] = time.time_ns()
            if time.time() > end:
                break
            if not self.synced:
                time.sleep(0.001)
        os.close(fd)

    def recover(self, mount):
        """The pages that are whole, up to the first that is not."""
        found = set()
        path = os.path.join(mount, "log")
        if not os.path.exists(path):
            return found
        with open(path, "rb") as f:
            f.seek(PAGE)
            while len(body := f.read(PAGE)) == PAGE:
                number, crc = int.from_bytes(body[:8], "little"), int.from_bytes(body[-4:], "little")
                if number != len(found) + 1 or zlib.crc32(body[:-4]) != crc:
                    break
                found.add(number)
        return found


CONFIG = """[server]
hostname = "crash.example"
data_dir = "{data}"
stop_grace = "5s"
[cores]
mta = 1
access = 1
[storage]
segment_size = "1MiB"
[[listener]]
protocol = "smtp"
address = ["127.0.0.1:{smtp}"]
[relay]
networks = ["127.0.0.0/8"]
[[route]]
domain = "*"
next_hop = "127.0.0.1:{sink}"
tls = "none"
[queue]
retry_first = "1s"
retry_max = "5s"
[limits]
sessions_per_address = 0
[metrics]
address = "127.0.0.1:{metrics}"
[admin]
socket = "{folder}/admin.sock"
"""


def free_port():
    """A TCP port that is free now."""
    with contextlib.closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """`ringpost serve` with its source and sink; the binary is RINGPOST or target/release."""

    def __init__(self, folder):
        here = os.path.dirname(os.path.abspath(__file__))
        built = os.path.join(here, "../../target/release/ringpost")
        self.binary, self.folder = os.environ.get("RINGPOST", built), folder
        self.ports = {n: free_port() for n in ("smtp", "sink", "metrics")}
        self.config = os.path.join(folder, "ringpost.toml")
        self.sent, self.taken = (os.path.join(folder, n) for n in ("sent.ledger", "taken.ledger"))
        self.process, self.acked, self.gone = None, {}, {}

    def start(self, mount, seconds=30):
        """Starts the server on `mount` and waits until it greets."""
        data = os.path.join(mount, "data")
        with open(self.config, "w") as f:
            f.write(CONFIG.format(data=data, folder=self.folder, **self.ports))
        log = open(os.path.join(self.folder, "server.log"), "ab")
        words = [self.binary, "serve", "-c", self.config]
        self.process = subprocess.Popen(words, stdout=log, stderr=log)
        log.close()
        end = time.time() + seconds
        while time.time() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}: see server.log")
            with contextlib.suppress(OSError), self.connection() as s:
                if s.recv(3) == b"220":
                    return
            time.sleep(0.02)
        raise RuntimeError("the server does not greet")

    def connection(self):
        """A connection to its SMTP port."""
        return socket.create_connection(("127.0.0.1", self.ports["smtp"]), timeout=5)

    def kill(self):
        """SIGKILL; gives the time."""
        at = time.time_ns()
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(60)
        return at

    def source(self, seconds, connections=8, size=4096):
        """Starts the load; it connects again when the server comes back."""
        words = [self.binary, "load", "smtp", f"127.0.0.1:{self.ports['smtp']}"]
        words += ["--connections", str(connections), "--size", str(size)]
        words += ["--messages-per-connection", "20", "--duration", f"{seconds}s"]
        words += ["--retry-connect", "30s", "--ledger", self.sent, "--json"]
        return self.tool(words, "source.log")

    def sink(self):
        """Starts the next hop."""
        words = [self.binary, "load", "sink", f"127.0.0.1:{self.ports['sink']}"]
        return self.tool([*words, "--ledger", self.taken], "sink.log")

    def tool(self, words, log):
        """Starts a tool whose output goes to a file."""
        with open(os.path.join(self.folder, log), "ab") as f:
            return subprocess.Popen(words, stdout=f, stderr=f)

    def queue(self):
        """Queue ids of all waiting messages."""
        words = [self.binary, "queue", "list", "--json", "-c", self.config]
        out = subprocess.run(words, check=True, timeout=60, capture_output=True, text=True).stdout
        return {json.loads(line)["queue_id"] for line in out.splitlines() if line.strip()}

    def metric(self, name):
        """The sum of a series over its labels; `None` if the endpoint does not answer."""
        try:
            url = f"http://127.0.0.1:{self.ports['metrics']}/metrics"
            text = urllib.request.urlopen(url, timeout=5).read().decode()
        except OSError:
            return None
        lines = [l for l in text.splitlines() if l.split("{")[0].split(" ")[0] == name]
        return sum(float(l.rsplit(" ", 1)[1]) for l in lines)

    def ready(self):
        """True if /readyz says so."""
        try:
            url = f"http://127.0.0.1:{self.ports['metrics']}/readyz"
            return urllib.request.urlopen(url, timeout=5).status == 200
        except (OSError, urllib.error.HTTPError):
            return False

    def read_ledgers(self):
        """Fills `acked` and `gone` by queue id."""
        ids = {}
        for words in ledger_lines(self.sent):
            if words[1][0] not in "-?!":
                ids[words[0]] = words[1]
                self.acked[words[1]] = int(words[2])
        for words in ledger_lines(self.taken):
            if words[0] in ids:
                self.gone.setdefault(ids[words[0]], int(words[2]))

    def run(self, mount, seconds):
        """Takes load on `mount`; for the second half of the time the sink takes the mail away."""
        self.start(mount)
        source = self.source(seconds)
        time.sleep(seconds / 2)
        sink = self.sink()
        source.wait(seconds + 60)
        sink.send_signal(signal.SIGINT)
        sink.wait(30)
        self.kill()
        self.read_ledgers()

    def recover(self, mount):
        """Starts on what a crash left and gives the ids in the queue."""
        try:
            self.start(mount)
            return self.queue()
        finally:
            self.kill()


def ledger_lines(path):
    """The words of each line of a ledger, without its heading and a torn end."""
    if not os.path.exists(path):
        return []
    with open(path) as f:
        lines = f.read().split("\n")[:-1]
    return [l.split(" ") for l in lines if not l.startswith("#")]
