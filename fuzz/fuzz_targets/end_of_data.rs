//! Any bytes as the message of DATA: split in two at every place, always the same result, which
//! agrees with a reader that goes byte by byte.
#![no_main]

#[path = "../../src/smtp/data/plain.rs"]
mod plain;

use libfuzzer_sys::fuzz_target;
use ringpost::smtp::data::{BareNewline, Body, Limits, NulBytes, Piece};

const FREE: Limits = Limits {
    size: 0,
    header: 0,
    field: 0,
    fields: 0,
    hops: 0,
    bare_newline: BareNewline::Normalize,
    nul: NulBytes::Keep,
};

fuzz_target!(|wire: &[u8]| {
    // Every split of a long input is quadratic; block borders lie well within this.
    let wire = &wire[..wire.len().min(400)];
    let expect = plain::read(wire);
    for cut in 0..=wire.len() {
        assert_eq!(receive(wire, cut), expect, "cut at {cut}");
    }
    if let (stored, Some(_)) = &expect {
        let pairs = stored.windows(2).filter(|w| w == b"\r\n").count();
        let newlines = stored.iter().filter(|&&b| b == b'\r' || b == b'\n').count();
        assert_eq!(newlines, 2 * pairs, "no bare CR or LF is stored");
    }
});

type Received = (Vec<u8>, Option<usize>);

fn receive(wire: &[u8], cut: usize) -> Received {
    let (mut body, mut stored, mut at) = (Body::new(FREE), Vec::new(), 0);
    for end in [cut, wire.len()] {
        loop {
            let input = &wire[at..end.max(at)];
            let (used, piece) = body.data(input);
            at += used;
            match piece {
                Piece::Run(run) => stored.extend_from_slice(&input[run]),
                Piece::Insert(bytes) => stored.extend_from_slice(bytes),
                Piece::End => {
                    assert_eq!(body.facts().len, stored.len() as u64);
                    return (stored, Some(at));
                }
                Piece::More => break,
            }
        }
    }
    (stored, None)
}
