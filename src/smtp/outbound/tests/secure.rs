//! STARTTLS and AUTH as dialogues. `C: ` lines are what the client must have said by then; the shell
//! here does its handshake at once.

use super::*;
use crate::auth::client::Account;
use crate::base::secret::Secret;
use std::rc::Rc;

/// Plays a dialogue; the close if it came to one, else whether mail may be sent.
fn dialogue(options: &Options, script: &str) -> Result<bool, Close> {
    let mut whole = Vec::new();
    for split in [usize::MAX, 1, 7] {
        whole.push(once(options, script, split));
    }
    assert!(whole.iter().all(|w| *w == whole[0]), "depends on how bytes arrive: {whole:?}");
    whole.remove(0)
}

fn once(options: &Options, script: &str, split: usize) -> Result<bool, Close> {
    let mut client = Client::new(options.clone(), T0);
    let mut out = Vec::new();
    let mut handshakes = 0;
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if let Some(said) = line.strip_prefix("C: ").or((line == "C:").then_some("")) {
            let want = format!("{said}\r\n").into_bytes();
            assert!(out.starts_with(&want), "{said:?} expected: {:?}", String::from_utf8_lossy(&out));
            out.drain(..want.len());
            continue;
        }
        if line == "HANDSHAKE" {
            assert_eq!(std::mem::take(&mut handshakes), 1, "a handshake is wanted");
            client.secured(T0, &mut out);
            continue;
        }
        let said = line.strip_prefix("S: ").expect("S: or C:");
        let bytes = format!("{said}\r\n").replace(" / ", "\r\n").into_bytes();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(split)];
            let (n, step) = client.receive(T0, piece, &mut out);
            rest = &rest[n..];
            match step {
                Step::NeedInput => {}
                Step::StartTls => handshakes += 1,
                Step::Ready => {
                    assert!(rest.is_empty());
                    return Ok(client.is_open());
                }
                Step::Close(close) => return Err(close),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(out.is_empty(), "said too much: {:?}", String::from_utf8_lossy(&out));
    Ok(client.is_open())
}

fn with(starttls: StartTls) -> Options {
    Options { starttls, ..Options::new("me.example") }
}

fn login(starttls: StartTls, in_clear: bool) -> Options {
    let account = Rc::new(Account::new("user", "pencil".into()));
    let nonce = "fyko+d2lbbFgONRv9qkxdawL".into();
    Options { login: Some(Login { account, nonce, in_clear }), ..with(starttls) }
}

const HELLO: &str = "S: 220 hi\nC: EHLO me.example\n";

fn after_hello(options: &Options, rest: &str) -> Result<bool, Close> {
    dialogue(options, &format!("{HELLO}{rest}"))
}

#[test]
fn starttls_where_it_is_offered() {
    let secured =
        "S: 250-hi / 250 STARTTLS\nC: STARTTLS\nS: 220 go\nHANDSHAKE\nC: EHLO me.example\nS: 250 hi\n";
    for wanted in [StartTls::IfOffered, StartTls::Required] {
        assert_eq!(after_hello(&with(wanted), secured), Ok(true));
        // It is not asked for twice.
        let again = secured.replace("S: 250 hi\n", "S: 250-hi / 250 STARTTLS\n");
        assert_eq!(after_hello(&with(wanted), &again), Ok(true));
    }
    assert_eq!(after_hello(&with(StartTls::Never), "S: 250-hi / 250 STARTTLS\n"), Ok(true));
}

#[test]
fn what_is_offered_under_tls_counts() {
    let mut client = Client::new(with(StartTls::IfOffered), T0);
    let mut out = Vec::new();
    client.receive(T0, b"220 hi\r\n", &mut out);
    client.receive(T0, b"250-hi\r\n250-SIZE 1\r\n250-DSN\r\n250 STARTTLS\r\n", &mut out);
    assert_eq!(client.receive(T0, b"220 go\r\n", &mut out), (8, Step::StartTls));
    assert_eq!(*client.capabilities(), Capabilities::default(), "forgotten");
    client.secured(T0, &mut out);
    assert_eq!(client.receive(T0, b"250-hi\r\n250 CHUNKING\r\n", &mut out).1, Step::Ready);
    let caps = client.capabilities();
    assert!(caps.chunking && !caps.dsn && caps.size.is_none());
}

#[test]
fn without_starttls() {
    let cases = [
        ("S: 250 hi\n", Close::TlsNotOffered),
        ("S: 500 what\nC: HELO me.example\nS: 250 hi\n", Close::TlsNotOffered),
        ("S: 250-hi / 250 STARTTLS\nC: STARTTLS\nS: 454 later\n", Close::TlsRefused(454)),
        ("S: 250-hi / 250 STARTTLS\nC: STARTTLS\nS: 502 no\n", Close::TlsRefused(502)),
    ];
    for (script, close) in cases {
        assert_eq!(after_hello(&with(StartTls::Required), script), Err(close), "{script}");
        assert_eq!(after_hello(&with(StartTls::IfOffered), script), Ok(true), "{script}");
    }
    let odd = "S: 250-hi / 250 STARTTLS\nC: STARTTLS\nS: 354 what\n";
    assert_eq!(after_hello(&with(StartTls::IfOffered), odd), Err(Close::Unexpected(354)));
    let gone = "S: 250-hi / 250 STARTTLS\nC: STARTTLS\nS: 421 bye\n";
    assert_eq!(after_hello(&with(StartTls::IfOffered), gone), Err(Close::ServerClosing));
}

/// RFC 3207 §4.2 and the attack of CVE-2011-0411, the other way round: whoever sits between puts a
/// reply of his own behind the 220, to be taken for the first one under TLS.
#[test]
fn bytes_behind_the_220_end_the_connection() {
    for behind in ["250 2.0.0 evil\r\n", "2", "\r\n", "\x16\x03\x01"] {
        let mut client = Client::new(with(StartTls::IfOffered), T0);
        let mut out = Vec::new();
        client.receive(T0, b"220 hi\r\n", &mut out);
        client.receive(T0, b"250-hi\r\n250 STARTTLS\r\n", &mut out);
        let said = format!("220 go\r\n{behind}");
        let (_, step) = client.receive(T0, said.as_bytes(), &mut out);
        assert_eq!(step, Step::Close(Close::Injected), "{behind:?}");
        assert!(client.lost(Loss::Protocol).is_none());
    }
}

#[test]
fn logins() {
    let clear = login(StartTls::Never, true);
    let plain = "S: 250-hi / 250 AUTH PLAIN LOGIN\nC: AUTH PLAIN AHVzZXIAcGVuY2ls\nS: 235 ok\n";
    assert_eq!(after_hello(&clear, plain), Ok(true));
    let in_steps = "S: 250-hi / 250 AUTH LOGIN\nC: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: dXNlcg==\n\
                    S: 334 UGFzc3dvcmQ6\nC: cGVuY2ls\nS: 235 ok\n";
    assert_eq!(after_hello(&clear, in_steps), Ok(true));
    let refused = plain.replace("235 ok", "535 5.7.8 no");
    assert_eq!(after_hello(&clear, &refused), Err(Close::LoginRefused(535)));
    let later = plain.replace("235 ok", "454 4.7.0 later");
    assert_eq!(after_hello(&clear, &later), Err(Close::LoginRefused(454)));
    assert_eq!(after_hello(&clear, "S: 250 hi\n"), Err(Close::LoginImpossible));
    assert_eq!(after_hello(&clear, "S: 250-hi / 250 AUTH GSSAPI\n"), Err(Close::LoginImpossible));
    let asked_again = "S: 250-hi / 250 AUTH PLAIN\nC: AUTH PLAIN AHVzZXIAcGVuY2ls\nS: 334 bW9yZQ==\n";
    assert_eq!(after_hello(&clear, asked_again), Err(Close::LoginUnproven));
}

const SCRAM: &str = concat!(
    "C: AUTH SCRAM-SHA-1 biwsbj11c2VyLHI9ZnlrbytkMmxiYkZnT05Sdjlxa3hkYXdM\n",
    "S: 334 cj1meWtvK2QybGJiRmdPTlJ2OXFreGRhd0wzcmZjTkhZSlkxWlZ2V1ZzN2oscz1RU1hDUitRNnNlazhiZjkyLGk9",
    "NDA5Ng==\n",
    "C: Yz1iaXdzLHI9ZnlrbytkMmxiYkZnT05Sdjlxa3hkYXdMM3JmY05IWUpZMVpWdldWczdqLHA9djBYOHYzQnoyVDBDSkdi",
    "SlF5RjBYK0hJNFRzPQ==\n",
);

/// The example of RFC 5802 §5 in the words of SMTP.
#[test]
fn scram_proves_both_sides() {
    let offer = "S: 250-hi / 250 AUTH PLAIN SCRAM-SHA-1\n";
    let opportunistic = login(StartTls::IfOffered, false);
    let proof = "S: 334 dj1ybUY5cHFWOFM3c3VBb1pXamE0ZEpSa0ZzS1E9\nC: \nS: 235 ok\n";
    assert_eq!(after_hello(&opportunistic, &format!("{offer}{SCRAM}{proof}")), Ok(true));
    for unproven in ["S: 235 ok\n", "S: 334 dj1BQUFB\n", "S: 334 ZT1pbnZhbGlk\n", "S: 334 !\n"] {
        let script = format!("{offer}{SCRAM}{unproven}");
        assert_eq!(after_hello(&opportunistic, &script), Err(Close::LoginUnproven), "{unproven}");
    }
}

#[test]
fn a_password_goes_in_clear_text_only_where_somebody_has_decided_so() {
    let careful = login(StartTls::IfOffered, false);
    let offer = "S: 250-hi / 250 AUTH PLAIN LOGIN\n";
    assert_eq!(after_hello(&careful, offer), Err(Close::LoginImpossible));
    let declined = "S: 250-hi / 250-STARTTLS / 250 AUTH PLAIN\nC: STARTTLS\nS: 454 later\n";
    assert_eq!(after_hello(&careful, declined), Err(Close::LoginImpossible));
    let secured = "S: 250-hi / 250 STARTTLS\nC: STARTTLS\nS: 220 go\nHANDSHAKE\nC: EHLO me.example\n\
                   S: 250-hi / 250 AUTH PLAIN\nC: AUTH PLAIN AHVzZXIAcGVuY2ls\nS: 235 ok\n";
    assert_eq!(after_hello(&careful, secured), Ok(true));
    assert!(!format!("{careful:?}").contains("pencil"));
}

/// RFC 4954 §4: what does not fit into a command goes as a response.
#[test]
fn a_long_initial_response_goes_on_its_own() {
    let account = Rc::new(Account::new("user", Secret::new(vec![b'x'; 500])));
    let login = Login { account, nonce: "n".into(), in_clear: true };
    let options = Options { login: Some(login), ..with(StartTls::Never) };
    let mut client = Client::new(options, T0);
    let mut out = Vec::new();
    client.receive(T0, b"220 hi\r\n", &mut out);
    out.clear();
    client.receive(T0, b"250-hi\r\n250 AUTH PLAIN\r\n", &mut out);
    assert_eq!(out, b"AUTH PLAIN\r\n");
    out.clear();
    client.receive(T0, b"334 \r\n", &mut out);
    assert!(out.len() > 600 && out.ends_with(b"\r\n"));
    assert_eq!(client.receive(T0, b"235 ok\r\n", &mut out).1, Step::Ready);
}
