#!/usr/bin/env python3
"""An account in wrong hands against a ringpost of its own: is it held, and what do others feel of it?

    cargo build --release && benches/brakes.py [--seconds 20] [--flood 10000] [--rate 50]

Starts a server on loopback with a brake on messages of a login (`hold`) and a sink behind it. 50 customers send
`--rate` messages a second together; measured is the time from MAIL to the reply to the message.
First alone, then while another account sends `--flood` messages a minute to addresses by chance over 8 connections
(from a process of its own). Prints one JSON object: p50 and p99 without and with the flood, their ratio, how many
messages of the flood were sent, and how many of them are held in the queue. Demands nothing by itself; wanted are a
ratio of p99 below 1.5 and a flood that is held but for the limit.
"""
import argparse, json, os, random, socket, statistics, subprocess, sys, tempfile, time, urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Messages of a login a day; customers, of whom there are so many, stay below.
LIMIT, CUSTOMERS = 100, 50


class Client:
    def __init__(self, port, login):
        self.s = socket.create_connection(("127.0.0.1", port))
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.f = self.s.makefile("rb")
        self.reply("220")
        self.say("EHLO bench.test", "250")
        self.say(f"XCLIENT ADDR=198.51.100.7 LOGIN={login}", "220")
        self.say("EHLO bench.test", "250")

    def reply(self, code):
        while True:
            line = self.f.readline().decode()
            if line[3:4] != "-":
                if not line.startswith(code):
                    sys.exit(f"wanted {code}, got {line!r}")
                return

    def say(self, line, code):
        self.s.sendall(line.encode() + b"\r\n")
        self.reply(code)

    def mail(self, sender, to):
        """Seconds from MAIL to the reply to the message."""
        begun = time.perf_counter()
        self.s.sendall(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{to}>\r\nDATA\r\n".encode())
        for code in ("250", "250", "354"):
            self.reply(code)
        self.s.sendall(b"Subject: x\r\n\r\n" + b"x" * 2000 + b"\r\n.\r\n")
        self.reply("250")
        return time.perf_counter() - begun


def paced(rate, seconds, act):
    begun = time.monotonic()
    for n in range(int(rate * seconds)):
        wait = begun + n / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        act(n)


def flood(port, per_minute, seconds):
    clients = [Client(port, "hacked") for _ in range(8)]
    sent = 0

    def act(n):
        nonlocal sent
        clients[n % 8].mail("hacked@a.test", f"{random.randrange(10**9)}@victims.test")
        sent += 1

    paced(per_minute / 60, seconds, act)
    print(sent)


def measure(port, rate, seconds):
    clients, times = [Client(port, f"customer{n}") for n in range(CUSTOMERS)], []

    def act(n):
        times.append(clients[n % CUSTOMERS].mail("customer@b.test", f"friend{n}@c.test"))

    paced(rate, seconds, act)
    for client in clients:
        client.s.close()
    cuts = statistics.quantiles(times, n=100)
    return {"p50_ms": round(cuts[49] * 1000, 3), "p99_ms": round(cuts[98] * 1000, 3), "messages": len(times)}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def metric(port, name):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return sum(float(l.rsplit(" ", 1)[1]) for l in text.splitlines() if l.startswith(name))


def wait_port(port):
    for _ in range(300):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nobody listens on {port}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", default=os.path.join(ROOT, "target", "release", "ringpost"))
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--flood", type=float, default=10_000, help="messages a minute")
    p.add_argument("--rate", type=float, default=50, help="messages a second of the customers")
    p.add_argument("--dir", default=None, help="where the data lie")
    p.add_argument("--flood-port", type=int, default=0, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.flood_port:
        return flood(a.flood_port, a.flood, a.seconds)
    smtp, sink, web = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ringpost-brakes.", dir=a.dir) as d:
        with open(f"{d}/ringpost.toml", "w") as f:
            f.write(f'''
[server]
hostname = "bench.test"
data_dir = "{d}/data"
user = ""
[[listener]]
protocol = "smtp"
address = "127.0.0.1:{smtp}"
xclient_from = ["127.0.0.1"]
[relay]
networks = []
smarthost = "127.0.0.1:{sink}"
[limits]
messages_per_session = 0
connections_per_minute = 0
connections_per_minute_per_network = 0
[metrics]
address = "127.0.0.1:{web}"
[admin]
socket = "{d}/admin.sock"
[[brake]]
messages = "{LIMIT}/d"
action = "hold"
''')
        log = open(f"{d}/log", "w")
        run = lambda *words: subprocess.Popen([a.bin, *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        hop = run("load", "sink", "--listen", f"127.0.0.1:{sink}")
        wait_port(sink)
        server = run("serve", "-c", f"{d}/ringpost.toml")
        try:
            wait_port(smtp)
            measure(smtp, a.rate, 2)
            quiet = measure(smtp, a.rate, a.seconds)
            flooder = subprocess.Popen(
                [sys.executable, __file__, "--flood-port", str(smtp), "--flood", str(a.flood), "--seconds",
                 str(a.seconds + 2)], stdout=subprocess.PIPE, text=True)
            time.sleep(1)
            loud = measure(smtp, a.rate, a.seconds)
            sent = int(flooder.communicate(timeout=a.seconds + 60)[0])
            held = metric(web, "ringpost_braked_total{")
        finally:
            for process in (server, hop):
                process.terminate()
                process.wait()
        print(json.dumps({
            "quiet": quiet, "with_flood": loud, "p99_ratio": round(loud["p99_ms"] / quiet["p99_ms"], 2),
            "flood": {"sent": sent, "held": int(held), "limit": LIMIT},
        }))


main()
