"""What thunderbird.py stands on: a ringpost, a display, a Thunderbird with a profile, and the remote control."""

import contextlib
import email
import email.policy
import imaplib
import json
import os
import poplib
import re
import select
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PASSWORD = 'correct horse 5"battery\\'
USERS = ("anna", "bert", "carl", "dora")
SERVER = {user: f"server{n + 2}" for n, user in enumerate(USERS)}
SERVICES = ("smtp", "submission", "submissions", "imap", "imaps", "pop3", "pop3s")
FAILED = []


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


def address(user):
    return f"{user}@test.example"


def free_ports(names):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in names]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return {name: s.getsockname()[1] for name, s in zip(names, sockets)}


def wait_for(what, check, seconds=30):
    """Waits until `check` gives something true, and gives that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s for {what}")


@contextlib.contextmanager
def step(name):
    try:
        yield
    except (AssertionError, LookupError, ValueError, OSError, imaplib.IMAP4.error, poplib.error_proto,
            smtplib.SMTPException) as e:
        FAILED.append(name)
        print(f"FAILED  {name}\n        {type(e).__name__}: {str(e)[:2000]}", flush=True)
    else:
        print(f"ok      {name}", flush=True)


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def get_programs():
    """The paths of Thunderbird and Xvfb."""
    def missing():
        return [package for path, package in ((thunderbird, "thunderbird"), ("/usr/bin/Xvfb", "xvfb"),
                                              ("/usr/bin/openssl", "openssl")) if not os.path.exists(path)]

    thunderbird = "/usr/lib/thunderbird/thunderbird"
    if missing():
        env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        for words in (["update"], ["install", "--no-install-recommends", *missing()]):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(["apt-get", "-qy", *words], env=env, capture_output=True, timeout=300, check=False)
    if missing():
        skip(f"{' and '.join(missing())}: not installed and cannot be")
    return thunderbird, "/usr/bin/Xvfb"


def certificates(folder):
    """An authority and a certificate of localhost by it: Thunderbird takes no certificate that is both."""
    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(*new, "-x509", "-days", "30", "-subj", "/CN=An authority for tests", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(*new, "-subj", "/CN=localhost", "-keyout", "key", "-out", "csr")
    write(os.path.join(folder, "extensions"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n"
          "extendedKeyUsage=serverAuth\nkeyUsage=digitalSignature\n")
    openssl("x509", "-req", "-in", "csr", "-days", "30", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-extfile", "extensions", "-out", "pem")


class Ringpost:
    """The server, and what it has."""

    def __init__(self, folder, program):
        self.ports, self.log = free_ports(SERVICES), os.path.join(folder, "ringpost.log")
        self.tls = ssl.create_default_context(cafile=os.path.join(folder, "ca.pem"))
        write(os.path.join(folder, "users"), "".join(f"{address(user)}:{{PLAIN}}{PASSWORD}\n" for user in USERS))
        listeners = "".join(f'[[listener]]\nprotocol = "{name}"\naddress = "127.0.0.1:{port}"\n'
                            for name, port in self.ports.items())
        config = write(os.path.join(folder, "ringpost.toml"), f"""[server]
hostname = "mx.test.example"
data_dir = "{folder}/data"
user = ""
[cores]
mta = 1
access = 2
shards = 2
pin = "off"
[storage]
segment_size = "1MiB"
journal_limit = "64MiB"
free_min = "1MiB"
durability = "weak"
[domains]
local = ["test.example"]
postmaster = "{address(USERS[0])}"
[auth]
users = "{folder}/users"
[tls]
certificate = "{folder}/pem"
key = "{folder}/key"
[metrics]
address = ""
[admin]
socket = ""
{listeners}""")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([program, "serve", "-c", config], stderr=log)
        wait_for("the server", lambda: '"started"' in self.said() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()

    def deliver(self, user, data):
        with smtplib.SMTP("127.0.0.1", self.ports["smtp"], timeout=30) as s:
            s.sendmail("bob@far.example", [address(user)], data, ["BODY=8BITMIME"])

    @contextlib.contextmanager
    def imap(self, user):
        with imaplib.IMAP4_SSL("localhost", self.ports["imaps"], ssl_context=self.tls, timeout=30) as m:
            good(m.login(address(user), PASSWORD))
            yield m

    def mailbox(self, user, name="INBOX"):
        """Subject: (flags, octets) of each message there."""
        found = {}
        with self.imap(user) as m:
            good(m.select(f'"{name}"', readonly=True))
            for item in good(m.fetch("1:*", "(FLAGS BODY.PEEK[])")) if good(m.search(None, "ALL")) != [b""] else []:
                if isinstance(item, tuple):
                    flags = imaplib.ParseFlags(item[0])
                    subject = email.message_from_bytes(item[1], policy=email.policy.default)["Subject"]
                    found[str(subject)] = ({flag.decode() for flag in flags}, item[1])
        return found

    def names(self, user):
        with self.imap(user) as m:
            return {re.sub(rb'^\(.*?\) "/" ', b"", line).strip(b'"').decode() for line in good(m.list())}

    def pop3(self, user):
        """Number of messages."""
        pop = poplib.POP3_SSL("localhost", self.ports["pop3s"], context=self.tls, timeout=30)
        try:
            pop.user(address(user))
            pop.pass_(PASSWORD)
            return pop.stat()[0]
        finally:
            pop.quit()


def good(answer):
    assert answer[0] == "OK", answer
    return answer[1]


class Marionette:
    """The remote control: pieces of JSON, each behind its length and a colon."""

    def __init__(self, port, script):
        self.script, self.number = script, 0
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.socket.settimeout(120)
        self.stream = self.socket.makefile("rb")
        self.read()
        self.command("WebDriver:NewSession", {"capabilities": {}})
        self.command("Marionette:SetContext", {"value": "chrome"})
        self.command("WebDriver:SetTimeouts", {"script": 90000})

    def read(self):
        size = b""
        while not size.endswith(b":"):
            byte = self.stream.read(1)
            if not byte:
                raise OSError("Thunderbird has gone")
            size += byte
        return json.loads(self.stream.read(int(size[:-1])))

    def command(self, name, parameters):
        self.number += 1
        text = json.dumps([0, self.number, name, parameters]).encode()
        self.socket.sendall(b"%d:%s" % (len(text), text))
        _, number, error, result = self.read()
        assert number == self.number, (number, self.number)
        if error:
            raise ValueError(f"{error.get('message')}\n{error.get('stacktrace', '')}".rstrip())
        return result

    def run(self, action, *given):
        """An action of thunderbird.js."""
        try:
            return self.command("WebDriver:ExecuteScript", {"script": self.script, "args": [action, list(given)],
                                                            "sandbox": "system", "newSandbox": True})["value"]
        except ValueError as e:
            raise ValueError(f"{action} {given}: {e}") from None


def settings(ports):
    """The profile: accounts without passwords, nothing that asks the network or the user."""
    prefs = {
        "marionette.port": 0,
        "app.normandy.enabled": False,
        "app.update.enabled": False,
        "browser.safebrowsing.downloads.remote.enabled": False,
        "datareporting.policy.dataSubmissionEnabled": False,
        "extensions.update.enabled": False,
        "mail.account.account1.server": "server1",
        "mail.accountmanager.defaultaccount": "account2",
        "mail.accountmanager.localfoldersserver": "server1",
        "mail.biff.play_sound": False,
        "mail.biff.show_alert": False,
        "mail.chat.enabled": False,
        "mail.inappnotifications.enabled": False,
        "mail.provider.enabled": False,
        "mail.rights.version": 1,
        "mail.server.server1.directory-rel": "[ProfD]Mail/Local Folders",
        "mail.server.server1.hostname": "Local Folders",
        "mail.server.server1.type": "none",
        "mail.server.server1.userName": "nobody",
        "mail.shell.checkDefaultClient": False,
        "mail.spam.version": 1,
        "mail.winsearch.firstRunDone": True,
        "mailnews.database.global.indexer.enabled": False,
        "mailnews.start_page.enabled": False,
        "mailnews.start_page_override.mstone": "ignore",
        "network.dns.disableIPv6": True,
        "toolkit.telemetry.enabled": False,
        # POP3 and submission are said to the standard output.
        "browser.dom.window.dump.enabled": True,
        "devtools.console.stdout.chrome": True,
        "mailnews.pop3.loglevel": "All",
        "mailnews.smtp.loglevel": "All",
    }
    # 2: STARTTLS, 3: TLS.
    services = {"anna": ("imap", "imap", 2, "submission"), "bert": ("imap", "imaps", 3, "submissions"),
                "carl": ("pop3", "pop3", 2, "submission"), "dora": ("pop3", "pop3s", 3, "submissions")}
    for n, user in enumerate(USERS):
        kind, service, socket_type, submission = services[user]
        number, server = n + 2, f"mail.server.{SERVER[user]}"
        prefs.update({
            f"mail.account.account{number}.server": SERVER[user],
            f"mail.account.account{number}.identities": f"id{number}",
            f"mail.identity.id{number}.fullName": user.capitalize() + " Ä",
            f"mail.identity.id{number}.useremail": address(user),
            f"mail.identity.id{number}.smtpServer": f"smtp{number}",
            f"mail.identity.id{number}.valid": True,
            f"{server}.type": kind,
            f"{server}.hostname": "localhost",
            f"{server}.port": ports[service],
            f"{server}.userName": address(user),
            f"{server}.name": user,
            f"{server}.socketType": socket_type,
            f"{server}.authMethod": 3,
            f"{server}.check_new_mail": False,
            f"{server}.login_at_startup": False,
            f"mail.smtpserver.smtp{number}.hostname": "localhost",
            f"mail.smtpserver.smtp{number}.port": ports[submission],
            f"mail.smtpserver.smtp{number}.username": address(user),
            f"mail.smtpserver.smtp{number}.try_ssl": 2 if submission == "submission" else 3,
            f"mail.smtpserver.smtp{number}.authMethod": 3,
        })
    prefs.update({
        "mail.accountmanager.accounts": ",".join(f"account{n + 1}" for n in range(len(USERS) + 1)),
        "mail.smtpservers": ",".join(f"smtp{n + 2}" for n in range(len(USERS))),
        "mail.smtp.defaultserver": "smtp2",
        f"mail.server.{SERVER['anna']}.offline_download": False,
        f"mail.server.{SERVER['anna']}.autosync_offline_stores": False,
        f"mail.server.{SERVER['bert']}.use_condstore": True,
        f"mail.server.{SERVER['carl']}.leave_on_server": True,
    })
    return "".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in prefs.items())


class Thunderbird:
    """The program, its display and its profile."""

    def __init__(self, folder, program, xvfb, ports):
        self.folder, self.processes = folder, []
        self.profile = os.path.join(folder, "profile")
        self.log, self.imap_log = os.path.join(folder, "thunderbird.log"), os.path.join(folder, "imap.log")
        os.makedirs(self.profile)
        os.makedirs(os.path.join(folder, "run"), mode=0o700)
        write(os.path.join(self.profile, "user.js"), settings(ports))
        try:
            self.start(program, xvfb)
        except BaseException:
            self.stop()
            raise

    def start(self, program, xvfb):
        reader, writer = os.pipe()
        with open(os.path.join(self.folder, "xvfb.log"), "wb") as log:
            self.processes.append(subprocess.Popen(
                [xvfb, "-displayfd", str(writer), "-screen", "0", "1280x800x24", "-nolisten", "tcp"],
                stdout=log, stderr=log, pass_fds=[writer], start_new_session=True))
        os.close(writer)
        with os.fdopen(reader, "rb") as display:
            if not select.select([display], [], [], 30)[0] or not (number := display.readline().strip()):
                skip("Xvfb does not start")
        env = dict(os.environ, DISPLAY=":" + number.decode(), HOME=self.folder, LC_ALL="C.UTF-8", TZ="UTC",
                   XDG_RUNTIME_DIR=os.path.join(self.folder, "run"), MOZ_CRASHREPORTER_DISABLE="1",
                   MOZ_LOG="sync,timestamp,IMAP:5", MOZ_LOG_FILE=self.imap_log, NO_AT_BRIDGE="1")
        for name in ("DBUS_SESSION_BUS_ADDRESS", "WAYLAND_DISPLAY", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
            env.pop(name, None)
        with open(self.log, "wb") as log:
            self.processes.append(subprocess.Popen(
                [program, "--profile", self.profile, "--no-remote", "--marionette", "--remote-allow-system-access"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True))
        path = os.path.join(self.profile, "MarionetteActivePort")

        def port():
            assert self.processes[1].poll() is None, self.said()[-1000:]
            with contextlib.suppress(OSError), open(path, encoding="ascii") as f:
                return f.read().strip()

        port = int(wait_for("Thunderbird", port, 90))
        with open(os.path.join(HERE, "thunderbird.js"), encoding="utf-8") as f:
            self.marionette = Marionette(port, f.read())

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()

    def imap_said(self):
        text = ""
        for name in sorted(os.listdir(self.folder)):
            if name.startswith("imap.log"):
                with open(os.path.join(self.folder, name), encoding="utf-8", errors="replace") as f:
                    text += f.read()
        return text

    def quit(self):
        """The end that a user makes: the exit code."""
        self.marionette.command("Marionette:Quit", {"flags": ["eAttemptQuit"]})
        return self.processes[1].wait(60)

    def stop(self):
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
