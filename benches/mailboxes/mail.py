"""Messages for the cases: headers as programs write them, text of words, a size in bytes of the wire form."""
import random

_random = random.Random(1)
_WORDS = ["".join(_random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6)) for _ in range(500)]


def _text(size):
    """Lines of words, CRLF."""
    lines, length = [], 0
    while length < size - 2:
        line = " ".join(_random.choices(_WORDS, k=10))[:max(0, size - 2 - length)]
        lines.append(line)
        length += len(line) + 2
    return ("\r\n".join(lines) + "\r\n").encode()


class Maker:
    """Messages of one size; each has its own number in subject, date and Message-ID."""
    HEAD = (b"From: Sender %d <sender%d@load.test>\r\nTo: <user@bench.test>\r\nSubject: load test message %d\r\n"
            b"Message-ID: <%d.fill@load.test>\r\nDate: Mon, 23 Nov 2026 %02d:%02d:%02d +0000\r\nMIME-Version: 1.0\r\n"
            b"Content-Type: text/plain; charset=us-ascii\r\n\r\n")

    def __init__(self, size):
        self.texts = [_text(max(16, size - len(self.head(0)))) for _ in range(40)]

    def head(self, n):
        return self.HEAD % (n, n % 97, n, n, n // 3600 % 24, n // 60 % 60, n % 60)

    def message(self, n):
        return self.head(n) + self.texts[n % 40]
