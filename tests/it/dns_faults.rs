//! Name servers that lie, stall, loop and overflow: each answer of an odd kind leads to a delay or
//! a bounce of that mail alone, never to a wrong next hop, and never stops another domain's mail.
#![allow(clippy::disallowed_methods, reason = "a server in a test has sockets of its own")]

use crate::harness::dns::NameServer;
use crate::harness::{Config, Hop, Server, until};
use crate::spf::spf;
use ringpost::authenticity::results::Outcome;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

const FROM: &str = "a@client.test";
const BODY: &[u8] = b"S: x\r\n\r\nhello\r\n";
const A: u16 = 1;
const CNAME: u16 = 5;
const MX: u16 = 15;
const TXT: u16 = 16;

/// A question: its name in lower case without the last dot, and its type.
struct Question {
    name: String,
    kind: u16,
    /// As it came, with class.
    bytes: Vec<u8>,
    id: [u8; 2],
}

impl Question {
    fn read(packet: &[u8]) -> Option<Question> {
        let (mut at, mut labels) = (12, Vec::new());
        loop {
            let len = usize::from(*packet.get(at)?);
            at += 1;
            if len == 0 {
                break;
            }
            labels.push(String::from_utf8(packet.get(at..at + len)?.to_vec()).ok()?.to_ascii_lowercase());
            at += len;
        }
        let kind = u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?);
        let bytes = packet.get(12..at + 4)?.to_vec();
        Some(Question { name: labels.join("."), kind, bytes, id: [packet[0], packet[1]] })
    }

    /// RFC 1035 §4.1: a response with these answers, each a type and its data, to this question.
    fn reply(&self, ttl: u32, answers: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let count = u16::try_from(answers.len()).expect("a small number").to_be_bytes();
        let mut out = vec![self.id[0], self.id[1], 0x85, 0x80, 0, 1, count[0], count[1], 0, 0, 0, 0];
        out.extend_from_slice(&self.bytes);
        for (kind, data) in answers {
            // The name of the question.
            out.extend_from_slice(&[0xc0, 12]);
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&[0, 1]);
            out.extend_from_slice(&ttl.to_be_bytes());
            out.extend_from_slice(&u16::try_from(data.len()).expect("a small record").to_be_bytes());
            out.extend_from_slice(data);
        }
        out
    }

    fn with_code(&self, code: u8) -> Vec<u8> {
        let mut out = self.reply(0, &[]);
        out[3] |= code;
        out
    }
}

fn name(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in text.split('.').filter(|l| !l.is_empty()) {
        out.push(u8::try_from(label.len()).expect("a label"));
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

fn mx(preference: u16, host: &str) -> (u16, Vec<u8>) {
    (MX, [&preference.to_be_bytes()[..], &name(host)].concat())
}

fn alias(of: &str) -> (u16, Vec<u8>) {
    (CNAME, name(of))
}

/// What an attacker would like to be believed.
fn bait(q: &Question) -> (u16, Vec<u8>) {
    let text = b"v=spf1 +all";
    if q.kind == TXT { (TXT, [&[text.len() as u8], &text[..]].concat()) } else { mx(10, "evil.test") }
}

/// What the name server says to `q`; nothing: no answer. `tcp`: it was asked by TCP.
fn answer(q: &Question, hop: Ipv4Addr, evil: Ipv4Addr, tcp: bool) -> Vec<u8> {
    let address = |ip: Ipv4Addr| vec![(A, ip.octets().to_vec())];
    match (q.name.as_str(), q.kind) {
        ("pass.test", TXT) => q.reply(60, &[bait(q)]),
        ("hop.test", A) => q.reply(60, &address(hop)),
        ("evil.test", A) => q.reply(60, &address(evil)),
        ("good.test" | "later.test", MX) => q.reply(60, &[mx(10, "hop.test")]),
        // Too long for UDP, and TCP is dead, or is not.
        ("cut.test" | "twisted.test", _) | ("long.test", MX) if !tcp => {
            let mut out = q.reply(60, &[]);
            out[2] |= 0x02;
            out
        }
        ("cut.test", _) => Vec::new(),
        // 64 KB of hosts; the best one is the one that works.
        ("long.test", MX) => {
            let mut hosts = vec![mx(1, "hop.test")];
            hosts.extend((0..2500).map(|n| mx(10 + n, &format!("h{n}.x"))));
            q.reply(60, &hosts)
        }
        ("wrongid.test", _) => {
            let mut out = q.reply(60, &[bait(q)]);
            out[0] ^= 0xff;
            out
        }
        // By TCP nobody but the asking side can have a look at that.
        ("wrongquestion.test" | "twisted.test", _) => {
            let bytes = [&name("other.test")[..], &q.kind.to_be_bytes(), &[0, 1]].concat();
            Question { bytes, name: String::new(), ..*q }.reply(60, &[bait(q)])
        }
        ("garbage.test", _) => (0..200u8).map(|b| b.wrapping_mul(73)).collect(),
        ("short.test", _) => q.id.to_vec(),
        // A name that points to itself by compression.
        ("pointer.test", _) => {
            let mut out = q.reply(60, &[(MX, vec![0, 10, 0xc0, 0])]);
            let end = out.len();
            out[end - 1] = u8::try_from(end - 2).expect("a short packet");
            out
        }
        ("silent.test", _) => Vec::new(),
        ("servfail.test", _) => q.with_code(2),
        ("refused.test", _) => q.with_code(5),
        ("gone.test", _) => q.with_code(3),
        // RFC 5321 §5.1: mail goes where the name leads.
        ("alias.test", MX) => q.reply(60, &[alias("alias2.test")]),
        ("alias2.test", MX) => q.reply(60, &[alias("good.test")]),
        ("circle.test", _) => q.reply(60, &[alias("circle2.test")]),
        ("circle2.test", _) => q.reply(60, &[alias("circle.test")]),
        // No end, and never the same.
        (n, _) if n.starts_with("chain") => {
            let n: u32 = n.trim_start_matches("chain").trim_end_matches(".test").parse().unwrap_or(0);
            q.reply(60, &[alias(&format!("chain{}.test", n + 1))])
        }
        ("hurried.test", MX) => q.reply(0, &[mx(10, "hop.test")]),
        ("number.test", MX) => q.reply(60, &[mx(10, &evil.to_string())]),
        ("null.test", MX) => q.reply(60, &[mx(0, "")]),
        // NODATA.
        _ => q.reply(60, &[]),
    }
}

/// Runs until the process ends.
fn name_server(hop: Ipv4Addr, evil: Ipv4Addr) -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("bound")) {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut packet = [0; 4096];
        while let Ok((len, from)) = udp.recv_from(&mut packet) {
            if let Some(q) = Question::read(&packet[..len]) {
                let said = answer(&q, hop, evil, false);
                if !said.is_empty() {
                    // Whoever asked may be gone.
                    let _ = udp.send_to(&said, from);
                }
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut head = [0; 2];
                while stream.read_exact(&mut head).is_ok() {
                    let mut packet = vec![0; usize::from(u16::from_be_bytes(head))];
                    let read = stream.read_exact(&mut packet).ok().and_then(|()| Question::read(&packet));
                    let said = read.map_or(Vec::new(), |q| answer(&q, hop, evil, true));
                    let len = u16::try_from(said.len()).expect("it fits").to_be_bytes();
                    if said.is_empty() || stream.write_all(&[&len[..], &said].concat()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn row_34_odd_answers() {
    let (hop, evil) = (Hop::on(Hop::later()), Hop::on(Hop::later()));
    let ip = |h: &Hop| match h.address {
        SocketAddr::V4(a) => *a.ip(),
        SocketAddr::V6(_) => unreachable!("the loopback network"),
    };
    let names = name_server(ip(&hop), ip(&evil));
    let config = Config::new(([127, 0, 0, 1], 1).into())
        .set("relay", "smarthost", "\"\"")
        .set("relay", "mx_port", hop.address.port().to_string())
        .set("dns", "servers", format!("[\"{names}\"]"))
        .set("dns", "dnssec", "\"off\"");
    let server = Arc::new(Server::start(&config));
    let mut client = server.client();
    let delayed = [
        "cut",
        "wrongid",
        "wrongquestion",
        "twisted",
        "garbage",
        "short",
        "pointer",
        "silent",
        "servfail",
        "refused",
    ];
    let mut send = |domain: &str| client.mail(FROM, &[&format!("r@{domain}.test")], BODY);
    let ids: Vec<String> = delayed.iter().map(|d| send(d)).collect();
    // Behind all that stall, one that does not.
    send("good");
    assert_eq!(hop.one().to, ["<r@good.test>"]);
    for (n, domain) in ["long", "hurried", "hurried", "alias"].iter().enumerate() {
        send(domain);
        assert_eq!(hop.wait(n + 2)[n + 1].to, [format!("<r@{domain}.test>")]);
    }
    // Aliases without end are as good as no answer: a resolver of one's own makes SERVFAIL of them.
    let permanent = ["gone", "null", "number", "nothing", "circle", "chain0"];
    let permanent: Vec<String> = permanent.iter().map(|d| send(d)).collect();
    let mut left: Vec<&String> = permanent.iter().collect();
    until("the bounces", || {
        let list = server.queue(&["list"]);
        left.retain(|id| list.iter().any(|m| m["queue_id"] == id.as_str()));
        left.is_empty().then_some(())
    });
    for (id, domain) in ids.iter().zip(delayed) {
        let m = server.listed(id, |m| m["recipients"][0]["delay_reason"].is_string());
        let why = m["recipients"][0]["delay_reason"].as_str().expect("text");
        assert!(why.starts_with("look-up of the recipient's domain failed: "), "{domain}: {why}");
    }
    send("later");
    assert_eq!(hop.wait(6)[5].to, ["<r@later.test>"]);
    assert!(evil.mails().is_empty(), "{:?}", evil.mails());
    assert_eq!(hop.mails().len(), 6);
}

/// What SPF asks for is looked at in the same way.
#[test]
fn odd_answers_about_senders() {
    let nowhere = Ipv4Addr::LOCALHOST;
    let names = NameServer { address: name_server(nowhere, nowhere), anchors: String::new() };
    let of = |domain: &str| spf(&names, &format!("{domain}.test"), "192.0.2.1");
    assert_eq!((of("pass"), of("nothing"), of("gone")), (Outcome::Pass, Outcome::None, Outcome::None));
    // At the same time: some of them take as long as it may take.
    std::thread::scope(|s| {
        for domain in [
            "cut",
            "wrongid",
            "wrongquestion",
            "twisted",
            "garbage",
            "short",
            "pointer",
            "silent",
            "servfail",
            "refused",
        ] {
            s.spawn(move || assert_eq!(of(domain), Outcome::TempError, "{domain}"));
        }
        for domain in ["circle", "chain0"] {
            s.spawn(move || assert_ne!(of(domain), Outcome::Pass, "{domain}"));
        }
    });
}
