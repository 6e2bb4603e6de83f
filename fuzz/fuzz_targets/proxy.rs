//! Any bytes at the beginning of a connection of a proxy, cut at every place: no panic, one verdict,
//! and never a byte asked for that is not the header's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::smtp::proxy::{Reading, V2_MAX, read};

fuzz_target!(|input: &[u8]| {
    let whole = read(input);
    if let Reading::Header { used, connection } = whole {
        assert!((15..=V2_MAX).contains(&used) && used <= input.len());
        assert_eq!(read(&input[..used]), whole, "what stands behind makes no difference");
        if let Some(c) = connection {
            assert_eq!(c.client.ip(), c.client.ip().to_canonical());
        }
    }
    for end in 0..input.len() {
        match read(&input[..end]) {
            Reading::More(missing) => {
                assert!(missing > 0 && end + missing <= V2_MAX);
                if let Reading::Header { used, .. } = whole {
                    assert!(end + missing <= used);
                }
            }
            early => assert_eq!(early, whole),
        }
    }
    // As the shell receives: no more than is missing, each time.
    let mut got = 0;
    let stepped = loop {
        match read(&input[..got]) {
            Reading::More(missing) if got < input.len() => got = input.len().min(got + missing),
            verdict => break verdict,
        }
    };
    match (stepped, whole) {
        (Reading::Header { used, .. }, _) => assert_eq!((used, stepped), (got, whole)),
        (Reading::More(_), other) => assert!(!matches!(other, Reading::Header { .. })),
        (verdict, other) => assert_eq!(verdict, other),
    }
});
