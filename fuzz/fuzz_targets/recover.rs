//! A script of stagings, commits, crashes and flips against a log in memory: what was acknowledged
//! is recovered, nothing is invented, nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ringpost::storage::oracle::fuzz_entry(data));
