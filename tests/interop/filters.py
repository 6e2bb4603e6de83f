#!/usr/bin/env python3
"""Filters from Debian between a client and ringpost: rspamd, OpenDKIM, clamav-milter, and one on libmilter.

    client -> ringpost [filters] -> ringpost [OpenDKIM verifies] -> sink with a maildir

Accept, reject, tempfail, discard, changed header, changed body, quarantine, a filter that is killed in the middle of a
message; what no filter changes must arrive octet for octet, which OpenDKIM's verifier says of signed mail, too. No
network is needed: rspamd has no maps, OpenDKIM its key in a file, clamd a signature database made here. Not in
`cargo test`: needs root, and installs what it needs from Debian. What cannot be had is left out with a word.

    tests/interop/filters.py [path of the ringpost binary]

Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
"""
import contextlib
import glob
import json
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

import mta
from mta import check, content, free_port, greets, messages, wait_for, write

EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"

LIBMILTER = r'''
import sys, time, Milter
class M(Milter.Base):
    def header(self, name, value):
        if name == "X-Test":
            self.test = value
        return Milter.CONTINUE
    def envfrom(self, sender, *parameters):
        self.test = ""
        return Milter.CONTINUE
    def eoh(self):
        if self.test == "hang":
            time.sleep(60)
        return Milter.CONTINUE
    def eom(self):
        if self.test == "body":
            self.replacebody(b"another body\r\n.with a dot\r\n")
        if self.test == "header":
            self.addheader("X-Added", "one\n two")
            self.addheader("X-First", "1", 1)
            self.chgheader("Subject", 1, "changed")
        if self.test == "envelope":
            self.chgfrom("<other@client.test>")
            self.addrcpt("<more@sink.test>")
            self.delrcpt("<one@sink.test>")
        if self.test == "quarantine":
            self.quarantine("looks odd")
        if self.test == "progress":
            for n in range(3):
                self.progress()
                time.sleep(0.3)
        if self.test == "tempfail":
            return Milter.TEMPFAIL
        if self.test == "discard":
            return Milter.DISCARD
        if self.test == "code":
            self.setreply("554", "5.7.9", "says libmilter")
            return Milter.REJECT
        return Milter.ACCEPT
Milter.factory = M
Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS | Milter.CHGBODY | Milter.ADDRCPT | Milter.DELRCPT
                 | Milter.QUARANTINE | Milter.CHGFROM)
Milter.runmilter("test", sys.argv[1], 60)
'''

RSPAMD_RULES = '''
rspamd_config:register_symbol{
  name = "INTEROP", type = "prefilter",
  callback = function(task)
    local what = task:get_header("X-Test")
    if what == "soft" then task:set_pre_result("soft reject", "Try again later, says rspamd")
    elseif what == "spam" then task:set_pre_result("add header", "odd")
    elseif what == "quarantine" then task:set_pre_result("quarantine", "odd") end
  end
}
'''


class Ringpost:
    """A relay with these `[[filter]]` blocks."""

    def __init__(self, folder, onward, filters):
        os.mkdir(folder)
        self.folder, self.port, self.log = folder, free_port(), os.path.join(folder, "log")
        self.config = write(os.path.join(folder, "ringpost.toml"), f"""
[server]
hostname = "mx.ringpost.test"
data_dir = "{folder}/data"
user = ""
[cores]
mta = 1
[storage]
segment_size = "1MiB"
free_min = "1MiB"
[relay]
smarthost = "127.0.0.1:{onward}"
[memory]
spill = "256KiB"
[metrics]
address = ""
[admin]
socket = "{folder}/admin"
[events]
target = "{self.log}"
[[listener]]
protocol = "smtp"
address = "127.0.0.1:{self.port}"
{filters}""")
        self.process = subprocess.Popen([mta.PROGRAM, "serve", "-c", self.config],
                                        stderr=open(os.path.join(folder, "err"), "wb"))
        if not wait_for("ringpost", lambda: greets(self.port)):
            for name in ("log", "err"):
                with contextlib.suppress(OSError), open(os.path.join(folder, name), encoding="utf-8") as f:
                    print(f.read())
            sys.exit(1)

    def send(self, data, to=("one@sink.test",), timeout=60):
        """The code and the text of the first reply that refuses, or of the last one."""
        with smtplib.SMTP("127.0.0.1", self.port, timeout=timeout) as s:
            s.ehlo("client.test")
            for line in ["mail FROM:<sender@client.test> BODY=8BITMIME", *(f"rcpt TO:<{t}>" for t in to)]:
                code, text = s.docmd(line)
                if code != 250:
                    return code, text
            return s.data(data)

    def queue(self, *words):
        done = subprocess.run([mta.PROGRAM, "queue", "--json", *words, "-c", self.config], capture_output=True,
                              text=True, timeout=30, check=False)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class Sink:
    """`ringpost load sink`, which keeps every message."""

    def __init__(self, folder):
        self.port, self.mail = free_port(), os.path.join(folder, "sink")
        os.mkdir(self.mail)
        self.process = subprocess.Popen(
            [mta.PROGRAM, "load", "sink", "--listen", f"127.0.0.1:{self.port}", "--maildir", self.mail],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("the sink", lambda: greets(self.port))

    def find(self, test):
        for path in glob.glob(os.path.join(self.mail, "**"), recursive=True):
            if os.path.isfile(path):
                with open(path, "rb") as f:
                    data = re.sub(rb"\r?\n", b"\r\n", f.read())
                if test(data):
                    return data
        return None

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def block(port, name, more=""):
    return f'[[filter]]\nname = "{name}"\naddress = "inet:127.0.0.1:{port}"\n{more}\n'


def got(*programs):
    return all(shutil.which(p) or os.path.exists(f"/usr/sbin/{p}") for p in programs)


def start(words, port, what, seconds=60, **more):
    """A program that listens at `port`; None if it does not come."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    if wait_for(what, lambda: listens(port) or process.poll() is not None, seconds) and process.poll() is None:
        return process
    process.kill()
    print(f"{what} does not start here: left out")
    return None


def end(process):
    if process and process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def text(test, subject, body=b"text\r\n"):
    head = f"From: sender@client.test\r\nTo: one@sink.test\r\nDate: Mon, 23 Nov 2026 07:00:00 +0000\r\n" \
           f"Message-ID: <{subject}@client.test>\r\nSubject: interop-{subject}\r\nX-Test: {test}\r\n\r\n"
    return head.encode() + body


def arrived(sink, subject):
    """The message as the sink has received it."""
    mark = b"Subject: interop-" + subject.encode() + b"\r\n"
    return wait_for(subject, lambda: sink.find(lambda m: mark in m))


def libmilter(folder, sink):
    script = write(os.path.join(folder, "filter.py"), LIBMILTER)
    port = free_port()
    process = start(["/usr/bin/python3", script, f"inet:{port}@127.0.0.1"], port, "a filter on libmilter", 20)
    if not process:
        return
    relay = Ringpost(os.path.join(folder, "libmilter"), sink.port,
                     block(port, "libmilter", 'command_timeout = "20s"'))
    try:
        for name, body in messages():
            data = content("m-" + name, body)
            check(f"libmilter, accept: {name}", relay.send(data)[0] == 250)
            found = arrived(sink, "m-" + name)
            check(f"... octet for octet: {name}", found and found.endswith(data), found and found[:300])
        check("libmilter, tempfail", relay.send(text("tempfail", "m-temp"))[0] == 451)
        said = relay.send(text("code", "m-code"))
        check("libmilter, a reply of its own", said == (554, b"5.7.9 says libmilter"), said)
        check("libmilter, discard", relay.send(text("discard", "m-discard"))[0] == 250)
        check("libmilter, progress", relay.send(text("progress", "m-progress"))[0] == 250)
        check("libmilter, body", relay.send(text("body", "m-body"))[0] == 250)
        found = arrived(sink, "m-body")
        check("... another one", found and found.endswith(b"\r\n\r\nanother body\r\n.with a dot\r\n"), found)
        check("libmilter, header", relay.send(text("header", "m-header"))[0] == 250)
        found = wait_for("m-header", lambda: sink.find(lambda m: b"<m-header@client.test>" in m))
        check("... changed, added, inserted", found and b"\r\nSubject: changed\r\n" in found
              and b"\r\nX-Added: one\r\n two\r\n" in found and b"\r\nX-First: 1\r\n" in found, found)
        check("libmilter, envelope", relay.send(text("envelope", "m-envelope"))[0] == 250)
        check("... it arrives", arrived(sink, "m-envelope"))
        check("libmilter, quarantine", relay.send(text("quarantine", "m-held"))[0] == 250)
        held = wait_for("m-held", lambda: [m for m in relay.queue("list") if m["queue_name"] == "hold"])
        check("... it is held", held and len(held) == 1, held)
        relay.queue("release", "--all")
        check("... and leaves when it is released", arrived(sink, "m-held"))
        check("a discarded message is gone", not sink.find(lambda m: b"interop-m-discard" in m))
        killed(process, relay)
    finally:
        relay.stop()
        end(process)


def killed(process, relay):
    """The filter dies while it has a message: the client is told to try again."""
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=60) as s:
        s.ehlo("client.test")
        s.docmd("mail FROM:<sender@client.test>")
        s.docmd("rcpt TO:<one@sink.test>")
        s.docmd("data")
        s.send(text("hang", "m-killed") + b".\r\n")
        time.sleep(1)
        process.send_signal(signal.SIGKILL)
        said = s.getreply()
        check("a filter killed in mid-message: tempfail", said[0] == 451, said)
        said = s.docmd("mail FROM:<sender@client.test>")
        check("... and it is still away", said[0] == 451, said)
    with open(relay.log, encoding="utf-8") as f:
        check("... which is told", "filter_failed" in f.read())


def dkim(folder, sink):
    if not got("opendkim", "opendkim-genkey"):
        print("OpenDKIM is not installed and cannot be: left out")
        return
    subprocess.run(["opendkim-genkey", "-b", "2048", "-d", "client.test", "-s", "s1", "-D", folder], check=True)
    with open(os.path.join(folder, "s1.txt"), encoding="utf-8") as f:
        record = "".join(part for part in f.read().split('"')[1::2])
    keys = write(os.path.join(folder, "keys"), f"s1._domainkey.client.test {record}\n")
    ports, common = (free_port(), free_port()), "Syslog no\nUserID root\nBackground no\nRequireSafeKeys no\nCanonicalization simple/simple\n"
    signing = write(os.path.join(folder, "sign.conf"), common + f"""Mode s
Domain client.test
Selector s1
KeyFile {folder}/s1.private
InternalHosts 127.0.0.1
Socket inet:{ports[0]}@127.0.0.1
PidFile {folder}/sign.pid
""")
    verifying = write(os.path.join(folder, "verify.conf"), common + f"""Mode v
TestPublicKeys {keys}
InternalHosts 192.0.2.1
AlwaysAddARHeader yes
Socket inet:{ports[1]}@127.0.0.1
PidFile {folder}/verify.pid
""")
    programs = [start(["opendkim", "-f", "-x", conf], port, "OpenDKIM") for conf, port in zip((signing, verifying), ports)]
    relays = []
    try:
        if not all(programs):
            return
        relays.append(Ringpost(os.path.join(folder, "verify"), sink.port, block(ports[1], "verify")))
        relays.append(Ringpost(os.path.join(folder, "sign"), relays[0].port, block(ports[0], "sign")))
        for name, body in messages():
            data = content("d-" + name, body)
            data = b"From: sender@client.test\r\nDate: Mon, 23 Nov 2026 07:00:00 +0000\r\n" + data
            check(f"OpenDKIM signs: {name}", relays[1].send(data)[0] == 250)
            found = arrived(sink, "d-" + name)
            check(f"... and verifies behind the second server: {name}", found and b"dkim=pass" in found.replace(
                b"\r\n\t", b" "), found and found[:1500])
            check(f"... octet for octet: {name}", found and found.endswith(data.split(b"\r\n\r\n", 1)[1]))
    finally:
        for relay in relays:
            relay.stop()
        for program in programs:
            end(program)


def clam(folder, sink):
    if not got("clamd", "clamav-milter"):
        print("ClamAV is not installed and cannot be: left out")
        return
    base, port = os.path.join(folder, "db"), free_port()
    os.mkdir(base)
    write(os.path.join(base, "test.ndb"), f"Interop.Eicar:0:*:{EICAR.hex()}\n")
    daemon = write(os.path.join(folder, "clamd.conf"), f"""Foreground yes
DatabaseDirectory {base}
LocalSocket {folder}/clamd.sock
User root
""")
    filtering = write(os.path.join(folder, "milter.conf"), f"""Foreground yes
MilterSocket inet:{port}@127.0.0.1
ClamdSocket unix:{folder}/clamd.sock
User root
OnInfected Quarantine
AddHeader Replace
""")
    clamd = subprocess.Popen(["clamd", "-c", daemon], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("clamd", lambda: os.path.exists(f"{folder}/clamd.sock") or clamd.poll() is not None, 60)
    milter = start(["clamav-milter", "-c", filtering], port, "clamav-milter")
    relay = None
    try:
        if not milter:
            return
        relay = Ringpost(os.path.join(folder, "clam"), sink.port, block(port, "clamav", 'when_down = "reject"'))
        check("ClamAV: clean", relay.send(text("", "c-clean"))[0] == 250)
        found = arrived(sink, "c-clean")
        check("... with its header", found and b"X-Virus-Status: Clean" in found, found)
        check("ClamAV: EICAR", relay.send(text("", "c-virus", EICAR + b"\r\n"))[0] == 250)
        held = wait_for("c-virus", lambda: [m for m in relay.queue("list") if m["queue_name"] == "hold"])
        check("... is held", held, held)
        check("... and has not left", not sink.find(lambda m: b"interop-c-virus" in m))
    finally:
        if relay:
            relay.stop()
        end(milter)
        end(clamd)


def rspamd(folder, sink):
    if not got("rspamd"):
        print("rspamd is not installed and cannot be: left out")
        return
    port, own, etc = free_port(), free_port(), os.path.join(folder, "rspamd")
    shutil.copytree("/etc/rspamd", etc)
    for name in ("db", "run", "rlog"):
        os.mkdir(os.path.join(folder, name))
    write(os.path.join(etc, "rspamd.local.lua"), RSPAMD_RULES)
    write(os.path.join(etc, "local.d", "worker-proxy.inc"), f"""bind_socket = "127.0.0.1:{port}";
milter = yes;
timeout = 30s;
upstream "local" {{ default = yes; self_scan = yes; }}
""")
    write(os.path.join(etc, "local.d", "worker-normal.inc"), f'bind_socket = "127.0.0.1:{own}";\ncount = 1;\n')
    for name in ("controller", "fuzzy"):
        write(os.path.join(etc, "local.d", f"worker-{name}.inc"), "enabled = false;\n")
    write(os.path.join(etc, "local.d", "options.inc"),
          'filters = "";\ndns { nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }\n')
    write(os.path.join(etc, "local.d", "milter_headers.conf"), 'use = ["x-spam-status"];\nextended_spam_headers = true;\n')
    write(os.path.join(etc, "local.d", "actions.conf"),
          'greylist = null;\nquarantine = { flags = ["no_threshold"]; };\n')
    for path in [folder, *glob.glob(f"{folder}/*")]:
        os.chmod(path, 0o777)
    variables = {"CONFDIR": etc, "LOCAL_CONFDIR": etc, "DBDIR": f"{folder}/db", "RUNDIR": f"{folder}/run",
                 "LOGDIR": f"{folder}/rlog"}
    words = ["rspamd", "-f", "-u", "_rspamd", "-g", "_rspamd", "-c", os.path.join(etc, "rspamd.conf")]
    process = start(words + [f"--var={k}={v}" for k, v in variables.items()], port, "rspamd", 90)
    try:
        if process and wait_for("rspamd's own port", lambda: listens(own)):
            through_rspamd("rspamd as a milter", os.path.join(folder, "relay"), sink, block(port, "rspamd"), "r-")
            through_rspamd("rspamd by HTTP", os.path.join(folder, "http"), sink,
                           block(own, "rspamd", 'kind = "rspamd"'), "h-")
    finally:
        end(process)


def through_rspamd(way, folder, sink, filters, mark):
    relay = Ringpost(folder, sink.port, filters)
    try:
        for name, body in messages():
            data = content(mark + name, body)
            said = relay.send(data)
            check(f"{way}, accept: {name}", said[0] == 250, said)
            found = arrived(sink, mark + name)
            check(f"... octet for octet: {name}", found and found.endswith(data.split(b"\r\n\r\n", 1)[1]),
                  found and found[:600])
        gtube = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\r\n"
        said = relay.send(text("", mark + "gtube", gtube))
        check(f"{way}, reject", said[0] in (550, 554) and b"Gtube" in said[1], said)
        said = relay.send(text("soft", mark + "soft"))
        check(f"{way}, soft reject", said[0] == 451 and b"rspamd" in said[1], said)
        said = relay.send(text("spam", mark + "spam"))
        check(f"{way}, add header", said[0] == 250, said)
        found = arrived(sink, mark + "spam")
        check("... X-Spam", found and b"\r\nX-Spam: Yes\r\n" in found, found)
        said = relay.send(text("quarantine", mark + "held"))
        check(f"{way}, quarantine", said[0] == 250, said)
        check("... it is held", wait_for("it", lambda: [m for m in relay.queue("list") if m["queue_name"] == "hold"]))
    finally:
        relay.stop()


def main():
    if os.geteuid() != 0:
        mta.skip("needs root")
    if not os.path.exists(mta.PROGRAM):
        mta.skip(f"no program at {mta.PROGRAM}: cargo build first")
    wanted = {"rspamd": "rspamd", "opendkim": "opendkim", "opendkim-genkey": "opendkim-tools",
              "clamav-milter": "clamav-milter", "clamd": "clamav-daemon"}
    missing = [package for program, package in wanted.items() if not got(program)]
    if subprocess.run(["/usr/bin/python3", "-c", "import Milter"], capture_output=True, check=False).returncode:
        missing.append("python3-milter")
    if missing:
        mta.apt("update")
        # Programs only: their services are not wanted.
        os.environ["RUNLEVEL"] = "1"
        mta.apt("install", "--no-install-recommends", *missing)
    with tempfile.TemporaryDirectory(prefix="ringpost-filters-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o777)
        sink = Sink(folder)
        try:
            for part in (libmilter, dkim, clam, rspamd):
                own = os.path.join(folder, part.__name__)
                os.mkdir(own)
                part(own, sink)
        finally:
            sink.stop()
    print("FAILED: " + ", ".join(mta.FAILED) if mta.FAILED else "all holds")
    sys.exit(1 if mta.FAILED else 0)


if __name__ == "__main__":
    main()
