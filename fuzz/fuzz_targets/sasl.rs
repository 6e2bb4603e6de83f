//! Any responses to any mechanism, any password field, any line of a password file: no panic, nobody
//! gets in without the password, and challenges are bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::auth::mechanism::Mechanism;
use ringpost::auth::passwd::{self, Users};
use ringpost::auth::sasl::{Channel, Exchange, Fresh, Turn, Verifier};
use ringpost::auth::scheme::Credential;
use ringpost::base::secret::Secret;

const LOGIN: &str = "tim";
const PASSWORD: &[u8] = b"a password that no fuzzer writes";

fuzz_target!(|input: &[u8]| {
    let Some((&which, rest)) = input.split_first() else { return };
    if which >= 0xf0 {
        return files(rest);
    }
    let mechanism = Mechanism::ALL[usize::from(which) % 8];
    let plus = which & 8 != 0;
    let channel = Channel {
        secure: plus,
        end_point: plus.then(|| vec![1; 32]),
        exporter: plus.then(|| vec![2; 32]),
        identity: (which & 16 != 0).then(|| "somebody else".into()),
    };
    let fresh = Fresh { nonce: [3; 18], host: "mx.test", plus_offered: plus };
    let mut exchange = Exchange::new(mechanism, &fresh, &channel);
    // Responses are separated by a byte that none of the mechanisms uses.
    let mut responses = rest.split(|&b| b == 0xff);
    let first = responses.next().filter(|_| which & 32 == 0);
    let mut turn = exchange.begin(first);
    loop {
        turn = match turn {
            Turn::Password => {
                let good = exchange.login() == LOGIN && exchange.password().expose() == PASSWORD;
                exchange.checked(good)
            }
            Turn::Account => {
                let good = exchange.login() == LOGIN;
                exchange.checked(good)
            }
            Turn::Cleartext => {
                let secret = Secret::new(PASSWORD.to_vec());
                let known = exchange.login() == LOGIN;
                exchange.cleartext(known.then_some(&secret))
            }
            Turn::Verifier(hash) => {
                let known = exchange.login() == LOGIN;
                exchange.verifier(Verifier::make(hash, PASSWORD, b"salt", 1), known)
            }
            Turn::Challenge(challenge) => {
                assert!(challenge.len() <= 8192);
                let Some(response) = responses.next() else { return };
                exchange.respond(response)
            }
            Turn::Done => panic!("{} let somebody in", mechanism.name()),
            Turn::Failed(_) => return,
        };
    }
});

fn files(text: &[u8]) {
    let (users, bad) = Users::parse(text, [0; 32]);
    let lines = text.split(|&b| b == b'\n').count();
    assert!(users.count() + bad.len() <= lines);
    for line in text.split(|&b| b == b'\n').filter_map(|l| std::str::from_utf8(l).ok()) {
        if let Some(Ok((_, field, _))) = passwd::split(line)
            && let Ok(credential) = Credential::parse(field)
        {
            assert!(!format!("{credential:?}").contains(field) || field.len() < 24);
            // Those that take long are left out.
            if credential.is_quick() {
                let _ = credential.fits(&Secret::new(PASSWORD.to_vec()));
            }
        }
    }
}
