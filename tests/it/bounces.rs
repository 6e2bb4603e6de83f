//! Notifications: who is told of what (RFC 3461, RFC 3464), and who must not be.

use crate::harness::{Config, Hop, Mail, Server};

const BODY: &[u8] = b"From: a@client.test\r\nSubject: the original\r\nX-Mark: 1\r\n\r\nsecret text\r\n";

fn refusing() -> (Hop, Server) {
    let hop = Hop::start();
    hop.answer(|c| c.starts_with("RCPT TO:<bad").then(|| b"550 5.1.1 No such person\r\n".to_vec()));
    let server = Server::relay_to(hop.address);
    (hop, server)
}

/// Sends a marker behind, so that what should not come would have come before it.
fn everything(hop: &Hop, server: &Server) -> Vec<Mail> {
    server.drained();
    server.client().mail("end@client.test", &["end@next.test"], b"S: end\r\n\r\n");
    let end = |m: &Mail| m.to.iter().any(|t| t.starts_with("<end@"));
    crate::harness::until("the marker", || hop.mails().iter().any(end).then_some(()));
    hop.mails().into_iter().filter(|m| !end(m)).collect()
}

#[test]
fn a_refusal_becomes_a_bounce_by_rfc_3464() {
    let (hop, server) = refusing();
    let id = server.client().mail("a@client.test> ENVID=QQ314", &["bad@next.test"], BODY);
    let bounce = hop.one();
    assert!(bounce.from.starts_with("<>"), "{}", bounce.from);
    assert_eq!(bounce.to.len(), 1);
    assert!(bounce.to[0].starts_with("<a@client.test>"), "{:?}", bounce.to);
    let text = bounce.text();
    let lower = text.to_ascii_lowercase();
    for part in [
        "multipart/report",
        "report-type=delivery-status",
        "message/delivery-status",
        "auto-submitted: auto-replied",
        "reporting-mta: dns; mx.test.example",
        "original-envelope-id: qq314",
        "final-recipient: rfc822; bad@next.test",
        "action: failed",
        "status: 5.1.1",
        "diagnostic-code: smtp; 550 5.1.1 no such person",
        "subject: the original",
        "x-mark: 1",
    ] {
        assert!(lower.contains(part), "{part:?} is missing in\n{text}");
    }
    assert!(text.contains(&id), "the queue id is told:\n{text}");
    server.drained();
    assert_eq!(server.metric("ringpost_dsn_total", ""), 1.0);
    assert_eq!(server.metric("ringpost_deliveries_total", "result=\"bounced\""), 1.0);
}

#[test]
fn one_bounce_for_all_refused_recipients_of_a_message() {
    let (hop, server) = refusing();
    server.client().mail("a@client.test", &["bad1@next.test", "ok@next.test", "bad2@next.test"], BODY);
    let mails = everything(&hop, &server);
    let bounces: Vec<_> = mails.iter().filter(|m| m.from.starts_with("<>")).collect();
    assert_eq!((mails.len(), bounces.len()), (2, 1));
    let text = bounces[0].text();
    assert!(text.contains("bad1@next.test") && text.contains("bad2@next.test"), "{text}");
    assert!(!text.contains("rfc822; ok@next.test"), "{text}");
}

#[test]
fn the_null_sender_gets_no_bounce() {
    let (hop, server) = refusing();
    server.client().mail("", &["bad@next.test"], BODY);
    assert!(everything(&hop, &server).is_empty());
}

/// RFC 5321 section 6.1: what cannot be delivered to the null sender may go to the postmaster, once.
#[test]
fn double_bounces_go_to_the_postmaster_once() {
    let hop = Hop::start();
    hop.answer(|c| c.starts_with("RCPT").then(|| b"550 5.1.1 Nobody\r\n".to_vec()));
    let config = Config::new(hop.address).set("domains", "postmaster", "\"pm@next.test\"");
    let server = Server::start(&config);
    server.client().mail("a@client.test", &["bad@next.test"], BODY);
    server.drained();
    assert!(hop.mails().is_empty(), "all were refused, and it ended");
    hop.answer(|c| (c.starts_with("RCPT") && !c.contains("<pm@")).then(|| b"550 5.1.1 Nobody\r\n".to_vec()));
    server.client().mail("a@client.test", &["bad@next.test"], BODY);
    let mail = hop.one();
    assert!(mail.from.starts_with("<>") && mail.to[0].starts_with("<pm@next.test>"), "{mail:?}");
}

#[test]
fn notify_never_and_success() {
    let (hop, server) = refusing();
    let mut client = server.client();
    client.mail("a@client.test", &["bad@next.test> NOTIFY=NEVER"], BODY);
    client.mail("a@client.test", &["bad@next.test> NOTIFY=SUCCESS"], BODY);
    assert!(everything(&hop, &server).is_empty());

    let (hop, server) = refusing();
    let to = "ok@next.test> NOTIFY=SUCCESS ORCPT=rfc822;first@else.test";
    server.client().mail("a@client.test> RET=HDRS", &[to], BODY);
    let mails = hop.wait(2);
    let report = mails.iter().find(|m| m.from.starts_with("<>")).expect("a report").text();
    let lower = report.to_ascii_lowercase();
    // The hop does not offer DSN: the message left the DSN world here (RFC 3461 section 5.2.2).
    for part in ["action: relayed", "original-recipient: rfc822;first@else.test", "status: 2."] {
        let (lower, part) = (lower.replace("; ", ";"), part.replace("; ", ";"));
        assert!(lower.contains(&part), "{part:?} is missing in\n{report}");
    }
    assert!(!report.contains("secret text"), "RET=HDRS");
}

/// A hop that knows DSN takes the duty over with the parameters.
#[test]
fn dsn_parameters_are_handed_on() {
    let (hop, server) = refusing();
    hop.offer(&["PIPELINING", "DSN"]);
    let to = "ok@next.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@else.test";
    server.client().mail("a@client.test> RET=FULL ENVID=x+2By", &[to], BODY);
    let mails = everything(&hop, &server);
    assert_eq!(mails.len(), 1, "the report is the next hop's affair now");
    assert!(mails[0].from.contains("RET=FULL") && mails[0].from.contains("ENVID=x+2By"), "{mails:?}");
    let to = &mails[0].to[0];
    assert!(to.contains("NOTIFY=SUCCESS,FAILURE"), "{to}");
    assert!(to.contains("ORCPT=rfc822;a+2Bb@else.test"), "{to}");
}

#[test]
fn lifetime_ends_in_a_bounce() {
    let hop = Hop::start();
    hop.answer(|c| c.starts_with("RCPT TO:<late").then(|| b"451 4.7.1 Later\r\n".to_vec()));
    let config = Config::new(hop.address)
        .set("queue", "retry_first", "\"100ms\"")
        .set("queue", "retry_max", "\"100ms\"")
        .set("queue", "lifetime", "\"300ms\"");
    let server = Server::start(&config);
    server.client().mail("a@client.test", &["late@next.test"], BODY);
    let bounce = hop.one();
    assert!(bounce.to[0].starts_with("<a@client.test>"), "{bounce:?}");
    assert!(bounce.text().contains("451 4.7.1 Later"), "{}", bounce.text());
}
