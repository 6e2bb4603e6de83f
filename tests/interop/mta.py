#!/usr/bin/env python3
"""Postfix and Exim from Debian as next hops and as senders, in both directions, with STARTTLS.

Mail is given to Postfix for a mailbox of Exim and the other way round; the way between them leads
through a running ringpost:

    client -> Postfix -> ringpost -> Exim -> maildir
    client -> Exim -> ringpost -> Postfix -> maildir

Each hop must be under TLS, each body must arrive octet for octet, a recipient that the next hop
refuses must come back as a notification, and one that it defers must arrive in the end. Not in
`cargo test`: needs root, and installs what it needs from Debian. Exim is unpacked beside the system, because
Debian allows one mail server only.

    tests/interop/mta.py [path of the ringpost binary]

Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
"""

import contextlib
import email
import email.policy
import glob
import os
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PROGRAM = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "target", "debug", "ringpost"))


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def apt(*words, **more):
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    return subprocess.run(["apt-get", "-qy", *words], env=env, capture_output=True, timeout=300, check=False, **more)


def get_postfix():
    if not shutil.which("postfix") and not os.path.exists("/usr/sbin/postfix"):
        apt("update")
        apt("install", "--no-install-recommends", "postfix")
    if not os.path.exists("/usr/sbin/postfix"):
        skip("Postfix is not installed and cannot be")


def get_exim(folder):
    """Unpacks Exim; the path of its program."""
    names = ["exim4-daemon-light", "exim4-base"]
    if apt("download", *names, cwd=folder).returncode:
        apt("update")
        apt("download", *names, cwd=folder)
    debs = glob.glob(os.path.join(folder, "*.deb"))
    if len(debs) != len(names):
        skip("Exim cannot be downloaded")
    for deb in debs:
        subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)
    program = os.path.join(folder, "usr", "sbin", "exim4")
    if b"not found" in subprocess.run(["ldd", program], capture_output=True, check=False).stdout:
        depends = subprocess.run(["dpkg-deb", "-f", *glob.glob(os.path.join(folder, "*light*.deb")), "Depends"],
                                 capture_output=True, text=True, check=True).stdout
        apt("install", "--no-install-recommends", *re.findall(r"\blib[a-z0-9.+-]+", depends))
    # The name is built into Debian's program.
    if subprocess.run(["id", "Debian-exim"], capture_output=True, check=False).returncode:
        subprocess.run(["useradd", "--system", "--user-group", "Debian-exim"], check=False)
    if subprocess.run([program, "-bV", "-C", "/dev/null"], capture_output=True, check=False).returncode:
        skip("Exim does not run here")
    return program


def wait_for(what, check, seconds=30):
    """Waits until `check` gives something true, and gives that; None after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    print(f"        waited {seconds} s for {what}")
    return None


def greets(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as s:
        s.settimeout(3)
        return s.recv(100).startswith(b"220")
    return False


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


class Postfix:
    """Takes mail for postfix.test into a maildir; everything else goes to ringpost under TLS."""

    def __init__(self, folder, port, onward, key, pem):
        self.port, self.etc = port, os.path.join(folder, "etc")
        self.mail = os.path.join(folder, "mail")
        for name in ("etc", "spool", "data", "mail"):
            os.makedirs(os.path.join(folder, name))
        shutil.chown(os.path.join(folder, "data"), "postfix")
        shutil.chown(self.mail, "postfix")
        uid = shutil.os.stat(self.mail).st_uid
        write(os.path.join(self.etc, "main.cf"), f"""compatibility_level = 3.6
config_directory = {self.etc}
queue_directory = {folder}/spool
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
shlib_directory = /usr/lib/postfix
meta_directory = /etc/postfix
mail_owner = postfix
setgid_group = postdrop
maillog_file = /var/log/ringpost-interop-postfix.log
myhostname = mx.postfix.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
virtual_mailbox_domains = postfix.test
virtual_mailbox_maps = inline:{{ user@postfix.test=user/ late@postfix.test=late/ }}
virtual_mailbox_base = {self.mail}
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{uid}
relayhost = [127.0.0.1]:{onward}
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = check_recipient_access inline:{{ refused@postfix.test=REJECT }}, permit
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
smtp_host_lookup = native
smtp_tls_security_level = encrypt
smtpd_tls_security_level = encrypt
smtpd_tls_key_file = {key}
smtpd_tls_cert_file = {pem}
smtpd_tls_received_header = yes
""")
        services = """smtpd pass unpriv
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
smtp unix - - n - - smtp
relay unix - - n - - smtp
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
tlsmgr unix - - n 1000? 1 tlsmgr
scache unix - - n - 1 scache
verify unix - - n - 1 verify
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
showq unix n - n - - showq
""".split("\n", 1)[1]
        write(os.path.join(self.etc, "master.cf"), f"127.0.0.1:{port} inet n - n - - smtpd\n{services}")
        self.process = subprocess.Popen(["postfix", "-c", self.etc, "start-fg"], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)

    def log(self):
        with contextlib.suppress(OSError), open("/var/log/ringpost-interop-postfix.log", encoding="utf-8") as f:
            return f.read()
        return ""

    def flush(self):
        subprocess.run(["postqueue", "-c", self.etc, "-f"], check=False, timeout=60)

    def stop(self):
        subprocess.run(["postfix", "-c", self.etc, "stop"], check=False, capture_output=True, timeout=60)
        self.process.wait(60)
        with contextlib.suppress(OSError):
            os.remove("/var/log/ringpost-interop-postfix.log")


class Exim:
    """Takes mail for exim.test into a maildir; everything else goes to ringpost under TLS."""

    def __init__(self, program, folder, port, onward, key, pem):
        self.port, self.program, self.folder = port, program, folder
        self.mail = os.path.join(folder, "mail")
        for name in ("spool", "log", "mail"):
            os.makedirs(os.path.join(folder, name))
            shutil.chown(os.path.join(folder, name), "Debian-exim", "Debian-exim")
        own_key = os.path.join(folder, "key")
        shutil.copy(key, own_key)
        shutil.chown(own_key, "Debian-exim", "Debian-exim")
        self.config = write(os.path.join(folder, "exim.conf"), f"""primary_hostname = mx.exim.test
exim_path = {program}
exim_user = Debian-exim
exim_group = Debian-exim
spool_directory = {folder}/spool
log_file_path = {folder}/log/%s
pid_file_path = {folder}/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
domainlist local_domains = exim.test
hostlist relay_from_hosts = 127.0.0.1
acl_smtp_rcpt = rcpt
tls_advertise_hosts = *
tls_certificate = {pem}
tls_privatekey = {own_key}
dsn_advertise_hosts = *
host_lookup =
rfc1413_hosts =
accept_8bitmime = true
smtputf8_advertise_hosts =
message_size_limit = 50M
allow_mx_to_ip = true
begin acl
rcpt:
  deny recipients = refused@exim.test
       message = no mail for this one
  defer recipients = late@exim.test
       condition = ${{if exists{{{folder}/open}}{{no}}{{yes}}}}
       message = come back later
  accept
begin routers
local:
  driver = accept
  domains = +local_domains
  transport = maildir
onward:
  driver = manualroute
  route_list = * 127.0.0.1::{onward} byname
  self = send
  transport = smtp
begin transports
maildir:
  driver = appendfile
  directory = {self.mail}/all
  maildir_format
  create_directory
  envelope_to_add
  user = Debian-exim
  group = Debian-exim
smtp:
  driver = smtp
  hosts_require_tls = *
  tls_verify_certificates =
  message_linelength_limit = 100000
begin retry
* * F,1h,5s
""")
        self.process = subprocess.Popen([program, "-bdf", "-q5s", "-C", self.config], stdout=subprocess.DEVNULL,
                                        stderr=open(os.path.join(folder, "err"), "wb"))

    def log(self):
        text = ""
        for name in ("log/main", "log/mainlog", "log/paniclog", "log/panic", "log/rejectlog", "err"):
            with contextlib.suppress(OSError), open(os.path.join(self.folder, name), encoding="utf-8",
                                                   errors="replace") as f:
                text += f.read()
        return text

    def open_late(self):
        write(os.path.join(self.folder, "open"), "")

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def messages():
    """Name, bytes of the body."""
    yield "plain", b"hello\r\n"
    yield "empty", b""
    yield "dots", b".\r\n..\r\n.a\r\n...\r\n\r\n.\r\n"
    yield "eight-bit", "gr\u00fc\u00dfe \u2603\r\n".encode() + bytes(range(128, 256)) + b"\r\n"
    yield "998", b"x" * 998 + b"\r\n" + b"y" * 998 + b"\r\n"
    yield "megabyte", b"".join(b"%07d %s\r\n" % (n, b"z" * 60) for n in range(15000))
    yield "no-blank-end", b"first\r\n\r\n\r\n"


def content(name, body):
    eight = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    return b"From: user\r\nTo: user\r\nSubject: interop-%s\r\n%s\r\n%s" % (name.encode(), eight, body)


def send(port, sender, to, data, options=(), rcpt=()):
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as s:
        s.starttls()
        s.ehlo()
        s.sendmail(sender, [to], data, mail_options=["BODY=8BITMIME", *options], rcpt_options=rcpt)


def find(folder, test):
    """The first message below a maildir for which `test` holds, as bytes with CRLF."""
    for path in glob.glob(os.path.join(folder, "*", "new", "*")):
        with contextlib.suppress(OSError), open(path, "rb") as f:
            data = re.sub(rb"\r?\n", b"\r\n", f.read())
            if test(data):
                return data
    return None


FAILED = []


def check(name, holds, detail=""):
    print(("ok      " if holds else "FAILED  ") + name)
    if not holds:
        FAILED.append(name)
        if detail:
            print("        " + str(detail)[:2000].replace("\n", "\n        "))
    return holds


def through(name, entry, entry_domain, exit_folder, exit_domain, exit_tls, logs):
    """All messages in at `entry`, out at the other."""
    for kind, body in messages():
        sender, to = f"user@{entry_domain}", f"user@{exit_domain}"
        send(entry.port, sender, to, content(kind, body))
        head = b"Subject: interop-%s\r\n" % kind.encode()
        got = wait_for(f"{kind} at {exit_domain}", lambda h=head: find(exit_folder, lambda d: h in d), 20)
        if not check(f"{name}: {kind} arrives", got is not None, logs()):
            continue
        parted = got.split(b"\r\n\r\n", 1)
        check(f"{name}: {kind} is the same octets", parted[1] == body, (parted[1][:200], body[:200]))
        fields = parted[0].decode("latin-1")
        ours = re.search(r"by mx\.ring\.test[^;]*?with (\w+)", fields, re.S)
        check(f"{name}: {kind} comes in under TLS", bool(ours) and ours[1].startswith("ESMTPS"), fields)
        check(f"{name}: {kind} goes out under TLS", re.search(exit_tls, fields, re.S) is not None, fields)


def refused(name, entry, entry_domain, entry_folder, exit_domain, logs):
    """The next hop refuses a recipient: the sender is told by us."""
    send(entry.port, f"user@{entry_domain}", f"refused@{exit_domain}", content("refused-" + entry_domain, b"x\r\n"))

    def is_report(data):
        return b"multipart/report" in data and f"refused@{exit_domain}".encode() in data and b"mx.ring.test" in data

    got = wait_for("a notification", lambda: find(entry_folder, is_report), 20)
    if not check(f"{name}: a refused recipient is notified", got is not None, logs()):
        return
    report = email.message_from_bytes(got, policy=email.policy.default)
    parts = [p for p in report.walk() if p.get_content_type() == "message/delivery-status"]
    fields = parts[0].get_payload()[1] if parts else {}
    check(f"{name}: the report says what failed",
          fields.get("Action") == "failed" and str(fields.get("Status", "")).startswith("5.")
          and f"refused@{exit_domain}" in fields.get("Final-Recipient", ""), got.decode("latin-1"))


def main():
    if os.geteuid() != 0:
        skip("needs root")
    if not os.access(PROGRAM, os.X_OK):
        skip(f"no program at {PROGRAM}: cargo build first")
    get_postfix()
    folder = tempfile.mkdtemp(prefix="ringpost-mta-", dir="/var/tmp")
    os.chmod(folder, 0o755)
    for name in ("exim", "exim-run", "postfix", "ring"):
        os.makedirs(os.path.join(folder, name))
    exim_program = get_exim(os.path.join(folder, "exim"))
    key, pem = os.path.join(folder, "key"), os.path.join(folder, "pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", "30", "-subj", "/CN=mx.ring.test", "-addext",
                    "subjectAltName=DNS:mx.ring.test,DNS:mx.postfix.test,DNS:mx.exim.test", "-keyout", key, "-out", pem], check=True, capture_output=True)
    ring, postfix_port, exim_port = free_port(), free_port(), free_port()
    config = write(os.path.join(folder, "ring", "ringpost.toml"), f"""[server]
hostname = "mx.ring.test"
data_dir = "{folder}/ring/data"
user = ""
[cores]
mta = 1
pin = "off"
[storage]
segment_size = "4MiB"
journal_limit = "256MiB"
free_min = "1MiB"
[[listener]]
protocol = "smtp"
address = "127.0.0.1:{ring}"
tls = "required"
[tls]
certificate = "{pem}"
key = "{key}"
[relay]
networks = ["127.0.0.0/8"]
[[route]]
domain = "postfix.test"
next_hop = "127.0.0.1:{postfix_port}"
[[route]]
domain = "exim.test"
next_hop = "127.0.0.1:{exim_port}"
[queue]
retry_first = "2s"
retry_max = "4s"
[metrics]
address = ""
[admin]
socket = "{folder}/ring/admin.sock"
""")
    log = open(os.path.join(folder, "ring", "log"), "wb")
    ours = subprocess.Popen([PROGRAM, "serve", "--config", config], stderr=log)
    postfix = Postfix(os.path.join(folder, "postfix"), postfix_port, ring, key, pem)
    exim = Exim(exim_program, os.path.join(folder, "exim-run"), exim_port, ring, key, pem)

    def logs():
        with open(os.path.join(folder, "ring", "log"), encoding="utf-8") as f:
            return "\n".join([f.read()[-1500:], postfix.log()[-2000:], exim.log()[-2000:]])

    try:
        for name, port in (("ringpost", ring), ("Postfix", postfix_port), ("Exim", exim_port)):
            if not wait_for(name, lambda p=port: greets(p), 20):
                print(logs())
                skip(f"{name} does not start")
        through("Postfix to Exim", postfix, "postfix.test", exim.mail, "exim.test", r"by mx\.exim\.test.*?\(TLS1", logs)
        through("Exim to Postfix", exim, "exim.test", postfix.mail, "postfix.test", r"using TLSv1", logs)
        refused("Postfix to Exim", postfix, "postfix.test", postfix.mail, "exim.test", logs)
        refused("Exim to Postfix", exim, "exim.test", exim.mail, "postfix.test", logs)
        send(postfix.port, "user@postfix.test", "late@exim.test", content("late", b"x\r\n"))
        time.sleep(3)
        check("a deferred recipient waits", find(exim.mail, lambda d: b"interop-late" in d) is None)
        exim.open_late()
        got = wait_for("the deferred one", lambda: find(exim.mail, lambda d: b"interop-late" in d), 20)
        check("a deferred recipient gets its mail", got is not None, logs())
    finally:
        for server in (postfix, exim):
            with contextlib.suppress(Exception):
                server.stop()
        ours.send_signal(signal.SIGTERM)
        check("ringpost stops in order", ours.wait(40) == 0)
        if not os.environ.get("KEEP"):
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(FAILED)} failed" if FAILED else "all hold")
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
