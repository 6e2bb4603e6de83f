//! Every fixed reply of this server, in one table, and the writing of those that are made up
//! (RFC 1939 §3; codes in brackets: RFC 2449 §8, RFC 3206).

use std::io::Write;

/// Longest first line of a reply in bytes with CRLF (RFC 2449 §4).
pub const LINE_MAX: usize = 512;
/// Ends a reply of several lines.
pub const END: &[u8] = b".\r\n";

/// A fixed reply: one line with its CRLF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply(&'static str);

impl Reply {
    /// The line as it is sent.
    #[must_use]
    pub fn line(self) -> &'static str {
        self.0
    }

    /// True if it says no.
    #[must_use]
    pub fn is_error(self) -> bool {
        self.0.starts_with('-')
    }

    /// Appends it.
    pub fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
    }
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
    /// NOOP, RSET and the like.
    OK = "+OK";
    /// USER.
    SEND_PASSWORD = "+OK Send your password";
    /// STLS.
    BEGIN_TLS = "+OK Begin TLS negotiation now";
    /// DELE.
    DELETED = "+OK Marked to be deleted";
    /// QUIT.
    BYE = "+OK Bye";
    /// QUIT after the deletions have been committed.
    BYE_DELETED = "+OK Bye, the messages are deleted";
    /// UTF8.
    UTF8_ON = "+OK UTF8 enabled";
    /// No such command.
    UNKNOWN_COMMAND = "-ERR Unknown command";
    /// A HTTP request.
    NOT_HTTP = "-ERR This is POP3, not HTTP";
    /// Arguments that do not fit the command.
    BAD_ARGUMENTS = "-ERR Bad arguments";
    /// A line above the limit.
    LINE_TOO_LONG = "-ERR Line too long";
    /// A command of the other state.
    WRONG_STATE = "-ERR Not now";
    /// PASS without USER.
    NEED_USER = "-ERR Say USER first";
    /// A command that is not offered.
    NOT_OFFERED = "-ERR Not offered here";
    /// STLS under TLS.
    TLS_IS_ON = "-ERR TLS is already on";
    /// STLS when TLS cannot be had.
    TLS_UNAVAILABLE = "-ERR [SYS/TEMP] TLS is not available, try again later";
    /// A password in clear text.
    NEEDS_TLS = "-ERR [AUTH] Say STLS first, passwords are not taken in clear text";
    /// AUTH with a mechanism that is not offered.
    UNKNOWN_MECHANISM = "-ERR Unknown authentication mechanism";
    /// A response of AUTH that is not base64.
    NOT_BASE64 = "-ERR Cannot decode the response";
    /// A response that does not fit the mechanism.
    BAD_RESPONSE = "-ERR The response does not fit the mechanism";
    /// AUTH given up by the client (RFC 5034 §4).
    AUTH_CANCELLED = "-ERR Authentication cancelled";
    /// Login or password are wrong (RFC 3206 §4).
    AUTH_FAILED = "-ERR [AUTH] Authentication failed";
    /// Passwords cannot be checked for the moment (RFC 3206 §3).
    AUTH_BUSY = "-ERR [SYS/TEMP] Temporary authentication failure, try again later";
    /// Another session has the maildrop (RFC 2449 §8.1.2).
    IN_USE = "-ERR [IN-USE] Another session has this mailbox";
    /// Logged in a moment ago (RFC 2449 §8.1.1).
    LOGIN_DELAY = "-ERR [LOGIN-DELAY] Wait before you log in again";
    /// The limit of sessions is reached.
    TOO_MANY_SESSIONS = "-ERR [SYS/TEMP] Too many sessions, try again later";
    /// Too many logins have failed.
    TOO_MANY_FAILURES = "-ERR [SYS/TEMP] Too many failed logins, try again later";
    /// Too many errors.
    TOO_MANY_ERRORS = "-ERR Too many errors";
    /// Too many commands before a login.
    TOO_MANY_COMMANDS = "-ERR Log in first";
    /// There is no such message, or it is to be deleted.
    NO_MESSAGE = "-ERR No such message";
    /// The message has been removed by another session.
    GONE = "-ERR The message has been removed";
    /// Something of ours failed and may work later (RFC 3206 §3).
    TEMPORARY = "-ERR [SYS/TEMP] Local error, try again later";
    /// Something of ours failed and will not work until somebody repairs it (RFC 3206 §3).
    PERMANENT = "-ERR [SYS/PERM] The mailbox cannot be read, tell your operator";
    /// QUIT when the deletions could not be committed: none of them has been made.
    NOT_DELETED = "-ERR [SYS/TEMP] Nothing has been deleted, try again later";
    /// The process stops or restarts.
    SHUTTING_DOWN = "-ERR [SYS/TEMP] Shutting down, try again shortly";
    /// LANG with a language that we do not speak (RFC 6856 §3.2).
    UNKNOWN_LANGUAGE = "-ERR There is no such language";
}

/// Appends a reply of our making; it must be short.
pub(super) fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _never_fails = out.write_fmt(text);
    out.extend_from_slice(b"\r\n");
}

/// Appends a challenge, which is in base64 (RFC 5034 §4).
pub(super) fn put_challenge(out: &mut Vec<u8>, challenge: &str) {
    put(out, format_args!("+ {challenge}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1939 §3: a status, a space, text, CRLF.
    #[test]
    fn every_fixed_reply_has_the_form_of_a_reply() {
        for reply in Reply::ALL {
            let text = reply.line().strip_suffix("\r\n").unwrap();
            assert!(text.len() <= LINE_MAX - 2 && text.bytes().all(|b| matches!(b, 32..=126)), "{text}");
            let status = text.split(' ').next().unwrap();
            assert!(matches!(status, "+OK" | "-ERR"), "{text}");
            assert_eq!(reply.is_error(), status == "-ERR");
        }
    }
}
