#!/usr/bin/env python3
"""A flood of wrong logins against a ringpost of its own: what do others feel of it?

    cargo build --release && benches/auth_flood.py [--seconds 10] [--rate 1000] [--networks 1]

Starts a server on loopback whose users have argon2id hashes and whose brakes for failed logins and
connections are off, so that only the hashing has to bear it, floods it with `--rate` wrong logins a
second from `--networks` networks (/24), and measures meanwhile, from networks of their own:
 * users that are known to the cache: the time from AUTH to its reply, without and with the flood;
 * first logins from quiet networks: the same.
Prints one JSON object. Demands nothing by itself; compare p99 with and without (2 times), and the
first logins (500 ms). The flood comes from two processes of its own, so that who measures does not wait for
its own flood; as root, who measures goes before all others (SCHED_FIFO), with and without the flood, as if
it were on another machine.
"""
import argparse, base64, collections, json, os, re, select, signal, socket, subprocess, sys, tempfile, time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.join(ROOT, "target", "release", "ringpost")
PASSWORD = "correct horse"
# Processes that make the flood.
PARTS = 2


def plain(login, password):
    return b"AUTH PLAIN " + base64.b64encode(f"\0{login}\0{password}".encode()) + b"\r\n"


def reply(connection):
    """The last line of the next reply. Replies come one at a time: nothing is read beyond it."""
    got = b""
    while not (got.endswith(b"\r\n") and got.splitlines()[-1][3:4] == b" "):
        more = connection.recv(4096)
        if not more:
            raise ConnectionError("the server has closed the connection")
        got += more
    return got.splitlines()[-1]


def connect(port, source):
    connection = socket.socket()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.bind((source, 0))
    connection.connect(("127.0.0.1", port))
    reply(connection)
    connection.sendall(b"EHLO flood.test\r\n")
    reply(connection)
    return connection


def login(port, source, name, password=PASSWORD):
    """Seconds from AUTH to its reply, and its code."""
    connection = connect(port, source)
    line = plain(name, password)
    begun = time.perf_counter()
    connection.sendall(line)
    code = reply(connection)[:3].decode()
    took = time.perf_counter() - begun
    connection.close()
    return took, code


def first_of_all():
    """Who measures stands for clients on other machines: it waits for nobody here, if it may."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except PermissionError:
        print("not root: who measures shares its CPU with the flood", file=sys.stderr)


class Flood:
    """Wrong logins at an even rate, over connections that each wait for their reply."""

    def __init__(self, port, rate, networks, connections):
        self.port, self.rate, self.networks, self.connections = port, rate, networks, connections
        self.codes, self.sent = {}, 0

    def source(self, number):
        return f"127.{100 + number % self.networks // 250}.{number % self.networks % 250}.{1 + number % 200}"

    def run(self, seconds, part):
        """The connections `part`, `part + PARTS`..., at their share of the rate."""
        numbers = range(part, self.connections, PARTS)
        idle = collections.deque(connect(self.port, self.source(n)) for n in numbers)
        poll, waiting = select.epoll(), {}
        for connection in idle:
            poll.register(connection, select.EPOLLIN)
        begun, pause = time.perf_counter(), PARTS / self.rate
        due, until = begun, begun + seconds
        while (now := time.perf_counter()) < until:
            while due <= now and idle:
                connection = idle.popleft()
                self.sent += 1
                connection.sendall(plain(f"user{self.sent % 50}", f"wrong{part}-{self.sent}"))
                waiting[connection.fileno()] = connection
                due += pause
            # All wait for a reply: the rate is not made up for later.
            due = max(due, now - 0.1)
            for number, _ in poll.poll(max(0.0005, due - time.perf_counter())):
                connection = waiting.pop(number, None)
                if connection is None:
                    sys.exit("the server has closed a connection of the flood")
                code = reply(connection)[:3].decode()
                self.codes[code] = self.codes.get(code, 0) + 1
                idle.append(connection)


def probe(port, seconds, known, first):
    """Cached users 50 times a second, a first login from a fresh network twice a second."""
    until = time.perf_counter() + seconds
    cached, fresh, turn = [], [], 0
    while time.perf_counter() < until:
        cached.append(login(port, "127.77.0.1", f"user{turn % known}"))
        if turn % 25 == 0:
            fresh.append(login(port, f"127.78.{first[0] % 250}.1", f"fresh{first[0]}"))
            first[0] += 1
        turn += 1
        time.sleep(0.02)
    return cached, fresh


def figures(times):
    good = sorted(t for t, code in times if code == "235")
    other = {c: sum(1 for _, x in times if x == c) for c in {x for _, x in times if x != "235"}}
    at = lambda share: round(1000 * good[min(len(good) - 1, int(share * len(good)))], 2) if good else None
    return {"logins": len(times), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1), "other": other}


def flood_apart(port, args, part, begin):
    """A part of the flood in a process of its own, from a byte in `begin` on; and where it says what came of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, os.fdopen(reading)
    try:
        os.read(begin[0], 1)
        flood = Flood(port, args.rate, args.networks, args.connections)
        flood.run(args.seconds + 2, part)
        os.write(writing, json.dumps({"sent": flood.sent, "codes": flood.codes}).encode())
    finally:
        os._exit(0)


def measure(port, metrics, args):
    first = [0]
    for n in range(20):
        login(port, "127.77.0.1", f"user{n}")
    begin, parts = os.pipe(), []
    for part in range(PARTS):
        parts.append(flood_apart(port, args, part, begin))
    first_of_all()
    quiet, quiet_first = probe(port, args.seconds, 20, first)
    os.write(begin[1], b"x" * PARTS)
    time.sleep(2)
    loud, loud_first = probe(port, args.seconds, 20, first)
    flood = {"sent": 0, "codes": {}}
    for child, said in parts:
        one = json.loads(said.read())
        os.waitpid(child, 0)
        flood["sent"] += one["sent"]
        for code, count in one["codes"].items():
            flood["codes"][code] = flood["codes"].get(code, 0) + count
    text = urllib.request.urlopen(f"http://{metrics}/metrics").read().decode()
    series = {n: sum(float(l.split()[-1]) for l in text.splitlines() if l.startswith(f"ringpost_auth_{n}{{"))
              for n in ("hashes_total", "cache_hits_total", "overflow_total")}
    return {
        "flood": {"rate": round(flood["sent"] / (args.seconds + 2)), "networks": args.networks, "threads": args.threads,
                  "replies": flood["codes"]},
        "cached_quiet": figures(quiet), "cached_flood": figures(loud),
        "first_quiet": figures(quiet_first), "first_flood": figures(loud_first), "series": series,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--networks", type=int, default=1)
    parser.add_argument("--connections", type=int, default=1000, help="each waits for its reply")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="that hash; 0: the default")
    parser.add_argument("--program", default=PROGRAM)
    args = parser.parse_args()
    program = args.program
    with tempfile.TemporaryDirectory(prefix="ringpost-flood-") as folder:
        users = os.path.join(folder, "users")
        line = subprocess.run(
            [program, "user", "add", "x", "--scheme", "argon2id", "--password-stdin", "--file", users],
            input=PASSWORD + "\n", text=True, check=True) and open(users).read().strip()
        field = line.split(":", 1)[1]
        names = [f"user{n}" for n in range(50)] + [f"fresh{n}" for n in range(250)]
        with open(users, "w") as out:
            out.writelines(f"{name}:{field}\n" for name in names)
        config = os.path.join(folder, "ringpost.toml")
        with open(config, "w") as out:
            out.write(f"""
[server]
hostname = "mx.flood.example"
data_dir = "{folder}/data"
user = ""
[cores]
mta = {args.cores}
[storage]
segment_size = "1MiB"
journal_limit = "64MiB"
free_min = "1MiB"
durability = "weak"
[relay]
networks = []
smarthost = "127.0.0.1:9"
[limits]
auth_failures = 0
errors_soft = 0
errors_hard = 0
junk_commands = 0
login_failures = 0
login_failures_per_login = 0
login_delay = "0s"
connections_per_minute = 0
connections_per_minute_per_network = 0
sessions_per_address = 0
sessions_per_network = 0
sessions_per_user = 0
[timeouts]
greeting_delay = "0s"
[auth]
users = "{users}"
hash_threads = {args.threads}
allow_plaintext = true
[metrics]
address = "127.0.0.1:0"
[admin]
socket = "{folder}/admin"
[events]
target = "{folder}/log"
[[listener]]
protocol = "smtp"
address = "127.0.0.1:0"
auth = "offered"
""")
        server = subprocess.Popen([program, "serve", "-c", config], stderr=subprocess.DEVNULL)
        # The server's core has the first CPU for itself as far as clients go; what hashes runs on all.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        try:
            for _ in range(200):
                time.sleep(0.05)
                text = open(f"{folder}/log").read() if os.path.exists(f"{folder}/log") else ""
                found = re.search(r"SMTP on \[([^\]]+)\].*?metrics on ([0-9.:]+)", text)
                if found:
                    break
            else:
                sys.exit(f"the server does not start:\n{text}")
            port = int(found[1].split(",")[0].rsplit(":", 1)[1])
            result = measure(port, found[2].rstrip("."), args)
            result["server_cpu_s"] = sum(
                map(int, open(f"/proc/{server.pid}/stat").read().rsplit(")", 1)[1].split()[11:13])
            ) / os.sysconf("SC_CLK_TCK")
            print(json.dumps(result, indent=1))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


if __name__ == "__main__":
    main()
