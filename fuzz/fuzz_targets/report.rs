//! Any bytes as a report that comes in, and as a sender that comes back: no panic; what is found is bounded,
//! and nothing but what was written with the secret leads anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::message::report::{Report, parse};
use ringpost::policy::reports::{For, Reports};
use ringpost::route::srs::{Returned, Srs, secrets};

fuzz_target!(|input: &[u8]| {
    match parse(input) {
        Some(Report::Delivery(d)) => {
            assert!((1..=101).contains(&d.recipients.len()));
            assert!(d.recipients.iter().all(|r| r.address.len() <= 1000 && r.said.len() <= 1000));
        }
        Some(Report::Feedback(f)) => {
            assert!(!f.kind.is_empty() && f.recipients.len() <= 100 && f.uris.len() <= 100);
        }
        None => {}
    }
    let mut reports = Reports::default();
    reports.add_bounces("b+LOCAL=DOMAIN@a.test").expect("a pattern");
    if let Some(For::Bounces(recipient)) = reports.of(input) {
        assert!(recipient.len() < input.len() && recipient.contains(&b'@'));
    }
    let srs = Srs::new("srs.test", b'=', 21, secrets(b"a secret that is long enough").expect("a secret"));
    let address = [input, b"@srs.test"].concat();
    assert!(!matches!(srs.read(&address), Some(Returned::To(_))));
    let _old = srs.is_old(&address, input.len() as u64);
    if let Some(written) = srs.forward(&[input, b"@a.test"].concat(), input.len() as u64) {
        assert!(matches!(srs.read(&written), Some(Returned::To(_))));
    }
});
