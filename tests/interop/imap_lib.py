"""Python's imaplib: every command it has, in a mailbox of its own. Run by imap.sh."""

import imaplib, os, ssl, sys, time

e = os.environ
context = ssl.create_default_context(cafile=e["dir"] + "/pem")
kind = sys.argv[1]
if kind == "implicit":
    m = imaplib.IMAP4_SSL(e["host"], int(e["ports"]), ssl_context=context)
else:
    m = imaplib.IMAP4(e["host"], int(e["port"]))
    m.starttls(context)


def ok(answer):
    assert answer[0] == "OK", answer
    return answer[1]


if kind == "implicit":
    ok(m.login(e["user"], e["pass"]))
else:
    ok(m.authenticate("PLAIN", lambda _: f"\0{e['user']}\0{e['pass']}".encode()))
box = "imaplib-" + kind
ok(m.create(box))
ok(m.subscribe(box))
assert any(box.encode() in line for line in ok(m.lsub())), m.lsub()
message = b"From: a@b.example\r\nSubject: one\r\nDate: Mon, 2 Mar 2026 10:00:00 +0100\r\n\r\ntext one\r\n"
for n in (b"one", b"two", b"three"):
    ok(m.append(box, "(\\Seen)" if n == b"one" else None, imaplib.Time2Internaldate(time.time()), message.replace(b"one", n)))
assert ok(m.select(box)) == [b"3"]
assert ok(m.search(None, "SUBJECT", "two")) == [b"2"]
assert ok(m.search("UTF-8", "TEXT", "three")) == [b"3"]
assert ok(m.sort("(REVERSE ARRIVAL)", "UTF-8", "ALL"))[0].split()
assert b"(" in ok(m.thread("REFERENCES", "UTF-8", "ALL"))[0]
data = ok(m.fetch("1", "(FLAGS RFC822.SIZE BODY[])"))
assert data[0][1] == message, data
ok(m.store("2", "+FLAGS", "(\\Flagged $Label)"))
assert b"$Label" in ok(m.fetch("2", "(FLAGS)"))[0]
ok(m.copy("1:2", "INBOX"))
ok(m.uid("MOVE", "1", "INBOX"))
# imaplib knows no MOVE and keeps its EXPUNGE for whoever asks.
assert m.response("EXPUNGE") == ("EXPUNGE", [b"1"])
ok(m.store("1", "+FLAGS", "(\\Deleted)"))
assert ok(m.expunge()) == [b"1"]
assert b"MESSAGES 1" in ok(m.status(box, "(MESSAGES UIDNEXT UIDVALIDITY UNSEEN)"))[0]
ok(m.namespace())
ok(m.getquotaroot("INBOX"))
ok(m.noop())
ok(m.check())
ok(m.unselect())
ok(m.rename(box, box + "-renamed"))
ok(m.delete(box + "-renamed"))
assert m.select(box)[0] == "NO"
# Names and keys as they are. No APPEND: imaplib writes `UTF8 (` and `)` into the message then, and no
# charset with SEARCH (RFC 6855 §3).
ok(m.enable("UTF8=ACCEPT"))
box = '"Entwürfe-' + kind + '"'
ok(m.create(box))
assert any(box.encode() in line for line in ok(m.list())), m.list()
assert ok(m.select(box)) == [b"0"]
assert ok(m.search(None, "SUBJECT", '"ü"')) == [b""]
ok(m.close())
ok(m.delete(box))
assert m.logout()[0] == "BYE"
