#!/usr/bin/env python3
"""The mail log read by pflogsumm from Debian, and the same mail as JSON.

    tests/interop/maillog.py [path of the ringpost binary]

Sends 200 messages through a server whose next hop refuses some for good and some for now, and 5 that are refused at
RCPT. What pflogsumm counts must be what the next hop's ledger says; the JSON form must have the same numbers. Installs
pflogsumm from Debian. Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
"""
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import mta
from mta import check, free_port, greets, wait_for, write

COUNT = 200


def run(form, folder):
    """The log of one run, and what the sink says."""
    smtp, sink, log = free_port(), free_port(), os.path.join(folder, f"log.{form}")
    config = write(os.path.join(folder, f"{form}.toml"), f"""
[server]
hostname = "mx.log.test"
data_dir = "{folder}/{form}"
user = ""
[cores]
mta = 1
pin = "off"
[storage]
segment_size = "1MiB"
free_min = "1MiB"
[relay]
networks = []
smarthost = "127.0.0.1:{sink}"
[domains]
relay = ["next.test"]
[queue]
retry_first = "1s"
retry_max = "1s"
[metrics]
address = ""
[admin]
socket = ""
[events]
format = "{form}"
target = "{log}"
[[listener]]
protocol = "smtp"
address = "127.0.0.1:{smtp}"
""")
    status = os.path.join(folder, f"status.{form}")
    taker = subprocess.Popen([mta.PROGRAM, "load", "sink", "--listen", f"127.0.0.1:{sink}", "--reject", "10%",
                              "--tempfail", "10%", "--status", status], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    server = subprocess.Popen([mta.PROGRAM, "serve", "-c", config], stderr=subprocess.DEVNULL)
    try:
        wait_for("the server", lambda: greets(smtp))
        load = [mta.PROGRAM, "load", "smtp", "--to", f"127.0.0.1:{smtp}", "--connections", "4", "--json"]
        sent = subprocess.run([*load, "--messages", str(COUNT), "--rcpt", "u{n}@next.test", "--from", "a@client.test"],
                              capture_output=True, text=True, timeout=60, check=False)
        taken = json.loads(sent.stdout)["acknowledged"]
        subprocess.run([*load, "--messages", "5", "--rcpt", "u{n}@elsewhere.test"], capture_output=True, timeout=60,
                       check=False)

        def done():
            with open(log, encoding="utf-8") as f:
                text = f.read()
            ended = len(re.findall(r'to=<u\d+@next.test>.*status=(?:sent|bounced)', text)) if form == "postfix" else len(
                re.findall(r'"type":"(?:Delivery|Bounce)".*"recipient":"u\d+@next', text))
            return text if ended >= taken else None
        text = wait_for("all to be delivered or bounced", done)
    finally:
        server.terminate()
        server.wait(30)
        taker.terminate()
        taker.wait(30)
    return taken, text or "", log


def main():
    if not shutil.which("pflogsumm"):
        mta.apt("install", "--no-install-recommends", "pflogsumm")
    if not shutil.which("pflogsumm"):
        mta.skip("pflogsumm is not installed and cannot be")
    with tempfile.TemporaryDirectory(prefix="ringpost-maillog-", dir="/var/tmp") as folder:
        taken, text, log = run("json", folder)
        records = [json.loads(line) for line in text.splitlines()]
        types = collections.Counter(r["type"] for r in records if "type" in r)
        check("every message has a Reception", types["Reception"] >= taken == COUNT, types)
        own = [r for r in records if str(r.get("recipient", "")).endswith("@next.test")]
        ends = collections.Counter(r["type"] for r in own)
        check("each recipient ends once", ends["Delivery"] + ends["Bounce"] == taken, ends)
        check("some were refused, some put off", ends["Bounce"] > 0 and ends["TransientFailure"] > 0, ends)
        check("what is not relayed is a Rejection", types["Rejection"] == 5, types)
        reports = [r for r in records if r.get("about")]
        check("each bounce has a report", len(reports) == ends["Bounce"], types)
        taken, text, log = run("postfix", folder)
        summary = subprocess.run(["pflogsumm", "--no_no_msg_size", log], capture_output=True, text=True, timeout=60,
                                 check=False).stdout
        number = {word: int(count) for count, word in re.findall(r"^\s*(\d+)\s+([a-z]+)", summary, re.M)}
        sent = len(re.findall("status=sent", text))
        check("pflogsumm: received", number.get("received") == len(re.findall("client=", text)) == taken, summary)
        check("pflogsumm: delivered", number.get("delivered") == sent > 0, summary)
        check("pflogsumm: bounced", number.get("bounced", 0) > 0, summary)
        check("pflogsumm: deferred", number.get("deferred", 0) > 0, summary)
        check("pflogsumm: rejected", number.get("rejected") == 5, summary)
    print("FAILED: " + ", ".join(mta.FAILED) if mta.FAILED else "all holds")
    sys.exit(1 if mta.FAILED else 0)


if __name__ == "__main__":
    main()
