//! Who comes in under TLS: clients that show a certificate instead of a password, and clients behind a
//! proxy whose header stands before the handshake.
#![allow(clippy::disallowed_methods, reason = "tests write certificates and password files")]

use crate::harness::secure::{BOTH, Issuer, Pair, TLS12, TLS13, rules, rules_with};
use crate::harness::server::PROGRAM;
use crate::harness::{Client, Config, Hop, Server, until};
use crate::hostile::{FROM, TO};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

const HOST: &str = "mx.test.example";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// SASL EXTERNAL: the certificate says who it is (RFC 4422 appendix A).
#[test]
fn a_certificate_instead_of_a_password() {
    let (hop, dir) = (Hop::start(), crate::harness::server::directory());
    let (users, authorities) = (dir.path().join("users"), dir.path().join("clients.pem"));
    for login in ["ann@example.net", "printer"] {
        let mut command = Command::new(PROGRAM);
        command.args(["user", "add", login, "--password-stdin", "--file"]).arg(&users);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the program runs");
        child.stdin.take().expect("piped").write_all(b"Correct.Horse\n").expect("read");
        assert!(child.wait().expect("a child").success());
    }
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    std::fs::write(&authorities, issuer.pem()).expect("a file");
    let main = Pair::make(dir.path(), "main", HOST);
    let mut config = Config::new(hop.address)
        .set("relay", "networks", "[]")
        .set("limits", "login_delay", "\"0s\"")
        .set("auth", "users", format!("{:?}", users.display().to_string()));
    config.tail = format!(
        "[[listener]]\nprotocol = \"submissions\"\naddress = \"127.0.0.1:0\"\n\
         [tls]\nclient_authorities = {authorities:?}\n{}",
        main.lines()
    );
    let server = Server::start(&config);
    let shows = |name: &str, issuer: &Issuer, email: Option<&str>, common: &str, versions| {
        let own = Pair::client(dir.path(), issuer, name, email, common);
        let mut client = Client::raw(server.smtp);
        client.handshake(&Arc::new(rules_with(versions, &own)), HOST).expect("any certificate is taken");
        client.reply().expect("220 ");
        let offer = client.say("EHLO client.test").0;
        (client, offer.contains(" EXTERNAL "))
    };
    // The address in the certificate, else its common name; in both versions; with and without saying
    // who one wants to be.
    for (versions, email, common, words, login) in [
        (TLS13, Some("Ann@example.net"), "Ann", "AUTH EXTERNAL =", "ann@example.net"),
        (TLS12, Some("ann@example.net"), "Ann", "AUTH EXTERNAL YW5uQGV4YW1wbGUubmV0", "ann@example.net"),
        (TLS13, None, "printer", "AUTH EXTERNAL =", "printer"),
    ] {
        let (mut client, offered) = shows("good", &issuer, email, common, versions);
        assert!(offered);
        client.say(words).expect("235 2.7.0");
        let id = client.mail(FROM, &[TO], b"Subject: x\r\n\r\nx\r\n");
        let told = server.event_with("submitted", &id);
        assert!(told.contains(&format!("login=\"{login}\"")), "{told}");
    }
    // Somebody else, or nobody that we know.
    let (mut client, _) = shows("good", &issuer, Some("ann@example.net"), "Ann", TLS13);
    client.say("AUTH EXTERNAL cHJpbnRlcg==").expect("535 5.7.8");
    let (mut client, _) = shows("nobody", &issuer, Some("eve@example.net"), "Eve", TLS13);
    client.say("AUTH EXTERNAL =").expect("535 5.7.8");
    // Nobody vouches for it, or there is none: passwords only.
    let (mut client, offered) = shows("stranger", &stranger, Some("ann@example.net"), "Ann", TLS13);
    assert!(!offered);
    client.say("AUTH EXTERNAL =").expect("504 5.5.4");
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("530 5.7.0");
    let mut client = Client::implicit(server.smtp, &Arc::new(rules(BOTH)), HOST);
    client.say("AUTH EXTERNAL =").expect("504 5.5.4");
    assert_eq!(hop.wait(3).len(), 3);
    assert_eq!(server.metric("ringpost_auth_success_total", "mechanism=\"EXTERNAL\""), 3.0);
    assert_eq!(server.metric("ringpost_auth_failures_total", "mechanism=\"EXTERNAL\""), 2.0);
}

/// A header of version 2 with a checksum, computed here bit by bit.
fn v2(client: [u8; 4], damage: u8) -> Vec<u8> {
    let tail = [3, 0, 4, 0, 0, 0, 0];
    let mut header = [SIGNATURE, &[0x21, 0x11, 0, 12 + tail.len() as u8], &client].concat();
    header.extend_from_slice(&[192, 0, 2, 25, 0x9c, 0x40, 1, 0xd1]);
    header.extend_from_slice(&tail);
    let sum = header.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    });
    let at = header.len() - 4;
    header[at..].copy_from_slice(&(!sum).to_be_bytes());
    header[at] ^= damage;
    header
}

/// The header and the first bytes of the handshake come in one segment, or in any others.
#[test]
fn a_proxy_in_front_of_tls() {
    let (hop, dir) = (Hop::start(), crate::harness::server::directory());
    let main = Pair::make(dir.path(), "main", HOST);
    let mut config = Config::new(hop.address).set("relay", "networks", "[\"10.0.0.0/8\"]").set(
        "timeouts",
        "proxy_header",
        "\"300ms\"",
    );
    config.tail = format!(
        "[[listener]]\nprotocol = \"submissions\"\naddress = \"127.0.0.1:0\"\nauth = \"off\"\n\
         proxy_protocol_from = [\"127.0.0.9\"]\n[tls]\n{}",
        main.lines()
    );
    let server = Server::start(&config);
    let rules = Arc::new(rules(BOTH));
    let hello = || {
        let name = rustls::pki_types::ServerName::try_from(HOST).expect("a name");
        let mut tls = rustls::ClientConnection::new(rules.clone(), name).expect("rules");
        let mut hello = Vec::new();
        tls.write_tls(&mut hello).expect("a vector");
        (tls, hello)
    };
    let v1 = b"PROXY TCP4 10.1.2.3 192.0.2.25 40000 465\r\n".to_vec();
    for header in [v1, v2([10, 1, 2, 3], 0)] {
        // Cut nowhere, within the header, behind it, within the handshake.
        for cut in [0, 7, header.len() - 1, header.len(), header.len() + 3] {
            let (mut tls, hello) = hello();
            let all = [&header[..], &hello].concat();
            let mut client = Client::from([127, 0, 0, 9], server.smtp);
            client.send(&all[..cut]);
            client.send(&all[cut..]);
            while tls.is_handshaking() {
                tls.complete_io(&mut client.stream).expect("a handshake");
            }
            client.tls = Some(Box::new(tls));
            client.reply().expect("220 ");
            client.say("EHLO client.test").expect("250-");
            client.mail(FROM, &[TO], b"Subject: x\r\n\r\nx\r\n");
        }
    }
    for mail in hop.wait(10) {
        let trace = mail.split().0;
        assert!(trace.starts_with("Received: from client.test (unknown [10.1.2.3])\r\n"), "{trace}");
        assert!(trace.contains(" with ESMTPS id "), "{trace}");
    }
    // A wrong checksum, or what is no header and no handshake: closed, in clear text not a word.
    for bytes in [v2([10, 1, 2, 3], 1), b"EHLO client.test\r\n".to_vec()] {
        let mut client = Client::from([127, 0, 0, 9], server.smtp);
        client.send(&bytes);
        client.expect_end();
    }
    until("both are counted", || {
        let count = |what| server.metric("ringpost_proxy_headers_total", what);
        ((count("bad"), count("none"), count("client")) == (1.0, 1.0, 10.0)).then_some(())
    });
}
