//! The boundaries of the multiparts that are open, and which of them a line is (RFC 2046 §5.1).

/// Open multiparts, the outermost first.
#[derive(Debug, Default)]
pub(super) struct Boundaries(Vec<Open>);

#[derive(Debug)]
struct Open {
    boundary: Box<[u8]>,
    /// Index of its part.
    part: usize,
}

/// A line that is a boundary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hit {
    /// Which one: to be given to [`Boundaries::keep`].
    pub depth: usize,
    /// Index of the part that is divided.
    pub part: usize,
    /// It is the last one of that part.
    pub closing: bool,
}

impl Boundaries {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn push(&mut self, boundary: &[u8], part: usize) {
        self.0.push(Open { boundary: boundary.into(), part });
    }

    /// Forgets all but the outermost `n`.
    pub fn keep(&mut self, n: usize) {
        self.0.truncate(n);
    }

    /// Which boundary `line` (without its line end) is. RFC 2046 §5.1.2: it is enough that the line
    /// begins with it. Of several the longest counts, since one may be the beginning of another; of
    /// equal ones the innermost.
    pub fn find(&self, line: &[u8]) -> Option<Hit> {
        let text = line.strip_prefix(b"--")?;
        let mut best: Option<(usize, &Open)> = None;
        for (depth, open) in self.0.iter().enumerate().rev() {
            let longer = best.is_none_or(|(_, b)| open.boundary.len() > b.boundary.len());
            if longer && text.starts_with(&open.boundary) {
                best = Some((depth, open));
            }
        }
        best.map(|(depth, open)| Hit {
            depth,
            part: open.part,
            closing: text[open.boundary.len()..].starts_with(b"--"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_then_the_innermost() {
        let mut all = Boundaries::default();
        assert!(all.is_empty());
        for (part, boundary) in ["a", "aa", "a--", "b", "b"].iter().enumerate() {
            all.push(boundary.as_bytes(), part);
        }
        let hit = |line: &str| all.find(line.as_bytes()).map(|h| (h.part, h.closing));
        assert_eq!(hit("--a"), Some((0, false)));
        assert_eq!(hit("--aab"), Some((1, false)));
        assert_eq!(hit("--aa--"), Some((1, true)));
        assert_eq!(hit("--a--"), Some((2, false)), "one that is called so");
        assert_eq!(hit("--b \t"), Some((4, false)));
        assert_eq!(hit("--c"), None);
        assert_eq!(hit("-a"), None);
        all.keep(4);
        assert_eq!(all.find(b"--b--").map(|h| (h.depth, h.part, h.closing)), Some((3, 3, true)));
    }
}
