//! AUTH: the rules of RFC 4954 and the attacks of the catalogue, without any mechanism.

use super::*;
use crate::smtp::inbound::{AuthMode, AuthOffer, AuthSaid};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Knows one user by PLAIN; LOGIN answers one challenge; BUSY cannot.
pub fn ask(shell: &mut Shell, out: &mut Vec<u8>) {
    let answer = match shell.session.auth_said() {
        AuthSaid::Begin { mechanism: "PLAIN", initial: None } => Answer::Challenge(b""),
        AuthSaid::Begin { mechanism: "LOGIN", initial: None } => Answer::Challenge(b"Username:"),
        AuthSaid::Begin { mechanism: "BUSY", .. } => Answer::Refuse(Reply::AUTH_BUSY.into()),
        AuthSaid::Begin { initial: Some(said), .. } | AuthSaid::Response(said) => match said.expose() {
            b"\0tim\0secret" | b"tim" => Answer::Accept,
            b"" => Answer::Refuse(Reply::BAD_RESPONSE.into()),
            _ => Answer::Refuse(Reply::AUTH_FAILED.into()),
        },
        AuthSaid::Begin { .. } => Answer::Refuse(Reply::AUTH_FAILED.into()),
    };
    shell.session.answer(shell.now, answer, out);
}

const PLAIN: &str = "AUTH PLAIN AHRpbQBzZWNyZXQ=\r\n";

/// A session that has said EHLO, and the reply to that.
fn shell(options: Options, mode: AuthMode, now: &str, under_tls: &str) -> (Shell, String) {
    let mut shell = Shell::new(options);
    shell.session.set_auth(mode);
    shell.session.offer_auth(AuthOffer { now: now.into(), under_tls: under_tls.into() });
    let reply = shell.say("EHLO client.test\r\n");
    (shell, reply)
}

fn offered() -> Shell {
    let options = Options { errors_soft: 50, errors_hard: 90, auth_failures_max: 50, ..Options::tiny() };
    let options = Options { auth_line: 12_288, junk_max: 99, ..options };
    shell(options, AuthMode::Offered, "PLAIN LOGIN BUSY", "PLAIN LOGIN BUSY").0
}

#[test]
fn offer_and_success() {
    let (mut s, ehlo) = shell(Options::tiny(), AuthMode::Offered, "PLAIN LOGIN", "PLAIN LOGIN");
    assert!(ehlo.contains("\r\n250-AUTH PLAIN LOGIN\r\n"), "{ehlo}");
    assert_eq!(s.say(PLAIN), "235 2.7.0 Authentication succeeded\r\n");
    assert!(s.session.is_authenticated());
    assert_eq!(s.say(PLAIN), "503 5.5.1 Already authenticated\r\n");
    assert_eq!(s.codes("MAIL FROM:<a@b> AUTH=<>\r\nRCPT TO:<c@d>\r\nDATA\r\n"), "250 250 354");
    assert_eq!(s.codes("x\r\n.\r\n"), "250");
    assert_eq!(s.stored[0].protocol, "ESMTPA");
    assert_eq!(s.codes("MAIL FROM:<a@b> SMTPUTF8\r\nRCPT TO:<c@d>\r\nDATA\r\n"), "250 250 354");
    assert_eq!(s.codes("x\r\n.\r\n"), "250");
    assert_eq!(s.stored[1].protocol, "UTF8SMTPA");
}

#[test]
fn dialogue() {
    let mut s = offered();
    assert_eq!(s.say("AUTH PLAIN\r\n"), "334 \r\n");
    assert_eq!(s.codes("AHRpbQBzZWNyZXQ=\r\n"), "235");
    let mut s = offered();
    assert_eq!(s.say("AUTH LOGIN\r\n"), "334 VXNlcm5hbWU6\r\n");
    assert_eq!(s.codes("dGlt\r\n"), "235");
    let mut s = offered();
    assert_eq!(s.say("AUTH PLAIN =\r\n"), "501 5.5.2 The response does not fit the mechanism\r\n");
    assert_eq!(s.say("AUTH BUSY\r\n"), "454 4.7.0 Temporary authentication failure, try again later\r\n");
    assert_eq!(s.say("AUTH PLAIN AHRpbQB4\r\n"), "535 5.7.8 Authentication credentials invalid\r\n");
    assert_eq!(s.codes(PLAIN), "235", "a failure does not end it");
}

/// Attack catalogue, row 11: lengths modulo 4, padding, NULs, cancelling.
#[test]
fn row_11_responses_that_are_not_base64() {
    let mut s = offered();
    for bad in
        ["A", "AA", "AAA", "AB==", "AA=A", "A===", "====", "AA==AA==", "A A=", "*A==", "A-_=", "\u{e9}AA="]
    {
        assert_eq!(
            s.say(&format!("AUTH PLAIN {bad}\r\n")),
            "501 5.5.2 Cannot decode the response\r\n",
            "{bad}"
        );
        assert_eq!(s.say("AUTH PLAIN\r\n"), "334 \r\n");
        assert_eq!(s.say(&format!("{bad}\r\n")), "501 5.5.2 Cannot decode the response\r\n", "{bad}");
        assert_eq!(s.codes("NOOP\r\n"), "250", "the exchange is over");
    }
    assert_eq!(s.say("AUTH PLAIN\r\n*\r\n"), "334 \r\n501 5.7.0 Authentication cancelled\r\n");
    assert_eq!(s.codes("AUTH PLAIN\r\n\r\n"), "334 501");
    assert_eq!(s.codes("AUTH PLAIN\r\n=\r\n"), "334 501", "`=` is for the command line");
    assert_eq!(s.codes("AUTH PLAIN\r\nAAAA\n"), "334 500", "a bare line feed");
    assert_eq!(s.codes("AUTH PLAIN * x\r\n"), "501");
    assert_eq!(s.codes(PLAIN), "235");
}

/// Attack catalogue, row 11: 12,288 octets are taken, one more is not.
#[test]
fn row_11_long_lines() {
    let mut s = offered();
    let most = |before: usize| "A".repeat((12_288 - 2 - before) / 4 * 4);
    for (prefix, before) in [("AUTH PLAIN ", 11), ("AUTH PLAIN\r\n", 0)] {
        let good = format!("{prefix}{}\r\n", most(before));
        assert_eq!(s.codes(&good).split(' ').next_back(), Some("535"), "{prefix:?}");
        let long = format!("{prefix}{}AAAA\r\n", most(before));
        assert!(
            s.say(&long).ends_with("500 5.5.6 Authentication exchange line is too long\r\n"),
            "{prefix:?}"
        );
        assert_eq!(s.codes("NOOP\r\n"), "250");
    }
    // Without end and in pieces: constant memory.
    assert_eq!(s.say("AUTH LOGIN\r\n"), "334 VXNlcm5hbWU6\r\n");
    for _ in 0..100 {
        assert_eq!(s.say(&"A".repeat(4000)), "");
        assert!(s.buffer.len() <= 16 << 10);
    }
    assert_eq!(s.codes("\r\nNOOP\r\n"), "500 250");
    // Other commands are no longer for it.
    assert_eq!(s.codes(&format!("NOOP {}\r\n", "A".repeat(1000))), "500");
}

#[test]
fn out_of_order() {
    let mut s = offered();
    s.say("MAIL FROM:<a@b>\r\n");
    assert_eq!(s.say(PLAIN), "503 5.5.1 Not within a mail transaction\r\n");
    s.say("RSET\r\n");
    s.say("HELO x\r\n");
    assert_eq!(s.codes(PLAIN), "503", "not after HELO");
    s.say("EHLO x\r\n");
    assert_eq!(s.codes("AUTH NTLM\r\nAUTH PLAINX\r\nAUTH P\r\nAUTH\r\n"), "504 504 504 501");
    let mut s = Shell::new(Options::tiny());
    s.session.set_auth(AuthMode::Offered);
    assert_eq!(s.codes(PLAIN), "503", "not before EHLO");
}

#[test]
fn in_clear_text_nothing_is_offered() {
    let (mut s, ehlo) = shell(Options::tiny(), AuthMode::Required, "", "PLAIN LOGIN");
    assert!(!ehlo.contains("AUTH"), "{ehlo}");
    let reply = s.say(PLAIN);
    assert_eq!(reply, "538 5.7.11 Encryption required for requested authentication mechanism\r\n");
    assert_eq!(s.codes("AUTH CRAM-MD5\r\n"), "504");
}

#[test]
fn required_comes_before_everything_else() {
    let (mut s, _) =
        shell(Options { errors_hard: 9, ..Options::tiny() }, AuthMode::Required, "PLAIN", "PLAIN");
    assert_eq!(s.say("MAIL FROM:<a@b>\r\n"), "530 5.7.0 Authentication required\r\n");
    assert_eq!(s.codes("RCPT TO:<a@b>\r\nVRFY x\r\nBDAT 6 LAST\r\nQUIT\r\n"), "530 530 503");
    assert_eq!(s.codes("NOOP\r\nRSET\r\nHELP\r\nEHLO y\r\n").replace(' ', ""), "250250214250");
    assert_eq!(s.codes(PLAIN), "235");
    assert_eq!(s.codes("MAIL FROM:<a@b>\r\n"), "250");
}

#[test]
fn guessing_ends_the_session() {
    let (mut s, _) =
        shell(Options { errors_hard: 9, ..Options::tiny() }, AuthMode::Offered, "PLAIN", "PLAIN");
    assert_eq!(s.codes("AUTH PLAIN AHRpbQB4\r\nAUTH PLAIN AHRpbQB4\r\n"), "535 535");
    assert_eq!(s.codes("AUTH PLAIN AHRpbQB4\r\n"), "535 421");
    assert!(s.closed);
}

#[test]
fn tls_forgets_who_it_was_and_passwords_are_not_printed() {
    let mut s = offered();
    s.say(PLAIN);
    s.session.offer_auth(AuthOffer::default());
    assert!(!s.session.is_authenticated());
    let mut out = Vec::new();
    let mut session = Session::new(Rc::new(Options::tiny()), Mono(0));
    session.set_auth(AuthMode::Offered);
    session.offer_auth(AuthOffer { now: "PLAIN".into(), under_tls: "".into() });
    session.banner(Mono(0), false, &mut out);
    let (_, step) = session.receive(Mono(0), format!("EHLO x\r\n{PLAIN}").as_bytes(), &mut out);
    // EHLO must be awaited: with more behind it the session ends; so one after the other.
    assert_eq!(step, Step::Close);
    let options = Options { refuse_bad_pipelining: false, ..Options::tiny() };
    let mut session = Session::new(Rc::new(options), Mono(0));
    session.set_auth(AuthMode::Offered);
    session.offer_auth(AuthOffer { now: "PLAIN".into(), under_tls: "".into() });
    session.banner(Mono(0), false, &mut out);
    let (_, step) = session.receive(Mono(0), format!("EHLO x\r\n{PLAIN}").as_bytes(), &mut out);
    assert_eq!(step, Step::Ask(Question::Auth));
    let shown = format!("{session:?}");
    assert!(!shown.contains("secret") && !shown.contains(&STANDARD.encode("\0tim\0secret")), "{shown}");
}

#[test]
fn a_stop_or_a_timeout_ends_an_exchange() {
    let mut s = offered();
    s.say("AUTH LOGIN\r\n");
    assert!(s.session.is_idle());
    let mut out = Vec::new();
    assert_eq!(s.session.shutdown(&mut out), Step::Close);
    assert!(out.starts_with(b"421 "));
    let mut s = offered();
    s.say("AUTH LOGIN\r\n");
    let late = s.now.after(s.session.options.command_time);
    assert_eq!(s.session.expire(late, &mut out), Step::Close);
}
