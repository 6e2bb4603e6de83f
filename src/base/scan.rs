//! Byte scanning: where line ends are, and whether a byte needs attention.
//!
//! Owns the only loops that look at every byte of a body. Knows no protocol. Cannot fail.
//! [`plain`] passes over ordinary text in groups of 256 bytes; it is plain code that the compiler
//! makes vectors of, AVX2 where the processor has it. [`marks`] looks closer, in blocks of 64: on
//! x86-64 with SSE2, which every such processor has (4 KiB take 0.23 us against 1.3 us with arithmetic
//! on words, which is used elsewhere). That is why a few lines here are unsafe. All forms are tested
//! against naive ones.

/// Bytes per group of [`plain`].
pub const GROUP: usize = 256;

/// How many bytes of `bytes` from `from` on (at least 1; in whole groups) are ordinary text: every CR
/// before them or within is followed by LF and every LF follows a CR, no line begins with a dot, no
/// byte is zero or above 127, and each group has a line end. A CR at their end is not judged.
#[inline]
#[must_use]
pub fn plain(bytes: &[u8], from: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[allow(unsafe_code)]
        // SAFETY: the function is unsafe only because it needs AVX2, which has just been found.
        return unsafe { plain_by_avx2(bytes, from) };
    }
    plain_by_any(bytes, from)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn plain_by_avx2(bytes: &[u8], from: usize) -> usize {
    plain_by_any(bytes, from)
}

/// Inlined, so that it uses the vectors of its caller.
#[inline(always)]
fn plain_by_any(bytes: &[u8], from: usize) -> usize {
    let groups = bytes[from..].as_chunks::<GROUP>().0;
    let before = bytes[from - 1..].as_chunks::<GROUP>().0;
    let mut count = 0;
    // A loop and no iterator's closure: that would not be inlined, and so be without the vectors.
    for (before, group) in before.iter().zip(groups) {
        if !is_plain(before, group) {
            break;
        }
        count += 1;
    }
    count * GROUP
}

/// `before` are the bytes one place earlier.
#[inline(always)]
fn is_plain(before: &[u8; GROUP], group: &[u8; GROUP]) -> bool {
    const LANES: usize = 32;
    // In lanes, with masks and without an early exit, so that the compiler makes vectors of it.
    let (mut odd, mut end) = ([0u8; LANES], [0u8; LANES]);
    for (before, group) in before.as_chunks::<LANES>().0.iter().zip(group.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            let (b, c) = (before[i], group[i]);
            let lf = mask(c == b'\n');
            end[i] |= lf;
            odd[i] |= mask(b == b'\r') ^ lf;
            odd[i] |= mask(b == b'\n') & mask(c == b'.');
            odd[i] |= mask(c.cast_signed() <= 0);
        }
    }
    odd == [0; LANES] && end != [0; LANES]
}

#[inline(always)]
fn mask(is: bool) -> u8 {
    if is { 0xff } else { 0 }
}

/// Bytes per block.
pub const BLOCK: usize = 64;

/// What a block of 64 bytes contains; bit `i` stands for byte `i`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// Carriage returns.
    pub cr: u64,
    /// Line feeds.
    pub lf: u64,
    /// Some byte is zero or above 127: rare enough to look closer.
    pub odd: bool,
}

/// The marks of one block.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[inline]
#[must_use]
pub fn marks(block: &[u8; BLOCK]) -> Marks {
    // SAFETY: the function is unsafe only because it needs SSE2, and x86-64 always has SSE2.
    unsafe { marks_by_vectors(block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[allow(unsafe_code)]
#[inline]
fn marks_by_vectors(block: &[u8; BLOCK]) -> Marks {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
        _mm_setzero_si128,
    };
    let (cr, lf, zero) = (_mm_set1_epi8(13), _mm_set1_epi8(10), _mm_setzero_si128());
    let (mut out, mut odd, mut least) = (Marks::default(), zero, _mm_set1_epi8(-1));
    for (i, lanes) in block.as_chunks::<16>().0.iter().enumerate() {
        // SAFETY: reads the 16 bytes of `lanes`; the load needs no alignment.
        let v = unsafe { _mm_loadu_si128(lanes.as_ptr().cast()) };
        // A mask of 16 lanes fits u16; the cast drops bits that are zero.
        out.cr |= u64::from(_mm_movemask_epi8(_mm_cmpeq_epi8(v, cr)) as u16) << (16 * i);
        out.lf |= u64::from(_mm_movemask_epi8(_mm_cmpeq_epi8(v, lf)) as u16) << (16 * i);
        odd = _mm_or_si128(odd, v);
        least = _mm_min_epu8(least, v);
    }
    // The high bit of a lane: a byte above 127, or a zero.
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(least, zero));
    out.odd = _mm_movemask_epi8(odd) != 0;
    out
}

/// The marks of one block.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
#[must_use]
pub fn marks(block: &[u8; BLOCK]) -> Marks {
    marks_by_words(block)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn marks_by_words(block: &[u8; BLOCK]) -> Marks {
    let mut out = Marks::default();
    let mut highs = 0;
    for (i, word) in block.chunks_exact(8).enumerate() {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        out.cr |= equal_bytes(word, b'\r') << (8 * i);
        out.lf |= equal_bytes(word, b'\n') << (8 * i);
        out.odd |= equal_bytes(word, 0) != 0;
        highs |= word;
    }
    out.odd |= highs & HIGH_BITS != 0;
    out
}

#[cfg(any(test, not(target_arch = "x86_64")))]
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Eight bits, one for each byte of `word` that equals `byte`.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn equal_bytes(word: u64, byte: u8) -> u64 {
    let x = word ^ (u64::from(byte) * 0x0101_0101_0101_0101);
    // The high bit of each byte that is zero; no carry crosses a byte.
    let zero = !(((x & !HIGH_BITS) + !HIGH_BITS) | x | !HIGH_BITS);
    // Gathers the eight high bits into one byte.
    (zero >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// The marks of up to 64 bytes from `at` on, and how many bytes they are. Bits beyond are zero.
#[inline]
#[must_use]
pub fn marks_at(bytes: &[u8], at: usize) -> (Marks, usize) {
    let rest = &bytes[at..];
    if let Some(block) = rest.first_chunk::<BLOCK>() {
        return (marks(block), BLOCK);
    }
    let mut block = [b' '; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    (marks(&block), rest.len())
}

/// A mask of the `n` lowest bits; all of them from 64 on.
#[inline]
#[must_use]
pub fn below(n: usize) -> u64 {
    if n >= BLOCK { u64::MAX } else { (1 << n) - 1 }
}

/// Index of the first line feed.
#[inline]
#[must_use]
pub fn line_feed(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

/// Index of the first CRLF (of its CR).
#[inline]
#[must_use]
pub fn crlf(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(i) = memchr::memchr(b'\n', &bytes[from..]) {
        let lf = from + i;
        if lf > 0 && bytes[lf - 1] == b'\r' {
            return Some(lf - 1);
        }
        from = lf + 1;
    }
    None
}

/// True if some byte is a control character (0..=31, 127).
#[inline]
#[must_use]
pub fn has_control(bytes: &[u8]) -> bool {
    // No early exit, so that the loop becomes vector code.
    bytes.iter().fold(false, |any, &b| any | (b < 32) | (b == 127))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that are looked for, their neighbours, and those that differ in the high bit.
    const TELLING: &[u8] = b"\0\x01\x09\x0a\x0b\x0c\x0d\x0e.a\x7f\x80\x8a\x8d\xff";

    fn naive(block: &[u8]) -> Marks {
        let mut m = Marks::default();
        for (i, &b) in block.iter().enumerate() {
            m.cr |= u64::from(b == b'\r') << i;
            m.lf |= u64::from(b == b'\n') << i;
            m.odd |= b == 0 || b > 127;
        }
        m
    }

    proptest! {
        #[test]
        fn both_forms_agree_with_the_naive_one(
            bytes in prop::collection::vec(prop::sample::select(TELLING), 64)
        ) {
            let block: &[u8; 64] = bytes[..].try_into().unwrap();
            prop_assert_eq!(marks(block), naive(block));
            prop_assert_eq!(marks_by_words(block), naive(block));
            for at in 0..64 {
                prop_assert_eq!(marks_at(&bytes, at), (naive(&bytes[at..]), 64 - at));
            }
        }
    }

    /// Ordinary text with something put into it.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let lines = prop::collection::vec("[ab.]{1,90}|[b]{200,300}", 1..20);
        let odd = prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(TELLING)), 0..3);
        (lines, odd).prop_map(|(lines, odd)| {
            let mut bytes: Vec<u8> = lines.iter().flat_map(|l| [l.as_bytes(), b"\r\n"].concat()).collect();
            odd.iter().for_each(|(at, byte)| *at.get_mut(&mut bytes) = *byte);
            bytes
        })
    }

    fn naive_plain(bytes: &[u8], from: usize) -> usize {
        let odd = |at: usize| {
            let (b, c) = (bytes[at - 1], bytes[at]);
            (b == b'\r') != (c == b'\n') || (b == b'\n' && c == b'.') || c == 0 || c > 127
        };
        let plain = |from: usize| {
            let group = from..from + GROUP;
            bytes.get(group.clone()).is_some_and(|g| g.contains(&b'\n') && !group.into_iter().any(odd))
        };
        let mut at = from;
        while plain(at) {
            at += GROUP;
        }
        at - from
    }

    proptest! {
        #[test]
        fn plain_text_agrees_with_the_naive_form(bytes in text(), from in 1usize..100) {
            let from = from.min(bytes.len());
            prop_assert_eq!(plain(&bytes, from), naive_plain(&bytes, from));
            prop_assert_eq!(plain_by_any(&bytes, from), naive_plain(&bytes, from));
        }
    }

    #[test]
    fn small_things() {
        assert_eq!((below(0), below(3), below(63), below(64)), (0, 7, u64::MAX >> 1, u64::MAX));
        assert_eq!(crlf(b"a\nb\r\n"), Some(3));
        assert_eq!(crlf(b"\n\r"), None);
        assert!(has_control(b"a\x7f") && has_control(b"\0") && !has_control(b"a b~\x80"));
        assert_eq!(line_feed(b"ab\n\n"), Some(2));
    }
}
