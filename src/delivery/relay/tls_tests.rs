//! The loop under TLS, against the same server in memory: what goes in clear text, what does not, and
//! where items end if nothing may be sent.

use super::double::{Act, Server, block_on};
use super::tests::{ALL, CHUNKS, Desk, PIPE, desk, go, good, mail, options, outcomes, server};
use super::*;
use crate::base::security::TlsVersion;
use crate::route::tlsa::{Pins, Record};
use crate::tls::client::{Proof, Roots};
use crate::tls::tests::{Made, Maker};
use crate::tls::{self, Certificates, Snapshot};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::cell::RefCell;

const OFFER: &str = "250-hi\r\n250-STARTTLS\r\n250 PIPELINING\r\n";

fn certificates(made: &Made) -> Option<Certificates> {
    let rules = tls::Rules { minimum: TlsVersion::Tls12, protocols: &["smtp"], authorities: None };
    Some(Certificates::new(Snapshot::new(made.credentials(), Vec::new(), &rules).unwrap()))
}

/// A server whose TLS works; what it offers under TLS.
fn secure(ehlo_secured: &'static str) -> Server {
    Server { certificates: certificates(&Maker::new().make()), ehlo: OFFER, ehlo_secured, ..good() }
}

fn with(demand: Demand) -> Options {
    let names = vec!["mx.example".into()];
    let terms = Terms { demand, sni: Some("mx.example".into()), names };
    let rules = Rules::new(Roots::usable([])).unwrap();
    Options { tls: Some(Rc::new(Tls { rules, terms, address: [192, 0, 2, 1].into() })), ..options() }
}

fn pins(made: &Made) -> Demand {
    let data = Sha256::digest(&made.der).to_vec();
    Demand::Dane(Pins::of(&[Record { usage: 3, selector: 0, matching: 1, data }]))
}

/// Nothing but the words before TLS went in clear text.
fn is_silent(server: &Server) -> bool {
    let text = String::from_utf8_lossy(&server.clear);
    let said: Vec<&str> = text.lines().collect();
    said == ["EHLO me.example", "STARTTLS"]
}

fn one() -> Desk {
    desk(vec![mail(1, 2, b"a\r\n")])
}

#[test]
fn ehlo_is_said_again_and_all_else_goes_under_tls() {
    for ehlo in ALL {
        let desk = desk((1..=20).map(|n| mail(n, 1, format!("Hi {n}\r\n").as_bytes())).collect());
        let (end, server) = go(&desk, secure(ehlo), &with(Demand::Opportunistic));
        let server = server.borrow();
        assert_eq!(end, ConnectionEnd::Idle);
        assert!(is_silent(&server));
        assert_eq!(server.commands[..3], ["EHLO me.example", "STARTTLS", "EHLO me.example"]);
        let bodies: Vec<_> = server.taken.iter().map(|(_, m)| m.clone()).collect();
        assert_eq!(bodies, (1..=20).map(|n| format!("Hi {n}\r\n").into_bytes()).collect::<Vec<_>>());
        assert_eq!(server.commands.last().map(String::as_str), Some("QUIT"));
        assert!(server.tls.as_ref().unwrap().is_peer_closed(), "close_notify comes last");
        let secured = desk.secured.borrow();
        assert_eq!((secured.len(), secured[0].proof), (1, Proof::None));
    }
}

#[test]
fn what_was_offered_in_clear_text_does_not_count() {
    // PIPELINING is not offered again.
    let desk = desk(vec![mail(1, 1, b"a\r\n")]);
    let ehlo = "250-hi\r\n250-STARTTLS\r\n250-CHUNKING\r\n250 PIPELINING\r\n";
    let plain = Server { ehlo, ..secure("250 hi\r\n") };
    let (_, server) = go(&desk, plain, &with(Demand::Opportunistic));
    let server = server.borrow();
    assert!(server.commands.iter().any(|c| c == "DATA"));
    // EHLO, STARTTLS, the handshake, its end with EHLO, MAIL, RCPT, DATA, body, QUIT.
    // And close_notify.
    assert_eq!(server.sends, 10, "one by one");
}

#[test]
fn long_bodies_and_side_files_go_under_tls() {
    let line = b"0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456\r\n";
    let (long, dotted) = (line.repeat(4000), b".\r\n..a\r\n".repeat(60_000));
    for ehlo in ALL {
        let mut side = mail(3, 1, b"Received: x\r\n");
        side.side = Some(dotted.clone());
        let desk = desk(vec![mail(1, 1, &long), mail(2, 1, &dotted), side, mail(4, 1, b"z\r\n")]);
        let (_, server) = go(&desk, secure(ehlo), &with(Demand::Opportunistic));
        let server = server.borrow();
        assert!(is_silent(&server));
        let with_head = [&b"Received: x\r\n"[..], &dotted].concat();
        let want = [long.clone(), dotted.clone(), with_head, b"z\r\n".to_vec()];
        assert!(server.taken.iter().map(|(_, m)| m).eq(&want), "some body differs");
    }
}

#[test]
fn work_that_comes_while_idle_uses_the_secured_connection() {
    for ehlo in [PIPE, CHUNKS] {
        let desk = desk(vec![mail(1, 1, b"a\r\n")]);
        desk.later.borrow_mut().push_back(mail(2, 1, b"b\r\n"));
        let (end, server) = go(&desk, secure(ehlo), &with(Demand::Encrypted));
        assert_eq!(end, ConnectionEnd::Idle);
        assert_eq!(outcomes(&desk), [(1, Outcome::Delivered), (2, Outcome::Delivered)]);
        assert_eq!(server.borrow().commands.iter().filter(|c| *c == "STARTTLS").count(), 1);
    }
}

#[test]
fn a_server_that_closes_an_idle_secured_connection_is_noticed() {
    let desk = desk(vec![mail(1, 1, b"a\r\n")]);
    let (pipe, server) = desk.world.connect(secure(CHUNKS));
    desk.interjection.replace(Some((server, "")));
    let options = with(Demand::Opportunistic);
    let end = block_on(run(&desk.world, pipe, &desk, &options, &desk.habits));
    assert!(end.is_stale(), "{end:?}");
    assert_eq!(outcomes(&desk), [(1, Outcome::Delivered)]);
}

#[test]
fn replies_byte_by_byte_under_tls() {
    let desk = desk((1..=3).map(|n| mail(n, 2, b"Hi\r\n")).collect());
    let (end, server) =
        go(&desk, Server { receive_at_most: 1, ..secure(PIPE) }, &with(Demand::Opportunistic));
    assert_eq!((end, server.borrow().taken.len()), (ConnectionEnd::Idle, 3));
}

#[test]
fn no_mail_in_clear_text_where_tls_is_required() {
    let made = Maker::new().make();
    for demand in [Demand::Encrypted, Demand::Verified, pins(&made)] {
        let desk = one();
        let (end, server) = go(&desk, good(), &with(demand.clone()));
        assert_eq!((&end, end.status()), (&ConnectionEnd::TlsNotOffered, [4, 7, 4]));
        assert_eq!((desk.taken.get(), &*server.borrow().commands), (0, &["EHLO me.example".to_owned()][..]));
        // A server without EHLO has no STARTTLS either.
        let old = server_that(|c| c.starts_with("EHLO").then_some(Act::Say("500 what\r\n")));
        assert_eq!(go(&desk, old, &with(demand.clone())).0, ConnectionEnd::TlsNotOffered);
        let refusing = server_that(|c| (c == "STARTTLS").then_some(Act::Say("454 4.7.0 later\r\n")));
        let (end, _) = go(&desk, refusing, &with(demand));
        assert_eq!(end, ConnectionEnd::TlsRefused { code: 454, text: "later".into() });
        assert_eq!(desk.taken.get(), 0);
    }
}

/// One that offers STARTTLS.
fn server_that(script: impl Fn(&str) -> Option<Act> + 'static) -> Server {
    let certificates = certificates(&Maker::new().make());
    Server { certificates, ehlo: OFFER, ..server(move |_, c| script(c)) }
}

#[test]
fn opportunistic_mail_goes_in_clear_text_where_tls_is_not_to_be_had() {
    let refusing = server_that(|c| (c == "STARTTLS").then_some(Act::Say("454 4.7.0 later\r\n")));
    for server in [good(), refusing] {
        let desk = one();
        let (end, server) = go(&desk, server, &with(Demand::Opportunistic));
        assert_eq!((end, server.borrow().taken.len()), (ConnectionEnd::Idle, 1));
        assert!(desk.secured.borrow().is_empty());
    }
    // And where it is not wanted, it is not asked for.
    let desk = one();
    let (_, server) = go(&desk, secure(PIPE), &with(Demand::Clear));
    assert!(!server.borrow().commands.iter().any(|c| c == "STARTTLS"));
}

#[test]
fn a_failed_handshake_touches_no_mail() {
    let made = Maker::new().make();
    let other = pins(&Maker::new().make());
    // Not the certificate of the records; no authority; nonsense; nothing; the end.
    let cases: [(Demand, Option<Act>, &str); 5] = [
        (other, None, "TLSA records"),
        (Demand::Verified, None, "not believed"),
        (Demand::Opportunistic, Some(Act::Say("220 go\r\n")), "corrupt"),
        (Demand::Opportunistic, Some(Act::Silence), "timed out"),
        (Demand::Opportunistic, Some(Act::Close), "closed"),
    ];
    for (demand, act, want) in cases {
        let desk = one();
        let certificates = certificates(&made);
        let (pipe, server) = desk.world.connect(Server { certificates, ehlo: OFFER, ..good() });
        if let Some(act) = act {
            broken_after_starttls(&mut server.borrow_mut(), act);
        }
        let end = block_on(run(&desk.world, pipe, &desk, &with(demand), &desk.habits));
        let ConnectionEnd::HandshakeFailed { text } = &end else { panic!("{want}: {end:?}") };
        assert!(text.contains(want), "{text}");
        assert_eq!((end.status(), desk.taken.get()), ([4, 7, 5], 0));
        assert!(is_silent(&Server { clear: clear_words(&server.borrow()), ..Server::default() }));
    }
}

/// The lines before TLS.
fn clear_words(server: &Server) -> Vec<u8> {
    let end = memchr::memmem::find(&server.clear, b"STARTTLS\r\n").map_or(0, |at| at + 10);
    server.clear[..end].to_vec()
}

/// Says 220 and then does something else than TLS.
fn broken_after_starttls(server: &mut Server, act: Act) {
    server.deaf = Some(act);
}

#[test]
fn clear_text_behind_the_reply_to_starttls_is_refused() {
    for reply in ["220 go\r\n250 2.0.0 evil\r\n", "220 go\r\n2"] {
        for demand in [Demand::Opportunistic, Demand::Encrypted] {
            let desk = one();
            let evil = server_that(move |c| (c == "STARTTLS").then_some(Act::Say(reply)));
            let (end, server) = go(&desk, evil, &with(demand));
            let ConnectionEnd::ProtocolError { what: Close::Injected, .. } = end else { panic!("{end:?}") };
            assert_eq!((desk.taken.get(), is_silent(&server.borrow())), (0, true));
        }
    }
}

#[test]
fn who_it_is_is_told() {
    let made = Maker::new().make();
    let desk = one();
    let server = Server { certificates: certificates(&made), ehlo: OFFER, ..good() };
    let (end, _) = go(&desk, server, &with(pins(&made)));
    assert_eq!((end, desk.secured.borrow()[0].proof), (ConnectionEnd::Idle, Proof::Dane));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever the server does under TLS: the connection ends, each item goes back once (checked in
    /// `go`), and nothing is said in clear text.
    #[test]
    fn any_server_under_tls(
        ehlo in prop::sample::select(&ALL[..]),
        receive_at_most in 0usize..40,
        sizes in prop::collection::vec((1usize..4, 0usize..3), 0..8),
        acts in prop::collection::vec(0usize..40, 1..50),
    ) {
        let mails: Vec<_> = sizes.iter().enumerate()
            .map(|(n, &(recipients, lines))| mail(n, recipients, &b".a\r\n".repeat(lines)))
            .collect();
        let desk = desk(mails);
        let acts = RefCell::new(acts.into_iter().cycle());
        let script = move |c: &str| match acts.borrow_mut().next()? {
            _ if c.starts_with("EHLO") || c == "STARTTLS" || c == "connect" => None,
            0 => Some(Act::Close),
            1 => Some(Act::Reset),
            2 => Some(Act::Silence),
            3 => Some(Act::Say("421 4.3.2 bye\r\n")),
            4 | 5 => Some(Act::Say("550 5.1.1 no\r\n")),
            6 | 7 => Some(Act::Say("450 4.2.0 later\r\n")),
            8 => Some(Act::Say("354 go\r\n")),
            9 => Some(Act::Say("nonsense\r\n")),
            _ => None,
        };
        let server = Server { receive_at_most, ehlo_secured: ehlo, ..server_that(script) };
        let (_, server) = go(&desk, server, &with(Demand::Encrypted));
        prop_assert!(is_silent(&server.borrow()));
        let taken: usize = server.borrow().taken.iter().map(|(r, _)| r.len()).sum();
        let delivered = outcomes(&desk).iter().filter(|(_, o)| *o == Outcome::Delivered).count();
        prop_assert!(delivered <= taken, "{delivered} delivered, {taken} taken");
    }
}
