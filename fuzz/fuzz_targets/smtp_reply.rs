//! Replies of a hostile server: bounded, and the same however the bytes are split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::smtp::reply_in::{ReplyError, ReplyParser, TEXT_MAX};

type Seen = Result<(u16, Option<[u16; 3]>, Vec<u8>), ReplyError>;

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Seen> {
    let mut parser = ReplyParser::new(TEXT_MAX);
    let mut seen = Vec::new();
    for mut rest in pieces {
        while !rest.is_empty() {
            let (n, done) = parser.push(rest);
            assert!(n > 0 && n <= rest.len());
            rest = &rest[n..];
            match done {
                Some(Ok(())) => {
                    let reply = parser.reply();
                    assert!((200..600).contains(&reply.code) && reply.text.len() <= TEXT_MAX);
                    assert!(reply.text.iter().all(|&b| b == b'\n' || (b >= b' ' && b != 0x7f)));
                    seen.push(Ok((reply.code, reply.enhanced, reply.text.to_vec())));
                }
                Some(Err(e)) => {
                    seen.push(Err(e));
                    return seen;
                }
                None => {}
            }
        }
    }
    seen
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, text)) = data.split_first() else { return };
    let whole = read(std::iter::once(text));
    assert_eq!(read(text.chunks(usize::from(size).max(1))), whole);
    assert_eq!(read(text.chunks(1)), whole);
});
