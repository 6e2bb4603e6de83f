//! Any bytes as an access map: no panic; what is found for a key is one of its actions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::route::access::{Access, Action, Kind, Question, parse};
use std::net::IpAddr;

fuzz_target!(|input: &[u8]| {
    let (text, asked) = input.split_at(input.len() / 2);
    let of = |kind| {
        let (map, bad) = parse(text, kind);
        let lines = text.split(|b| *b == b'\n').count();
        assert!(map.len() + bad.len() <= lines && bad.iter().all(|b| (1..=lines).contains(&b.line)));
        map
    };
    let mail = of(Kind::Mail);
    let (client, helo) = (of(Kind::Client), of(Kind::Helo));
    let access = Access { client, helo, sender: mail.clone(), recipient: mail };
    let mut octets = [0; 16];
    octets.iter_mut().zip(asked).for_each(|(to, from)| *to = *from);
    let four: [u8; 4] = octets[..4].try_into().expect("four");
    for question in [
        Question::Client(IpAddr::from(octets), Some(asked)),
        Question::Client(IpAddr::from(four), None),
        Question::Helo(asked),
        Question::Sender(asked),
        Question::Recipient(asked),
    ] {
        if let Some(Action::Refuse { code, text, .. }) = access.find(question) {
            assert!((400..600).contains(code) && *code != 421 && text.is_ascii());
        }
    }
});
