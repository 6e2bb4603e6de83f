#!/usr/bin/env python3
"""The day a big provider is down: fills a queue for a dead destination while mail for others flows.

Measures, for one mta core: acceptance while filling, memory and disk per waiting message, bytes
written per byte of mail, live mail while it is filled, relay to a live destination with this queue and
with an empty one (a second server, in alternating runs, so that what else the machine does hits both),
the start after a kill until mail is taken and until the queue is complete, and the time to drain when
the destination returns. With --postfix as much of that as can be asked of Postfix (Debian's package,
a configuration of its own, needs root), at --postfix-messages; nothing else is measured then.

Prints a Markdown table and writes one JSON object to --out. Server on --server-cpu, generator and
sinks on --load-cpu. Everything is on loopback; every step is bounded in time.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--messages", type=int, default=1_000_000, help="messages for the dead destination")
    p.add_argument("--size", default="1KiB", help="bytes per message with its header")
    p.add_argument("--connections", type=int, default=64, help="sessions that fill the queue")
    p.add_argument("--live", default="4s", help="length of each measurement with the live destination")
    p.add_argument("--rounds", type=int, default=4, help="measurements of each, the full and the empty queue")
    p.add_argument("--live-rate", default="2000/s", help="rate of live mail while latency is measured")
    p.add_argument("--no-drain", action="store_true", help="do not wait for the backlog to drain")
    p.add_argument("--cold", action="store_true",
                   help="start once more with nothing of the queue in memory (needs root)")
    p.add_argument("--adopt", action="store_true", help="kill, and start as another core, which adopts the log")
    p.add_argument("--no-list", action="store_true", help="do not list the whole queue")
    p.add_argument("--dir", default=None, help="where the data directory goes; default: target/backlog")
    p.add_argument("--binary", default=os.path.join(ROOT, "target", "dist", "ringpost"))
    p.add_argument("--server-cpu", default="0")
    p.add_argument("--load-cpu", default="1")
    p.add_argument("--out", default=os.path.join(ROOT, "target", "backlog.json"))
    p.add_argument("--window", default=None, help="storage.journal_window; default: the product's")
    p.add_argument("--keep", action="store_true", help="keep the data directory")
    p.add_argument("--postfix", action="store_true", help="measure Postfix instead")
    p.add_argument("--postfix-messages", type=int, default=100_000)
    return p.parse_args()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pinned(cpu, *words, **more):
    return subprocess.Popen(["taskset", "-c", cpu, *words], **more)


def greets(port):
    """True if an SMTP server takes mail there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as s:
        s.settimeout(5)
        return s.recv(100).startswith(b"220")
    return False


class Server:
    """ringpost with one core, one dead and one live destination."""

    def __init__(self, a, folder, dead, live):
        self.a, self.folder, self.dead, self.live = a, folder, dead, live
        self.port, self.metrics = free_port(), free_port()
        os.makedirs(folder, exist_ok=True)
        self.data = os.path.join(folder, "data")
        self.config = os.path.join(folder, "ringpost.toml")
        self.socket = os.path.join(folder, "admin.sock")
        window = f'journal_window = "{a.window}"\n' if a.window else ""
        with open(self.config, "w", encoding="ascii") as f:
            f.write(f"""[server]
hostname = "mx.bench.invalid"
data_dir = "{self.data}"
[cores]
mta = [{a.server_cpu}]
[storage]
journal_limit = "64GiB"
{window}[[listener]]
protocol = "smtp"
address = ["127.0.0.1:{self.port}"]
[relay]
networks = ["127.0.0.0/8"]
[[route]]
domain = "dead.invalid"
next_hop = "127.0.0.1:{self.dead}"
[[route]]
domain = "live.invalid"
next_hop = "127.0.0.1:{self.live}"
[metrics]
address = "127.0.0.1:{self.metrics}"
[admin]
socket = "{self.socket}"
""")
        self.process = None

    def start(self):
        """Starts it; gives the seconds until mail is taken and until the queue is complete."""
        log = open(os.path.join(self.folder, "server.log"), "ab")
        began = time.monotonic()
        self.process = subprocess.Popen([self.a.binary, "serve", "--config", self.config], stderr=log)
        reception = None
        while time.monotonic() - began < 300:
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended; see {log.name}")
            if greets(self.port):
                reception = time.monotonic() - began
                break
            time.sleep(0.01)
        if reception is None:
            raise SystemExit("the server takes no mail")
        while time.monotonic() - began < 600 and self.number("ringpost_queue_loading") != 0:
            time.sleep(0.02)
        return reception, time.monotonic() - began

    def number(self, series, label=""):
        """The sum of a series over the rows that have `label`, from the metrics page."""
        with socket.create_connection(("127.0.0.1", self.metrics), 5) as s:
            s.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = b""
            while piece := s.recv(1 << 16):
                text += piece
        rows = [r for r in text.decode().splitlines() if r.startswith((series + "{", series + " ")) and label in r]
        return sum(float(r.rsplit(" ", 1)[1]) for r in rows)

    def memory(self):
        """Resident bytes: private, and mapped files."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as f:
            rows = dict(r.split(":", 1) for r in f)
        return tuple(int(rows[k].split()[0]) << 10 for k in ("RssAnon", "RssFile"))

    def written(self):
        """Bytes handed to the disk so far."""
        with open(f"/proc/{self.process.pid}/io", encoding="ascii") as f:
            return int(dict(r.split(":") for r in f)["write_bytes"])

    def cpu(self):
        """Seconds of CPU so far, all threads."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait(120)

    def queue(self, *words):
        out = subprocess.run([self.a.binary, "queue", *words, "--config", self.config], check=True,
                             capture_output=True, timeout=600)
        return out.stdout


def disk(folder):
    """Bytes allocated below `folder`."""
    total = 0
    for where, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(where, name)).st_blocks * 512
    return total


def load(a, port, rcpt, *words, limit=7200):
    """One run of the generator; its JSON."""
    command = ["taskset", "-c", a.load_cpu, a.binary, "load", "smtp", "--to", f"127.0.0.1:{port}", "--json",
               "--size", a.size, "--rcpt", rcpt, *words]
    out = subprocess.run(command, check=False, capture_output=True, timeout=limit)
    if not out.stdout.strip():
        raise SystemExit(f"the generator failed: {out.stderr.decode()}")
    return json.loads(out.stdout)


class Sink:
    def __init__(self, a, port, folder, name):
        self.status = os.path.join(folder, name + ".json")
        self.process = pinned(a.load_cpu, a.binary, "load", "sink", "--listen", f"127.0.0.1:{port}",
                              "--status", self.status, "--json", stdout=subprocess.DEVNULL)

    def taken(self):
        with contextlib.suppress(OSError, ValueError), open(self.status, encoding="ascii") as f:
            return json.load(f)["messages"]
        return 0

    def end(self):
        self.process.terminate()
        self.process.wait(20)


def live(a, server, sink, what):
    """Live mail: as fast as it goes, then at a fixed rate for its latency."""
    before, cpu, began = sink.taken(), server.cpu(), time.monotonic()
    fast = load(a, server.port, "r{n}@live.invalid", "--connections", "20", "--duration", a.live)
    while sink.taken() - before < fast["acknowledged"] and time.monotonic() - began < 120:
        time.sleep(0.05)
    took, used = time.monotonic() - began, server.cpu() - cpu
    slow = load(a, server.port, "r{n}@live.invalid", "--connections", "20", "--duration", a.live,
                "--rate", a.live_rate)
    n = max(1, fast["acknowledged"])
    row = {"what": what, "accepted_per_s": fast["messages_per_second"], "relayed_per_s": n / took,
           "cpu_us": used / n * 1e6, "p50_ms": slow["latency"]["p50_us"] / 1e3, "p99_ms": slow["latency"]["p99_us"] / 1e3}
    print(json.dumps(row), flush=True)
    return row


def alternate(a, full, empty, sink):
    """Live mail through both servers in turn, in the order A B B A; the medians, and what they come to."""
    rows = {"empty": [], "full": []}
    for n in range(a.rounds):
        pair = [("empty", empty), ("full", full)]
        for what, server in pair if n % 2 == 0 else reversed(pair):
            rows[what].append(live(a, server, sink, what))
    keys = ("accepted_per_s", "relayed_per_s", "cpu_us", "p50_ms", "p99_ms")
    medians = {w: {k: statistics.median(r[k] for r in rows[w]) for k in keys} for w in rows}
    ratio = {k: medians["full"][k] / max(1e-9, medians["empty"][k]) for k in keys}
    return {"rows": rows, "medians": medians, "full_by_empty": ratio}


def listing(a, server):
    """Lists the whole queue; how long that takes, and what it takes of the server's memory."""
    began = time.monotonic()
    command = [a.binary, "queue", "list", "--json", "--config", server.config]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as listed:
        rows = sum(1 for _ in listed.stdout)
    return {"rows": rows, "seconds": time.monotonic() - began, "server_memory": server.memory()}


def run(a, folder):
    live_port, dead = free_port(), free_port()
    server = Server(a, os.path.join(folder, "full"), dead, live_port)
    empty = Server(a, os.path.join(folder, "empty"), dead, live_port)
    sink = Sink(a, live_port, folder, "live")
    r = {"messages": a.messages, "size": a.size}
    try:
        r["start_empty"] = server.start()
        # Warm, as it will be.
        load(a, server.port, "r{n}@live.invalid", "--connections", "20", "--duration", "1s")
        fill(a, server, r)
        empty.start()
        r["live"] = alternate(a, server, empty, sink)
        print(json.dumps({k: r["live"][k] for k in ("medians", "full_by_empty")}), flush=True)
        empty.kill()
        server.kill()
        r["start_full"] = server.start()
        time.sleep(2.5)
        r["memory_after_start"] = server.memory()
        r["queue_after_start"] = server.number("ringpost_queue_messages", 'state="all"')
        print(json.dumps({k: r[k] for k in ("start_full", "memory_after_start", "queue_after_start")}), flush=True)
        if a.cold:
            server.kill()
            drop_caches()
            r["start_cold"] = server.start()
            print(json.dumps({"start_cold": r["start_cold"]}), flush=True)
        if a.adopt:
            server.kill()
            adopt(server, r)
        if not a.no_list:
            r["list"] = listing(a, server)
            print(json.dumps(r["list"]), flush=True)
        if not a.no_drain:
            drain(a, server, folder, r)
        server.kill(signal.SIGTERM)
    finally:
        sink.end()
        for s in (server, empty):
            if s.process and s.process.poll() is None:
                s.kill()
    return r


def drop_caches():
    """Nothing of any file stays in memory."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3")


def adopt(server, r):
    """The log as that of a core that is gone: a server with no log of its own there adopts it."""
    logs = os.path.join(server.data, "queue")
    own = [name for name in sorted(os.listdir(logs)) if os.path.isdir(os.path.join(logs, name))]
    assert len(own) == 1, own
    os.rename(os.path.join(logs, own[0]), os.path.join(logs, own[0][:-1] + "7"))
    began = time.monotonic()
    reception = server.start()[0]
    # The log is adopted while mail is taken already.
    while time.monotonic() - began < 300 and server.number("ringpost_queue_messages", 'state="all"') < r["fill"]["accepted"]:
        time.sleep(0.02)
    r["start_adopted"] = (reception, time.monotonic() - began)
    r["memory_adopted"] = server.memory()
    r["queue_adopted"] = server.number("ringpost_queue_messages", 'state="all"')
    print(json.dumps({k: r[k] for k in ("start_adopted", "memory_adopted", "queue_adopted")}), flush=True)


def fill(a, server, r):
    """Fills the queue, with a little live mail beside it."""
    io, cpu, memory = server.written(), server.cpu(), server.memory()[0]
    began = time.monotonic()
    filler = subprocess.Popen(
        ["taskset", "-c", a.load_cpu, a.binary, "load", "smtp", "--to", f"127.0.0.1:{server.port}", "--json",
         "--size", a.size, "--rcpt", "r{n}@dead.invalid", "--connections", str(a.connections),
         "--messages", str(a.messages)], stdout=subprocess.PIPE)
    time.sleep(5)
    if filler.poll() is None:
        r["live_while_filling"] = load(a, server.port, "r{n}@live.invalid", "--connections", "4",
                                       "--duration", a.live, "--rate", "500/s")["latency"]
    filled = json.loads(filler.communicate(timeout=7200)[0])
    took = time.monotonic() - began
    n = filled["acknowledged"]
    r["fill"] = {"accepted": n, "seconds": took, "per_s": n / took,
                 "cpu_us": (server.cpu() - cpu) / max(1, n) * 1e6}
    print(json.dumps(r["fill"]), flush=True)
    time.sleep(5)
    r["bytes_written_per_message"] = (server.written() - io) / n
    r["disk_per_message"] = disk(server.data) / n
    anon, mapped = server.memory()
    r["memory"] = {"anon": anon, "mapped": mapped, "per_message": (anon - memory) / n}
    print(json.dumps({k: r[k] for k in ("bytes_written_per_message", "disk_per_message", "memory")}), flush=True)


def drain(a, server, folder, r):
    """The destination is back: how long until all of it has gone."""
    n = r["fill"]["accepted"]
    back = Sink(a, server.dead, folder, "dead")
    cpu, began = server.cpu(), time.monotonic()
    server.queue("flush", "--destination", f"127.0.0.1:{server.dead}")
    while back.taken() < n and time.monotonic() - began < 7200:
        time.sleep(0.2)
    took = time.monotonic() - began
    r["drain"] = {"taken": back.taken(), "seconds": took, "per_s": back.taken() / took,
                  "cpu_us": (server.cpu() - cpu) / n * 1e6}
    back.end()
    time.sleep(3)
    r["disk_after_drain"] = disk(server.data)
    r["left"] = server.number("ringpost_queue_messages", 'state="all"')
    print(json.dumps({k: r[k] for k in ("drain", "disk_after_drain", "left")}), flush=True)


class Postfix:
    """Postfix with the configuration of benches/peers, everything for one destination."""

    def __init__(self, a, folder, dead):
        self.a, self.folder, self.dead, self.port = a, folder, dead, free_port()
        self.etc, self.spool = os.path.join(folder, "etc"), os.path.join(folder, "spool")
        for name in (self.etc, self.spool, os.path.join(folder, "data")):
            os.makedirs(name)
        shutil.chown(os.path.join(folder, "data"), "postfix")
        words = {"@DIR@": folder, "@PORT@": str(self.port), "@SINK@": str(dead), "@SMTPD@": str(a.connections + 50)}
        for name in ("main.cf", "master.cf"):
            with open(os.path.join(HERE, "..", "peers", "postfix", name), encoding="ascii") as f:
                text = f.read()
            for word, value in words.items():
                text = text.replace(word, value)
            with open(os.path.join(self.etc, name), "w", encoding="ascii") as f:
                f.write(text)
        self.process = None

    def start(self):
        """Seconds until mail is taken."""
        log = open(os.path.join(self.folder, "log"), "ab")
        began = time.monotonic()
        self.process = pinned(self.a.server_cpu, "postfix", "-c", self.etc, "start-fg", stdout=log, stderr=log)
        while time.monotonic() - began < 60:
            if greets(self.port):
                return time.monotonic() - began
            time.sleep(0.01)
        raise SystemExit(f"Postfix does not start; see {log.name}")

    def processes(self):
        """All of it: the master's descendants."""
        parents = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                parents[int(pid)] = int(f.read().rsplit(")", 1)[1].split()[1])
        found, more = set(), {self.process.pid}
        while more:
            found |= more
            more = {pid for pid, parent in parents.items() if parent in more}
        return found

    def memory(self):
        """Private bytes of all processes."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError, KeyError), open(f"/proc/{pid}/status", encoding="ascii") as f:
                total += int(dict(r.split(":", 1) for r in f)["RssAnon"].split()[0]) << 10
        return total

    def stop(self):
        subprocess.run(["postfix", "-c", self.etc, "stop"], check=False, capture_output=True, timeout=60)
        self.process.wait(60)


def run_postfix(a, folder):
    """Fill, start anew, drain."""
    os.chmod(folder, 0o755)
    server = Postfix(a, os.path.join(folder, "postfix"), free_port())
    r = {"postfix": a.postfix_messages, "size": a.size, "start_empty": server.start()}
    try:
        base, began = server.memory(), time.monotonic()
        filled = load(a, server.port, "r{n}@dead.invalid", "--connections", str(a.connections),
                      "--messages", str(a.postfix_messages))
        n, took = filled["acknowledged"], time.monotonic() - began
        time.sleep(5)
        r["fill"] = {"accepted": n, "seconds": took, "per_s": n / took}
        r["disk_per_message"] = disk(server.spool) / n
        r["memory"] = {"private": server.memory(), "per_message": (server.memory() - base) / n}
        print(json.dumps(r), flush=True)
        server.stop()
        r["start_full"] = server.start()
        back, began = Sink(a, server.dead, folder, "dead"), time.monotonic()
        subprocess.run(["postqueue", "-c", server.etc, "-f"], check=True, timeout=60)
        while back.taken() < n and time.monotonic() - began < 1800:
            time.sleep(0.2)
        took = time.monotonic() - began
        r["drain"] = {"taken": back.taken(), "seconds": took, "per_s": back.taken() / took}
        back.end()
    finally:
        server.stop()
    return r


def main():
    a = arguments()
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not os.path.exists(a.binary):
        raise SystemExit(f"{a.binary} is not there: cargo build --profile dist")
    base = a.dir or os.path.join(ROOT, "target", "backlog")
    os.makedirs(base, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="run-", dir=base)
    try:
        result = run_postfix(a, folder) if a.postfix else run(a, folder)
    finally:
        if not a.keep:
            shutil.rmtree(folder, ignore_errors=True)
    with open(a.out, "a", encoding="ascii") as f:
        f.write(json.dumps(result) + "\n")
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
