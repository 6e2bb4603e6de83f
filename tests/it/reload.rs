//! Reload under load: files change and signals come while mail flows and sessions are open; nothing is
//! dropped, and what is wrong changes nothing.
#![allow(clippy::disallowed_methods, reason = "tests write files and start threads")]

use crate::harness::server::directory;
use crate::harness::{Client, Config, Hop, Server, until};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SENDERS: usize = 4;
const MESSAGES: usize = 60;
/// How often files change, at least.
const ROUNDS: usize = 80;

/// A server with an alias to elsewhere, users with mailboxes, and IMAP; and where that is.
fn site(hop: &Hop) -> (Arc<tempfile::TempDir>, Server, std::net::SocketAddr) {
    let dir = Arc::new(directory());
    let imap = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    good(dir.path(), 0);
    let file = |name: &str| format!("\"{}\"", dir.path().join(name).display());
    let mut config = Config::new(hop.address)
        .set("domains", "local", "[\"here.test\"]")
        .set("domains", "aliases", file("aliases"))
        .set("auth", "users", file("users"))
        .set("auth", "allow_plaintext", "true")
        .set("cores", "mta", "2")
        .set("cores", "access", "1");
    config.tail = format!(
        "[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nprotocol = \"imap\"\naddress = \"{imap}\"\n"
    );
    let server = Server::start_in(dir.clone(), &config);
    (dir, server, imap)
}

/// Replaces a file as a whole: half a map is a map, too.
fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join("new"), text).expect("a file");
    std::fs::rename(dir.join("new"), dir.join(name)).expect("a name");
}

/// Files that are right, and differ each time.
fn good(dir: &Path, n: usize) {
    write(dir, "aliases", &format!("info one@next.test\nnew{n} two@next.test\n"));
    write(dir, "users", &format!("ann:{{PLAIN}}secret\nuser{n}:{{PLAIN}}secret\n"));
}

/// Files that are not.
fn bad(dir: &Path, n: usize) {
    write(dir, "aliases", &format!("news{n}\n"));
    write(dir, "users", "");
}

/// Says a command of IMAP; all lines of the answer.
fn imap(client: &mut Client, words: &str) -> Vec<String> {
    client.send(format!("t {words}\r\n"));
    let mut lines = Vec::new();
    loop {
        let line = client.line().unwrap_or_else(|| panic!("the session ended in {words}: {lines:?}"));
        let last = line.starts_with("t ");
        lines.push(line);
        if last {
            assert!(lines[lines.len() - 1].starts_with("t OK"), "{words}: {lines:?}");
            return lines;
        }
    }
}

#[test]
fn under_load_nothing_is_dropped_and_broken_files_change_nothing() {
    let hop = Hop::start();
    let (dir, server, imap_at) = site(&hop);
    let mut reader = Client::raw(imap_at);
    assert!(reader.line().is_some_and(|l| l.starts_with("* OK")));
    imap(&mut reader, "LOGIN ann secret");
    imap(&mut reader, "SELECT INBOX");
    let mut idle = server.client();
    let mut midway = server.client();
    midway.envelope("a@client.test", &["info@here.test"]);
    midway.say("DATA").expect("354 ");
    midway.send(b"Subject: half\r\n\r\nhal");
    let sent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                let mut client = server.client();
                for _ in 0..MESSAGES {
                    // A recipient that is refused, a session that ends: both are failures here.
                    client.mail("a@client.test", &["info@here.test"], b"Subject: x\r\n\r\nx\r\n");
                    client.mail("a@client.test", &["ann@here.test"], b"Subject: x\r\n\r\nx\r\n");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let all = SENDERS * MESSAGES;
        let mut n = 0;
        until("all mail to be sent", || {
            n += 1;
            if n % 2 == 0 {
                good(dir.path(), n)
            } else {
                bad(dir.path(), n)
            }
            server.signal("HUP");
            imap(&mut reader, "NOOP");
            (n >= ROUNDS && sent.load(Ordering::Relaxed) == all).then_some(())
        });
    });
    // Both kinds of files have been seen.
    server.event_with("reload", "new maps are in use");
    server.event_with("reload", "the old ones stay in use");
    server.event_with("users", "the old users stay in use");
    idle.say("NOOP").expect("250 ");
    midway.send(b"f\r\n.\r\n");
    midway.reply().expect("250 ");
    let all = SENDERS * MESSAGES;
    server.drained();
    assert_eq!(hop.wait(all + 1).len(), all + 1, "each once");
    let status = imap(&mut reader, "STATUS INBOX (MESSAGES)");
    assert!(status.iter().any(|line| line.contains(&format!("MESSAGES {all})"))), "{status:?}");
    // The last word counts.
    good(dir.path(), 100_000);
    until("the new alias", || {
        idle.say("RSET").expect("250 ");
        idle.say("MAIL FROM:<a@client.test>").expect("250 ");
        (idle.say("RCPT TO:<new100000@here.test>").code() == 250).then_some(())
    });
    imap(&mut reader, "LOGOUT");
}
