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

import rig

PAGE = 4096


class Writer:
    """Appends numbered pages to a file of zeros and acknowledges each."""

    PAGES = 4096
    archives, parked = False, 0

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

    def close(self):
        """Nothing runs on."""

    def last_words(self):
        """It has none."""
        return ""

    def deliver(self, mount, expected):
        """There is nothing else to ask."""
        return expected - self.recover(mount)

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
journal_limit = "{journal}MiB"
journal_window = "{window}MiB"
free_min = "{free}MiB"
[[listener]]
protocol = "smtp"
address = ["127.0.0.1:{smtp}"]
[relay]
networks = ["127.0.0.0/8"]
[[route]]
domain = "*"
next_hop = "127.0.0.1:{hop}"
tls = "none"
[queue]
retry_first = "1s"
retry_max = "5s"
lifetime = "{lifetime}"
[limits]
sessions_per_address = 0
[memory]
spill = "64KiB"
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
    """`ringpost serve` with its sources and sink; the binary is RINGPOST or target/release."""

    archives = True

    def __init__(self, folder, journal=32, free=4, window=2, lifetime="5d"):
        here = os.path.dirname(os.path.abspath(__file__))
        built = os.path.join(here, "../../target/release/ringpost")
        self.binary, self.folder = os.path.abspath(os.environ.get("RINGPOST", built)), folder
        if not os.path.exists(self.binary):
            raise SystemExit(f"FAIL: no {self.binary}: cargo build --release --bin ringpost, or set RINGPOST")
        self.ports = {n: free_port() for n in ("smtp", "sink", "metrics")}
        # A next hop that takes connections and says nothing: no attempt ever ends.
        self.silent = socket.create_server(("127.0.0.1", 0), backlog=64)
        # Mail that outlives the window of the journal goes into archive and index.
        self.sizes = {"journal": journal, "free": free, "window": window, "lifetime": lifetime}
        self.config, self.log = (os.path.join(folder, n) for n in ("ringpost.toml", "server.log"))
        self.sent, self.taken = (os.path.join(folder, n) for n in ("sent.ledger", "taken.ledger"))
        self.sources, self.tools = [], []
        self.process, self.acked, self.gone, self.parked = None, {}, {}, 0
        rig.before_unmount.append(self.kill)

    def spawn(self, mount, silent=False):
        """Starts the process on `mount`, and does not wait for it."""
        hop = self.silent.getsockname()[1] if silent else self.ports["sink"]
        words = {"data": os.path.join(mount, "data"), "folder": self.folder, "hop": hop}
        with open(self.config, "w") as f:
            f.write(CONFIG.format(**words, **self.sizes, **self.ports))
        with open(self.log, "ab") as log:
            words = [self.binary, "serve", "-c", self.config]
            self.process = subprocess.Popen(words, stdout=log, stderr=log)

    def start(self, mount, seconds=30, silent=False):
        """Starts the server on `mount` and waits until it greets."""
        self.spawn(mount, silent)
        end = time.time() + seconds
        while time.time() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}: {self.last_words()}")
            with contextlib.suppress(OSError), self.connection() as s:
                if s.recv(3) == b"220":
                    return
            time.sleep(0.01)
        raise RuntimeError(f"the server does not greet: {self.last_words()}")

    def last_words(self):
        """The end of the server's log."""
        with open(self.log, "rb") as f:
            return f.read()[-1000:].decode(errors="replace")

    def said(self, event):
        """How often the server reported this event."""
        with open(self.log, "rb") as f:
            return f.read().count(b'"' + event.encode() + b'"')

    def connection(self, port="smtp"):
        """A connection to one of the ports."""
        return socket.create_connection(("127.0.0.1", self.ports[port]), timeout=5)

    def listens(self, port="smtp"):
        """True if the port takes connections."""
        try:
            self.connection(port).close()
            return True
        except OSError:
            return False

    def kill(self):
        """SIGKILL; gives the time."""
        at = time.time_ns()
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(60)
        return at

    def source(self, seconds, connections=8, size=4096, rate="400/s"):
        """Starts some load; it connects again when the server comes back."""
        ledger = os.path.join(self.folder, f"sent-{len(self.sources)}.ledger")
        words = [self.binary, "load", "smtp", "--to", f"127.0.0.1:{self.ports['smtp']}"]
        words += ["--connections", str(connections), "--size", str(size), "--rate", rate]
        words += ["--messages-per-connection", "20", "--duration", f"{seconds}s"]
        words += ["--retry-connect", "60s", "--ledger", ledger, "--json"]
        tool = self.tool(words, "source.log")
        self.sources.append((tool, ledger))
        return tool

    def load(self, seconds, rate=400):
        """Starts small mail, and some too large for the journal (it goes to side files)."""
        self.source(seconds, rate=f"{rate}/s")
        self.source(seconds, connections=2, size=150_000, rate="4/s")

    def end_load(self, interrupt=True):
        """Ends all sources and brings their ledgers together in `sent`."""
        for tool, _ in self.sources:
            if interrupt and tool.poll() is None:
                tool.send_signal(signal.SIGINT)
            tool.wait(90)
        lines = []
        for _, ledger in self.sources:
            with open(ledger) as f:
                part = f.read().splitlines(keepends=True)
            lines += part if not lines else part[1:]
        with open(self.sent, "w") as f:
            f.writelines(lines)

    def sink(self, *options, ledger=None):
        """Starts the next hop, and waits until it listens."""
        words = [self.binary, "load", "sink", "--listen", f"127.0.0.1:{self.ports['sink']}"]
        tool = self.tool([*words, "--ledger", ledger or self.taken, *options], "sink.log")
        end = time.time() + 10
        while not self.listens("sink") and time.time() < end:
            time.sleep(0.02)
        return tool

    def tool(self, words, log):
        """Starts a tool whose output goes to a file."""
        with open(os.path.join(self.folder, log), "ab") as f:
            tool = subprocess.Popen(["nice", *words], stdout=f, stderr=f)
        self.tools.append(tool)
        return tool

    def close(self):
        """Ends everything that was started here."""
        self.kill()
        for tool in self.tools:
            if tool.poll() is None:
                tool.kill()
            tool.wait(10)
        self.silent.close()
        rig.before_unmount.remove(self.kill)

    def listed(self, *options):
        """All waiting messages; with `--in-doubt`, those."""
        words = [self.binary, "queue", "list", *options, "--json", "-c", self.config]
        out = subprocess.run(words, check=True, timeout=60, capture_output=True, text=True).stdout
        return [json.loads(line) for line in out.splitlines() if line.strip()]

    def queue(self, *options):
        """Their queue ids."""
        return {message["queue_id"] for message in self.listed(*options)}

    def drain(self, seconds):
        """Waits until the queue is empty; gives what is left in it. Destinations that were away are
        left alone for a minute and more, unless an operator asks for a flush."""
        end = time.time() + seconds
        while (left := self.queue()) and time.time() < end:
            self.flush()
            time.sleep(0.5)
        return left

    def parked_now(self):
        """How many messages are in archive and index at this moment (the metric is a second old)."""
        words = [self.binary, "queue", "stats", "--json", "-c", self.config]
        out = subprocess.run(words, check=True, timeout=60, capture_output=True, text=True).stdout
        return sum(json.loads(line)["parked"] for line in out.splitlines())

    def delete(self, ids):
        """Takes messages out of the queue; gives how many."""
        words = [self.binary, "queue", "delete", *ids, "--json", "-c", self.config]
        out = subprocess.run(words, check=True, timeout=60, capture_output=True, text=True).stdout
        return sum(json.loads(line)["changed"] for line in out.splitlines())

    def flush(self):
        """Ends all pauses and waits."""
        words = [self.binary, "queue", "flush", "--all", "-c", self.config]
        subprocess.run(words, check=True, timeout=60, capture_output=True)

    def audit(self, in_doubt=None, queued=None):
        """The verdict of the product's own audit."""
        words = [self.binary, "load", "audit", self.sent, self.taken, "--json"]
        words += ["--in-doubt", in_doubt] if in_doubt else []
        words += ["--queued", queued] if queued else []
        done = subprocess.run(words, timeout=120, capture_output=True, text=True, check=False)
        if not done.stdout.startswith("{"):
            raise RuntimeError(f"no audit: {done.stderr}")
        return json.loads(done.stdout)

    def metric(self, name):
        """The sum of a series over its labels; `None` if the endpoint does not answer."""
        try:
            url = f"http://127.0.0.1:{self.ports['metrics']}/metrics"
            text = urllib.request.urlopen(url, timeout=5).read().decode()
        except OSError:
            return None
        lines = [l for l in text.splitlines() if l.split("{")[0].split(" ")[0] == name]
        return sum(float(l.rsplit(" ", 1)[1]) for l in lines)

    def readiness(self):
        """The status of /readyz; 0 if the endpoint does not answer."""
        try:
            url = f"http://127.0.0.1:{self.ports['metrics']}/readyz"
            return urllib.request.urlopen(url, timeout=5).status
        except urllib.error.HTTPError as e:
            return e.code
        except OSError:
            return 0

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
        """Takes load on `mount`, with a next hop that stands still most of the time: so there is a queue,
        with a part of it in archive and index, and there are deliveries from both."""
        self.start(mount)
        sink, end = self.sink(), time.time() + seconds
        self.load(seconds)
        while time.time() < end:
            sink.send_signal(signal.SIGSTOP)
            time.sleep(2.0)
            self.parked = max(self.parked, self.metric("ringpost_queue_parked") or 0)
            sink.send_signal(signal.SIGCONT)
            time.sleep(0.5)
        self.end_load(interrupt=False)
        self.kill()
        sink.send_signal(signal.SIGINT)
        sink.wait(30)
        self.read_ledgers()

    def recover(self, mount):
        """Starts on what a crash left and gives the ids in the queue."""
        try:
            self.start(mount)
            return self.queue()
        finally:
            self.kill()

    def deliver(self, mount, expected):
        """Starts with the next hop back; gives what of `expected` does not reach it unaltered."""
        ledger, self.taken = self.taken, os.path.join(self.folder, "point.ledger")
        sink = self.sink()
        try:
            self.start(mount)
            if left := self.drain(60):
                raise RuntimeError(f"{len(left)} messages do not leave the queue")
            sink.send_signal(signal.SIGINT)
            sink.wait(30)
            found = self.audit()
            if found["altered"] or found["invented"]:
                raise RuntimeError(f"altered or invented: {found['examples']}")
            taken = {words[0] for words in ledger_lines(self.taken)}
            return {w[1] for w in ledger_lines(self.sent) if w[1] in expected and w[0] not in taken}
        finally:
            self.kill()
            if sink.poll() is None:
                sink.kill()
                sink.wait(10)
            self.tools.remove(sink)
            self.taken = ledger


def ledger_lines(path):
    """The words of each line of a ledger, without its heading and a torn end."""
    if not os.path.exists(path):
        return []
    with open(path) as f:
        lines = f.read().split("\n")[:-1]
    return [l.split(" ") for l in lines if not l.startswith("#")]
