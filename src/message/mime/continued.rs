//! Parameters that are cut into pieces (RFC 2231 §3) are put together, as Dovecot does: many programs
//! that read BODYSTRUCTURE do not do it. Their encoding (§4) stays as it is.

use std::cmp::Ordering;

type Param = (Vec<u8>, Vec<u8>);

/// A piece: `name*index` or `name*index*`.
#[derive(Debug)]
struct Piece {
    param: Param,
    base: usize,
    index: u32,
    encoded: bool,
}

impl Piece {
    /// None if the parameter is whole.
    fn of(param: &Param) -> Option<(usize, u32, bool)> {
        let name = &param.0;
        let base = memchr::memchr(b'*', name)?;
        let rest = &name[base + 1..];
        let (digits, encoded) = match rest.strip_suffix(b"*") {
            Some(digits) => (digits, true),
            None => (rest, false),
        };
        if base == 0 || !(1..=3).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let index = digits.iter().fold(0, |n, d| n * 10 + u32::from(d - b'0'));
        Some((base, index, encoded))
    }

    fn base(&self) -> &[u8] {
        &self.param.0[..self.base]
    }

    fn order(&self, other: &Piece) -> Ordering {
        let name = |piece: &Piece| piece.base().to_ascii_lowercase();
        name(self).cmp(&name(other)).then(self.index.cmp(&other.index))
    }
}

/// Whole parameters, then those that could be put together. Pieces whose beginning is missing stay.
pub(super) fn join(params: Vec<Param>) -> Vec<Param> {
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    for param in params {
        match Piece::of(&param) {
            Some((base, index, encoded)) => pieces.push(Piece { param, base, index, encoded }),
            None => whole.push(param),
        }
    }
    pieces.sort_by(Piece::order);
    let mut rest = &pieces[..];
    while let Some(first) = rest.first() {
        let follows = |(piece, index): &(&Piece, u32)| {
            piece.index == *index && piece.base().eq_ignore_ascii_case(first.base())
        };
        let n = rest.iter().zip(0..).take_while(follows).count();
        let (run, others) = rest.split_at(n.max(1));
        whole.push(if n == 0 { first.param.clone() } else { one(run) });
        rest = others;
    }
    whole
}

/// Pieces that follow one another, from the first on.
fn one(run: &[Piece]) -> Param {
    let encoded = run.iter().any(|piece| piece.encoded);
    let mut name = run[0].base().to_vec();
    let mut value = Vec::new();
    if encoded {
        name.push(b'*');
        if !run[0].encoded {
            // RFC 2231 §4: neither character set nor language.
            value.extend_from_slice(b"''");
        }
    }
    for piece in run {
        if piece.encoded == encoded {
            value.extend_from_slice(&piece.param.1);
        } else {
            piece.param.1.iter().for_each(|&b| put_encoded(&mut value, b));
        }
    }
    (name, value)
}

fn put_encoded(out: &mut Vec<u8>, b: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    // What RFC 2231 §7 calls attribute-char.
    if b.is_ascii_alphanumeric() || b"!#$&+-.^_`{|}~".contains(&b) {
        out.push(b);
    } else {
        out.extend_from_slice(&[b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(params: &str) -> String {
        let params = params.split(' ').filter_map(|p| p.split_once('='));
        let params = params.map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        join(params).iter().map(|(n, v)| format!("{}={}", text(n), text(v))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_numbers_a_piece() {
        let of = |name: &[u8]| Piece::of(&(name.to_vec(), Vec::new()));
        assert_eq!((of(b"x*0"), of(b"x*12*")), (Some((1, 0, false)), Some((1, 12, true))));
        for whole in
            [&b"x"[..], b"*1", b"x*", b"x**", b"x*a1", b"x*1000", b"x*99999999999999999999", b"x*\xff"]
        {
            assert_eq!(of(whole), None, "{whole:?}");
        }
    }

    #[test]
    fn pieces_are_put_together() {
        for (given, expected) in [
            ("a=1 b=2", "a=1 b=2"),
            ("a*=utf-8''x b=2", "a*=utf-8''x b=2"),
            ("a*0=1 a*1=2 b=3", "b=3 a=12"),
            ("a*1=2 A*0=1", "A=12"),
            ("a*0*=utf-8''%20 a*1=y%z a*2*=%21", "a*=utf-8''%20y%25z%21"),
            ("a*0=x' a*1*=%20", "a*=''x%27%20"),
            ("a*0=1 a*2=3", "a=1 a*2=3"),
            ("a*0=1 a*0=2", "a=1 a=2"),
            ("a*1=1", "a*1=1"),
            ("a*x=1 *0=2 a*1234=3", "a*x=1 *0=2 a*1234=3"),
        ] {
            assert_eq!(joined(given), expected, "{given}");
        }
    }
}
