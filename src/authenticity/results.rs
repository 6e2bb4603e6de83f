//! What was found out about a message, and the header field that says so (RFC 8601).
//!
//! Whatever a peer has said is made harmless before it is written. Cannot fail.

use super::fields::fields;
use std::io::Write;

/// The result of a method (RFC 8601 §2.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Outcome {
    /// Nothing to go by.
    #[default]
    None,
    /// It is as it says.
    Pass,
    /// It is not.
    Fail,
    /// SPF: it is probably not.
    SoftFail,
    /// Nothing can be said.
    Neutral,
    /// It may be, in a way that is not accepted here.
    Policy,
    /// Could not be found out now.
    TempError,
    /// Cannot be found out.
    PermError,
}

/// Texts of [`Outcome`], in its order.
pub const OUTCOMES: &[&str] =
    &["none", "pass", "fail", "softfail", "neutral", "policy", "temperror", "permerror"];

impl Outcome {
    /// As it is written.
    #[must_use]
    pub fn text(self) -> &'static str {
        OUTCOMES[self as usize]
    }
}

/// What a domain owner wants done with mail that fails DMARC (RFC 9989 §4.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Wish {
    /// Nothing.
    #[default]
    None,
    /// It is put aside.
    Quarantine,
    /// It is refused.
    Reject,
}

/// What has come of a failure of DMARC; told in a comment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Treatment {
    /// Nothing.
    #[default]
    None,
    /// A chain of ARC makes up for it.
    Pardoned,
    /// Where the message is delivered here, it goes into Junk.
    Aside,
}

/// True if the message, which begins with these bytes, is put aside by a field of ours. Nobody else can
/// write one so: whatever else comes here has a trace header of ours in front.
#[must_use]
pub fn is_put_aside(message: &[u8]) -> bool {
    message.starts_with(FIELD)
        && fields(message).next().is_some_and(|f| memchr::memmem::find(f.value, ASIDE).is_some())
}

/// What stands behind the colon of a field of ours.
#[must_use]
pub fn said(field: &[u8]) -> &[u8] {
    field.strip_prefix(b"Authentication-Results:").unwrap_or(field)
}

const FIELD: &[u8] = b"Authentication-Results: ";
const ASIDE: &[u8] = b" (p=quarantine, put aside)";

/// A DKIM signature of the message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Signed {
    /// Whether it holds.
    pub outcome: Outcome,
    /// `d=`; empty: it could not be read.
    pub domain: String,
    /// `s=`
    pub selector: String,
    /// `a=`
    pub algorithm: &'static str,
    /// The beginning of `b=`, so that signatures can be told apart (RFC 6008).
    pub begin: String,
}

/// A chain of ARC.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain {
    /// Whether it holds.
    pub outcome: Outcome,
    /// Who has sealed it last.
    pub sealer: String,
}

/// DMARC.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Aligned {
    /// Whether it holds.
    pub outcome: Outcome,
    /// What is wished if it does not.
    pub wish: Wish,
    /// How many domains the authors have; DMARC is about one.
    pub authors: usize,
}

/// All of it. None: was not looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Results {
    /// Domain of the author; of several, the first; empty: there is none.
    pub author: String,
    /// SPF of the sender's domain; without a sender, of the name in EHLO.
    pub spf: Option<(Outcome, String)>,
    /// SPF of the name in EHLO, if there is a sender.
    pub helo: Option<(Outcome, String)>,
    /// DKIM.
    pub dkim: Option<Vec<Signed>>,
    /// ARC.
    pub arc: Option<Chain>,
    /// DMARC.
    pub dmarc: Option<Aligned>,
}

impl Results {
    /// The best of all signatures: a pass, else what may become one.
    #[must_use]
    pub fn best_signature(&self) -> Outcome {
        let all = self.dkim.as_deref().unwrap_or_default();
        let rank = |outcome: &Outcome| match outcome {
            Outcome::Pass => 0,
            Outcome::TempError => 1,
            Outcome::Fail => 2,
            Outcome::None => 9,
            _ => 3,
        };
        all.iter().map(|s| s.outcome).min_by_key(rank).unwrap_or_default()
    }

    /// Appends the field, in the name of `id`.
    pub fn put(&self, out: &mut Vec<u8>, id: &str, treatment: Treatment) {
        out.extend_from_slice(FIELD);
        out.extend_from_slice(id.as_bytes());
        let from = out.len();
        if let Some((outcome, domain)) = &self.spf {
            let what = if self.helo.is_some() { "smtp.mailfrom" } else { "smtp.helo" };
            put_result(out, "spf", *outcome, &[(what, domain)]);
        }
        if let Some((outcome, domain)) = &self.helo {
            put_result(out, "spf", *outcome, &[("smtp.helo", domain)]);
        }
        if let Some(all) = &self.dkim {
            for s in all {
                let properties = [
                    ("header.d", &*s.domain),
                    ("header.s", &s.selector),
                    ("header.a", s.algorithm),
                    ("header.b", &s.begin),
                ];
                put_result(out, "dkim", s.outcome, &properties);
            }
            if all.is_empty() {
                put_result(out, "dkim", Outcome::None, &[]);
            }
        }
        if let Some(chain) = &self.arc {
            put_result(out, "arc", chain.outcome, &[("header.d", &chain.sealer)]);
        }
        if let Some(dmarc) = &self.dmarc {
            put_result(out, "dmarc", dmarc.outcome, &[("header.from", &self.author)]);
            let wish = match dmarc.wish {
                Wish::None => "none",
                Wish::Quarantine => "quarantine",
                Wish::Reject => "reject",
            };
            // RFC 8601 §2.2: comments are for people.
            let done = match treatment {
                Treatment::None => "",
                Treatment::Pardoned => ", made up for by ARC",
                Treatment::Aside => ", put aside",
            };
            write!(out, " (p={wish}{done})").expect("a vector takes everything");
        }
        if out.len() == from {
            // RFC 8601 §2.2: nothing was done.
            out.extend_from_slice(b"; none");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Longest value of a property.
const VALUE_MAX: usize = 255;

/// Appends a result on a line of its own; properties without a value are left out.
fn put_result(out: &mut Vec<u8>, method: &str, outcome: Outcome, properties: &[(&str, &str)]) {
    write!(out, ";\r\n\t{method}={}", outcome.text()).expect("a vector takes everything");
    for (name, value) in properties.iter().filter(|(_, value)| !value.is_empty()) {
        out.push(b' ');
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        // RFC 2045 §5.1: what need not be quoted; base64 does.
        let clean = |b: u8| match b {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' | b'+' => b,
            _ => b'_',
        };
        let quoted = *name == "header.b";
        out.extend(quoted.then_some(b'"'));
        if quoted {
            out.extend_from_slice(value.as_bytes());
        } else {
            out.extend(value.bytes().take(VALUE_MAX).map(clean));
        }
        out.extend(quoted.then_some(b'"'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(results: &Results) -> String {
        let mut out = Vec::new();
        results.put(&mut out, "mx.example", Treatment::None);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn outcomes_have_their_texts() {
        assert_eq!((Outcome::None.text(), Outcome::PermError.text()), ("none", "permerror"));
        assert_eq!((Outcome::Pass.text(), Outcome::SoftFail.text()), ("pass", "softfail"));
        assert_eq!((Outcome::TempError.text(), OUTCOMES.len()), ("temperror", 8));
    }

    #[test]
    fn the_field_says_all() {
        assert_eq!(text(&Results::default()), "Authentication-Results: mx.example; none\r\n");
        let results = Results {
            author: "example.org".into(),
            spf: Some((Outcome::Pass, "example.org".into())),
            helo: Some((Outcome::None, "[192.0.2.1]".into())),
            dkim: Some(vec![Signed {
                outcome: Outcome::Fail,
                domain: "a b;\r\nX: y.example".into(),
                selector: "s".into(),
                algorithm: "rsa-sha256",
                begin: "ab+/=".into(),
            }]),
            arc: Some(Chain::default()),
            dmarc: Some(Aligned { outcome: Outcome::Fail, wish: Wish::Reject, authors: 1 }),
        };
        assert_eq!(
            text(&results),
            "Authentication-Results: mx.example;\r\n\tspf=pass smtp.mailfrom=example.org;\r\n\tspf=none \
             smtp.helo=_192.0.2.1_;\r\n\tdkim=fail header.d=a_b___X__y.example header.s=s \
             header.a=rsa-sha256 header.b=\"ab+/=\";\r\n\tarc=none;\r\n\tdmarc=fail \
             header.from=example.org (p=reject)\r\n"
        );
        let results = Results { dkim: Some(Vec::new()), ..Results::default() };
        assert_eq!(text(&results), "Authentication-Results: mx.example;\r\n\tdkim=none\r\n");
    }

    #[test]
    fn what_is_put_aside_is_found_again() {
        let aligned = Aligned { outcome: Outcome::Fail, wish: Wish::Quarantine, authors: 1 };
        let results = Results { dmarc: Some(aligned), ..Results::default() };
        for (treatment, aside) in
            [(Treatment::Aside, true), (Treatment::None, false), (Treatment::Pardoned, false)]
        {
            let mut out = Vec::new();
            results.put(&mut out, "mx.example", treatment);
            assert_eq!(is_put_aside(&out), aside, "{treatment:?}");
            out.splice(..0, *b"Received: x\r\n");
            assert!(!is_put_aside(&out));
        }
        let later = b"Authentication-Results: x; none\r\nX: a (p=quarantine, put aside)\r\n\r\n";
        assert!(!is_put_aside(later) && !is_put_aside(b""));
    }

    #[test]
    fn one_good_signature_is_enough() {
        let of = |outcomes: &[Outcome]| {
            let signed = |outcome: &Outcome| Signed { outcome: *outcome, ..Signed::default() };
            Results { dkim: Some(outcomes.iter().map(signed).collect()), ..Results::default() }
                .best_signature()
        };
        assert_eq!(of(&[Outcome::Fail, Outcome::Pass, Outcome::TempError]), Outcome::Pass);
        assert_eq!(of(&[Outcome::Fail, Outcome::TempError]), Outcome::TempError);
        assert_eq!(of(&[Outcome::PermError, Outcome::Fail]), Outcome::Fail);
        assert_eq!(of(&[]), Outcome::None);
    }
}
