//! Tests of the exchanges: examples of the RFCs, what must fail, another implementation as client.

use super::*;
use proptest::prelude::*;

const NONCE: [u8; 18] = [9; 18];

fn fresh() -> Fresh<'static> {
    Fresh { nonce: NONCE, host: "mx.test", plus_offered: false }
}

fn begin(mechanism: Mechanism) -> Exchange {
    Exchange::new(mechanism, &fresh(), &Channel::default())
}

/// Answers what an exchange needs as a store with one user would.
fn settle(exchange: &mut Exchange, mut turn: Turn, user: &str, password: &str) -> Turn {
    loop {
        let known = exchange.login() == user;
        turn = match turn {
            Turn::Password => {
                let good = known && exchange.password().expose() == password.as_bytes();
                exchange.checked(good)
            }
            Turn::Account => exchange.checked(known),
            Turn::Cleartext => {
                let secret = Secret::from(password);
                exchange.cleartext(known.then_some(&secret))
            }
            Turn::Verifier(hash) => {
                let verifier = Verifier::make(hash, password.as_bytes(), b"0123456789abcdef", 64);
                exchange.verifier(verifier, known)
            }
            done => return done,
        };
    }
}

fn challenge(turn: Turn) -> String {
    match turn {
        Turn::Challenge(bytes) => String::from_utf8(bytes).unwrap(),
        other => panic!("no challenge: {other:?}"),
    }
}

const MALFORMED: Turn = Turn::Failed(Failure::Malformed);
const REFUSED: Turn = Turn::Failed(Failure::Refused);

#[test]
fn plain() {
    for (message, expect) in [
        ("\0tim\0tanstaaf", Turn::Done),
        ("tim\0tim\0tanstaaf", Turn::Done),
        ("TIM\0Tim\0tanstaaf", Turn::Done),
        ("\0tim\0wrong", REFUSED),
        ("\0tom\0tanstaaf", REFUSED),
        ("root\0tim\0tanstaaf", REFUSED),
        ("\0\u{7}\0tanstaaf", REFUSED),
        ("", MALFORMED),
        ("tim", MALFORMED),
        ("tim\0tanstaaf", MALFORMED),
        ("\0tim\0", MALFORMED),
        ("\0\0tanstaaf", MALFORMED),
        ("\0tim\0tan\0staaf", MALFORMED),
    ] {
        let mut exchange = begin(Mechanism::Plain);
        let turn = exchange.begin(Some(message.as_bytes()));
        assert_eq!(settle(&mut exchange, turn, "tim", "tanstaaf"), expect, "{message:?}");
        assert_eq!(exchange.respond(b"\0tim\0tanstaaf"), MALFORMED, "it is over");
    }
    let mut exchange = begin(Mechanism::Plain);
    assert_eq!(exchange.begin(None), Turn::Challenge(vec![]));
    assert_eq!(exchange.respond(b"\0tim\0tanstaaf"), Turn::Password);
    assert_eq!((exchange.login(), exchange.password().expose()), ("tim", &b"tanstaaf"[..]));
    assert!(!format!("{exchange:?}").contains("tanstaaf"));
    assert_eq!(begin(Mechanism::Plain).begin(Some(b"\0\xff\0x")), MALFORMED);
    let mut long = begin(Mechanism::Plain);
    let message = [b"\0tim\0".to_vec(), vec![b'x'; 10_000]].concat();
    assert_eq!(long.begin(Some(&message)), Turn::Password);
    assert_eq!(long.password().expose().len(), prepare::PASSWORD_MAX + 1);
}

#[test]
fn login() {
    let mut exchange = begin(Mechanism::Login);
    assert_eq!(challenge(exchange.begin(None)), "Username:");
    assert_eq!(challenge(exchange.respond(b"Tim")), "Password:");
    let turn = exchange.respond(b"tanstaaf");
    assert_eq!(settle(&mut exchange, turn, "tim", "tanstaaf"), Turn::Done);
    // Outlook sends the name at once.
    let mut exchange = begin(Mechanism::Login);
    assert_eq!(challenge(exchange.begin(Some(b"tim"))), "Password:");
    let turn = exchange.respond(b"wrong");
    assert_eq!(settle(&mut exchange, turn, "tim", "tanstaaf"), REFUSED);
    assert_eq!(begin(Mechanism::Login).begin(Some(b"")), MALFORMED);
    let mut exchange = begin(Mechanism::Login);
    exchange.begin(Some(b"tim"));
    assert_eq!(exchange.respond(b"a\0b"), MALFORMED);
}

/// RFC 2195 §2.
#[test]
fn cram_md5() {
    let challenge = "<1896.697170952@postoffice.reston.mci.net>";
    let run = |response: &str, password: Option<&str>| {
        let mut exchange = begin(Mechanism::CramMd5);
        exchange.state = State::Cram { challenge: challenge.into(), digest: [0; 16] };
        match exchange.respond(response.as_bytes()) {
            Turn::Cleartext => exchange.cleartext(password.map(Secret::from).as_ref()),
            other => other,
        }
    };
    let good = "tim b913a602c7eda7a495b4e6e7334d3890";
    assert_eq!(run(good, Some("tanstaaftanstaaf")), Turn::Done);
    assert_eq!(run(good, Some("other")), REFUSED);
    assert_eq!(run(good, None), REFUSED);
    for bad in ["tim", "", "tim b913", &good.to_uppercase(), &good.replace("b9", "b "), "\0"] {
        assert_eq!(run(bad, Some("tanstaaftanstaaf")), MALFORMED, "{bad}");
    }
    let own = begin(Mechanism::CramMd5).begin(None);
    assert_eq!(own, Turn::Challenge(format!("<{}@mx.test>", "09".repeat(18)).into_bytes()));
    assert_eq!(begin(Mechanism::CramMd5).begin(Some(b"")), MALFORMED, "the server begins");
}

#[test]
fn external() {
    let channel = Channel { identity: Some("Tim@Example.net".into()), ..Channel::default() };
    for (wish, expect) in
        [("", Turn::Done), ("tim@example.net", Turn::Done), ("root", REFUSED), ("tim\u{7}", REFUSED)]
    {
        let mut exchange = Exchange::new(Mechanism::External, &fresh(), &channel);
        let turn = exchange.begin(Some(wish.as_bytes()));
        assert_eq!(settle(&mut exchange, turn, "tim@example.net", ""), expect, "{wish}");
    }
    assert_eq!(begin(Mechanism::External).begin(Some(b"")), REFUSED, "no certificate");
}

/// A client of SCRAM as RFC 5802 describes it; `edit` changes its last message without proof.
fn scram(
    exchange: &mut Exchange,
    (hash, gs2, binding): (Hash, &str, &[u8]),
    (user, password): (&str, &str),
    edit: impl Fn(String) -> String,
) -> Turn {
    let bare = format!("n={user},r=clientnonce");
    let turn = exchange.begin(Some(format!("{gs2}{bare}").as_bytes()));
    let server_first = match settle(exchange, turn, "tim", "secret") {
        Turn::Challenge(bytes) => String::from_utf8(bytes).unwrap(),
        other => return other,
    };
    let (nonce, salt) = server_first.split_once(",s=").unwrap();
    let salt = prepare::decode(salt.split(',').next().unwrap().as_bytes()).unwrap();
    let c = prepare::encode(&[gs2.as_bytes(), binding].concat());
    let last = edit(format!("c={c},{nonce}"));
    let transcript = format!("{bare},{server_first},{last}");
    let salted = hash.stretch(password.as_bytes(), &salt, 64);
    let client_key = hash.mac(&salted, b"Client Key");
    let signature = hash.mac(&hash.digest(&client_key), transcript.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(k, s)| k ^ s).collect();
    match exchange.respond(format!("{last},p={}", prepare::encode(&proof)).as_bytes()) {
        Turn::Challenge(end) => {
            let server = hash.mac(&hash.mac(&salted, b"Server Key"), transcript.as_bytes());
            assert_eq!(end, format!("v={}", prepare::encode(&server)).into_bytes());
            exchange.respond(b"")
        }
        other => other,
    }
}

#[test]
fn scram_without_binding() {
    let same = |last: String| last;
    for (mechanism, hash) in [(Mechanism::ScramSha1, Hash::Sha1), (Mechanism::ScramSha256, Hash::Sha256)] {
        let run = |gs2: &str, user: &str, password: &str, edit: &dyn Fn(String) -> String| {
            let mut exchange = begin(mechanism);
            scram(&mut exchange, (hash, gs2, b""), (user, password), edit)
        };
        assert_eq!(run("n,,", "tim", "secret", &same), Turn::Done);
        assert_eq!(run("y,,", "TIM", "secret", &same), Turn::Done, "the client believes what is true");
        assert_eq!(run("n,a=tim,", "tim", "secret", &same), Turn::Done);
        assert_eq!(run("n,a=root,", "tim", "secret", &same), REFUSED);
        assert_eq!(run("n,,", "tim", "wrong", &same), REFUSED);
        assert_eq!(run("n,,", "tom", "secret", &same), REFUSED, "a verifier that is not real");
        assert_eq!(run("p=tls-exporter,,", "tim", "secret", &same), REFUSED);
        assert_eq!(run("n,,", "tim", "secret", &|l| l.replace("r=client", "r=cluent")), REFUSED);
        assert_eq!(run("n,,", "tim", "secret", &|l| l + "x"), REFUSED, "a nonce that goes on");
        assert_eq!(run("n,,", "tim", "secret", &|l| l.replace("c=biws", "c=eSws")), REFUSED);
        assert_eq!(run("n,,", "tim", "secret", &|l| l.replace("c=biws", "c=biw")), MALFORMED);
        assert_eq!(run("n,,", "tim", "secret", &|l| l + ",x=extension"), Turn::Done);
        assert_eq!(run("x,,", "tim", "secret", &same), MALFORMED);
        assert_eq!(run("n,b=tim,", "tim", "secret", &same), MALFORMED);
        assert_eq!(run("n,,m=must,", "tim", "secret", &same), MALFORMED);
        assert_eq!(run("n,,", "", "secret", &same), MALFORMED);
        assert_eq!(run("n,,", "t=im", "secret", &same), MALFORMED);
    }
}

#[test]
fn scram_with_binding_and_downgrade() {
    let channel = Channel {
        secure: true,
        end_point: Some(b"certificate".to_vec()),
        exporter: Some(vec![7; 32]),
        identity: None,
    };
    let run = |mechanism, gs2: &str, binding: &[u8]| {
        let mut exchange = Exchange::new(mechanism, &Fresh { plus_offered: true, ..fresh() }, &channel);
        scram(&mut exchange, (Hash::Sha256, gs2, binding), ("tim", "secret"), |last| last)
    };
    let (plus, without) = (Mechanism::ScramSha256Plus, Mechanism::ScramSha256);
    assert_eq!(run(plus, "p=tls-exporter,,", &[7; 32]), Turn::Done);
    assert_eq!(run(plus, "p=tls-server-end-point,,", b"certificate"), Turn::Done);
    assert_eq!(run(plus, "p=tls-exporter,,", &[8; 32]), REFUSED, "another connection");
    assert_eq!(run(plus, "p=tls-exporter,,", b""), REFUSED);
    assert_eq!(run(plus, "p=tls-server-end-point,,", &[7; 32]), REFUSED);
    assert_eq!(run(plus, "p=tls-unique,,", &[7; 32]), REFUSED);
    assert_eq!(run(plus, "n,,", b""), REFUSED);
    assert_eq!(run(plus, "y,,", b""), REFUSED);
    assert_eq!(run(without, "n,,", b""), Turn::Done, "a client that cannot bind");
    assert_eq!(run(without, "y,,", b""), REFUSED, "somebody has hidden the offer");
    assert_eq!(run(without, "p=tls-exporter,,", &[7; 32]), REFUSED);
}

/// Runs the client of another implementation against ours; true if both are content.
fn other(mechanism: Mechanism, user: &str, password: &str, stored: &str) -> bool {
    use rsasl::prelude::{Mechname, SASLClient, SASLConfig, State};
    let config = SASLConfig::with_credentials(None, user.into(), password.into()).unwrap();
    let offered = [Mechname::parse(mechanism.name().as_bytes()).unwrap()];
    let mut client = SASLClient::new(config).start_suggested(&offered).unwrap();
    let mut exchange = begin(mechanism);
    let mut input: Option<Vec<u8>> = None;
    let mut begun = false;
    if !client.are_we_first() {
        input = Some(challenge(exchange.begin(None)).into_bytes());
        begun = true;
    }
    loop {
        let mut out = Vec::new();
        let Ok(state) = client.step(input.as_deref(), &mut out) else { return false };
        let turn = match begun {
            false => exchange.begin(Some(&out)),
            true => exchange.respond(&out),
        };
        begun = true;
        let prepared = prepare::login(user).unwrap();
        match settle(&mut exchange, turn, &prepared, stored) {
            Turn::Challenge(bytes) => input = Some(bytes),
            Turn::Done => return matches!(state, State::Finished(_)),
            _ => return false,
        }
    }
}

#[test]
fn another_implementation_agrees() {
    for mechanism in [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha1, Mechanism::ScramSha256] {
        for user in ["tim", "tim@example.net", "a,b=c", "\u{2168}\u{ad}"] {
            let name = mechanism.name();
            assert!(other(mechanism, user, "pass,word=1", "pass,word=1"), "{name} {user}");
            assert!(!other(mechanism, user, "pass", "word"), "{name} {user}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered(
        which in 0usize..8,
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..5),
    ) {
        run_any(Mechanism::ALL[which], &messages)?;
    }

    #[test]
    fn nearly_right_scram_is_answered(
        first in "[nyp],(a=)?[a-z=,]{0,5},n=[a-z=2C3D]{0,8},r=[!-~]{0,20}(,[a-z]=x)?",
        last in "c=(biws|eSws|[A-Za-z+/=]{0,8}),r=[!-~]{0,40},p=[A-Za-z+/=]{0,48}",
    ) {
        for mechanism in [Mechanism::ScramSha1, Mechanism::ScramSha256] {
            run_any(mechanism, &[first.clone().into_bytes(), last.clone().into_bytes(), vec![]])?;
        }
    }
}

/// Nobody gets in who has not the password, whatever it sends.
fn run_any(mechanism: Mechanism, messages: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let mut exchange = begin(mechanism);
    let mut turn = exchange.begin(messages.first().map(Vec::as_slice));
    for message in &messages[1..] {
        turn = settle(&mut exchange, turn, "tim", "a password that chance does not find");
        prop_assert!(turn != Turn::Done);
        turn = exchange.respond(message);
    }
    Ok(())
}
