//! What operators meet: checks, start, stop, reload, metrics, and who may send what.

#![allow(clippy::disallowed_methods, reason = "operators edit files and hold ports")]

use crate::harness::server::{directory, run_once};
use crate::harness::{Client, Config, Hop, Server, http, until};
use std::process::Command;
use std::sync::Arc;

const FROM: &str = "a@client.test";
const TO: &str = "b@next.test";

/// Starts a server that must not start; exit code and what it said.
fn fails(config: &Config) -> (Option<i32>, String) {
    let dir = directory();
    let (code, said, _) = run_once(&["serve"], &config.text(dir.path()));
    (code, said)
}

fn good() -> Config {
    Config::new(Hop::later())
}

#[test]
fn check_says_file_line_and_what_is_meant() {
    let dir = directory();
    let (code, said, file) = run_once(&["check"], &good().text(dir.path()));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("is good: errors 0"), "{said}");
    let text = "[server]\nhostname = \"mx.test.example\"\n\n[relay]\nsmarthots = \"127.0.0.1:25\"\n";
    let (code, said, file2) = run_once(&["check"], text);
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains(&format!("{}:5:1: error: relay.smarthots: unknown key", file2.display())),
        "{said}"
    );
    assert!(said.contains("is \"smarthost\" meant?") && file != file2, "{said}");
    // The server refuses the same file with the same words.
    let (code, said, _) = run_once(&["serve"], text);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains(":5:1: error: relay.smarthots: unknown key"), "{said}");
    let (code, said, _) = run_once(&["check", "--json"], "[server]\nhostname = 5\n");
    assert_eq!(code, Some(78));
    let object: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&object["usable"], &object["problems"][0]["line"]), (&false.into(), &2.into()), "{said}");
    let out = Command::new(crate::harness::server::PROGRAM).args(["check", "-c", "/nowhere.toml"]).output();
    assert_eq!(out.unwrap().status.code(), Some(78));
}

#[test]
fn check_reads_the_maps() {
    let dir = directory();
    let map = dir.path().join("aliases");
    std::fs::write(&map, "good someone@next.test\nbad\n").unwrap();
    let config = good().set("domains", "local", "[\"here.test\"]").set(
        "domains",
        "aliases",
        format!("\"{}\"", map.display()),
    );
    let (code, said, _) = run_once(&["check"], &config.text(dir.path()));
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains(&format!("{}:2:1: error: ", map.display())), "{said}");
}

#[test]
fn ports_taken_are_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut config = good();
    config.tail = format!("[[listener]]\nprotocol = \"smtp\"\naddress = \"{address}\"\n");
    let (code, said) = fails(&config);
    assert_eq!(code, Some(71), "{said}");
    assert!(said.contains(&address.to_string()) && said.contains("port is taken"), "{said}");
    let (code, said) = fails(&good().set("metrics", "address", format!("\"{address}\"")));
    assert_eq!(code, Some(71), "{said}");
    assert!(said.contains("metrics.address") && said.contains(&address.to_string()), "{said}");
    // Another server's port is as taken as any.
    let server = Server::start(&good());
    config.tail = format!("[[listener]]\nprotocol = \"smtp\"\naddress = \"{}\"\n", server.smtp);
    let (code, said) = fails(&config);
    assert_eq!(code, Some(71), "{said}");
}

#[test]
fn a_data_directory_has_one_server() {
    let hop = Hop::start();
    let config = Config::new(hop.address);
    let server = Server::start(&config);
    let text = config.text(server.dir().path());
    let (code, said, _) = run_once(&["serve"], &text);
    assert_eq!(code, Some(75), "{said}");
    assert!(said.contains(&format!("pid {}", server.pid())), "{said}");
    crate::hostile::still_serves(&server, &hop);
}

#[test]
fn memory_file_systems_need_to_be_allowed() {
    if !std::path::Path::new("/dev/shm").is_dir() {
        return eprintln!("skipped: no /dev/shm here");
    }
    let dir = tempfile::Builder::new().prefix("ringpost-it-").tempdir_in("/dev/shm").unwrap();
    let config = good().set("storage", "durability", "\"full\"");
    let (code, said, _) = run_once(&["serve"], &config.text(dir.path()));
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("durability"), "{said}");
}

#[test]
fn sigterm_finishes_a_message_in_hand() {
    let hop = Hop::start();
    for signal in ["TERM", "INT"] {
        let n = hop.mails().len();
        let mut server = Server::relay_to(hop.address);
        let mut idle = server.client();
        let mut client = server.client();
        client.envelope(FROM, &[TO]);
        client.say("DATA").expect("354 ");
        client.send(b"S: x\r\n\r\nhalf");
        server.signal(signal);
        server.event("stopping");
        idle.reply().expect("421 4.3.2");
        idle.expect_end();
        // While it stops it is not ready, and says so.
        let (status, why) = server.page("/readyz");
        assert_eq!((status, why.contains("stopping")), (503, true), "{why}");
        client.send(b" and half\r\n.\r\n");
        let id = client.reply().id();
        assert!(client.until_end().iter().all(|r| r.0.starts_with("421 4.3.2")));
        assert_eq!(server.exit(), Some(0), "{signal}");
        server.event("stopped");
        // It is delivered before the end, or kept.
        let dir = server.dir();
        drop(server);
        let server = Server::start_in(dir, &Config::new(hop.address));
        server.queue(&["flush", "--all"]);
        let mails = hop.wait(n + 1);
        assert!(mails[n].split().0.contains(&id) && mails[n].split().1.ends_with(b"half and half\r\n"));
        server.drained();
        assert_eq!(hop.mails().len(), n + 1, "once");
    }
}

#[test]
fn a_message_that_does_not_end_ends_with_the_grace_time() {
    let hop = Hop::start();
    let mut server = Server::start(&Config::new(hop.address).set("server", "stop_grace", "\"1s\""));
    let mut client = server.client();
    client.envelope(FROM, &[TO]);
    client.say("DATA").expect("354 ");
    client.send(b"S: x\r\n\r\nhalf");
    server.signal("TERM");
    assert_eq!(server.exit(), Some(0));
    assert!(client.until_end().iter().all(|r| r.code() == 421));
    assert!(hop.mails().is_empty());
}

#[test]
fn a_second_stop_ends_at_once() {
    let hop = Hop::start();
    let config = Config::new(hop.address).set("server", "stop_grace", "\"1h\"");
    let mut server = Server::start(&config);
    let kept = server.client();
    let mut client = server.client();
    let id = client.mail(FROM, &[TO], b"S: x\r\n\r\n");
    client.envelope(FROM, &[TO]);
    client.say("DATA").expect("354 ");
    server.signal("TERM");
    server.event("stopping");
    server.signal("TERM");
    assert_eq!(server.exit(), Some(75));
    assert!(server.lines().iter().any(|l| l.contains("second time")), "{:?}", server.lines());
    drop(kept);
    let dir = server.dir();
    let server = Server::start_in(dir, &config);
    server.flushed();
    assert!(hop.mails().iter().any(|m| m.split().0.contains(&id)));
}

/// With nobody to deliver to, a stop does not wait for anything.
#[test]
fn a_stop_with_mail_that_waits() {
    let server = Server::start(&good().set("server", "stop_grace", "\"1h\""));
    let id = server.client().mail(FROM, &[TO], b"S: x\r\n\r\n");
    server.listed(&id, |m| m["queue_name"] == "deferred");
    server.stop();
}

#[test]
fn aliases_postmaster_and_reload() {
    let hop = Hop::start();
    let dir = Arc::new(directory());
    let map = dir.path().join("aliases");
    std::fs::write(&map, "info one@next.test\n").unwrap();
    let config = Config::new(hop.address)
        .set("domains", "local", "[\"here.test\"]")
        .set("domains", "aliases", format!("\"{}\"", map.display()))
        .set("domains", "postmaster", "\"boss@next.test\"");
    let server = Server::start_in(dir, &config);
    let mut client = server.client();
    let mut verdict = |to: &str| {
        client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
        let reply = client.say(&format!("RCPT TO:<{to}>"));
        client.say("RSET").expect("250 ");
        reply
    };
    verdict("nobody@here.test").expect("550 5.1.1");
    verdict("news@here.test").expect("550 5.1.1");
    server.client().mail(FROM, &["Info@Here.Test"], b"S: info\r\n\r\n");
    assert_eq!(hop.wait(1)[0].to, ["<one@next.test>"]);
    for (n, to) in ["postmaster@here.test", "Postmaster", "postmaster@mx.test.example"].iter().enumerate() {
        server.client().mail(FROM, &[to], b"S: pm\r\n\r\n");
        assert_eq!(hop.wait(n + 2)[n + 1].to, ["<boss@next.test>"], "{to}");
    }
    // A change is taken without a signal.
    std::fs::write(&map, "info one@next.test\nnews two@next.test, three@next.test\n").unwrap();
    server.event_with("reload", "new maps are in use");
    verdict("news@here.test").expect("250 2.1.5");
    // A slip keeps the old map, and says where it is.
    std::fs::write(&map, "info one@next.test\nnews\n").unwrap();
    let said = server.event_with("reload", "the old ones stay in use");
    assert!(said.contains("aliases:2"), "{said}");
    verdict("news@here.test").expect("250 2.1.5");
    verdict("info@here.test").expect("250 2.1.5");
    std::fs::write(&map, "news two@next.test\n").unwrap();
    server.signal("HUP");
    server.event_with("reload", "are up to date");
    until("the new map", || (verdict("info@here.test").code() == 550).then_some(()));
}

/// A map that is taken away, or replaced by something that is none: mail goes on as it did.
#[test]
fn a_map_that_disappears_and_comes_back() {
    let hop = Hop::start();
    let dir = Arc::new(directory());
    let map = dir.path().join("aliases");
    let write = |text: &[u8]| std::fs::write(&map, text).unwrap();
    write(b"info one@next.test\n");
    let config = Config::new(hop.address).set("domains", "local", "[\"here.test\"]").set(
        "domains",
        "aliases",
        format!("\"{}\"", map.display()),
    );
    let server = Server::start_in(dir.clone(), &config);
    let goes = |n: usize, to: &str| {
        server.client().mail(FROM, &["info@here.test"], b"S: info\r\n\r\n");
        assert_eq!(hop.wait(n)[n - 1].to, [to]);
    };
    goes(1, "<one@next.test>");
    let remove = || std::fs::remove_file(&map).unwrap();
    remove();
    server.event_with("reload", "No such file");
    goes(2, "<one@next.test>");
    // Whoever opens it waits for a writer, for ever.
    assert!(Command::new("mkfifo").arg(&map).status().unwrap().success());
    server.event_with("reload", "not a regular file");
    goes(3, "<one@next.test>");
    remove();
    write(&(0..=255).rev().collect::<Vec<u8>>());
    server.event_with("reload", "aliases:1");
    goes(4, "<one@next.test>");
    write(b"info two@next.test\n");
    server.event_with("reload", "new maps are in use");
    until("the new map", || {
        server.client().mail(FROM, &["info@here.test"], b"S: info\r\n\r\n");
        server.drained();
        hop.mails().last().is_some_and(|m| m.to == ["<two@next.test>"]).then_some(())
    });
}

#[test]
fn strangers_may_not_relay() {
    let hop = Hop::start();
    let config = Config::new(hop.address).set("relay", "networks", "[]").set(
        "domains",
        "relay",
        "[\"customer.test\"]",
    );
    let server = Server::start(&config);
    let mut client = server.client();
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    client.say("RCPT TO:<x@else.test>").expect("554 5.7.1 Relay access denied");
    client.say("RCPT TO:<x@customer.test>").expect("250 2.1.5");
    client.data(b"S: x\r\n\r\n.\r\n").id();
    assert_eq!(hop.one().to, ["<x@customer.test>"]);
    assert_eq!(server.metric("ringpost_rejections_total", "reason=\"relay\""), 1.0);
}

#[test]
fn without_a_route_or_a_domain_mail_is_refused() {
    let hop = Hop::start();
    let mut config = Config::new(hop.address).set("relay", "smarthost", "\"\"");
    config.tail = format!("[[route]]\ndomain = \".near.test\"\nnext_hop = \"{}\"\n", hop.address);
    let server = Server::start(&config);
    let mut client = server.client();
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    // No name of a domain ends in a number: no name server need be asked.
    client.say("RCPT TO:<x@far.192>").expect("550 5.4.4");
    client.say("RCPT TO:<x@sub.near.test>").expect("250 2.1.5");
    client.data(b"S: x\r\n\r\n.\r\n").id();
    hop.one();
    assert_eq!(server.metric("ringpost_rejections_total", "reason=\"no_route\""), 1.0);
}

#[test]
fn metrics_health_and_readiness() {
    let hop = Hop::start();
    let server = Server::start(&Config::new(hop.address).set("cores", "mta", "2"));
    assert_eq!(server.page("/healthz"), (200, "ok\n".into()));
    assert_eq!(server.page("/readyz"), (200, "ready\n".into()));
    assert_eq!(server.page("/nothing").0, 404);
    // Every series is there from the start, as zero, for every core.
    let text = server.page("/metrics").1;
    for (name, kind, labels, _) in ringpost::metrics::TABLE {
        let kinds = format!("# TYPE {name} {}\n", kind.to_ascii_lowercase());
        assert!(text.contains(&kinds), "{kinds}");
        let name = if *kind == "Histogram" { format!("{name}_count") } else { (*name).to_owned() };
        for core in ["core=\"0\"", "core=\"1\""] {
            let fits = |l: &&str| {
                l.starts_with(&format!("{name}{{"))
                    && l.contains(core)
                    && labels.iter().all(|(k, v)| l.contains(&format!("{k}=\"{v}\"")))
            };
            let line = text.lines().find(fits).unwrap_or_else(|| panic!("{name} {labels:?} {core}\n{text}"));
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
        }
    }
    assert_eq!(server.metric("ringpost_messages_received_total", ""), 0.0);
    for (name, ..) in ringpost::metrics::PROCESS {
        // One for each certificate, and there are none.
        if *name == "ringpost_tls_certificate_expiry_seconds" {
            assert!(text.contains(&format!("# TYPE {name} gauge\n")));
        } else {
            server.metric(name, "");
        }
    }
    assert_eq!(server.metric("ringpost_ready", ""), 1.0);
    server.client().mail(FROM, &[TO], b"S: x\r\n\r\n");
    hop.one();
    server.drained();
    assert_eq!(server.metric("ringpost_messages_received_total", ""), 1.0);
    assert_eq!(server.metric("ringpost_deliveries_total", "result=\"delivered\""), 1.0);
    assert_eq!(server.metric("ringpost_delivery_seconds_count", ""), 1.0);
    assert!(server.metric("ringpost_commits_total", "") >= 1.0);
    assert!(server.metric("ringpost_smtp_replies_total", "class=\"2xx\"") >= 4.0);
    assert_eq!(server.metric("ringpost_acked_unsynced_total", ""), 0.0);
    let at = server.metrics;
    server.stop();
    assert!(http::get(at, "/healthz").is_none());
}

#[test]
fn the_session_limit_holds_for_all_addresses_together() {
    let hop = Hop::start();
    let server = Server::start(&Config::new(hop.address).set("limits", "sessions", "5"));
    let open: Vec<Client> = (0..5).map(|_| server.client()).collect();
    let mut more = Client::raw(server.smtp);
    more.reply().expect("421 4.7.0");
    more.expect_end();
    drop(open);
    until("a place", || (Client::raw(server.smtp).reply().code() == 220).then_some(()));
}
