#!/usr/bin/env python3
"""What each part of policy costs alone: microseconds of the server's CPU per message, with and without it.

    cargo build --release && benches/policy.py [--messages 5000] [--rounds 5] [--only spf,dkim-verify]
    benches/policy.py --postfix        # DKIM signing (RSA 2048) beside Postfix with OpenDKIM, both from Debian

For each part a server on loopback with that part and nothing else; its twin without it stands before and after each
round, so that what drifts drifts for both. The same generator (in this program: `--sessions` connections, commands
pipelined, messages of `--size` bytes made beforehand), the same sink (`ringpost load sink`), name servers and
filters that answer at once. CPU of the server is that of all its threads in nanoseconds
(/proc/PID/task/*/schedstat); filters, name servers, generator and sink are other processes or threads of this one
and are not counted. Prints one JSON object a line: the median of the rounds, and the difference to the median of
what stands for "off". Mail of strangers and of clients that may relay have an "off" of their own, and so has forwarded mail.
With --postfix: CPU of all processes of Postfix and OpenDKIM (utime and stime, in ticks) beside that of ringpost.
"""
import argparse, json, os, re, shutil, signal, socket, statistics, struct, subprocess, sys, tempfile, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STRANGER, OURS = "127.0.0.2", "127.0.0.1"
RECORDS = {"a.test": "v=spf1 ip4:127.0.0.0/8 -all", "_dmarc.a.test": "v=DMARC1; p=reject"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_port(port):
    for _ in range(300):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nobody listens on {port}")


def serving(serve):
    """A server of threads of this program; its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=200)

    def run():
        while True:
            peer, _ = listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1]


def name_server():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 0))

    def answer(q):
        labels, at = [], 12
        while q[at]:
            labels.append(q[at + 1:at + 1 + q[at]].decode().lower())
            at += 1 + q[at]
        text = RECORDS.get(".".join(labels)) if q[at + 1:at + 3] == b"\0\x10" else None
        head = q[:2] + struct.pack(">HHHHH", 0x8180 if text else 0x8183, 1, 1 if text else 0, 0, 0) + q[12:at + 5]
        if not text:
            return head
        data = b"".join(bytes([len(p)]) + p for p in (text[n:n + 255].encode() for n in range(0, len(text), 255)))
        return head + b"\xc0\x0c" + struct.pack(">HHIH", 16, 1, 3600, len(data)) + data

    def run():
        while True:
            q, peer = s.recvfrom(4096)
            s.sendto(answer(q), peer)

    threading.Thread(target=run, daemon=True).start()
    return s.getsockname()[1]


def milter(peer):
    """Wants to see everything, says continue."""
    f = peer.makefile("rb")
    while len(head := f.read(4)) == 4:
        packet = f.read(struct.unpack(">I", head)[0])
        kind = packet[:1]
        if kind == b"O":
            out = b"O" + struct.pack(">III", 6, 0, 0)
        elif kind in b"DAK":
            continue
        elif kind == b"Q":
            return
        else:
            out = b"c"
        peer.sendall(struct.pack(">I", len(out)) + out)


def policy_service(peer):
    f = peer.makefile("rb")
    while line := f.readline():
        if line == b"\n":
            peer.sendall(b"action=DUNNO\n\n")


def rspamd(peer):
    f = peer.makefile("rb")
    body = b'{"action":"no action","score":0,"required_score":15,"symbols":{}}'
    while line := f.readline():
        length = 0
        while line not in (b"\r\n", b"\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            line = f.readline()
        f.read(length)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


class Parts:
    """Configuration of each part: lines, where its clients come from, whom they write to, the message."""

    def __init__(self, d, program, size):
        self.d, self.program = d, program
        plain = b"From: Joe <joe@a.test>\r\nTo: you@b.test\r\nSubject: bench\r\nDate: Fri, 27 Nov 2026 12:00:00 +0000\r\n" \
                b"Message-ID: <1@a.test>\r\n\r\n"
        line = b"all work and no play makes jack a dull boy, all work and no play\r\n"
        self.plain = plain + line * max(1, (size - len(plain)) // len(line))
        rsa, ed = self.key("r", "--rsa", "2048"), self.key("e")
        dns = f'[dns]\nservers = ["127.0.0.1:{name_server()}"]\ndnssec = "off"\n'
        tag = lambda *names: dns + "[authenticity]\n" + "".join(f'{n} = "tag"\n' for n in names)
        sign = lambda s, file: f'[[dkim.key]]\ndomain = "a.test"\nselector = "{s}"\nfile = "{file}"\n'
        seal = f'[arc]\ndomain = "a.test"\nselector = "r"\nfile = "{rsa}"\n'
        for name in ("client", "sender", "recipient"):
            with open(f"{d}/{name}", "w") as f:
                f.writelines(f"{n % 250}.{n // 250}.9.1 reject\n" if name == "client" else f"u{n}@c{n}.test reject\n"
                             for n in range(250, 10_000))
        with open(f"{d}/aliases", "w") as f:
            f.write("away: x@far.test\n")
        with open(f"{d}/secrets", "w") as f:
            f.write("a secret that is long enough\n")
        maps = "[access]\n" + "".join(f'{n} = "{d}/{n}"\n' for n in ("client", "sender", "recipient"))
        flt = lambda kind, serve: f'[[filter]]\nkind = "{kind}"\naddress = "inet:127.0.0.1:{serving(serve)}"\n'
        rates = 'messages = "1000000/s"\nrecipients = "1000000/s"\nbytes = "1000GiB/h"\n'
        brake = "".join(f'[[brake]]\nby = "{by}"\n{rates}' for by in ("address", "network", "sender-domain"))
        srs = f'[srs]\ndomain = "srs.b.test"\nkey_file = "{d}/secrets"\n'
        self.rsa_sign = sign("r", rsa)
        self.parts = {
            "off": ("", STRANGER, "you@b.test", None),
            "spf": (tag("spf"), STRANGER, "you@b.test", None),
            "dkim-verify": (tag("dkim"), STRANGER, "you@b.test", self.rsa_sign),
            "dkim-verify-ed25519": (tag("dkim"), STRANGER, "you@b.test", sign("e", ed)),
            "dmarc": (tag("dmarc"), STRANGER, "you@b.test", self.rsa_sign),
            "arc-verify": (tag("arc"), STRANGER, "you@b.test", "arc"),
            "arc-seal": (tag("arc") + seal, STRANGER, "you@b.test", None),
            "milter": (flt("milter", milter), STRANGER, "you@b.test", None),
            "policy-service": (flt("policy", policy_service), STRANGER, "you@b.test", None),
            "rspamd": (flt("rspamd", rspamd), STRANGER, "you@b.test", None),
            "access-maps": (maps, STRANGER, "you@b.test", None),
            "greylist": ('[access]\ngreylist = true\ngreylist_delay = "1s"\n', STRANGER, "you@b.test", None),
            "brakes": (brake, STRANGER, "you@b.test", None),
            "reports": ('[reports]\nbounces = ["b+LOCAL=DOMAIN@b.test"]\n', STRANGER, "you@b.test", None),
            "off-ours": ("", OURS, "you@b.test", None),
            "dkim-sign-rsa": (self.rsa_sign, OURS, "you@b.test", None),
            "dkim-sign-ed25519": (sign("e", ed), OURS, "you@b.test", None),
            "off-forward": ("", STRANGER, "away@here.test", None),
            "srs": (srs, STRANGER, "away@here.test", None),
        }
        self.made = {"arc": tag("arc") + seal}

    def key(self, selector, *more):
        file = f"{self.d}/{selector}.pem"
        out = subprocess.run([self.program, "dkim", "keygen", "a.test", selector, "--out", file, *more], check=True,
                             capture_output=True, text=True).stdout
        line = next(l for l in out.splitlines() if " IN TXT " in l)
        RECORDS[f"{selector}._domainkey.a.test"] = "".join(re.findall(r'"([^"]*)"', line))
        return file

    def message(self, how):
        """The message as a server with these lines has signed, or sealed, it."""
        if how is None:
            return self.plain
        lines, source = (self.made["arc"], STRANGER) if how == "arc" else (how, OURS)
        got = []

        def sink(peer):
            f = peer.makefile("rb")
            peer.sendall(b"220 sink\r\n")
            while line := f.readline():
                if line.upper().startswith(b"DATA"):
                    peer.sendall(b"354 go\r\n")
                    text = b""
                    while (line := f.readline()) != b".\r\n":
                        text += line[1:] if line.startswith(b".") else line
                    got.append(text)
                peer.sendall(b"250 ok\r\n")

        server = Ringpost(self, lines, serving(sink))
        try:
            Load(server.port, source, "you@b.test", self.plain, 1, 1)
            for _ in range(200):
                if got:
                    return got[0]
                time.sleep(0.05)
        finally:
            server.stop()
        sys.exit("no message was signed")


class Ringpost:
    def __init__(self, parts, lines, sink):
        self.port = free_port()
        self.d = tempfile.mkdtemp(prefix="server.", dir=parts.d)
        with open(f"{self.d}/ringpost.toml", "w") as f:
            f.write(f'''[server]
hostname = "mx.here.test"
data_dir = "{self.d}/data"
user = ""
[cores]
mta = 1
pin = "off"
[storage]
free_min = "1MiB"
[[listener]]
protocol = "smtp"
address = "127.0.0.1:{self.port}"
tls = "off"
[relay]
networks = ["{OURS}/32"]
smarthost = "127.0.0.1:{sink}"
[domains]
local = ["here.test"]
relay = ["b.test"]
aliases = "{parts.d}/aliases"
postmaster = "p@b.test"
[limits]
messages_per_session = 0
sessions_per_address = 0
connections_per_minute = 0
connections_per_minute_per_network = 0
[timeouts]
greeting_delay = "0s"
[events]
mail = "off"
[metrics]
address = ""
[admin]
socket = ""
{lines}''')
        self.log = open(f"{self.d}/log", "w+")
        self.process = subprocess.Popen([parts.program, "serve", "-c", f"{self.d}/ringpost.toml"], stdout=self.log,
                                        stderr=self.log, stdin=subprocess.DEVNULL)
        wait_port(self.port)

    def cpu(self):
        """Nanoseconds."""
        total = 0
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            with open(f"/proc/{self.process.pid}/task/{task}/schedstat") as f:
                total += int(f.read().split()[0])
        return total

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.d, ignore_errors=True)


class Postfix:
    """Postfix that hands mail to OpenDKIM, which signs it."""

    def __init__(self, parts, sink):
        self.port, self.d = free_port(), tempfile.mkdtemp(prefix="postfix.", dir=parts.d)
        os.chmod(parts.d, 0o755)
        os.chmod(self.d, 0o755)
        for name in ("etc", "spool", "data"):
            os.mkdir(f"{self.d}/{name}")
        shutil.chown(f"{self.d}/data", "postfix")
        dkim = free_port()
        for name in ("main.cf", "master.cf"):
            with open(f"{ROOT}/benches/peers/postfix/{name}") as f:
                text = f.read()
            for word, value in (("DIR", self.d), ("PORT", self.port), ("SINK", sink), ("SMTPD", 100)):
                text = text.replace(f"@{word}@", str(value))
            if name == "main.cf":
                text += f"\nsmtpd_milters = inet:127.0.0.1:{dkim}\nmilter_default_action = tempfail\n"
            with open(f"{self.d}/etc/{name}", "w") as f:
                f.write(text)
        with open(f"{self.d}/opendkim.conf", "w") as f:
            f.write(f"Domain a.test\nSelector r\nKeyFile {parts.d}/r.pem\nSocket inet:{dkim}@127.0.0.1\nMode s\n"
                    "Canonicalization relaxed/relaxed\nInternalHosts 127.0.0.0/8\nOversignHeaders From\n"
                    "RequireSafeKeys no\nSyslog no\nBackground no\n")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes = [subprocess.Popen(["opendkim", "-f", "-x", f"{self.d}/opendkim.conf"], **quiet)]
        wait_port(dkim)
        self.processes.append(subprocess.Popen(["postfix", "-c", f"{self.d}/etc", "start-fg"], **quiet))
        wait_port(self.port)

    def cpu(self):
        roots, parents, used = {p.pid for p in self.processes}, {}, {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/stat") as f:
                    words = f.read().rsplit(") ", 1)[1].split()
            except OSError:
                continue
            parents[int(entry)] = int(words[1])
            used[int(entry)] = sum(int(w) for w in words[11:15])
        total = 0
        for pid in used:
            at = pid
            while at not in roots and at in parents:
                at = parents[at]
            total += used[pid] if at in roots else 0
        return total * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    def stop(self):
        subprocess.run(["postfix", "-c", f"{self.d}/etc", "stop"], capture_output=True, check=False)
        self.processes[0].send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.d, ignore_errors=True)


class Load:
    """Sends `count` messages over `sessions` connections; ends when all are answered."""

    def __init__(self, port, source, to, message, count, sessions, deferred=False):
        data = re.sub(rb"(?m)^\.", b"..", message) + b".\r\n"
        envelope = f"MAIL FROM:<joe@a.test>\r\nRCPT TO:<{to}>\r\nDATA\r\n".encode()
        shares = [count // sessions + (n < count % sessions) for n in range(sessions)]
        threads = [threading.Thread(target=self.run, args=(port, source, envelope, data, share, deferred)) for share in shares]
        self.failed = None
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if self.failed:
            sys.exit(f"refused: {self.failed}")

    def run(self, port, source, envelope, data, count, deferred):
        s = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        f = s.makefile("rb")

        def reply(code):
            line = f.readline()
            while line[3:4] == b"-":
                line = f.readline()
            if not line.startswith(code):
                self.failed = line
            return self.failed is None

        with s:
            if not reply(b"220"):
                return
            s.sendall(b"EHLO client.test\r\n")
            reply(b"250")
            for _ in range(count):
                s.sendall(envelope)
                if deferred:
                    # Greylisted: 451 to RCPT, and 554 or 503 to DATA.
                    f.readline(), f.readline(), f.readline()
                    s.sendall(b"RSET\r\n")
                    f.readline()
                    continue
                if not (reply(b"250") and reply(b"250") and reply(b"354")):
                    return
                s.sendall(data)
                if not reply(b"250"):
                    return


def measure(server, part, message, a, warm):
    """Microseconds of CPU per message, deliveries included."""
    _, source, to, _ = part
    if warm == "greylist":
        Load(server.port, source, to, message, 1, 1, deferred=True)
        time.sleep(1.2)
    Load(server.port, source, to, message, max(a.messages // 10, 50), a.sessions)
    time.sleep(0.5)
    before = server.cpu()
    Load(server.port, source, to, message, a.messages, a.sessions)
    time.sleep(1.0)                    # the last deliveries
    return (server.cpu() - before) / a.messages / 1000


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", default=os.path.join(ROOT, "target", "release", "ringpost"))
    p.add_argument("--messages", type=int, default=5000, help="in each measurement")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--sessions", type=int, default=8)
    p.add_argument("--size", type=int, default=4096)
    p.add_argument("--only", default="", help="parts, separated by commas; the \"off\" of each is added")
    p.add_argument("--postfix", action="store_true")
    p.add_argument("--dir", default=None, help="where the data lie: a real disk")
    a = p.parse_args()
    d = tempfile.mkdtemp(prefix="ringpost-policy.", dir=a.dir)
    sink_port = free_port()
    sink = subprocess.Popen([a.bin, "load", "sink", "--listen", f"127.0.0.1:{sink_port}"], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)
    try:
        wait_port(sink_port)
        parts = Parts(d, a.bin, a.size)
        twin = lambda n: "off-forward" if n == "srs" else "off-ours" if n.startswith("dkim-sign") else "off"
        wanted = [n for n in (a.only.split(",") if a.only else parts.parts) if not n.startswith("off")]
        if a.postfix:
            wanted = ["dkim-sign-rsa"]
        names = list(dict.fromkeys([twin(n) for n in wanted] + wanted))
        messages = {n: parts.message(parts.parts[n][3]) for n in names}
        offs = [n for n in names if n.startswith("off")]
        found = {n: [] for n in [*names, "postfix+opendkim"]}
        for turn in range(a.rounds):
            for name in [*names, *offs]:
                server = Ringpost(parts, parts.parts[name][0], sink_port)
                try:
                    found[name].append(measure(server, parts.parts[name], messages[name], a, name))
                finally:
                    server.stop()
            if a.postfix:
                server = Postfix(parts, sink_port)
                try:
                    found["postfix+opendkim"].append(measure(server, parts.parts["dkim-sign-rsa"], parts.plain, a, ""))
                finally:
                    server.stop()
            print(f"round {turn + 1} of {a.rounds}", file=sys.stderr)
        for name, values in found.items():
            if values:
                row = {"part": name, "cpu_us": round(statistics.median(values), 1), "least": round(min(values), 1),
                       "most": round(max(values), 1), "runs": len(values)}
                if name in wanted:
                    off = statistics.median(found[twin(name)])
                    row["off_us"], row["cost_us"] = round(off, 1), round(statistics.median(values) - off, 1)
                print(json.dumps(row))
    finally:
        sink.terminate()
        sink.wait()
        shutil.rmtree(d, ignore_errors=True)


main()
