//! The rules of DATA in their plainest form: one byte at a time, everything in memory. Tests and the
//! fuzz target compare the real reader with it. Bare CR and LF are normalised; it cannot fail.

/// The message as stored, and how many bytes of `wire` it took with its end; `None` if the end has
/// not come.
pub fn read(wire: &[u8]) -> (Vec<u8>, Option<usize>) {
    let (mut out, mut line_start, mut i) = (Vec::new(), true, 0);
    loop {
        if line_start && wire[i..].starts_with(b".\r\n") {
            return (out, Some(i + 3));
        }
        if line_start && wire[i..].starts_with(b".") {
            if b".\r\n".starts_with(&wire[i..]) {
                return (out, None);
            }
            i += 1;
        }
        line_start = false;
        match (wire.get(i), wire.get(i + 1)) {
            (None, _) | (Some(b'\r'), None) => return (out, None),
            (Some(b'\r'), Some(b'\n')) => {
                out.extend_from_slice(b"\r\n");
                (line_start, i) = (true, i + 1);
            }
            (Some(b'\r'), _) => out.push(b' '),
            (Some(b'\n'), _) => out.extend_from_slice(b"\r\n"),
            (Some(&b), _) => out.push(b),
        }
        i += 1;
    }
}
