//! Answers of a hostile policy server, and of a hostile Rspamd: bounded, the same however the bytes are
//! split, and what becomes of them is always one line of a reply.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::policy::delegation::{ANSWER_MAX, Action, read_answer};
use ringpost::policy::rspamd;
use ringpost::smtp::rejection::Rejection;
use ringpost::smtp::reply::LINE_MAX;

fuzz_target!(|data: &[u8]| {
    let whole = read_answer(data);
    if let Ok(Some((used, action))) = whole {
        assert!(used <= data.len() && used <= ANSWER_MAX);
        for end in [0, used / 2, used - 1] {
            assert_eq!(read_answer(&data[..end]), Ok(None), "at {end}");
        }
        if let Action::Code(text) = action
            && let Some(rejection) = Rejection::parse(text)
        {
            let mut out = Vec::new();
            rejection.refusal().put(&mut out);
            assert!(out.len() <= LINE_MAX && out.ends_with(b"\r\n"));
            assert!(out[..out.len() - 2].iter().all(|b| matches!(b, 32..=126)));
            assert!((400..600).contains(&rejection.refusal().code()));
        }
    }
    if let Ok(Some(_)) = rspamd::read_answer(data) {
        for end in [0, data.len() / 4, data.len() / 2] {
            assert!(!matches!(rspamd::read_answer(&data[..end]), Err(e) if e != rspamd::Fault::Json));
        }
    }
    if data.len() > ANSWER_MAX {
        assert_ne!(whole, Ok(None), "an answer without end");
    }
});
