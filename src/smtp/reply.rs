//! Every reply this server gives, in one table, and the writing of replies (RFC 5321 §4.2, RFC 2034).
//!
//! Fixed replies are stored as they go over the wire. [`Refusal`] is for texts that others make (policy);
//! it is forced into the form of a reply, whatever it holds. Writing appends to a reused buffer.

/// Longest reply line in bytes with CRLF (RFC 5321 §4.5.3.1.5).
pub const LINE_MAX: usize = 512;

/// A fixed reply: code, enhanced code where one belongs, text, CRLF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply(&'static str);

impl Reply {
    /// The three-digit code.
    #[must_use]
    pub fn code(self) -> u16 {
        code(self.0.as_bytes())
    }

    /// True if the reply refuses for good (5yz).
    #[must_use]
    pub fn is_permanent(self) -> bool {
        self.0.as_bytes()[0] == b'5'
    }

    /// The line as it is sent.
    #[must_use]
    pub fn line(self) -> &'static str {
        self.0
    }

    /// Appends the reply.
    #[inline]
    pub fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
    }
}

/// The first three digits of a reply line, as a number.
fn code(line: &[u8]) -> u16 {
    line[..3].iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'))
}

macro_rules! replies {
    ($( $(#[$doc:meta])* $name:ident = $text:literal; )*) => {
        impl Reply {
            $( $(#[$doc])* pub const $name: Reply = Reply(concat!($text, "\r\n")); )*
            /// All fixed replies, for tests and documentation.
            pub const ALL: &'static [Reply] = &[ $( Reply::$name ),* ];
        }
    };
}

replies! {
    /// HELP.
    HELP = "214 2.0.0 EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT: see RFC 5321";
    /// STARTTLS (RFC 3207 §4).
    START_TLS = "220 2.0.0 Ready to start TLS";
    /// QUIT.
    BYE = "221 2.0.0 Bye";
    /// AUTH (RFC 4954 §6).
    AUTH_OK = "235 2.7.0 Authentication succeeded";
    /// NOOP, RSET and other commands that only succeed.
    OK = "250 2.0.0 Ok";
    /// MAIL.
    SENDER_OK = "250 2.1.0 Sender ok";
    /// RCPT.
    RECIPIENT_OK = "250 2.1.5 Recipient ok";
    /// A message that is in a mailbox now; of LMTP, for one recipient (RFC 2033 §4.2).
    DELIVERED = "250 2.0.0 Delivered";
    /// A message that an access map has thrown away.
    DISCARDED = "250 2.0.0 Ok: discarded";
    /// VRFY (RFC 5321 §3.5.3).
    CANNOT_VERIFY = "252 2.5.2 Cannot verify, send mail to find out";
    /// DATA (RFC 2034 §4: intermediate replies have no enhanced code).
    SEND_DATA = "354 End data with <CR><LF>.<CR><LF>";
    /// The process stops or restarts.
    SHUTTING_DOWN = "421 4.3.2 Shutting down, try again shortly";
    /// The peer was too slow.
    TIMEOUT = "421 4.4.2 Timeout, closing connection";
    /// The error limit is reached.
    TOO_MANY_ERRORS = "421 4.7.0 Too many errors, closing connection";
    /// The limit of commands without mail is reached.
    TOO_MANY_COMMANDS = "421 4.7.0 Too many commands without mail, closing connection";
    /// The limit of transactions in a session is reached.
    TOO_MANY_MESSAGES = "421 4.7.0 Too many messages in this session, reconnect";
    /// The limit of sessions is reached, for this client or in all.
    TOO_MANY_SESSIONS = "421 4.7.0 Too many connections, try again later";
    /// The rate of connections is reached, for this client or its network.
    TOO_OFTEN = "421 4.7.0 Connecting too often, try again later";
    /// Too many logins have failed, of this client or with this login.
    TOO_MANY_FAILURES = "421 4.7.0 Too many failed logins, try again later";
    /// New mail cannot be taken for the life of this process.
    STORAGE_FAILED = "421 4.3.0 Mail storage is not available, try again later";
    /// Above a limit of policy.
    BRAKED = "450 4.7.1 Too much mail, try again later";
    /// Something of ours failed.
    LOCAL_ERROR = "451 4.3.0 Local error, try again later";
    /// The commit took too long; the message was withdrawn.
    COMMIT_LATE = "451 4.3.0 Storage is too slow, try again later";
    /// Disk full.
    NO_SPACE = "452 4.3.1 Not enough storage, try again later";
    /// Memory for bodies, or the queue, is full for the moment.
    BUSY = "452 4.3.1 Too busy, try again later";
    /// RCPT above the limit (RFC 5321 §4.5.3.1.10).
    TOO_MANY_RECIPIENTS = "452 4.5.3 Too many recipients";
    /// Nobody could say where the message comes from: SPF (RFC 7372 §3.2).
    SPF_LATER = "451 4.7.24 SPF validation error, try again later";
    /// The same: DKIM.
    DKIM_LATER = "451 4.7.1 DKIM keys cannot be looked up, try again later";
    /// The same: ARC.
    ARC_LATER = "451 4.7.1 ARC keys cannot be looked up, try again later";
    /// The same: DMARC.
    DMARC_LATER = "451 4.7.1 DMARC policy cannot be looked up, try again later";
    /// Passwords cannot be checked for the moment (RFC 4954 §6).
    AUTH_BUSY = "454 4.7.0 Temporary authentication failure, try again later";
    /// The limit of sessions of one user is reached.
    AUTH_SESSIONS = "454 4.7.0 Too many sessions of this user, try again later";
    /// STARTTLS when TLS cannot be had (RFC 3207 §4).
    TLS_UNAVAILABLE = "454 4.7.0 TLS not available due to temporary reason";
    /// No such command.
    UNKNOWN_COMMAND = "500 5.5.2 Command not recognized";
    /// A command line above the limit.
    LINE_TOO_LONG = "500 5.5.2 Line too long";
    /// A line of an AUTH exchange above the limit (RFC 4954 §6).
    AUTH_LINE_TOO_LONG = "500 5.5.6 Authentication exchange line is too long";
    /// A command line that does not end in CRLF.
    BARE_LINE_FEED = "500 5.5.2 Command lines end in CRLF, not in a bare line feed";
    /// A control character in a command line.
    CONTROL_CHARACTER = "500 5.5.2 Control character in a command";
    /// EHLO or HELO on a port that is LMTP (RFC 2033 §4.1).
    NOT_SMTP = "500 5.5.1 This is LMTP, say LHLO";
    /// LHLO on a port that is not LMTP.
    NOT_LMTP = "500 5.5.1 This is SMTP, say EHLO";
    /// EHLO or HELO without a usable argument.
    HELO_ARGUMENT = "501 5.5.4 Syntax: EHLO domain-or-address-literal";
    /// MAIL that is not a MAIL command.
    MAIL_SYNTAX = "501 5.5.4 Syntax: MAIL FROM:<address> [parameters]";
    /// RCPT that is not a RCPT command.
    RCPT_SYNTAX = "501 5.5.4 Syntax: RCPT TO:<address> [parameters]";
    /// The address in MAIL.
    BAD_SENDER = "501 5.1.7 Bad sender address syntax";
    /// The address in RCPT.
    BAD_RECIPIENT = "501 5.1.3 Bad recipient address syntax";
    /// A parameter with a bad value, or given twice.
    BAD_PARAMETER = "501 5.5.4 Bad or repeated parameter";
    /// XCLIENT and XFORWARD with an attribute that is not known or has a bad value.
    BAD_ATTRIBUTE = "501 5.5.4 Bad attribute name or value";
    /// An argument where none belongs.
    NO_ARGUMENT = "501 5.5.4 This command takes no argument";
    /// A response of AUTH that is not base64 (RFC 4954 §4).
    NOT_BASE64 = "501 5.5.2 Cannot decode the response";
    /// A response that is not in the form of its mechanism.
    BAD_RESPONSE = "501 5.5.2 The response does not fit the mechanism";
    /// The client has given an AUTH exchange up (RFC 4954 §4).
    AUTH_CANCELLED = "501 5.7.0 Authentication cancelled";
    /// VRFY and EXPN without argument.
    NEEDS_ARGUMENT = "501 5.5.4 This command needs an argument";
    /// BDAT without a usable size: what follows cannot be told from commands.
    BDAT_SYNTAX = "501 5.5.4 Syntax: BDAT size [LAST]; closing connection";
    /// A command that is known and not implemented.
    NOT_IMPLEMENTED = "502 5.5.1 Command not implemented";
    /// STARTTLS or AUTH that were not offered.
    NOT_OFFERED = "502 5.5.1 Not offered here";
    /// A command out of order.
    BAD_SEQUENCE = "503 5.5.1 Bad sequence of commands";
    /// STARTTLS under TLS.
    TLS_IS_ON = "503 5.5.1 TLS is already on";
    /// MAIL before EHLO or HELO.
    NEED_HELO = "503 5.5.1 Say EHLO first";
    /// AUTH a second time (RFC 4954 §4).
    AUTHENTICATED = "503 5.5.1 Already authenticated";
    /// AUTH within a transaction (RFC 4954 §4).
    WITHIN_TRANSACTION = "503 5.5.1 Not within a mail transaction";
    /// AUTH with a mechanism that is not offered (RFC 4954 §4).
    UNKNOWN_MECHANISM = "504 5.5.4 Unrecognized authentication mechanism";
    /// RCPT, DATA or BDAT before MAIL.
    NEED_MAIL = "503 5.5.1 Need MAIL first";
    /// DATA or BDAT before RCPT.
    NEED_RCPT = "503 5.5.1 Need RCPT first";
    /// MAIL within a transaction.
    NESTED_MAIL = "503 5.5.1 Nested MAIL";
    /// DATA, MAIL or RCPT between chunks (RFC 3030 §3).
    WITHIN_CHUNKS = "503 5.5.1 Not between BDAT chunks";
    /// XCLIENT and XFORWARD of a client that may not use them.
    NO_FORWARDER = "550 5.7.0 You may not speak for other clients";
    /// A command before AUTH (RFC 4954 §6).
    NEEDS_AUTH = "530 5.7.0 Authentication required";
    /// Login or password are wrong (RFC 4954 §6).
    AUTH_FAILED = "535 5.7.8 Authentication credentials invalid";
    /// AUTH in clear text (RFC 4954 §6).
    AUTH_NEEDS_TLS = "538 5.7.11 Encryption required for requested authentication mechanism";
    /// Anything but EHLO, NOOP, QUIT before STARTTLS (RFC 3207 §4).
    NEEDS_TLS = "530 5.7.0 Must issue a STARTTLS command first";
    /// The recipient does not exist.
    NO_SUCH_USER = "550 5.1.1 No such user here";
    /// Too many messages wait for their signatures.
    SIGNING_BUSY = "451 4.3.2 Too much to sign, try again later";
    /// Mail comes back by a return path that is too old.
    RETURN_PATH_OLD = "550 5.1.1 Return path has expired";
    /// Above a limit of policy, for good.
    BRAKED_FOR_GOOD = "550 5.7.1 Too much mail";
    /// The client may not send to that domain through us.
    RELAY_DENIED = "554 5.7.1 Relay access denied";
    /// No next hop for the domain.
    NO_ROUTE = "550 5.4.4 No route to that domain";
    /// Bare CR or LF in a message (smuggling).
    BARE_NEWLINE = "550 5.5.2 Message contains a bare carriage return or line feed";
    /// The sender's domain says that it does not send from this client (RFC 7372 §3.2).
    SPF_FAILED = "550 5.7.23 SPF validation failed";
    /// No signature holds (RFC 7372 §3.1).
    DKIM_FAILED = "550 5.7.20 No passing DKIM signature found";
    /// The seals of those who passed it on do not hold (RFC 8617 §5.2.2).
    ARC_FAILED = "550 5.7.29 ARC validation failure";
    /// As the author's domain wishes.
    DMARC_FAILED = "550 5.7.1 Refused by the DMARC policy of the author's domain";
    /// DMARC is about one domain (RFC 5322 §3.6.2 wants an author).
    NOT_ONE_AUTHOR = "550 5.7.1 From must name authors of exactly one domain";
    /// NUL in a message.
    NUL_IN_MESSAGE = "550 5.6.0 Message contains a NUL byte";
    /// SIZE= or the message itself exceeds the limit (RFC 1870 §6).
    TOO_BIG = "552 5.3.4 Message size exceeds the limit";
    /// Header block, field or number of fields exceed their limit.
    HEADER_TOO_BIG = "552 5.3.4 Message header exceeds the limit";
    /// An international address without SMTPUTF8 (RFC 6531 §3.5).
    NEEDS_SMTPUTF8 = "553 5.6.7 Non-ASCII address needs SMTPUTF8";
    /// Bytes before the banner.
    EARLY_TALKER = "554 5.5.1 You spoke before the greeting, closing connection";
    /// Bytes after a command whose reply must be awaited (RFC 2920 §3.1).
    BAD_PIPELINING = "554 5.5.0 Pipelining not allowed at this point, closing connection";
    /// A HTTP request.
    NOT_HTTP = "554 5.5.1 This is SMTP, not HTTP, closing connection";
    /// DATA or BDAT when every recipient was refused (RFC 2920 §3.1).
    NO_VALID_RECIPIENTS = "554 5.5.1 No valid recipients";
    /// Loop (RFC 5321 §6.3).
    TOO_MANY_HOPS = "554 5.4.6 Too many Received fields, mail loop?";
    /// A refused message goes on without end.
    ENDLESS_MESSAGE = "552 5.3.4 Message far exceeds the limit, closing connection";
    /// A parameter of MAIL or RCPT that was not offered (RFC 5321 §4.1.1.11).
    UNKNOWN_PARAMETER = "555 5.5.4 Parameter not recognized";
}

/// A refusal: a fixed one, or one whose text somebody else made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal<'a> {
    /// From the table.
    Fixed(Reply),
    /// Of its own. A code outside 400..=599 becomes 451.
    Own {
        /// Three-digit code, 400..=599.
        code: u16,
        /// Subject and detail of the enhanced code (RFC 3463); its class is that of `code`.
        enhanced: (u16, u16),
        /// Text; what is not printable ASCII becomes `?`, what exceeds the line is cut.
        text: &'a [u8],
    },
}

impl Refusal<'_> {
    /// The three-digit code that is sent.
    #[must_use]
    pub fn code(&self) -> u16 {
        match *self {
            Refusal::Fixed(reply) => reply.code(),
            Refusal::Own { code: code @ 400..=599, .. } => code,
            Refusal::Own { .. } => 451,
        }
    }

    /// True if it refuses for good (5yz).
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.code() >= 500
    }

    /// Appends the reply.
    pub fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Refusal::Fixed(reply) => reply.put(out),
            Refusal::Own { enhanced: (subject, detail), text, .. } => {
                let start = out.len();
                let code = self.code();
                put_number(out, u64::from(code));
                out.push(b' ');
                put_number(out, u64::from(code / 100));
                out.push(b'.');
                put_number(out, u64::from(subject.min(999)));
                out.push(b'.');
                put_number(out, u64::from(detail.min(999)));
                out.push(b' ');
                let room = LINE_MAX - 2 - (out.len() - start);
                let clean = |&b: &u8| if matches!(b, 32..=126) { b } else { b'?' };
                out.extend(text.iter().take(room).map(clean));
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}

impl From<Reply> for Refusal<'_> {
    fn from(reply: Reply) -> Self {
        Refusal::Fixed(reply)
    }
}

/// Appends the greeting (RFC 5321 §4.2.2). `host` is our own name.
pub fn put_banner(out: &mut Vec<u8>, host: &str, lmtp: bool) {
    out.extend_from_slice(b"220 ");
    out.extend_from_slice(host.as_bytes());
    out.extend_from_slice(if lmtp { b" LMTP ringpost\r\n" } else { b" ESMTP ringpost\r\n" });
}

/// Appends the positive reply to a message, with its queue id.
pub fn put_queued(out: &mut Vec<u8>, id: &[u8]) {
    out.extend_from_slice(b"250 2.0.0 Ok: queued as ");
    out.extend_from_slice(id);
    out.extend_from_slice(b"\r\n");
}

/// Appends a challenge, which is in base64 (RFC 4954 §4).
pub fn put_challenge(out: &mut Vec<u8>, challenge: &str) {
    out.extend_from_slice(b"334 ");
    out.extend_from_slice(challenge.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends the positive reply to a BDAT chunk (RFC 3030 §2).
pub fn put_chunk_taken(out: &mut Vec<u8>, octets: u64) {
    out.extend_from_slice(b"250 2.0.0 ");
    put_number(out, octets);
    out.extend_from_slice(b" octets received\r\n");
}

/// Appends `n` in decimal.
pub fn put_number(out: &mut Vec<u8>, n: u64) {
    let mut digits = [0; 20];
    let (mut at, mut n) = (digits.len(), n);
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5321 §4.2: three digits, space, text, CRLF; RFC 2034 §4: the class agrees with the code.
    #[test]
    fn every_fixed_reply_has_the_form_of_a_reply() {
        for reply in Reply::ALL {
            let line = reply.line();
            let text = line.strip_suffix("\r\n").unwrap();
            assert!(text.bytes().all(|b| matches!(b, 32..=126)) && line.len() <= LINE_MAX, "{line}");
            assert!((200..=599).contains(&reply.code()) && text.as_bytes()[3] == b' ', "{line}");
            let enhanced = text[4..].split(' ').next().unwrap();
            if reply.code() / 100 == 3 {
                assert!(!enhanced.contains('.'), "{line}");
                continue;
            }
            let numbers: Vec<u16> = enhanced.split('.').map(|n| n.parse().unwrap()).collect();
            assert_eq!(numbers.len(), 3, "{line}");
            assert_eq!(numbers[0], reply.code() / 100, "{line}");
            assert_eq!(reply.is_permanent(), reply.code() >= 500, "{line}");
        }
    }

    fn own(code: u16, enhanced: (u16, u16), text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Refusal::Own { code, enhanced, text }.put(&mut out);
        out
    }

    #[test]
    fn texts_of_others_are_forced_into_form() {
        assert_eq!(own(550, (7, 1), b"No"), b"550 5.7.1 No\r\n");
        assert_eq!(own(450, (2, 1), b"a\r\n250 b\x80"), b"450 4.2.1 a??250 b?\r\n");
        assert_eq!(own(250, (1, 1), b"x"), b"451 4.1.1 x\r\n", "no refusal says yes");
        let long = own(554, (9999, 0), &[b'x'; 2000]);
        assert_eq!((long.len(), &long[..12]), (LINE_MAX, &b"554 5.999.0 "[..]));
        assert!(
            Refusal::from(Reply::TOO_BIG).is_permanent() && !Refusal::from(Reply::NO_SPACE).is_permanent()
        );
    }

    #[test]
    fn made_up_replies() {
        let mut out = Vec::new();
        put_banner(&mut out, "mx.example", false);
        put_queued(&mut out, b"ID");
        put_chunk_taken(&mut out, u64::MAX);
        put_number(&mut out, 0);
        let expect = "220 mx.example ESMTP ringpost\r\n250 2.0.0 Ok: queued as ID\r\n\
            250 2.0.0 18446744073709551615 octets received\r\n0";
        assert_eq!(out, expect.as_bytes());
    }
}
