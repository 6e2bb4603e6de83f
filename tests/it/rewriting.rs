//! Addresses rewritten by expressions, and lists that aliases include.

#![allow(clippy::disallowed_methods, reason = "the test writes maps")]

use crate::harness::server::directory;
use crate::harness::{Config, Hop, Server};
use std::path::Path;
use std::sync::Arc;

const BODY: &[u8] = b"From: a@inside.test\r\nS: x\r\n\r\nhello\r\n";

fn file(dir: &Path, name: &str, text: &str) -> String {
    std::fs::write(dir.join(name), text).expect("a file");
    format!("\"{}\"", dir.join(name).display())
}

fn config(hop: &Hop, dir: &Path) -> Config {
    let senders = file(dir, "senders", "/^(.*)@inside\\.test$/ $1@outside.test\n/^broken@/ nobody\n");
    let recipients = file(
        dir,
        "recipients",
        "/^(.*)@old\\.test$/ $1@here.test\n/^abroad@here\\.test$/ a@next.test\n/^broken@/ nobody\n",
    );
    std::fs::write(dir.join("list"), "one@next.test\ntwo@next.test, three@next.test\n").expect("a file");
    let aliases = file(dir, "aliases", &format!("all: :include:{}\n", dir.join("list").display()));
    Config::new(hop.address)
        .set("domains", "local", "[\"here.test\"]")
        .set("domains", "relay", "[\"old.test\"]")
        .set("domains", "postmaster", "\"p@next.test\"")
        .set("domains", "aliases", aliases)
        .set("domains", "rewrite_senders", senders)
        .set("domains", "rewrite_recipients", recipients)
}

#[test]
fn senders_and_recipients() {
    let (hop, dir) = (Hop::start(), Arc::new(directory()));
    let server = Server::start_in(dir.clone(), &config(&hop, dir.path()));
    server.client().mail("Ann@Inside.test", &["all@OLD.test", "x@next.test"], BODY);
    let mail = &hop.wait(1)[0];
    assert!(mail.from.starts_with("<Ann@outside.test>"), "{}", mail.from);
    assert_eq!(mail.to, ["<one@next.test>", "<two@next.test>", "<three@next.test>", "<x@next.test>"]);
    assert_eq!(mail.split().1, BODY, "the message stays as it is, its header too");
    server.client().mail("", &["abroad@here.test"], BODY);
    let mails = hop.wait(2);
    assert!(mails[1].from.starts_with("<>"), "{}", mails[1].from);
    assert_eq!(mails[1].to, ["<a@next.test>"]);
    let mut client = server.client();
    client.say("MAIL FROM:<broken@x.test>").expect("451 4.3.5");
    client.say("MAIL FROM:<ok@x.test>").expect("250 ");
    client.say("RCPT TO:<broken@here.test>").expect("451 4.3.5");
    let said = server.run(&["explain", "route", "all@old.test"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("rewritten     all@here.test, line 1 of domains.rewrite_recipients"), "{said}");
    assert!(said.contains("stands for    three@next.test"), "{said}");
}

#[test]
fn a_foreign_domain_stays_refused_for_strangers() {
    let (hop, dir) = (Hop::start(), Arc::new(directory()));
    let rules = file(
        dir.path(),
        "recipients",
        "/^(.*)@foreign\\.test$/ $1@next.test\n/@relay\\.test$/ r@next.test\n",
    );
    let config = Config::new(hop.address)
        .set("relay", "networks", "[]")
        .set("domains", "relay", "[\"relay.test\"]")
        .set("domains", "postmaster", "\"p@next.test\"")
        .set("domains", "rewrite_recipients", rules);
    let server = Server::start_in(dir, &config);
    let mut client = server.client();
    client.say("MAIL FROM:<a@b.test>").expect("250 ");
    client.say("RCPT TO:<x@foreign.test>").expect("554 5.7.1");
    client.say("RCPT TO:<x%foreign.test@next.test>").expect("554 5.7.1");
    client.say("RCPT TO:<x@relay.test>").expect("250 ");
}
