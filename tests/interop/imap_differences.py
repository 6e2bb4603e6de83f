#!/usr/bin/env python3
"""The same odd messages in this server and in Dovecot: what do the two say of them?

Appends all of imap_messages.py to both over IMAP and compares RFC822.SIZE, INTERNALDATE, ENVELOPE, BODY,
BODYSTRUCTURE, all sections of all parts, BINARY, SEARCH, SORT and THREAD. Each difference must belong to
a class of EXPLAINED, which docs/imap-differences.md gives the reasons for; one that does not is an error.

    tests/interop/imap_differences.py [path of the ringpost binary] [-v]

Needs Debian's dovecot-imapd (installs it if it can); messages of libpython3.11-testsuite are used if they
are there. Ends with 0 if all differences are explained, 1 if not, 77 (skipped) if it cannot run.
"""

import atexit, collections, os, re, shutil, signal, socket, ssl, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.dirname(__file__))
from imap_differences_explained import EXPLAINED
from imap_messages import messages

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
USER, PASSWORD = "anna@test.example", "correct horse battery"
SECONDS = 900
LOGS = []
PIECE = 40

KEYS = [
    "ALL", "SUBJECT plain", 'SUBJECT "re: plain"', 'SUBJECT ""', "SUBJECT address", 'SUBJECT "fol ded"', "SUBJECT needle", "FROM a@b.example", "FROM b.example",
    "FROM name", 'FROM "name <a"', "FROM comment", "TO group", "TO c@d.example", "CC a", "BCC c.example", 'FROM ""', "BODY needle", "BODY text", 'BODY ""', "TEXT needle",
    "TEXT plain", "TEXT boundary", 'TEXT ""', "BODY fett", "BODY hidden", "BODY part", 'BODY "one"', "TEXT deepest", "BODY deepest", "BODY Content-Type", "BODY boundary",
    "HEADER Message-ID t1@x", 'HEADER Message-ID ""', 'HEADER References "<t1@x>"', 'HEADER Content-Type ""', "HEADER Content-Type multipart", 'HEADER X-Empty ""',
    'HEADER Sender ""', 'HEADER Subject "re:"', "HEADER Date 2026", 'HEADER Reply-To ""', "HEADER Received x", "LARGER 1000", "SMALLER 40", "LARGER 40 SMALLER 100",
    "SENTON 2-Mar-2026", "SENTBEFORE 2-Mar-2026", "SENTSINCE 3-Mar-2026", "SENTSINCE 1-Jan-2100", "ON 5-Mar-2026", "BEFORE 5-Mar-2026", "SINCE 5-Mar-2026", "SEEN", "UNSEEN",
    "NOT SUBJECT plain", "OR SUBJECT plain FROM name", "UID 1:10", "2:4,9", "KEYWORD Odd", "UNKEYWORD Odd", "UNDELETED", "NEW", "OLD", "RECENT", "SUBJECT Re FROM a",
    "NOT (OR BODY text TEXT boundary)", "SENTON 29-Feb-2024", "SENTBEFORE 1-Jan-1950",
]
# With a charset.
WORDS = ["Grüße", "grÜSSE", "über", "ÜBER", "ü", "Привет", "привет", "日本", "你好", "안녕", "€", "„grüße", "Příliš", "příliš", "Γειά", "γεια", "สวัสดี", "ß"]
# Also asked of the session that has appended them.
RECENT = ["NEW", "OLD", "RECENT"]
SORTS = ["ARRIVAL", "DATE", "FROM", "TO", "CC", "SUBJECT", "SIZE", "REVERSE DATE", "REVERSE SUBJECT", "SUBJECT DATE", "REVERSE SIZE FROM"]


class Imap:
    """A connection: commands and their untagged responses as lists."""

    def __init__(self, sock):
        self.sock, self.file, self.count = sock, sock.makefile("rb"), 0
        self.last, self.again = (), None
        self.response()

    def line(self):
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise EOFError(self.last)
        return line

    def response(self):
        """A response, with literals replaced by what they hold."""
        out, line = [], self.line()
        while literal := re.search(rb"~?\{(\d+)\}\r\n$", line):
            out += parse(line[: literal.start()]) + [self.file.read(int(literal[1]))]
            out[-1] = Text(out[-1])
            line = self.line()
        return tree(out + parse(line.rstrip(b"\r\n")))

    def command(self, *pieces):
        """Pieces: text, or bytes that go as a literal. The untagged responses, and the tagged one."""
        self.count += 1
        self.last = pieces
        tag = b"t%d" % self.count
        self.sock.sendall(tag + b" ")
        for at, piece in enumerate(pieces):
            if isinstance(piece, bytes):
                self.sock.sendall(b"{%d}\r\n" % len(piece))
                answer = self.line()
                while answer.startswith(b"* "):
                    answer = self.line()
                if not answer.startswith(b"+"):
                    return [], answer.decode("latin-1").split(" ", 1)[1].strip()
                self.sock.sendall(piece)
            else:
                self.sock.sendall(piece.encode())
        self.sock.sendall(b"\r\n")
        untagged = []
        while True:
            got = self.response()
            if got and got[0] == tag.decode():
                return untagged, " ".join(map(str, got[1:]))
            untagged.append(got)

    def ok(self, *pieces):
        untagged, end = self.command(*pieces)
        assert end.startswith("OK"), (pieces, end)
        return untagged


class Text(bytes):
    """A string of a response, however it was written."""


def parse(line):
    """Tokens: brackets as str, strings as Text, NIL as None, the rest as str."""
    out, at = [], 0
    token = re.compile(rb' +|([()])|"((?:[^"\\]|\\.)*)"|((?:[^ ()"\[]|\[[^\]]*\])+)', re.S)
    while at < len(line):
        found = token.match(line, at)
        assert found, (line[at:][:80], line[:80])
        at = found.end()
        if found[1]:
            out.append(found[1].decode())
        elif found[2] is not None:
            out.append(Text(re.sub(rb"\\(.)", rb"\1", found[2], flags=re.S)))
        elif found[3]:
            out.append(None if found[3].upper() == b"NIL" else Atom(found[3].decode("latin-1")))
    return out


class Atom(str):
    """A word of a response."""


def tree(tokens):
    stack = [[]]
    for token in tokens:
        if token == "(" and not isinstance(token, (Atom, Text)):
            stack.append([])
        elif token == ")" and not isinstance(token, (Atom, Text)):
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    assert len(stack) == 1, "brackets"
    return stack[0]


# --- the two servers


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(arguments, log):
    process = subprocess.Popen(arguments, stdout=open(log, "wb"), stderr=subprocess.STDOUT, start_new_session=True)

    LOGS.append(log)

    def stop():
        process.terminate()
        process.wait(20)

    atexit.register(stop)
    return process


def connect(port, tls, process, log):
    for _ in range(200):
        if process.poll() is not None:
            break
        try:
            sock = socket.create_connection(("127.0.0.1", port), timeout=60)
            if tls:
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                sock = context.wrap_socket(sock)
            return Imap(sock)
        except (ConnectionError, EOFError):
            time.sleep(0.1)
    sys.exit(f"FAILED: no server: {open(log, errors='replace').read()[-2000:]}")


def ours(program, where):
    port = free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=localhost",
         "-keyout", f"{where}/key", "-out", f"{where}/pem"], check=True, capture_output=True)
    open(f"{where}/users", "w").close()
    subprocess.run([program, "user", "add", "--password-stdin", "--file", f"{where}/users", USER], input=PASSWORD.encode() + b"\n", check=True, capture_output=True)
    with open(f"{where}/ringpost.toml", "w") as file:
        file.write(f"""
[server]
hostname = "mx.test.example"
data_dir = "{where}/data"
user = ""
[cores]
mta = 1
access = 1
shards = 1
pin = "off"
[storage]
free_min = "1MiB"
[domains]
local = ["test.example"]
postmaster = "{USER}"
[auth]
users = "{where}/users"
[metrics]
address = ""
[admin]
socket = ""
[[listener]]
protocol = "imaps"
address = "127.0.0.1:{port}"
[tls]
certificate = "{where}/pem"
key = "{where}/key"
""")
    process = start([program, "serve", "-c", f"{where}/ringpost.toml"], f"{where}/ours.log")
    return connect(port, True, process, f"{where}/ours.log")


def dovecot(where):
    port = free_port()
    os.makedirs(f"{where}/dovecot/mail", exist_ok=True)
    os.chmod(where, 0o755)
    shutil.chown(f"{where}/dovecot/mail", "mail", "mail")
    with open(f"{where}/dovecot.conf", "w") as file:
        file.write(f"""
protocols = imap
listen = 127.0.0.1
base_dir = {where}/dovecot/run
state_dir = {where}/dovecot/state
log_path = /dev/stderr
ssl = no
disable_plaintext_auth = no
first_valid_uid = 1
mail_location = sdbox:{where}/dovecot/mail
passdb {{
  driver = static
  args = password={PASSWORD.replace(" ", "_")}
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={where}/dovecot/mail
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
""")
    process = start(["dovecot", "-F", "-c", f"{where}/dovecot.conf"], f"{where}/dovecot.log")

    def again():
        server = connect(port, False, process, f"{where}/dovecot.log")
        server.ok("LOGIN ", USER.encode(), f' "{PASSWORD.replace(" ", "_")}"')
        server.ok("SELECT INBOX")
        # What it cannot FETCH costs the connection.
        server.again = again
        return server

    return again()


# --- comparing

Difference = collections.namedtuple("Difference", "item name ours theirs")
ENVELOPE = ["date", "subject", "from", "sender", "reply-to", "to", "cc", "bcc", "in-reply-to", "message-id"]
BASIC = ["type", "subtype", "params", "id", "description", "encoding", "size"]
TAIL = ["md5", "disposition", "language", "location"]


def fields(part):
    """The fields of a part of BODY or BODYSTRUCTURE by name, and its children."""
    if isinstance(part[0], list):
        count = next((n for n, one in enumerate(part) if not isinstance(one, list)), len(part))
        return dict(zip(["subtype", "params"] + TAIL[1:], part[count:])), part[:count]
    media, names, children = (bytes(part[0] or b"").lower(), bytes(part[1] or b"").lower()), list(BASIC), []
    rest = part[:]
    if media[0] == b"message" and media[1] in (b"rfc822", b"global") and len(part) > 9:
        names += ["envelope", "child", "lines"]
        children = [part[8]]
    elif media[0] == b"text":
        names += ["lines"]
    return dict(zip(names + TAIL, rest)), children


def parts(body, number=""):
    """Numbers of all parts, and whether each is a message."""
    if not isinstance(body, list) or not body:
        return
    children = fields(body)[1]
    if isinstance(body[0], list):
        for n, child in enumerate(children, 1):
            # A multipart within a multipart has a number itself.
            if isinstance(child, list) and child and isinstance(child[0], list):
                yield f"{number}{n}", False
            yield from parts(child, f"{number}{n}.")
    else:
        number = number or "1."
        yield number[:-1], bool(children)
        for child in children:
            yield from parts(child, number)


class Comparison:
    def __init__(self, names):
        self.names, self.found, self.checks = names, [], 0

    def same(self, item, name, ours, theirs):
        self.checks += 1
        if ours != theirs:
            self.found.append(Difference(item, name, ours, theirs))
        return ours == theirs

    def envelope(self, item, name, a, b):
        for n, field in enumerate(ENVELOPE):
            self.same(f"{item} {field}", name, a[n] if n < len(a) else "missing", b[n] if n < len(b) else "missing")

    def structure(self, item, name, a, b):
        kind = lambda part: isinstance(part[0], list) if isinstance(part, list) and part else part
        if not self.same(f"{item} kind", name, kind(a), kind(b)) or not isinstance(a, list):
            return
        (fa, ca), (fb, cb) = fields(a), fields(b)
        for field in sorted(set(fa) | set(fb)):
            if field == "envelope":
                self.envelope(f"{item} envelope", name, fa.get(field) or [], fb.get(field) or [])
            elif field != "child":
                self.same(f"{item} {field}", name, fa.get(field, "missing"), fb.get(field, "missing"))
        if self.same(f"{item} children", name, len(ca), len(cb)):
            for x, y in zip(ca, cb):
                self.structure(item, name, x, y)

    def order(self, item, a, b):
        """Two orders of the same messages: those that are elsewhere, but for what is explained."""
        out = lambda n: explained(item, self.names[n - 1])
        for n in sorted(set(a) ^ set(b)):
            self.same(item, self.names[n - 1], n in a, n in b)
        both = set(a) & set(b)
        known = [n for n in both if out(n)]
        place = lambda order: {n: i for i, n in enumerate(x for x in order if x in both)}
        pa, pb = place(a), place(b)
        for n in known:
            # Counted where it stands, only if it stands elsewhere.
            self.same(item, self.names[n - 1], pa[n], pb[n])
        a, b = ([n for n in order if n in both and not out(n)] for order in (a, b))
        self.checks += len(a)
        for n in set(a) - increasing(a, b):
            before = lambda order: self.names[order[order.index(n) - 1] - 1] if order.index(n) else "first"
            self.found.append(Difference(item, self.names[n - 1], "behind " + before(a), "behind " + before(b)))


def increasing(a, b):
    """A longest set of those that stand in the same order in both."""
    at = {n: i for i, n in enumerate(b)}
    best, back = [], {}
    import bisect
    keys = []
    for n in a:
        i = bisect.bisect_left(keys, at[n])
        back[n] = best[i - 1] if i else None
        if i == len(keys):
            keys.append(at[n]), best.append(n)
        else:
            keys[i], best[i] = at[n], n
    out, n = set(), best[-1] if best else None
    while n:
        out.add(n)
        n = back[n]
    return out


def explained(item, name, ours=None, theirs=None):
    """The class that a difference belongs to."""
    for kind, items, names, *test in EXPLAINED:
        if re.fullmatch(items, item) and re.fullmatch(names, name, re.S) and (not test or test[0](ours, theirs)):
            return kind
    return None


def fetch(server, uid, items):
    """Items of a message and their values; of those that are refused, the answer."""
    try:
        untagged, end = server.command(f"UID FETCH {uid} ({' '.join(items)})")
    except EOFError:
        if not server.again:
            raise
        server.__dict__.update(server.again().__dict__)
        untagged, end = [], "(connection closed)"
    if not end.startswith("OK") and len(items) > 1:
        return {key: value for one in items for key, value in fetch(server, uid, [one]).items()}
    if not end.startswith("OK"):
        item = re.sub(r"<(\d+)\.\d+>", r"<\1>", items[0].replace(".PEEK", "")).upper()
        return {item: " ".join(end.split(" ")[:2 if "[" in end else 1])}
    found = {}
    for got in untagged:
        if len(got) == 4 and got[2] == "FETCH":
            found.update((str(got[3][n]).upper(), got[3][n + 1]) for n in range(0, len(got[3]) - 1, 2))
    found.pop("UID", None)
    return found


def generic(item):
    """An item without the number of its part."""
    return re.sub(r"\[[\d.]+", "[part ", re.sub("<.*", " partial", item)).replace("part ]", "part]")


def compare_messages(compare, a, b, names):
    whole = ["RFC822.SIZE", "INTERNALDATE", "RFC822.HEADER"]
    whole += [f"BODY.PEEK[{one}]" for one in ("", "HEADER", "TEXT", "HEADER.FIELDS (SUBJECT FROM X-EMPTY)", "HEADER.FIELDS.NOT (SUBJECT FROM)")]
    whole += ["BODY.PEEK[]<10.20>", "BODY.PEEK[TEXT]<5.100>", "BODY.PEEK[1]<3.9>", "BINARY.PEEK[]", "BINARY.SIZE[]"]
    for uid, name in enumerate(names, 1):
        x, y = (fetch(s, uid, ["ENVELOPE", "BODY", "BODYSTRUCTURE"]) for s in (a, b))
        compare.envelope("ENVELOPE", name, x["ENVELOPE"], y["ENVELOPE"])
        compare.structure("BODYSTRUCTURE", name, x["BODYSTRUCTURE"], y["BODYSTRUCTURE"])
        compare.structure("BODY", name, x["BODY"], y["BODY"])
        known = [dict(parts(one["BODYSTRUCTURE"])) for one in (x, y)]
        numbers = set(known[0]) | set(known[1]) | {"1", "2", "1.1", "1.2"}
        items = whole + [f"BODY.PEEK[{n}{what}]" for n in sorted(numbers) for what in ("", ".MIME", ".HEADER", ".TEXT", ".HEADER.FIELDS (SUBJECT)")]
        items += [f"BINARY{what}[{n}]" for n in sorted(numbers) for what in (".PEEK", ".SIZE")]
        for at in range(0, len(items), PIECE):
            x, y = (fetch(s, uid, items[at : at + PIECE]) for s in (a, b))
            for item in sorted(set(x) | set(y)):
                one, other = x.get(item, "missing"), y.get(item, "missing")
                compare.same(generic(item) + exists(item, known, one), name, one, other)


def exists(item, known, ours):
    """What is to be said of a section: that both servers know of no such part, or of no message there."""
    number = re.search(r"\[(\d[\d.]*\d|\d)", item)
    if not number or ours not in (None, "missing"):
        return ""
    if all(number[1] not in one for one in known):
        return " absent"
    return " of no message" if re.search("HEADER|TEXT", item) and not any(one.get(number[1]) for one in known) else ""


def compare_recent(compare, a, b, names):
    """\\Recent is of the session that was told of a message first: a later one, as after a lost connection, has none."""
    for key in RECENT:
        found = [s.ok("UID SEARCH " + key) for s in (a, b)]
        x, y = ({int(n) for one in untagged if len(one) > 1 and one[1] == "SEARCH" for n in one[2:]} for untagged in found)
        compare.checks += len(names)
        compare.same(f"SEARCH {key} at first", "", len(x), len(y))
        for n in sorted(x ^ y):
            compare.same(f"SEARCH {key} at first", names[n - 1], n in x, n in y)


def compare_searches(compare, a, b, names):
    def both(item, *pieces):
        answers = [s.command(*pieces) for s in (a, b)]
        ends = [end.split(" ")[0] for _, end in answers]
        if not compare.same(item, "", *ends) or ends[0] != "OK":
            return None
        return [[one[2:] for one in untagged if len(one) > 1 and one[1] in ("SEARCH", "SORT", "THREAD")] for untagged, _ in answers]

    for key in KEYS:
        if found := both("SEARCH " + key, "UID SEARCH " + key):
            x, y = (set(map(int, sum(one, []))) for one in found)
            compare.checks += len(names)
            for n in sorted(x ^ y):
                compare.same("SEARCH " + key, names[n - 1], n in x, n in y)
    for word in WORDS:
        for field in ("SUBJECT", "BODY", "TEXT", "FROM"):
            item = f"SEARCH {field} {word}"
            if found := both(item, f"UID SEARCH CHARSET UTF-8 {field} ", word.encode()):
                x, y = (set(map(int, sum(one, []))) for one in found)
                compare.checks += len(names)
                for n in sorted(x ^ y):
                    compare.same(item, names[n - 1], n in x, n in y)
    for sort in SORTS:
        if found := both("SORT " + sort, f"UID SORT ({sort}) UTF-8 ALL"):
            compare.order("SORT " + sort, *(list(map(int, sum(one, []))) for one in found))
    for how in ("REFERENCES", "ORDEREDSUBJECT"):
        for key in ("ALL", "SUBJECT thread"):
            item = f"THREAD {how} {key}"
            if found := both(item, f"UID THREAD {how} UTF-8 {key}"):
                (pa, ra), (pb, rb) = (parents(sum(one, [])) for one in found)
                for n in sorted(set(pa) | set(pb)):
                    named = lambda p: names[p - 1] if p else p
                    compare.same(item, names[n - 1], named(pa.get(n, "missing")), named(pb.get(n, "missing")))
                compare.order(item + " roots", ra, rb)


def parents(threads):
    """The parent of each message (None: a root; 0: beside others below something that is gone); and the first message of each thread, in order."""
    found, roots = {}, []

    def walk(thread, parent):
        last = parent
        for one in thread:
            if isinstance(one, list):
                walk(one, last if last is not parent or parent else 0)
            else:
                found[int(one)] = last
                last = int(one)

    for thread in threads:
        walk(thread, None)
        flat = str(thread)
        roots.append(int(re.search(r"\d+", flat)[0]))
    return found, roots


def short(value):
    text = repr(value)
    return text if len(text) < 300 else text[:200] + " ... " + text[-90:]


def main():
    arguments = [one for one in sys.argv[1:] if one != "-v"]
    verbose = "-v" in sys.argv
    program = os.path.abspath(arguments[0] if arguments else os.path.join(ROOT, "target/debug/ringpost"))
    if not os.access(program, os.X_OK):
        print(f"SKIPPED: no program at {program}: cargo build first")
        return 77
    if not shutil.which("dovecot"):
        subprocess.run("apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends dovecot-imapd", shell=True, capture_output=True)
    if not shutil.which("dovecot") or os.geteuid():
        print("SKIPPED: dovecot is not installed and cannot be, or this is not root")
        return 77
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"FAILED: not done within {SECONDS} s"))
    signal.alarm(SECONDS)
    began = time.monotonic()
    where = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, where, True)
    a, b = ours(program, where), dovecot(where)
    a.ok("LOGIN ", USER.encode(), f' "{PASSWORD}"')
    a.ok("SELECT INBOX")
    every = list(messages())
    names = [name for name, _ in every]
    # MULTIAPPEND: as many commits as commands.
    for at in range(0, len(every), PIECE):
        pieces = []
        for n, (_, raw) in enumerate(every[at : at + PIECE], at):
            flags = "(\\Seen Odd)" if n % 7 == 0 else "(\\Flagged)" if n % 5 == 0 else "()"
            pieces += [f' {flags} "{n % 9 + 1:02}-Mar-2026 {n % 24:02}:00:00 +0000" ', raw]
        for server in (a, b):
            server.ok("APPEND INBOX", *pieces)
    print(f"{len(names)} messages are there after {time.monotonic() - began:.0f} s", flush=True)
    compare = Comparison(names)
    compare_recent(compare, a, b, names)
    for server in (a, b):
        server.ok("SELECT INBOX")
    compare_messages(compare, a, b, names)
    compare_searches(compare, a, b, names)
    classes, unknown = collections.Counter(), []
    for one in compare.found:
        kind = explained(*one)
        classes[kind or "UNEXPLAINED"] += 1
        if not kind or verbose:
            unknown.append((kind, one))
    for kind, one in unknown:
        print(f"{kind or 'UNEXPLAINED'}: {one.item} of {one.name!r}\n    ours    {short(one.ours)}\n    dovecot {short(one.theirs)}")
    print(f"{len(names)} messages, {compare.checks} comparisons, {len(compare.found)} differences:")
    for kind, count in sorted(classes.items()):
        print(f"  {count:6}  {kind}")
    text = open(os.path.join(ROOT, "docs/imap-differences.md")).read() if os.path.exists(os.path.join(ROOT, "docs/imap-differences.md")) else ""
    missing = [kind for kind in {one[0] for one in EXPLAINED} if f"## {kind}\n" not in text]
    idle = [kind for kind in {one[0] for one in EXPLAINED} if kind not in classes]
    if missing:
        print(f"FAILED: docs/imap-differences.md lacks {missing}")
    if idle:
        print(f"FAILED: no difference is of the class {idle}: take it out")
    return 1 if missing or idle or classes["UNEXPLAINED"] else 0


try:
    sys.exit(main())
except EOFError as error:
    print("FAILED: a server has closed the connection:", str(error)[:200])
    for log in LOGS:
        print(log, *open(log, errors="replace").read()[-1500:].splitlines()[-8:], sep="\n    ")
    sys.exit(1)
