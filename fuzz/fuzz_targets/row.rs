//! Rows of the index and what it says of itself, from arbitrary bytes: no panic, and what decodes
//! encodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ringpost::queue::row::fuzz_entry(data));
