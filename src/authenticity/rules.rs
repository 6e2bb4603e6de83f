//! What is looked at, and what becomes of a message by what was found.
//!
//! Owns the policy of the operator. A message is refused only where it says `enforce`; what could not be
//! found out then is put off, never let through.

use super::results::{Aligned, Chain, Outcome, Results, Treatment, Wish};

/// What is done with a method.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord)]
pub enum Mode {
    /// It is not looked at.
    #[default]
    Off,
    /// The message is told what was found.
    Tag,
    /// What fails is refused.
    Enforce,
}

/// A mode for each method.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Modes {
    /// RFC 7208.
    pub spf: Mode,
    /// RFC 6376.
    pub dkim: Mode,
    /// RFC 9989.
    pub dmarc: Mode,
    /// RFC 8617.
    pub arc: Mode,
}

impl Modes {
    /// Some method is looked at.
    #[must_use]
    pub fn any(self) -> bool {
        self != Modes::default()
    }

    /// None is enforced.
    #[must_use]
    pub fn tagged(self) -> Modes {
        let most = |mode: Mode| mode.min(Mode::Tag);
        Modes { spf: most(self.spf), dkim: most(self.dkim), dmarc: most(self.dmarc), arc: most(self.arc) }
    }
}

/// Other modes for some domains.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Narrowed {
    /// `example.org`, `*.example.org` (all below), `*`.
    pub domain: String,
    /// For SPF it is the domain of the sender.
    pub spf: Option<Mode>,
    /// For DKIM that of the author.
    pub dkim: Option<Mode>,
    /// The same.
    pub dmarc: Option<Mode>,
}

/// The policy of a listener.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// In whose name results are written.
    pub id: String,
    /// For all domains.
    pub modes: Modes,
    /// For some; the first that fits.
    pub narrowed: Vec<Narrowed>,
    /// Nothing is refused, whatever is enforced elsewhere.
    pub tag_only: bool,
    /// Whose seals make up for a failure of DMARC.
    pub sealers: Vec<String>,
}

/// Why a message is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The sender's domain says that this client does not send for it.
    Spf,
    /// Nobody could say.
    SpfLater,
    /// No signature holds.
    Dkim,
    /// Nobody could say.
    DkimLater,
    /// A chain of seals is broken.
    Arc,
    /// Nobody could say.
    ArcLater,
    /// The author's domain wishes it.
    Dmarc,
    /// Nobody could say.
    DmarcLater,
    /// There is not exactly one domain of authors, which DMARC could be asked about.
    Authors,
}

impl Rules {
    /// What must be looked at: the highest mode of each method.
    #[must_use]
    pub fn wanted(&self) -> Modes {
        let top = |of: fn(&Narrowed) -> Option<Mode>, mode: Mode| {
            self.narrowed.iter().filter_map(of).fold(mode, Mode::max)
        };
        Modes {
            spf: top(|n| n.spf, self.modes.spf),
            dkim: top(|n| n.dkim, self.modes.dkim),
            dmarc: top(|n| n.dmarc, self.modes.dmarc),
            arc: self.modes.arc,
        }
    }

    fn mode(&self, domain: &str, of: fn(&Narrowed) -> Option<Mode>, usual: Mode) -> Mode {
        let fits = |n: &&Narrowed| of(n).is_some() && fits(&n.domain, domain);
        let mode = self.narrowed.iter().find(fits).and_then(of).unwrap_or(usual);
        if self.tag_only { mode.min(Mode::Tag) } else { mode }
    }

    /// A chain of seals makes up for a failure of DMARC (RFC 8617 §7.2.1).
    #[must_use]
    pub fn pardons(&self, results: &Results) -> bool {
        let sealed = |chain: &Chain| {
            chain.outcome == Outcome::Pass && self.sealers.iter().any(|s| fits(s, &chain.sealer))
        };
        let failed = results.dmarc.as_ref().is_some_and(|d| d.outcome == Outcome::Fail);
        failed && results.arc.as_ref().is_some_and(sealed)
    }

    /// What is said of a failure of DMARC, of a message that is not refused.
    #[must_use]
    pub fn treatment(&self, results: &Results) -> Treatment {
        let enforced = self.mode(&results.author, |n| n.dmarc, self.modes.dmarc) == Mode::Enforce;
        let fails = |d: &Aligned| d.outcome == Outcome::Fail && d.wish == Wish::Quarantine;
        if self.pardons(results) {
            Treatment::Pardoned
        } else if enforced && results.dmarc.as_ref().is_some_and(fails) {
            Treatment::Aside
        } else {
            Treatment::None
        }
    }

    /// Takes out of the results what is off for the domains of this message.
    pub fn reduce(&self, results: &mut Results) {
        let author = &results.author;
        let sender = results.spf.as_ref().map_or("", |(_, domain)| domain);
        let spf = self.mode(sender, |n| n.spf, self.modes.spf);
        let dkim = self.mode(author, |n| n.dkim, self.modes.dkim);
        let dmarc = self.mode(author, |n| n.dmarc, self.modes.dmarc);
        if spf == Mode::Off {
            (results.spf, results.helo) = (None, None);
        }
        results.dkim.take_if(|_| dkim == Mode::Off);
        results.arc.take_if(|_| self.modes.arc == Mode::Off);
        results.dmarc.take_if(|_| dmarc == Mode::Off);
    }

    /// Whether a message of which this is known is refused.
    #[must_use]
    pub fn refuses(&self, results: &Results) -> Option<Refused> {
        let author = &results.author;
        if let Some((outcome, sender)) = &results.spf
            && self.mode(sender, |n| n.spf, self.modes.spf) == Mode::Enforce
        {
            match outcome {
                Outcome::Fail => return Some(Refused::Spf),
                Outcome::TempError => return Some(Refused::SpfLater),
                _ => {}
            }
        }
        if results.dkim.is_some() && self.mode(author, |n| n.dkim, self.modes.dkim) == Mode::Enforce {
            match results.best_signature() {
                Outcome::Pass => {}
                Outcome::TempError => return Some(Refused::DkimLater),
                _ => return Some(Refused::Dkim),
            }
        }
        let of_arc = results.arc.as_ref().map(|chain| chain.outcome);
        if self.mode("", |_| None, self.modes.arc) == Mode::Enforce {
            match of_arc {
                Some(Outcome::Fail | Outcome::PermError) => return Some(Refused::Arc),
                Some(Outcome::TempError) => return Some(Refused::ArcLater),
                _ => {}
            }
        }
        let dmarc = results.dmarc.as_ref()?;
        if self.mode(author, |n| n.dmarc, self.modes.dmarc) != Mode::Enforce {
            return None;
        }
        match dmarc.outcome {
            _ if dmarc.authors != 1 => Some(Refused::Authors),
            Outcome::TempError => Some(Refused::DmarcLater),
            Outcome::Fail if dmarc.wish == Wish::Reject && !self.pardons(results) => {
                // A chain that may make up for it could not be looked at.
                let later = of_arc == Some(Outcome::TempError) && !self.sealers.is_empty();
                Some(if later { Refused::DmarcLater } else { Refused::Dmarc })
            }
            _ => None,
        }
    }
}

/// `*` alone, `*.suffix`, or a name; ASCII case is ignored.
fn fits(pattern: &str, name: &str) -> bool {
    let ends = |suffix: &str| {
        let at = name.len().checked_sub(suffix.len());
        at.is_some_and(|at| at > 0 && name.as_bytes()[at..].eq_ignore_ascii_case(suffix.as_bytes()))
    };
    pattern == "*" || pattern.strip_prefix('*').map_or_else(|| pattern.eq_ignore_ascii_case(name), ends)
}

#[cfg(test)]
mod tests {
    use super::super::results::Signed;
    use super::*;

    fn rules(modes: Modes) -> Rules {
        Rules { id: "mx.example".into(), modes, ..Rules::default() }
    }

    const ALL: Modes =
        Modes { spf: Mode::Enforce, dkim: Mode::Enforce, dmarc: Mode::Enforce, arc: Mode::Enforce };

    fn spf(outcome: Outcome) -> Results {
        Results { spf: Some((outcome, "a.example".into())), ..Results::default() }
    }

    fn dkim(outcomes: &[Outcome]) -> Results {
        let signed = |outcome: &Outcome| Signed { outcome: *outcome, ..Signed::default() };
        Results { dkim: Some(outcomes.iter().map(signed).collect()), ..Results::default() }
    }

    fn dmarc(outcome: Outcome, wish: Wish, authors: usize) -> Results {
        let dmarc = Some(Aligned { outcome, wish, authors });
        Results { author: "a.example".into(), dmarc, ..Results::default() }
    }

    fn arc(outcome: Outcome) -> Results {
        let chain = Chain { outcome, sealer: "list.example".into() };
        Results { arc: Some(chain), ..dmarc(Outcome::Fail, Wish::Reject, 1) }
    }

    #[test]
    fn what_fails_is_refused_where_it_is_enforced() {
        use Outcome::{Fail, Neutral, None as Nothing, Pass, PermError, SoftFail, TempError};
        for (results, refused) in [
            (spf(Fail), Some(Refused::Spf)),
            (spf(TempError), Some(Refused::SpfLater)),
            (spf(SoftFail), None),
            (spf(PermError), None),
            (spf(Pass), None),
            (dkim(&[]), Some(Refused::Dkim)),
            (dkim(&[Fail, Neutral]), Some(Refused::Dkim)),
            (dkim(&[Fail, TempError]), Some(Refused::DkimLater)),
            (dkim(&[Fail, Pass]), None),
            (dmarc(Fail, Wish::Reject, 1), Some(Refused::Dmarc)),
            (dmarc(Fail, Wish::Quarantine, 1), None),
            (dmarc(Pass, Wish::Reject, 1), None),
            (dmarc(Nothing, Wish::None, 1), None),
            (dmarc(TempError, Wish::None, 1), Some(Refused::DmarcLater)),
            (dmarc(PermError, Wish::None, 2), Some(Refused::Authors)),
            (dmarc(PermError, Wish::None, 0), Some(Refused::Authors)),
            (arc(Fail), Some(Refused::Arc)),
            (arc(TempError), Some(Refused::ArcLater)),
            (arc(Nothing), Some(Refused::Dmarc)),
        ] {
            assert_eq!(rules(ALL).refuses(&results), refused, "{results:?}");
            assert_eq!(rules(ALL.tagged()).refuses(&results), None, "{results:?}");
            let listener = Rules { tag_only: true, ..rules(ALL) };
            assert_eq!(listener.refuses(&results), None, "{results:?}");
        }
        let aside = dmarc(Fail, Wish::Quarantine, 1);
        assert_eq!(rules(ALL).treatment(&aside), Treatment::Aside);
        assert_eq!(rules(ALL.tagged()).treatment(&aside), Treatment::None);
        assert_eq!(rules(ALL).treatment(&dmarc(Pass, Wish::Quarantine, 1)), Treatment::None);
    }

    #[test]
    fn seals_of_those_we_trust_make_up_for_a_failure() {
        let mut rules = rules(Modes { arc: Mode::Tag, ..ALL });
        assert_eq!(rules.refuses(&arc(Outcome::Pass)), Some(Refused::Dmarc));
        rules.sealers = vec!["list.example".into()];
        assert!(rules.pardons(&arc(Outcome::Pass)) && !rules.pardons(&arc(Outcome::Fail)));
        assert_eq!(rules.refuses(&arc(Outcome::Pass)), None);
        assert_eq!(rules.refuses(&arc(Outcome::Fail)), Some(Refused::Dmarc));
        assert_eq!(rules.refuses(&arc(Outcome::TempError)), Some(Refused::DmarcLater));
    }

    #[test]
    fn domains_have_rules_of_their_own() {
        let mut rules = rules(Modes { spf: Mode::Enforce, dmarc: Mode::Off, ..Modes::default() });
        let narrowed = |domain: &str, spf, dkim, dmarc| Narrowed { domain: domain.into(), spf, dkim, dmarc };
        rules.narrowed = vec![
            narrowed("A.example", Some(Mode::Tag), None, Some(Mode::Enforce)),
            narrowed("*.bank.example", None, Some(Mode::Enforce), None),
        ];
        let wanted = rules.wanted();
        assert_eq!((wanted.spf, wanted.dkim, wanted.dmarc), (Mode::Enforce, Mode::Enforce, Mode::Enforce));
        assert!(!Modes::default().any() && wanted.any());
        assert_eq!(rules.refuses(&spf(Outcome::Fail)), None);
        let fail = dmarc(Outcome::Fail, Wish::Reject, 1);
        assert_eq!(rules.refuses(&fail), Some(Refused::Dmarc));
        let by = |author: &str, results: &Results| Results { author: author.into(), ..results.clone() };
        assert_eq!(rules.refuses(&by("b.example", &fail)), None);
        assert_eq!(rules.refuses(&by("www.bank.example", &dkim(&[]))), Some(Refused::Dkim));
        assert_eq!(rules.refuses(&by("bank.example", &dkim(&[]))), None);
        // What is off for a domain is not written.
        let mut all = Results { spf: spf(Outcome::Fail).spf, dkim: dkim(&[]).dkim, ..fail };
        rules.reduce(&mut all);
        assert!(all.spf.is_some() && all.dkim.is_none() && all.dmarc.is_some());
    }
}
