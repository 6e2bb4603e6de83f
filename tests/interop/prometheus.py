#!/usr/bin/env python3
"""A real Prometheus watches a running server under load, and is asked every question of the dashboards.

    tests/interop/prometheus.py [path of the ringpost binary]

Checked: promtool finds nothing wrong with configuration, rules, their tests and the page of metrics; the dashboards
are what their script writes, and Grafana's own models read them (if PyPI can be reached); all rules are evaluated
without an error; every question of every panel gives numbers. Not in `cargo test`: it installs what it needs from
Debian. Takes a minute.

Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
"""

import contextlib
import imaplib
import json
import math
import os
import pathlib
import poplib
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROGRAM = str(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/debug/ringpost").resolve())
LOAD = 45
PASSWORD = "correct horse"
failures = []


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


def result(name, problems):
    print(f"{'FAILED ' if problems else 'ok     '} {name}")
    for problem in problems:
        print(f"        {problem}")
    failures.extend(problems)


def need(program, package):
    if shutil.which(program):
        return
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env}
    subprocess.run(["apt-get", "update", "-q"], **quiet)
    subprocess.run(["apt-get", "install", "-qy", "--no-install-recommends", package], **quiet)
    if not shutil.which(program):
        skip(f"{program} is not installed and cannot be")


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def name_server(port):
    """Every domain has one mail exchanger, and that is here."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", port))

    def answer(query):
        end = 12
        while query[end]:
            end += query[end] + 1
        question, kind = query[12:end + 5], struct.unpack("!H", query[end + 1:end + 3])[0]
        data = {1: b"\x7f\0\0\1", 15: struct.pack("!H", 10) + b"\2mx\4load\4test\0"}.get(kind)
        record = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data if data else b""
        return query[:2] + struct.pack("!HHHHH", 0x8580, 1, int(bool(data)), 0, 0) + question + record

    def run():
        while True:
            query, peer = server.recvfrom(4096)
            with contextlib.suppress(IndexError, struct.error):
                server.sendto(answer(query), peer)

    threading.Thread(target=run, daemon=True).start()


class World:
    """The server, a sink, a name server and Prometheus in one directory."""

    def __init__(self, folder):
        self.dir = pathlib.Path(folder)
        self.ports = {n: free_port() for n in ("smtp", "sink", "pop3", "pop3s", "imap", "metrics", "prometheus")}
        self.ports["dns"] = free_port(socket.SOCK_DGRAM)
        self.children = []

    def start(self, name, *words):
        log = open(self.dir / f"{name}.log", "wb")
        child = subprocess.Popen([str(w) for w in words], stdout=log, stderr=log, cwd=self.dir)
        self.children.append(child)
        return child

    def stop(self):
        for child in reversed(self.children):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(20)
                child.kill()
                child.wait()

    def log(self, name):
        return (self.dir / f"{name}.log").read_text(errors="replace")

    def configure(self):
        p, d = self.ports, self.dir
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90",
             "-subj", "/CN=localhost", "-keyout", d / "key", "-out", d / "pem"], check=True, capture_output=True)
        (d / "users").write_text(f"anna:{{PLAIN}}{PASSWORD}\n")
        listeners = [("smtp", p["smtp"]), ("pop3", p["pop3"]), ("pop3s", p["pop3s"]), ("imap", p["imap"])]
        (d / "ringpost.toml").write_text(f"""
[server]
hostname = "mx.load.example"
data_dir = "{d}/data"
user = ""
[cores]
mta = 1
access = 1
pin = "off"
[storage]
segment_size = "1MiB"
journal_limit = "64MiB"
free_min = "1MiB"
durability = "weak"
[domains]
local = ["here.test"]
postmaster = "anna@here.test"
[relay]
networks = ["127.0.0.0/8"]
mx_port = {p["sink"]}
[dns]
servers = ["127.0.0.1:{p["dns"]}"]
dnssec = "off"
[tls]
certificate = "{d}/pem"
key = "{d}/key"
[auth]
users = "{d}/users"
allow_plaintext = true
[metrics]
address = "127.0.0.1:{p["metrics"]}"
[admin]
socket = ""
""" + "".join(f'[[listener]]\nprotocol = "{kind}"\naddress = "127.0.0.1:{port}"\n' for kind, port in listeners))
        rules = "".join(f"  - {DEPLOY}/prometheus/rules/{n}\n" for n in ("ringpost-recording.yml", "ringpost-alerts.yml"))
        (d / "prometheus.yml").write_text(f"""
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files:
{rules}
scrape_configs:
  - job_name: ringpost
    static_configs:
      - targets: ["127.0.0.1:{p["metrics"]}"]
""")

    def serve(self):
        name_server(self.ports["dns"])
        sink = f"127.0.0.1:{self.ports['sink']}"
        self.start("sink", PROGRAM, "load", "sink", "--listen", sink, "--tempfail", "2%", "--reject", "1%")
        self.start("server", PROGRAM, "serve", "-c", self.dir / "ringpost.toml")
        for _ in range(300):
            if '"started"' in self.log("server"):
                return
            time.sleep(0.1)
        print(self.log("server"))
        sys.exit("FAILED: the server does not start")

    def load(self):
        to = f"127.0.0.1:{self.ports['smtp']}"
        for name, rcpt in (("relay", "rcpt{n}@load.test"), ("local", "anna@here.test")):
            self.start(f"load-{name}", PROGRAM, "load", "smtp", "--to", to, "--rate", "20/s", "--connections", "2",
                       "--duration", f"{LOAD}s", "--rcpt", rcpt)
        for reader in (self.read_by_imap, self.read_by_pop3):
            threading.Thread(target=self.again, args=(reader,), daemon=True).start()

    def again(self, reader):
        until = time.monotonic() + LOAD
        while time.monotonic() < until:
            with contextlib.suppress(OSError, imaplib.IMAP4.error, poplib.error_proto):
                reader()
            time.sleep(0.5)

    def read_by_imap(self):
        box = imaplib.IMAP4("127.0.0.1", self.ports["imap"])
        box.login("anna", PASSWORD)
        box.select("INBOX")
        box.append("INBOX", None, None, b"Subject: appended\r\n\r\ntext\r\n")
        box.fetch("1:5", "(FLAGS ENVELOPE)")
        box.search(None, "SUBJECT", "appended")
        box.store("1", "+FLAGS", "\\Seen")
        box.status("INBOX", "(MESSAGES)")
        box.list()
        box.noop()
        box.logout()

    def read_by_pop3(self):
        context = ssl._create_unverified_context()
        box = poplib.POP3_SSL("127.0.0.1", self.ports["pop3s"], context=context)
        box.user("anna")
        box.pass_(PASSWORD)
        box.stat()
        box.retr(1)
        box.dele(1)
        box.quit()
        box = poplib.POP3_SSL("127.0.0.1", self.ports["pop3s"], context=context)
        box.user("anna")
        box.pass_("wrong")

    def watch(self):
        self.start("prometheus", "prometheus", f"--config.file={self.dir}/prometheus.yml",
                   f"--storage.tsdb.path={self.dir}/tsdb", f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}")

    def ask(self, path, **query):
        address = f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=10) as reply:
            return json.load(reply)["data"]


def promtool(*words, input=None):
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, input=input)
    return [] if done.returncode == 0 and not done.stderr.strip() else [(done.stdout + done.stderr).strip()]


def read_by_grafana_models(folder):
    """Problems, or None if the models cannot be had."""
    python = pathlib.Path(folder) / "venv/bin/python"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    made = subprocess.run([sys.executable, "-m", "venv", python.parents[1]], **quiet).returncode == 0
    if not made or subprocess.run([python, "-m", "pip", "-q", "install", "grafana-foundation-sdk"], **quiet).returncode:
        return None
    program = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
for path in sys.argv[1:]:
    before = json.load(open(path))
    after = json.loads(JSONEncoder().encode(Dashboard.from_json(before)))
    asked = lambda d: [t['expr'] for p in d['panels'] for t in p.get('targets', [])]
    if asked(before) != asked(after) or len(before['panels']) != len(after['panels']):
        print(path, 'is not read as it is written')
"""
    paths = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
    done = subprocess.run([python, "-c", program, *paths], capture_output=True, text=True)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def check_files(folder):
    rules = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
    result("promtool: configuration", promtool("check", "config", DEPLOY / "prometheus/prometheus.yml"))
    result("promtool: rules", promtool("check", "rules", *rules))
    result("promtool: tests of alerts", promtool("test", "rules", *sorted((DEPLOY / "prometheus/tests").glob("*.yml"))))
    done = subprocess.run([DEPLOY / "grafana/dashboards.py", "--check"], capture_output=True, text=True)
    result("dashboards are as their script writes them", [done.stderr.strip()] if done.returncode else [])
    problems = read_by_grafana_models(folder)
    if problems is None:
        print("skipped Grafana's models: grafana-foundation-sdk cannot be had")
    else:
        result("dashboards are read by Grafana's models", problems)


def questions():
    for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                text = target["expr"].replace("$__rate_interval", "20s").replace("$instance", ".*")
                yield f"{path.stem}: {panel['title']}", text


def unanswered(world):
    missing = []
    for name, text in questions():
        samples = world.ask("query", query=text)["result"]
        if not any(not math.isnan(float(sample["value"][1])) for sample in samples):
            missing.append(f"{name}: {text}")
    return missing


def check_rules(world):
    problems = []
    for group in world.ask("rules")["groups"]:
        for rule in group["rules"]:
            if rule["health"] != "ok":
                problems.append(f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}")
    result("Prometheus evaluates all rules", problems)
    firing = [f"{a['labels']['alertname']}" for a in world.ask("alerts")["alerts"] if a["state"] == "firing"]
    result("no alert is raised while all is well", firing)


def main():
    if not os.access(PROGRAM, os.X_OK):
        skip(f"no program at {PROGRAM}: cargo build first")
    need("prometheus", "prometheus")
    need("promtool", "prometheus")
    need("openssl", "openssl")
    with tempfile.TemporaryDirectory(prefix="ringpost-prometheus-") as folder:
        check_files(folder)
        world = World(folder)
        try:
            world.configure()
            world.serve()
            world.watch()
            world.load()
            time.sleep(LOAD - 15)
            until = time.monotonic() + 12
            while (missing := unanswered(world)) and time.monotonic() < until:
                time.sleep(1)
            count = len(list(questions()))
            result(f"{count} questions of the dashboards give numbers", missing)
            check_rules(world)
            with urllib.request.urlopen(f"http://127.0.0.1:{world.ports['metrics']}/metrics") as reply:
                page = reply.read().decode()
            result("promtool: the page of metrics", promtool("check", "metrics", input=page))
            if failures:
                print("\n".join(world.log("server").splitlines()[-10:]))
        finally:
            world.stop()
    print("all holds" if not failures else f"{len(failures)} problems")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
