"""Odd messages for imap_differences.py: always the same ones, each with a name.

`messages()` yields pairs of a name and the bytes as they are appended. What they try: addresses, dates,
subjects, references, MIME that is broken in all ways, nesting, many parts, charsets and encodings; and
the mail files of Python's own tests, if they are installed (Debian: libpython3.11-testsuite).
"""

import base64, glob, os, quopri

PYTHON = "/usr/lib/python3.11/test/test_email/data/*.txt"

ADDRESSES = [
    b"", b" ", b"a@b.example", b"<a@b.example>", b"Name <a@b.example>", b'"Na\\"me, x" <a@b.example>',
    b"a@b.example (Comment)", b"a@b.example (Com (nested) ment)", b"(before) a@b.example", b"Name (c) <a@b.example> (d)",
    b"a@b.example, c@d.example", b"a@b.example,, ,c@d.example,", b"a@b.example; c@d.example", b"group: a@b.example, c@d.example;",
    b"undisclosed-recipients:;", b"group: ;", b"group:", b"group: a@b.example", b"one: a@b.example;, two: c@d.example;, e@f.example",
    b'"quoted group": a@b.example;', b"<@r1.example,@r2.example:a@b.example>", b"<@r1.example:a@b.example>", b"<>", b"Name <>",
    b"a", b"<a>", b"Name <a>", b"Name", b"First Last", b"a@", b"@b.example", b"<a@>", b"<@b.example>", b"a@b@c.example",
    b"<a@b@c.example>", b"<a@b.example", b"a@b.example>", b"Name <a@b.example", b"Name a@b.example>", b'"open <a@b.example>',
    b'"a b"@c.example', b'<"a b"@c.example>', b'"a\\"b"@c.example', b"a.b.c@d.example", b"a..b@d.example", b".a@d.example",
    b"a.@d.example", b"a . b @ c . example", b"a b@c.example", b"a@[192.0.2.1]", b"<a@[IPv6:2001:db8::1]>", b"a@[192.0.2.1",
    b"a@b.example.", b"a@b", b"First. Last <a@b.example>", b"J. R. R. <a@b.example>", b"=?utf-8?q?J=C3=BCrgen?= <a@b.example>",
    b'"=?utf-8?q?J=C3=BCrgen?=" <a@b.example>', b"J\xc3\xbcrgen <a@b.example>", b"J\xfcrgen <a@b.example>", b"a@b\xc3\xbc.example",
    b"\xc3\xbc@b.example", b"a@b.example\r\n ,c@d.example", b"Very\r\n Folded\r\n\tName <a@b.example>", b"a@b.example (open",
    b"a@b.example )", b"Name \\(x\\) <a@b.example>", b'"a\\\\b" <a@b.example>', b"'single' <a@b.example>", b"a+b=c/d@e.example",
    b"<a@b.example> Trailing", b"<a@b.example> <c@d.example>", b"Name <a@b.example><c@d.example>", b"a@b.example c@d.example",
    b"Name\x01 <a@b.example>", b"\"tab\there\" <a@b.example>", b"<mailto:a@b.example>", b"Name [x] <a@b.example>",
    b"Name <a@b.example>, \"\" <c@d.example>", b'"" <a@b.example>', b"() a@b.example", b"Name <a @b.example>", b"<a@b.example,c@d.example>",
    b"group: one: a@b.example;;", b"x:y <a@b.example>", b"a@b.example (c1) (c2)", b"(c1) (c2) <a@b.example>", b'N "q" n <a@b.example>',
]

DATES = [
    b"Mon, 2 Mar 2026 10:00:00 +0100", b"2 Mar 2026 10:00:00 +0100", b"Mon, 02 Mar 2026 10:00 +0100", b"Mon, 2 Mar 26 10:00:00 +0100",
    b"2 Mar 99 10:00:00 GMT", b"Mon, 2 Mar 2026 23:59:60 +0000", b"Mon, 2 Mar 2026 23:30:00 -1200", b"Mon, 2 Mar 2026 00:30:00 +1400",
    b"Mon, 2 Mar 2026 10:00:00 EST", b"Mon, 2 Mar 2026 10:00:00 Z", b"Mon, 2 Mar 2026 10:00:00", b"Mon, 2 Mar 2026",
    b"Mon (comment), 2 (c) Mar 2026 10:00:00 +0100 (CET)", b"Mon,2 Mar 2026 10:00:00 +0100", b"2026-03-02T10:00:00Z", b"yesterday", b"",
    b"Tue, 32 Mar 2026 10:00:00 +0000", b"Mon, 2 Foo 2026 10:00:00 +0000", b"Mon, 2 Mar 2026 25:00:00 +0000", b"mon, 2 mar 2026 10:00:00 +0100",
    b"Mon, 2 March 2026 10:00:00 +0100", b"Mon Mar  2 10:00:00 2026", b"Mon,\r\n 2 Mar 2026\r\n 10:00:00 +0100", b"Mon, 2 Mar 1901 10:00:00 +0000",
    b"Mon, 2 Mar 2126 10:00:00 +0000", b"Thu, 29 Feb 2024 12:00:00 +0000", b"Sat, 29 Feb 2025 12:00:00 +0000", b"Mon, 2 Mar 2026 10:00:00 +9999",
]

SUBJECTS = [
    b"plain", b"Re: plain", b"RE: plain", b"re : plain", b"Re[2]: plain", b"Fwd: plain", b"Fw: plain", b"fwd: Re: plain", b"plain (fwd)",
    b"[list] plain", b"Re: [list] plain", b"[list] Re: plain", b"[Fwd: plain]", b"[fwd: Re: plain (fwd)]", b"Re:", b"Re: Re:", b"[list]", b"",
    b"  plain", b"plain  ", b"pl  ain", b"PLAIN", b"Aw: plain", b"=?utf-8?q?Re=3A_plain?=", b"=?utf-8?b?w5xiZXI=?=", b"=?iso-8859-1?q?=DCber?=",
    b"\xc3\x9cber", b"\xdcber", b"=?utf-8?q?a?= =?utf-8?q?b?=", b"=?utf-8?q?a?=b", b"=?utf-8?q?open", b"=?nothing?q?a?=", b"=?utf-8?x?a?=",
    b"=?utf-8?q?a_b=20c?=", b"=?utf-8?b?!!?=", b"=?utf-8?q?=C3?= =?utf-8?q?=BC?=", b"=?utf-8*de?q?sprach?=", b"fol\r\n ded", b"\r\n folded at once",
    b"=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=", b"=?koi8-r?b?8NLJ18XU?=", b"=?gb18030?b?xOO6ww==?=", b'quo"te and back\\slash', b"a\tb",
    b"(fwd)", b"Re: (fwd)", b"[a] [b] plain", b"[a]b] plain", b"Re [list]: plain", b"=?utf-8?q?=E2=82=AC?=" * 30,
]

REFERENCES = [
    # Message-ID, References, In-Reply-To, Subject
    (b"<t1@x>", None, None, b"thread"), (b"<t2@x>", b"<t1@x>", None, b"Re: thread"), (b"<t3@x>", b"<t1@x> <t2@x>", None, b"Re: thread"),
    (b"<t4@x>", None, b"<t2@x>", b"Re: thread"), (b"<t5@x>", b"<none@x> <t4@x>", None, b"Re: thread"), (b"<t6@x>", b"<gone@x>", None, b"other"),
    (b"<t7@x>", b"<gone@x>", None, b"Re: other"), (b"<t1@x>", None, None, b"same id"), (None, b"<t1@x>", None, b"Re: thread"),
    (b"<loop1@x>", b"<loop2@x>", None, b"loop"), (b"<loop2@x>", b"<loop1@x>", None, b"loop"), (b"<self@x>", b"<self@x>", None, b"self"),
    (b"no brackets", b"t1@x", None, b"odd"), (b"<t8@x> trailing", b"text <t1@x> text", None, b"odd"), (b'<"quo ted"@x>', None, None, b"odd"),
    (b"<quoted@x>", b'<"quo ted"@x>', None, b"Re: odd"), (b"<irt@x>", None, b"Your mail of <t1@x> and <t2@x>", b"irt"),
    (b"<t9@x>", b"<t1@x>\r\n <t2@x>\r\n\t<t3@x>", None, b"Re: thread"), (b"<t10@x>", b"<t1@x><t2@x>", None, b"Re: thread"), (b"<>", b"<>", b"<>", b"empty"),
    (b"<T1@X>", None, None, b"case"), (b"<t11@x>", b"<t1@x> <broken <t3@x>", None, b"broken"),
]

TYPES = [
    b"text/plain", b"TEXT/HTML; charset=UTF-8", b"text", b"text/", b"/plain", b"", b"text/plain; charset", b"text/plain; charset=", b"text/plain;charset=\"utf-8\"",
    b"text/plain; charset=\"open", b"text/plain; ; ; charset=utf-8;", b"text/plain (comment); charset (c) = (d) utf-8 (e)", b"text / plain", b"text/plain charset=utf-8",
    b"text/plain; charset=a; charset=b", b"text/plain; name*=utf-8''%C3%BC.txt", b"text/plain; name*0=\"ab\"; name*1=\"cd\"", b"text/plain; name*0*=utf-8''%C3%BC; name*1=\"x\"",
    b"text/plain; name*1=b; name*0=a", b"text/plain; name=\"with \\\"quote\\\" in\"", b"text/plain; name=sp ace.txt", b"text/plain; name=\"=?utf-8?q?=C3=BC?=\"",
    b"text/plain; name=\xc3\xbc.txt", b"text/plain; name=\xfc.txt", b"application/octet-stream", b"x-own/type; a=b", b"application/x+y.z; q=\"\"", b"text/plain; format=flowed; delsp=yes",
    b"image/png;\r\n name=\"a.png\"", b"te xt/plain", b"text/pl@in", b"text\\plain", b"text/plain; =value", b"text/plain; name='single'", b"message/partial; id=\"x\"; number=1; total=2",
    b"message/external-body; access-type=URL; URL=\"http://x.example/\"", b"message/delivery-status", b"message/global", b"message/rfc822", b"multipart/mixed", b"multipart/mixed; boundary=",
    b"multipart/mixed; boundary=\"\"", b"multipart; boundary=b", b"multipart/alternative; boundary=b", b"multipart/mixed; boundary=b; charset=utf-8", b"MULTIPART/MIXED; BOUNDARY=b",
    b"multipart/mixed; boundary=\"b \"", b"multipart/mixed; boundary=b; boundary=c", b"multipart/mixed; boundary*0=b", b"multipart/digest; boundary=b",
]

ENCODINGS = [b"7bit", b"8BIT", b"binary", b"base64", b"BASE64 (comment)", b"quoted-printable", b"Quoted-Printable;", b"x-uuencode", b"", b"unknown", b"base64, base64", b"7-bit"]

FIELDS = [
    b"Content-Disposition: attachment", b"Content-Disposition: attachment; filename=a.txt", b"Content-Disposition: inline; filename*=utf-8''%C3%BC.txt",
    b"Content-Disposition:", b"Content-Disposition: ; filename=x", b"Content-Disposition: attachment; filename=\"a\\\"b\"; size=3", b"Content-Disposition: \"attachment\"",
    b"Content-Disposition: attachment filename=a.txt", b"Content-Language: de", b"Content-Language: de, en (x), fr", b"Content-Language:", b"Content-Language: \"quoted\", x",
    b"Content-Location: http://x.example/a b", b"Content-Location: http://x.example/a\r\n b", b"Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==", b"Content-MD5:", b"Content-ID: <a@b>",
    b"Content-ID: no brackets", b"Content-ID:", b"Content-Description: =?utf-8?q?=C3=BC?=", b"Content-Description: a\r\n  folded  one", b"Content-Description: \xc3\xbc \"q\"",
    b"Content-Type: text/html\r\nContent-Type: text/plain", b"content-type : text/html", b"Content-Type\t:text/html", b"Content-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: base64",
    b"Mime-Version: 2.0\r\nContent-Type: text/html", b"Subject: one\r\nSubject: two", b"From: a@b.example\r\nFrom: c@d.example", b"To: a@b.example\r\nTo: c@d.example",
    b"Date: Mon, 2 Mar 2026 10:00:00 +0100\r\nDate: Tue, 3 Mar 2026 10:00:00 +0100", b"Message-ID: <a@b>\r\nMessage-ID: <c@d>", b"No colon here", b" leading space: x",
    b": empty name", b"Sp ace: x", b"X-Long: " + b"x" * 5000, b"X-Empty:", b"X-8bit: \xff\xfe\x80", b"Reply-To:", b"Sender: ", b"Sender: s@t.example\r\nFrom: a@b.example",
    b"In-Reply-To: <a@b>\r\n <c@d>", b"In-Reply-To: ", b"Message-ID: ", b"Bcc: b@c.example", b"From: a@b.example\r\nReply-To: \"\"", b"UTF8 (From: a@b.example",
]

CHARSETS = [("iso-8859-1", "Grüße"), ("iso-8859-15", "10 €"), ("windows-1252", "„Grüße“"), ("koi8-r", "Привет"), ("windows-1251", "Привет"), ("iso-2022-jp", "日本語"),
            ("shift_jis", "日本語"), ("euc-jp", "日本語"), ("gb2312", "你好"), ("gbk", "你好"), ("gb18030", "你好"), ("big5", "你好"), ("euc-kr", "안녕"), ("utf-8", "Grüße 日本語"),
            ("utf-7", "Grüße sieben"), ("utf-16", "Grüße"), ("utf-16le", "Grüße"), ("iso-8859-2", "Příliš"), ("iso-8859-7", "Γειά"), ("tis-620", "สวัสดี"), ("us-ascii", "plain words")]


def part(fields, body=b"text\r\n"):
    return (fields + b"\r\n" if fields else b"") + b"\r\n" + body


def multi(boundary, parts, kind=b"mixed", before=b"", after=b"", end=True, quote=b'"'):
    """A message that is a multipart."""
    out = b"Content-Type: multipart/%s; boundary=%s%s%s\r\n\r\n" % (kind, quote, boundary, quote) + before
    for one in parts:
        out += b"--" + boundary + b"\r\n" + one + b"\r\n"
    return out + (b"--" + boundary + b"--\r\n" if end else b"") + after


def nested_multi(depth):
    body = part(b"Content-Type: text/plain", b"deepest\r\n")
    for n in range(depth):
        body = multi(b"b%d" % n, [body])
    return b"Subject: %d deep\r\n" % depth + body


def nested_messages(depth):
    body = b"Subject: deepest\r\n\r\ndeepest\r\n"
    for n in range(depth):
        body = b"Subject: level %d\r\nContent-Type: message/rfc822\r\n\r\n" % n + body
    return body


def mime():
    two = [part(b"Content-Type: text/plain", b"one\r\n"), part(b"Content-Type: text/html", b"<p>two</p>\r\n")]
    yield "simple", multi(b"b", two)
    yield "unquoted", multi(b"b", two, quote=b"")
    yield "preamble", multi(b"b", two, before=b"before\r\n\r\n", after=b"after\r\n\r\n")
    yield "not closed", multi(b"b", two, end=False)
    yield "no parts", multi(b"b", [])
    yield "no parts, closed not", multi(b"b", [], end=False)
    yield "no parts, preamble", multi(b"b", [], before=b"only this\r\n", end=False)
    yield "empty body", b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    yield "no body", b"Content-Type: multipart/mixed; boundary=b\r\n"
    yield "empty parts", multi(b"b", [b"", b"\r\n", b"Content-Type: text/html\r\n"])
    yield "part without empty line", multi(b"b", [b"Content-Type: text/html"])
    yield "part with text only", multi(b"b", [b"just text\r\nand more"])
    yield "spaces behind", multi(b"b", two).replace(b"--b\r\n", b"--b  \t\r\n").replace(b"--b--\r\n", b"--b--  \r\n")
    yield "text behind", multi(b"b", two).replace(b"--b\r\n", b"--bx\r\n")
    yield "text behind the end", multi(b"b", two).replace(b"--b--\r\n", b"--b--x\r\n")
    yield "space before", multi(b"b", two).replace(b"--b\r\n", b" --b\r\n")
    yield "three dashes", multi(b"-b", two)
    yield "dashes only", multi(b"--", two)
    yield "boundary is prefix", multi(b"b", [multi(b"bb", two), part(b"", b"last\r\n")])
    yield "outer is longer", multi(b"bb", [multi(b"b", two), part(b"", b"last\r\n")])
    yield "same boundary", multi(b"b", [multi(b"b", two), part(b"", b"last\r\n")])
    yield "inner not closed", multi(b"b", [multi(b"c", two, end=False), part(b"", b"last\r\n")])
    yield "long boundary", multi(b"x" * 200, two)
    yield "boundary of 70", multi(b"x" * 70, two)
    yield "boundary of specials", multi(b"'()+_,-./:=?", two)
    yield "boundary with space", multi(b"a b", two)
    yield "boundary with escapes", multi(b"b", two).replace(b'"b"', b'"\\b"')
    yield "boundary in other case", multi(b"b", two).replace(b"--b", b"--B")
    yield "parts after the end", multi(b"b", two) + b"--b\r\n\r\nmore\r\n--b--\r\n"
    yield "empty part between", multi(b"b", [two[0], b"", two[1]])
    yield "digest", multi(b"b", [part(b"", b"Subject: in\r\n\r\ntext\r\n"), part(b"Content-Type: text/plain", b"x\r\n")], kind=b"digest")
    yield "alternative", b"MIME-Version: 1.0\r\n" + multi(b"b", two, kind=b"alternative")
    yield "related with parameters", multi(b"b", two, kind=b"related").replace(b"boundary", b'type="text/html"; start="<x>"; boundary')
    yield "signed", multi(b"b", [two[0], part(b"Content-Type: application/pgp-signature; name=x.asc", b"-----BEGIN\r\n")], kind=b"signed")
    yield "report", multi(b"b", [two[0], part(b"Content-Type: message/delivery-status", b"Reporting-MTA: dns; x\r\n\r\nAction: failed\r\n"),
                                 part(b"Content-Type: message/rfc822", b"Subject: sent\r\n\r\ntext\r\n"), part(b"Content-Type: text/rfc822-headers", b"Subject: sent\r\n")], kind=b"report")
    yield "multipart in base64", b"Content-Transfer-Encoding: base64\r\n" + multi(b"b", two)
    yield "message in base64", b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(b"Subject: in\r\n\r\nx\r\n")
    yield "message in a message", b"Content-Type: message/rfc822\r\n\r\nSubject: in\r\nFrom: a@b.example\r\n\r\nx\r\n"
    yield "message without body", b"Content-Type: message/rfc822\r\n\r\nSubject: in\r\n"
    yield "message of nothing", b"Content-Type: message/rfc822\r\n\r\n"
    yield "message is multipart", b"Content-Type: message/rfc822\r\n\r\n" + multi(b"b", two)
    yield "message cut by boundary", multi(b"b", [part(b"Content-Type: message/rfc822", b"Subject: in"), two[1]])
    yield "message with multipart cut", multi(b"b", [part(b"Content-Type: message/rfc822", multi(b"c", two, end=False)), two[1]])
    yield "message then part", multi(b"b", [part(b"Content-Type: message/rfc822", multi(b"c", two)), two[1]])
    for depth in (5, 30, 60, 99):
        yield "nested %d" % depth, nested_multi(depth)
    for depth in (5, 30, 60):
        yield "messages nested %d" % depth, nested_messages(depth)
    yield "500 parts", multi(b"b", [part(b"Content-Type: text/plain; name=%d" % n, b"part %d\r\n" % n) for n in range(500)])
    yield "500 headers", b"".join(b"X-%d: y\r\n" % n for n in range(500)) + b"\r\ntext\r\n"
    yield "500 addresses", b"To: " + b",\r\n ".join(b"Name %d <a%d@b.example>" % (n, n) for n in range(500)) + b"\r\n\r\ntext\r\n"
    yield "no header", b"\r\nbody alone\r\n"
    yield "no empty line", b"Subject: header alone\r\n"
    yield "no line end", b"Subject: header alone"
    yield "body without line end", b"Subject: x\r\n\r\nno end"
    yield "bare LF", b"Subject: lf\nFrom: a@b.example\n\nbody\nof lines\n"
    yield "bare CR", b"Subject: cr\r\n\r\nbody\rwith\rCR\r\n"
    yield "CR in the header", b"Subject: c\rr\r\nFrom: a@b.example\r\n\r\nx\r\n"
    yield "CR CR LF", b"Subject: x\r\r\n\r\r\nbody\r\r\n"
    yield "long line", b"Subject: x\r\n\r\n" + b"x" * 100_000 + b"\r\n"
    yield "text without header", b"hello there\r\nthis is no header\r\n\r\nbody\r\n"
    yield "mbox line", b"From a@b.example Mon Mar  2 10:00:00 2026\r\nSubject: x\r\n\r\nFrom here\r\n"
    yield "only line ends", b"\r\n\r\n\r\n"
    yield "one letter", b"x"
    yield "controls", b"Subject: \x01\x02\x7f\r\n\r\n\x01\x7f\x1b\r\n"
    yield "header with line of spaces", b"Subject: x\r\n   \r\nFrom: a@b.example\r\n\r\nbody\r\n"
    yield "attachment of everything", multi(b"b", [part(f, b"x\r\n") for f in FIELDS if f.startswith(b"Content")])


def texts():
    for charset, text in CHARSETS:
        raw = (text + "\r\n").encode(charset)
        head = b"Subject: =?%s?b?%s?=\r\n" % (charset.encode(), base64.b64encode(text.encode(charset)))
        kind = b"Content-Type: text/plain; charset=%s\r\n" % charset.encode()
        coded = base64.encodebytes(raw * 20).replace(b"\n", b"\r\n")
        yield "charset %s base64" % charset, head + kind + b"Content-Transfer-Encoding: base64\r\n\r\n" + coded
        if b"\0" not in raw:
            coded = quopri.encodestring(raw).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            yield "charset %s qp" % charset, head + kind + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + coded
    yield "charset unknown", b"Content-Type: text/plain; charset=x-nothing\r\n\r\nplain Gr\xfc\xdfe\r\n"
    yield "charset wrong", b"Content-Type: text/plain; charset=utf-8\r\n\r\nplain Gr\xfc\xdfe end\r\n"
    yield "8 bit without charset", b"Subject: x\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
    yield "html", b"Content-Type: text/html; charset=utf-8\r\n\r\n<p>Gr&uuml;&szlig;e <b>fet</b>t</p><script>hidden()</script>\r\n"
    yield "base64 without padding", b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\nbmVlZGxl\r\nbmVlZGx\r\n"
    yield "base64 with noise", b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\nbmV!l ZG*xl\r\n\r\n"
    yield "base64 with text behind", b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\nbmVlZGxl==\r\nplain text\r\n"
    yield "qp broken", b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nnee=dle =ZZ nee=\r\ndle =C3=BC=\r\n"
    yield "qp soft ends", b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nnee=  \r\ndle   \r\nx=3D=0D=0A\r\n"
    yield "needle over lines", b"Subject: nee\r\n dle\r\n\r\nnee\r\ndle\r\n"


def messages():
    for n, one in enumerate(ADDRESSES):
        yield "address %d" % n, b"From: " + one + b"\r\nTo: " + one + b"\r\nSubject: address\r\n\r\ntext\r\n"
    for n, one in enumerate(DATES):
        yield "date %d" % n, b"Date: " + one + b"\r\nFrom: d@e.example\r\nSubject: date %d\r\n\r\ntext\r\n" % n
    for n, one in enumerate(SUBJECTS):
        yield "subject %d" % n, b"Date: Mon, 2 Mar 2026 10:%02d:00 +0000\r\nSubject: " % n + one + b"\r\n\r\ntext\r\n"
    for n, (own, references, reply, subject) in enumerate(REFERENCES):
        fields = [(b"Message-ID", own), (b"References", references), (b"In-Reply-To", reply), (b"Subject", subject)]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in fields if value is not None)
        yield "references %d" % n, head + b"Date: Tue, 3 Mar 2026 11:%02d:00 +0000\r\n\r\ntext\r\n" % n
    for n, one in enumerate(TYPES):
        yield "type %d" % n, b"Content-Type: " + one + b"\r\n\r\n--b\r\n\r\none\r\n--b\r\nContent-Type: text/html\r\n\r\ntwo\r\n--b--\r\n"
    for n, one in enumerate(ENCODINGS):
        yield "encoding %d" % n, b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: " + one + b"\r\n\r\nbmVlZGxl\r\n"
    for n, one in enumerate(FIELDS):
        # Without MIME-Version as well.
        head = b"MIME-Version: 1.0\r\n" if one.lower().startswith(b"content") else b""
        yield "field %d" % n, head + one + b"\r\n\r\ntext\r\n"
        if head and n % 4 == 0:
            yield "field %d without version" % n, one + b"\r\n\r\ntext\r\n"
    yield from mime()
    yield from texts()
    for path in sorted(glob.glob(PYTHON)):
        with open(path, "rb") as file:
            yield "python " + os.path.basename(path), file.read()
