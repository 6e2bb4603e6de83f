#!/usr/bin/env python3
"""A picture of `ringpost top`: a server and a sink on loopback, load, and what `top --once` prints then, as SVG.

    docs/screens/top.py [path of the ringpost binary]        # writes docs/screens/top.svg

Nothing is drawn that the program has not printed. The figures are those of the machine it ran on, for a moment:
they say what the screen looks like, not how fast it is (docs/benchmarks.md does).
"""
import html
import os
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else f"{ROOT}/target/release/ringpost")
COLUMN, ROW, EDGE = 8.43, 18, 14


def free():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def picture(text, command):
    lines = [f"$ {command}"] + text.rstrip("\n").split("\n")
    width = max(max(map(len, lines)), 80) * COLUMN + 2 * EDGE
    height = len(lines) * ROW + 2 * EDGE
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" role="img" '
        'aria-label="ringpost top">',
        f'<rect width="100%" height="100%" rx="6" fill="#16191d"/>',
        '<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" fill="#d8dee6" '
        'xml:space="preserve">',
    ]
    for n, line in enumerate(lines):
        bold = line.startswith(("$", "CORE", "   READY")) or "DESTINATION" in line
        style = ' fill="#8fd18f"' if n == 0 else ' font-weight="bold"' if bold else ""
        y = EDGE + (n + 0.75) * ROW
        out.append(f'<text x="{EDGE}" y="{y:.1f}"{style}>{html.escape(line)}</text>')
    return "\n".join(out + ["</g>", "</svg>"]) + "\n"


def main():
    smtp, sink = free(), free()
    with tempfile.TemporaryDirectory() as folder:
        config = f"{folder}/ringpost.toml"
        with open(config, "w") as file:
            file.write(f"""[server]
hostname = "mx.test.example"
data_dir = "{folder}/data"
user = ""
[cores]
mta = 2
[storage]
segment_size = "4MiB"
journal_limit = "256MiB"
free_min = "1MiB"
[relay]
smarthost = "127.0.0.1:{sink}"
[metrics]
address = "127.0.0.1:0"
[admin]
socket = "{folder}/admin"
[[route]]
domain = "down.test"
next_hop = "127.0.0.1:9"
[[listener]]
protocol = "smtp"
address = "127.0.0.1:{smtp}"
""")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        children = [
            subprocess.Popen([PROGRAM, "load", "sink", "--listen", f"127.0.0.1:{sink}"], **quiet),
            subprocess.Popen([PROGRAM, "serve", "-c", config], **quiet),
        ]
        try:
            for _ in range(200):
                if subprocess.run([PROGRAM, "queue", "stats", "-c", config], **quiet).returncode == 0:
                    break
                time.sleep(0.1)
            mail = b"Subject: waits\n\nhello\n"
            env = dict(os.environ, RINGPOST_SMTP=f"127.0.0.1:{smtp}")
            for n in range(12):
                words = [PROGRAM, "sendmail", "-f", "a@here.test", f"x{n}@down.test"]
                subprocess.run(words, input=mail, env=env, check=True)
            load = [PROGRAM, "load", "smtp", "--to", f"127.0.0.1:{smtp}", "--connections", "20", "--rate", "300/s"]
            children.append(subprocess.Popen(load + ["--duration", "10s"], **quiet))
            time.sleep(4)
            command = [PROGRAM, "top", "--once", "-c", config]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        finally:
            for child in reversed(children):
                child.terminate()
                child.wait(20)
    with open(f"{ROOT}/docs/screens/top.svg", "w") as file:
        file.write(picture(text, "ringpost top --once"))
    print(text, end="")


if __name__ == "__main__":
    main()
