"""IMAPClient: folders, messages, IDLE, threads. Run by imap.sh."""

import os, smtplib, ssl
from imapclient import IMAPClient

e = os.environ
context = ssl.create_default_context(cafile=e["dir"] + "/pem")
with IMAPClient(e["host"], int(e["port"]), ssl=False) as c:
    c.starttls(context)
    c.login(e["user"], e["pass"])
    c.id_({"name": "IMAPClient"})
    assert c.namespace().personal
    # Needs modified UTF-7.
    c.create_folder("Entwürfe & mehr")
    assert "Entwürfe & mehr" in [name for _, _, name in c.list_folders()]
    assert c.find_special_folder(b"\\Sent")
    c.select_folder("Entwürfe & mehr")
    c.append("Entwürfe & mehr", b"Subject: x\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n", [b"\\Draft"])
    c.append("Entwürfe & mehr", b"Subject: Re: x\r\nIn-Reply-To: <1@x>\r\n\r\nbody\r\n")
    uids = c.search(["SUBJECT", "x"])
    assert len(uids) == 2, uids
    c.append("Entwürfe & mehr", b"Subject: =?utf-8?q?f=C3=BCr?=\r\n\r\nbody\r\n")
    # A list: of a string with ü the client would make one literal, key and all, which no grammar has.
    found = c.search(["SUBJECT", "Für"], "UTF-8")
    assert len(found) == 1 and found[0] not in uids, found
    c.delete_messages(found)
    c.expunge()
    fetched = c.fetch(uids, ["FLAGS", "ENVELOPE", "BODYSTRUCTURE", "INTERNALDATE", "RFC822.SIZE", "BODY[TEXT]"])
    assert fetched[uids[0]][b"BODY[TEXT]"] == b"body\r\n" and fetched[uids[0]][b"ENVELOPE"].subject == b"x", fetched
    assert c.sort(["REVERSE SUBJECT"]) and c.thread() == ((uids[0], uids[1]),), c.thread()
    c.add_flags(uids, [b"\\Answered"])
    assert all(b"\\Answered" in flags for flags in c.get_flags(uids).values())
    c.move(uids[:1], "INBOX")
    c.delete_messages(uids[1:])
    c.expunge()
    assert c.folder_status("Entwürfe & mehr", ["MESSAGES"])[b"MESSAGES"] == 0
    c.delete_folder("Entwürfe & mehr")
    before = c.select_folder("INBOX")[b"EXISTS"]
    c.idle()
    with smtplib.SMTP("127.0.0.1", int(e["smtp"])) as s:
        s.sendmail("bob@far.example", [e["user"]], "Subject: idle\r\n\r\nx\r\n")
    told = []
    while not any(what == b"EXISTS" for _, what, *_ in told):
        news = c.idle_check(timeout=20)
        assert news, "nothing was told"
        told += news
    assert told[-1][0] == before + 1 or (before + 1, b"EXISTS") in told, (before, told)
    c.idle_done()
    c.get_quota_root("INBOX")
