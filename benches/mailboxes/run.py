#!/usr/bin/env python3
"""Mailboxes, side by side: LMTP, POP3 and IMAP of ringpost and of Dovecot, in one run.

    benches/mailboxes/run.py --bin target/dist/ringpost      everything
    benches/mailboxes/run.py --brief                         the same, shorter
    benches/mailboxes/run.py --cases lmtp,idle --only ringpost
    benches/mailboxes/run.py --install                       Dovecot from Debian first (as root)

Cases: lmtp (deliveries into many accounts), existing (into a mailbox that holds much), pop3 (logins, download),
imap (logins, SELECT, FETCH, SEARCH, APPEND, STORE), notify (IDLE sessions told of a delivery), idle (memory
of sessions that do nothing; starts the servers anew). Only when asked for, and of ringpost alone: shards
(1, 2 and 8 on one core), start (with many accounts and messages: --many, --small; filling takes about 4 minutes for a million), beside (what relaying
feels of a busy access core).

What counts is server CPU per operation: user and system of all processes of the server, from a cgroup, from
a quiet state to the next quiet state. Rates come second: one Python program is the generator, and
`generator_busy` near 1.0 says that a rate is the generator's. The server owns one CPU, the generator another.
Appends one JSON object per row to DIR/mailboxes.jsonl and writes the table to DIR/mailboxes.md beside it. Everything
is on loopback, bounded in time, and ended with the run. Needs root for Dovecot and the cgroup.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import deliver      # noqa: E402  (beside this file)
import idling       # noqa: E402
import machine      # noqa: E402
import reading      # noqa: E402
import servers      # noqa: E402
import sizes        # noqa: E402
import wire         # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CASES = {"lmtp": deliver.many, "existing": deliver.existing, "pop3": reading.pop3, "imap": reading.imap,
         "notify": idling.notified, "idle": idling.memory}
ALONE = {"shards": sizes.shards, "start": sizes.start, "beside": sizes.beside}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(ROOT / "target" / "dist" / "ringpost"), help="a built ringpost")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--only", default="ringpost,dovecot")
    parser.add_argument("--formats", default="mdbox,sdbox,maildir",
                        help="of Dovecot in the case lmtp; the other cases have the first")
    parser.add_argument("--brief", action="store_true", help="5 minutes at most")
    parser.add_argument("--seconds", type=float, help="of each measurement of a rate (2; brief 1)")
    parser.add_argument("--turns", type=int, help="of the case existing (3; brief 1)")
    parser.add_argument("--connections", help="of LMTP (1,20,64,100; brief 20,64)")
    parser.add_argument("--accounts", type=int, help="that mail goes to (500; brief 200)")
    parser.add_argument("--size", type=int, default=4096, help="bytes of a message")
    parser.add_argument("--existing", type=int, help="messages in the full mailbox (100000; brief 20000)")
    parser.add_argument("--messages", type=int, help="messages that are downloaded (10000; brief 2000)")
    parser.add_argument("--sessions", type=int, help="idle ones (2000; brief 400): of few, the memory of one is a guess")
    parser.add_argument("--many", type=int, default=100000, help="accounts of the case start")
    parser.add_argument("--small", type=int, default=10000000, help="messages of the case start")
    parser.add_argument("--watchers", type=int, help="IDLE sessions that are told (1000; brief 300)")
    parser.add_argument("--reuse", type=int, default=1000, help="service_count of Dovecot's imap and pop3")
    parser.add_argument("--most", type=int, help="seconds for the whole run; what has been measured by then is written (720; brief 300)")
    parser.add_argument("--config", default="", help="more lines for ringpost's configuration")
    parser.add_argument("--dir", default="/var/tmp", help="for mailboxes: a real disk")
    parser.add_argument("--out", default=str(ROOT / "target" / "mailboxes"), help="where results go")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--install", action="store_true", help="get Dovecot's packages from Debian")
    a = parser.parse_args()
    most = a.most
    for name, whole, brief in (("seconds", 2, 1), ("turns", 3, 1), ("accounts", 500, 200),
                               ("existing", 100000, 20000),
                               ("messages", 10000, 2000), ("sessions", 2000, 400), ("watchers", 1000, 300),
                               ("connections", "1,20,64,100", "20,64"), ("most", 720, 300)):
        if getattr(a, name) is None:
            setattr(a, name, brief if a.brief else whole)
    if "start" in a.cases.split(",") and not most:
        # Filling alone takes longer than all other cases together.
        a.most += a.small // 1500
    a.connections = [int(n) for n in a.connections.split(",")]
    # How many sessions at once, where a case does not say it.
    a.parallel = (20,) if a.brief else (1, 20)
    a.cases, a.only, a.formats = a.cases.split(","), a.only.split(","), a.formats.split(",")
    for given, known in ((a.cases, CASES | ALONE), (a.only, ("ringpost", "dovecot")), (a.formats, servers.FORMATS)):
        if set(given) - set(known):
            parser.error(f"not known: {', '.join(set(given) - set(known))}; there are {', '.join(known)}")
    # Who is who.
    a.users = [f"user{n}" for n in range(a.accounts)]
    a.idlers = [f"idler{n}" for n in range(a.sessions)]
    a.writers = [f"writer{n}" for n in range(8)]
    a.big, a.ten, a.empty, a.watched = "big", "ten", "empty", "watched"
    a.logins = a.users + a.idlers + a.writers + [a.big, a.ten, a.empty, a.watched]
    return a


class Run:
    """The servers of a run, what has been filled already, and the rows."""

    def __init__(self, a, work):
        self.a, self.work, self.rows = a, work, []
        self.known, self.full = {}, set()
        self.out = pathlib.Path(a.out)
        self.out.mkdir(parents=True, exist_ok=True)

    def servers(self, case):
        """Those of a case; not started yet."""
        found = []
        if case in ALONE:
            return found
        if "ringpost" in self.a.only:
            found.append(self.server("ringpost", servers.Ringpost))
            if case in ("pop3", "imap"):
                found.append(self.server("archived", servers.Ringpost, "ringpost-archived", servers.ARCHIVED))
        if "dovecot" in self.a.only:
            for kind in self.a.formats if case == "lmtp" else self.a.formats[:1]:
                found.append(self.server(kind, servers.Dovecot, kind))
        return found

    def server(self, key, make, *more):
        if key not in self.known:
            self.known[key] = make(self.a, self.work, *more)
        return self.known[key]

    def ready(self, server):
        if not server.process:
            server.start()
            self.full = {(name, what) for name, what in self.full if name != server.name}

    def filled(self, server, what):
        """The mailbox `big` or `ten` has its messages."""
        if (server.name, what) in self.full:
            return
        count, size = (self.a.existing, 1024) if what == "big" else (self.a.messages, self.a.size)
        rate = deliver.fill(server, getattr(self.a, what), count, size, self.a.most)
        print(f"  {server.name}: {count} messages in place, {rate:.0f}/s", file=sys.stderr, flush=True)
        self.full.add((server.name, what))

    def case(self, name):
        found = self.servers(name)
        for server in found:
            if name == "idle":
                server.stop()
            else:
                self.ready(server)
        for server, what, row in (CASES | ALONE)[name](self.a, found):
            row = {"case": name, "server": server.name, "what": what} | row
            self.rows.append(row)
            print(json.dumps(row), flush=True)
            with open(self.out / "mailboxes.jsonl", "a", encoding="ascii") as f:
                f.write(json.dumps(row) + "\n")
        if name == "notify":
            # A thousand processes without work would make what comes after slower.
            for server in found:
                server.start(keep=True)
        # Only some cases have these.
        for kind in self.a.formats[1:]:
            if kind in self.known:
                self.known[kind].stop()

    def close(self):
        for server in self.known.values():
            server.close()


def table(rows):
    """Markdown: one line for each row, beside ringpost's of the same measurement."""
    lines = ["| what | server | per second | CPU us each | x ringpost | p50 / p99 ms | generator busy | also |",
             "|---|---|---|---|---|---|---|---|"]
    own = {row["what"]: row for row in rows if row["server"] == "ringpost"}
    order = list(dict.fromkeys(row["what"] for row in rows))
    for row in sorted(rows, key=lambda row: order.index(row["what"])):
        mine, key = own.get(row["what"], {}), "cpu_us" if "cpu_us" in row else "kib_per_session"
        times = f"{row[key] / mine[key]:.2f}" if mine.get(key, 0) > 0 else ""
        also = [text.format(row[name]) for name, text in (
            ("mb_per_second", "{:.0f} MB/s"), ("last_knows_ms", "the last knows after {:.0f} ms"),
            ("kib_per_session", "{:.1f} KiB a session"), ("pss_mib", "{:.0f} MiB in all"),
            ("login_after_s", "first login after {:.2f} s"), ("start_cpu_s", "start takes {:.2f} s of CPU"),
            ("disk_mib", "{:.0f} MiB on disk"),
            ("processes", "{} processes"),
            ("idle_cpu_ms_per_s", "{:.1f} ms CPU a second"), ("errors", "{} errors"), ("settled", "not settled"),
        ) if row.get(name) or name == "settled" and name in row]
        if row.get("other_load", 0) > 0.05:
            also.append(f"other load {row['other_load'] * 100:.0f} % (!)")
        latency = f"{row['p50_ms']:.2f} / {row['p99_ms']:.2f}" if "p50_ms" in row else ""
        rate = f"{row['per_second']:.{0 if row['per_second'] >= 100 else 2}f}" if "per_second" in row else ""
        cpu = f"{row['cpu_us']:.1f}" if "cpu_us" in row else ""
        busy = f"{row['generator_busy']:.2f}" if "generator_busy" in row else ""
        lines.append(f"| {row['what']} | {row['server']} | {rate} | {cpu} | {times} | {latency} | {busy} | "
                     f"{', '.join(also)} |")
    return "\n".join(lines) + "\n"


def prepare(a):
    """What must be there."""
    if a.install:
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-qy", "--no-install-recommends",
                                                      "dovecot-lmtpd", "dovecot-pop3d", "dovecot-imapd"]):
            subprocess.run(command, check=True, timeout=600, stdout=sys.stderr,
                           env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    if "ringpost" in a.only and not os.access(a.bin, os.X_OK):
        raise SystemExit(f"{a.bin} is not there: cargo build --profile dist, or --bin FILE")
    parts = [pathlib.Path("/usr/lib/dovecot", name) for name in ("imap", "pop3", "lmtp")]
    if "dovecot" in a.only and not all(part.exists() for part in parts):
        print("Dovecot is not installed (--install): skipped", file=sys.stderr)
        a.only.remove("dovecot")
    a.bin = pathlib.Path(a.bin).resolve()


def stop(number, _frame):
    raise SystemExit("the time for the whole run is over (--most)" if number == signal.SIGALRM else "told to stop")


def main():
    a = arguments()
    prepare(a)
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, stop)
    signal.alarm(a.most)
    machine.descriptors()
    a.cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {a.load_cpu})
    work = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-mailboxes.", dir=a.dir))
    work.chmod(0o755)                       # Dovecot's own users must pass
    a.work = work
    run, kernel, began = Run(a, work), machine.Kernel(), time.monotonic()
    a.filled, a.ready = run.filled, run.ready
    failed = 0
    try:
        for name in a.cases:
            if name in ("notify", "idle"):
                # Each of Dovecot's sessions in IDLE watches a directory.
                kernel.at_least("fs/inotify/max_user_instances", 20000)
                kernel.at_least("fs/inotify/max_user_watches", 100000)
            try:
                run.case(name)
            except (wire.Wrong, OSError) as e:
                failed = 1
                print(f"case {name} is cut short: {e}", file=sys.stderr, flush=True)
    finally:
        signal.alarm(0)
        text = table(run.rows)
        (run.out / "mailboxes.md").write_text(text)
        run.close()
        kernel.close()
        shutil.rmtree(work, ignore_errors=True)
    print(f"\n{text}\n{time.monotonic() - began:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
