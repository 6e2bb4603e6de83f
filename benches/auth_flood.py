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
its own flood; as root, who measures goes before all others (nice -15), with and without the flood.
"""
import argparse, asyncio, base64, json, os, re, signal, subprocess, sys, tempfile, time, urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.join(ROOT, "target", "release", "ringpost")
PASSWORD = "correct horse"
# Processes that make the flood.
PARTS = 2


def plain(login, password):
    return b"AUTH PLAIN " + base64.b64encode(f"\0{login}\0{password}".encode()) + b"\r\n"


async def reply(reader):
    while True:
        line = await reader.readuntil(b"\r\n")
        if line[3:4] == b" ":
            return line


async def connect(port, source):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    await reply(reader)
    writer.write(b"EHLO flood.test\r\n")
    await reply(reader)
    return reader, writer


async def login(port, source, name, password=PASSWORD):
    """Seconds from AUTH to its reply, and its code."""
    reader, writer = await connect(port, source)
    begun = time.perf_counter()
    writer.write(plain(name, password))
    code = (await reply(reader))[:3].decode()
    took = time.perf_counter() - begun
    writer.close()
    return took, code


class Flood:
    def __init__(self, port, rate, networks, connections):
        self.port, self.rate, self.networks, self.connections = port, rate, networks, connections
        self.codes, self.sent = {}, 0

    async def one(self, number, until):
        source = f"127.{100 + number % self.networks // 250}.{number % self.networks % 250}.{1 + number % 200}"
        reader, writer = await connect(self.port, source)
        due = time.perf_counter() + number / self.rate
        while (now := time.perf_counter()) < until:
            if due > now:
                await asyncio.sleep(due - now)
            due += self.connections / self.rate
            self.sent += 1
            writer.write(plain(f"user{number % 50}", f"wrong{self.sent}"))
            code = (await reply(reader))[:3].decode()
            self.codes[code] = self.codes.get(code, 0) + 1
        writer.close()

    async def run(self, seconds, part):
        """The connections `part`, `part + PARTS`..."""
        until = time.perf_counter() + seconds
        await asyncio.gather(*(self.one(n, until) for n in range(part, self.connections, PARTS)))


async def probe(port, seconds, known, first):
    """Cached users 50 times a second, a first login from a fresh network twice a second."""
    until = time.perf_counter() + seconds
    cached, fresh, turn = [], [], 0
    while time.perf_counter() < until:
        cached.append(await login(port, "127.77.0.1", f"user{turn % known}"))
        if turn % 25 == 0:
            fresh.append(await login(port, f"127.78.{first[0] % 250}.1", f"fresh{first[0]}"))
            first[0] += 1
        turn += 1
        await asyncio.sleep(0.02)
    return cached, fresh


def figures(times):
    good = sorted(t for t, code in times if code == "235")
    other = {c: sum(1 for _, x in times if x == c) for c in {x for _, x in times if x != "235"}}
    at = lambda share: round(1000 * good[min(len(good) - 1, int(share * len(good)))], 2) if good else None
    return {"logins": len(times), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1), "other": other}


def flood_apart(port, args, part):
    """Starts a part of the flood in a process of its own; returns it and where it will say what came of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, os.fdopen(reading)
    try:
        if os.geteuid() == 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        flood = Flood(port, args.rate, args.networks, args.connections)
        asyncio.run(flood.run(args.seconds + 2, part))
        os.write(writing, json.dumps({"sent": flood.sent, "codes": flood.codes}).encode())
    finally:
        os._exit(0)


def measure(port, metrics, args):
    first = [0]
    if os.geteuid() == 0:
        os.setpriority(os.PRIO_PROCESS, 0, -15)

    async def known():
        for n in range(20):
            await login(port, "127.77.0.1", f"user{n}")

    asyncio.run(known())
    quiet, quiet_first = asyncio.run(probe(port, args.seconds, 20, first))
    parts = [flood_apart(port, args, part) for part in range(PARTS)]
    time.sleep(1)
    loud, loud_first = asyncio.run(probe(port, args.seconds, 20, first))
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
