//! Results of SEARCH, SORT and THREAD (RFC 9051 §7.3.4; RFC 3501 §7.2.5, RFC 4731, RFC 5256 §4).

use super::{Wire, number, string};
use crate::imap::parse::search::Wanted;
use crate::imap::set::write_numbers;
use crate::imap::thread::Forest;

/// Appends `* SEARCH` (IMAP4rev1), with the highest mod-sequence of the result if MODSEQ was a key
/// (RFC 7162 §3.1.5).
pub fn search(out: &mut Vec<u8>, numbers: impl IntoIterator<Item = u32>, mod_seq: Option<u64>) {
    let from = out.len();
    list(out, "* SEARCH", numbers);
    let found = out.len() > from + "* SEARCH".len();
    if let Some(n) = mod_seq.filter(|_| found) {
        out.extend_from_slice(b" (MODSEQ ");
        number(out, n);
        out.push(b')');
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `* SORT`.
pub fn sort(out: &mut Vec<u8>, numbers: impl IntoIterator<Item = u32>) {
    list(out, "* SORT", numbers);
    out.extend_from_slice(b"\r\n");
}

fn list(out: &mut Vec<u8>, name: &str, numbers: impl IntoIterator<Item = u32>) {
    out.extend_from_slice(name.as_bytes());
    for n in numbers {
        out.push(b' ');
        number(out, u64::from(n));
    }
}

/// Appends `* ESEARCH` (RFC 9051 §7.3.4). `found` is ascending. SAVE alone has nothing to say but the
/// tag (RFC 5182 §2.4: then nothing should be sent; the caller does not call).
pub fn esearch(
    out: &mut Vec<u8>,
    tag: &[u8],
    uid: bool,
    wanted: Wanted,
    found: &[u32],
    mod_seq: Option<u64>,
) {
    out.extend_from_slice(b"* ESEARCH (TAG ");
    string(out, tag, Wire::Ascii);
    out.push(b')');
    if uid {
        out.extend_from_slice(b" UID");
    }
    let mut item = |name: &str, n: u64| {
        out.extend_from_slice(name.as_bytes());
        number(out, n);
    };
    // RFC 4731 §3.1: MIN, MAX and ALL are left out if nothing was found; COUNT never is.
    if let (Some(first), Some(last)) = (found.first(), found.last()) {
        if wanted.has(Wanted::MIN) {
            item(" MIN ", u64::from(*first));
        }
        if wanted.has(Wanted::MAX) {
            item(" MAX ", u64::from(*last));
        }
    }
    if wanted.has(Wanted::COUNT) {
        item(" COUNT ", found.len() as u64);
    }
    if wanted.has(Wanted::ALL) && !found.is_empty() {
        out.extend_from_slice(b" ALL ");
        write_numbers(out, found.iter().copied());
    }
    if let Some(n) = mod_seq.filter(|_| !found.is_empty()) {
        out.extend_from_slice(b" MODSEQ ");
        number(out, n);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `* THREAD` (RFC 5256 §4).
pub fn thread(out: &mut Vec<u8>, forest: &Forest) {
    out.extend_from_slice(b"* THREAD");
    if !forest.is_empty() {
        out.push(b' ');
        forest.write(out);
    }
    out.extend_from_slice(b"\r\n");
}
