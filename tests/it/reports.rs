//! Bounces and complaints that come in become records of the mail log.

use crate::harness::client::stuffed;
use crate::harness::{Config, Hop, Server, until};
use serde_json::Value;

fn report(kind: &str, part: &str, padding: usize) -> Vec<u8> {
    let head = format!(
        "From: MAILER-DAEMON@far.test\r\n\
         Content-Type: multipart/report; report-type={kind}; boundary=\"=b\"\r\n\r\n\
         --=b\r\n\r\nfor people\r\n--=b\r\nContent-Type: message/{kind}\r\n\r\n{part}\r\n--=b\r\n\
         Content-Type: message/rfc822\r\n\r\nMessage-ID: <1@mx.test>\r\n\r\n"
    );
    [head.into_bytes(), b"a line of the message\r\n".repeat(padding), b"--=b--\r\n".to_vec()].concat()
}

const FAILED: &str = "Reporting-MTA: dns; mx.far.test\r\n\r\n\
                      Final-Recipient: rfc822; joe@far.test\r\nAction: failed\r\n\
                      Status: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 No such user\r\n";
const COMPLAINT: &str = "Feedback-Type: abuse\r\nUser-Agent: loop/1\r\nVersion: 1\r\n\
                         Original-Mail-From: <news@cust.test>\r\nOriginal-Rcpt-To: <joe@far.test>\r\n";

fn server(hop: &Hop, action: &str) -> Server {
    let config = Config::new(hop.address)
        .set("relay", "networks", "[\"127.0.0.9/32\"]")
        .set("domains", "relay", "[\"cust.test\"]")
        .set("memory", "spill", "\"64KiB\"")
        .set("reports", "feedback", "[\"fbl@cust.test\"]")
        .set("reports", "bounces", "[\"b+LOCAL=DOMAIN@cust.test\"]")
        .set("reports", "action", format!("\"{action}\""));
    Server::start(&config)
}

/// Records of the mail log of this type.
fn records(server: &Server, kind: &str, count: usize) -> Vec<Value> {
    until("records", || {
        let all: Vec<Value> = server
            .lines()
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|record: &Value| record["type"] == kind)
            .collect();
        (all.len() == count).then_some(all)
    })
}

#[test]
fn reports_are_read_and_go_on() {
    let hop = Hop::start();
    let server = server(&hop, "deliver");
    let mut client = server.client();
    // Short, and long enough for a side file.
    for padding in [1, 20_000] {
        client.mail("", &["b+joe=far.test@cust.test"], &report("delivery-status", FAILED, padding));
    }
    client.mail(
        "fbl@far.test",
        &["fbl@cust.test", "boss@cust.test"],
        &report("feedback-report", COMPLAINT, 1),
    );
    client.mail("", &["b+joe=far.test@cust.test"], b"Subject: I am away\r\n\r\n");
    client.mail("x@far.test", &["boss@cust.test"], &report("feedback-report", COMPLAINT, 1));
    let mails = hop.wait(5);
    assert_eq!(mails.iter().map(|m| m.to.len()).sum::<usize>(), 6, "all are delivered");
    for record in records(&server, "OOB", 2) {
        assert_eq!(
            (&record["recipient"], &record["verp_recipient"]),
            (&"joe@far.test".into(), &"joe@far.test".into())
        );
        assert_eq!(
            (&record["response"]["code"], &record["message_id"]),
            (&550.into(), &"<1@mx.test>".into())
        );
    }
    let complaint = &records(&server, "Feedback", 1)[0];
    assert_eq!(complaint["feedback_report"]["original_mail_from"], "news@cust.test");
    let of = |kind: &str| server.metric("ringpost_reports_total", &format!("kind=\"{kind}\""));
    assert_eq!((of("bounce"), of("feedback"), of("unreadable")), (2.0, 1.0, 1.0));
}

#[test]
fn reports_are_read_and_thrown_away() {
    let hop = Hop::start();
    let server = server(&hop, "discard");
    let mut client = crate::harness::Client::from([127, 0, 0, 2], server.smtp);
    client.reply().expect("220 ");
    client.say("EHLO far.test").expect("250-");
    for padding in [1, 20_000] {
        client.envelope("", &["b+joe=far.test@cust.test"]);
        client.data(stuffed(&report("delivery-status", FAILED, padding))).expect("250 2.0.0 ");
    }
    // Others get theirs.
    client.mail(
        "fbl@far.test",
        &["fbl@cust.test", "boss@cust.test"],
        &report("feedback-report", COMPLAINT, 1),
    );
    assert_eq!(hop.one().to, ["<boss@cust.test>"]);
    assert_eq!(records(&server, "OOB", 2).len() + records(&server, "Feedback", 1).len(), 3);
    // Nothing else may go where we do not relay.
    client.say("MAIL FROM:<>").expect("250 ");
    client.say("RCPT TO:<b+joe@else.test>").expect("554 5.7.1");
    server.drained();
    assert_eq!(hop.mails().len(), 1);
}
