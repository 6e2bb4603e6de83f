//! TLS over real sockets: STARTTLS and implicit, versions, names, tickets, certificates that change
//! under load, and the rows of the attack catalogue that concern it.
#![allow(clippy::disallowed_methods, reason = "tests write certificates into directories of their own")]

use crate::harness::secure::{BOTH, Pair, TLS12, TLS13, rules};
use crate::harness::server::{PROGRAM, run_once};
use crate::harness::{Client, Config, Hop, Server, until};
use crate::hostile::{FROM, TO, still_serves};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const HOST: &str = "mx.test.example";

/// A server with STARTTLS on its first port and TLS from the first byte on its second.
struct Setup {
    hop: Hop,
    server: Server,
    main: Pair,
    dir: tempfile::TempDir,
}

impl Setup {
    fn start() -> Setup {
        Self::with(|config, _| config)
    }

    fn with(edit: impl FnOnce(Config, &Path) -> Config) -> Setup {
        let dir = crate::harness::server::directory();
        let main = Pair::make(dir.path(), "main", HOST);
        let hop = Hop::start();
        let mut config = edit(Config::new(hop.address), dir.path());
        config.tail = format!(
            "[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\n\
             [[listener]]\nprotocol = \"submissions\"\naddress = \"127.0.0.2:0\"\n\
             [[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.3:0\"\ntls = \"required\"\n\
             [tls]\n{}{}",
            main.lines(),
            config.tail
        );
        Setup { hop, server: Server::start(&config), main, dir }
    }

    /// The address of listener `n`.
    fn at(&self, n: usize) -> SocketAddr {
        let text = self.server.event("started");
        let list = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).expect("addresses").0;
        list.split(", ").nth(n).expect("that many listeners").parse().expect("an address")
    }

    /// The message with this subject, once the next hop has it: what was put in front (trace, and what a
    /// submitted message lacked), and what the client has sent.
    fn arrived(&self, subject: &str) -> (String, Vec<u8>) {
        let line = format!("S: {subject}\r\n");
        until("the message at the next hop", || {
            let found = |mail: crate::harness::Mail| {
                let content = mail.content();
                let at = content.windows(line.len()).position(|w| w == line.as_bytes())?;
                let front = String::from_utf8(content[..at].to_vec()).expect("what we add is ASCII");
                Some((front, content[at..].to_vec()))
            };
            self.hop.mails().into_iter().find_map(found)
        })
    }
}

/// What a client without TLS reads until the end.
fn read_all(client: &mut Client) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset after the alert is an end, too.
    let _ = client.stream.read_to_end(&mut all);
    all
}

#[test]
fn mail_under_tls_and_its_trace() {
    let setup = Setup::start();
    for (n, (versions, name)) in [(TLS12, "TLSv1.2"), (TLS13, "TLSv1.3")].into_iter().enumerate() {
        let rules = Arc::new(rules(versions));
        for (kind, client) in [
            ("starttls", Client::secured(setup.at(0), &rules, HOST)),
            ("implicit", Client::implicit(setup.at(1), &rules, HOST)),
        ] {
            let (mut client, subject) = (client, format!("{kind} {n}"));
            assert_eq!(client.shown(), setup.main.der);
            client.mail(FROM, &[TO], format!("S: {subject}\r\n\r\n.dot\r\n").as_bytes());
            client.say("QUIT").expect("221 ");
            client.expect_end();
            let (trace, body) = setup.arrived(&subject);
            assert!(trace.contains(" with ESMTPS id ") && trace.contains(&format!(" ({name})")), "{trace}");
            assert!(trace.contains("\r\n\ttls TLS_"), "{trace}");
            assert!(body.ends_with(b"\r\n.dot\r\n"));
        }
    }
    assert_eq!(setup.server.metric("ringpost_tls_handshakes_total", "version=\"1.2\""), 2.0);
    assert_eq!(setup.server.metric("ringpost_tls_handshakes_total", "version=\"1.3\""), 2.0);
    until("the sessions' end", || (setup.server.metric("ringpost_tls_sessions", "") == 0.0).then_some(()));
}

#[test]
fn long_messages_and_idle_times() {
    let setup = Setup::start();
    let mut client = Client::implicit(setup.at(1), &Arc::new(rules(BOTH)), HOST);
    let line: Vec<u8> = (0..76u8).map(|n| b'!' + n % 90).chain(*b"\r\n").collect();
    let body = [b"S: long\r\n\r\n".to_vec(), line.repeat((10 << 20) / line.len())].concat();
    client.mail(FROM, &[TO], &body);
    assert!(setup.arrived("long").1 == body, "10 MiB, byte for byte");
    // Longer than an idle session keeps its buffers.
    for _ in 0..2 {
        std::thread::sleep(std::time::Duration::from_millis(2500));
        client.say("NOOP").expect("250 ");
    }
    client.mail(FROM, &[TO], b"S: after\r\n\r\n");
    // Many small ones in one write, and all replies.
    let all: String = (0..40).map(|_| format!("MAIL FROM:<{FROM}>\r\nRSET\r\n")).collect();
    client.send(all);
    for _ in 0..40 {
        client.reply().expect("250 2.1.0");
        client.reply().expect("250 2.0.0");
    }
}

#[test]
fn mail_without_tls_is_refused_where_it_is_required() {
    let setup = Setup::start();
    let mut client = Client::hello(setup.at(2));
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("530 5.7.0");
    client.say("STARTTLS x").expect("501 5.5.4");
    client.say("STARTTLS").expect("220 ");
    client.handshake(&Arc::new(rules(BOTH)), HOST).expect("a handshake");
    let again = client.say("EHLO client.test");
    assert!(!again.0.contains("STARTTLS"), "{again:?}");
    client.say("STARTTLS").expect("503 5.5.1");
    client.mail(FROM, &[TO], b"S: x\r\n\r\n");
}

/// Commands that an attacker puts behind STARTTLS are never obeyed.
#[test]
fn row_04_commands_behind_starttls() {
    let setup = Setup::start();
    let evil = format!("MAIL FROM:<evil@evil.test>\r\nRCPT TO:<{TO}>\r\nDATA\r\nS: evil\r\n\r\n.\r\n");
    for injected in ["NOOP\r\n", "EHLO evil.test\r\n", &evil, "QUIT\r\n"] {
        let mut client = Client::hello(setup.at(0));
        client.send(format!("STARTTLS\r\n{injected}"));
        client.reply().expect("220 ");
        client.handshake(&Arc::new(rules(BOTH)), HOST).expect("a handshake");
        // Neither replies to what was injected nor anything that was known before.
        client.say(&format!("MAIL FROM:<{FROM}>")).expect("503 5.5.1");
        client.say("EHLO client.test").expect("250-");
        client.mail(FROM, &[TO], b"S: good\r\n\r\n");
    }
    // What comes in clear text after the reply is no TLS.
    let mut client = Client::hello(setup.at(0));
    client.say("STARTTLS").expect("220 ");
    client.send("NOOP\r\nNOOP\r\n");
    assert_eq!(read_all(&mut client).first(), Some(&21), "an alert");
    still_serves(&setup.server, &setup.hop);
    assert!(setup.hop.mails().iter().all(|m| !m.from.contains("evil")));
}

/// HTTP clients that are led here get nowhere, by their protocol or by their request.
#[test]
fn row_06_http_under_tls() {
    let setup = Setup::start();
    let mut http = rules(BOTH);
    http.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let error = Client::raw(setup.at(1)).handshake(&Arc::new(http), HOST).unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    for request in
        ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\n\r\nEHLO a\r\nMAIL FROM:<a@b>\r\n"]
    {
        let mut client = Client::raw(setup.at(1));
        client.handshake(&Arc::new(rules(BOTH)), HOST).expect("a handshake");
        client.reply().expect("220 ");
        client.send(request);
        client.reply().expect("554 5.5.1");
        client.expect_end();
    }
    assert_eq!(setup.server.metric("ringpost_tls_handshakes_failed_total", "reason=\"alpn\""), 1.0);
}

/// Split hellos, early ends, garbage, too much of anything: an alert or an end, and the server lives.
#[test]
fn row_32_hostile_handshakes() {
    let setup = Setup::start();
    let oversized = [&[22, 3, 1, 0xff, 0xff][..], &[0; 5000]].concat();
    let many_empty: Vec<u8> = [22, 3, 1, 0, 0].repeat(1000);
    for bytes in [
        &b"EHLO client.test\r\n"[..],
        b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x80; 600],
        &oversized,
        &many_empty,
    ] {
        let mut client = Client::raw(setup.at(1));
        client.try_send(bytes);
        let answer = read_all(&mut client);
        assert_eq!(answer.first(), Some(&21), "an alert and the end: {answer:?}");
    }
    // A hello of one byte in each segment is a hello.
    let mut client = Client::raw(setup.at(1));
    let mut tls = rustls::ClientConnection::new(
        Arc::new(rules(BOTH)),
        rustls::pki_types::ServerName::try_from(HOST).expect("a name"),
    )
    .expect("rules");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("a vector");
    for byte in &hello {
        client.stream.write_all(&[*byte]).expect("the server reads");
    }
    while tls.is_handshaking() {
        tls.complete_io(&mut client.stream).expect("a handshake");
    }
    client.tls = Some(Box::new(tls));
    client.reply().expect("220 ");
    // Garbage after the handshake.
    client
        .stream
        .write_all(&[23, 3, 3, 0, 32])
        .and_then(|()| client.stream.write_all(&[7; 32]))
        .expect("sent");
    assert!(client.tls.take().is_some());
    assert_eq!(read_all(&mut client).len(), 24, "one alert of TLS 1.3");
    // Half hellos and no more.
    for part in [0, 1, 5, hello.len() / 2] {
        let mut client = Client::raw(setup.at(1));
        client.send(&hello[..part]);
    }
    until("the half handshakes to end", || {
        (setup.server.metric("ringpost_tls_handshakes_failed_total", "reason=\"closed\"") == 4.0)
            .then_some(())
    });
    still_serves(&setup.server, &setup.hop);
}

/// A handshake that does not end is ended.
#[test]
fn row_15_slow_handshakes() {
    let setup = Setup::with(|config, _| config.set("timeouts", "tls", "\"1s\""));
    let mut silent = Client::raw(setup.at(1));
    assert!(read_all(&mut silent).is_empty(), "nothing is said in clear text");
    let mut half = Client::hello(setup.at(0));
    half.say("STARTTLS").expect("220 ");
    half.send([22, 3, 1, 2, 0, 1]);
    assert!(read_all(&mut half).is_empty());
    assert_eq!(setup.server.metric("ringpost_tls_handshakes_failed_total", "reason=\"timeout\""), 2.0);
    still_serves(&setup.server, &setup.hop);
}

#[test]
fn certificates_by_name_and_the_lowest_version() {
    let setup = Setup::with(|mut config, dir| {
        let customer = Pair::make(dir, "customer", "mail.customer.example");
        config.tail = format!(
            "minimum = \"1.3\"\n[[tls.sni]]\nnames = [\"mail.customer.example\", \"*.c.example\"]\n{}",
            customer.lines()
        );
        config
    });
    let rules13 = Arc::new(rules(BOTH));
    let shown = |host: &str| Client::implicit(setup.at(1), &rules13, host).shown();
    assert_eq!(shown("other.example"), setup.main.der);
    let customer = shown("Mail.Customer.example");
    assert_ne!(customer, setup.main.der);
    assert_eq!(shown("a.c.example"), customer);
    assert_eq!(shown("c.example"), setup.main.der);
    let old = Client::raw(setup.at(1)).handshake(&Arc::new(rules(TLS12)), HOST).unwrap_err();
    assert!(old.to_string().contains("ProtocolVersion"), "{old}");
    assert_eq!(setup.server.metric("ringpost_tls_handshakes_failed_total", "reason=\"version\""), 1.0);
}

/// A ticket of one core is good at the other.
#[test]
fn sessions_are_resumed_across_cores() {
    let setup = Setup::with(|config, _| config.set("cores", "mta", "2"));
    for (versions, label) in [(TLS12, "1.2"), (TLS13, "1.3")] {
        let rules = Arc::new(rules(versions));
        for n in 0..20 {
            let client = Client::implicit(setup.at(1), &rules, HOST);
            let kind = client.tls.as_ref().and_then(|tls| tls.handshake_kind()).expect("a handshake");
            assert_eq!(kind == rustls::HandshakeKind::Resumed, n > 0, "{label} {n}: {kind:?}");
        }
        let label = format!("version=\"{label}\"");
        assert_eq!(setup.server.metric("ringpost_tls_resumptions_total", &label), 19.0);
    }
    for core in ["core=\"0\"", "core=\"1\""] {
        assert!(setup.server.metric("ringpost_tls_handshakes_total", core) > 0.0, "{core} had its share");
    }
}

/// No session notices that the certificate is replaced; new ones see the new one.
#[test]
fn a_certificate_is_replaced_under_load() {
    let setup = Setup::with(|config, _| config.set("cores", "mta", "2"));
    let client_rules = Arc::new(rules(BOTH));
    let mut old = Client::secured(setup.at(0), &client_rules, HOST);
    assert_eq!(old.shown(), setup.main.der);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (address, client_rules) = (setup.at(1), &client_rules);
    let next = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = Client::implicit(address, client_rules, HOST);
                    for _ in 0..3 {
                        client.mail(FROM, &[TO], b"S: load\r\n\r\n");
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    client.say("QUIT").expect("221 ");
                }
            });
        }
        until("some load", || (sent.load(Ordering::Relaxed) > 20).then_some(()));
        let next = Pair::make(setup.dir.path(), "main", HOST);
        assert_ne!(next.der, setup.main.der);
        until("the new certificate", || {
            let client = Client::implicit(address, client_rules, HOST);
            (client.shown() == next.der).then_some(())
        });
        let before = sent.load(Ordering::Relaxed);
        until("load under the new one", || (sent.load(Ordering::Relaxed) > before + 20).then_some(()));
        stop.store(true, Ordering::Relaxed);
        next
    });
    setup.server.event_with("certificate", "new certificates are in use");
    // The session from before goes on.
    old.mail(FROM, &[TO], b"S: old\r\n\r\n");
    assert_eq!(old.shown(), setup.main.der);
    let (_, body) = setup.arrived("old");
    assert_eq!(body, b"S: old\r\n\r\n");
    // One that cannot be used changes nothing but is told.
    std::fs::write(&setup.main.key, "-----BEGIN PRIVATE KEY-----\nAAAA\n").expect("a file");
    let told = setup.server.event_with("certificate", "the old ones stay in use");
    assert!(told.contains("main.key") && told.contains("tls.key") && !told.contains("AAAA"), "{told}");
    assert_eq!(setup.server.metric("ringpost_tls_reload_failed", ""), 1.0);
    assert_eq!(Client::implicit(address, client_rules, HOST).shown(), next.der);
}

/// The load source speaks TLS, too.
#[test]
fn load_under_tls() {
    let setup = Setup::start();
    for (kind, to) in [("starttls", setup.at(0)), ("implicit", setup.at(1))] {
        let to = to.to_string();
        let words = ["load", "smtp", "--json", "--to", &to, "--tls", kind, "--tls-resume", "--size", "40KiB"];
        let more = ["--messages", "30", "--connections", "3", "--messages-per-connection", "2"];
        let command = std::process::Command::new(PROGRAM).args(words).args(more).output();
        let report = command.expect("the program runs").stdout;
        let report: serde_json::Value = serde_json::from_slice(&report).expect("a report");
        assert_eq!((&report["acknowledged"], &report["failed"]), (&30.into(), &0.into()), "{kind}: {report}");
    }
    assert!(setup.server.metric("ringpost_tls_resumptions_total", "version=\"1.3\"") > 0.0);
}

#[test]
fn check_names_file_and_remedy() {
    let dir = crate::harness::server::directory();
    let (a, b) = (Pair::make(dir.path(), "a", HOST), Pair::make(dir.path(), "b", "other.example"));
    let head = format!("[server]\nhostname = \"{HOST}\"\n[relay]\nsmarthost = \"192.0.2.1\"\n[tls]\n");
    let check = |tls: String| run_once(&["check"], &format!("{head}{tls}"));
    let (code, said, _) = check(a.lines());
    assert_eq!(code, Some(0), "{said}");
    let (code, said, _) = check(b.lines());
    assert!(
        code == Some(0) && said.contains("warning: tls.certificate: the certificate is not for"),
        "{said}"
    );
    let (code, said, _) = check(format!("certificate = {:?}\nkey = {:?}\n", a.certificate, b.key));
    assert_eq!(code, Some(78));
    assert!(said.contains("b.key: error: tls.key: the key does not belong to the certificate"), "{said}");
    let (code, said, _) = check(format!("certificate = {:?}\nkey = \"/nowhere/k\"\n", a.certificate));
    assert!(code == Some(78) && said.contains("/nowhere/k: error: tls.key: cannot be read"), "{said}");
}

/// As root, with a user to become: what only root can read is an error.
#[test]
fn check_reads_as_the_user_of_the_server() {
    use std::os::unix::fs::PermissionsExt;
    let dir = crate::harness::server::directory();
    let pair = Pair::make(dir.path(), "a", HOST);
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our own file");
    };
    let text = format!(
        "[server]\nhostname = \"{HOST}\"\nuser = \"nobody\"\n[relay]\nsmarthost = \"192.0.2.1\"\n[tls]\n{}",
        pair.lines()
    );
    mode(dir.path(), 0o755);
    mode(&pair.key, 0o644);
    let (code, said, _) = run_once(&["check"], &text);
    assert_eq!(code, Some(0), "{said}");
    mode(&pair.key, 0o600);
    let (code, said, _) = run_once(&["check"], &text);
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if is_root {
        assert!(code == Some(78) && said.contains("server.user") && said.contains("a.key"), "{said}");
    } else {
        assert_eq!(code, Some(0), "its owner reads it: {said}");
    }
}
