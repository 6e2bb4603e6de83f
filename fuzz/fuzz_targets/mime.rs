//! Any bytes as a message: no panic, the same summary whatever the pieces, bounded, parts within one
//! another and within the message; read and written anew it is the same. And any bytes as a summary.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::message::mime::{Kind, PARTS_MAX, PREVIEW_MAX, Scanner, Summary, TEXT_MAX};

fuzz_target!(|input: &[u8]| {
    let Some((&piece, message)) = input.split_first() else { return };
    let bytes = scan(message, message.len());
    assert_eq!(bytes, scan(message, usize::from(piece)));
    // Addresses may take more than they have in the message, all else does not.
    assert!(bytes.len() < 4 * (message.len() + 1000).min(2 * TEXT_MAX) + 40 * PARTS_MAX);
    check(&bytes, message);
    if let Ok(summary) = Summary::read(message) {
        let mut again = Vec::new();
        summary.put(&mut again);
        assert_eq!(again, message);
    }
});

fn scan(message: &[u8], piece: usize) -> Vec<u8> {
    let mut scanner = Scanner::new();
    message.chunks(piece.max(1)).for_each(|bytes| scanner.feed(bytes));
    let mut out = Vec::new();
    scanner.finish(&mut out);
    out
}

fn check(bytes: &[u8], message: &[u8]) {
    let summary = Summary::read(bytes).expect("what was written can be read");
    assert_eq!(summary.size(), message.len() as u64);
    assert!(summary.preview().chars().count() <= PREVIEW_MAX);
    assert!(summary.parts().count() <= PARTS_MAX);
    for part in summary.parts() {
        assert!(part.header <= part.body && part.body <= part.end && part.end <= summary.size());
        let body = &message[part.body as usize..part.end as usize];
        assert_eq!(part.lines, body.iter().filter(|b| **b == b'\n').count() as u64);
        assert_eq!(part.envelope().is_some(), part.kind == Kind::Message);
        assert!(part.children().all(|child| child.header >= part.body && child.end <= part.end));
    }
    for numbers in [&[1][..], &[1, 1], &[2], &[1, 2, 1]] {
        let _may_be_there = summary.section(numbers);
    }
    let mut again = Vec::new();
    summary.put(&mut again);
    assert_eq!(bytes, again);
}
