//! Filters: what they are told, what they can do to a message, what happens when they fail.
#![allow(clippy::disallowed_methods, reason = "a policy server in a test has sockets of its own")]

use crate::harness::client::stuffed;
use crate::harness::dns::NameServer;
use crate::harness::milter::{Milter, Say, all, packet, say};
use crate::harness::secure::{Issuer, Pair, TLS13, rules_with};
use crate::harness::{Client, Config, Hop, Server, server, until};
use crate::senders::{Letter, look};
use ringpost::authenticity::keys::{Key, generate};
use ringpost::authenticity::results::Outcome;
use ringpost::authenticity::rules::{Mode, Modes};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

const BODY: &[u8] = b"From: a@b.test\r\nSubject:  odd\r\n\tfold\r\nX : \xe9\r\n\r\n.dot\r\nhello\r\n";

fn block(address: SocketAddr, more: &str) -> String {
    format!("[[filter]]\naddress = \"inet:{address}\"\n{more}\n")
}

fn server(hop: &Hop, blocks: &[String]) -> Server {
    let mut config = Config::new(hop.address).set("memory", "spill", "\"64KiB\"");
    config.tail = blocks.concat();
    Server::start(&config)
}

fn with(hop: &Hop, milter: &Milter) -> Server {
    server(hop, &[block(milter.address, "name = \"m\"")])
}

/// A body that goes into a side file, with lines of all kinds.
fn large() -> Vec<u8> {
    let mut body = b"Subject: large\r\nX-Two: 2\r\n\r\n".to_vec();
    for n in 0..40_000u32 {
        body.extend_from_slice(format!(".{n} ").as_bytes());
        body.extend([0x80 | (n % 120) as u8].repeat((n % 60) as usize));
        body.extend_from_slice(b"\r\n");
    }
    body.extend([b'x'; 3000]);
    body.extend_from_slice(b"\r\n");
    body
}

#[test]
fn what_is_not_changed_arrives_as_it_was() {
    let (hop, milter) = (Hop::start(), Milter::start(0x10_0000, |_, _| Say::Go));
    let server = with(&hop, &milter);
    let large = large();
    let mut client = server.client();
    client.mail("a@b.test", &["c@d.test", "e@d.test"], BODY);
    client.mail("", &["c@d.test"], &large);
    client.say("QUIT").expect("221 ");
    let mails = hop.wait(2);
    for (body, subject) in [(BODY, &b"odd"[..]), (&large, b"large")] {
        let holds = |m: &&crate::harness::Mail| m.content().windows(subject.len()).any(|w| w == subject);
        let mail = mails.iter().find(holds).expect("it has come");
        assert!(mail.split().1 == body, "a message has changed");
    }
    let headers: Vec<Vec<u8>> = milter.told('L');
    assert_eq!(headers[0], b"From\0 a@b.test\0");
    assert_eq!(headers[1], b"Subject\0  odd\n\tfold\0");
    assert_eq!(headers[2], b"X\0 \xe9\0");
    assert_eq!(headers.len(), 5, "our trace header is not shown");
    let told = milter.told('B');
    assert_eq!(told[0], b".dot\r\nhello\r\n");
    assert!(told[1..].concat() == large[large.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4..]);
    assert!(told.iter().all(|piece| piece.len() <= 65_535));
    until("its goodbye", || milter.letters().ends_with('Q').then_some(()));
    assert_eq!(milter.letters().replace('B', ""), "OCHMRRTLLLNEMRTLLNEQ");
    assert!(milter.told('C')[0].starts_with(b"[127.0.0.1]\x004"));
    assert_eq!(milter.told('M'), [b"<a@b.test>\0".to_vec(), b"<>\0".to_vec()]);
    let macros: Vec<u8> = milter.told('D').concat();
    for wanted in ["j\0mx.test.example\0", "{client_addr}\x00127.0.0.1\0", "{rcpt_addr}\0e@d.test\0", "Ei\0"]
    {
        assert!(macros.windows(wanted.len()).any(|w| w == wanted.as_bytes()), "{wanted:?}");
    }
    assert_eq!(server.metric("ringpost_filter_messages_total", "verdict=\"accept\""), 2.0);
    assert_eq!(server.metric("ringpost_filter_failures_total", ""), 0.0);
}

/// A filter is told of TLS and of who has shown a certificate, and may choose what it is told, and when.
#[test]
fn macros_of_tls_and_macros_of_its_choice() {
    let (hop, milter) = (Hop::start(), Milter::start(0, |_, _| Say::Go));
    let dir = Arc::new(server::directory());
    let (users, authorities) = (dir.path().join("users"), dir.path().join("clients.pem"));
    std::fs::write(&users, "printer:{PLAIN}secret\n").expect("a file");
    let issuer = Issuer::new();
    std::fs::write(&authorities, issuer.pem()).expect("a file");
    let main = Pair::make(dir.path(), "main", "mx.test.example");
    let mut config =
        Config::new(hop.address).set("auth", "users", format!("{:?}", users.display().to_string()));
    config.tail = format!(
        "[[listener]]\nprotocol = \"submissions\"\naddress = \"127.0.0.1:0\"\n\
         [tls]\nclient_authorities = {authorities:?}\n{}{}",
        main.lines(),
        block(milter.address, "name = \"m\"")
    );
    let server = Server::start_in(dir.clone(), &config);
    let own = Pair::client(dir.path(), &issuer, "own", None, "printer");
    let send = || {
        let mut client = Client::implicit(server.smtp, &Arc::new(rules_with(TLS13, &own)), "mx.test.example");
        client.say("AUTH EXTERNAL =").expect("235 2.7.0");
        client.mail("a@b.test", &["c@d.test"], BODY);
        client.say("QUIT").expect("221 ");
    };
    send();
    let macros: Vec<u8> = milter.told('D').concat();
    for wanted in [
        "H{tls_version}\0TLSv1.3\0{cipher}\0TLS_",
        "{cipher_bits}\x00256\0{cert_subject}\0printer\0{cert_issuer}\0Test authority\0",
        "{auth_authen}\0printer\0{auth_type}\0EXTERNAL\0",
    ] {
        assert!(macros.windows(wanted.len()).any(|w| w == wanted.as_bytes()), "{wanted:?}");
    }
    let before = milter.told('D').len();
    milter.script(|letter, _| match letter {
        'O' => {
            let numbers = [6u32, 0x1ff, 0].map(u32::to_be_bytes).concat();
            let lists = b"\0\0\0\0j\0\0\0\0\x01\0\0\0\0\x05{cert_subject} {auth_authen} i nonsense\0";
            say('O', &[&numbers[..], lists].concat())
        }
        _ => Say::Go,
    });
    send();
    let macros = milter.told('D').split_off(before);
    assert_eq!(macros[0], b"Cj\0mx.test.example\0");
    assert!(!macros.iter().any(|m| m[0] == b'H'), "none were wanted");
    let end = macros.iter().find(|m| m[0] == b'E').expect("some were wanted");
    assert!(
        end.starts_with(b"E{cert_subject}\0printer\0{auth_authen}\0printer\0i\0"),
        "{}",
        end.escape_ascii()
    );
}

/// Who was let pass before does not get what the filter has never seen.
#[test]
fn a_filter_that_fails_at_a_recipient_fails_for_the_message() {
    let (hop, milter) = (Hop::start(), Milter::start(0, |_, _| Say::Go));
    let server = with(&hop, &milter);
    let mut client = server.client();
    client.say("MAIL FROM:<a@b.test>").expect("250 ");
    client.say("RCPT TO:<c@d.test>").expect("250 ");
    milter.script(|letter, _| if letter == 'R' { Say::Close } else { Say::Go });
    client.say("RCPT TO:<e@d.test>").expect("451 4.7.1");
    client.say("RCPT TO:<f@d.test>").expect("451 4.7.1");
    client.data(stuffed(BODY)).expect("451 4.7.1");
    // The next message asks it again.
    milter.script(|_, _| Say::Go);
    client.mail("a@b.test", &["g@d.test"], BODY);
    assert_eq!(hop.one().to, ["<g@d.test>"]);
}

#[test]
fn each_answer_at_each_stage() {
    let (hop, milter) = (Hop::start(), Milter::start(0, |_, _| Say::Go));
    let server = with(&hop, &milter);
    let refusals: [(char, &'static [u8], &str); 3] = [
        ('r', b"", "550 5.7.1"),
        ('t', b"", "451 4.7.1"),
        ('y', b"452 4.2.1 no %%\xff\0", "452 4.2.1 no %?\r\n"),
    ];
    for (letter, data, reply) in refusals {
        for stage in "CHMRTLNBE".chars() {
            milter.script(move |told, _| if told == stage { say(letter, data) } else { Say::Go });
            let mut client = server.client();
            let mail = client.say("MAIL FROM:<a@b.test>");
            if "CHM".contains(stage) {
                mail.expect(reply);
                // Of the connection it is said for all that follows.
                client.say("MAIL FROM:<a@b.test>").expect(reply);
                continue;
            }
            let rcpt = client.say("RCPT TO:<c@d.test>");
            if stage == 'R' {
                rcpt.expect(reply);
                client.say("DATA").expect("554 5.5.1");
                continue;
            }
            client.data(stuffed(BODY)).expect(reply);
            milter.script(|_, _| Say::Go);
            client.mail("a@b.test", &["good@d.test"], BODY);
        }
    }
    let refused = server.metric("ringpost_filter_messages_total", "verdict=\"refuse\"");
    assert!(refused >= 27.0, "{refused}");
    // It has heard enough: of the connection, of the message.
    for stage in "CHMRTLNB".chars() {
        milter.script(move |told, _| if told == stage { say('a', b"") } else { Say::Go });
        server.client().mail("a@b.test", &["good@d.test"], BODY);
    }
    milter.script(|told, _| if told == 'B' { say('s', b"") } else { Say::Go });
    server.client().mail("a@b.test", &["good@d.test"], &large());
    let mails = hop.wait(15 + 8 + 1);
    assert!(mails.iter().all(|m| m.to == ["<good@d.test>"]));
}

#[test]
fn discarded_messages_are_taken_and_gone() {
    let (hop, milter) = (Hop::start(), Milter::start(0, |_, _| Say::Go));
    let server = with(&hop, &milter);
    for stage in "MRTLNBE".chars() {
        milter.script(move |told, _| if told == stage { say('d', b"") } else { Say::Go });
        server.client().mail("a@b.test", &["c@d.test"], BODY);
        server.client().mail("a@b.test", &["c@d.test"], &large());
    }
    assert_eq!(server.metric("ringpost_filter_messages_total", "verdict=\"discard\""), 14.0);
    assert!(server.queue(&["list"]).is_empty());
    milter.script(|told, _| if told == 'E' { all(&[('-', b"<c@d.test>\0"), ('c', b"")]) } else { Say::Go });
    server.client().mail("a@b.test", &["c@d.test"], BODY);
    milter.script(|_, _| Say::Go);
    server.client().mail("a@b.test", &["last@d.test"], BODY);
    assert_eq!(hop.wait(1)[0].to, ["<last@d.test>"]);
    let records = |lines: &[String]| lines.iter().filter(|l| l.contains("discarded: m")).count();
    until("records", || (records(&server.lines()) == 14).then_some(()));
}

/// All changes at once, then a second filter that sees them.
#[test]
fn changes_and_who_sees_them() {
    let hop = Hop::start();
    let changes: Vec<(char, Vec<u8>)> = vec![
        ('i', b"\0\0\0\0X-Top\0t\0".to_vec()),
        ('i', b"\0\0\0\x02X-Below\0a\nb\0".to_vec()),
        ('m', b"\0\0\0\x01subject\0new\0".to_vec()),
        ('m', b"\0\0\0\x01X\0\0".to_vec()),
        ('h', b"X-End\0e\0".to_vec()),
        ('e', b"<new@b.test>\0".to_vec()),
        ('-', b"<C@d.test>\0".to_vec()),
        ('+', b"<more@d.test>\0".to_vec()),
        ('p', Vec::new()),
        ('b', b"one\r".to_vec()),
        ('b', b"\n.two\nthree".to_vec()),
        ('c', Vec::new()),
    ];
    let first = Milter::start(0, move |told, _| match told {
        'E' => Say::Bytes(changes.iter().flat_map(|(l, d)| packet(*l, d)).collect()),
        _ => Say::Go,
    });
    let second = Milter::start(0, |told, _| match told {
        'E' => all(&[('h', b"X-Second\0s\0"), ('a', b"")]),
        _ => Say::Go,
    });
    let server = server(&hop, &[block(first.address, ""), block(second.address, "")]);
    for body in [BODY.to_vec(), large()] {
        server.client().mail("a@b.test", &["c@d.test", "d@d.test"], &body);
    }
    let mails = hop.wait(2);
    for mail in &mails {
        assert!(mail.from.starts_with("<new@b.test>"), "{}", mail.from);
        assert_eq!(mail.to, ["<d@d.test>", "<more@d.test>"]);
        let text = mail.text();
        assert!(text.starts_with("X-Top: t\r\nReceived: from "), "{text}");
        assert!(text.contains("\r\nX-Below: a\r\n\tb\r\n"), "{text}");
        assert!(text.ends_with("X-End: e\r\nX-Second: s\r\n\r\none\r\n.two\r\nthree\r\n"), "{text}");
        assert!(text.contains("\r\nsubject: new\r\n") && !text.contains("\r\nX : "), "{text}");
    }
    let seen = second.told('L');
    for field in [&b"X-Top\0t\0"[..], b"X-Below\0a\n\tb\0", b"subject\0new\0", b"X-End\0e\0"] {
        assert_eq!(seen.iter().filter(|s| &s[..] == field).count(), 2, "{}", field.escape_ascii());
    }
    assert_eq!(second.told('B'), vec![b"one\r\n.two\r\nthree\r\n".to_vec(); 2]);
    assert_eq!(server.metric("ringpost_filter_changes_total", ""), 4.0);
}

#[test]
fn header_changes_leave_bodies_alone_and_long_new_bodies_arrive() {
    let (hop, milter) = (Hop::start(), Milter::start(0, |_, _| Say::Go));
    let server = with(&hop, &milter);
    let large = large();
    milter.script(|told, _| if told == 'E' { all(&[('h', b"X-End\0e\0"), ('c', b"")]) } else { Say::Go });
    server.client().mail("a@b.test", &["c@d.test"], &large);
    let at = large.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 2;
    let expected = [&large[..at], b"X-End: e\r\n", &large[at..]].concat();
    assert!(hop.wait(1)[0].split().1 == expected, "more than the header has changed");
    // A new body for a short and for a long message; the long one goes into a side file.
    let new: Vec<u8> = (0..50_000).flat_map(|n| format!(".line {n}\r\n").into_bytes()).collect();
    let pieces: Vec<u8> = new.chunks(65_535).flat_map(|c| packet('b', c)).collect();
    milter.script(move |told, _| match told {
        'E' => Say::Bytes([&pieces[..], &packet('c', b"")].concat()),
        _ => Say::Go,
    });
    for body in [BODY, &large] {
        server.client().mail("a@b.test", &["c@d.test"], body);
    }
    for mail in &hop.wait(3)[1..] {
        let content = mail.split().1;
        let at = content.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert!(content[at..] == new, "the new body has changed");
    }
}

#[test]
fn what_filters_have_made_of_a_message_is_what_is_signed() {
    let (hop, milter) = (Hop::start(), Milter::start(0x10_0000, |_, _| Say::Go));
    let pem = generate(None).expect("a key");
    let names = NameServer::start(&(Key::parse("a.test", "s", pem.as_bytes()).unwrap().zone_line() + "\n"));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("key.pem");
    std::fs::write(&file, pem.as_bytes()).expect("a file");
    let key = format!("[[dkim.key]]\ndomain = \"a.test\"\nselector = \"s\"\nfile = \"{}\"\n", file.display());
    let server = server(&hop, &[block(milter.address, "name = \"m\""), key]);
    let dkim = Modes { spf: Mode::Off, dkim: Mode::Tag, dmarc: Mode::Off, arc: Mode::Off };
    let short =
        [&b"From: joe@a.test\r\n"[..], &BODY[BODY.iter().position(|b| *b == b'\n').expect("a line") + 1..]]
            .concat();
    let long = [&b"From: joe@a.test\r\n"[..], &large()].concat();
    let header = [&b"\0\0\0\x01Subject\0 other"[..], b"\0"].concat();
    let mut count = 0;
    for kind in ["", "m", "b", "mb"] {
        let header = header.clone();
        milter.script(move |told, _| match (told, kind) {
            ('E', "m") => all(&[('m', &header), ('c', b"")]),
            ('E', "b") => all(&[('b', b"other\r\n"), ('c', b"")]),
            ('E', "mb") => all(&[('m', &header), ('b', b"other\r\n"), ('c', b"")]),
            _ => Say::Go,
        });
        for message in [&short, &long] {
            server.client().mail("joe@a.test", &["c@d.test"], message);
            count += 1;
            let mail = hop.wait(count)[count - 1].content();
            let is_changed =
                [&b"Subject: other"[..], b"other\r\n"].iter().any(|t| mail.windows(t.len()).any(|w| w == *t));
            assert_eq!(is_changed, !kind.is_empty(), "{kind}");
            let letter = Letter { client: "192.0.2.1", sender: "joe@a.test", helo: "x", message: &mail };
            let found: Vec<_> = look(&names, &letter, dkim).dkim.unwrap_or_default();
            let found: Vec<_> = found.iter().map(|s| s.outcome).collect();
            assert_eq!(found, [Outcome::Pass], "{kind:?}, {} bytes", message.len());
        }
    }
}

#[test]
fn quarantined_mail_waits_for_an_operator() {
    let (hop, milter) = (Hop::start(), Milter::start(0, |_, _| Say::Go));
    let server = with(&hop, &milter);
    milter.script(|told, _| if told == 'E' { all(&[('q', b"virus X\0"), ('c', b"")]) } else { Say::Go });
    let ids = [BODY.to_vec(), large()].map(|body| server.client().mail("a@b.test", &["c@d.test"], &body));
    for id in &ids {
        server.listed(id, |m| m["queue_name"] == "hold");
    }
    let why = server.run(&["why", &ids[0]]);
    assert!(String::from_utf8_lossy(&why.stdout).contains("m: virus X"), "{why:?}");
    // It stays so over a restart.
    let mut config = Config::new(hop.address);
    config.tail = block(milter.address, "");
    let server = Server::start_in(server.stop(), &config);
    for id in &ids {
        server.listed(id, |m| m["queue_name"] == "hold");
    }
    assert!(hop.mails().is_empty(), "nothing has left");
    server.queue(&["release", "--all"]);
    hop.wait(2);
    server.drained();
}

#[test]
fn filters_that_fail() {
    let (hop, milter) = (Hop::start(), Milter::start(0, |_, _| Say::Go));
    let kinds = ["tempfail", "accept", "reject"];
    let servers = kinds.map(|kind| {
        let more = format!("when_down = \"{kind}\"\ncommand_timeout = \"1s\"\nmessage_timeout = \"1s\"");
        server(&hop, &[block(milter.address, &more)])
    });
    let mut delivered = 0;
    type Made = fn() -> Say;
    let failures: [(&str, char, Made); 9] = [
        ("dies at once", 'O', || Say::Close),
        ("another protocol", 'O', || Say::Bytes(b"220 mail ESMTP\r\n".to_vec())),
        ("dies at MAIL", 'M', || Say::Close),
        ("dies in mid-message", 'B', || Say::Close),
        ("dies after changes", 'E', || Say::Bytes(packet('h', b"X-Lost\0x\0"))),
        ("does not answer", 'E', || Say::Nothing),
        ("a packet of 4 GiB", 'L', || Say::Bytes(vec![0xff; 9])),
        ("a change out of place", 'L', || say('h', b"A\0b\0")),
        ("a field that is none", 'E', || all(&[('h', b"A b\0c\0"), ('c', b"")])),
    ];
    for (what, stage, failure) in failures {
        for (kind, server) in kinds.iter().zip(&servers) {
            milter.script(move |told, _| if told == stage { failure() } else { Say::Go });
            let mut client = server.client();
            let mut reply = client.say("MAIL FROM:<a@b.test>");
            if reply.code() == 250 {
                client.say("RCPT TO:<c@d.test>").expect("250 ");
                reply = client.data(stuffed(BODY));
            }
            let code = match *kind {
                "tempfail" => 451,
                "reject" => 550,
                _ => 250,
            };
            assert_eq!(reply.code(), code, "{what} {kind}: {reply:?}");
            delivered += usize::from(code == 250);
        }
    }
    let mails = hop.wait(delivered);
    assert!(mails.iter().all(|m| m.split().1 == BODY), "nothing is left of what a broken filter wanted");
    for server in &servers {
        server.event("filter_failed");
        let failed = server.metric("ringpost_filter_failures_total", "");
        assert_eq!(failed, 9.0);
    }
    milter.script(|_, _| Say::Go);
    servers[0].client().mail("a@b.test", &["c@d.test"], BODY);
    servers[0].event("filter_works");
}

/// A slow filter holds up its own session only; pipelined commands keep their order.
#[test]
fn slow_filters_and_pipelining() {
    let (hop, milter) = (Hop::start(), Milter::start(0, |_, _| Say::Go));
    let config = block(milter.address, "message_timeout = \"60s\"");
    let server = server(&hop, &[config]);
    milter.script(|told, data| match (told, data) {
        ('R', b"<slow@d.test>\0") => Say::Nothing,
        ('R', b"<no@d.test>\0") => say('r', b""),
        _ => Say::Go,
    });
    let mut slow = server.client();
    slow.send("MAIL FROM:<a@b.test>\r\nRCPT TO:<slow@d.test>\r\n");
    until("the question", || milter.told('R').contains(&b"<slow@d.test>\0".to_vec()).then_some(()));
    let mut text = String::from("MAIL FROM:<a@b.test>\r\n");
    for name in ["one", "no", "two"] {
        write!(text, "RCPT TO:<{name}@d.test>\r\n").expect("a string");
    }
    let mut client = server.client();
    client.send(text + "DATA\r\n");
    for start in ["250 2.1.0", "250 2.1.5", "550 5.7.1", "250 2.1.5", "354 "] {
        client.reply().expect(start);
    }
    client.send(stuffed(BODY));
    client.reply().id();
    assert_eq!(hop.wait(1)[0].to, ["<one@d.test>", "<two@d.test>"]);
    // RSET: the filter hears of the end before the next message.
    client.envelope("x@b.test", &["one@d.test"]);
    client.say("RSET").expect("250 ");
    client.mail("y@b.test", &["two@d.test"], BODY);
    assert!(milter.letters().contains("MRAMRTLLLNBE"), "{}", milter.letters());
}

#[test]
fn who_is_not_asked_about() {
    let (hop, milter) = (Hop::start(), Milter::start(0, |_, _| say('r', b"")));
    let server = server(
        &hop,
        &[
            block(milter.address, "name = \"a\"\nskip_trusted = true"),
            block(milter.address, "name = \"b\"\nlisteners = [\"submission\"]"),
        ],
    );
    server.client().mail("a@b.test", &["c@d.test"], BODY);
    hop.wait(1);
    assert_eq!(milter.letters(), "");
}

/// A policy server that answers by the recipient.
fn policy(answer: fn(&str) -> &'static str) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let (mut to, mut recipient) = (stream.try_clone().expect("a socket"), String::new());
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if let Some(value) = line.strip_prefix("recipient=") {
                        recipient = value.to_owned();
                    }
                    if line.is_empty() && to.write_all(answer(&recipient).as_bytes()).is_err() {
                        return;
                    }
                    // One question a connection, as some do.
                    if line.is_empty() && recipient.starts_with("bye") {
                        return to.shutdown(std::net::Shutdown::Both).unwrap_or(());
                    }
                }
            });
        }
    });
    address
}

#[test]
fn policy_servers() {
    let hop = Hop::start();
    let address = policy(|recipient| match recipient.split('@').next().unwrap_or("") {
        "no" => "action=REJECT 5.1.2 not here\n\n",
        "later" => "action=DEFER_IF_PERMIT\n\n",
        "code" => "action=452 4.2.2 full\n\n",
        "hold" => "action=HOLD odd\n\n",
        "gone" => "action=DISCARD\n\n",
        "mark" => "action=PREPEND X-Mark: yes\n\n",
        "filter" => "action=FILTER smtp:[x]\n\n",
        "mute" => "x",
        _ => "action=DUNNO\n\n",
    });
    let more = "kind = \"policy\"\nname = \"p\"\ncommand_timeout = \"1s\"";
    let server = server(&hop, &[block(address, more)]);
    let mut client = server.client();
    client.say("MAIL FROM:<a@b.test>").expect("250 ");
    for (name, reply) in [
        ("no", "554 5.1.2 not here"),
        ("bye", "250 "),
        ("later", "450 4.7.1"),
        ("code", "452 4.2.2 full"),
        ("filter", "451 4.7.1"),
        ("mute", "451 4.7.1"),
        ("mark", "250 "),
        ("good", "250 "),
    ] {
        client.say(&format!("RCPT TO:<{name}@d.test>")).expect(reply);
    }
    client.data(stuffed(BODY)).id();
    let mail = &hop.wait(1)[0];
    assert_eq!(mail.to, ["<bye@d.test>", "<mark@d.test>", "<good@d.test>"]);
    assert!(mail.text().starts_with("X-Mark: yes\r\nReceived: from "), "{}", mail.text());
    let id = client.mail("a@b.test", &["hold@d.test"], BODY);
    server.listed(&id, |m| m["queue_name"] == "hold");
    client.mail("a@b.test", &["gone@d.test"], BODY);
    assert_eq!(server.metric("ringpost_filter_messages_total", "verdict=\"discard\""), 1.0);
    assert_eq!(server.metric("ringpost_filter_failures_total", ""), 2.0);
}

/// Rspamd as far as a test needs it: one request a connection, an answer by the subject; what it was sent.
fn rspamd(answer: fn(&str) -> String) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
            let (mut head, mut len) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|n| n > 0) {}
            for line in head.lines().filter_map(|l| l.strip_prefix("Content-Length: ")) {
                len = line.parse().expect("a number");
            }
            let mut message = vec![0; len];
            reader.read_exact(&mut message).expect("a whole message");
            let text = String::from_utf8_lossy(&message).into_owned();
            let subject =
                text.split_once("Subject: ").and_then(|(_, s)| s.split("\r\n").next()).unwrap_or("");
            let json = answer(subject);
            notes.lock().expect("no panic").push([head.as_bytes(), &message].concat());
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", json.len());
            drop(stream.write_all((head + &json).as_bytes()));
        }
    });
    (address, seen)
}

#[test]
fn rspamd_in_its_own_protocol() {
    let hop = Hop::start();
    let (address, seen) = rspamd(|subject| match subject {
        "bad" => r#"{"action":"reject","messages":{"smtp_message":"says rspamd"}}"#.into(),
        "later" => r#"{"action":"soft reject"}"#.into(),
        "gone" => r#"{"action":"discard"}"#.into(),
        "held" => r#"{"action":"quarantine"}"#.into(),
        "spam" => r#"{"action":"add header","milter":{"remove_headers":{"X-Two":0},
            "add_headers":{"X-Score":{"value":"7","order":0}}}}"#
            .into(),
        "junk" => r#"{"action":"rewrite subject","subject":"*** junk"}"#.into(),
        "broken" => "[".into(),
        _ => r#"{"action":"no action"}"#.into(),
    });
    let server = server(&hop, &[block(address, "kind = \"rspamd\"\nname = \"r\"")]);
    let mut client = server.client();
    let mut send = |subject: &str| {
        let body = format!("X-Two: 2\r\nSubject: {subject}\r\nX-Two: 3\r\n\r\n.text\r\n");
        client.envelope("a@b.test", &["c@d.test", "e@d.test"]);
        client.data(stuffed(body.as_bytes()))
    };
    send("bad").expect("550 5.7.1 says rspamd");
    send("later").expect("451 4.7.1");
    send("broken").expect("451 4.7.1");
    send("gone").id();
    let held = send("held").id();
    send("spam").id();
    send("junk").id();
    server.listed(&held, |m| m["queue_name"] == "hold");
    let large = large();
    server.client().mail("a@b.test", &["c@d.test"], &large);
    let mails = hop.wait(3);
    let with = |part: &str| mails.iter().find(|m| m.text().contains(part)).expect("it has come").text();
    let spam = with("Subject: spam");
    assert!(spam.starts_with("X-Score: 7\r\nReceived: "), "{spam}");
    assert!(spam.ends_with("Subject: spam\r\nX-Spam: Yes\r\n\r\n.text\r\n"), "{spam}");
    assert!(with("*** junk").ends_with("X-Two: 2\r\nSubject: *** junk\r\nX-Two: 3\r\n\r\n.text\r\n"));
    assert!(mails.iter().any(|m| m.split().1 == large), "a message has changed");
    let seen = seen.lock().expect("no panic");
    assert!(seen.last().is_some_and(|last| last.ends_with(&large)), "it has not seen all of it");
    let first = String::from_utf8_lossy(&seen[0]).into_owned();
    for field in
        ["IP: 127.0.0.1", "From: a@b.test", "Rcpt: c@d.test", "Rcpt: e@d.test", "MTA-Name: mx.test.example"]
    {
        assert!(first.contains(&format!("\r\n{field}\r\n")), "{field}: {first}");
    }
    assert!(!first.contains("Received:"), "our trace header is not shown");
    assert_eq!(server.metric("ringpost_filter_failures_total", "reason=\"protocol\""), 1.0);
}
