//! Addresses that reports come to: feedback, and bounces of mail whose senders name each recipient (VERP).
//!
//! Knows no message. A look-up allocates only for an address that is one of them.

/// What stands for the recipient in a pattern.
const RECIPIENT: &[u8] = b"LOCAL=DOMAIN";

/// An address that bounces come to, or a pattern of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    before: Box<[u8]>,
    /// Behind the recipient; none: the pattern is an address.
    behind: Option<Box<[u8]>>,
}

impl Pattern {
    /// The recipient in `address`, empty if the pattern has none; `None`: it does not fit.
    fn of(&self, address: &[u8]) -> Option<Box<[u8]>> {
        let Some(behind) = &self.behind else {
            return address.eq_ignore_ascii_case(&self.before).then(|| Box::from(&b""[..]));
        };
        let (before, rest) = address.split_at_checked(self.before.len())?;
        let (recipient, end) = rest.split_at_checked(rest.len().checked_sub(behind.len())?)?;
        // Of several "=" the last one: a domain has none.
        let at = recipient.iter().rposition(|b| *b == b'=')?;
        let (local, domain) = (&recipient[..at], &recipient[at + 1..]);
        let fits = before.eq_ignore_ascii_case(&self.before) && end.eq_ignore_ascii_case(behind);
        (fits && !local.is_empty() && !domain.is_empty()).then(|| [local, b"@", domain].concat().into())
    }
}

/// What comes to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum For {
    /// Complaints (RFC 5965).
    Feedback,
    /// Bounces, of mail to this recipient; empty: it is not said.
    Bounces(Box<[u8]>),
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    feedback: Vec<Box<[u8]>>,
    bounces: Vec<Pattern>,
    /// They are read, and then thrown away.
    pub discard: bool,
}

impl Reports {
    /// None yet. `discard`: see there.
    #[must_use]
    pub fn new(discard: bool) -> Self {
        Reports { discard, ..Reports::default() }
    }

    /// Complaints come to `address`.
    ///
    /// # Errors
    /// It is none; with what is wrong.
    pub fn add_feedback(&mut self, address: &str) -> Result<(), &'static str> {
        check(address)?;
        self.feedback.push(address.as_bytes().into());
        Ok(())
    }

    /// Bounces come to `pattern`: an address, in which `LOCAL=DOMAIN` stands for the recipient.
    ///
    /// # Errors
    /// It is none; with what is wrong.
    pub fn add_bounces(&mut self, pattern: &str) -> Result<(), &'static str> {
        check(pattern)?;
        let text = pattern.as_bytes();
        let at = text.windows(RECIPIENT.len()).position(|w| w == RECIPIENT);
        let pattern = match at {
            None => Pattern { before: text.into(), behind: None },
            Some(0) => {
                return Err("must have something in front of LOCAL=DOMAIN, or it would fit everything");
            }
            Some(at) => {
                let behind = &text[at + RECIPIENT.len()..];
                if !behind.contains(&b'@') {
                    return Err("must have LOCAL=DOMAIN in front of its \"@\"");
                }
                Pattern { before: text[..at].into(), behind: Some(behind.into()) }
            }
        };
        self.bounces.push(pattern);
        Ok(())
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.feedback.is_empty() && self.bounces.is_empty()
    }

    /// What comes to `address`; `None`: nothing of the kind.
    #[must_use]
    pub fn of(&self, address: &[u8]) -> Option<For> {
        if self.feedback.iter().any(|f| f.eq_ignore_ascii_case(address)) {
            return Some(For::Feedback);
        }
        self.bounces.iter().find_map(|pattern| pattern.of(address)).map(For::Bounces)
    }
}

fn check(address: &str) -> Result<(), &'static str> {
    let (local, domain) = address.rsplit_once('@').unwrap_or_default();
    let good = !local.is_empty() && !domain.is_empty() && address.bytes().all(|b| (0x21..0x7f).contains(&b));
    if good && !local.contains('@') { Ok(()) } else { Err("is not an address") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_recipients_in_them() {
        let mut reports = Reports::default();
        assert!(reports.is_empty() && reports.of(b"").is_none());
        reports.add_feedback("fbl@example.net").unwrap();
        reports.add_bounces("bounces+LOCAL=DOMAIN@example.net").unwrap();
        reports.add_bounces("b-LOCAL=DOMAIN-x@Example.net").unwrap();
        reports.add_bounces("bounces@example.net").unwrap();
        let bounces = |recipient: &str| Some(For::Bounces(recipient.as_bytes().into()));
        for (address, found) in [
            ("FBL@example.net", Some(For::Feedback)),
            ("Bounces+joe=a.test@EXAMPLE.net", bounces("joe@a.test")),
            ("bounces+joe=x=a.test@example.net", bounces("joe=x@a.test")),
            ("b-joe=a.test-x@example.net", bounces("joe@a.test")),
            ("bounces@example.net", bounces("")),
            ("bounces+@example.net", None),
            ("bounces+joe@example.net", None),
            ("bounces+=a.test@example.net", None),
            ("bounces+joe=@example.net", None),
            ("bounces+joe=a.test@example.org", None),
            ("bounces", None),
            ("", None),
        ] {
            assert_eq!(reports.of(address.as_bytes()), found, "{address}");
        }
        for bad in ["LOCAL=DOMAIN@a.test", "b+x@LOCAL=DOMAIN", "b", "@a.test", "a b@a.test", "a@b@c"] {
            assert!(reports.add_bounces(bad).is_err(), "{bad}");
        }
        assert!(reports.add_feedback("x").is_err());
    }
}
