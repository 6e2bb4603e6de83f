//! Reports of each kind, end to end, as a mail parser of others reads them: RFC 3461, 3464, 6522, 6533.

use crate::harness::dns::NameServer;
use crate::harness::{Config, Hop, Mail, Server, until};
use mail_parser::{MessageParser, MessagePart, MimeHeaders, PartType};
use std::collections::BTreeMap;

const BODY: &[u8] = b"From: a@client.test\r\nSubject: the original\r\n\r\nsecret text\r\n";

type Fields = BTreeMap<String, String>;

/// A report, taken apart.
#[derive(Debug)]
struct Report {
    /// To whom it went, as in RCPT and MAIL.
    mail: Mail,
    subject: String,
    auto_submitted: String,
    /// For people.
    text: String,
    /// Types of its parts.
    types: Vec<String>,
    message: Fields,
    recipients: Vec<Fields>,
    /// What is returned, decoded.
    returned: String,
}

/// Field names in lower case.
fn fields(group: &str) -> Fields {
    let unfolded = group.replace("\r\n ", " ").replace("\r\n\t", " ");
    let pairs = unfolded.lines().filter_map(|l| l.split_once(':'));
    let pairs = pairs.map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()));
    let mut out = Fields::new();
    for (name, value) in pairs {
        assert!(out.insert(name.clone(), value).is_none(), "{name} twice in\n{group}");
    }
    out
}

fn kind(part: &MessagePart<'_>) -> String {
    let kind = part.content_type().expect("a type");
    format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or(""))
}

impl Report {
    #[track_caller]
    fn of(mail: &Mail) -> Report {
        let content = mail.content();
        assert!(mail.from.starts_with("<>"), "{}", mail.from);
        let parsed = MessageParser::default().parse(&content).expect("a message");
        let root = parsed.content_type().expect("a type");
        assert_eq!((root.ctype(), root.subtype()), ("multipart", Some("report")));
        assert_eq!(root.attribute("report-type"), Some("delivery-status"));
        let PartType::Multipart(ids) = &parsed.parts[0].body else { panic!("no parts: {parsed:?}") };
        let parts: Vec<&MessagePart<'_>> = ids.iter().map(|i| &parsed.parts[*i as usize]).collect();
        assert_eq!(parts.len(), 3, "text, status, original");
        let text_of = |p: &MessagePart<'_>| String::from_utf8(p.contents().to_vec()).expect("UTF-8");
        let status = text_of(parts[1]);
        let mut groups = status.trim_end().split("\r\n\r\n").map(fields);
        Report {
            subject: parsed.subject().expect("a subject").into(),
            auto_submitted: parsed.header_raw("Auto-Submitted").expect("it is automatic").trim().into(),
            text: text_of(parts[0]),
            types: parts.iter().map(|p| kind(p)).collect(),
            message: groups.next().expect("fields of the message"),
            recipients: groups.collect(),
            returned: text_of(parts[2]),
            mail: mail.clone(),
        }
    }

    /// The fields of a recipient.
    #[track_caller]
    fn about(&self, address: &str) -> &Fields {
        let ends = |r: &&Fields| r["final-recipient"].ends_with(&format!("; {address}"));
        self.recipients.iter().find(ends).unwrap_or_else(|| panic!("nothing about {address}: {self:#?}"))
    }
}

/// Waits for `n` reports; there are not more.
#[track_caller]
fn reports(hop: &Hop, server: &Server, n: usize) -> Vec<Report> {
    let all = || hop.mails().into_iter().filter(|m| m.from.starts_with("<>")).collect::<Vec<_>>();
    until("reports", || (all().len() >= n).then_some(()));
    server.drained();
    assert_eq!(all().len(), n, "{:?}", all());
    all().iter().map(Report::of).collect()
}

/// `RCPT TO` is answered by what the address begins with.
fn judging() -> Hop {
    let hop = Hop::start();
    hop.answer(|c| {
        let rest = c.strip_prefix("RCPT TO:<")?;
        let refusals =
            [("bad", "550 5.1.1 No such person"), ("full", "554 Over quota"), ("late", "451 4.7.1 Later")];
        let (_, reply) = refusals.iter().find(|(name, _)| rest.starts_with(name))?;
        Some(format!("{reply}\r\n").into_bytes())
    });
    hop
}

fn is_date(text: &str) -> bool {
    let header = format!("Date: {text}\r\n\r\n");
    let parsed = MessageParser::default().parse(header.as_bytes());
    parsed.is_some_and(|m| m.date().is_some_and(|d| d.is_valid() && d.year >= 2024))
}

#[test]
fn failed() {
    let hop = judging();
    let server = Server::relay_to(hop.address);
    let to = ["bad@next.test> ORCPT=rfc822;first+2Bname@old.test", "ok@next.test", "full@next.test"];
    let id = server.client().mail("a@client.test> ENVID=QQ+2B314 RET=FULL", &to, BODY);
    let [r] = &reports(&hop, &server, 1)[..] else { panic!() };
    assert_eq!(r.mail.to, ["<a@client.test>"]);
    assert_eq!(
        (r.subject.as_str(), r.auto_submitted.as_str()),
        ("Undelivered mail returned to sender", "auto-replied")
    );
    assert_eq!(r.types, ["text/plain", "message/delivery-status", "message/rfc822"]);
    assert!(r.text.contains("<bad@next.test>: failed") && r.text.contains(&id), "{}", r.text);
    assert_eq!(r.message["reporting-mta"], "dns; mx.test.example");
    assert_eq!(r.message["original-envelope-id"], "QQ+314");
    assert!(is_date(&r.message["arrival-date"]), "{:?}", r.message);
    assert_eq!(r.recipients.len(), 2);
    let bad = r.about("bad@next.test");
    assert_eq!(bad["original-recipient"], "rfc822; first+name@old.test");
    assert_eq!(bad["final-recipient"], "rfc822; bad@next.test");
    assert_eq!((bad["action"].as_str(), bad["status"].as_str()), ("failed", "5.1.1"));
    assert_eq!(bad["diagnostic-code"], "smtp; 550 5.1.1 No such person");
    assert_eq!(bad["remote-mta"], "dns; [127.0.0.1]");
    assert!(is_date(&bad["last-attempt-date"]) && !bad.contains_key("will-retry-until"));
    let full = r.about("full@next.test");
    assert_eq!(
        (full["status"].as_str(), full["diagnostic-code"].as_str()),
        ("5.0.0", "smtp; 554 Over quota")
    );
    assert!(r.returned.ends_with("\r\n\r\nsecret text\r\n"), "{}", r.returned);
    assert_eq!(server.metric("ringpost_dsn_total", ""), 1.0);
}

#[test]
fn one_report_for_failures_at_several_destinations() {
    let (hop, other) = (judging(), judging());
    let mut config = Config::new(hop.address);
    config.tail = format!("[[route]]\ndomain = \"other.test\"\nnext_hop = \"{}\"\n", other.address);
    let server = Server::start(&config);
    server.client().mail("a@client.test", &["bad1@next.test", "bad2@other.test"], BODY);
    let [r] = &reports(&hop, &server, 1)[..] else { panic!() };
    assert_eq!(r.recipients.len(), 2, "{r:?}");
}

#[test]
fn delayed_then_failed() {
    let hop = judging();
    let config = Config::new(hop.address)
        .set("queue", "retry_first", "\"200ms\"")
        .set("queue", "retry_max", "\"200ms\"")
        .set("queue", "delay_warning", "\"1s\"")
        .set("queue", "lifetime", "\"4s\"");
    let server = Server::start(&config);
    let to = ["late1@next.test", "late2@next.test> NOTIFY=FAILURE", "late3@next.test> NOTIFY=DELAY"];
    server.client().mail("a@client.test", &to, BODY);
    server.drained();
    let all: Vec<Report> = hop.mails().iter().filter(|m| m.from.starts_with("<>")).map(Report::of).collect();
    // Each is told of once. Retries have times of their own: on a busy machine the last attempt of one can
    // be before the end of the lifetime, that of the other after it, and then there are two reports.
    let told = |action: &str| {
        let fields = all.iter().flat_map(|r| &r.recipients).filter(|f| f["action"] == action);
        let mut who: Vec<&str> = fields.map(|f| f["final-recipient"].as_str()).collect();
        who.sort_unstable();
        who.join(", ")
    };
    assert_eq!(told("delayed"), "rfc822; late1@next.test, rfc822; late3@next.test");
    assert_eq!(told("failed"), "rfc822; late1@next.test, rfc822; late2@next.test");
    let of = |action: &str| {
        let fits = |r: &&Report| {
            let late1 =
                |f: &Fields| f["action"] == action && f["final-recipient"].ends_with("late1@next.test");
            r.recipients.iter().any(late1)
        };
        all.iter().find(fits).expect("a report")
    };
    let delayed = of("delayed");
    assert_eq!(delayed.subject, "Delayed mail (still being tried)");
    assert_eq!(delayed.types[2], "text/rfc822-headers");
    let late = delayed.about("late1@next.test");
    assert_eq!(
        (late["status"].as_str(), late["diagnostic-code"].as_str()),
        ("4.7.1", "smtp; 451 4.7.1 Later")
    );
    assert!(is_date(&late["will-retry-until"]) && is_date(&late["last-attempt-date"]));
    assert_eq!(of("failed").about("late1@next.test")["status"], "5.4.7");
    // The mail log says whose senders were told.
    let late = || {
        let lines = server.lines();
        let records = lines.iter().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        let of = records.filter(|r| r["type"] == "Delayed" && r["response"]["code"] == 451);
        let mut who: Vec<String> = of.map(|r| r["recipient"].as_str().unwrap_or("").to_owned()).collect();
        who.sort_unstable();
        who.join(", ")
    };
    until("both are recorded", || (late() == "late1@next.test, late3@next.test").then_some(()));
}

#[test]
fn relayed_or_left_to_the_next_hop() {
    let hop = judging();
    let server = Server::relay_to(hop.address);
    let to = ["ok@next.test> NOTIFY=SUCCESS ORCPT=rfc822;x@y.test", "quiet@next.test> NOTIFY=FAILURE"];
    server.client().mail("a@client.test> ENVID=E1 RET=FULL", &to, BODY);
    let [r] = &reports(&hop, &server, 1)[..] else { panic!() };
    assert_eq!(r.recipients.len(), 1);
    let ok = r.about("ok@next.test");
    assert_eq!((ok["action"].as_str(), ok["status"].as_str()), ("relayed", "2.0.0"));
    assert_eq!(ok["original-recipient"], "rfc822; x@y.test");
    assert_eq!(ok["remote-mta"], "dns; [127.0.0.1]");
    assert_eq!(r.message["original-envelope-id"], "E1");
    assert!(!r.returned.contains("secret text"), "RET is about failures");

    let hop = judging();
    hop.offer(&["PIPELINING", "DSN"]);
    let server = Server::relay_to(hop.address);
    let to = "ok@next.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@y.test";
    server.client().mail("a@client.test> ENVID=E+2B1 RET=HDRS", &[to, "b@next.test> NOTIFY=NEVER"], BODY);
    assert!(reports(&hop, &server, 0).is_empty());
    let mail = hop.one();
    assert!(mail.from.ends_with(" RET=HDRS ENVID=E+2B1"), "{}", mail.from);
    assert_eq!(mail.to[0], "<ok@next.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@y.test");
    assert_eq!(mail.to[1], "<b@next.test> NOTIFY=NEVER");
}

#[test]
fn expanded() {
    let hop = judging();
    hop.offer(&["PIPELINING", "DSN"]);
    let dir = crate::harness::server::directory();
    let map = dir.path().join("virtual");
    #[allow(clippy::disallowed_methods, reason = "a test writes the map")]
    std::fs::write(&map, "all@local.test  one@next.test, bad@next.test\nme@local.test you@next.test\n")
        .expect("a file");
    let config = Config::new(hop.address).set("domains", "relay", "[\"local.test\", \"next.test\"]").set(
        "domains",
        "virtual",
        format!("\"{}\"", map.display()),
    );
    let server = Server::start(&config);
    let to =
        ["all@local.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;all@old.test", "me@local.test> NOTIFY=SUCCESS"];
    server.client().mail("a@client.test", &to, BODY);
    let all = reports(&hop, &server, 2);
    let expanded = all.iter().find(|r| r.recipients[0]["action"] == "expanded").expect("a report");
    let list = expanded.about("all@local.test");
    assert_eq!(
        (list["status"].as_str(), list["original-recipient"].as_str()),
        ("2.0.0", "rfc822; all@old.test")
    );
    let failed = all.iter().find(|r| r.recipients[0]["action"] == "failed").expect("a report");
    assert_eq!(failed.about("bad@next.test")["original-recipient"], "rfc822; all@old.test");
    let mut to: Vec<String> =
        hop.mails().into_iter().filter(|m| !m.from.starts_with("<>")).flat_map(|m| m.to).collect();
    to.sort_unstable();
    // RFC 3461 section 5.2.7: of a list the success has been told; one address for another is passed through.
    assert_eq!(
        to,
        ["<one@next.test> NOTIFY=FAILURE ORCPT=rfc822;all@old.test", "<you@next.test> NOTIFY=SUCCESS"]
    );
}

#[test]
fn the_exchanger_that_refused_is_named() {
    let hop = Hop::on(Hop::later());
    hop.answer(|c| c.starts_with("RCPT TO:<bad").then(|| b"550 5.1.1 No such person\r\n".to_vec()));
    let ip = hop.address.ip();
    let zone = format!(
        "next.test. IN MX 10 mx7.provider.test.\nclient.test. IN MX 10 mx7.provider.test.\n\
         mx7.provider.test. IN A {ip}\n"
    );
    let names = NameServer::start(&zone);
    let config = Config::new(([127, 0, 0, 1], 1).into())
        .set("relay", "smarthost", "\"\"")
        .set("relay", "mx_port", "2525")
        .set("dns", "servers", format!("[\"{}\"]", names.address))
        .set("dns", "dnssec", "\"off\"");
    let server = Server::start(&config);
    server.client().mail("a@client.test", &["bad@next.test", "x@gone.test"], BODY);
    let all = reports(&hop, &server, 1);
    assert_eq!(all[0].about("bad@next.test")["remote-mta"], "dns; mx7.provider.test");
    assert!(all[0].text.contains("mx7.provider.test said: 550"), "{}", all[0].text);
    let gone = all[0].about("x@gone.test");
    assert!(
        !gone.contains_key("remote-mta") && gone["diagnostic-code"].starts_with("x-ringpost; "),
        "{gone:?}"
    );
}

#[test]
fn what_is_returned_is_bounded() {
    let hop = judging();
    let config = Config::new(hop.address).set("limits", "bounce_size", "\"2KiB\"");
    let server = Server::start(&config);
    let mut client = server.client();
    let long = [BODY, "secret text\r\n".repeat(400).as_bytes()].concat();
    client.mail("long@client.test> RET=FULL", &["bad@next.test"], &long);
    client.mail("headers@client.test> RET=HDRS", &["bad@next.test"], BODY);
    client.mail("short@client.test", &["bad@next.test"], BODY);
    for r in reports(&hop, &server, 3) {
        let whole = r.mail.to[0] == "<short@client.test>";
        assert_eq!(r.returned.contains("secret text"), whole, "{r:?}");
        assert!(r.returned.contains("Subject: the original"));
        assert_eq!(r.types[2], if whole { "message/rfc822" } else { "text/rfc822-headers" });
    }
}

/// RFC 6533: to a sender with an ASCII address a report is ASCII, whatever it is about.
#[test]
fn about_international_mail() {
    let hop = judging();
    hop.offer(&["PIPELINING", "8BITMIME", "SMTPUTF8"]);
    let server = Server::relay_to(hop.address);
    let mut client = server.client();
    let body = "From: <d\u{f6}ner@b\u{fc}cher.test>\r\nSubject: Gr\u{fc}\u{df}e\r\n\r\nx\r\n".as_bytes();
    let bad = "bad\u{f6}@next.test> ORCPT=utf-8;alt\\x{F6}@old.test";
    client.mail("a@client.test> SMTPUTF8", &[bad], body);
    let [r] = &reports(&hop, &server, 1)[..] else { panic!() };
    assert!(r.mail.wire.is_ascii() && !r.mail.from.contains("SMTPUTF8"), "{:?}", r.mail);
    assert_eq!(r.types, ["text/plain", "message/delivery-status", "message/global-headers"]);
    let one = &r.recipients[0];
    assert_eq!(one["final-recipient"], "utf-8; bad\\x{F6}@next.test");
    assert_eq!(one["original-recipient"], "utf-8; alt\\x{F6}@old.test");
    assert!(r.returned.contains("Subject: Gr\u{fc}\u{df}e\r\n"), "{}", r.returned);

    // To a sender whose address is not, it is UTF-8 throughout, and needs a hop that takes that.
    let sender = "d\u{f6}ner@b\u{fc}cher.test> SMTPUTF8";
    client.mail(sender, &["bad@next.test"], body);
    let all = reports(&hop, &server, 2);
    let r = all.iter().find(|r| r.mail.to[0].contains("d\u{f6}ner")).expect("a report");
    assert!(r.mail.from.contains("SMTPUTF8"), "{}", r.mail.from);
    assert_eq!(r.types, ["text/plain", "message/global-delivery-status", "message/global-headers"]);
}

/// A next hop without SMTPUTF8 is a failure with 5.6.7; its report gets through all the same.
#[test]
fn a_next_hop_without_smtputf8() {
    let hop = judging();
    let server = Server::relay_to(hop.address);
    let body = "From: <d\u{f6}ner@b\u{fc}cher.test>\r\n\r\nx\r\n".as_bytes();
    server.client().mail("a@client.test> SMTPUTF8", &["ok@next.test"], body);
    let [r] = &reports(&hop, &server, 1)[..] else { panic!() };
    let one = r.about("ok@next.test");
    assert_eq!((one["action"].as_str(), one["status"].as_str()), ("failed", "5.6.7"));
    assert!(r.returned.contains("d\u{f6}ner@b\u{fc}cher.test"), "{}", r.returned);
}

#[test]
fn double_bounces_are_counted() {
    let hop = Hop::start();
    hop.answer(|c| c.starts_with("RCPT TO:<bad").then(|| b"550 5.1.1 Nobody\r\n".to_vec()));
    for (choice, mails) in [("postmaster", 1.0), ("drop", 0.0)] {
        let config = Config::new(hop.address).set("domains", "postmaster", "\"pm@next.test\"").set(
            "queue",
            "double_bounce",
            format!("\"{choice}\""),
        );
        let server = Server::start(&config);
        server.client().mail("bad1@client.test", &["bad2@next.test"], BODY);
        // And an automatic answer, which gets none.
        let answer = b"From: a@client.test\r\nAuto-Submitted: auto-replied\r\n\r\naway\r\n";
        server.client().mail("a@client.test", &["bad3@next.test"], answer);
        server.drained();
        let count =
            |result: &str| server.metric("ringpost_double_bounces_total", &format!("result=\"{result}\""));
        assert_eq!((count("postmaster"), count("dropped")), (2.0 * mails, 2.0 - 2.0 * mails), "{choice}");
    }
    assert_eq!(hop.mails().len(), 2);
    assert!(hop.mails().iter().all(|m| m.to == ["<pm@next.test>"]), "{:?}", hop.mails());
}

/// What is owed outlives the process, and is told once.
#[test]
fn what_is_owed_survives_a_kill() {
    let hop = judging();
    let away = Hop::later();
    let mut config = Config::new(hop.address).set("queue", "retry_first", "\"1s\"");
    config.tail = format!("[[route]]\ndomain = \"client.test\"\nnext_hop = \"{away}\"\n");
    let server = Server::start(&config);
    // The sender's server is known to be away.
    let first = server.client().mail("b@next.test", &["x@client.test"], BODY);
    server.listed(&first, |m| {
        m["recipients"][0]["delay_reason"].as_str().is_some_and(|r| r.contains("connect"))
    });
    let ids: Vec<String> = (0..5)
        .map(|_| server.client().mail("a@client.test", &["bad@next.test", "ok@next.test"], BODY))
        .collect();
    let owed = |m: &serde_json::Value| {
        let reason = m["recipients"][0]["delay_reason"].as_str().unwrap_or("");
        reason.starts_with("failed, its sender is still to be told: 550 5.1.1")
    };
    ids.iter().for_each(|id| drop(server.listed(id, owed)));
    let delivered = hop.mails().len();
    assert_eq!(delivered, 5);
    let dir = server.kill();
    let there = Hop::on(away);
    let server = Server::start_in(dir, &config);
    there.wait(6);
    server.drained();
    let mails = there.mails();
    let told = mails.iter().filter(|m| m.from.starts_with("<>")).map(Report::of).collect::<Vec<_>>();
    assert_eq!((told.len(), mails.len(), hop.mails().len()), (5, 6, delivered));
    for id in &ids {
        assert_eq!(told.iter().filter(|r| r.message["x-queue-id"] == *id).count(), 1, "{id}");
    }
}
