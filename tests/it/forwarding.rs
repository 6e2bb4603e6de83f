//! Mail that is forwarded: senders that are rewritten and found again, seals of what is passed on.
#![allow(clippy::disallowed_methods, reason = "writes maps, keys and secrets")]

use crate::harness::client::stuffed;
use crate::harness::dns::NameServer;
use crate::harness::milter::{Milter, Say, all};
use crate::harness::server::directory;
use crate::harness::{Client, Config, Hop, Server, until};
use crate::senders::{Letter, look};
use ringpost::authenticity::keys::{Key, generate};
use ringpost::authenticity::results::{Chain, Outcome};
use ringpost::authenticity::rules::{Mode, Modes};
use ringpost::route::srs::{Srs, secrets};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const BODY: &[u8] = b"From: Joe <joe@a.test>\r\nSubject:  dinner\r\n\r\n.Hi.\r\nbye \r\n\r\n";
const SECRET: &str = "a secret that is long enough";

fn put(dir: &Path, name: &str, text: &str) -> String {
    std::fs::write(dir.join(name), text).expect("a file");
    format!("\"{}\"", dir.join(name).display())
}

/// A stranger to the server, which lets 127.0.0.9 relay only.
fn stranger(server: &Server) -> Client {
    let mut client = Client::from([127, 0, 0, 2], server.smtp);
    client.reply().expect("220 ");
    client.say("EHLO client.test").expect("250-");
    client
}

/// A server for b.test, whose aliases lead away.
fn forwarder(dir: &Path, hop: &Hop) -> Config {
    Config::new(hop.address)
        .set("server", "hostname", "\"mx.b.test\"")
        .set("relay", "networks", "[\"127.0.0.9/32\"]")
        .set("domains", "local", "[\"b.test\"]")
        .set("domains", "relay", "[\"cust.test\"]")
        .set("domains", "postmaster", "\"p@cust.test\"")
        .set(
            "domains",
            "aliases",
            put(dir, "aliases", "away: x@far.test\ncust: x@cust.test\nlost: no@far.test\n"),
        )
        .set("limits", "errors_soft", "0")
}

fn address(path: &str) -> &str {
    path.trim_start_matches('<').split('>').next().unwrap_or_default()
}

#[test]
fn senders_of_forwarded_mail_are_found_again() {
    let (hop, dir) = (Hop::start(), Arc::new(directory()));
    let config = forwarder(dir.path(), &hop).set("srs", "domain", "\"srs.b.test\"").set(
        "srs",
        "key_file",
        put(dir.path(), "secrets", SECRET),
    );
    let server = Server::start_in(dir.clone(), &config);
    let mut client = stranger(&server);
    client.mail("Joe@a.test", &["away@b.test"], BODY);
    let written = hop.wait(1)[0].from.clone();
    let written = address(&written);
    assert!(written.starts_with("SRS0=") && written.ends_with("=a.test=Joe@srs.b.test"), "{written}");
    // What goes to customers, or comes from here or from nobody, keeps its sender.
    for (n, (from, to)) in [
        ("joe@a.test", "cust@b.test"),
        ("me@b.test", "away@b.test"),
        ("", "away@b.test"),
        ("joe@a.test", "r@cust.test"),
    ]
    .into_iter()
    .enumerate()
    {
        client.mail(from, &[to], BODY);
        assert_eq!(address(&hop.wait(n + 2)[n + 1].from), from, "{from} to {to}");
    }
    assert_eq!(server.metric("ringpost_srs_rewritten_total", ""), 1.0);
    // A stranger's bounce finds the sender, however it is written.
    for (n, to) in [written.to_owned(), written.to_ascii_lowercase()].iter().enumerate() {
        client.mail("", &[to], BODY);
        let mail = &hop.wait(n + 6)[n + 5];
        assert!(mail.to[0].eq_ignore_ascii_case("<Joe@a.test>") && mail.from.starts_with("<>"), "{mail:?}");
    }
    // What is not ours, and what is too old, leads nowhere.
    let today = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs() / 86_400;
    let srs = Srs::new("srs.b.test", b'=', 21, secrets(SECRET.as_bytes()).expect("secrets"));
    let at =
        |days: u64| String::from_utf8(srs.forward(b"joe@a.test", today - days).expect("one").into()).unwrap();
    client.say("MAIL FROM:<>").expect("250 ");
    let said = |client: &mut Client, to: &str| client.say(&format!("RCPT TO:<{to}>"));
    said(&mut client, &at(20)).expect("250 ");
    said(&mut client, &at(30)).expect("550 5.1.1 Return path has expired");
    said(&mut client, &at(0).replace("joe", "jim")).expect("550 5.1.1 User unknown");
    said(&mut client, &at(0).replace("a.test", "else.test")).expect("550 5.1.1 User unknown");
    let foreign = "SRS1=Abcd=first.test==x1Yz=2K=orig.test=joe@srs.b.test";
    said(&mut client, foreign).expect("550 5.1.1 User unknown");
    said(&mut client, "joe@srs.b.test").expect("554 5.7.1 Relay access denied");
    said(&mut client, "SRS0=x=y=a.test=joe@else.test").expect("554 5.7.1 Relay access denied");
    client.say("RSET").expect("250 ");
    // The one that another forwarder has written leads back to it.
    client.mail("SRS0=x1Yz=2K=orig.test=joe@first.test", &["away@b.test"], BODY);
    let second = hop.wait(8)[7].from.clone();
    let second = address(&second);
    assert!(second.starts_with("SRS1="), "{second}");
    client.mail("", &[second], BODY);
    assert_eq!(hop.wait(9)[8].to, ["<SRS0=x1Yz=2K=orig.test=joe@first.test>"]);
}

#[test]
fn of_what_cannot_be_forwarded_the_sender_is_told() {
    let (hop, dir) = (Hop::start(), Arc::new(directory()));
    let config = forwarder(dir.path(), &hop).set("srs", "domain", "\"srs.b.test\"").set(
        "srs",
        "key_file",
        put(dir.path(), "secrets", SECRET),
    );
    let server = Server::start_in(dir, &config);
    hop.refuse("RCPT TO:<no@far.test>", "550 5.1.1 No such user");
    stranger(&server).mail("joe@a.test", &["lost@b.test"], BODY);
    let report = hop.one();
    assert_eq!((report.to[0].split(' ').next(), address(&report.from)), (Some("<joe@a.test>"), ""));
    assert!(report.text().contains("To: <joe@a.test>"), "{}", report.text());
    server.drained();
}

/// A key of `domain`: its file, and its record in `zone`.
fn key(dir: &Path, domain: &str, rsa: Option<usize>, zone: &mut String) -> String {
    let pem = generate(rsa).expect("a key");
    let key = Key::parse(domain, "s", pem.as_bytes()).expect("a key");
    *zone += &(key.zone_line() + "\n");
    put(dir, &format!("{domain}.pem"), &pem)
}

fn sealing(config: Config, names: &NameServer, domain: &'static str, file: &str) -> Config {
    config
        .set("dns", "servers", format!("[\"{}\"]", names.address))
        .set("dns", "dnssec", "\"off\"")
        .set("authenticity", "arc", "\"tag\"")
        .set("authenticity", "spf", "\"tag\"")
        .set("arc", "domain", format!("\"{domain}\""))
        .set("arc", "selector", "\"s\"")
        .set("arc", "file", file)
}

/// What is to be said of the chain of a message.
fn chain(names: &NameServer, message: &[u8]) -> Chain {
    let arc = Modes { spf: Mode::Off, dkim: Mode::Off, dmarc: Mode::Off, arc: Mode::Tag };
    let letter = Letter { client: "192.0.2.1", sender: "joe@a.test", helo: "x", message };
    look(names, &letter, arc).arc.expect("it was looked at")
}

#[test]
fn what_is_passed_on_is_sealed_and_the_chain_holds() {
    let dir = Arc::new(directory());
    let mut zone = String::from("a.test. IN TXT \"v=spf1 -all\"\n");
    let (first_key, second_key) =
        (key(dir.path(), "b.test", Some(2048), &mut zone), key(dir.path(), "c.test", None, &mut zone));
    let (hop, names) = (Hop::start(), NameServer::start(&zone));
    let second = Config::new(hop.address)
        .set("server", "hostname", "\"mx.c.test\"")
        .set("relay", "networks", "[\"127.0.0.9/32\"]")
        .set("domains", "relay", "[\"far.test\"]");
    let second = Server::start(&sealing(second, &names, "c.test", &second_key));
    let milter = Milter::start(0x10_0000, |_, _| Say::Go);
    let mut first = sealing(forwarder(dir.path(), &hop), &names, "b.test", &first_key)
        .set("relay", "smarthost", format!("\"{}\"", second.smtp))
        .set("memory", "spill", "\"64KiB\"");
    first.tail = format!("[[filter]]\naddress = \"inet:{}\"\n", milter.address);
    let first = Server::start_in(dir.clone(), &first);
    let long = [BODY, &b"long line of text\r\n".repeat(10_000)].concat();
    let header = [&b"\0\0\0\x01Subject\0 other"[..], b"\0"].concat();
    let mut mails = Vec::new();
    for changes in ["", "mb"] {
        let header = header.clone();
        milter.script(move |told, _| match (told, changes) {
            ('E', "mb") => all(&[('m', &header), ('b', b"other\r\n"), ('c', b"")]),
            _ => Say::Go,
        });
        for message in [BODY, &long] {
            stranger(&first).mail("joe@a.test", &["away@b.test"], message);
            mails = hop.wait(mails.len() + 1);
            let content = mails.last().expect("one").content();
            let found = chain(&names, &content);
            assert_eq!((found.outcome, &*found.sealer), (Outcome::Pass, "c.test"), "{changes:?}");
            let text = String::from_utf8_lossy(&content);
            for part in [
                "ARC-Seal: i=1; a=rsa-sha256; cv=none; d=b.test;",
                "ARC-Seal: i=2; a=ed25519-sha256; cv=pass;",
            ] {
                assert!(text.contains(part), "{part} is not in {text:.4000}");
            }
            let said = "ARC-Authentication-Results: i=1; mx.b.test;\r\n\tspf=fail smtp.mailfrom=a.test";
            assert!(
                text.contains(said) && text.starts_with("Authentication-Results: mx.c.test;"),
                "{text:.4000}"
            );
        }
    }
    assert_eq!(first.metric("ringpost_arc_seals_total", "cv=\"none\""), 4.0);
    assert_eq!(second.metric("ringpost_arc_seals_total", "cv=\"pass\""), 4.0);
    of_broken_chains(&second, &hop, &names, &mails[0].content());
}

fn of_broken_chains(second: &Server, hop: &Hop, names: &NameServer, sealed: &[u8]) {
    // A chain that was broken is marked as such, once; mail of our own clients has no seal.
    let torn = String::from_utf8_lossy(sealed).replace("Hi.", "Ha.");
    let sent = |message: &str| {
        let mut client = stranger(second);
        client.envelope("joe@a.test", &["x@far.test"]);
        client.data(stuffed(message.as_bytes())).expect("250 ");
    };
    sent(&torn);
    let marked = hop.wait(5)[4].text();
    assert!(marked.contains("ARC-Seal: i=3; a=ed25519-sha256; cv=fail;"), "{marked}");
    assert_eq!(chain(names, marked.as_bytes()).outcome, Outcome::Fail);
    sent(&marked);
    let again = hop.wait(6)[5].text();
    assert!(!again.contains("i=4;"), "{again}");
    until("a message without a seal", || {
        (second.metric("ringpost_arc_unsealed_total", "") == 1.0).then_some(())
    });
    let mut ours = Client::from([127, 0, 0, 9], second.smtp);
    ours.reply().expect("220 ");
    ours.say("EHLO client.test").expect("250-");
    ours.mail("joe@a.test", &["x@far.test"], BODY);
    assert!(!hop.wait(7)[6].text().contains("ARC-Seal"));
}
