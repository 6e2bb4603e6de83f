//! The queue as operators see it: `ringpost queue`, restarts, retries.

use crate::harness::{Hop, Server};
use serde_json::Value;

const FROM: &str = "sender@client.test";
const TO: &str = "rcpt@next.test";
const BODY: &[u8] = b"Subject: queued\r\n\r\n.dots stay\r\n";

fn deferred(m: &Value) -> bool {
    m["queue_name"] == "deferred" && m["recipients"][0]["delay_reason"].is_string()
}

fn names(v: &Value) -> Vec<&str> {
    v.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn next_hop_down_and_every_queue_command() {
    let nobody = Hop::later();
    let server = Server::relay_to(nobody);
    let mut client = server.client();
    let id = client.mail(FROM, &[TO], BODY);
    let m = server.listed(&id, deferred);
    // The field names of `postqueue -j`.
    for name in
        ["queue_name", "queue_id", "arrival_time", "message_size", "forced_expire", "sender", "recipients"]
    {
        assert!(names(&m).contains(&name), "{name}: {m}");
    }
    assert!(names(&m["recipients"][0]).starts_with(&["address"]), "{m}");
    assert_eq!((&m["sender"], &m["recipients"][0]["address"]), (&FROM.into(), &TO.into()));
    assert_eq!(m["forced_expire"], false);

    let shown = server.queue(&["show", &id]);
    assert_eq!((shown.len(), &shown[0]["queue_id"]), (1, &Value::from(id.as_str())));
    let cat = server.run(&["queue", "cat", &id]).stdout;
    assert!(cat.starts_with(b"Received: ") && cat.ends_with(BODY), "{}", String::from_utf8_lossy(&cat));
    assert_eq!(m["message_size"], cat.len());

    let changed = |words: &[&str]| server.queue(words)[0]["changed"].clone();
    assert_eq!(changed(&["hold", &id, "--reason", "test"]), 1);
    server.listed(&id, |m| m["queue_name"] == "hold");
    let stats = server.queue(&["stats"]);
    assert_eq!((stats[0]["messages"].clone(), stats[0]["held"].clone()), (1.into(), 1.into()), "{stats:?}");
    let hop = Hop::on(nobody);
    server.queue(&["flush", "--all"]);
    assert_eq!(changed(&["release", &id]), 1);
    server.queue(&["flush", &id]);
    assert!(hop.one().content().ends_with(BODY));
    server.drained();

    hop.refuse("RCPT", "450 4.2.0 Later");
    let second = client.mail(FROM, &[TO], BODY);
    server.listed(&second, deferred);
    assert_eq!(changed(&["delete", &second]), 1);
    assert!(server.queue(&["list"]).is_empty());
    let text = String::from_utf8(server.run(&["queue", "list"]).stdout).unwrap();
    assert_eq!(text, "Mail queue is empty\n");
}

#[test]
fn commands_say_what_is_wrong() {
    let server = Server::relay_to(Hop::later());
    for command in ["show", "cat", "hold", "delete"] {
        let out = server.run(&["queue", command, "not-an-id"]);
        assert_eq!(out.status.code(), Some(65), "{command}");
    }
    let id = server.client().mail(FROM, &[TO], BODY);
    server.listed(&id, deferred);
    server.queue(&["delete", &id]);
    let out = server.run(&["queue", "show", &id]);
    assert_eq!(out.status.code(), Some(65));
    assert!(String::from_utf8_lossy(&out.stderr).contains("no such message"));
    let dir = server.stop();
    let file = dir.path().join("ringpost.toml");
    let out = std::process::Command::new(crate::harness::server::PROGRAM)
        .args(["queue", "list", "-c"])
        .arg(file)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&out.stderr).contains("is `ringpost serve` running?"));
}

#[test]
fn a_restart_keeps_the_queue() {
    let nobody = Hop::later();
    let config = crate::harness::Config::new(nobody).set("cores", "mta", "2");
    let server = Server::start(&config);
    let large = [BODY, &b"0123456789\r\n".repeat(200_000)].concat();
    let ids: Vec<String> = (0..6)
        .map(|n| {
            let mut client = server.client();
            client.mail(FROM, &[TO, "b@next.test"], if n % 3 == 0 { &large } else { BODY })
        })
        .collect();
    for id in &ids {
        server.listed(id, deferred);
    }
    server.queue(&["hold", &ids[1]]);
    // First in order, then without.
    let again = Server::start_in(server.stop(), &config);
    let server = Server::start_in(again.kill(), &config);
    for id in &ids {
        let state = if *id == ids[1] { "hold" } else { "deferred" };
        server.listed(id, |m| m["queue_name"] == state && m["recipients"].as_array().unwrap().len() == 2);
    }
    let hop = Hop::on(nobody);
    server.queue(&["release", &ids[1]]);
    server.flushed();
    let mails = hop.mails();
    for (n, id) in ids.iter().enumerate() {
        let mine: Vec<_> = mails.iter().filter(|m| m.split().0.contains(&format!(" id {id};"))).collect();
        let to: usize = mine.iter().map(|m| m.to.len()).sum();
        assert_eq!(to, 2, "{id}: each recipient once");
        assert!(mine.iter().all(|m| m.split().1 == if n % 3 == 0 { &large[..] } else { BODY }));
    }
    let dir = server.stop();
    let server = Server::start_in(dir, &config);
    assert!(server.queue(&["list"]).is_empty(), "what is done is done");
}

#[test]
fn a_retry_comes_by_itself() {
    let hop = Hop::start();
    hop.refuse("RCPT", "450 4.2.0 Later");
    let config = crate::harness::Config::new(hop.address).set("queue", "retry_first", "\"1s\"").set(
        "queue",
        "retry_max",
        "\"1s\"",
    );
    let server = Server::start(&config);
    let id = server.client().mail(FROM, &[TO], BODY);
    let m = server.listed(&id, deferred);
    assert!(m["recipients"][0]["delay_reason"].as_str().unwrap().contains("4.2.0 Later"), "{m}");
    hop.accept();
    hop.one();
    server.drained();
    assert!(server.metric("ringpost_deliveries_total", "result=\"deferred\"") >= 1.0);
    assert_eq!(server.metric("ringpost_deliveries_total", "result=\"delivered\""), 1.0);
}

/// One recipient taken, one deferred, one refused: each goes its own way.
#[test]
fn recipients_have_results_of_their_own() {
    let hop = Hop::start();
    hop.answer(|c| match c {
        c if c.starts_with("RCPT TO:<later@") => Some(b"450 4.2.2 Full\r\n".to_vec()),
        c if c.starts_with("RCPT TO:<never@") => Some(b"550 5.1.1 Who?\r\n".to_vec()),
        _ => None,
    });
    let server = Server::relay_to(hop.address);
    let to = ["now@next.test", "later@next.test", "never@next.test"];
    let id = server.client().mail(FROM, &to, BODY);
    let mails = hop.wait(2);
    let bounce = mails.iter().find(|m| m.from.starts_with("<>")).expect("a bounce");
    assert!(bounce.to[0].starts_with(&format!("<{FROM}>")) && bounce.text().contains("never@next.test"));
    assert!(!bounce.text().contains("Final-Recipient: rfc822; later@next.test"));
    let m = server.listed(&id, |m| m["recipients"].as_array().unwrap().len() == 1);
    assert_eq!(m["recipients"][0]["address"], "later@next.test");
    hop.accept();
    server.queue(&["flush", "--destination", m["recipients"][0]["destination"].as_str().unwrap()]);
    server.drained();
    assert_eq!(hop.mails().len(), 3, "nobody got it twice");
}
