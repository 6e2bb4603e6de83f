//! Decoders of the archive on arbitrary bytes; then a segment made by a script, flipped and cut: no
//! panic, nothing invented, and what was durable is read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ringpost::storage::archive::fuzz::fuzz_entry(data));
