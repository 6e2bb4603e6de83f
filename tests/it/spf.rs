//! SPF as `authenticity` finds it out (RFC 7208): every mechanism, macros, limits and errors, with a zone of
//! the test's own.

use crate::harness::dns::NameServer;
use crate::senders::{Letter, look};
use ringpost::authenticity::results::Outcome;
use ringpost::authenticity::rules::{Mode, Modes};
use std::fmt::Write;

const SPF: Modes = Modes { spf: Mode::Tag, dkim: Mode::Off, dmarc: Mode::Off, arc: Mode::Off };

/// The result for a sender `user@domain` at `client`.
pub fn spf(names: &NameServer, domain: &str, client: &str) -> Outcome {
    let sender = format!("user@{domain}");
    let letter = Letter { client, sender: &sender, helo: "client.example.test", message: b"From: x\r\n\r\n" };
    let (outcome, about) = look(names, &letter, SPF).spf.expect("it was asked for");
    assert_eq!(about, domain.to_lowercase());
    outcome
}

/// One domain for each mechanism, and for what is around them.
const MECHANISMS: &str = r#"
all.test. IN TXT "v=spf1 -all"
soft.test. IN TXT "v=spf1 ~all"
neutral.test. IN TXT "v=spf1 ?all"
empty.test. IN TXT "v=spf1"
plus.test. IN TXT "V=SPF1 +ALL"
strings.test. IN TXT "v=spf1 ip4:192" ".0.2.1 -all"
beside.test. IN TXT "some-verification=1"
beside.test. IN TXT "v=spf1 ip4:192.0.2.1 -all"
nospf.test. IN TXT "v=spf10 -all"
ip.test. IN TXT "v=spf1 ip4:192.0.2.0/28 ip6:2001:db8::/32 -all"
a.test. IN A 192.0.2.1
a.test. IN AAAA 2001:db8::1
a.test. IN TXT "v=spf1 a -all"
anet.test. IN A 192.0.2.200
anet.test. IN TXT "v=spf1 a/24//64 -all"
other.test. IN TXT "v=spf1 a:a.test -all"
mx.test. IN MX 10 one.mx.test.
mx.test. IN MX 20 two.mx.test.
one.mx.test. IN A 192.0.2.9
two.mx.test. IN A 192.0.2.1
mx.test. IN TXT "v=spf1 mx -all"
ptr.test. IN TXT "v=spf1 ptr -all"
host.ptr.test. IN A 192.0.2.1
1.2.0.192.in-addr.arpa. IN PTR host.ptr.test.
exists.test. IN TXT "v=spf1 exists:%{ir}.%{v}.x.exists.test -all"
1.2.0.192.in-addr.x.exists.test. IN A 127.0.0.2
exists6.test. IN TXT "v=spf1 exists:there.exists.test -all"
there.exists.test. IN A 127.0.0.2
include.test. IN TXT "v=spf1 include:ip.test ?all"
within.test. IN TXT "v=spf1 -include:ip.test +all"
redirect.test. IN TXT "v=spf1 redirect=a.test"
both.test. IN TXT "v=spf1 include:all.test include:ip.test ~all"
"#;

#[test]
fn every_mechanism() {
    let names = NameServer::start(MECHANISMS);
    let (ours, far, six) = ("192.0.2.1", "198.51.100.1", "2001:db8::1");
    use Outcome::{Fail, Neutral, None as Nothing, Pass, SoftFail};
    for (domain, client, expected) in [
        ("all.test", ours, Fail),
        ("soft.test", ours, SoftFail),
        ("neutral.test", ours, Neutral),
        ("empty.test", ours, Neutral),
        ("plus.test", ours, Pass),
        ("STRINGS.test", ours, Pass),
        ("strings.test", "::ffff:192.0.2.1", Pass),
        ("strings.test", far, Fail),
        ("beside.test", ours, Pass),
        ("nospf.test", ours, Nothing),
        ("missing.test", ours, Nothing),
        ("ip.test", ours, Pass),
        ("ip.test", "192.0.2.15", Pass),
        ("ip.test", "192.0.2.16", Fail),
        ("ip.test", six, Pass),
        ("ip.test", "2001:db9::1", Fail),
        ("a.test", ours, Pass),
        ("a.test", six, Pass),
        ("a.test", far, Fail),
        ("anet.test", ours, Pass),
        ("anet.test", far, Fail),
        ("other.test", ours, Pass),
        ("mx.test", ours, Pass),
        ("mx.test", far, Fail),
        ("ptr.test", ours, Pass),
        ("ptr.test", far, Fail),
        ("exists.test", ours, Pass),
        ("exists.test", far, Fail),
        ("exists6.test", six, Pass),
        ("exists6.test", ours, Pass),
        ("include.test", ours, Pass),
        ("include.test", far, Neutral),
        ("within.test", ours, Fail),
        ("within.test", far, Pass),
        ("redirect.test", ours, Pass),
        ("redirect.test", far, Fail),
        ("both.test", ours, Pass),
        ("both.test", far, SoftFail),
    ] {
        assert_eq!(spf(&names, domain, client), expected, "{domain} {client}");
    }
}

#[test]
fn macros() {
    // RFC 7208 section 7.4 has the domain email.example.com and the sender strong-bad.
    let zone = r#"
local.test. IN TXT "v=spf1 exists:%{l}.%{l1r}.ok.test -all"
user.user.ok.test. IN A 127.0.0.2
domain.test. IN TXT "v=spf1 exists:%{d2}.%{dr}.%{o}.ok.test -all"
domain.test.test.domain.domain.test.ok.test. IN A 127.0.0.2
helo.test. IN TXT "v=spf1 exists:%{h}.ok.test -all"
client.example.test.ok.test. IN A 127.0.0.2
percent.test. IN TXT "v=spf1 exists:%%{l}.ok.test -all"
named.test. IN TXT "v=spf1 exists:%{p}.ok.test -all"
1.2.0.192.in-addr.arpa. IN PTR liar.test.
1.2.0.192.in-addr.arpa. IN PTR true.test.
liar.test. IN A 192.0.2.9
true.test. IN A 192.0.2.1
true.test.ok.test. IN A 127.0.0.2
"#;
    let names = NameServer::start(zone);
    for domain in ["local.test", "domain.test", "helo.test", "named.test"] {
        assert_eq!(spf(&names, domain, "192.0.2.1"), Outcome::Pass, "{domain}");
    }
    assert_ne!(spf(&names, "percent.test", "192.0.2.1"), Outcome::Pass);
}

#[test]
fn limits_and_errors() {
    let mut zone = String::from(
        r#"
two.test. IN TXT "v=spf1 +all"
two.test. IN TXT "v=spf1 -all"
mod.test. IN TXT "v=spf1 future=1 ip4:192.0.2.1 -all"
bad.test. IN TXT "v=spf1 nonsense:x +all"
mask.test. IN TXT "v=spf1 ip4:192.0.2.1/33 +all"
loop.test. IN TXT "v=spf1 include:loop.test -all"
around.test. IN TXT "v=spf1 redirect=around.test"
nothing.test. IN TXT "v=spf1 include:missing.test +all"
twice.test. IN TXT "v=spf1 include:two.test -all"
badly.test. IN TXT "v=spf1 redirect=bad.test"
void.test. IN TXT "v=spf1 a:n1.test a:n2.test ip4:192.0.2.1 -all"
voids.test. IN TXT "v=spf1 a:n1.test a:n2.test a:n3.test ip4:192.0.2.1 -all"
manymx.test. IN TXT "v=spf1 mx -all"
here.test. IN A 198.51.100.7
"#,
    );
    let terms = |n: usize| " a:here.test".repeat(n);
    writeln!(zone, "ten.test. IN TXT \"v=spf1{} ip4:192.0.2.1 -all\"", terms(10)).unwrap();
    writeln!(zone, "eleven.test. IN TXT \"v=spf1{} ip4:192.0.2.1 -all\"", terms(11)).unwrap();
    for n in 1..=11 {
        writeln!(zone, "manymx.test. IN MX {n} m{n}.test.\nm{n}.test. IN A 198.51.100.{n}").unwrap();
    }
    let names = NameServer::start(&zone);
    for domain in [
        "two.test",
        "twice.test",
        "badly.test",
        "bad.test",
        "mask.test",
        "loop.test",
        "around.test",
        "nothing.test",
        "voids.test",
        "manymx.test",
        "eleven.test",
    ] {
        assert_eq!(spf(&names, domain, "192.0.2.1"), Outcome::PermError, "{domain}");
    }
    for domain in ["void.test", "ten.test", "mod.test"] {
        assert_eq!(spf(&names, domain, "192.0.2.1"), Outcome::Pass, "{domain}");
    }
    // Names that are never looked up.
    for domain in ["single", "[192.0.2.1]", "-..-"] {
        assert_eq!(spf(&names, domain, "192.0.2.1"), Outcome::None, "{domain}");
    }
    // Trouble is never a pass.
    let failing = NameServer::failing();
    assert_eq!(spf(&failing, "a.test", "192.0.2.1"), Outcome::TempError);
}

#[test]
fn without_a_sender_the_client_itself_counts() {
    let names = NameServer::start(
        "host.client.test. IN TXT \"v=spf1 ip4:192.0.2.1 -all\"\nb.test. IN TXT \"v=spf1 -all\"\n",
    );
    let letter = |sender: &'static str, client: &'static str| Letter {
        client,
        sender,
        helo: "Host.Client.test",
        message: b"From: x\r\n\r\n",
    };
    let results = look(&names, &letter("", "192.0.2.1"), SPF);
    assert_eq!(results.spf, Some((Outcome::Pass, "host.client.test".into())));
    assert_eq!(results.helo, None);
    let results = look(&names, &letter("a@b.test", "198.51.100.1"), SPF);
    assert_eq!(results.spf, Some((Outcome::Fail, "b.test".into())));
    assert_eq!(results.helo, Some((Outcome::Fail, "host.client.test".into())));
}
