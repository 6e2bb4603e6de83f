//! Mail of strangers is looked at, mail of our own clients is signed: two servers, a zone, a next hop.

use crate::harness::client::stuffed;
use crate::harness::dns::NameServer;
use crate::harness::server::run_once;
use crate::harness::{Client, Config, Hop, Server, until};
use ringpost::authenticity::keys::{Key, generate};
use std::path::Path;

const FROM: &str = "joe@a.test";
const TO: &str = "you@b.test";
const BODY: &str = "From: Joe <joe@a.test>\r\nTo: you@b.test\r\nSubject: dinner\r\n\r\n.Hi.\r\nbye \r\n\r\n";

/// A server for mail of strangers to b.test, which asks `names`. Only 127.0.0.9 may relay.
fn receiver(hop: &Hop, names: &NameServer) -> Config {
    Config::new(hop.address)
        .set("server", "hostname", "\"mx.b.test\"")
        .set("relay", "networks", "[\"127.0.0.9/32\"]")
        .set("domains", "relay", "[\"b.test\"]")
        .set("dns", "servers", format!("[\"{}\"]", names.address))
        .set("dns", "dnssec", "\"off\"")
}

fn everywhere(config: Config, mode: &str) -> Config {
    ["spf", "dkim", "dmarc", "arc"]
        .into_iter()
        .fold(config, |config, key| config.set("authenticity", key, format!("\"{mode}\"")))
}

/// Makes a key in `dir`: its file and its record.
#[allow(clippy::disallowed_methods, reason = "a test makes files")]
fn key(dir: &Path, selector: &str, rsa: Option<usize>) -> (String, String) {
    let pem = generate(rsa).expect("a key");
    let file = dir.join(format!("{selector}.pem"));
    std::fs::write(&file, pem.as_bytes()).expect("a file");
    let key = Key::parse("a.test", selector, pem.as_bytes()).expect("a key");
    (file.display().to_string(), key.zone_line() + "\n")
}

fn key_block(selector: &str, file: &str) -> String {
    format!("[[dkim.key]]\ndomain = \"a.test\"\nselector = \"{selector}\"\nfile = \"{file}\"\n")
}

/// A stranger at this address, who says EHLO.
fn stranger(server: &Server, address: [u8; 4]) -> Client {
    let mut client = Client::from(address, server.smtp);
    client.reply().expect("220 ");
    client.say("EHLO client.test").expect("250-");
    client
}

/// The field that says what was found: without its line ends.
fn results(text: &str) -> String {
    let Some(field) = text.strip_prefix("Authentication-Results: ") else { panic!("no results: {text}") };
    let Some((field, _)) = field.split_once("\r\nReceived:") else { panic!("no trace: {text}") };
    field.replace("\r\n\t", " ")
}

#[test]
fn what_one_server_signs_another_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let (rsa_file, rsa) = key(dir.path(), "r1", Some(2048));
    let (ed_file, ed) = key(dir.path(), "e1", None);
    let zone = format!(
        "{rsa}{ed}a.test. IN TXT \"v=spf1 ip4:127.0.0.1 -all\"\n\
         _dmarc.a.test. IN TXT \"v=DMARC1; p=reject\"\n"
    );
    let (names, hop) = (NameServer::start(&zone), Hop::start());
    let receiving = Server::start(&everywhere(receiver(&hop, &names), "enforce"));
    let mut config = Config::new(receiving.smtp)
        .set("server", "hostname", "\"out.a.test\"")
        .set("dns", "servers", format!("[\"{}\"]", names.address))
        .set("dns", "dnssec", "\"off\"");
    config.tail = key_block("r1", &rsa_file) + &key_block("e1", &ed_file);
    let sending = Server::start(&config);
    sending.client().mail(FROM, &[TO], BODY.as_bytes());
    let text = hop.one().text();
    let found = results(&text);
    for part in [
        "mx.b.test; spf=pass smtp.mailfrom=a.test; spf=none smtp.helo=out.a.test; dkim=pass header.d=a.test \
         header.s=r1 header.a=rsa-sha256 header.b=\"",
        "; dkim=pass header.d=a.test header.s=e1 header.a=ed25519-sha256 header.b=\"",
        "; arc=none; dmarc=pass header.from=a.test (p=reject)",
    ] {
        assert!(found.contains(part), "{part} is not in {found}");
    }
    assert!(text.ends_with(BODY), "{text}");
    assert_eq!(sending.metric("ringpost_dkim_signatures_total", ""), 2.0);
    assert_eq!(receiving.metric("ringpost_dmarc_results_total", "result=\"pass\""), 1.0);
    // Long bodies go to side files at both, other domains have no key, and the message is as it was.
    let long = format!("{BODY}{}", ". long line of text\r\n".repeat(150_000));
    sending.client().mail(FROM, &[TO], long.as_bytes());
    let text = hop.wait(2)[1].text();
    assert!(results(&text).contains("dkim=pass") && text.ends_with(&long));
    let other = "From: a@other.test\r\n\r\nx\r\n";
    sending.client().mail("a@other.test", &[TO], other.as_bytes());
    until("a message that is not signed", || {
        (sending.metric("ringpost_dkim_unsigned_total", "") == 1.0).then_some(())
    });
    // The records are there, and the command says so.
    let out = sending.run(&["dkim", "show", "a.test"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && said.matches("is published").count() == 2, "{said}");
    // A key that is replaced signs in the old one's place: the record is another's then.
    key(dir.path(), "e1", None);
    sending.signal("HUP");
    sending.event_with("dkim", "new keys");
    let out = sending.run(&["dkim", "show", "a.test"]);
    assert_eq!(out.status.code(), Some(69), "{}", String::from_utf8_lossy(&out.stdout));
    sending.client().mail(FROM, &[TO], BODY.as_bytes());
    let found = results(&hop.wait(3).pop().unwrap().text());
    assert!(found.contains("dkim=fail header.d=a.test header.s=e1"), "{found}");
    assert!(found.contains("dkim=pass header.d=a.test header.s=r1"), "{found}");
}

#[test]
fn what_fails_is_refused_where_it_is_enforced() {
    let zone = "a.test. IN TXT \"v=spf1 ip4:127.0.0.1 -all\"\n_dmarc.a.test. IN TXT \"v=DMARC1; p=reject\"\n\
                c.test. IN TXT \"v=spf1 +all\"\n";
    let (names, hop) = (NameServer::start(zone), Hop::start());
    let mut config = receiver(&hop, &names).set("authenticity", "spf", "\"enforce\"").set(
        "authenticity",
        "dmarc",
        "\"enforce\"",
    );
    config.tail = "[[authenticity.for]]\ndomain = \"signed.test\"\ndkim = \"enforce\"\n".into();
    let server = Server::start(&config);
    let said = |client: &mut Client, from: &str, text: &str| {
        client.envelope(from, &[TO]);
        client.data(stuffed(text.as_bytes()))
    };
    let mut client = stranger(&server, [127, 0, 0, 2]);
    said(&mut client, FROM, BODY).expect("550 5.7.23 SPF validation failed");
    said(&mut client, "x@c.test", BODY).expect("550 5.7.1 Refused by the DMARC policy");
    said(&mut client, "x@c.test", "From: a@c.test, b@d.test\r\n\r\n").expect("550 5.7.1 From must name");
    said(&mut client, "x@c.test", "Subject: nobody\r\n\r\n").expect("550 5.7.1 From must name");
    said(&mut client, "x@c.test", "From: a@signed.test\r\n\r\nx\r\n").expect("550 5.7.20");
    let header = format!("X: {}\r\n", "x".repeat(90_000)).repeat(3);
    said(&mut client, "x@c.test", &format!("{header}{BODY}")).expect("552 5.3.4");
    assert!(hop.mails().is_empty());
    // By whoever may relay, nothing is refused or written.
    said(&mut stranger(&server, [127, 0, 0, 9]), FROM, BODY).expect("250 ");
    assert!(hop.one().text().starts_with("Received:"));
    // From its own client it is.
    said(&mut stranger(&server, [127, 0, 0, 1]), FROM, BODY).expect("250 ");
    let found = results(&hop.wait(2)[1].text());
    assert!(
        found.contains("spf=pass") && found.ends_with("dmarc=pass header.from=a.test (p=reject)"),
        "{found}"
    );
    // What is off for the domain is not written.
    assert!(!found.contains("dkim=") && !found.contains("; arc="), "{found}");
    assert_eq!(server.metric("ringpost_rejections_total", "reason=\"authenticity\""), 5.0);
    assert_eq!(server.metric("ringpost_spf_results_total", "result=\"fail\""), 1.0);
}

#[test]
fn trouble_with_name_servers_is_for_now_only() {
    let (names, hop) = (NameServer::failing(), Hop::start());
    let config = receiver(&hop, &names);
    let said = |config: Config| {
        let server = Server::start(&config);
        let mut client = server.client();
        client.envelope(FROM, &[TO]);
        client.data(stuffed(BODY.as_bytes()))
    };
    said(config.clone().set("authenticity", "spf", "\"enforce\"")).expect("451 4.7.24");
    said(config.clone().set("authenticity", "dmarc", "\"enforce\"")).expect("451 4.7.1 DMARC");
    // A name server that never answers costs no more than the time that was given.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = config.set("dns", "servers", format!("[\"{}\"]", silent.local_addr().unwrap())).set(
        "authenticity",
        "timeout",
        "\"200ms\"",
    );
    said(config.clone().set("authenticity", "dmarc", "\"enforce\"")).expect("451 4.7.1 DMARC");
    // Where it is not enforced it is said.
    let server = Server::start(&everywhere(config, "tag"));
    server.client().mail(FROM, &[TO], BODY.as_bytes());
    let found = results(&hop.one().text());
    assert!(found.contains("spf=temperror") && found.contains("dmarc=temperror"), "{found}");
}

#[test]
fn results_in_our_name_are_ours() {
    let (names, hop) = (NameServer::start("x.test. IN A 192.0.2.1\n"), Hop::start());
    let config = everywhere(receiver(&hop, &names), "tag").set("authenticity", "authserv_id", "\"b.test\"");
    let server = Server::start(&config);
    let kept = "Authentication-Results: a.test; dkim=pass\r\n";
    let forged = "Authentication-Results: (x) B.test 1;\r\n\tdmarc=pass header.from=a.test\r\n";
    let body = ".dots\r\n".repeat(200_000);
    // In memory, in a side file, without a body, without a header.
    for (n, (header, body)) in
        [(BODY, ""), ("From: joe@a.test\r\n\r\n", &*body), ("From: joe@a.test\r\n", ""), ("\r\n", "x\r\n")]
            .into_iter()
            .enumerate()
    {
        let header = if header == "\r\n" { header.into() } else { format!("{kept}{header}") };
        let sent = if n == 3 { header.clone() } else { format!("{forged}{header}") };
        let sent = sent.replacen("From:", &format!("{forged}From:"), 1) + body;
        server.client().mail(FROM, &[TO], sent.as_bytes());
        let text = hop.wait(n + 1)[n].text();
        assert!(results(&text).starts_with("b.test; spf=none"), "{text}");
        let behind = text.split_once("\r\nReceived:").unwrap().1;
        assert!(behind.ends_with(&format!("{header}{body}")), "{n} {behind:.400}");
        assert!(!behind.contains("B.test 1"), "{n}");
    }
}

#[test]
fn a_listener_may_do_less() {
    let (names, hop) = (NameServer::start("a.test. IN TXT \"v=spf1 -all\"\n"), Hop::start());
    let (tag, off) = (Hop::later(), Hop::later());
    let mut config = receiver(&hop, &names).set("authenticity", "spf", "\"enforce\"");
    let listener = |at: std::net::SocketAddr, mode: &str| {
        format!("[[listener]]\nprotocol = \"smtp\"\naddress = \"{at}\"\nauthenticity = \"{mode}\"\n")
    };
    config.tail = [
        "[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\n".into(),
        listener(tag, "tag"),
        listener(off, "off"),
    ]
    .concat();
    let server = Server::start(&config);
    let said = |at: std::net::SocketAddr| {
        let mut client = Client::from([127, 0, 0, 1], at);
        client.reply().expect("220 ");
        client.say("EHLO client.test").expect("250-");
        client.envelope(FROM, &[TO]);
        client.data(stuffed(BODY.as_bytes()))
    };
    said(server.smtp).expect("550 5.7.23");
    said(tag).expect("250 ");
    assert!(results(&hop.one().text()).contains("spf=fail smtp.mailfrom=a.test"));
    said(off).expect("250 ");
    assert!(hop.wait(2)[1].text().starts_with("Received:"));
}

#[test]
fn keys_that_cannot_be_used_stop_the_start() {
    let text = "[server]\nhostname = \"mx.a.test\"\nuser = \"\"\n[[dkim.key]]\ndomain = \"a.test\"\n\
                selector = \"s\"\nfile = \"/nowhere/key.pem\"\n";
    let (code, said, _) = run_once(&["check"], text);
    assert!(code == Some(78) && said.contains("the key cannot be read"), "{said}");
}
