"""The servers that are compared: ringpost and Dovecot, each with a directory, ports and a cgroup of its own.

Both have the same users with the same {PLAIN} passwords, a cache of verified passwords, the same certificate
(P-256), fsync as by default, no limits on who comes how often. Started as they are asked for, ended by `close`.
"""
import pathlib
import shutil
import subprocess

import machine

HERE = pathlib.Path(__file__).resolve().parent
PASSWORD = "correct-horse"
DOMAIN = "bench.test"
# The journal is so short that nearly all mail lies in the archive, as that of last week does.
ARCHIVED = '[storage]\nsegment_size = "1MiB"\njournal_window = "2MiB"\n'
FORMATS = {"mdbox": "mdbox:~/mdbox", "sdbox": "sdbox:~/sdbox", "maildir": "maildir:~/Maildir"}
PORTS = ("lmtp", "pop3", "pop3s", "imap", "imaps")


class Server:
    """What both have in common. `name` is what tables say."""
    password = PASSWORD

    def __init__(self, args, work, name):
        self.args, self.name, self.dir = args, name, work / name
        self.group = self.process = None
        self.port = dict(zip(PORTS, machine.free_ports(len(PORTS))))
        self.cert, self.key = certificate(work)

    def start(self, keep=False, **options):
        """An empty server, what was there is removed; or, to `keep`, a new process with the same mail."""
        self.stop()
        if not keep:
            shutil.rmtree(self.dir, ignore_errors=True)
            self.dir.mkdir(mode=0o755)
        self.group = machine.Group(f"mailboxes-{self.name}")
        self.process = self.launch(**options)
        for port in self.port.values():
            machine.wait_port(port, self.name, self.process, self.log())
        self.group.settle(5)
        return self

    def stop(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
            self.process = None
        if self.group:
            self.group.close()
            self.group = None

    def close(self):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def measured(self):
        return machine.Measured(self.group)

    def passwords(self):
        return "".join(f"{name}:{{PLAIN}}{PASSWORD}{self.fields}\n" for name in self.args.logins)

    def alive(self):
        if self.process.poll() is not None:
            text = self.log().read_text(errors="replace")[-3000:]
            raise SystemExit(f"{self.name} has ended with {self.process.returncode}: {text}")


class Ringpost(Server):
    fields = ""
    batch = 40              # messages of one APPEND when a mailbox is filled: what is committed as one is bounded

    def __init__(self, args, work, name="ringpost", more="", shards=1, cpus=None):
        """`cpus`: one for the mail core and one for the access core; default: both on the server's one."""
        super().__init__(args, work, name)
        self.more, self.shards, self.cpus = more, shards, cpus
        self.port["smtp"] = machine.free_ports(1)[0]

    def log(self):
        return self.dir / "log"

    def launch(self, **_options):
        (self.dir / "users").write_text(self.passwords())
        listeners = "".join(f'[[listener]]\nprotocol = "{name}"\naddress = "127.0.0.1:{port}"\n'
                            for name, port in self.port.items())
        (self.dir / "ringpost.toml").write_text(f'''
[server]
hostname = "mx.{DOMAIN}"
data_dir = "{self.dir}/data"
user = ""
[cores]
mta = {f"[{self.cpus[0]}]" if self.cpus else 1}
access = {f"[{self.cpus[1]}]" if self.cpus else 1}
shards = {self.shards}
pin = "{"on" if self.cpus else "off"}"
[domains]
local = ["{DOMAIN}"]
postmaster = "{self.args.users[0]}@{DOMAIN}"
[tls]
certificate = "{self.cert}"
key = "{self.key}"
[auth]
users = "{self.dir}/users"
allow_plaintext = true
[limits]
sessions_per_address = 0
sessions_per_network = 0
sessions_per_user = 0
connections_per_minute = 0
connections_per_minute_per_network = 0
messages_per_session = 0
[timeouts]
greeting_delay = "0s"
[metrics]
address = ""
[admin]
socket = ""
[events]
target = "{self.dir}/events"
{listeners}
{self.more}
{self.args.config}
''')
        cpus = set(self.cpus or [self.args.server_cpu])
        return self.group.spawn(cpus, self.log(), self.args.bin, "serve", "-c",
                                self.dir / "ringpost.toml")


class Dovecot(Server):
    fields = "::::::"
    batch = 400

    def __init__(self, args, work, kind):
        super().__init__(args, work, f"dovecot-{kind}")
        self.kind = kind

    def log(self):
        return self.dir / "dovecot.log"

    def launch(self, hibernate="0", reuse=None):
        (self.dir / "passwd").write_text(self.passwords())
        (self.dir / "mail").mkdir(exist_ok=True)
        shutil.chown(self.dir / "mail", "nobody", "nogroup")
        words = {"DIR": self.dir, "LOCATION": FORMATS[self.kind], "CERT": self.cert, "KEY": self.key,
                 "HIBERNATE": hibernate, "REUSE": reuse or self.args.reuse}
        words |= {name.upper(): port for name, port in self.port.items()}
        text = (HERE.parent / "peers" / "dovecot-mail" / "dovecot.conf").read_text()
        for word, value in words.items():
            text = text.replace(f"@{word}@", str(value))
        (self.dir / "dovecot.conf").write_text(text)
        return self.group.spawn({self.args.server_cpu}, self.dir / "out", "dovecot", "-F", "-c",
                                self.dir / "dovecot.conf")


def certificate(work):
    """One for all, made once."""
    cert, key = work / "cert.pem", work / "key.pem"
    if not cert.exists():
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "30", "-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=DNS:{DOMAIN}",
                        "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60)
    return cert, key
