//! Records and rows of mailboxes from arbitrary bytes: no panic, and what decodes encodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    ringpost::mailbox::record::fuzz_entry(data);
    ringpost::mailbox::row::fuzz_entry(data);
    if let Some(name) = ringpost::mailbox::name::from_utf7(data) {
        assert_eq!(ringpost::mailbox::name::to_utf7(&name).as_bytes(), data);
    }
});
