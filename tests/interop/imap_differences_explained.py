"""Which differences of imap_differences.py are known: class (a heading of docs/imap-differences.md), item
and message, both as regular expressions that match the whole, and what else must hold of the two answers."""


def names(*parts):
    return "|".join(parts)


NO_FIELDS = names("field (32|33|34|35|47)", "text without header", "one letter", "part with text only", "message in base64", "type (38|49)", r"python msg_(19|35|38)\.txt")
BARE_CR = names("bare CR", "CR in the header", "CR CR LF")
MBOX = names("mbox line", r"python msg_(25|43)\.txt")
NO_TYPE = names("type (2|3|4|5|13|29|30|31|42)", r"python msg_(14|06|46|02|36)\.txt")
NO_BOUNDARY = names("type (39|40|41)", r"python msg_(25|33|41)\.txt")
NO_PARTS = names("no parts.*", "empty body", "no body", "space before", "boundary in other case", r"python msg_(17|31|42)\.txt")
NO_ADDRESS = "address (12|31|32|34|35|37|38|39|48|51|52|64|66|74|76|77|81|82)"
# What stands for UTF-8 where the client has not enabled it.
SURROGATES = ("=?utf-8?B?", "internationalized-address.invalid", "utf-8''")
SHAPE = r"(BODYSTRUCTURE|BODY) \S+( \S+)?"
SECTION = r"(BODY|BINARY|BINARY\.SIZE)\[.*"
SEARCH = r"SEARCH .*"
FOUND = r"(SEARCH|SORT|THREAD) .*"

# The first that fits counts.
EXPLAINED = [
    ("Sections that do not exist", r".* absent", ".*"),
    ("HEADER and TEXT of a part that is no message", r".* of no message", ".*"),
    ("Dovecot ends the connection", SECTION, ".*", lambda ours, theirs: theirs == "(connection"),
    ("A bare CR ends a line", ".*", BARE_CR),
    ("Lines that are no fields", names(SHAPE, SECTION, r"RFC822\.HEADER", SEARCH), NO_FIELDS),
    ("A line of a mbox file", r"BODY\[HEADER\.FIELDS\.NOT.*", MBOX),
    ("A Content-Type that is none", names(SHAPE, SEARCH), NO_TYPE),
    ("Multiparts without a boundary", names(SHAPE, SECTION, SEARCH), NO_BOUNDARY),
    ("Boundaries that are none", names(SHAPE, SECTION, SEARCH), names("type 46", "long boundary")),
    ("Multiparts without parts", SECTION, NO_PARTS),
    ("The line end before a boundary", names(SHAPE, SECTION), names("message cut by boundary", "empty parts", "part without empty line", "empty part between", r"python msg_12\.txt")),
    ("BINARY of what has parts", r"BINARY(\.SIZE)?\[\]", ".*"),
    ("BINARY of what has parts", r"BINARY(\.SIZE)?\[part\]", r"python msg_(13|15)\.txt"),
    ("message/global is a message", names(SHAPE, SECTION), "type 37"),
    ("MIME without MIME-Version", names(SHAPE, SECTION), names("field .* without version", "field (25|26)")),
    ("Parameters that are none", r"(BODYSTRUCTURE|BODY) params", names("type (9|32)", r"python msg_29\.txt")),
    ("The case of MESSAGE/RFC822", r"(BODYSTRUCTURE|BODY) (type|subtype)", r"python msg_16\.txt"),
    ("Fields of parts that are empty or broken", SHAPE, names("attachment of everything", r"field \d+")),
    ("Transfer encodings that are none", names(SHAPE, SECTION, r"SEARCH (BODY|TEXT) .*"), names("encoding .*", "field 25", "base64 .*", "qp .*", r"python msg_15\.txt")),
    ("The empty line behind the header", r"BODY\[(part )?HEADER\.FIELDS.*", names("no (empty line|line end|body)", "message without body")),
    ("Addresses that are none", names(r"ENVELOPE (from|sender|reply-to|to)", r"SORT .*\b(FROM|TO)"), names(NO_ADDRESS, "field 46")),
    ("Comments before an address", r"ENVELOPE (from|sender|reply-to|to)", "address (8|86)"),
    ("Obsolete addresses", names(r"ENVELOPE (from|sender|reply-to|to)", r"SORT .*\b(FROM|TO)"), "address (11|47)"),
    ("White space in a field", r"ENVELOPE .*", names("subject (20|43)", "address 75")),
    ("SEARCH in addresses", r"SEARCH (FROM|TO) \S.*", names("address .*", "field 46")),
    ("SEARCH in addresses", r"SEARCH SUBJECT Re FROM a", "address 22"),
    ("What is text of a body", r"SEARCH (BODY|TEXT|NOT) ?.*", names("message is multipart", "message with multipart cut", "message then part", "messages nested .*", r"python msg_(16|28|30|42)\.txt", "type (34|35|36)")),
    ("Messages without a date", r"SEARCH SENTBEFORE 2-Mar-2026", ".*", lambda ours, theirs: ours is False and theirs is True),
    ("Dates that are none, or far away", names("SEARCH SENT.*", "SORT .*DATE", "THREAD .*"), "date (11|19|24|25)"),
    ("Fields that stand twice", FOUND, "field (25|27|30|31|42)"),
    ("UTF-7", FOUND, "charset utf-7 .*"),
    ("Text that is in no charset", FOUND, names("subject (27|31|35)", "address 59", "type 23", "field 38")),
    ("The language of an encoded word", FOUND, "subject 36"),
    ("Parameters that are encoded", "SEARCH TEXT .*", names("type (15|17)", "field 2")),
    ("UTF-8 in headers", r"(ENVELOPE|BODYSTRUCTURE|BODY) .*", ".*", lambda ours, theirs: any(mark in repr(ours) for mark in SURROGATES)),
]
