#!/usr/bin/env python3
"""The description of the HTTP interface (docs/openapi.json), looked at by a validator of others, and by curl.

    tests/interop/openapi.py [path of the ringpost binary]

Installs openapi-spec-validator from PyPI into a folder of its own. Checks that the description is valid OpenAPI 3.1,
that the binary prints the same, and that answers of a real server, asked with curl over the Unix socket, validate against it.
Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else f"{ROOT}/target/debug/ringpost")
SPEC = f"{ROOT}/docs/openapi.json"

CHECK = """
import json, sys
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
spec = json.load(open(sys.argv[1]))
for error in OpenAPIV31SpecValidator(spec).iter_errors():
    sys.exit(f"not valid: {error}")
answers = json.load(open(sys.argv[2]))
for name, schema, value in answers:
    whole = dict(schema, components=spec["components"])
    for error in Draft202012Validator(whole).iter_errors(value):
        sys.exit(f"{name}: {error}")
"""


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


def fail(why):
    print(f"FAILED  {why}")
    sys.exit(1)


def main():
    if not os.access(PROGRAM, os.X_OK):
        skip(f"no program at {PROGRAM}: cargo build first")
    if not shutil.which("curl"):
        skip("no curl here")
    spec = json.load(open(SPEC))
    if json.loads(subprocess.run([PROGRAM, "api"], check=True, capture_output=True).stdout) != spec:
        fail("ringpost api prints something else than docs/openapi.json")
    with tempfile.TemporaryDirectory() as folder:
        python = f"{folder}/venv/bin/python"
        subprocess.run([sys.executable, "-m", "venv", f"{folder}/venv"], check=True)
        pip = [python, "-m", "pip", "-q", "--disable-pip-version-check", "install", "openapi-spec-validator"]
        if subprocess.run(pip, capture_output=True).returncode:
            skip("openapi-spec-validator cannot be had")
        answers = asked(spec, folder)
        with open(f"{folder}/answers.json", "w") as file:
            json.dump(answers, file)
        done = subprocess.run([python, "-c", CHECK, SPEC, f"{folder}/answers.json"], capture_output=True, text=True)
        if done.returncode:
            fail(done.stderr.strip())
    print(f"ok      the description is valid OpenAPI 3.1; {len(answers)} answers of a server are as it says")


def asked(spec, folder):
    """What a server says to each GET without parameters in its path, as (name, schema, value)."""
    config = f"{folder}/ringpost.toml"
    with open(config, "w") as file:
        file.write(f"""[server]
hostname = "mx.test.example"
data_dir = "{folder}/data"
user = ""
[cores]
mta = 1
pin = "off"
[storage]
segment_size = "1MiB"
journal_limit = "64MiB"
free_min = "1MiB"
durability = "weak"
[relay]
smarthost = "127.0.0.1:9"
[metrics]
address = ""
[admin]
socket = "{folder}/admin"
[[listener]]
protocol = "smtp"
address = "127.0.0.1:0"
""")
    server = subprocess.Popen([PROGRAM, "serve", "-c", config], stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if '"started"' in line:
                break
        answers = []
        for path, methods in spec["paths"].items():
            operation = methods.get("get")
            if not operation or "{" in path:
                continue
            content = operation["responses"]["200"]["content"]
            query = "&".join(f"{p['name']}=1" for p in operation.get("parameters", []) if p["required"])
            url = f"http://localhost{path}" + (f"?{query}" if query else "")
            curl = ["curl", "-sS", "--fail", "--max-time", "30", "--unix-socket", f"{folder}/admin", url]
            text = subprocess.run(curl, check=True, capture_output=True, text=True).stdout
            if "application/json" in content:
                answers.append((operation["operationId"], content["application/json"]["schema"], json.loads(text)))
            elif "application/x-ndjson" in content:
                schema = content["application/x-ndjson"]["schema"]
                answers += [(operation["operationId"], schema, json.loads(line)) for line in text.splitlines()]
        return answers
    finally:
        server.terminate()
        server.wait(20)


if __name__ == "__main__":
    main()
