#!/usr/bin/env python3
"""Operators' verbs on a full queue: what each costs, and whether mail flows meanwhile.

    benches/queue_verbs.py                       1,000,000 messages
    benches/queue_verbs.py --messages 2000       a small run, to see that it works
    benches/queue_verbs.py --window 64MiB --size 1000    nearly all of it in archive and index

Fills the queue of one server with messages that a suspended next hop keeps waiting (from
1,000 senders to 1,000 domains), then runs each verb by a condition that means one thousandth of them and
one that means all, while a client sends mail that another next hop takes at once. One row for each:
seconds of the verb, CPU seconds of the server, messages that flowed a second meanwhile, and the longest time
between the end of data and its reply. Wants some 16 GiB of disk and 2,000,000
inodes per million in --dir: exported messages are two files each. Stops by itself.
"""
import argparse
import json
import os
import pathlib
import socket
import socketserver
import subprocess
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
HZ = os.sysconf("SC_CLK_TCK")


class Sink(socketserver.StreamRequestHandler):
    """A next hop that takes everything."""

    def handle(self):
        self.wfile.write(b"220 sink\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                self.wfile.write(b"250-sink\r\n250 PIPELINING\r\n")
            elif verb == b"DATA":
                self.wfile.write(b"354 go\r\n")
                while (text := self.rfile.readline()) not in (b".\r\n", b""):
                    pass
                self.wfile.write(b"250 taken\r\n")
            elif verb == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 ok\r\n")


class Threading(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")
        self.line()
        self.say("EHLO bench")

    def line(self):
        while (line := self.file.readline())[3:4] == b"-":
            pass
        if line[:1] not in b"23":
            raise SystemExit(f"the server said {line!r}")
        return line

    def say(self, *lines):
        self.socket.sendall("".join(line + "\r\n" for line in lines).encode())
        for _ in lines:
            self.line()

    def mail(self, sender, to, number=0, text=""):
        """One message; seconds from the end of data to its reply."""
        self.say(f"MAIL FROM:<{sender}>", f"RCPT TO:<{to}>", "DATA")
        begun = time.monotonic()
        self.say(f"Subject: number {number}\r\n\r\n{text}queued\r\n.")
        return time.monotonic() - begun


    def mails(self, some, text):
        """Many messages at once: (sender, recipient, number) each (RFC 3030: nothing has to be waited for)."""
        out = []
        for sender, to, number in some:
            body = f"Subject: number {number}\r\n\r\n{text}queued\r\n"
            out.append(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{to}>\r\nBDAT {len(body)} LAST\r\n{body}")
        self.socket.sendall("".join(out).encode())
        for _ in range(3 * len(out)):
            self.line()


class Server:
    def __init__(self, binary, folder, sink, window):
        self.binary, self.port = binary, free_port()
        self.file = folder / "ringpost.toml"
        self.file.write_text(f"""
[server]
hostname = "bench.test"
user = ""
data_dir = "{folder}/data"
[cores]
mta = 1
pin = "off"
[storage]
durability = "weak"
free_min = "64MiB"
{window}
[limits]
messages_per_session = 0
[admin]
socket = "{folder}/admin"
[metrics]
address = ""
[events]
mail = "off"
[[listener]]
protocol = "smtp"
address = "127.0.0.1:{self.port}"
[relay]
smarthost = "127.0.0.1:1"
[[route]]
domain = "flows.test"
next_hop = "127.0.0.1:{sink}"
""")
        self.process = subprocess.Popen([binary, "serve", "-c", self.file], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit("the server does not start")
                time.sleep(0.05)

    def queue(self, *words):
        """Lines of the answer, the last one read."""
        out = subprocess.run([self.binary, "queue", "--json", *words, "-c", self.file], capture_output=True)
        if out.returncode:
            raise SystemExit(f"queue {words}: {out.stderr.decode()}")
        lines = out.stdout.splitlines()
        return len(lines), json.loads(lines[-1]) if lines else {}

    def stats(self):
        out = subprocess.run([self.binary, "queue", "--json", "stats", "-c", self.file], capture_output=True)
        return [json.loads(line) for line in out.stdout.splitlines()]

    def parked(self):
        return sum(s["parked"] for s in self.stats())

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / HZ


def fill(server, messages, size, clients=8, at_once=20):
    def some(n):
        client, text = Client(server.port), ("x" * 70 + "\r\n") * (size // 72)
        numbers = range(n, messages, clients)
        for begin in range(0, len(numbers), at_once):
            mails = [(f"s{i % 1000}@from.test", f"r@d{i // 7 % 1000}.test", i) for i in numbers[begin:][:at_once]]
            client.mails(mails, text)

    threads = [threading.Thread(target=some, args=(n,)) for n in range(clients)]
    [t.start() for t in threads]
    [t.join() for t in threads]


class Flow:
    """Mail that goes through while a verb runs."""

    def __init__(self, port):
        self.port, self.done, self.count, self.worst = port, threading.Event(), 0, 0.0
        self.thread = threading.Thread(target=self.run)

    def run(self):
        client = Client(self.port)
        while not self.done.is_set():
            self.worst = max(self.worst, client.mail("flow@from.test", "r@flows.test"))
            self.count += 1

    def __enter__(self):
        self.thread.start()
        time.sleep(0.2)
        self.count, self.worst, self.begun = 0, 0.0, time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.begun
        self.done.set()
        self.thread.join()


VERBS = [
    ("count, by state", ["list", "--count", "--state", "deferred"]),
    ("count, by size", ["list", "--count", "--larger", "1MiB"]),
    ("count, by sender, 1/1000", ["list", "--count", "--sender", "s7@*"]),
    ("count, by domain, 1/1000", ["list", "--count", "--domain", "d7.test"]),
    ("count, by recipient, none", ["list", "--count", "--recipient", "nobody@*"]),
    ("count, by header, 1/1000", ["list", "--count", "--header", "Subject=number *777"]),
    ("list, by domain, 1/1000", ["list", "--domain", "d7.test"]),
    ("list, all", ["list"]),
    ("hold, by sender, 1/1000", ["hold", "--sender", "s7@*", "-y"]),
    ("undo", ["undo", "1"]),
    ("requeue, by sender, 1/1000", ["requeue", "--sender", "s7@*", "-y"]),
    ("reroute, by domain, 1/1000", ["reroute", "--domain", "d5.test", "--to", "127.0.0.1:2", "-y"]),
    ("count, by destination", ["list", "--count", "--destination", "127.0.0.1:2"]),
    ("count, rerouted", ["list", "--count", "--rerouted", "*:2"]),
    ("hold, one destination", ["hold", "--destination", "127.0.0.1:2"]),
    ("release, one destination", ["release", "--destination", "127.0.0.1:2"]),
    ("flush, one destination", ["flush", "--destination", "127.0.0.1:2"]),
    ("reroute, all", ["reroute", "--domain", "d*", "--to", "127.0.0.1:1", "-y"]),
    ("hold, by domain, 1/1000", ["hold", "--domain", "d7.test", "-y"]),
    ("count, held", ["list", "--count", "--state", "hold"]),
    ("release, by domain, 1/1000", ["release", "--domain", "d7.test", "-y"]),
    ("bounce, by sender, 1/1000", ["bounce", "--sender", "s8@*", "-y"]),
    ("delete, by sender, 1/1000", ["delete", "--sender", "s9@*", "-y"]),
    ("hold, all", ["hold", "--domain", "d*", "-y"]),
    ("release, all", ["release", "--state", "hold", "-y"]),
    ("release --all", ["release", "--all"]),
    ("flush --all", ["flush", "--all"]),
    ("requeue, all", ["requeue", "--state", "deferred", "-y"]),
    ("resume", ["resume", "127.0.0.1:2"]),
    ("suspend", ["suspend", "127.0.0.1:2", "--reason", "bench"]),
    ("export, by sender, 1/1000", ["export", "--sender", "s7@*", "FOLDER/part"]),
    ("export, all", ["export", "--all", "FOLDER/all"]),
    ("delete, all", ["delete", "--domain", "d*", "-y"]),
    ("import, all", ["import", "FOLDER/all"]),
    ("bounce, all", ["bounce", "--domain", "d*", "-y"]),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--binary", default=str(HERE.parent / "target/release/ringpost"))
    parser.add_argument("--dir", help="where the queue lies (default: a temporary directory)")
    parser.add_argument("--size", type=int, default=0, help="bytes of a body")
    parser.add_argument("--window", help="storage.journal_window; default: the product's")
    args = parser.parse_args()
    window = f'journal_window = "{args.window}"' if args.window else ""
    sink = Threading(("127.0.0.1", 0), Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="ringpost-verbs-", dir=args.dir) as folder:
        server = Server(args.binary, pathlib.Path(folder), sink.server_address[1], window)
        try:
            for hop in ("127.0.0.1:1", "127.0.0.1:2"):
                server.queue("suspend", hop, "--reason", "bench")
            begun = time.monotonic()
            fill(server, args.messages, args.size)
            print(f"filled with {args.messages} messages in {time.monotonic() - begun:.1f} s")
            deadline = time.monotonic() + 30
            while args.window and server.parked() < args.messages // 2 and time.monotonic() < deadline:
                time.sleep(0.2)
            print(f"{server.parked()} of them are in archive and index")
            print(f"{'verb':<28} {'answer':>10} {'seconds':>8} {'CPU s':>7} {'flow/s':>7} {'worst ms':>9}")
            for name, words in VERBS:
                words = [word.replace("FOLDER", folder) for word in words]
                cpu, begun = server.cpu(), time.monotonic()
                with Flow(server.port) as flow:
                    begun = time.monotonic()
                    lines, last = server.queue(*words)
                    seconds = time.monotonic() - begun
                answer = last.get("changed", last.get("matches", lines))
                rate = flow.count / flow.seconds
                print(f"{name:<28} {answer:>10} {seconds:>8.2f} {server.cpu() - cpu:>7.2f} "
                      f"{rate:>7.0f} {flow.worst * 1000:>9.1f}", flush=True)
        finally:
            server.process.terminate()
            server.process.wait()


if __name__ == "__main__":
    main()
