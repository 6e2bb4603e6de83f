//! Three servers of ours that find each other by a signed zone: `origin`, where mail comes from; `near`,
//! first mail exchanger of near.test; `far`, its second one. Behind `near` is a mailbox whose answers the
//! test chooses; reports go to `inbox`, by DNS as all mail.

mod report;

use crate::harness::dns::NameServer;
use crate::harness::lmtp::Lmtp;
use crate::harness::pki::tlsa;
use crate::harness::secure::Pair;
use crate::harness::server::directory;
use crate::harness::{Config, Hop, Mail, Server, until};
use report::Report;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

const BODY: &[u8] = b"From: a@client.test\r\nSubject: the original\r\n\r\nsecret text\r\n";
const FROM: &str = "a@client.test";

/// What the servers have in common, and what is around them.
struct Town {
    names: NameServer,
    dir: TempDir,
    near: SocketAddr,
    far: SocketAddr,
    /// Holds the mailboxes of near.test.
    mailbox: Hop,
    /// Takes the reports.
    inbox: Hop,
    /// Mail exchanger of other.test; not of ours.
    other: Hop,
    /// Has the mailboxes of box.test, behind `near`.
    lmtp: (Lmtp, SocketAddr),
}

#[allow(clippy::disallowed_methods, reason = "a test writes its files")]
fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).expect("a file");
    format!("{:?}", path.display().to_string())
}

fn mx(domain: &str, preference: u16, host: &str) -> String {
    format!("{domain}. IN MX {preference} {host}.\n")
}

fn a(host: &str, address: SocketAddr) -> String {
    format!("{host}. IN A {}\n", address.ip())
}

/// `3 0 1`: the digest of the certificate.
fn fits(pair: &Pair) -> String {
    let digest: String = Sha256::digest(&pair.der).iter().map(|b| format!("{b:02x}")).collect();
    format!("3 0 1 {digest}")
}

impl Town {
    fn new() -> Town {
        let dir = directory();
        let (near, far) = (Hop::later(), Hop::later());
        let (inbox, other) = (Hop::on(Hop::later()), Hop::on(Hop::later()));
        let near_pair = Pair::make(dir.path(), "near", "mx.near.test");
        let far_pair = Pair::make(dir.path(), "far", "mx.far.test");
        let zone = [
            mx("client.test", 10, "mx.client.test") + &a("mx.client.test", inbox.address),
            mx("other.test", 10, "mx.other.test") + &a("mx.other.test", other.address),
            mx("near.test", 10, "mx.near.test") + &mx("near.test", 20, "mx.far.test"),
            mx("box.test", 10, "mx.near.test") + &mx("far.test", 10, "mx.far.test"),
            a("mx.near.test", near) + &tlsa("mx.near.test", &fits(&near_pair)),
            a("mx.far.test", far) + &tlsa("mx.far.test", &fits(&far_pair)),
            // The certificate of another one; and records that were put in later.
            mx("wrong.test", 10, "mx.wrong.test") + &a("mx.wrong.test", far),
            tlsa("mx.wrong.test", &fits(&near_pair)),
            mx("bogus.test", 10, "mx.bogus.test") + &a("mx.bogus.test", far),
            tlsa("mx.bogus.test", &fits(&near_pair)),
        ];
        let names = NameServer::signed(&zone.concat(), &tlsa("mx.bogus.test", &fits(&far_pair)));
        write(&dir.path().join("anchors"), &names.anchors);
        Town { names, dir, near, far, mailbox: Hop::start(), inbox, other, lmtp: Lmtp::start() }
    }

    /// What all have in common.
    fn config(&self, host: &str) -> Config {
        Config::new(([127, 0, 0, 1], 1).into())
            .set("server", "hostname", format!("{host:?}"))
            .set("relay", "smarthost", "\"\"")
            .set("relay", "mx_port", "2525")
            .set("queue", "retry_first", "\"200ms\"")
            .set("queue", "retry_max", "\"500ms\"")
            .set("dns", "servers", format!("[\"{}\"]", self.names.address))
            .set("dns", "dnssec", "\"validate\"")
            .set("dns", "trust_anchors", format!("{:?}", self.dir.path().join("anchors")))
    }

    /// A mail exchanger: nobody may relay, but to its domains.
    fn exchanger(&self, host: &str, name: &str, address: SocketAddr) -> Config {
        let file = |end: &str| format!("{:?}", self.dir.path().join(format!("{name}.{end}")));
        let mut config = self
            .config(host)
            .set("relay", "networks", "[]")
            .set("tls", "certificate", file("pem"))
            .set("tls", "key", file("key"));
        config.tail = format!("[[listener]]\nprotocol = \"smtp\"\naddress = \"{address}\"\n");
        config
    }

    fn origin(&self) -> Server {
        Server::start(&self.config("origin.test"))
    }

    fn near_config(&self) -> Config {
        let names = ["ok", "bad", "later", "quiet", "one", "two"];
        let known: String = names.iter().map(|name| format!("{name}@near.test OK\n")).collect();
        let known = write(&self.dir.path().join("known"), &(known + "@box.test OK\n"));
        let mut config = self
            .exchanger("mx.near.test", "near", self.near)
            .set("domains", "relay", "[\"near.test\", \"box.test\"]")
            .set("domains", "relay_recipients", known)
            .set("queue", "delay_warning", "\"1s\"");
        config.tail += &format!(
            "[[route]]\ndomain = \"near.test\"\nnext_hop = \"{}\"\n\
             [[route]]\ndomain = \"box.test\"\nnext_hop = \"lmtp:{}\"\n",
            self.mailbox.address, self.lmtp.1
        );
        config
    }

    fn near(&self) -> Server {
        Server::start(&self.near_config())
    }

    fn far(&self) -> Server {
        let lists = write(&self.dir.path().join("lists"), "list@far.test one@near.test, two@near.test\n");
        let config = self
            .exchanger("mx.far.test", "far", self.far)
            .set("domains", "relay", "[\"near.test\", \"far.test\", \"wrong.test\", \"bogus.test\"]")
            .set("domains", "virtual", lists);
        Server::start(&config)
    }

    /// `RCPT TO` at the mailbox is answered by what the address begins with; `late`: "later" is put off.
    fn judging(&self, late: &Arc<AtomicBool>) {
        let late = late.clone();
        self.mailbox.answer(move |c| {
            let name = c.strip_prefix("RCPT TO:<")?;
            let reply = match name.split('@').next()? {
                "bad" | "quiet" => "550 5.1.1 No such person\r\n",
                "later" if late.load(Ordering::Relaxed) => "450 4.2.1 Later\r\n",
                _ => return None,
            };
            Some(reply.into())
        });
    }

    /// The reports that have come.
    fn reports(&self) -> Vec<Report> {
        self.inbox.mails().iter().map(Report::read).collect()
    }
}

/// To whom mail has come, in order of the alphabet.
fn receivers(mails: &[Mail]) -> Vec<String> {
    let name = |to: &String| to.trim_start_matches('<').split('>').next().unwrap_or("").to_owned();
    let mut all: Vec<String> = mails.iter().flat_map(|m| m.to.iter().map(name)).collect();
    all.sort_unstable();
    all
}

fn reason(m: &Value) -> &str {
    m["recipients"][0]["delay_reason"].as_str().unwrap_or("")
}

/// How many lines of trace were put in front: servers passed.
fn passed(mail: &Mail) -> usize {
    mail.text().split("\r\n\r\n").next().map_or(0, |head| head.matches("Received: ").count())
}

#[test]
fn the_second_exchanger_holds_mail_while_the_first_is_dead() {
    let town = Town::new();
    let (origin, far) = (town.origin(), town.far());
    let near = town.near();
    origin.client().mail(FROM, &["ok@near.test"], BODY);
    assert_eq!(passed(&town.mailbox.one()), 2, "by origin and near: preference decides");
    let dir = near.stop();
    let id = {
        origin.client().mail(FROM, &["one@near.test"], BODY);
        // It is second itself: no loop, it waits for the first.
        until("mail at the second exchanger", || far.queue(&["list"]).pop())["queue_id"].clone()
    };
    let id = id.as_str().expect("a text");
    origin.drained();
    let m = far.listed(id, |m| !reason(m).is_empty());
    assert!(reason(&m).contains("mx.near.test") || reason(&m).contains("cannot connect"), "{m:#}");
    assert_eq!(town.mailbox.mails().len(), 1);
    let near = Server::start_in(dir, &town.near_config());
    far.flushed();
    near.drained();
    assert_eq!(receivers(&town.mailbox.mails()), ["ok@near.test", "one@near.test"]);
    assert_eq!(passed(&town.mailbox.mails()[1]), 3, "by way of the second");
    assert!(town.inbox.mails().is_empty(), "nothing to be told");
    for server in [origin, near, far] {
        server.stop();
    }
}

#[test]
fn a_grey_list_and_answers_for_each_recipient() {
    let town = Town::new();
    let (origin, near, far) = (town.origin(), town.near(), town.far());
    // Greylisting: each recipient is put off the first time.
    let mut seen = BTreeMap::new();
    town.other.answer(move |c| {
        let to = c.strip_prefix("RCPT TO:")?.to_owned();
        let count: &mut u32 = seen.entry(to).or_default();
        *count += 1;
        (*count == 1).then(|| b"451 4.7.1 Greylisted, come back\r\n".to_vec())
    });
    let late = Arc::new(AtomicBool::new(true));
    town.judging(&late);
    let mut client = origin.client();
    client.mail(FROM, &["g1@other.test", "g2@other.test"], BODY);
    let to = ["ok@near.test", "unknown@near.test", "later@near.test", "bad@near.test", "one@near.test"];
    client.mail(FROM, &to, BODY);
    origin.drained();
    assert_eq!(receivers(&town.other.mails()), ["g1@other.test", "g2@other.test"]);
    assert_eq!(town.other.said("RCPT").len(), 4, "twice each");
    // What was taken came once, what was put off waits at near, what was refused is told by who was refused.
    until("the one that is put off", || {
        let left = near.queue(&["list"]);
        let who: Vec<&Value> =
            left.iter().flat_map(|m| m["recipients"].as_array().into_iter().flatten()).collect();
        (who.len() == 1 && who[0]["address"] == "later@near.test").then_some(())
    });
    until("both reports", || (town.inbox.mails().len() >= 2).then_some(()));
    late.store(false, Ordering::Relaxed);
    near.flushed();
    far.drained();
    assert_eq!(receivers(&town.mailbox.mails()), ["later@near.test", "ok@near.test", "one@near.test"]);
    let reports = town.reports();
    let by = |reporter: &str| {
        let report = reports.iter().find(|r| r.reporter == reporter);
        report.unwrap_or_else(|| panic!("no report of {reporter}: {reports:?}")).clone()
    };
    let (first, second) = (by("origin.test"), by("mx.near.test"));
    // A delay may have been told, too, on a slow machine.
    assert_eq!(first.recipients.keys().collect::<Vec<_>>(), ["unknown@near.test"]);
    assert_eq!(first.recipients["unknown@near.test"].fields["remote-mta"], "dns; mx.near.test");
    let bad = &second.recipients["bad@near.test"];
    assert_eq!((bad.action.as_str(), bad.status.as_str()), ("failed", "5.1.1"));
    assert_eq!(bad.fields["diagnostic-code"], "smtp; 550 5.1.1 No such person");
    for server in [origin, near, far] {
        server.stop();
    }
}

#[test]
fn dane_between_our_own_servers() {
    let town = Town::new();
    let (origin, near, far) = (town.origin(), town.near(), town.far());
    let mut client = origin.client();
    let wrong = client.mail(FROM, &["r@wrong.test"], BODY);
    let bogus = client.mail(FROM, &["r@bogus.test"], BODY);
    client.mail(FROM, &["ok@near.test"], BODY);
    assert_eq!(receivers(&[town.mailbox.one()]), ["ok@near.test"]);
    let text = origin.event_with("tls_out", "mx:near.test at mx.near.test");
    assert!(text.ends_with("verified by DANE"), "{text}");
    // The mailbox behind has no records: opportunistic, and it offers no TLS.
    assert!(town.mailbox.one().text().contains("by mx.near.test"), "{}", town.mailbox.one().text());
    let m = origin.listed(&wrong, |m| !reason(m).is_empty());
    assert!(reason(&m).contains("does not fit the TLSA records"), "{m:#}");
    let m = origin.listed(&bogus, |m| !reason(m).is_empty());
    assert!(reason(&m).contains("signatures of the TLSA records of mx.bogus.test are wrong"), "{m:#}");
    assert_eq!(origin.metric("ringpost_tls_outbound_cleartext_total", ""), 0.0);
    assert_eq!(far.metric("ringpost_messages_received_total", ""), 0.0, "not even begun");
    assert!(far.queue(&["list"]).is_empty());
    for server in [origin, near, far] {
        server.stop();
    }
}

#[test]
fn reports_of_each_kind() {
    let town = Town::new();
    let (origin, near, far) = (town.origin(), town.near(), town.far());
    let late = Arc::new(AtomicBool::new(true));
    town.judging(&late);
    let mut client = origin.client();
    let to = [
        "bad@near.test> NOTIFY=FAILURE,SUCCESS ORCPT=rfc822;first+2Bname@old.test",
        "unknown@near.test",
        "later@near.test> NOTIFY=DELAY",
        "ok@near.test> NOTIFY=SUCCESS",
        "quiet@near.test> NOTIFY=NEVER",
        "r@other.test> NOTIFY=SUCCESS",
        "list@far.test> NOTIFY=SUCCESS",
        "x@box.test> NOTIFY=SUCCESS",
        "one@near.test",
    ];
    client.mail("a@client.test> ENVID=QQ+2B1 RET=HDRS", &to, BODY);
    // Who says what of whom: the server behind which nobody reports.
    let expected: BTreeMap<&str, (&str, &str)> = [
        ("bad@near.test", ("failed", "mx.near.test")),
        ("unknown@near.test", ("failed", "origin.test")),
        ("later@near.test", ("delayed", "mx.near.test")),
        ("ok@near.test", ("relayed", "mx.near.test")),
        ("r@other.test", ("relayed", "origin.test")),
        ("list@far.test", ("expanded", "mx.far.test")),
        ("x@box.test", ("delivered", "mx.near.test")),
    ]
    .into();
    let told = |reports: &[Report]| reports.iter().map(|r| r.recipients.len()).sum::<usize>();
    until("all reports", || (told(&town.reports()) >= expected.len()).then_some(()));
    late.store(false, Ordering::Relaxed);
    near.flushed();
    far.drained();
    origin.drained();
    let reports = town.reports();
    let mut found = BTreeMap::new();
    for report in &reports {
        assert_eq!(report.message["original-envelope-id"], "QQ+1", "{report:?}");
        assert!(!report.returned.contains("secret text"), "RET=HDRS: {report:?}");
        for (address, r) in &report.recipients {
            let before = found.insert(address.as_str(), (r.action.as_str(), report.reporter.as_str()));
            assert!(before.is_none(), "{address} is told of twice: {reports:?}");
        }
    }
    assert_eq!(found, expected);
    let about = |address: &str| reports.iter().find_map(|r| r.recipients.get(address)).expect("just seen");
    let bad = about("bad@near.test");
    assert_eq!(bad.fields["original-recipient"], "rfc822; first+name@old.test", "over two servers");
    assert_eq!(about("unknown@near.test").fields["remote-mta"], "dns; mx.near.test");
    assert_eq!(about("r@other.test").fields["remote-mta"], "dns; mx.other.test");
    assert!(about("later@near.test").fields.contains_key("will-retry-until"));
    assert_eq!(about("later@near.test").status, "4.2.1");
    // The mail itself came, to each once.
    let came = ["later@near.test", "ok@near.test", "one@near.test", "one@near.test", "two@near.test"];
    assert_eq!(receivers(&town.mailbox.mails()), came);
    assert_eq!((town.lmtp.0.wait(1).len(), town.other.mails().len()), (1, 1));
    for server in [origin, near, far] {
        server.stop();
    }
}
