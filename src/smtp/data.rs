//! The bytes of a message as they arrive: where they end, and what they contain.
//!
//! [`Body`] looks at each byte once. It finds the end of data (CRLF.CRLF and nothing else, RFC 5321
//! §4.1.1.4), takes the dots away (§4.5.2), keeps or refuses bare CR, bare LF and NUL, and gathers
//! [`BodyFacts`]. It yields ranges of the input; nothing is copied or kept. It knows no session: limits
//! that are exceeded become a [`Fault`], after which the rest of the message is read and dropped.

use crate::base::scan;
use crate::message::body::BodyFacts;
use crate::message::headers::HeaderScan;
use crate::smtp::reply::Reply;
use std::ops::Range;

/// What to do with bare CR and bare LF.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BareNewline {
    /// Refuse the message (550 5.5.2).
    #[default]
    Refuse,
    /// A bare LF becomes CRLF, a bare CR a space. Neither begins a line whose dot would count.
    Normalize,
}

/// What to do with NUL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NulBytes {
    /// Refuse the message (550 5.6.0): no mailbox can hand it out (RFC 9051 §9).
    #[default]
    Refuse,
    /// Keep them.
    Keep,
}

/// Limits of one message; 0 means none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes in stored form.
    pub size: u64,
    /// Bytes of the header block.
    pub header: u64,
    /// Bytes of one header field with its folded lines.
    pub field: u64,
    /// Header fields.
    pub fields: u32,
    /// Received fields (RFC 5321 §6.3).
    pub hops: u32,
    /// Bare CR and LF.
    pub bare_newline: BareNewline,
    /// NUL.
    pub nul: NulBytes,
}

/// Why a message is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A CR or LF that is not part of CRLF.
    BareNewline,
    /// A NUL.
    Nul,
    /// More bytes than the limit.
    TooBig,
    /// A limit of the header is exceeded.
    HeaderTooBig,
    /// More Received fields than the limit.
    TooManyHops,
}

impl Fault {
    /// The reply that refuses the message.
    #[must_use]
    pub fn reply(self) -> Reply {
        match self {
            Fault::BareNewline => Reply::BARE_NEWLINE,
            Fault::Nul => Reply::NUL_IN_MESSAGE,
            Fault::TooBig => Reply::TOO_BIG,
            Fault::HeaderTooBig => Reply::HEADER_TOO_BIG,
            Fault::TooManyHops => Reply::TOO_MANY_HOPS,
        }
    }
}

/// What comes next of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// These bytes of the input belong to it.
    Run(Range<usize>),
    /// These bytes belong to it though the peer did not send them so.
    Insert(&'static [u8]),
    /// More input is needed; what was not consumed must be shown again.
    More,
    /// The end of data has been consumed (DATA only).
    End,
}

/// A message that is being received.
#[derive(Clone, Debug)]
pub struct Body {
    limits: Limits,
    /// Bytes in stored form so far.
    stored: u64,
    /// Where the current line begins, in stored form.
    line_from: u64,
    long_lines: bool,
    /// The last bytes were CRLF, or nothing has come yet.
    at_line_start: bool,
    /// The last octet of a BDAT chunk was a CR that has not been yielded.
    held_cr: bool,
    dot_lines: bool,
    high: bool,
    nul: bool,
    header: HeaderScan,
    fault: Option<Fault>,
    /// Bytes dropped since the fault.
    dropped: u64,
}

/// Longest line that RFC 5321 §4.5.3.1.6 permits, without CRLF.
const LINE_MAX: u64 = 998;

/// Bytes of a line so far up to which a group of plain text, which has a line end, cannot end a long one.
const LINE_SHORT: u64 = LINE_MAX - scan::GROUP as u64;

/// Line lengths within a sweep, in registers. Positions are relative to its beginning; `from` is how
/// far before it (wrapping) the current line begins.
struct Lines {
    from: u64,
    long: bool,
}

impl Lines {
    /// Lines end at the LFs `ends` of the block at `at`.
    #[inline]
    fn end(&mut self, at: usize, ends: u64) {
        // A line within one block is short: only the first can be long.
        let first = (at + ends.trailing_zeros() as usize + 1) as u64;
        self.long |= self.from.wrapping_add(first).saturating_sub(2) > LINE_MAX;
        let next = (at + scan::BLOCK - ends.leading_zeros() as usize) as u64;
        self.from = next.wrapping_neg();
    }

    /// Everything up to the end of `text` has been passed over, and it ends in plain groups.
    #[inline]
    fn pass(&mut self, text: &[u8]) {
        let last = memchr::memrchr(b'\n', text).expect("a line ends in each group");
        self.from = (last as u64 + 1).wrapping_neg();
    }
}

/// Why a sweep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    Input,
    Dot,
    BareCr,
    BareLf,
}

impl Body {
    /// The beginning of a message.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Body {
            limits,
            stored: 0,
            line_from: 0,
            long_lines: false,
            at_line_start: true,
            held_cr: false,
            dot_lines: false,
            high: false,
            nul: false,
            header: HeaderScan::default(),
            fault: None,
            dropped: 0,
        }
    }

    /// Takes input of DATA. Gives how much is consumed and what it means. Up to two bytes
    /// (`.` CR at the start of a line, or a CR) stay unconsumed until what follows is known.
    pub fn data(&mut self, input: &[u8]) -> (usize, Piece) {
        let mut skip = 0;
        if self.at_line_start {
            match input {
                [b'.', b'\r', b'\n', ..] => return (3, Piece::End),
                [] | [b'.'] | [b'.', b'\r'] => return (0, Piece::More),
                [b'.', next, ..] => {
                    // RFC 5321 §4.5.2: the first dot of a line was put there by the sender.
                    skip = 1;
                    self.at_line_start = false;
                    self.dot_lines |= *next == b'.';
                }
                _ => {}
            }
        }
        let text = &input[skip..];
        let held = usize::from(text.last() == Some(&b'\r'));
        let (used, piece) = self.piece(&text[..text.len() - held], true);
        match piece {
            Piece::Run(run) => (used + skip, Piece::Run(run.start + skip..run.end + skip)),
            other => (used + skip, other),
        }
    }

    /// Takes input of a BDAT chunk of which `remaining` octets have not been consumed yet. No dot is
    /// special here (RFC 3030 §2). Consumes at most `remaining`.
    pub fn chunk(&mut self, input: &[u8], remaining: u64) -> (usize, Piece) {
        let input = &input[..usize::try_from(remaining).map_or(input.len(), |r| r.min(input.len()))];
        let Some(&first) = input.first() else { return (0, Piece::More) };
        if self.held_cr {
            self.held_cr = false;
            if first == b'\n' {
                return (1, self.insert(b"\r\n", true));
            }
            if let Some(piece) = self.bare(Stop::BareCr) {
                return (0, piece);
            }
        }
        if self.at_line_start && first == b'.' {
            self.dot_lines = true;
        }
        let ends_in_cr = input.last() == Some(&b'\r');
        if ends_in_cr && input.len() == 1 {
            // The chunk's last octet cannot wait in the input: what follows is a command.
            self.held_cr = remaining == 1;
            return (usize::from(self.held_cr), Piece::More);
        }
        self.piece(&input[..input.len() - usize::from(ends_in_cr)], false)
    }

    /// Ends a message that came by BDAT: what must be added so that it ends in CRLF.
    pub fn end_chunks(&mut self) -> Option<Piece> {
        if self.held_cr {
            self.held_cr = false;
            if let Some(space) = self.bare(Stop::BareCr) {
                return Some(space);
            }
        }
        let open = self.line_from != self.stored && self.fault.is_none();
        open.then(|| self.insert(b"\r\n", true))
    }

    /// The next piece of `text`, whose last byte is not a CR that could still become CRLF.
    fn piece(&mut self, text: &[u8], unstuff: bool) -> (usize, Piece) {
        let (len, stop) = self.sweep(text, unstuff);
        if len > 0 {
            self.account(&text[..len]);
            return (len, Piece::Run(0..len));
        }
        match stop {
            Stop::BareCr | Stop::BareLf => match self.bare(stop) {
                Some(piece) => (1, piece),
                None => self.piece(text, unstuff), // refused; sweeps over it from now on
            },
            Stop::Input | Stop::Dot => (0, Piece::More),
        }
    }

    /// Treats a bare CR or LF: `None` if the message is refused for it.
    fn bare(&mut self, stop: Stop) -> Option<Piece> {
        if self.fault.is_some() {
            return None;
        }
        if self.limits.bare_newline == BareNewline::Refuse {
            self.fault = Some(Fault::BareNewline);
            return None;
        }
        Some(match stop {
            Stop::BareLf => self.insert(b"\r\n", false),
            _ => self.insert(b" ", false),
        })
    }

    /// Adds bytes that do not stand in the input. After a CRLF made of a bare LF no dot counts
    /// (`counts` false): only what the peer sent as CRLF begins a line for it.
    fn insert(&mut self, bytes: &'static [u8], counts: bool) -> Piece {
        self.account(bytes);
        if bytes.ends_with(b"\n") {
            self.end_line(self.stored - 2, self.stored);
        }
        self.at_line_start = counts;
        Piece::Insert(bytes)
    }

    /// Goes over `text` up to a dot that begins a line (if `unstuff`), a bare CR or a bare LF.
    fn sweep(&mut self, text: &[u8], unstuff: bool) -> (usize, Stop) {
        let strict = self.fault.is_none();
        // After a bare LF made CRLF a dot may stand here without being one that counts.
        if self.line_from == self.stored && text.first() == Some(&b'.') && !self.at_line_start {
            self.dot_lines = true;
        }
        let mut lines = Lines { from: self.stored.wrapping_sub(self.line_from), long: false };
        // carry: the byte before the block is a CR; begins: the block begins a line.
        let (mut at, mut carry, mut begins, mut stop) = (0, 0, 0, Stop::Input);
        // Where plain text is looked for again: not at each block of what is not plain.
        let mut look = scan::BLOCK;
        while at < text.len() {
            if at >= look && lines.from.wrapping_add(at as u64) <= LINE_SHORT {
                let plain = scan::plain(text, at);
                look = at + plain + scan::GROUP;
                if plain > 0 {
                    lines.pass(&text[..at + plain]);
                    at += plain;
                    let last = text[at - 1];
                    (carry, begins) = (u64::from(last == b'\r'), u64::from(last == b'\n'));
                    continue;
                }
            }
            let (m, n) = scan::marks_at(text, at);
            let after_cr = m.cr << 1 | carry;
            let (mut valid, mut ends) = (n, m.lf & after_cr);
            // In good text the two are the same. A CR at the end of the block is judged by the next one.
            let bare = (m.lf ^ after_cr) & scan::below(n);
            if bare != 0 && strict {
                valid = bare.trailing_zeros() as usize;
                stop = if m.lf >> valid & 1 == 1 { Stop::BareLf } else { Stop::BareCr };
                ends &= scan::below(valid);
            }
            let mut begun = ends << 1 | begins;
            while begun & scan::below(valid) != 0 {
                let next = begun.trailing_zeros() as usize;
                begun &= begun - 1;
                if text[at + next] == b'.' {
                    if unstuff {
                        (valid, stop) = (next, Stop::Dot);
                        ends &= scan::below(valid);
                        break;
                    }
                    self.dot_lines = true;
                }
            }
            if ends != 0 {
                lines.end(at, ends);
            }
            if m.odd {
                self.note_bytes(&text[at..at + valid]);
            }
            at += valid;
            if stop != Stop::Input {
                break;
            }
            (carry, begins) = (m.cr >> (n - 1), ends >> (n - 1));
        }
        if stop == Stop::BareCr || (stop == Stop::Input && carry == 1 && strict) {
            // It was seen by what does not follow it.
            (at, stop) = (at - 1, Stop::BareCr);
        }
        self.long_lines |= lines.long;
        self.line_from = self.stored.wrapping_sub(lines.from);
        (at, stop)
    }

    fn note_bytes(&mut self, bytes: &[u8]) {
        self.nul |= memchr::memchr(0, bytes).is_some();
        self.high |= !bytes.is_ascii();
    }

    /// A line ends: its text at `end`, the next line begins at `next` (stored form).
    #[inline]
    fn end_line(&mut self, end: u64, next: u64) {
        self.long_lines |= end.saturating_sub(self.line_from) > LINE_MAX;
        self.line_from = next;
    }

    /// Counts bytes of the stored form and checks the limits.
    fn account(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.stored += bytes.len() as u64;
        self.at_line_start = self.line_from == self.stored;
        // Also of a refused message: which fault is named must not depend on how it was cut.
        self.header.feed(bytes);
        if self.fault.is_some() {
            self.dropped += bytes.len() as u64;
            return;
        }
        self.fault = self.exceeded();
    }

    fn exceeded(&self) -> Option<Fault> {
        let over = |value: u64, limit: u64| limit != 0 && value > limit;
        let (l, h) = (&self.limits, &self.header);
        if self.nul && l.nul == NulBytes::Refuse {
            Some(Fault::Nul)
        } else if over(self.stored, l.size) {
            Some(Fault::TooBig)
        } else if over(h.len(), l.header)
            || over(h.longest_field(), l.field)
            || over(u64::from(h.fields()), u64::from(l.fields))
        {
            Some(Fault::HeaderTooBig)
        } else {
            over(u64::from(h.hops()), u64::from(l.hops)).then_some(Fault::TooManyHops)
        }
    }

    /// Refuses the message for its size: more is announced than may come.
    pub fn refuse_size(&mut self) {
        self.fault.get_or_insert(Fault::TooBig);
    }

    /// Why the message is refused, if it is.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        match self.fault {
            Some(fault) if fault != Fault::BareNewline => self.exceeded().or(Some(fault)),
            fault => fault,
        }
    }

    /// Bytes dropped since the message was refused.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Bytes in stored form so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.stored
    }

    /// True if nothing has come yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stored == 0
    }

    /// What is known of the message; final after its end.
    #[must_use]
    pub fn facts(&self) -> BodyFacts {
        BodyFacts {
            len: self.stored,
            has_dot_lines: self.dot_lines,
            eight_bit: self.high,
            header_eight_bit: self.header.eight_bit(),
            hops: self.header.hops(),
            long_lines: self.long_lines,
        }
    }
}

#[cfg(test)]
mod plain;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FREE: Limits = Limits {
        size: 0,
        header: 0,
        field: 0,
        fields: 0,
        hops: 0,
        bare_newline: BareNewline::Normalize,
        nul: NulBytes::Keep,
    };

    const STRICT: Limits = Limits { bare_newline: BareNewline::Refuse, ..FREE };

    /// Receives by DATA in segments that end at `cuts`; gives the stored form, what is left after
    /// the end (none: no end), and the body.
    fn receive(limits: Limits, wire: &[u8], cuts: &[usize]) -> (Vec<u8>, Option<Vec<u8>>, Body) {
        let (mut body, mut stored, mut at) = (Body::new(limits), Vec::new(), 0);
        for end in cuts.iter().copied().chain([wire.len()]) {
            loop {
                let input = &wire[at..end.max(at)];
                let (used, piece) = body.data(input);
                let more = piece == Piece::More;
                match piece {
                    Piece::Run(run) => stored.extend_from_slice(&input[run]),
                    Piece::Insert(bytes) => stored.extend_from_slice(bytes),
                    Piece::End => return (stored, Some(wire[at + used..].to_vec()), body),
                    Piece::More => {}
                }
                at += used;
                if more {
                    assert!(end.max(at) - at <= 2, "at most two bytes wait");
                    break;
                }
            }
        }
        (stored, None, body)
    }

    fn facts_of(stored: &[u8]) -> BodyFacts {
        let lines: Vec<&[u8]> =
            stored.split(|&b| b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l)).collect();
        let whole = &lines[..lines.len() - 1];
        BodyFacts {
            len: stored.len() as u64,
            has_dot_lines: lines.iter().any(|l| l.starts_with(b".")),
            eight_bit: !stored.is_ascii(),
            header_eight_bit: crate::message::headers::split(stored).0.iter().any(|&b| b > 127),
            hops: crate::message::headers::fields(stored).filter(|f| f.is("received")).count() as u32,
            long_lines: whole.iter().any(|l| l.len() > 998),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever comes, in whatever segments: the same as read byte by byte.
        #[test]
        fn any_split_agrees_with_the_plain_reader(
            wire in "(\r\n|\r\n\\.|\r|\n|\\.|a|\u{e9}|\0|bb{60,70}|x{990,1002}|Received:|: ){0,40}\
                (\r\n\\.\r\n)?(MAIL)?",
            cut in 0usize..400, cut2 in 0usize..400,
        ) {
            let wire = wire.as_bytes();
            let (stored, end) = plain::read(wire);
            let rest = end.map(|end| wire[end..].to_vec());
            let cuts = [cut.min(cut2).min(wire.len()), cut.max(cut2).min(wire.len())];
            let (ours, ours_rest, body) = receive(FREE, wire, &cuts);
            prop_assert_eq!(ours.escape_ascii().to_string(), stored.escape_ascii().to_string());
            prop_assert_eq!(&ours_rest, &rest);
            if let Some(end) = end {
                prop_assert_eq!(body.facts(), facts_of(&stored));
                // In strict mode the same message passes exactly if nothing had to be changed.
                let (_, _, strict) = receive(STRICT, wire, &cuts);
                let bare = has_bare(&wire[..end]);
                prop_assert_eq!(strict.fault(), bare.then_some(Fault::BareNewline));
            }
        }

        /// The same for long ordinary text, which is passed over in groups, with something odd in it.
        #[test]
        fn ordinary_text_agrees_with_the_plain_reader(
            lines in prop::collection::vec("[ab.]{0,90}|[b]{240,260}|[b]{600,800}|[b]{980,1010}", 1..40),
            odd in prop::collection::vec(
                (any::<prop::sample::Index>(), prop::sample::select(&b"\r\n.a\0\xe9"[..])), 0..3),
            cut in 0usize..3000,
        ) {
            let mut wire: Vec<u8> = lines.iter().flat_map(|l| [l.as_bytes(), b"\r\n"].concat()).collect();
            odd.iter().for_each(|(at, byte)| *at.get_mut(&mut wire) = *byte);
            wire.extend_from_slice(b"\r\n.\r\nMAIL");
            let (stored, end) = plain::read(&wire);
            let (ours, rest, body) = receive(FREE, &wire, &[cut.min(wire.len())]);
            prop_assert_eq!(ours.escape_ascii().to_string(), stored.escape_ascii().to_string());
            let end = end.expect("an end was put there");
            prop_assert_eq!(rest.as_deref(), Some(&wire[end..]));
            prop_assert_eq!(body.facts(), facts_of(&stored));
            let (_, _, strict) = receive(STRICT, &wire, &[cut.min(wire.len())]);
            prop_assert_eq!(strict.fault(), has_bare(&wire[..end]).then_some(Fault::BareNewline));
        }

        /// Stuffing by the plainest rule, then receiving, gives the message back.
        #[test]
        fn dot_stuffing_round_trip(
            lines in prop::collection::vec("[.a ]{0,5}|[.b]{60,130}|b{990,1002}", 0..20), cut in 0usize..500,
        ) {
            let message: String = lines.iter().map(|l| format!("{l}\r\n")).collect();
            let dot = |l: &str| if l.starts_with('.') { "." } else { "" };
            let mut wire: String = lines.iter().map(|l| format!("{}{l}\r\n", dot(l))).collect();
            wire.push_str(".\r\nNOOP\r\n");
            let (stored, rest, body) = receive(FREE, wire.as_bytes(), &[cut.min(wire.len())]);
            prop_assert_eq!(stored, message.as_bytes());
            prop_assert_eq!(rest.as_deref(), Some(&b"NOOP\r\n"[..]));
            prop_assert_eq!(body.facts(), facts_of(message.as_bytes()));
        }

        /// BDAT: any chunks in any segments give the bytes as they are, with CRLF at the end.
        #[test]
        fn chunks(
            wire in "(\r\n|\r\n\\.|\\.|a|b{60,70}|b{990,1002}|\r\n\\.\r\n){0,30}",
            chunk in 1usize..50, segment in 1usize..70,
        ) {
            let wire = wire.as_bytes();
            let (mut body, mut stored) = (Body::new(STRICT), Vec::new());
            for chunk in wire.chunks(chunk) {
                let (mut at, mut seen) = (0, segment.min(chunk.len()));
                while at < chunk.len() {
                    let (used, piece) = body.chunk(&chunk[at..seen], (chunk.len() - at) as u64);
                    match piece {
                        Piece::Run(run) => stored.extend_from_slice(&chunk[at..seen][run]),
                        Piece::Insert(bytes) => stored.extend_from_slice(bytes),
                        Piece::More => seen = (seen + segment).min(chunk.len()),
                        Piece::End => prop_assert!(false, "no chunk has an end of data"),
                    }
                    at += used;
                }
            }
            if let Some(Piece::Insert(bytes)) = body.end_chunks() {
                stored.extend_from_slice(bytes);
            }
            let mut expect = wire.to_vec();
            if !expect.is_empty() && !expect.ends_with(b"\r\n") {
                expect.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(stored.escape_ascii().to_string(), expect.escape_ascii().to_string());
            prop_assert_eq!((body.facts(), body.fault()), (facts_of(&expect), None));
        }
    }

    fn has_bare(bytes: &[u8]) -> bool {
        let without: Vec<u8> = bytes.escape_ascii().to_string().replace("\\r\\n", "").into_bytes();
        let text = String::from_utf8(without).unwrap();
        text.contains("\\r") || text.contains("\\n")
    }

    /// Attack catalogue, row 1: none of these ends a message, in either mode, however segmented.
    #[test]
    fn row_01_only_crlf_dot_crlf_ends_data() {
        for trick in [
            "\n.\n",
            "\n.\r\n",
            "\r.\r",
            "\r\n.\n",
            "\r\n.\r",
            "\r.\r\n",
            "\r\n\0.\r\n",
            "\r\n.\r\r\n",
            "\n\n.\r\n",
        ] {
            let wire = format!("a{trick}MAIL FROM:<x@y>\r\n.\r\nQUIT\r\n");
            for bare_newline in [BareNewline::Refuse, BareNewline::Normalize] {
                for cut in 0..wire.len() {
                    let (stored, rest, body) =
                        receive(Limits { bare_newline, ..FREE }, wire.as_bytes(), &[cut]);
                    let rest = rest.expect("the real end is found");
                    assert_eq!(rest.escape_ascii().to_string(), "QUIT\\r\\n", "{trick:?} cut at {cut}");
                    match bare_newline {
                        BareNewline::Refuse if trick.contains('\0') => assert_eq!(body.fault(), None),
                        BareNewline::Refuse => {
                            assert_eq!(body.fault(), Some(Fault::BareNewline), "{trick:?}")
                        }
                        BareNewline::Normalize => assert!(!has_bare(&stored), "{trick:?}"),
                    }
                }
            }
        }
    }

    #[test]
    fn bare_newlines_in_chunks() {
        for (chunks, stored) in [
            (&["a\r", "\nb"][..], Ok("a\r\nb\r\n")),
            (&["a\r"], Err("a \r\n")),
            (&["a\r", "b"], Err("a b\r\n")),
            (&["a\r", "\r\n"], Err("a \r\n")),
            (&["\n"], Err("\r\n")),
            (&["a\n.\r", "\n"], Err("a\r\n.\r\n")),
            (&["", ""], Ok("")),
            (&[".\r\n"], Ok(".\r\n")),
        ] {
            for bare_newline in [BareNewline::Refuse, BareNewline::Normalize] {
                let mut body = Body::new(Limits { bare_newline, ..FREE });
                let mut out = Vec::new();
                for chunk in chunks {
                    let mut at = 0;
                    while at < chunk.len() {
                        let (used, piece) = body.chunk(&chunk.as_bytes()[at..], (chunk.len() - at) as u64);
                        match piece {
                            Piece::Run(run) => out.extend_from_slice(&chunk.as_bytes()[at..][run]),
                            Piece::Insert(bytes) => out.extend_from_slice(bytes),
                            _ => {}
                        }
                        at += used;
                    }
                }
                while let Some(Piece::Insert(bytes)) = body.end_chunks() {
                    out.extend_from_slice(bytes);
                }
                match (stored, bare_newline) {
                    (Err(_), BareNewline::Refuse) => {
                        assert_eq!(body.fault(), Some(Fault::BareNewline), "{chunks:?}")
                    }
                    (Ok(text) | Err(text), _) => {
                        assert_eq!(
                            (String::from_utf8(out).unwrap().as_str(), body.fault()),
                            (text, None),
                            "{chunks:?}"
                        );
                    }
                }
            }
        }
    }

    /// Attack catalogue, rows 14, 19 and 22: each limit stops the message, whose end is still found.
    #[test]
    fn row_14_19_22_limits() {
        let one = |limits: Limits, text: &str| {
            let wire = format!("{text}\r\n.\r\nX");
            let (_, rest, body) = receive(limits, wire.as_bytes(), &[]);
            assert_eq!(rest.as_deref(), Some(&b"X"[..]), "the end is found");
            body.fault()
        };
        let long = "x".repeat(70_000);
        assert_eq!(one(FREE, &format!("A: b\r\n\r\n{long}")), None, "lines may be long");
        assert_eq!(one(Limits { size: 10, ..FREE }, "12345678"), None, "exactly the limit");
        assert_eq!(one(Limits { size: 10, ..FREE }, "123456789"), Some(Fault::TooBig));
        assert_eq!(one(Limits { field: 10, ..FREE }, "A: 456789"), Some(Fault::HeaderTooBig));
        assert_eq!(one(Limits { field: 11, ..FREE }, "A: 456789\r\nB: 456789"), None);
        assert_eq!(one(Limits { field: 20, ..FREE }, &format!("A: 1\r\n {long}")), Some(Fault::HeaderTooBig));
        assert_eq!(
            one(Limits { header: 20, ..FREE }, "A: 1\r\nB: 2\r\nC: 3\r\nD: 4"),
            Some(Fault::HeaderTooBig)
        );
        assert_eq!(one(Limits { header: 20, ..FREE }, &format!("A: 1\r\n\r\n{long}")), None);
        assert_eq!(one(Limits { fields: 2, ..FREE }, "A: 1\r\nB: 2\r\nC: 3"), Some(Fault::HeaderTooBig));
        assert_eq!(one(Limits { fields: 2, ..FREE }, "A: 1\r\nB: 2\r\n\r\nC: 3"), None);
        let hops = |n: usize| "Received: x\r\n".repeat(n) + "\r\nReceived: y";
        assert_eq!(one(Limits { hops: 3, ..FREE }, &hops(3)), None);
        assert_eq!(one(Limits { hops: 3, ..FREE }, &hops(4)), Some(Fault::TooManyHops));
        assert_eq!(one(Limits { nul: NulBytes::Refuse, ..FREE }, "a\0b"), Some(Fault::Nul));
        assert_eq!(
            one(Limits { nul: NulBytes::Refuse, ..FREE }, "a"),
            None,
            "the rest of a block does not count"
        );
    }

    /// A NUL or an 8-bit byte behind the end belongs to the next command.
    #[test]
    fn what_follows_the_end_does_not_count() {
        let wire = b"a\r\n.\r\n\0\xff\n\r";
        let (stored, rest, body) = receive(Limits { nul: NulBytes::Refuse, ..FREE }, wire, &[]);
        assert_eq!((stored.as_slice(), rest.unwrap().len()), (&b"a\r\n"[..], 4));
        assert_eq!((body.fault(), body.facts().eight_bit), (None, false));
    }
}
