//! L2: which messages an operator means: conditions that must all hold.
//!
//! What is resident of a message decides first ([`Pick::suits`]); the message itself is read only if a
//! condition needs it ([`Pick::needs_message`], [`Pick::suits_message`]). Plain data that crosses threads and
//! the admin socket. Globs know `*` and `?`, compare without regard to ASCII case, and take time in
//! proportion to pattern times text. Cannot fail.

use crate::base::time::Wall;
use crate::message::envelope::EnvelopeView;
use crate::message::headers;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Bytes of a glob, at most.
pub const GLOB_MAX: usize = 500;
/// Conditions on header fields, at most.
pub const HEADERS_MAX: usize = 10;
/// Bytes of a header that are looked at, when the body lies in a file of its own.
pub const HEADER_BYTES: usize = 64 << 10;

/// Which list a message stands in, as `queue list` calls it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Ready or in flight.
    Active,
    /// Waits for another attempt, or for a destination that cannot be reached.
    Deferred,
    /// Held by an operator.
    Hold,
}

/// What is to be done: messages that it would not change do not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Nothing: they are looked at.
    #[default]
    Look,
    /// Those that are not held are.
    Hold,
    /// Those that are held are let go.
    Release,
    /// Those that are not held are tried now.
    Flush,
    /// Routed anew, their attempts forgotten, tried now; those that are not held.
    Requeue,
    /// Sent by another next hop; those with a recipient that waits.
    Reroute,
    /// Given up; their senders are told.
    Bounce,
    /// Removed; nobody is told.
    Delete,
}

impl Verb {
    /// The word of the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Verb::Look => "look",
            Verb::Hold => "hold",
            Verb::Release => "release",
            Verb::Flush => "flush",
            Verb::Requeue => "requeue",
            Verb::Reroute => "reroute",
            Verb::Bounce => "bounce",
            Verb::Delete => "delete",
        }
    }

    /// True if it changes a message that is `held`, or is not.
    #[must_use]
    pub fn would_change(self, held: bool) -> bool {
        match self {
            Verb::Hold | Verb::Flush | Verb::Requeue => !held,
            Verb::Release => held,
            Verb::Look | Verb::Reroute | Verb::Bounce | Verb::Delete => true,
        }
    }

    /// True if it changes only messages with a recipient that waits, for its turn or for another attempt.
    #[must_use]
    pub fn needs_waiting(self) -> bool {
        matches!(self, Verb::Bounce | Verb::Requeue | Verb::Reroute)
    }
}

/// The conditions; those that are not given hold for all messages.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pick {
    /// Glob over the sender; empty: the null sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Glob over recipients that are not done; one is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// Glob over the domains of recipients that are not done; one is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Glob over the sites of recipients that are not done; one is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Glob over destinations, or sites, of recipients that are not done; one is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Seconds since it came, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older: Option<u64>,
    /// Seconds since it came, less than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub younger: Option<u64>,
    /// Bytes of trace headers and body, more than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub larger: Option<u64>,
    /// Bytes of trace headers and body, less than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smaller: Option<u64>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Standing>,
    /// Glob over the login under which it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Glob over the next hop that an operator has given it by a reroute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerouted: Option<String>,
    /// Name of a header field, and glob over its value, unfolded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

/// What is resident of a message, as far as it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resident {
    /// When it came.
    pub arrival: Wall,
    /// Bytes of trace headers and body.
    pub size: u64,
    /// Where it stands.
    pub standing: Standing,
}

impl Pick {
    /// Why it cannot be used.
    ///
    /// # Errors
    /// Something in it is too long, or there is too much.
    pub fn check(&self) -> Result<(), String> {
        let plain = [&self.sender, &self.recipient, &self.domain, &self.site, &self.destination];
        let plain = plain.into_iter().chain([&self.user, &self.rerouted]);
        let globs = plain.flatten().chain(self.headers.iter().flat_map(|(n, v)| [n, v]));
        if globs.into_iter().any(|glob| glob.len() > GLOB_MAX) {
            return Err(format!("a pattern has {GLOB_MAX} bytes at most"));
        }
        if self.headers.len() > HEADERS_MAX {
            return Err(format!("{HEADERS_MAX} conditions on header fields at most"));
        }
        Ok(())
    }

    /// True if the message must be read to decide.
    #[must_use]
    pub fn needs_message(&self) -> bool {
        let of_envelope = [&self.sender, &self.recipient, &self.domain, &self.user];
        of_envelope.into_iter().any(Option::is_some) || self.needs_header()
    }

    /// True if the message must be read to decide, although it is known that all its recipients are of one
    /// domain, and which.
    #[must_use]
    pub fn needs_more_than_domain(&self) -> bool {
        let of_envelope = [&self.sender, &self.recipient, &self.user];
        of_envelope.into_iter().any(Option::is_some) || self.needs_header()
    }

    /// Whether this domain suits.
    #[must_use]
    pub fn suits_domain(&self, domain: &[u8]) -> bool {
        self.domain.as_deref().is_none_or(|p| glob(p.as_bytes(), domain))
    }

    /// Whether the next hop that an operator has given a message suits; none: routes say.
    #[must_use]
    pub fn suits_reroute(&self, via: Option<&str>) -> bool {
        let fits = |p: &str| via.is_some_and(|via| glob(p.as_bytes(), via.as_bytes()));
        self.rerouted.as_deref().is_none_or(fits)
    }

    /// True if the header of the message must be read to decide.
    #[must_use]
    pub fn needs_header(&self) -> bool {
        !self.headers.is_empty()
    }

    /// True if where it goes must be known to decide.
    #[must_use]
    pub fn needs_destinations(&self) -> bool {
        self.site.is_some() || self.destination.is_some()
    }

    /// Whether what is resident of a message suits.
    #[must_use]
    pub fn suits(&self, m: &Resident, now: Wall) -> bool {
        let age = now.since(m.arrival);
        self.older.is_none_or(|s| age >= Duration::from_secs(s))
            && self.younger.is_none_or(|s| age < Duration::from_secs(s))
            && self.larger.is_none_or(|size| m.size > size)
            && self.smaller.is_none_or(|size| m.size < size)
            && self.state.is_none_or(|state| m.standing == state)
    }

    /// Whether a destination suits, and the site that it belongs to.
    #[must_use]
    pub fn suits_destination(&self, name: &str, site: &str) -> bool {
        let fits = |pattern: &str, name: &str| glob(pattern.as_bytes(), name.as_bytes());
        self.site.as_deref().is_none_or(|p| fits(p, site) || fits(p, bare(site)))
            && self.destination.as_deref().is_none_or(|p| [name, bare(name), site].iter().any(|n| fits(p, n)))
    }

    /// Whether a message suits: its envelope, the login under which it was sent (empty: none), and its header
    /// if [`Self::needs_header`]. `open` says which recipients are not done.
    #[must_use]
    pub fn suits_message(
        &self,
        envelope: &EnvelopeView<'_>,
        user: &[u8],
        open: impl Fn(usize) -> bool,
        header: &[u8],
    ) -> bool {
        let fits = |pattern: &Option<String>, text: &[u8]| {
            pattern.as_deref().is_none_or(|p| glob(p.as_bytes(), text))
        };
        let recipients = envelope.recipients().enumerate().filter(|(i, _)| open(*i)).map(|(_, r)| r.address);
        let by_recipient = self.recipient.is_none() && self.domain.is_none()
            || recipients.into_iter().any(|to| fits(&self.recipient, to) && fits(&self.domain, domain(to)));
        let has_user = self.user.is_none() || !user.is_empty();
        fits(&self.sender, envelope.sender())
            && has_user
            && fits(&self.user, user)
            && by_recipient
            && self.headers.iter().all(|(name, pattern)| has_field(header, name, pattern))
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written as JSON so that nothing in it can pass for something else.
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(if text == "{}" { "all" } else { &text })
    }
}

/// The name without the word in front that says what it is of.
fn bare(name: &str) -> &str {
    match name.split_once(':') {
        Some(("mx" | "site", rest)) => rest,
        _ => name,
    }
}

fn domain(address: &[u8]) -> &[u8] {
    address.iter().rposition(|b| *b == b'@').map_or(b"", |at| &address[at + 1..])
}

fn has_field(header: &[u8], name: &str, pattern: &str) -> bool {
    headers::fields(header).filter(|f| f.is(name)).any(|f| {
        let unfolded: Vec<u8> = f.value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
        glob(pattern.as_bytes(), unfolded.trim_ascii())
    })
}

/// Whether `text` is of the form `pattern`: `*` stands for any bytes, `?` for one.
#[must_use]
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last star, and where the text was then.
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == b'?' || c.eq_ignore_ascii_case(&text[t]) => (p, t) = (p + 1, t + 1),
            _ => match back {
                Some((behind, from)) => {
                    (p, t) = (behind, from + 1);
                    back = Some((behind, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::envelope::{Envelope, Notify, SenderOptions};
    use proptest::prelude::*;

    #[test]
    fn globs() {
        for (pattern, text, fits) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("*@Example.NET", "x@example.net", true),
            ("*a*b*", "xxaxxbxx", true),
            ("?", "", false),
            ("??", "ab", true),
            ("*ab", "aab", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    fn naive(p: &[u8], t: &[u8]) -> bool {
        match (p.split_first(), t.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((b'*', rest)), None) => naive(rest, t),
            (Some((b'*', rest)), Some((_, tail))) => naive(rest, t) || naive(p, tail),
            (Some(_), None) => false,
            (Some((c, rest)), Some((b, tail))) => (*c == b'?' || c == b) && naive(rest, tail),
        }
    }

    proptest! {
        #[test]
        fn globs_do_what_the_definition_says(p in "[ab*?]{0,8}", t in "[ab]{0,8}") {
            prop_assert_eq!(glob(p.as_bytes(), t.as_bytes()), naive(p.as_bytes(), t.as_bytes()));
        }
    }

    #[test]
    fn what_is_resident_decides_age_size_and_state() {
        let m = Resident { arrival: Wall(10_000), size: 100, standing: Standing::Deferred };
        let suits = |pick: Pick| pick.suits(&m, Wall(70_000));
        assert!(suits(Pick { older: Some(60), ..Pick::default() }));
        assert!(!suits(Pick { older: Some(61), ..Pick::default() }));
        assert!(!suits(Pick { younger: Some(60), ..Pick::default() }));
        assert!(suits(Pick { younger: Some(61), larger: Some(99), smaller: Some(101), ..Pick::default() }));
        assert!(!suits(Pick { larger: Some(100), ..Pick::default() }));
        assert!(!suits(Pick { smaller: Some(100), ..Pick::default() }));
        assert!(suits(Pick { state: Some(Standing::Deferred), ..Pick::default() }));
        assert!(!suits(Pick { state: Some(Standing::Hold), ..Pick::default() }));
    }

    #[test]
    fn destinations_are_named_with_or_without_their_kind() {
        let pick = |destination: &str| Pick { destination: Some(destination.into()), ..Pick::default() };
        let site = |site: &str| Pick { site: Some(site.into()), ..Pick::default() };
        let suits = |pick: Pick| pick.suits_destination("mx:a.example", "site:mx.net");
        assert!(suits(pick("mx:A.example")) && suits(pick("a.*")) && suits(pick("site:mx.net")));
        assert!(suits(site("mx.net")) && suits(site("site:*")) && !suits(site("a.example")));
        assert!(!suits(pick("b.example")));
    }

    #[test]
    fn what_was_rerouted_is_found_by_where_to() {
        let pick = |p: Option<&str>| Pick { rerouted: p.map(str::to_owned), ..Pick::default() };
        assert!(pick(None).suits_reroute(None) && pick(None).suits_reroute(Some("mx")));
        assert!(pick(Some("*")).suits_reroute(Some("mx")) && !pick(Some("*")).suits_reroute(None));
        assert!(
            pick(Some("*:25")).suits_reroute(Some("a:25")) && !pick(Some("*:25")).suits_reroute(Some("mx"))
        );
    }

    #[test]
    fn the_message_decides_the_rest() {
        let mut e = Envelope::default();
        e.begin(b"boss@From.example", SenderOptions::default(), b"");
        e.push(b"a@one.example", Notify::DEFAULT, b"");
        e.push(b"b@two.example", Notify::DEFAULT, b"");
        let header = b"Subject: cheap\r\n watches\r\nX-A: 1\r\n\r\nX-B: in the body\r\n";
        let suits = |pick: Pick| {
            assert!(pick.needs_message());
            pick.suits_message(&e.view(), b"boss", |i| i == 0, header)
        };
        let some = |text: &str| Some(text.to_owned());
        assert!(suits(Pick { sender: some("*@from.example"), ..Pick::default() }));
        assert!(!suits(Pick { sender: some(""), ..Pick::default() }));
        assert!(suits(Pick { domain: some("one.example"), ..Pick::default() }));
        assert!(!suits(Pick { domain: some("two.example"), ..Pick::default() }), "done with");
        let both = Pick { recipient: some("a@*"), domain: some("two.*"), ..Pick::default() };
        assert!(!suits(both), "of one recipient");
        assert!(suits(Pick { user: some("b*"), ..Pick::default() }));
        let header = |n: &str, v: &str| Pick { headers: vec![(n.into(), v.into())], ..Pick::default() };
        assert!(suits(header("subject", "cheap watches")) && suits(header("X-a", "?")));
        assert!(!suits(header("X-B", "*")) && !suits(header("Subject", "watches")));
        e.begin(b"", SenderOptions::default(), b"");
        e.push(b"a@one.example", Notify::DEFAULT, b"");
        let nobody = Pick { user: some("*"), ..Pick::default() };
        assert!(!nobody.suits_message(&e.view(), b"", |_| true, b""), "nobody has logged in");
    }

    #[test]
    fn too_much_is_refused_and_all_is_said_as_a_word() {
        assert!(Pick { sender: Some("x".repeat(GLOB_MAX + 1)), ..Pick::default() }.check().is_err());
        assert!(
            Pick { headers: vec![Default::default(); HEADERS_MAX + 1], ..Pick::default() }.check().is_err()
        );
        assert_eq!(Pick::default().to_string(), "all");
        let pick = Pick { domain: Some("a".into()), older: Some(5), ..Pick::default() };
        assert_eq!(pick.to_string(), r#"{"domain":"a","older":5}"#);
    }
}
