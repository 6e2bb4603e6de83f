//! Mail for our own users: from RCPT into the mailbox, over kills and restarts.

#![allow(clippy::disallowed_methods, reason = "tests write files of users")]

use crate::harness::client::stuffed;
use crate::harness::dns::NameServer;
use crate::harness::{Client, Config, Hop, Server, server, until};
use ringpost::mailbox::api::{Mailboxes, Reader, Selected};
use ringpost::mailbox::spread;
use ringpost::mailbox::store::opening::Parts;
use ringpost::mailbox::store::{Options, Store};
use ringpost::runtime::uring::{self, Uring};
use ringpost::storage::{self, Poison};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const FROM: &str = "sender@client.test";

/// A server with the local domain `here.test`, whose users are ann, bob and `eve@here.test`.
struct Site {
    dir: Arc<tempfile::TempDir>,
    config: Config,
    _hop: Hop,
}

impl Site {
    fn new() -> Site {
        let hop = Hop::start();
        let dir = Arc::new(server::directory());
        let users = dir.path().join("users");
        std::fs::write(&users, "ann:{PLAIN}x\nbob:{PLAIN}x\neve@here.test:{PLAIN}x\n").expect("a file");
        let config = Config::new(hop.address)
            .set("domains", "local", "[\"here.test\"]")
            .set("domains", "postmaster", "\"ann@here.test\"")
            .set("auth", "users", format!("\"{}\"", users.display()))
            .set("cores", "access", "2")
            .set("cores", "shards", "2");
        Site { dir, config, _hop: hop }
    }

    fn set(mut self, section: &'static str, key: &'static str, value: &str) -> Site {
        self.config = self.config.set(section, key, value);
        self
    }

    #[track_caller]
    fn start(&self) -> Server {
        Server::start_in(self.dir.clone(), &self.config)
    }

    /// What is in a mailbox of a server that does not run: UID and content of each message.
    fn mailbox(&self, account: &str, mailbox: &str) -> Vec<(u32, String)> {
        let shard = spread::shard_of(account, 2);
        let dir = spread::directory(&self.dir.path().join("data"), shard);
        let (account, mailbox) = (account.to_owned(), mailbox.to_owned());
        let read = async move |rt: Uring| read(&rt, &dir, &account, &mailbox).await;
        uring::run(&uring::Options::small(), read).expect("a ring")
    }
}

async fn read(rt: &Uring, dir: &Path, account: &str, mailbox: &str) -> Vec<(u32, String)> {
    let storage = storage::Options::production(1 << 20);
    let parts = Parts { rt: rt.clone(), storage, poison: Poison::new(), options: Options::default() };
    let (store, found) = Store::open(dir, parts).await.expect("a shard");
    assert_eq!((found.journal.damage_count, found.malformed.len(), found.rebuilt), (0, 0, None));
    let mut all = Vec::new();
    if let Some(account) = store.account(account).await {
        let open = store.select(account, mailbox).await.expect("a mailbox");
        for uid in (1..=open.exists()).filter_map(|seq| open.message(seq)).map(|m| m.uid) {
            let mut reader = open.read(uid, 0..u64::MAX).await.expect("a message");
            let mut bytes = Vec::new();
            while let Some(piece) = reader.next().await.expect("a piece") {
                bytes.extend_from_slice(&piece);
            }
            all.push((uid, String::from_utf8(bytes).expect("text")));
        }
    }
    store.close().await;
    all
}

fn body(text: &str) -> String {
    format!("From: {FROM}\r\nSubject: {text}\r\n\r\n{text}\r\n")
}

#[test]
fn mail_is_in_the_mailbox_as_it_was_sent() {
    let site = Site::new();
    let server = site.start();
    let mut client = server.client();
    let dots = "Subject: dots\r\n\r\n.\r\n..a\r\n\r\n.\r\n";
    let id = client.mail(FROM, &["Ann@Here.Test"], dots.as_bytes());
    server.drained();
    server.stop();
    let mail = site.mailbox("ann", "INBOX");
    assert_eq!(mail.len(), 1);
    let (uid, text) = &mail[0];
    assert_eq!(*uid, 1);
    let head = format!("Return-Path: <{FROM}>\r\nDelivered-To: Ann@Here.Test\r\nReceived: from client.test ");
    assert!(text.starts_with(&head), "{text}");
    assert!(text.contains(&format!(" id {id}\r\n")) && text.ends_with(&format!("\r\n{dots}")), "{text}");
}

/// Who lives in one shard gets it at once; mail for several shards, and what must be reported, is queued.
#[test]
fn mail_for_one_shard_is_not_queued() {
    let site = Site::new();
    let together = ["ann", "bob", "eve@here.test"].map(|a| (spread::shard_of(a, 2), a));
    let apart = together.iter().find(|(shard, _)| *shard != together[0].0).map(|(_, a)| *a);
    let server = site.start();
    let direct = || server.metric("ringpost_direct_deliveries_total", "");
    let mut client = server.client();
    client.mail(FROM, &["ann@here.test", "ann+x@here.test"], body("one").as_bytes());
    assert_eq!((direct(), server.metric("ringpost_messages_received_total", "")), (2.0, 1.0));
    let other = apart.map(|a| format!("{}@here.test", a.trim_end_matches("@here.test")));
    if let Some(other) = &other {
        client.mail(FROM, &["ann@here.test", other], body("two").as_bytes());
    }
    client.mail(FROM, &["ann@here.test> NOTIFY=SUCCESS"], body("three").as_bytes());
    assert_eq!(direct(), 2.0, "the queue has these");
    server.drained();
    server.stop();
    let expected = 3 + usize::from(other.is_some());
    assert_eq!(site.mailbox("ann", "INBOX").len(), expected);
}

#[test]
fn extensions_name_folders_and_logins_may_hold_the_domain() {
    let site = Site::new();
    let server = site.start();
    let mut client = server.client();
    let to = ["bob+Sent@here.test", "bob+nothing@here.test", "eve@here.test", "postmaster@here.test"];
    client.mail(FROM, &to, body("x").as_bytes());
    server.drained();
    server.stop();
    let count = |account: &str, mailbox: &str| site.mailbox(account, mailbox).len();
    assert_eq!((count("bob", "Sent"), count("bob", "INBOX"), count("bob", "Trash")), (1, 1, 0));
    assert_eq!((count("eve@here.test", "INBOX"), count("ann", "INBOX")), (1, 1));
}

#[test]
fn unknown_users_are_refused_and_known_ones_appear_with_their_file() {
    let site = Site::new();
    let server = site.start();
    let mut client = server.client();
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    for nobody in ["carl@here.test", "eve@else.here.test", "+ann@here.test"] {
        let reply = client.say(&format!("RCPT TO:<{nobody}>"));
        assert!(nobody.contains("else") || reply.code() == 550, "{nobody}: {reply:?}");
    }
    let users = site.dir.path().join("users");
    std::fs::write(&users, "ann:{PLAIN}x\ncarl:{PLAIN}x\n").expect("a file");
    until("the new user", || (client.say("RCPT TO:<carl@here.test>").code() == 250).then_some(()));
    client.say("RCPT TO:<bob@here.test>").expect("550 5.1.1");
    client.data(stuffed(body("x").as_bytes())).id();
    server.drained();
    server.stop();
    assert_eq!(site.mailbox("carl", "INBOX").len(), 1);
}

#[test]
fn a_full_account_is_refused_by_the_size_that_is_declared() {
    let site = Site::new().set("mailbox", "quota", "\"20KiB\"");
    let server = site.start();
    let mut client = server.client();
    client.say(&format!("MAIL FROM:<{FROM}> SIZE=30000")).expect("250 ");
    client.say("RCPT TO:<ann@here.test>").expect("552 5.2.2");
    client.say("RSET").expect("250 ");
    // A passed RCPT is honoured, however large the message is then.
    let large = body(&"x".repeat(900).as_str().repeat(40));
    client.mail(FROM, &["ann@here.test"], large.as_bytes());
    server.drained();
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    client.say("RCPT TO:<ann@here.test>").expect("552 5.2.2");
    client.say("RCPT TO:<bob@here.test>").expect("250 ");
    assert!(server.metric("ringpost_rejections_total", "reason=\"quota\"") >= 2.0);
    server.stop();
    assert_eq!(site.mailbox("ann", "INBOX").len(), 1);

    // The other way to say it; and the quota is the one that is configured now.
    let site = Site { config: site.config.clone().set("mailbox", "over_quota", "\"defer\""), ..site };
    let server = site.start();
    let mut client = server.client();
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    client.say("RCPT TO:<ann@here.test>").expect("452 4.2.2");
    server.stop();
    let site = site.set("mailbox", "quota", "\"1MiB\"");
    let server = site.start();
    server.client().mail(FROM, &["ann@here.test"], body("x").as_bytes());
    server.drained();
    server.stop();
    assert_eq!(site.mailbox("ann", "INBOX").len(), 2);
}

#[test]
fn large_mail_goes_from_side_file_to_side_file() {
    let site = Site::new();
    let server = site.start();
    let line = "0123456789.".repeat(7) + "\r\n.\r\n";
    let large = body(&line.repeat((5 << 20) / line.len()));
    server.client().mail(FROM, &["ann@here.test", "bob@here.test"], large.as_bytes());
    server.drained();
    server.stop();
    for account in ["ann", "bob"] {
        let mail = site.mailbox(account, "INBOX");
        assert!(mail.len() == 1 && mail[0].1.ends_with(&large), "{account}: {}", mail.len());
    }
}

#[test]
fn mail_that_runs_in_a_circle_comes_back() {
    let site = Site::new();
    let server = site.start();
    let text = format!("Delivered-To: ann@here.test\r\n{}", body("x"));
    server.client().mail("bob@here.test", &["ann@here.test"], text.as_bytes());
    server.drained();
    server.stop();
    assert_eq!(site.mailbox("ann", "INBOX"), []);
    let report = site.mailbox("bob", "INBOX");
    assert!(report.len() == 1 && report[0].1.contains("5.4.6"), "{report:?}");
    assert!(report[0].1.starts_with("Return-Path: <>\r\n"), "{report:?}");
}

#[test]
fn the_number_of_shards_is_fixed() {
    let site = Site::new();
    site.start().stop();
    let config = site.config.clone().set("cores", "shards", "3");
    let file = site.dir.path().join("other.toml");
    std::fs::write(&file, config.text(site.dir.path())).expect("a file");
    let out = std::process::Command::new(server::PROGRAM).args(["serve", "-c"]).arg(&file).output();
    let out = out.expect("the program runs");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(78) && text.contains("reshard"), "{text}");
    // As many access cores as one likes.
    let site = site.set("cores", "access", "1");
    let server = site.start();
    server.client().mail(FROM, &["ann@here.test", "bob@here.test"], body("x").as_bytes());
    server.drained();
    server.stop();
}

/// Says a whole transaction; `None`: the server has gone.
fn try_mail(client: &mut Client, to: &str, body: &str) -> Option<bool> {
    for line in [format!("MAIL FROM:<{FROM}>"), format!("RCPT TO:<{to}>"), "DATA".to_owned()] {
        let said = client.try_send(format!("{line}\r\n"));
        let reply = said.then(|| client.try_reply()).flatten()?;
        if reply.code() >= 400 {
            return Some(false);
        }
    }
    let said = client.try_send(stuffed(body.as_bytes()));
    Some(said.then(|| client.try_reply()).flatten()?.code() == 250)
}

/// Sends until the server has gone; what was begun, and what was acknowledged, in order.
fn send_on(address: SocketAddr, name: &str, acked: &AtomicU64) -> (Vec<String>, Vec<String>) {
    let (mut begun, mut known) = (Vec::new(), Vec::new());
    let mut client = Client::hello(address);
    for n in 0.. {
        let text = format!("{name}-{n}");
        begun.push(text.clone());
        match try_mail(&mut client, &format!("{}@here.test", &name[..3]), &body(&text)) {
            None => break,
            Some(false) => {}
            Some(true) => {
                known.push(text);
                acked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    (begun, known)
}

fn subject(text: &str) -> String {
    text.split("Subject: ").nth(1).and_then(|t| t.split("\r\n").next()).unwrap_or("none").to_owned()
}

/// Killed again and again under load: what was acknowledged is there once, under the UID that it had.
#[test]
fn nothing_is_lost_or_doubled_by_kill_9() {
    let site = Site::new();
    let (mut begun, mut known) = (Vec::new(), Vec::new());
    let mut before: BTreeMap<(&str, u32), String> = BTreeMap::new();
    for round in 0..4 {
        let server = site.start();
        let acked = AtomicU64::new(0);
        let sent = std::thread::scope(|scope| {
            let names = ["ann", "bob", "ann", "bob"];
            let threads = names.iter().enumerate().map(|(n, name)| {
                let name = format!("{name}-{round}-{n}");
                let (address, acked) = (server.smtp, &acked);
                scope.spawn(move || send_on(address, &name, acked))
            });
            let threads: Vec<_> = threads.collect();
            until("some mail to be taken", || (acked.load(Ordering::Relaxed) >= 150).then_some(()));
            server.kill();
            threads.into_iter().map(|t| t.join().expect("no panic")).collect::<Vec<_>>()
        });
        for (some, of_them) in sent {
            begun.extend(some);
            known.extend(of_them);
        }
        if round == 3 {
            // What was still queued is delivered now.
            let server = site.start();
            server.drained();
            server.stop();
        }
        for account in ["ann", "bob"] {
            let mut now = BTreeMap::new();
            for (uid, text) in site.mailbox(account, "INBOX") {
                now.insert((account, uid), subject(&text));
            }
            let old = before.iter().filter(|((a, _), _)| *a == account);
            old.for_each(|(key, text)| assert_eq!(now.get(key), Some(text), "{key:?}"));
            before.extend(now);
        }
    }
    let mut count: BTreeMap<&str, u32> = BTreeMap::new();
    before.values().for_each(|text| *count.entry(text).or_default() += 1);
    known.iter().for_each(|text| assert_eq!(count.get(text.as_str()), Some(&1), "{text}"));
    count.iter().for_each(|(text, n)| assert!(*n == 1 && begun.iter().any(|b| b == text), "{text}: {n}"));
}

/// Runs `ringpost mailbox` beside the server of `site`, or without one; gives its exit code.
fn program(site: &Site, words: &[&str]) -> Option<i32> {
    let config = site.dir.path().join("ringpost.toml");
    let mut command = std::process::Command::new(server::PROGRAM);
    let output = command.arg("mailbox").args(words).arg("-c").arg(config).output().expect("it runs");
    eprintln!("{words:?}: {output:?}");
    output.status.code()
}

/// A backup is made while mail comes; what is put back is the mailboxes as they were at one moment.
#[test]
fn a_backup_is_made_while_mail_comes_and_put_back() {
    let site = Site::new();
    let server = site.start();
    let mut first = Vec::new();
    let mut client = server.client();
    for n in 0..40 {
        let (account, text) = (["ann", "bob"][n % 2], format!("first-{n}"));
        assert_eq!(try_mail(&mut client, &format!("{account}@here.test"), &body(&text)), Some(true));
        first.push((account, text));
    }
    drop(client);
    let to = site.dir.path().join("backup");
    let to = to.to_str().expect("UTF-8");
    let acked = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let threads = ["ann-0", "bob-1", "ann-2"].map(|name| {
            let (address, acked) = (server.smtp, &acked);
            scope.spawn(move || send_on(address, name, acked))
        });
        until("some mail to be taken", || (acked.load(Ordering::Relaxed) >= 50).then_some(()));
        assert_eq!(program(&site, &["backup", to]), Some(0));
        let during = acked.load(Ordering::Relaxed);
        until("mail to be taken after it", || (acked.load(Ordering::Relaxed) > during).then_some(()));
        assert_eq!(program(&site, &["backup", to]), Some(73), "it is never written over");
        assert_eq!(program(&site, &["restore", to]), Some(75), "a server runs");
        server.kill();
        threads.into_iter().for_each(|t| drop(t.join().expect("no panic")));
    });
    let all = |account: &str| -> BTreeMap<u32, String> {
        site.mailbox(account, "INBOX").into_iter().map(|(uid, text)| (uid, subject(&text))).collect()
    };
    let before = ["ann", "bob"].map(all);
    assert_eq!(program(&site, &["restore", to]), Some(73), "there are mailboxes");
    assert_eq!(program(&site, &["restore", to, "--replace"]), Some(0));
    let back = ["ann", "bob"].map(all);
    for (before, back) in before.iter().zip(&back) {
        // In the order in which it came, up to one moment.
        let known: BTreeMap<u32, String> = before.clone().into_iter().take(back.len()).collect();
        assert_eq!(back, &known);
    }
    assert!(back.iter().map(BTreeMap::len).sum::<usize>() >= first.len() + 50);
    for (account, text) in &first {
        let back = if *account == "ann" { &back[0] } else { &back[1] };
        assert!(back.values().any(|t| t == text), "{account}: {text}");
    }
    let server = site.start();
    server.client().mail(FROM, &["ann@here.test"], body("later").as_bytes());
    server.drained();
    server.stop();
    let last = all("ann").into_iter().next_back().expect("there is mail");
    assert!(last.0 > 1 << 20 && last.1 == "later", "{last:?}: no UID is given twice");
}

/// RFC 3461: who asks for it is told that it is in the mailbox.
#[test]
fn success_is_reported_as_delivered() {
    let site = Site::new();
    let server = site.start();
    server.client().mail("bob@here.test", &["ann@here.test> NOTIFY=SUCCESS"], body("x").as_bytes());
    server.drained();
    server.stop();
    let report = site.mailbox("bob", "INBOX");
    assert!(report.len() == 1 && report[0].1.contains("Action: delivered\r\n"), "{report:?}");
}

/// One shard that cannot be opened is told of; its mail is put off, and nobody else notices.
#[test]
fn a_damaged_shard_stops_nobody_else() {
    let site = Site::new();
    let of = |account: &str| spread::shard_of(account, 2);
    assert_ne!(of("ann"), of("bob"), "the test needs two shards");
    site.start().stop();
    let dir = spread::directory(&site.dir.path().join("data"), of("ann"));
    let aside = dir.with_extension("aside");
    std::fs::rename(&dir, &aside).expect("a folder");
    std::fs::write(&dir, "no folder").expect("a file");
    let server = site.start();
    server.event_with("mailboxes_damaged", &format!("{:04}", of("ann")));
    let mut client = server.client();
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    client.say("RCPT TO:<ann@here.test>").expect("451 4.3.0");
    client.say("RSET").expect("250 ");
    client.mail(FROM, &["bob@here.test"], body("x").as_bytes());
    server.drained();
    server.stop();
    std::fs::remove_file(&dir).expect("a file");
    std::fs::rename(&aside, &dir).expect("a folder");
    let server = site.start();
    server.client().mail(FROM, &["ann@here.test"], body("x").as_bytes());
    server.drained();
    server.stop();
    assert_eq!((site.mailbox("ann", "INBOX").len(), site.mailbox("bob", "INBOX").len()), (1, 1));
}

#[test]
fn what_its_author_disowns_goes_into_junk() {
    let names = NameServer::start("_dmarc.a.test. IN TXT \"v=DMARC1; p=quarantine\"\n");
    let site = Site::new()
        .set("relay", "networks", "[\"127.0.0.9/32\"]")
        .set("dns", "servers", &format!("[\"{}\"]", names.address))
        .set("dns", "dnssec", "\"off\"")
        .set("authenticity", "dmarc", "\"enforce\"");
    let server = site.start();
    let long = "a line of a message\r\n".repeat(100_000);
    for (from, body) in [("joe@a.test", "short\r\n"), ("joe@a.test", &long), ("joe@b.test", "short\r\n")] {
        let message = format!("From: {from}\r\nSubject: x\r\n\r\n{body}");
        server.client().mail(FROM, &["ann+list@here.test", "bob@here.test"], message.as_bytes());
    }
    server.drained();
    server.stop();
    for account in ["ann", "bob"] {
        let junk = site.mailbox(account, "Junk");
        assert_eq!(junk.len(), 2, "{account}");
        assert!(junk.iter().all(|(_, m)| m.contains("From: joe@a.test") && m.contains("put aside)")));
        let inbox = site.mailbox(account, "INBOX");
        assert!(inbox.len() == 1 && inbox[0].1.contains("dmarc=none header.from=b.test"), "{inbox:?}");
    }
}
