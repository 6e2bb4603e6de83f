//! The attack catalogue, rows of next hops and of what we send: 2, 9 and 20.

use crate::harness::{Config, Hop, Server, until};
use crate::hostile::{FROM, SMUGGLERS, TO, still_serves};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn row_02_outbound_smuggling() {
    let hop = Hop::start();
    let server = Server::start(&Config::new(hop.address).set("limits", "bare_newline", "\"normalize\""));
    let mut client = server.client();
    let mut taken = 0;
    for smuggler in SMUGGLERS {
        let evil = b"MAIL FROM:<evil@evil.test>\r\nRCPT TO:<evil@evil.test>\r\nDATA\r\nS: evil\r\n\r\n";
        let wire = [b"S: x\r\n\r\nbody", smuggler, evil, b".leading\r\n..\r\n\r\n.\r\n"].concat();
        client.envelope(FROM, &[TO]);
        let reply = client.data(&wire);
        if smuggler.contains(&0) {
            reply.expect("550 5.6.0");
        } else {
            reply.id();
            taken += 1;
        }
    }
    // The same by BDAT, where nothing is escaped.
    for smuggler in &SMUGGLERS[..6] {
        let body = [b"S: x\r\n\r\nbody", *smuggler, b".\r\nQUIT\r\n.\r\n"].concat();
        client.envelope(FROM, &[TO]);
        client.send(format!("BDAT {} LAST\r\n", body.len()));
        client.send(&body);
        client.reply().id();
        taken += 1;
    }
    client.say("QUIT").expect("221 ");
    for mail in hop.wait(taken) {
        assert!(mail.from.starts_with(&format!("<{FROM}>")), "{mail:?}");
        assert_eq!(mail.to, [format!("<{TO}>")]);
        let wire = &mail.wire;
        for (i, b) in wire.iter().enumerate() {
            let bare = match b {
                b'\n' => i == 0 || wire[i - 1] != b'\r',
                b'\r' => wire.get(i + 1) != Some(&b'\n'),
                0 => true,
                _ => false,
            };
            assert!(!bare, "bare byte {b} at {i} in {}", wire.escape_ascii());
            // A line that begins with a dot begins with two.
            let line = i == 0 || wire[..i].ends_with(b"\r\n");
            assert!(
                !(line && *b == b'.') || wire.get(i + 1) == Some(&b'.') || wire[i + 1..].starts_with(b"le")
            );
        }
    }
    server.drained();
    assert_eq!(hop.mails().len(), taken);
}

/// Whatever a next hop says instead of a reply, the message waits and goes out later, once.
#[test]
fn row_09_malicious_next_hop() {
    malicious(&Hop::start(), &["", "EHLO", "RCPT", "."]);
}

/// The same where messages go in chunks.
#[test]
fn row_09_malicious_next_hop_with_chunking() {
    let hop = Hop::start();
    hop.offer(CHUNKS);
    malicious(&hop, &["MAIL", "RCPT", "DATA", "."]);
}

/// Behind a first message that was taken, the next goes whole: the answer to its chunk is nonsense.
#[test]
fn row_09_malicious_answers_to_chunks() {
    let hop = Hop::start();
    hop.offer(CHUNKS);
    let server = Server::start(&impatient(&hop));
    let mut client = server.client();
    for (name, bytes) in attacks() {
        // After a silence it goes by DATA: then another one is tried.
        until(&format!("{name} to be seen through"), || {
            let n = hop.mails().len();
            client.mail(FROM, &[TO], b"S: first\r\n\r\n");
            hop.wait(n + 1);
            let (bytes, seen) = (bytes.clone(), Arc::new(AtomicBool::new(false)));
            let attacked = seen.clone();
            hop.answer(move |c| {
                let chunk = c.starts_with("BDAT").then(|| bytes.clone());
                seen.fetch_or(chunk.is_some(), Ordering::Relaxed);
                chunk
            });
            let id = client.mail(FROM, &[TO], b"S: second\r\n\r\n");
            let delayed = until("the second", || {
                let list = server.queue(&["list"]);
                let waits = list.iter().find(|m| m["queue_id"] == id.as_str());
                let delayed = waits.is_some_and(|m| m["recipients"][0]["delay_reason"].is_string());
                (delayed || waits.is_none() && !attacked.load(Ordering::Relaxed)).then_some(delayed)
            });
            hop.accept();
            server.flushed();
            delayed.then_some(())
        });
    }
    still_serves(&server, &hop);
}

/// A reply too many stands in the place of the next one. No message counts as sent for what was said of
/// something else: here the last chunk is refused, and RCPT has been answered twice before.
#[test]
fn row_09_replies_said_twice() {
    let hop = Hop::start();
    hop.offer(CHUNKS);
    until("a chunk behind two answers to one RCPT", || {
        // Whoever has done it once gets no chunks any more.
        let server = Server::start(&impatient(&hop));
        let mut client = server.client();
        let n = hop.mails().len();
        client.mail(FROM, &[TO], b"S: first\r\n\r\n");
        hop.wait(n + 1);
        let seen = Arc::new(AtomicBool::new(false));
        let attacked = seen.clone();
        hop.answer(move |c| {
            seen.fetch_or(c.starts_with("BDAT"), Ordering::Relaxed);
            let twice = c.starts_with("RCPT").then(|| b"250 2.1.5 Ok\r\n".repeat(2));
            twice.or_else(|| c.starts_with("BDAT").then(|| b"554 5.6.0 No\r\n".to_vec()))
        });
        let id = client.mail(FROM, &[TO], b"S: second\r\n\r\n");
        server.listed(&id, |m| m["recipients"][0]["delay_reason"].is_string());
        hop.accept();
        server.flushed();
        let mails = hop.mails();
        assert!(mails[n + 1..].iter().any(|m| m.text().contains("S: second")), "{:?}", &mails[n..]);
        server.stop();
        attacked.load(Ordering::Relaxed).then_some(())
    });
}

/// The end of data is answered twice, always: all mail arrives, though some of it more than once.
#[test]
fn row_09_ends_of_data_answered_twice() {
    for extensions in [CHUNKS, &CHUNKS[..3]] {
        let hop = Hop::start();
        hop.offer(extensions);
        hop.answer(|c| (c == ".").then(|| b"250 2.0.0 Taken\r\n".repeat(2)));
        let server = Server::start(&impatient(&hop));
        let mut client = server.client();
        (0..10).for_each(|n| drop(client.mail(FROM, &[TO], format!("S: number {n}\r\n\r\n").as_bytes())));
        server.flushed();
        let mails = hop.mails();
        for n in 0..10 {
            let subject = format!("S: number {n}\r\n");
            assert!(mails.iter().any(|m| m.text().contains(&subject)), "{n} of {}", mails.len());
        }
        server.stop();
    }
}

const CHUNKS: &[&str] = &["PIPELINING", "8BITMIME", "SIZE", "CHUNKING"];

fn impatient(hop: &Hop) -> Config {
    let mut config = Config::new(hop.address);
    config.tail = ["greeting", "helo", "mail", "rcpt", "data", "final_dot", "quit"]
        .iter()
        .fold("[relay.timeouts]\n".into(), |text: String, key| text + key + " = \"1s\"\n");
    config
}

fn attacks() -> [(&'static str, Vec<u8>); 7] {
    [
        ("a lone digit", b"5\r\n".to_vec()),
        ("no reply at all", b"hello there, no code\r\n".to_vec()),
        ("continued and closed", b"250-never\r\n250-ending\r\n".to_vec()),
        ("a line of 100 kB", [&b"250 "[..], &[b'x'; 100_000], b"\r\n"].concat()),
        ("lines without end", b"250-more\r\n".repeat(1_000_000)),
        ("NULs", b"\0\0\0 \0\r\n".to_vec()),
        ("one byte and silence", b"2".to_vec()),
    ]
}

fn malicious(hop: &Hop, phases: &[&'static str]) {
    let server = Server::start(&impatient(hop).set("destination", "messages_per_connection", "1"));
    let mut client = server.client();
    let mut sent = 0;
    for &phase in phases {
        for (name, bytes) in attacks() {
            let bytes = bytes.clone();
            hop.answer(move |c| {
                (c == phase || !phase.is_empty() && c.starts_with(phase)).then(|| bytes.clone())
            });
            let id = client.mail(FROM, &[TO], b"S: x\r\n\r\n");
            sent += 1;
            until(&format!("{name} at {phase:?} to be seen through"), || {
                let list = server.queue(&["list"]);
                let m = list.iter().find(|m| m["queue_id"] == id.as_str())?;
                m["recipients"][0]["delay_reason"].is_string().then_some(())
            });
            hop.accept();
            server.flushed();
            let n = hop.mails().len();
            assert!(n == sent || phase == "." && n >= sent, "{name} at {phase:?}: {n} of {sent}");
            sent = n;
        }
    }
    still_serves(&server, hop);
}

/// Several messages at once, some refused, over connections that break: each ends as the hop said.
#[test]
fn chunks_of_many_clients_come_once() {
    let hop = Hop::start();
    hop.offer(CHUNKS);
    let server = Server::start(&Config::new(hop.address));
    let mut clients: Vec<_> = (0..8).map(|_| server.client()).collect();
    for turn in 0..40 {
        for (n, client) in clients.iter_mut().enumerate() {
            let body = format!("S: {turn}-{n}\r\n\r\n.dot\r\n..\r\n.\r\nQUIT\r\n");
            client.mail(FROM, &[TO], body.as_bytes());
        }
    }
    server.drained();
    let mails = hop.mails();
    assert_eq!(mails.len(), 320);
    let mut seen: Vec<_> = mails.iter().map(|m| String::from_utf8(m.split().1).expect("text")).collect();
    assert!(seen.iter().all(|t| t.ends_with(".dot\r\n..\r\n.\r\nQUIT\r\n")), "{:?}", seen[0]);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 320, "each once");
}

/// A hop that offers CHUNKING and does not know it gets its mail by DATA, with no attempt counted.
#[test]
fn chunking_that_is_offered_and_not_known() {
    let hop = Hop::start();
    hop.offer(CHUNKS);
    hop.refuse("BDAT", "502 5.5.1 Not implemented");
    let server = Server::start(&Config::new(hop.address));
    let mut client = server.client();
    (0..5).for_each(|_| drop(client.mail(FROM, &[TO], b"S: x\r\n\r\n.\r\n")));
    server.drained();
    let mails = hop.mails();
    assert_eq!(mails.len(), 5);
    assert!(mails.iter().all(|m| m.text().ends_with("S: x\r\n\r\n.\r\n")), "{mails:?}");
}

#[test]
fn row_20_backscatter() {
    let hop = Hop::start();
    hop.answer(|c| c.starts_with("RCPT TO:<bad").then(|| b"550 5.1.1 No\r\n".to_vec()));
    let config = Config::new(hop.address)
        .set("relay", "networks", "[]")
        .set("domains", "local", "[\"here.test\"]")
        .set("domains", "relay", "[\"next.test\"]");
    let server = Server::start(&config);
    let mut client = server.client();
    // Unknown recipients are refused in the session: no bounce to a forged sender.
    client.say("MAIL FROM:<victim@victim.test>").expect("250 ");
    client.say("RCPT TO:<nobody@here.test>").expect("550 5.1.1");
    client.say("RSET").expect("250 ");
    // A bounce of a bounce, as from a list or another server.
    client.mail("", &["bad@next.test"], b"S: undeliverable\r\n\r\n");
    // One report for one message and recipient.
    client.mail("known@next.test", &["bad@next.test"], b"S: x\r\n\r\n");
    server.drained();
    let all = hop.mails();
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].from.starts_with("<>") && all[0].to[0].starts_with("<known@next.test>"), "{all:?}");
    let text = all[0].text();
    assert!(text.contains("Auto-Submitted: auto-replied"), "RFC 3834: {text}");
}
