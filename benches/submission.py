#!/usr/bin/env python3
"""Submission, side by side: a new connection for every message, with STARTTLS, AUTH PLAIN and one
message, durable, relayed to a sink: ringpost, and Postfix with Dovecot's authentication.

    benches/submission.py                     both servers, full and resumed handshakes
    benches/submission.py --only ringpost     without Postfix
    benches/submission.py --seconds 2 --runs 1

Prints one row per run and the medians. The server owns one CPU, generator and sink another. What
counts is server CPU per session (user + system of all its processes, from a cgroup, or from /proc
where there is none); sessions per second are stated beside it. Both servers have the same
certificate (P-256), the same users with the same password hash (crypt SHA-512), and remember verified
passwords; ringpost's wait of 100 ms for clients that speak before the greeting is off. Needs root for Postfix and Dovecot, which are skipped with a word where they are not
installed (`apt-get install postfix dovecot-core`). Stops by itself.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
HZ = os.sysconf("SC_CLK_TCK")
LOGIN, PASSWORD = "user1@bench.test", "correct horse battery"


class Accounting:
    """CPU of a server: all processes that are put into its group."""

    def __init__(self):
        self.kind, self.path = None, None
        for kind, root in (("v1", "/sys/fs/cgroup/cpuacct"), ("v2", "/sys/fs/cgroup")):
            path = pathlib.Path(root, f"ringpost-submission-{os.getpid()}")
            try:
                path.mkdir()
            except OSError:
                continue
            if (path / ("cpuacct.usage" if kind == "v1" else "cpu.stat")).exists():
                self.kind, self.path = kind, path
                return
            path.rmdir()

    def enter(self):
        """Called in the child, before it becomes the server."""
        if self.path:
            (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def seconds(self, root):
        if self.kind == "v1":
            return int((self.path / "cpuacct.usage").read_text()) / 1e9
        if self.kind == "v2":
            return int((self.path / "cpu.stat").read_text().split()[1]) / 1e6
        return tree_seconds(root)

    def empty(self):
        """Ends what is left in the group: nothing but what this script started."""
        if not self.path:
            return
        for turn in range(60):
            pids = (self.path / "cgroup.procs").read_text().split()
            if not pids:
                return
            for pid in pids:
                try:
                    os.kill(int(pid), signal.SIGTERM if turn < 40 else signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.1)

    def close(self):
        self.empty()
        if self.path:
            self.path.rmdir()


def tree_seconds(root):
    """CPU of a process, its descendants, and their children that have ended."""
    stat = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        stat[int(path.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
    total = 0
    for pid, (_, ticks) in stat.items():
        at = pid
        while at != root and at > 1 and at in stat:
            at = stat[at][0]
        total += ticks if at == root else 0
    return total / HZ


def wait_port(port, what, log):
    for _ in range(150):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit(f"{what} does not start: {log.read_text()[-2000:] if log.exists() else 'no log'}")


class Bench:
    def __init__(self, args):
        self.args = args
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-submission.", dir=args.dir))
        self.work.chmod(0o755)             # Postfix's own user must pass
        self.accounting = Accounting()
        self.port, self.sink = 21000 + os.getpid() % 9000, 31000 + os.getpid() % 900
        self.cert, self.key = self.work / "cert.pem", self.work / "key.pem"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-days", "30", "-subj", "/CN=bench.test", "-addext", "subjectAltName=DNS:bench.test",
            "-keyout", self.key, "-out", self.cert)
        self.key.chmod(0o644)
        self.hash = run("openssl", "passwd", "-6", "-salt", "ringpostbench", PASSWORD).strip()
        self.password = self.work / "password"
        self.password.write_text(PASSWORD + "\n")

    # ---- servers: each gives the process whose tree is the server ----

    def spawn(self, cpus, log, *command, counted=True):
        def child():
            if counted:
                self.accounting.enter()
            os.sched_setaffinity(0, {int(c) for c in cpus.split(",")})
        return subprocess.Popen([str(c) for c in command], preexec_fn=child, stdin=subprocess.DEVNULL,
                                stdout=open(log, "w"), stderr=subprocess.STDOUT)

    def ringpost(self):
        d = self.work / "ringpost"
        shutil.rmtree(d, ignore_errors=True)
        (d / "data").mkdir(parents=True)
        (d / "users").write_text(f"{LOGIN}:{{SHA512-CRYPT}}{self.hash}\n")
        (d / "ringpost.toml").write_text(f'''
[server]
hostname = "bench.test"
data_dir = "{d}/data"
user = ""
[cores]
mta = 1
pin = "off"
[[listener]]
protocol = "submission"
address = ["127.0.0.1:{self.port}"]
tls = "required"
[tls]
certificate = "{self.cert}"
key = "{self.key}"
[auth]
users = "{d}/users"
[relay]
networks = []
[[route]]
domain = "*"
next_hop = "127.0.0.1:{self.sink}"
tls = "none"
[limits]
sessions_per_address = 0
sessions_per_network = 0
sessions_per_user = 0
connections_per_minute = 0
connections_per_minute_per_network = 0
{self.args.limits}
[timeouts]
greeting_delay = "0s"
[metrics]
address = "127.0.0.1:{self.port + 1}"
[admin]
socket = "{d}/admin.sock"
''')
        server = self.spawn(self.args.server_cpus, d / "log", self.args.bin, "serve", "-c", d / "ringpost.toml")
        wait_port(self.port, "ringpost", d / "log")
        return server

    def postfix(self):
        d = self.work / "postfix"
        shutil.rmtree(d, ignore_errors=True)
        for part in ("etc", "spool", "data", "run", "state"):
            (d / part).mkdir(parents=True)
        shutil.chown(d / "data", "postfix")
        (d / "passwd").write_text(f"{LOGIN}:{{SHA512-CRYPT}}{self.hash}\n")
        words = {"DIR": d, "PORT": self.port, "SINK": self.sink, "SMTPD": self.args.sessions + 50,
                 "CERT": self.cert, "KEY": self.key, "AUTH": d / "auth.sock"}
        for source, target in (("postfix-submission/main.cf", "etc/main.cf"),
                               ("postfix-submission/master.cf", "etc/master.cf"),
                               ("dovecot-auth/dovecot.conf", "dovecot.conf")):
            text = (HERE / "peers" / source).read_text()
            for word, value in words.items():
                text = text.replace(f"@{word}@", str(value))
            (d / target).write_text(text)
        # In the same group; ended with it.
        self.spawn(self.args.server_cpus, d / "dovecot.out", "dovecot", "-F", "-c", d / "dovecot.conf")
        for _ in range(100):
            if (d / "auth.sock").exists():
                break
            time.sleep(0.1)
        server = self.spawn(self.args.server_cpus, d / "log", "postfix", "-c", d / "etc", "start-fg")
        wait_port(self.port, "Postfix", d / "log")
        return server

    # ---- one run ----

    def load(self, seconds, resume):
        report = subprocess.run(
            [str(c) for c in ("taskset", "-c", self.args.load_cpus, self.args.bin, "load", "smtp",
             "--to", f"127.0.0.1:{self.port}", "--connections", self.args.sessions, "--size", self.args.size,
             "--messages-per-connection", 1, "--source-addresses", 200, "--tls", "starttls", "--auth", LOGIN,
             "--password-file", self.password, "--duration", f"{seconds}s", "--json",
             *(["--tls-resume"] if resume else []))],
            capture_output=True, text=True, timeout=seconds + 90)
        if report.returncode != 0 and not report.stdout:
            sys.exit(f"the generator failed: {report.stderr[-2000:]}")
        return json.loads(report.stdout)

    def taken(self):
        try:
            return json.loads((self.work / "status").read_text()).get("messages", 0)
        except (OSError, ValueError):
            return 0

    def drained(self, want):
        before, still = -1, 0
        while still < 100:
            now = self.taken()
            if now >= want:
                return True
            before, still = now, 0 if now != before else still + 1
            time.sleep(0.1)
        return False

    def cell(self, name, resume):
        (self.work / "status").unlink(missing_ok=True)
        sink = self.spawn(self.args.load_cpus, self.work / "sink.log", self.args.bin, "load", "sink",
                          "--listen", f"127.0.0.1:{self.sink}", "--status", self.work / "status", counted=False)
        wait_port(self.sink, "the sink", self.work / "sink.log")
        server = getattr(self, name)()
        try:
            warm = self.load(1, resume)["acknowledged"]
            self.drained(warm)
            quiet()
            base, cpu, busy = self.taken(), self.accounting.seconds(server.pid), machine_busy()
            began = time.monotonic()
            report = self.load(self.args.seconds, resume)
            acked = report["acknowledged"]
            complete = self.drained(base + acked)
            time.sleep(0.3)                # last outcomes reach the disk
            cpu = self.accounting.seconds(server.pid) - cpu
            busy = (machine_busy() - busy) / (time.monotonic() - began) / os.cpu_count()
        finally:
            for process in (server, sink):
                process.terminate()
            self.accounting.empty()
            for process in (server, sink):
                process.wait(timeout=20)
        if acked == 0:
            sys.exit(f"{name}: no message was accepted: {report}")
        latency = report.get("latency", {})
        return {"server": name, "handshake": "resumed" if resume else "full", "sessions": self.args.sessions,
                "per_second": acked / self.args.seconds, "cpu_us": cpu / acked * 1e6, "acknowledged": acked,
                "p50_ms": latency.get("p50_us", 0) / 1e3, "p99_ms": latency.get("p99_us", 0) / 1e3,
                "all_delivered": complete, "busy": busy}


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr}")
    return done.stdout


def machine_busy():
    """Busy seconds of the machine so far."""
    fields = list(map(int, open("/proc/stat").readline().split()[1:]))
    return (sum(fields[:3]) + sum(fields[5:8])) / HZ


def quiet():
    """Waits up to 20 s for a second in which the machine does nothing else."""
    for _ in range(20):
        before = machine_busy()
        time.sleep(1)
        if machine_busy() - before < 0.05 * os.cpu_count():
            return
    print("  the machine is busy with other work", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="target/dist/ringpost", help="a built ringpost")
    parser.add_argument("--only", default="ringpost,postfix")
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--size", default="2KiB")
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dir", default="/var/tmp", help="for queues: a real disk")
    parser.add_argument("--limits", default="", help="more lines for ringpost's [limits]")
    parser.add_argument("--server-cpus", default="0")
    parser.add_argument("--load-cpus", default="1")
    args = parser.parse_args()
    args.bin = pathlib.Path(args.bin).resolve()
    if not args.bin.exists():
        sys.exit(f"{args.bin} is not built: cargo build --profile dist, or --bin FILE")
    servers = args.only.split(",")
    if "postfix" in servers and not (shutil.which("postfix") and shutil.which("dovecot")):
        print("Postfix or Dovecot is not installed: skipped", file=sys.stderr)
        servers.remove("postfix")
    bench, rows = Bench(args), []
    try:
        for _ in range(args.runs):
            for resume in (False, True):
                for name in servers:
                    row = bench.cell(name, resume)
                    print(json.dumps(row), flush=True)
                    rows.append(row)
    finally:
        bench.accounting.close()
        shutil.rmtree(bench.work, ignore_errors=True)
    print("\n| handshake | server | sessions/s | CPU us/session | x ringpost | dot to 250 p50 / p99 ms |\n|---|---|---|---|---|---|")
    middle = lambda name, kind, key: statistics.median(
        r[key] for r in rows if r["server"] == name and r["handshake"] == kind)
    for kind in ("full", "resumed"):
        for name in servers:
            ratio = middle(name, kind, "cpu_us") / middle("ringpost", kind, "cpu_us") if "ringpost" in servers else 0
            print(f"| {kind} | {name} | {middle(name, kind, 'per_second'):.0f} | {middle(name, kind, 'cpu_us'):.0f} "
                  f"| {ratio:.1f} | {middle(name, kind, 'p50_ms'):.1f} / {middle(name, kind, 'p99_ms'):.1f} |")


if __name__ == "__main__":
    main()
