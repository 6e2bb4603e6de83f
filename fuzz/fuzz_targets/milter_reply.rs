//! What a hostile filter sends: bounded, and the same however the bytes are split; what it changes of a
//! header leaves fields that are fields, and those it does not touch as they were.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::message::headers;
use ringpost::milter::{Answer, Client, Fault, Header, Step};

const TRACE: &[u8] = b"Received: here\r\n";
const OWN: &[u8] = b"Subject: a\r\n\tb\r\nX : 1\r\nFrom: c\r\n";

type Seen = (Vec<String>, Option<Fault>);

/// A client that waits for the answer to the end of a message.
fn client(wishes: u8) -> Client {
    let (mut client, mut out) = (Client::default(), Vec::new());
    client.negotiate(&mut out);
    let mut options = b"\0\0\0\x0dO\0\0\0\x06\0\0\0\xff\0\x10\0\0".to_vec();
    options[16] = wishes & 0xf0;
    let (_, step) = client.receive(&options).expect("good options");
    assert_eq!(step, Step::Answer(Answer::Continue));
    client.end_of_body(&[], &mut out);
    client
}

fn read<'a>(wishes: u8, pieces: impl Iterator<Item = &'a [u8]>, header: &mut Header) -> Seen {
    let mut client = client(wishes);
    let (mut seen, mut input) = (Vec::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let (used, ended) = match client.receive(&input) {
                Err(fault) => return (seen, Some(fault)),
                Ok((_, Step::NeedInput)) => break,
                Ok((used, step)) => {
                    if let Step::Header(change) = &step {
                        // A refused change changes nothing.
                        let before = header.finish();
                        if header.change(change, client.keeps_space()).is_err() {
                            assert_eq!(header.finish(), before);
                        }
                    }
                    seen.push(format!("{step:?}"));
                    (used, matches!(step, Step::Answer(_)))
                }
            };
            assert!(used > 0 && used <= input.len());
            input.drain(..used);
            if ended {
                return (seen, None);
            }
        }
    }
    (seen, None)
}

fuzz_target!(|data: &[u8]| {
    let [size, wishes, packets @ ..] = data else { return };
    let mut header = Header::new(TRACE, OWN);
    let whole = read(*wishes, std::iter::once(packets), &mut header);
    let changed = header.finish();
    let size = usize::from(*size).max(1);
    let mut again = Header::new(TRACE, OWN);
    assert_eq!(read(*wishes, packets.chunks(size), &mut again), whole);
    assert_eq!(again.finish(), changed);
    if let Some(changed) = changed {
        let own = changed.own.unwrap_or_else(|| OWN.to_vec());
        let text = [changed.trace, own].concat();
        let fields: usize = headers::fields(&text).map(|f| f.raw.len()).sum();
        assert_eq!(fields, text.len(), "a header that ends too early: {}", text.escape_ascii());
        assert!(headers::fields(&text).any(|f| f.raw == TRACE));
    }
});
