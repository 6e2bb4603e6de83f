//! DKIM, DMARC and ARC as `authenticity` finds them out, with a zone and keys of the test's own.

use crate::harness::dns::NameServer;
use mail_auth::AuthenticatedMessage;
use mail_auth::arc::ArcSealer;
use mail_auth::common::crypto::{DkimKey, Ed25519Key, RsaKey, Sha256};
use mail_auth::common::headers::HeaderWriter;
use mail_auth::dkim::{Canonicalization, DkimSigner};
use mail_auth::hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use mail_auth::{ArcOutput, AuthenticationResults, MessageAuthenticator};
use ringpost::authenticity::check::{Check, Checker, Mail};
use ringpost::authenticity::keys::{Key, generate};
use ringpost::authenticity::results::{Outcome, Results, Wish};
use ringpost::authenticity::rules::{Mode, Modes};
use ringpost::authenticity::watch::{Fed, Watch};
use ringpost::base::time::{Mono, Wall};
use ringpost::route::dns::wire::{Options, Servers};
use ringpost::runtime::Clock;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use std::rc::Rc;
use std::time::Duration;

/// A message on its way in.
pub struct Letter<'a> {
    pub client: &'a str,
    pub sender: &'a str,
    pub helo: &'a str,
    pub message: &'a [u8],
}

fn alone<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

/// Time that stands still: nothing here waits.
#[derive(Clone)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Mono {
        Mono(0)
    }

    fn wall(&self) -> Wall {
        Wall(0)
    }

    fn sleep_until(&self, _: Mono) -> impl Future<Output = ()> + 'static {
        std::future::ready(())
    }
}

/// As another server's resolver has it.
fn resolver(names: &NameServer) -> MessageAuthenticator {
    let at = |mut connection: ConnectionConfig| {
        connection.port = names.address.port();
        connection
    };
    let ways = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
    let server = NameServerConfig::new(names.address.ip(), true, ways);
    let config = ResolverConfig::from_name_servers(vec![server]);
    MessageAuthenticator::new(config, ResolverOpts::default()).expect("a resolver")
}

fn options(names: &NameServer) -> Options {
    Options { servers: vec![names.address], ..Options::default() }
}

/// What is found out about it.
#[track_caller]
pub fn look(names: &NameServer, letter: &Letter<'_>, modes: Modes) -> Results {
    let mut watch = Watch::default();
    let end = match watch.feed(letter.message) {
        Fed::Ended(at) => at,
        fed => panic!("the message has no body: {fed:?}"),
    };
    watch.want_for_signatures();
    letter.message[end..].chunks(7).for_each(|piece| watch.hash(piece));
    let sums = watch.sums();
    alone(async {
        let servers = Servers::new(Still, &options(names), Box::new(|_| {})).expect("name servers");
        let checker = Checker::new(Rc::new(servers));
        let mail = Mail {
            client: letter.client.parse().expect("an address"),
            helo: letter.helo,
            sender: letter.sender,
            header: watch.header(),
            sums,
            host: "mx.test.example",
        };
        checker.check(mail, modes, Box::pin(tokio::time::sleep(Duration::from_secs(60)))).await
    })
}

const ALL: Modes = Modes { spf: Mode::Tag, dkim: Mode::Tag, dmarc: Mode::Tag, arc: Mode::Tag };

/// A key pair: the secret as the signer of the test wants it, and its record.
struct Pair {
    pem: String,
    record: String,
    rsa: bool,
}

impl Pair {
    fn new(domain: &str, rsa_bits: Option<usize>) -> Pair {
        let pem = generate(rsa_bits).expect("a key").to_string();
        let record = Key::parse(domain, "s", pem.as_bytes()).expect("a key").zone_line();
        Pair { pem, record: record + "\n", rsa: rsa_bits.is_some() }
    }

    fn secret(&self) -> DkimKey {
        let der = PrivateKeyDer::from_pem_slice(self.pem.as_bytes()).expect("a key");
        if self.rsa {
            return DkimKey::Rsa(RsaKey::<Sha256>::from_key_der(der).expect("RSA"));
        }
        let PrivateKeyDer::Pkcs8(der) = der else { panic!("PKCS #8") };
        DkimKey::Ed25519(Ed25519Key::from_pkcs8_maybe_unchecked_der(der.secret_pkcs8_der()).expect("Ed25519"))
    }

    /// Signed by `domain`.
    fn signed(&self, domain: &str, message: &str, how: (Canonicalization, Canonicalization)) -> String {
        let signer = DkimSigner::from_key(self.secret()).domain(domain).selector("s");
        let signer = signer.headers(["From", "To", "Subject"]);
        let signer = signer.header_canonicalization(how.0).body_canonicalization(how.1);
        signer.sign(message.as_bytes()).expect("signed").to_header() + message
    }
}

const RELAXED: (Canonicalization, Canonicalization) = (Canonicalization::Relaxed, Canonicalization::Relaxed);

const MESSAGE: &str = "From: Joe <joe@a.test>\r\nTo: you@b.test\r\nSubject:  is  \r\n\tdinner  ready?\r\n\r\n\
                       Hi.  \r\n\r\nWe lost \t the game.\r\n\r\n\r\n";

fn letter(message: &str) -> Letter<'_> {
    let (client, helo) = ("192.0.2.1", "client.a.test");
    Letter { client, sender: "bounce@a.test", helo, message: message.as_bytes() }
}

fn outcomes(results: &Results) -> Vec<Outcome> {
    results.dkim.iter().flatten().map(|s| s.outcome).collect()
}

#[test]
fn signatures_of_all_kinds() {
    use Canonicalization::{Relaxed, Simple};
    let (rsa, ed) = (Pair::new("a.test", Some(2048)), Pair::new("b.test", None));
    let names = NameServer::start(&(rsa.record.clone() + &ed.record));
    let look = |message: &str| look(&names, &letter(message), ALL);
    for how in [(Relaxed, Relaxed), (Relaxed, Simple), (Simple, Relaxed), (Simple, Simple)] {
        let signed = rsa.signed("a.test", MESSAGE, how);
        assert_eq!(outcomes(&look(&signed)), [Outcome::Pass], "{how:?}");
        // Changes that only the relaxed form forgives.
        let spaced = signed.replace("Hi.  \r\n", "Hi. \r\n").replace("\t the", " the");
        let expected = if how.1 == Relaxed { Outcome::Pass } else { Outcome::Fail };
        assert_eq!(outcomes(&look(&spaced)), [expected], "{how:?}");
        let unfolded = signed.replace("Subject:  is  \r\n\tdinner", "SUBJECT: is dinner");
        let expected = if how.0 == Relaxed { Outcome::Pass } else { Outcome::Fail };
        assert_eq!(outcomes(&look(&unfolded)), [expected], "{how:?}");
        for (from, to) in [("lost", "won"), ("Joe", "Moe"), ("ready?", "cold?")] {
            assert_eq!(outcomes(&look(&signed.replace(from, to))), [Outcome::Fail], "{how:?} {to}");
        }
    }
    // Several: each for itself, the newest first.
    let both = ed.signed("b.test", &rsa.signed("a.test", MESSAGE, RELAXED), RELAXED);
    let results = look(&both);
    assert_eq!(outcomes(&results), [Outcome::Pass, Outcome::Pass]);
    let said: Vec<_> = results.dkim.iter().flatten().map(|s| (&*s.domain, s.algorithm)).collect();
    assert_eq!(said, [("b.test", "ed25519-sha256"), ("a.test", "rsa-sha256")]);
    // No key, another key, no signature, nothing but the word.
    assert_eq!(outcomes(&look(&rsa.signed("c.test", MESSAGE, RELAXED))), [Outcome::PermError]);
    assert_eq!(outcomes(&look(&rsa.signed("b.test", MESSAGE, RELAXED))), [Outcome::Fail]);
    assert_eq!(outcomes(&look(MESSAGE)), []);
    assert_eq!(outcomes(&look(&format!("DKIM-Signature: v=1\r\n{MESSAGE}"))), [Outcome::Neutral]);
    // Nobody could say.
    let signed = rsa.signed("a.test", MESSAGE, RELAXED);
    let results = self::look(&NameServer::failing(), &letter(&signed), ALL);
    assert_eq!(outcomes(&results), [Outcome::TempError]);
    assert_eq!(results.dmarc.unwrap().outcome, Outcome::TempError);
}

#[test]
fn what_is_not_accepted_whoever_signs_it() {
    let pair = Pair::new("a.test", None);
    let names = NameServer::start(&pair.record);
    let look = |message: &str| outcomes(&look(&names, &letter(message), ALL));
    let signer = || DkimSigner::from_key(pair.secret()).domain("a.test").selector("s").headers(["From"]);
    let partly = signer().body_length(true).sign(MESSAGE.as_bytes()).unwrap().to_header();
    assert!(partly.contains("l="));
    assert_eq!(look(&(partly + MESSAGE)), [Outcome::Policy]);
    let mut late = signer().template;
    late.x = 1;
    late.t = 0;
    late.bh = vec![1];
    late.b = vec![1];
    assert_eq!(look(&(late.to_header() + MESSAGE)), [Outcome::Fail]);
    let good = pair.signed("a.test", MESSAGE, RELAXED);
    assert_eq!(look(&good.replace("a=ed25519-sha256", "a=rsa-sha1")), [Outcome::Policy]);
    let names = "x:".repeat(300);
    let many = good.replacen("\th=", &format!("\th={names}"), 1);
    assert_eq!(look(&many), [Outcome::Policy]);
    // A message with very many signatures costs no more than one with a few.
    let mut flood = good.clone();
    for _ in 0..30 {
        flood = pair.signed("a.test", MESSAGE, RELAXED).replace(MESSAGE, "") + &flood;
    }
    assert_eq!(look(&flood).len(), 10);
}

#[test]
fn dmarc_is_about_the_author() {
    let (a, b) = (Pair::new("a.test", None), Pair::new("b.test", None));
    let sub = Pair::new("mail.a.test", None);
    let zone = format!(
        "{}{}{}{}",
        a.record,
        b.record,
        sub.record,
        r#"
_dmarc.a.test. IN TXT "v=DMARC1; p=reject; sp=quarantine"
_dmarc.strict.test. IN TXT "v=DMARC1; p=reject; adkim=s; aspf=s"
strict.test. IN TXT "v=spf1 +all"
www.strict.test. IN TXT "v=spf1 +all"
_dmarc.testing.test. IN TXT "v=DMARC1; p=reject; t=y"
_dmarc.org.test. IN TXT "v=DMARC1; p=none; psd=n"
_dmarc.sub.org.test. IN TXT "v=DMARC1; p=reject; psd=n"
x.org.test. IN TXT "v=spf1 +all"
"#
    );
    let names = NameServer::start(&zone);
    let look = |from: &str, sender: &str, message: &dyn Fn(String) -> String| {
        let text = format!("From: {from}\r\nTo: a@b.test\r\n\r\nbody\r\n");
        let text = message(text);
        let letter = Letter { sender, ..letter(&text) };
        let dmarc = look(&names, &letter, ALL).dmarc.unwrap();
        (dmarc.outcome, dmarc.wish)
    };
    let plain = |text: String| text;
    let by_a = |text: String| a.signed("a.test", &text, RELAXED);
    let by_b = |text: String| b.signed("b.test", &text, RELAXED);
    let by_sub = |text: String| sub.signed("mail.a.test", &text, RELAXED);
    use Outcome::{Fail, None as Nothing, Pass, PermError};
    let none = "x@nowhere.test";
    for (from, sender, message, expected) in [
        // By a signature: of the domain, of one below it, for one below it; not of another.
        ("a@a.test", none, &by_a as &dyn Fn(String) -> String, (Pass, Wish::Reject)),
        ("a@A.test", none, &by_sub, (Pass, Wish::Reject)),
        ("a@x.y.a.test", none, &by_a, (Pass, Wish::Quarantine)),
        ("a@a.test", none, &by_b, (Fail, Wish::Reject)),
        ("a@a.test", none, &plain, (Fail, Wish::Reject)),
        ("a@deep.a.test", none, &plain, (Fail, Wish::Quarantine)),
        // By SPF; strictly.
        ("a@strict.test", "x@strict.test", &plain, (Pass, Wish::Reject)),
        ("a@strict.test", "x@www.strict.test", &plain, (Fail, Wish::Reject)),
        ("a@testing.test", none, &plain, (Fail, Wish::Quarantine)),
        // The tree is walked: a domain that says that it is an organization is none below another.
        ("a@y.org.test", "x@x.org.test", &plain, (Pass, Wish::None)),
        ("a@sub.org.test", "x@x.org.test", &plain, (Fail, Wish::Reject)),
        // No policy, no author, authors of several domains.
        ("a@b.test", none, &by_b, (Nothing, Wish::None)),
        ("nobody", none, &plain, (PermError, Wish::None)),
        ("a@a.test, b@b.test", none, &by_a, (PermError, Wish::None)),
        ("b@b.test\r\nFrom: a@a.test", none, &by_b, (PermError, Wish::None)),
        ("a@a.test, b@a.test", none, &by_a, (Pass, Wish::Reject)),
    ] {
        assert_eq!(look(from, sender, message), expected, "{from} {sender}");
    }
}

/// `message` as a forwarder seals it.
fn sealed(pair: &Pair, names: &NameServer, domain: &str, message: &str) -> String {
    let parsed = AuthenticatedMessage::parse(message.as_bytes()).expect("a message");
    let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(pair.pem.as_bytes()).expect("a key") else {
        panic!("PKCS #8")
    };
    let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(der.secret_pkcs8_der()).expect("a key");
    let results = AuthenticationResults::new(domain);
    let chain: ArcOutput<'_> = alone(async { resolver(names).verify_arc(&parsed).await });
    let sealer = ArcSealer::from_key(key).domain(domain).selector("s").headers(["From", "Subject"]);
    sealer.seal(&parsed, &results, &chain).expect("sealed").to_header() + message
}

#[test]
fn chains_of_seals() {
    let (one, two) = (Pair::new("one.test", None), Pair::new("two.test", None));
    let names = NameServer::start(&(one.record.clone() + &two.record));
    let look = |message: &str| {
        let chain = look(&names, &letter(message), ALL).arc.unwrap();
        (chain.outcome, chain.sealer)
    };
    assert_eq!(look(MESSAGE), (Outcome::None, String::new()));
    let first = sealed(&one, &names, "one.test", MESSAGE);
    assert_eq!(look(&first), (Outcome::Pass, "one.test".into()));
    let second = sealed(&two, &names, "two.test", &format!("X-List: 1\r\n{first}"));
    assert_eq!(look(&second), (Outcome::Pass, "two.test".into()));
    assert_eq!(look(&second.replace("lost", "won")).0, Outcome::Fail);
    assert_eq!(look(&second.replace("i=1; a=", "i=3; a=")).0, Outcome::Fail);
    // A seal whose set is not whole.
    for field in ["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results"] {
        let (before, rest) = first.split_once(field).unwrap();
        let end = rest.match_indices("\r\n").find(|(at, _)| !rest[at + 2..].starts_with('\t')).unwrap().0;
        assert_eq!(look(&format!("{before}{}", &rest[end + 2..])).0, Outcome::Fail, "{field}");
    }
    let results = super::senders::look(&NameServer::failing(), &letter(&first), ALL);
    assert_eq!(results.arc.unwrap().outcome, Outcome::TempError);
}
