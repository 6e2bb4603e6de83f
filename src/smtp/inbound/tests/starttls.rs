//! STARTTLS, TLS from the first byte, and what is forgotten and refused.

use super::*;

fn fresh(tls: Tls) -> Shell {
    let mut shell = Shell::new(Options::production("mx.test"));
    shell.session.set_tls(tls);
    shell
}

fn greeted(tls: Tls) -> Shell {
    let mut shell = fresh(tls);
    shell.say("EHLO client.test\r\n");
    shell
}

fn implicit(now: Mono) -> Session {
    let mut session = Session::new(Rc::new(Options::production("mx.test")), now);
    session.set_tls(Tls::Implicit);
    session
}

#[test]
fn offered_only_where_it_can_be_had() {
    for (tls, offered, reply) in
        [(Tls::Off, false, "502"), (Tls::Offered, true, "220"), (Tls::Required, true, "220")]
    {
        let mut s = fresh(tls);
        assert_eq!(s.say("EHLO a\r\n").contains("250-STARTTLS\r\n"), offered, "{tls:?}");
        assert_eq!(s.codes("STARTTLS\r\n"), reply);
        assert_eq!(s.handshakes, u32::from(offered));
        assert!(!s.say("EHLO a\r\n").contains("STARTTLS"), "not twice, not after 502 either: {tls:?}");
        assert_eq!(s.codes("STARTTLS\r\n"), if offered { "503" } else { "502" });
    }
    let mut s = greeted(Tls::Offered);
    assert_eq!(s.codes("STARTTLS now\r\n"), "501");
    s.no_tls = true;
    assert_eq!(s.codes("STARTTLS\r\n"), "454");
    assert_eq!((s.codes("NOOP\r\n"), s.handshakes), ("250".into(), 0));
    s.no_tls = false;
    assert_eq!(s.codes("STARTTLS\r\n"), "220");
}

/// Attack catalogue, row 4: what stands behind STARTTLS in clear text is never obeyed.
#[test]
fn row_04_commands_behind_starttls_are_dropped() {
    for injected in ["NOOP\r\n", "EHLO evil\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", "QUIT\r\n", "x", "\r\n"]
    {
        let mut s = greeted(Tls::Offered);
        assert_eq!(s.codes(&format!("STARTTLS\r\n{injected}")), "220", "{injected:?}");
        assert!(s.buffer.is_empty() && !s.closed && s.handshakes == 1);
        assert_eq!(s.codes("MAIL FROM:<a@b>\r\n"), "503", "EHLO has been forgotten");
        assert_eq!(s.codes(&format!("EHLO a\r\n{}", "MAIL FROM:<a@b>\r\n")), "554", "pipelining as ever");
    }
}

/// RFC 3207 §4.2: a transaction that began in clear text has no part in what follows.
#[test]
fn all_that_was_known_is_forgotten() {
    let mut s = greeted(Tls::Offered);
    assert_eq!(
        s.codes("MAIL FROM:<clear@b> SMTPUTF8\r\nRCPT TO:<clear@d>\r\nBDAT 5\r\nclear"),
        "250 250 250"
    );
    assert_eq!(s.codes("STARTTLS\r\n"), "220");
    assert!(s.session.helo().is_empty() && s.body.is_empty() && s.session.is_idle());
    assert_eq!(s.codes("BDAT 3 LAST\r\nabc"), "503");
    assert_eq!(s.codes("EHLO b\r\n"), "250");
    assert_eq!(s.session.helo(), b"b");
    let message = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3 LAST\r\nabc";
    assert_eq!(s.codes(message), "250 250 250");
    let m = &s.stored[0];
    assert_eq!((m.sender.as_str(), m.recipients.len(), m.body.as_str()), ("a@b", 1, "abc\r\n"));
    assert_eq!(m.protocol, "ESMTPS");
    assert_eq!(s.codes("MAIL FROM:<a@b> SMTPUTF8\r\nRCPT TO:<c@d>\r\nBDAT 1 LAST\r\nx"), "250 250 250");
    assert_eq!(s.stored[1].protocol, "UTF8SMTPS");
    assert_eq!(s.codes("HELO b\r\nMAIL FROM:<a@b>\r\n"), "554", "bytes behind HELO");
}

#[test]
fn mail_without_tls_is_refused_where_it_is_required() {
    let mut s = greeted(Tls::Required);
    for line in ["MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA", "AUTH PLAIN AAAA", "VRFY a", "RSET"] {
        assert_eq!(
            s.say(&format!("{line}\r\n")),
            "530 5.7.0 Must issue a STARTTLS command first\r\n",
            "{line}"
        );
    }
    assert_eq!(s.codes("BDAT 6 LAST\r\nQUIT\r\n"), "503", "its octets are no commands");
    assert_eq!(s.codes("NOOP\r\n"), "250");
    assert_eq!(s.codes("EHLO a\r\n"), "250");
    assert_eq!(s.codes("STARTTLS\r\n"), "220");
    assert_eq!(s.codes("EHLO a\r\n"), "250");
    assert_eq!(s.codes("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1 LAST\r\nx"), "250 250 250");
}

#[test]
fn from_the_first_byte() {
    let now = Mono(1_000_000_000);
    let mut s = implicit(now);
    let mut out = Vec::new();
    assert_eq!(s.begin_tls(now), Step::StartTls);
    assert_eq!((s.deadline(), s.is_idle()), (now.after(Duration::from_secs(30)), false));
    s.secured(now, Rc::new(security()));
    assert_eq!(s.receive(now, b"", &mut out), (0, Step::NeedInput));
    assert!(out.starts_with(b"220 "));
    out.clear();
    assert_eq!(s.receive(now, b"EHLO a\r\n", &mut out).1, Step::NeedInput);
    let text = String::from_utf8(out.clone()).unwrap();
    assert!(!text.contains("STARTTLS") && s.security().is_some());
    out.clear();
    assert_eq!(s.receive(now, b"STARTTLS\r\n", &mut out).1, Step::NeedInput);
    assert!(out.starts_with(b"503 "));
    // Who talks before the banner is told so, under TLS as without.
    let mut s = implicit(now);
    s.begin_tls(now);
    s.secured(now, Rc::new(security()));
    out.clear();
    assert_eq!(s.receive(now, b"EHLO a\r\n", &mut out).1, Step::Close);
    assert!(out.starts_with(b"554 "));
}

/// Attack catalogue, row 15: a handshake that does not end is ended, without a word in clear text.
#[test]
fn row_15_slow_handshakes() {
    for stop in [false, true] {
        let now = Mono(1_000_000_000);
        let mut s = implicit(now);
        let mut out = Vec::new();
        s.begin_tls(now);
        assert_eq!(s.expire(now.after(Duration::from_secs(29)), &mut out), Step::NeedInput);
        let end =
            if stop { s.shutdown(&mut out) } else { s.expire(now.after(Duration::from_secs(30)), &mut out) };
        assert_eq!((end, out.len()), (Step::Close, 0));
        assert_eq!(s.receive(now, b"x", &mut out), (1, Step::Close));
    }
}
