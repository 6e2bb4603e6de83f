"""ringpost alone: how many shards, how many accounts, and what relaying feels of busy mailboxes.

Each case has servers of its own, started by it and ended by it. Mail comes from `ringpost load`.
"""
import itertools
import json
import subprocess
import threading
import time

import deliver
import mail
import servers
import wire


def shards(args, _servers):
    """The same deliveries into 1, 2 and 8 shards of one access core, in turns."""
    found = [servers.Ringpost(args, args.work, f"shards-{count}", shards=count) for count in (1, 2, 8)]
    try:
        for server in found:
            server.start()
            deliver.once_each(server, args.users)
        rows = {}
        for _ in range(args.turns):
            for server in found:
                row = deliver.measure(server, args.users, mail.Maker(args.size), 64, args.seconds)
                rows.setdefault(server, []).append(row)
        for server, measured in rows.items():
            yield server, "LMTP into many accounts, 64 connections, by shards", deliver.middle(measured)
    finally:
        for server in found:
            server.close()


def load(args, *words, timeout):
    """`ringpost load smtp` to its end; what it says of itself."""
    command = ["taskset", "-c", str(args.load_cpu), str(args.bin), "load", "smtp", "--json", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise wire.Wrong(f"load: {done.stdout[-300:]}{done.stderr[-300:]}") from None


def on_disk(mailboxes, of="**/*"):
    """MiB that files of all shards take on the disk."""
    files = [path for shard in mailboxes.glob("[0-9]*") for path in shard.glob(of) if path.is_file()]
    return sum(path.stat().st_blocks for path in files) * 512 / 2**20


def start(args, _servers):
    """A server with many accounts and much mail is started again."""
    args.logins = [f"rcpt{n}" for n in range(args.many)]
    server = servers.Ringpost(args, args.work, "start", more='[queue]\nmessages = 20000000\n')
    try:
        server.start()
        began, each = time.monotonic(), max(1, args.small // args.many)
        for _ in range(each):
            said = load(args, "--to", f"127.0.0.1:{server.port['smtp']}", "--connections", 64, "--messages",
                        args.many, "--rcpt", f"rcpt{{n}}@{servers.DOMAIN}", "--size", "512", timeout=600)
            if said.get("acknowledged", 0) != args.many:
                raise wire.Wrong(f"not all mail was taken: {said}")
            server.alive()
        server.group.settle(300)
        took = time.monotonic() - began
        full, _ = server.group.pss()
        server.stop()
        disk = {"disk_mib": on_disk(server.dir / "data" / "mailbox")}
        disk |= {f"{name}_mib": on_disk(server.dir / "data" / "mailbox", of) for name, of in (
            ("journal", "*.segment"), ("archive", "archive/*"), ("index", "index"))}
        # Ports answer when a server is ready to take mail; a mailbox is there when it can be selected.
        begun = time.monotonic()
        server.group = servers.machine.Group("mailboxes-start")
        server.process = server.launch()
        while True:
            try:
                client = wire.Single(server.port["imap"], patience=120).imap("rcpt0", server.password)
                break
            except (OSError, wire.Wrong):
                if time.monotonic() - begun > 600:
                    raise
                time.sleep(0.01)
        login = time.monotonic() - begun
        client.command("SELECT INBOX")
        selected = time.monotonic() - begun
        client.close()
        server.group.settle(60)
        rest, _ = server.group.pss()
        cpu = server.group.cpu()
        yield server, f"start with {args.many} accounts and {each * args.many} messages", {
            "filled_per_second": each * args.many / took, "login_after_s": login, "selected_after_s": selected,
            "start_cpu_s": cpu, "pss_mib": rest / 2**20, "pss_filled_mib": full / 2**20} | disk
    finally:
        server.close()


class Busy(threading.Thread):
    """Keeps the access core busy by fetching a mailbox over and over, from processes of their own."""

    def __init__(self, server, user, sessions, cpu):
        super().__init__(daemon=True)
        script = ["taskset", "-c", str(cpu), "curl", "-s", "-o", "/dev/null", "--user", f"{user}:{server.password}",
                  f"imap://127.0.0.1:{server.port['imap']}/INBOX;UID=1:*"]
        self.command, self.sessions, self.over = script, sessions, threading.Event()

    def run(self):
        running = []
        while not self.over.is_set():
            running = [p for p in running if p.poll() is None]
            running += [subprocess.Popen(self.command) for _ in range(self.sessions - len(running))]
            time.sleep(0.05)
        for process in running:
            process.terminate()
            process.wait()


def beside(args, _servers):
    """Latency of relayed mail with the access core idle and saturated, in turns. With fewer than four CPUs the
    generators and the access core share one: the figures say what happens then, and no more."""
    count = len(args.cpus)
    cpu = args.cpus
    sink_port = servers.machine.free_ports(1)[0]
    more = f'[relay]\nnetworks = ["127.0.0.0/8"]\nsmarthost = "127.0.0.1:{sink_port}"\n'
    server = servers.Ringpost(args, args.work, "beside", more, cpus=(cpu[0], cpu[1 % count]))
    args.load_cpu, reader = cpu[2 % count if count > 2 else -1], cpu[-1]
    sink = subprocess.Popen(["taskset", "-c", str(args.load_cpu), str(args.bin), "load", "sink", "--listen",
                             f"127.0.0.1:{sink_port}"], stdout=subprocess.DEVNULL)
    try:
        server.start()
        deliver.fill(server, args.ten, args.messages, args.size, args.most)
        rows = {}
        for turn, saturated in itertools.product(range(args.turns), (False, True)):
            busy = Busy(server, args.ten, 4, reader) if saturated else None
            if busy:
                busy.start()
                time.sleep(1)
            began, used = time.monotonic(), server.group.cpu()
            said = load(args, "--to", f"127.0.0.1:{server.port['smtp']}", "--connections", 20, "--rate", "1000/s",
                        "--duration", f"{max(3, args.seconds)}s", timeout=120)
            row = {"p50_ms": said["latency"]["p50_us"] / 1e3, "p99_ms": said["latency"]["p99_us"] / 1e3,
                   "per_second": said["messages_per_second"],
                   "server_busy": (server.group.cpu() - used) / (time.monotonic() - began)}
            if busy:
                busy.over.set()
                busy.join()
            rows.setdefault(saturated, []).append(row)
            server.alive()
        for saturated, found in rows.items():
            found.sort(key=lambda row: row["p99_ms"])
            what = "saturated" if saturated else "idle"
            yield server, f"relay at 1000/s, access core {what}, {count} CPUs", \
                found[len(found) // 2] | {"runs": len(found)}
    finally:
        sink.terminate()
        sink.wait()
        server.close()
