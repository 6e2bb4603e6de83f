//! Every decoder of the journal's format on arbitrary bytes: no panic, and what decodes encodes to
//! the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ringpost::storage::record::fuzz_entry(data));
