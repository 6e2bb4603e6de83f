//! Disks that are full or fail: no 250 that is not true, deliveries go on, and it is told.

#![allow(clippy::disallowed_methods, reason = "tests mount and fill file systems")]

use crate::harness::{Client, Config, Hop, Server, until};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const FROM: &str = "a@client.test";
const TO: &str = "b@next.test";

fn run(program: &str, words: &[&str]) {
    let out = Command::new(program).args(words).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A small file system of its own; gone with the test. Only root may make one.
pub struct Small(Arc<tempfile::TempDir>);

impl Small {
    pub fn mount(size: &str) -> Option<Small> {
        let id = Command::new("id").arg("-u").output().expect("id runs").stdout;
        if id != b"0\n" {
            eprintln!("SKIPPED: only root can mount the small file system that this test fills");
            return None;
        }
        let dir = crate::harness::server::directory();
        let size = format!("size={size}");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", dir.path().to_str().expect("a path")]);
        Some(Small(Arc::new(dir)))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a server that the failed test left is killed later.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Sends until a message is refused; the ids of those that were taken, and the refusal.
fn fill(server: &Server, body: &[u8]) -> (Vec<String>, String) {
    let mut client = server.client();
    let wire = crate::harness::client::stuffed(body);
    let mut ids = Vec::new();
    loop {
        assert!(ids.len() < 2000, "the disk does not get full");
        let mail = client.say(&format!("MAIL FROM:<{FROM}>"));
        if mail.code() != 250 {
            return (ids, mail.0);
        }
        client.say(&format!("RCPT TO:<{TO}>")).expect("250 ");
        let reply = client.data(&wire);
        match reply.code() {
            250 => ids.push(reply.id()),
            // The next segment is being made.
            452 if reply.0.contains("Too busy") => {}
            _ => return (ids, reply.0),
        }
    }
}

fn until_taken(server: &Server) -> String {
    let wire = b"S: small\r\n\r\n.\r\n";
    until("mail to be taken again", || {
        let mut client = server.client();
        let mail = client.say(&format!("MAIL FROM:<{FROM}>"));
        if mail.code() != 250 {
            mail.expect("452 4.3.1");
            return None;
        }
        client.say(&format!("RCPT TO:<{TO}>")).expect("250 ");
        let reply = client.data(wire);
        (reply.code() == 250).then(|| reply.id())
    })
}

#[test]
fn a_full_disk_refuses_new_mail_and_nothing_else() {
    let Some(small) = Small::mount("24M") else { return };
    let nobody = Hop::later();
    let config = Config::new(nobody).set("storage", "free_min", "\"0\"");
    let server = Server::start_in(small.0.clone(), &config);
    let body = [&b"S: x\r\n\r\n"[..], &b"0123456789abcdef0123456789\r\n".repeat(1500)].concat();
    let (ids, refusal) = fill(&server, &body);
    assert!(refusal.starts_with("452 4.3.1"), "{refusal}");
    assert!(ids.len() > 50, "{}", ids.len());
    server.event_with("queue_full", "no space for new mail");
    until("readiness to say so", || {
        let (status, why) = server.page("/readyz");
        (status == 503 && why.contains("no space")).then_some(())
    });
    assert!(server.metric("ringpost_rejections_total", "reason=\"storage\"") >= 1.0);
    // What was taken goes out, and its outcome is written: after a restart nothing comes twice.
    let hop = Hop::on(nobody);
    server.flushed();
    server.event_with("queue_full", "taken again");
    let last = until_taken(&server);
    let server = Server::start_in(server.kill(), &config);
    server.flushed();
    let traces: Vec<String> = hop.mails().iter().map(|m| m.split().0).collect();
    for id in ids.iter().chain([&last]) {
        let n = traces.iter().filter(|t| t.contains(&format!(" id {id}\r\n"))).count();
        // The last one may have been in flight when the server was killed.
        assert!(n == 1 || n == 2 && *id == last, "{id}: {n} times");
    }
    server.stop();
}

/// Somebody else fills the file system, and clears it again.
#[test]
fn space_taken_by_others() {
    let Some(small) = Small::mount("32M") else { return };
    let hop = Hop::start();
    let config = Config::new(hop.address).set("storage", "free_min", "\"4MiB\"");
    let server = Server::start_in(small.0.clone(), &config);
    crate::hostile::still_serves(&server, &hop);
    let other = small.path().join("other");
    // As much as fits: dd ends with an error.
    let _ = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", other.display()))
        .output()
        .expect("dd runs");
    hop.refuse("RCPT", "450 4.2.0 Later");
    let (ids, refusal) = fill(&server, &b"S: x\r\n\r\n0123456789abcdef\r\n".repeat(1000));
    assert!(refusal.starts_with("452 4.3.1"), "{refusal}");
    // A side file has no room either.
    std::fs::remove_file(&other).expect("removed");
    let id = until_taken(&server);
    hop.accept();
    server.flushed();
    let traces: Vec<String> = hop.mails().iter().map(|m| m.split().0).collect();
    for id in ids.iter().chain([&id]) {
        assert!(traces.iter().any(|t| t.contains(&format!(" id {id}\r\n"))), "{id} is lost");
    }
    server.stop();
}

/// The kernel refuses writes beyond a size: the journal cannot be written any more.
#[test]
fn a_write_error_stops_the_promises() {
    let nobody = Hop::later();
    let mut config = Config::new(nobody);
    // A process that does not care for the signal gets the error.
    config.wrapper = ["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""].map(String::from).to_vec();
    let server = Server::start(&config);
    let mut client = server.client();
    let kept: Vec<String> = (0..5).map(|_| client.mail(FROM, &[TO], b"S: kept\r\n\r\n")).collect();
    let pid = server.pid().to_string();
    run("prlimit", &["--pid", &pid, "--fsize=4096:4096"]);
    client.envelope(FROM, &[TO]);
    client.say("DATA").expect("354 ");
    client.send(b"S: lost\r\n\r\n.\r\n");
    match client.try_reply() {
        None => {}
        Some(reply) => assert!(matches!(reply.code(), 421 | 451 | 452), "{reply:?}"),
    }
    server.event_with("journal_poisoned", "a write to the journal, the archive or the index failed");
    let (status, why) = server.page("/readyz");
    assert_eq!((status, why.contains("write error")), (503, true), "{why}");
    assert_eq!(server.page("/healthz").0, 200);
    assert_eq!(server.metric("ringpost_journal_poisoned", ""), 1.0);
    // No 250 to a message ever again; the door is closed.
    let refused = || {
        let Ok(stream) = std::net::TcpStream::connect(server.smtp) else { return true };
        drop(stream);
        let mut client = Client::raw(server.smtp);
        client.try_send("EHLO x\r\n");
        client.until_end().iter().all(|r| r.code() == 421)
    };
    assert!(refused(), "a session after the alarm");
    if client.try_send(format!("RSET\r\nMAIL FROM:<{FROM}>\r\n")) {
        let all = client.until_end();
        assert!(all.last().is_none_or(|r| r.code() == 421), "{all:?}");
    }
    // A restart recovers: what was acknowledged is there, the other message may be.
    let dir = server.kill();
    config.wrapper.clear();
    let hop = Hop::on(nobody);
    let server = Server::start_in(dir, &config);
    server.flushed();
    let traces: Vec<String> = hop.mails().iter().map(|m| m.split().0).collect();
    for id in &kept {
        assert!(traces.iter().any(|t| t.contains(&format!(" id {id}\r\n"))), "{id} is lost");
    }
    assert!(traces.len() <= kept.len() + 1, "{traces:?}");
    assert_eq!(server.page("/readyz").0, 200);
    server.stop();
}
