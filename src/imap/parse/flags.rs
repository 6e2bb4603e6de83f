//! Flags of messages (RFC 9051 §2.3.2): system flags as bits, keywords as they stand.

use super::Parsed;
use super::input::Input;

/// Most keywords in one list.
pub const KEYWORDS_MAX: usize = 64;
/// The longest keyword in bytes.
pub const KEYWORD_MAX: usize = 100;

/// System flags. A set; the bits are those of the mailbox store, and `RECENT` beside them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct System(pub u8);

impl System {
    /// `\Seen`.
    pub const SEEN: System = System(1);
    /// `\Answered`.
    pub const ANSWERED: System = System(2);
    /// `\Flagged`.
    pub const FLAGGED: System = System(4);
    /// `\Deleted`.
    pub const DELETED: System = System(8);
    /// `\Draft`.
    pub const DRAFT: System = System(16);
    /// `\Recent` (RFC 3501 §2.3.2): shown, never set by a client.
    pub const RECENT: System = System(32);

    /// Their names.
    pub const NAMES: [(System, &'static str); 6] = [
        (System::ANSWERED, "\\Answered"),
        (System::FLAGGED, "\\Flagged"),
        (System::DELETED, "\\Deleted"),
        (System::SEEN, "\\Seen"),
        (System::DRAFT, "\\Draft"),
        (System::RECENT, "\\Recent"),
    ];

    /// All of `other` are in it.
    #[must_use]
    pub fn has(self, other: System) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[must_use]
    pub fn with(self, other: System) -> System {
        System(self.0 | other.0)
    }
}

/// A list of flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags<'a> {
    /// System flags. `\Recent` is left out: a client cannot set it, and those that copy what they
    /// have read send it (RFC 3501 §2.3.2).
    pub system: System,
    /// All of the list, checked: flags with one space between them.
    raw: &'a [u8],
    /// How many keywords.
    keywords: usize,
}

impl<'a> Flags<'a> {
    /// The keywords, as they were written.
    pub fn keywords(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let raw = if self.keywords == 0 { &b""[..] } else { self.raw };
        raw.split(|b| *b == b' ').filter(|f| !f.is_empty() && f[0] != b'\\')
    }

    /// How many keywords there are.
    #[must_use]
    pub fn keyword_count(&self) -> usize {
        self.keywords
    }

    fn add(&mut self, input: &mut Input<'a>) -> Parsed<()> {
        const FLAG: &str = "a flag";
        let from = input.at();
        if !input.eat(b'\\') {
            let keyword = input.atom(FLAG)?;
            self.keywords += 1;
            return match () {
                () if keyword.len() > KEYWORD_MAX => {
                    input.bad_at(from, "a keyword of at most 100 characters")
                }
                () if self.keywords > KEYWORDS_MAX => input.bad_at(from, "at most 64 keywords"),
                () => Ok(()),
            };
        }
        input.atom(FLAG)?;
        let name = input.since(from);
        match System::NAMES.iter().find(|(_, n)| name.eq_ignore_ascii_case(n.as_bytes())) {
            Some((System::RECENT, _)) => Ok(()),
            Some((bit, _)) => {
                self.system = self.system.with(*bit);
                Ok(())
            }
            None => input.bad_at(from, "\\Answered, \\Flagged, \\Deleted, \\Seen, \\Draft or a keyword"),
        }
    }
}

/// `(flags)`, perhaps none.
pub(super) fn list<'a>(input: &mut Input<'a>) -> Parsed<Flags<'a>> {
    input.need(b'(', "a list of flags")?;
    let from = input.at();
    let mut flags = Flags::default();
    let mut first = true;
    while input.peek() != Some(b')') {
        if !std::mem::take(&mut first) {
            input.space("a space between flags, or )")?;
            // Several clients leave a space before the parenthesis.
            if input.peek() == Some(b')') {
                break;
            }
        }
        flags.add(input)?;
    }
    flags.raw = input.since(from);
    input.need(b')', "a flag, or )")?;
    Ok(flags)
}

/// `(flags)`, or flags without parentheses (RFC 9051 §9 `store-att-flags`).
pub(super) fn list_or_bare<'a>(input: &mut Input<'a>) -> Parsed<Flags<'a>> {
    if input.peek() == Some(b'(') {
        return list(input);
    }
    let from = input.at();
    let mut flags = Flags::default();
    flags.add(input)?;
    while !input.is_at_end() {
        input.space("a flag")?;
        flags.add(input)?;
    }
    flags.raw = input.since(from);
    Ok(flags)
}
