//! Sequence sets (RFC 9051 §9 `sequence-set`) in a compact normal form.
//!
//! Owns reading, merging, resolving and writing of sets of numbers 1..=4294967295 and `*`. Does not
//! know whether a number is a UID or a message sequence number. Errors say what was expected; the
//! cursor adds where.
//!
//! The normal form: ranges in ascending order that neither overlap nor touch, and whether `*` is a
//! member. `n:*` is everything from n on and the largest number in use, even if that is below n
//! (RFC 9051 §9: the order of both ends does not matter), so it is the range up to 4294967295 and `*`.

use smallvec::SmallVec;

/// Most ranges in one set: more than a line of 2 MiB with six digits a number can hold.
pub const RANGES_MAX: usize = 1 << 18;

/// Numbers from `first` to `last`, both included, `first <= last`, at least 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The smallest.
    pub first: u32,
    /// The largest.
    pub last: u32,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SeqSet {
    ranges: SmallVec<[Range; 4]>,
    star: bool,
    largest: u32,
}

/// Why bytes are not a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadSet {
    /// Where, from the first byte.
    pub at: usize,
    /// What should be there.
    pub expected: &'static str,
}

impl SeqSet {
    /// The set of one range. Ends may be in any order; a zero is taken for 1.
    #[must_use]
    pub fn of(a: u32, b: u32) -> Self {
        let mut set = SeqSet::default();
        set.insert(a.min(b), a.max(b));
        set
    }

    /// Adds `first..=last` (`first <= last`). Amortised constant time if it is not below the others.
    pub fn insert(&mut self, first: u32, last: u32) {
        let first = first.max(1);
        self.largest = self.largest.max(last);
        if self.push(first, last) {
            self.normalise();
        }
    }

    /// Adds at the end; true if the order is broken.
    fn push(&mut self, first: u32, last: u32) -> bool {
        match self.ranges.last_mut() {
            Some(end) if first >= end.first && first <= end.last.saturating_add(1) => {
                end.last = end.last.max(last);
                false
            }
            Some(end) if first < end.first => {
                self.ranges.push(Range { first, last });
                true
            }
            _ => {
                self.ranges.push(Range { first, last });
                false
            }
        }
    }

    fn normalise(&mut self) {
        self.ranges.sort_unstable_by_key(|r| r.first);
        let mut kept = 0;
        for i in 1..self.ranges.len() {
            let next = self.ranges[i];
            let end = &mut self.ranges[kept];
            if next.first <= end.last.saturating_add(1) {
                end.last = end.last.max(next.last);
            } else {
                kept += 1;
                self.ranges[kept] = next;
            }
        }
        self.ranges.truncate(kept + 1);
    }

    /// Reads the longest set at the start of `text`; how many bytes it takes.
    ///
    /// # Errors
    /// [`BadSet`] if there is none, a number is 0 or above 4294967295, or there are too many ranges.
    pub fn parse(text: &[u8]) -> Result<(Self, usize), BadSet> {
        let (mut set, mut at, mut disorder) = (SeqSet::default(), 0, false);
        loop {
            let a = end(text, &mut at)?;
            let b = if text.get(at) == Some(&b':') {
                at += 1;
                end(text, &mut at)?
            } else {
                a
            };
            disorder |= set.add_ends(a, b);
            if set.ranges.len() > RANGES_MAX {
                return Err(BadSet { at, expected: "at most 262144 ranges in a set" });
            }
            if text.get(at) != Some(&b',') {
                break;
            }
            at += 1;
        }
        if disorder {
            set.normalise();
        }
        Ok((set, at))
    }

    /// Adds what stands at both sides of a colon; `None` is `*`. True if the order is broken.
    fn add_ends(&mut self, a: Option<u32>, b: Option<u32>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => {
                self.largest = self.largest.max(a.max(b));
                self.push(a.min(b), a.max(b))
            }
            (Some(n), None) | (None, Some(n)) => {
                self.star = true;
                self.push(n, u32::MAX)
            }
            (None, None) => {
                self.star = true;
                false
            }
        }
    }

    /// The ranges as written, merged; without the `*`.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// The largest number in use is a member (`*` was written).
    #[must_use]
    pub fn has_star(&self) -> bool {
        self.star
    }

    /// True if no number can be a member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && !self.star
    }

    /// True if a number above `exists` was written out: an error for message sequence numbers
    /// (RFC 9051 §9 `seq-number`). The open end of `n:*` is none.
    #[must_use]
    pub fn is_beyond(&self, exists: u32) -> bool {
        self.largest > exists
    }

    /// True if `n` is a member when `max` is the largest number in use.
    #[must_use]
    pub fn contains(&self, n: u32, max: u32) -> bool {
        if self.star && n == max {
            return true;
        }
        let after = self.ranges.partition_point(|r| r.first <= n);
        after > 0 && self.ranges[after - 1].last >= n
    }

    /// The members among 1..=`max`, where `max` is the largest number in use; ascending, apart.
    pub fn resolve(&self, max: u32) -> impl Iterator<Item = Range> + '_ {
        let star = self.star && max > 0 && !self.ranges_hold(max);
        let below = self.ranges.iter().take_while(move |r| r.first <= max);
        let clamped = below.map(move |r| Range { first: r.first, last: r.last.min(max) });
        // Touches the last range at most at one place; a reader does not mind.
        clamped.chain(star.then_some(Range { first: max, last: max }))
    }

    fn ranges_hold(&self, n: u32) -> bool {
        let after = self.ranges.partition_point(|r| r.first <= n);
        after > 0 && self.ranges[after - 1].last >= n
    }

    /// How many members there are among 1..=`max`.
    #[must_use]
    pub fn count(&self, max: u32) -> u64 {
        self.resolve(max).map(|r| u64::from(r.last - r.first) + 1).sum()
    }

    /// Appends the normal form. An empty set writes nothing.
    pub fn write(&self, out: &mut Vec<u8>) {
        let open = |r: &Range| self.star && r.last == u32::MAX;
        let before = out.len();
        for r in &self.ranges {
            if out.len() > before {
                out.push(b',');
            }
            number(out, u64::from(r.first));
            if open(r) {
                out.extend_from_slice(b":*");
            } else if r.last > r.first {
                out.push(b':');
                number(out, u64::from(r.last));
            }
        }
        if self.star && !self.ranges.last().is_some_and(open) {
            if out.len() > before {
                out.push(b',');
            }
            out.push(b'*');
        }
    }
}

/// One end of a range; `None` is `*`.
#[inline]
fn end(text: &[u8], at: &mut usize) -> Result<Option<u32>, BadSet> {
    const EXPECTED: &str = "a number from 1 to 4294967295, or *";
    let from = *at;
    let mut n = 0u64;
    while let Some(digit) = text.get(*at).map(|b| b.wrapping_sub(b'0')).filter(|&d| d < 10) {
        n = n * 10 + u64::from(digit);
        *at += 1;
        if n > u64::from(u32::MAX) {
            return Err(BadSet { at: from, expected: EXPECTED });
        }
    }
    if *at == from {
        if text.get(from) != Some(&b'*') {
            return Err(BadSet { at: from, expected: EXPECTED });
        }
        *at += 1;
        return Ok(None);
    }
    match u32::try_from(n) {
        Ok(n @ 1..) => Ok(Some(n)),
        _ => Err(BadSet { at: from, expected: EXPECTED }),
    }
}

/// Appends a number in digits.
#[inline]
pub fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends ascending numbers as a set: `1:3,7`. Nothing for none.
pub fn write_numbers(out: &mut Vec<u8>, numbers: impl IntoIterator<Item = u32>) {
    let mut open: Option<Range> = None;
    let mut first = true;
    let mut flush = |out: &mut Vec<u8>, r: Range| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        number(out, u64::from(r.first));
        if r.last > r.first {
            out.push(b':');
            number(out, u64::from(r.last));
        }
    };
    for n in numbers {
        match &mut open {
            Some(r) if n >= r.first && n <= r.last.saturating_add(1) => r.last = r.last.max(n),
            _ => {
                if let Some(r) = open.replace(Range { first: n, last: n }) {
                    flush(out, r);
                }
            }
        }
    }
    if let Some(r) = open {
        flush(out, r);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(text: &str) -> SeqSet {
        let (set, used) = SeqSet::parse(text.as_bytes()).unwrap();
        assert_eq!(used, text.len(), "{text}");
        set
    }

    fn written(set: &SeqSet) -> String {
        let mut out = Vec::new();
        set.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn normal_forms() {
        for (text, normal) in [
            ("1", "1"),
            ("1:1", "1"),
            ("3:1", "1:3"),
            ("1,2,3", "1:3"),
            ("1:3,3:5,6", "1:6"),
            ("5,1", "1,5"),
            ("5,3,4,1", "1,3:5"),
            ("1:4294967295", "1:4294967295"),
            ("*", "*"),
            ("*:*", "*"),
            ("7:*", "7:*"),
            ("*:7", "7:*"),
            ("7:*,3,*", "3,7:*"),
            ("2,*", "2,*"),
            ("9:*,5:*", "5:*"),
            ("007", "7"),
        ] {
            assert_eq!(written(&set(text)), normal, "{text}");
            assert_eq!(written(&set(normal)), normal);
        }
    }

    #[test]
    fn ends_are_found_and_errors_point() {
        assert_eq!(SeqSet::parse(b"1:2 FLAGS").unwrap().1, 3);
        for (text, at) in [
            ("", 0),
            ("x", 0),
            ("0", 0),
            ("1,", 2),
            ("1:", 2),
            (",1", 0),
            ("1,0", 2),
            ("1:0", 2),
            ("4294967296", 0),
            ("1:99999999999999999999999", 2),
            ("-1", 0),
            ("1:*,:", 4),
        ] {
            assert_eq!(SeqSet::parse(text.as_bytes()).unwrap_err().at, at, "{text}");
        }
    }

    /// Attack catalogue, row 27: sets that name everything many times over.
    #[test]
    fn row_27_sets_are_clamped_and_merged() {
        let bomb = vec!["1:4294967295,1:*"; 1000].join(",");
        let set = set(&bomb);
        assert_eq!(set.ranges().len(), 1);
        assert_eq!(set.resolve(10).collect::<Vec<_>>(), [Range { first: 1, last: 10 }]);
        let apart: Vec<String> = (0..=RANGES_MAX as u32 + 1).map(|n| (n * 2 + 1).to_string()).collect();
        assert!(SeqSet::parse(apart.join(",").as_bytes()).is_err());
    }

    #[test]
    fn the_star_is_the_largest_number_in_use() {
        let s = set("559:*");
        assert!(s.contains(15, 15) && !s.contains(14, 15) && s.contains(600, 700));
        assert_eq!(s.resolve(15).collect::<Vec<_>>(), [Range { first: 15, last: 15 }]);
        assert_eq!((s.resolve(0).count(), set("*").resolve(0).count()), (0, 0));
        assert!(!s.is_beyond(15) && set("559").is_beyond(15) && !set("559").is_beyond(559));
        assert!(!set("*").is_beyond(0));
    }

    #[test]
    fn numbers_are_written_as_ranges() {
        let text = |n: &[u32]| {
            let mut out = Vec::new();
            write_numbers(&mut out, n.iter().copied());
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[4]), "4");
        assert_eq!(text(&[1, 2, 3, 7, 9, 10, u32::MAX]), "1:3,7,9:10,4294967295");
    }

    proptest! {
        #[test]
        fn members_are_those_of_a_naive_set(
            parts in prop::collection::vec((0u32..30, prop::option::of(0u32..30)), 1..8),
            max in 0u32..40,
        ) {
            // Zero stands for the star.
            let name = |n: u32| if n == 0 { "*".to_string() } else { n.to_string() };
            let text: Vec<String> = parts
                .iter()
                .map(|(a, b)| b.map_or_else(|| name(*a), |b| format!("{}:{}", name(*a), name(b))))
                .collect();
            let mut naive = BTreeSet::new();
            for (a, b) in &parts {
                let value = |n: u32| if n == 0 { max } else { n };
                let (a, b) = (value(*a), value(b.unwrap_or(*a)));
                naive.extend(a.min(b)..=a.max(b));
            }
            naive.retain(|n| (1..=max).contains(n));
            let set = set(&text.join(","));
            let members: Vec<u32> = set.resolve(max).flat_map(|r| r.first..=r.last).collect();
            prop_assert_eq!(&members, &naive.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.count(max), members.len() as u64);
            for n in 1..=max {
                prop_assert_eq!(set.contains(n, max), naive.contains(&n));
            }
            prop_assert_eq!(written(&self::set(&written(&set))), written(&set));
        }

        #[test]
        fn never_panics(text in prop::collection::vec(any::<u8>(), 0..60), odd in "[0-9*:,]{0,40}") {
            let _ = SeqSet::parse(&text);
            let _ = SeqSet::parse(odd.as_bytes());
        }
    }
}
