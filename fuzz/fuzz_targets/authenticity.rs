//! Any bytes as a message that is looked at: no panic, the same header and hashes whatever the pieces; what
//! is left of a header holds nothing in our name, and together with what was left out it is the header; a
//! seal is three fields, whatever the header is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::authenticity::HEADER_MAX;
use ringpost::authenticity::fields::{fields, in_our_name, without};
use ringpost::authenticity::keys::{Key, generate};
use ringpost::authenticity::results::Outcome;
use ringpost::authenticity::seal;
use ringpost::authenticity::sign::Mail;
use ringpost::authenticity::watch::{Fed, Sum, Watch};
use std::sync::OnceLock;

const ID: &str = "mx.test";

fn key() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| {
        let pem = generate(None).expect("a key");
        Key::parse(ID, "s", pem.as_bytes()).expect("a key")
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((&piece, message)) = input.split_first() else { return };
    let whole = watched(message, message.len());
    assert_eq!(whole, watched(message, usize::from(piece)));
    let header = whole.0;
    if message.len() <= HEADER_MAX {
        assert_eq!([&header[..], &message[header.len()..]].concat(), message);
    }
    let left_out = in_our_name(&header, ID);
    let left: Vec<u8> = without(&header, &left_out).flatten().copied().collect();
    let gone: usize = left_out.iter().map(|r| r.len()).sum();
    assert_eq!(left.len() + gone, header.len());
    assert!(in_our_name(&left, ID).is_empty());
    assert_eq!(fields(&left).count() + left_out.len(), fields(&header).count());
    for found in [Outcome::None, Outcome::Pass, Outcome::Fail] {
        let mail = Mail { front: b"", header: &left, body: &[7; 32], now: 7 };
        let (before, set) = seal::set(key(), &mail, b" mx.test; none\r\n", found);
        // Three fields of ours, whatever stands in the header.
        assert_eq!(fields(&set).count(), if before.is_some() { 3 } else { 0 });
        assert!(fields(&set).all(|f| f.name.starts_with(b"ARC-")));
    }
});

/// Header, where the body begins, hashes.
fn watched(message: &[u8], piece: usize) -> (Vec<u8>, Option<usize>, Vec<Sum>) {
    let mut watch = Watch::default();
    let (mut at, mut body) = (0, None);
    for piece in message.chunks(piece.max(1)) {
        match watch.feed(piece) {
            Fed::Header => {}
            Fed::Body => watch.hash(piece),
            Fed::Ended(from) => {
                watch.want_for_signatures();
                watch.hash(&piece[from..]);
                body = Some(at + from);
            }
        }
        at += piece.len();
    }
    if watch.end() {
        watch.want_for_signatures();
    }
    (watch.header().to_vec(), body, watch.sums())
}
