//! Both forms of each record, peers that send control characters, a writer that is behind.

use super::*;
use crate::base::ids::{LogNumber, MessageId};
use crate::events::Format;
use crate::message::envelope::{Envelope, Notify, SenderOptions};
use serde_json::{Value, json};
use std::sync::mpsc::sync_channel;

const AT: Wall = Wall(1_764_234_000_123);

fn log(format: Format, failures_only: bool) -> (MailLog, Receiver<Said>, Rc<Cell<u64>>) {
    let (to, from) = sync_channel(100);
    let lost = Rc::new(Cell::new(0));
    let count = lost.clone();
    let options = Options { failures_only, host: "mx.example".into(), core: 3 };
    let count_lost = Box::new(move |n| count.set(count.get() + n));
    (MailLog::new(to, format, options, count_lost), from, lost)
}

fn lines(from: &Receiver<Said>) -> Vec<String> {
    let mut text = Vec::new();
    while let Ok(Said::Mail { bytes, .. }) = from.try_recv() {
        text.extend(bytes);
    }
    String::from_utf8(text).expect("records are UTF-8").lines().map(Into::into).collect()
}

fn id() -> QueueId {
    QueueId { log: LogNumber(0), message: MessageId(77) }
}

fn envelope(to: &[&[u8]]) -> Envelope {
    let mut envelope = Envelope::default();
    envelope.begin(b"a@client.test", SenderOptions::default(), b"");
    to.iter().for_each(|r| envelope.push(r, Notify::DEFAULT, b""));
    envelope
}

const CLIENT: Client<'_> = Client {
    address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
    name: b"",
    helo: b"client.test",
    protocol: "ESMTPSA",
    tls: Some(("TLSv1.3", "TLS_AES_256_GCM_SHA384")),
    user: Some("ann"),
};

fn attempt(fate: Fate) -> Attempt<'static> {
    Attempt {
        fate,
        id: Some(id()),
        sender: b"a@client.test",
        recipient: b"b@next.test",
        size: 1234,
        arrival: Wall(AT.0 - 2500),
        age: Duration::from_millis(2500),
        took: Duration::from_millis(500),
        queue: "next.test",
        site: "mx.next.test",
        local: false,
        server: "mx1.next.test",
        attempts: 1,
        reply: (450, [4, 2, 1], b"come back later"),
    }
}

#[test]
fn json_has_the_fields_of_kumomta() {
    let (log, from, _) = log(Format::Json, false);
    let (one, two) = (envelope(&[b"b@next.test"]), envelope(&[b"b@next.test", b"c@next.test"]));
    for envelope in [&one, &two] {
        let (id, envelope) = (Some(id()), envelope.view());
        log.reception(AT, &Reception { id, client: Some(CLIENT), envelope, size: 1234, about: None });
    }
    log.attempt(AT, &attempt(Fate::TransientFailure));
    log.removal(AT, id(), b"by hand");
    log.attempt(AT, &attempt(Fate::Delayed));
    log.flush();
    let got: Vec<Value> = lines(&from).iter().map(|l| serde_json::from_str(l).expect(l)).collect();
    let name = String::from_utf8(id().text().to_vec()).unwrap();
    assert_eq!(
        got[0],
        json!({
            "type": "Reception", "time": "2025-11-27T09:00:00.123Z", "timestamp": 1_764_234_000, "core": 3,
            "id": name, "sender": "a@client.test", "recipient": "b@next.test", "size": 1234,
            "peer_address": {"name": "", "addr": "192.0.2.7"}, "helo": "client.test",
            "reception_protocol": "ESMTPSA", "tls_protocol_version": "TLSv1.3",
            "tls_cipher": "TLS_AES_256_GCM_SHA384", "user": "ann",
        })
    );
    assert_eq!(got[1]["recipient"], json!(["b@next.test", "c@next.test"]));
    assert_eq!(got[1]["recipients"], 2);
    assert_eq!(
        got[2],
        json!({
            "type": "TransientFailure", "time": "2025-11-27T09:00:00.123Z", "timestamp": 1_764_234_000,
            "core": 3, "id": name, "sender": "a@client.test", "recipient": "b@next.test",
            "queue": "next.test", "site": "mx.next.test", "size": 1234,
            "response": {
                "code": 450, "enhanced_code": {"class": 4, "subject": 2, "detail": 1},
                "content": "come back later",
            },
            "peer_address": {"name": "mx1.next.test"}, "delivery_protocol": "ESMTP", "num_attempts": 1,
            "created": 1_764_233_997, "delay_ms": 2500, "attempt_ms": 500,
        })
    );
    assert_eq!((&got[3]["type"], &got[3]["reason"]), (&json!("AdminBounce"), &json!("by hand")));
    let delayed = (&got[4]["type"], &got[4]["recipient"], &got[4]["delay_ms"]);
    assert_eq!(delayed, (&json!("Delayed"), &json!("b@next.test"), &json!(2500)));
}

#[test]
fn a_late_recipient_is_no_attempt_in_the_text_form() {
    let (log, from, _) = log(Format::Text, false);
    log.attempt(AT, &attempt(Fate::Delayed));
    log.flush();
    let [line] = &lines(&from)[..] else { panic!("one line") };
    let said = "to=<b@next.test>, delay=2.50, dsn=4.2.1 (host mx1.next.test said: 450 4.2.1 come back later)";
    assert!(line.ends_with(&format!("]: {}: sender delay notification: {said}", id())), "{line}");
    assert!(line.contains(" postfix/bounce[") && !line.contains("status="));
}

#[test]
fn text_is_what_readers_of_postfix_know() {
    let (log, from, _) = log(Format::Text, false);
    let to = envelope(&[b"b@next.test"]);
    let original = QueueId { log: LogNumber(0), message: MessageId(5) };
    let about = Some(original);
    let of = |client, about| Reception { id: Some(id()), client, envelope: to.view(), size: 1234, about };
    log.reception(AT, &of(Some(CLIENT), None));
    log.reception(AT, &of(None, about));
    log.attempt(AT, &attempt(Fate::TransientFailure));
    let fine = (250, [2, 0, 0], &b"Ok"[..]);
    log.attempt(AT, &Attempt { reply: fine, ..attempt(Fate::Delivery) });
    log.attempt(AT, &Attempt { local: true, server: "", ..attempt(Fate::Delivery) });
    log.attempt(AT, &Attempt { reply: (0, [5, 4, 7], b"too old"), server: "", ..attempt(Fate::Expiration) });
    let reply = b"550 5.1.1 No such user";
    let refused = Rejection { client: CLIENT, command: "RCPT", sender: b"a@x", recipient: b"no@y", reply };
    log.rejection(AT, &refused);
    log.rejection(AT, &Rejection { command: "DATA", recipient: b"", ..refused });
    log.flush();
    let id = String::from_utf8(id().text().to_vec()).unwrap();
    let (begin, pid) = ("2025-11-27T09:00:00.123Z mx.example postfix/", std::process::id());
    let expected = [
        ("smtpd", format!("{id}: client=unknown[192.0.2.7], sasl_username=ann")),
        ("qmgr", format!("{id}: from=<a@client.test>, size=1234, nrcpt=1 (queue active)")),
        ("qmgr", format!("{id}: from=<a@client.test>, size=1234, nrcpt=1 (queue active)")),
        ("bounce", format!("{original}: sender non-delivery notification: {id}")),
        (
            "smtp",
            format!(
                "{id}: to=<b@next.test>, relay=mx1.next.test, delay=2.50, delays=0/2.00/0/0.50, dsn=4.2.1, \
                 status=deferred (host mx1.next.test said: 450 4.2.1 come back later)"
            ),
        ),
        (
            "smtp",
            format!(
                "{id}: to=<b@next.test>, relay=mx1.next.test, delay=2.50, delays=0/2.00/0/0.50, dsn=2.0.0, \
                 status=sent (250 2.0.0 Ok)"
            ),
        ),
        (
            "virtual",
            format!(
                "{id}: to=<b@next.test>, relay=mailbox, delay=2.50, delays=0/2.00/0/0.50, dsn=4.2.1, \
                 status=sent (host mailbox said: 450 4.2.1 come back later)"
            ),
        ),
        (
            "smtp",
            format!(
                "{id}: to=<b@next.test>, relay=none, delay=2.50, delays=0/2.00/0/0.50, dsn=5.4.7, \
                 status=bounced (too old)"
            ),
        ),
        ("qmgr", format!("{id}: from=<a@client.test>, status=expired, returned to sender")),
        (
            "smtpd",
            "NOQUEUE: reject: RCPT from unknown[192.0.2.7]: 550 5.1.1 <no@y>: No such user; from=<a@x> \
             to=<no@y> proto=ESMTPSA helo=<client.test>"
                .into(),
        ),
        (
            "smtpd",
            "NOQUEUE: reject: DATA from unknown[192.0.2.7]: 550 5.1.1 No such user; from=<a@x> \
             proto=ESMTPSA helo=<client.test>"
                .into(),
        ),
    ];
    let expected = expected.iter().map(|(daemon, text)| format!("{begin}{daemon}[{pid}]: {text}"));
    assert_eq!(lines(&from), expected.collect::<Vec<_>>());
}

#[test]
fn no_peer_adds_a_line_or_a_field() {
    let evil = b"\"b\\\r\nNov 27 x: to=<y>, \xff\x00\x1b[2J";
    for (format, count) in [(Format::Json, 3), (Format::Text, 4), (Format::Journald, 4)] {
        let (log, from, _) = log(format, false);
        let to = envelope(&[evil]);
        let client = Client { name: evil, helo: evil, user: Some("u\n x"), ..CLIENT };
        let (id, envelope) = (Some(id()), to.view());
        log.reception(AT, &Reception { id, client: Some(client), envelope, size: 1, about: None });
        let reply = (550, [5, 0, 0], &evil[..]);
        log.attempt(AT, &Attempt { recipient: evil, server: "a b\n", reply, ..attempt(Fate::Bounce) });
        let refused = Rejection { client, command: "RCPT", sender: evil, recipient: evil, reply: b"550" };
        log.rejection(AT, &refused);
        log.flush();
        let got = lines(&from);
        assert_eq!(got.len(), count, "{got:?}");
        assert!(got.iter().all(|l| !l.chars().any(char::is_control)), "{got:?}");
        if format == Format::Json {
            let values: Vec<Value> = got.iter().map(|l| serde_json::from_str(l).expect(l)).collect();
            assert_eq!(values[1]["recipient"], String::from_utf8_lossy(evil).as_ref());
        } else {
            assert!(got.iter().any(|l| l.contains("relay=a?b?, ")), "{got:?}");
        }
    }
}

#[test]
fn failures_only() {
    let (log, from, _) = log(Format::Json, true);
    let to = envelope(&[b"b@next.test"]);
    let (id, envelope) = (Some(id()), to.view());
    log.reception(AT, &Reception { id, client: None, envelope, size: 1, about: None });
    log.attempt(AT, &attempt(Fate::Delivery));
    log.attempt(AT, &attempt(Fate::Bounce));
    log.flush();
    let got = lines(&from);
    assert!(got.len() == 1 && got[0].contains("Bounce"), "{got:?}");
}

/// Nothing is written while the writer is away: memory is bounded, what is dropped is counted and told.
#[test]
fn who_is_behind_loses_records_and_says_so() {
    let (log, from, lost) = log(Format::Json, false);
    let mut count = 0;
    while lost.get() < 100 {
        log.attempt(AT, &attempt(Fate::Delivery));
        count += 1;
        assert!(count < 100_000);
    }
    let mut held = Vec::new();
    while let Ok(said) = from.try_recv() {
        held.push(said);
    }
    assert_eq!(held.len(), BUFFERS);
    let mut written = 0;
    for said in held {
        let Said::Mail { mut bytes, lost, back, .. } = said else { panic!("a record") };
        assert!(lost == 0 && bytes.len() < FULL + 2000);
        written += bytes.iter().filter(|b| **b == b'\n').count();
        bytes.clear();
        back.try_send(bytes).unwrap();
    }
    log.flush();
    let Ok(Said::Mail { bytes, lost: told, .. }) = from.try_recv() else { panic!("a record") };
    assert_eq!(told, 100);
    written += bytes.iter().filter(|b| **b == b'\n').count();
    assert_eq!(written + 100, count);
}

/// What is there at the end is written.
#[test]
fn the_last_handle_flushes() {
    let (log, from, _) = log(Format::Json, false);
    let other = log.clone();
    log.attempt(AT, &attempt(Fate::Delivery));
    drop(log);
    assert!(from.try_recv().is_err());
    drop(other);
    assert_eq!(lines(&from).len(), 1);
}

#[test]
fn reports_say_what_they_are_about() {
    let delivery = Delivery {
        reporting: b"mx.far.test".to_vec(),
        message: b"<1@client.test>".to_vec(),
        ..Delivery::default()
    };
    let of = Recipient {
        address: b"jim@deep.test".to_vec(),
        original: b"joe@far.test".to_vec(),
        status: [5, 1, 1],
        server: b"deep.test".to_vec(),
        said: b"550 5.1.1 no \"such\" user\n".to_vec(),
        ..Recipient::default()
    };
    let feedback = Feedback {
        kind: b"abuse".to_vec(),
        agent: b"loop/1".to_vec(),
        sender: b"a@client.test".to_vec(),
        recipients: vec![b"joe@far.test".to_vec(), b"x@far.test".to_vec()],
        incidents: 2,
        ..Feedback::default()
    };
    let both = |log: &MailLog| {
        let to = b"b+joe=far.test@client.test";
        log.returned(AT, &Returned { id: id(), to, named: b"joe@far.test", delivery: &delivery, of: &of });
        let (sender, recipient) = (b"fbl@far.test", b"fbl@client.test");
        log.complaint(AT, &Complaint { id: id(), sender, recipient, feedback: &feedback });
        log.flush();
    };
    // They are no successes.
    let (json, from, _) = log(Format::Json, true);
    both(&json);
    let got: Vec<Value> = lines(&from).iter().map(|l| serde_json::from_str(l).expect(l)).collect();
    let [returned, complaint] = &got[..] else { panic!("{got:?}") };
    assert_eq!((&returned["type"], &returned["recipient"]), (&json!("OOB"), &json!("jim@deep.test")));
    assert_eq!(returned["verp_recipient"], "joe@far.test");
    assert_eq!(returned["response"]["code"], 550);
    assert_eq!(returned["response"]["enhanced_code"], json!({"class": 5, "subject": 1, "detail": 1}));
    assert_eq!(returned["response"]["content"], "550 5.1.1 no \"such\" user\n");
    assert_eq!(returned["peer_address"], json!({"name": "deep.test"}));
    let report = &complaint["feedback_report"];
    assert_eq!((&complaint["type"], &report["feedback_type"]), (&json!("Feedback"), &json!("abuse")));
    assert_eq!(report["original_rcpt_to"], json!(["joe@far.test", "x@far.test"]));
    assert_eq!((&report["incidents"], &report["reported_domain"]), (&json!(2), &json!([])));
    let (text, from, _) = log(Format::Text, true);
    both(&text);
    let got = lines(&from);
    assert!(
        got[0].contains(
            "failed reported to <b+joe=far.test@client.test>: original=<jim@deep.test>, code 5.1.1"
        ),
        "{got:?}"
    );
    assert!(
        got[1].contains("abuse reported by loop/1: sender=<a@client.test>, original=<joe@far.test>"),
        "{got:?}"
    );
    assert!(got.iter().all(|line| line.contains("postfix/feedback[") && !line.contains(" to=<")), "{got:?}");
}
