"""Which differences of imap_differences.py are known: class (a heading of docs/imap-differences.md), item
and message, both as regular expressions that match the whole."""

EXPLAINED = [
]
