//! What name servers have said about one message, in the terms of `mail-auth`, and what it asks for beyond.
//!
//! `mail-auth` would ask by a resolver of its own. It never comes to that: where it looks for a cache it
//! finds a [`Run`], which gives it what is known, and writes down the first question to which nothing is.
//! Whatever the run comes to then is worth nothing; whoever started it finds the answer out and runs it
//! again. Owns how records are read (how many there may be, what of them counts). Must not know who is
//! asked, or how long that may take. An answer that nobody could give is a temporary error, never a pass and
//! never "there is none".

use super::spf;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::dkim::Atps;
use mail_auth::dmarc::Dmarc;
use mail_auth::hickory_resolver::proto::op::ResponseCode;
use mail_auth::{DnsError, DnssecStatus, Error, MX, Parameters, RecordSet, ResolverCache, Txt};
use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a text is read for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Text {
    /// A policy of SPF.
    Spf,
    /// A key of DKIM or ARC.
    Key,
    /// Third parties that may sign (RFC 6541).
    Atps,
    /// A policy of DMARC.
    Dmarc,
}

/// A question to name servers. Names have no dot at the end.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Question {
    /// TXT records.
    Text(Text, Box<str>),
    /// MX records.
    Mx(Box<str>),
    /// A records.
    V4(Box<str>),
    /// AAAA records.
    V6(Box<str>),
    /// The names of the client that lead back to it.
    Names,
}

/// The answer to one.
#[derive(Clone)]
pub enum Said {
    /// What the texts mean, or that they are of no use, or that there is none.
    Text(Txt),
    /// Hosts with their preferences.
    Mx(Vec<(u16, Box<str>)>),
    /// At least one address.
    V4(Vec<Ipv4Addr>),
    /// At least one address.
    V6(Vec<Ipv6Addr>),
    /// Names; there may be none.
    Names(Vec<Box<str>>),
    /// There are no such records; `true`: not even the name.
    None(bool),
    /// Nobody could say.
    Failed,
}

/// A temporary error, as `mail-auth` has it.
#[must_use]
pub fn no_answer(why: &str) -> Error {
    Error::Dns(DnsError::Resolver(why.to_owned()))
}

/// There is no such record, as `mail-auth` has it.
#[must_use]
pub fn no_record() -> Error {
    Error::Dns(DnsError::RecordNotFound(ResponseCode::NoError))
}

/// Records that are of no use, as `mail-auth` has it.
#[must_use]
pub fn no_use() -> Error {
    Error::Dns(DnsError::InvalidRecordType)
}

impl Said {
    /// What these texts of a name say.
    #[must_use]
    pub fn of_texts(what: Text, texts: &[Box<[u8]>]) -> Said {
        Said::Text(match what {
            Text::Spf => spf::policy(texts).map_or_else(Txt::Error, |policy| Txt::Spf(policy.into())),
            // RFC 6376 §3.6.2.2: with several, what counts is not defined; here it is the first good one.
            Text::Key => first::<DomainKey>(texts),
            Text::Atps => first::<Atps>(texts),
            Text::Dmarc => {
                // RFC 9989 §4.10: a name with several has none.
                let mut good = texts.iter().filter_map(|text| Dmarc::parse(text).ok());
                match (good.next(), good.next()) {
                    (Some(one), None) => Txt::Dmarc(one.into()),
                    _ => Txt::Error(no_use()),
                }
            }
        })
    }
}

fn first<T: TxtRecordParser + Into<Txt>>(texts: &[Box<[u8]>]) -> Txt {
    let mut last = no_record();
    for text in texts {
        match T::parse(text) {
            Ok(good) => return good.into(),
            Err(e) => last = e,
        }
    }
    Txt::Error(last)
}

/// All that is known for one message. Cheap to clone but for its size.
#[derive(Clone, Default)]
pub struct Known(HashMap<Question, Said>);

impl Known {
    /// Adds an answer.
    pub fn learn(&mut self, question: Question, said: Said) {
        self.0.insert(question, said);
    }

    /// The answer, if there is one.
    #[must_use]
    pub fn get(&self, question: &Question) -> Option<&Said> {
        self.0.get(question)
    }
}

/// Why a run is worth nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It needs an answer.
    Need(Question),
    /// It needed one that nobody could give (SPF; not a text, whose trouble `mail-auth` knows itself).
    Failed,
}

/// What a run is for, which says what texts are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// One policy of SPF and what it leads to.
    Spf,
    /// Signatures.
    Keys,
    /// DMARC.
    Dmarc,
}

/// One go at a part of the message.
pub struct Run<'a> {
    known: &'a Known,
    aim: Aim,
    stop: RefCell<Option<Stop>>,
    void: Cell<u32>,
    no_name: Cell<bool>,
    failed: Cell<bool>,
}

impl<'a> Run<'a> {
    /// With what is known.
    #[must_use]
    pub fn new(known: &'a Known, aim: Aim) -> Self {
        let (no_name, failed) = <(Cell<bool>, Cell<bool>)>::default();
        Run { known, aim, stop: RefCell::default(), void: Cell::default(), no_name, failed }
    }

    /// The parameters of a method of `mail-auth`, which asks this run.
    pub fn with<P>(&self, params: P) -> Parameters<'_, P, Self, Self, Self, Self, Self> {
        Parameters {
            params,
            cache_txt: Some(self),
            cache_mx: Some(self),
            cache_ptr: Some(self),
            cache_ipv4: Some(self),
            cache_ipv6: Some(self),
        }
    }

    /// Why the run is worth nothing, if so: the first reason, for what came later came of it.
    pub fn stopped(&self) -> Option<Stop> {
        self.stop.borrow().clone()
    }

    /// Questions for addresses, hosts or names that found nothing; the mechanism `exists` not counted.
    pub fn voids(&self) -> u32 {
        self.void.get()
    }

    /// A name that was asked for an address is not there at all.
    pub fn no_name(&self) -> bool {
        self.no_name.get()
    }

    /// Of an address, host or name nobody could say whether it is there.
    pub fn failed(&self) -> bool {
        self.failed.get()
    }

    fn find(&self, question: Question) -> Option<&'a Said> {
        if self.stop.borrow().is_some() {
            return None;
        }
        let said = self.known.get(&question);
        let stop = match said {
            None => Stop::Need(question),
            Some(Said::Failed) if !matches!(question, Question::Text(..)) => {
                self.failed.set(true);
                if self.aim != Aim::Spf {
                    return None;
                }
                Stop::Failed
            }
            Some(_) => return said,
        };
        *self.stop.borrow_mut() = Some(stop);
        None
    }

    /// Addresses, hosts or names: nothing known is none, for the run is worth nothing anyway.
    fn list<T>(&self, question: Question, pick: impl Fn(&Said) -> Option<Vec<T>>) -> RecordSet<T> {
        let said = self.find(question);
        let list = said.and_then(pick).unwrap_or_default();
        if said.is_some() && list.is_empty() {
            self.void.set(self.void.get() + 1);
            self.no_name.set(self.no_name.get() || matches!(said, Some(Said::None(true))));
        }
        set(list)
    }

    /// Whether the name that the mechanism `exists` asks for is there; `None`: it asks for nothing of the
    /// kind.
    fn exists(&self, name: &str) -> Option<bool> {
        // RFC 7208 §5.7: A records, even if the client has an IPv6 address.
        let name = plain(name.strip_suffix(spf::EXISTS)?);
        Some(matches!(self.find(Question::V4(name)), Some(Said::V4(_))))
    }
}

fn set<T>(list: Vec<T>) -> RecordSet<T> {
    RecordSet { rrset: list.into(), dnssec_status: DnssecStatus::Indeterminate }
}

fn plain(name: &str) -> Box<str> {
    name.strip_suffix('.').unwrap_or(name).into()
}

/// The text that is hashed: keys come as what they have in common with `str`, which is no more than that.
fn text_of<Q: Hash + ?Sized>(name: &Q) -> String {
    #[derive(Default)]
    struct Listen(Vec<u8>);
    impl Hasher for Listen {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
    }
    let mut listen = Listen::default();
    name.hash(&mut listen);
    // What ends a text in a hash occurs in none.
    let end = listen.0.iter().position(|b| *b == 0xff).unwrap_or(listen.0.len());
    String::from_utf8_lossy(&listen.0[..end]).into_owned()
}

macro_rules! answers {
    ($($key:ty => $value:ty, |$run:ident, $name:ident| $answer:expr;)*) => { $(
        impl ResolverCache<$key, $value> for Run<'_> {
            fn get<Q>(&self, name: &Q) -> Option<$value>
            where
                $key: Borrow<Q>,
                Q: Hash + Eq + ?Sized,
            {
                let ($run, $name) = (self, text_of(name));
                Some($answer)
            }

            fn remove<Q>(&self, _: &Q) -> Option<$value>
            where
                $key: Borrow<Q>,
                Q: Hash + Eq + ?Sized,
            {
                None
            }

            fn insert(&self, _: $key, _: $value, _: std::time::Instant) {}
        }
    )* };
}

answers! {
    Box<str> => Txt, |run, name| {
        let what = match run.aim {
            Aim::Spf => Text::Spf,
            Aim::Dmarc => Text::Dmarc,
            Aim::Keys if name.contains("._domainkey.") => Text::Key,
            Aim::Keys => Text::Atps,
        };
        match run.find(Question::Text(what, plain(&name))) {
            Some(Said::Text(text)) => text.clone(),
            Some(Said::None(_)) => Txt::Error(no_record()),
            _ => Txt::Error(no_answer("not known")),
        }
    };
    Box<str> => RecordSet<MX>, |run, name| {
        let mut hosts = run.list(Question::Mx(plain(&name)), |said| match said {
            Said::Mx(list) => Some(list.clone()),
            _ => None,
        }).rrset.to_vec();
        hosts.sort_by_key(|(preference, _)| *preference);
        set(hosts.into_iter().map(|(preference, host)| MX { preference, exchanges: [host].into() }).collect())
    };
    Box<str> => RecordSet<Ipv4Addr>, |run, name| match run.exists(&name) {
        Some(true) => set(vec![Ipv4Addr::UNSPECIFIED]),
        Some(false) => set(Vec::new()),
        None => run.list(Question::V4(plain(&name)), |said| match said {
            Said::V4(list) => Some(list.clone()),
            _ => None,
        }),
    };
    Box<str> => RecordSet<Ipv6Addr>, |run, name| match run.exists(&name) {
        Some(true) => set(vec![Ipv6Addr::UNSPECIFIED]),
        Some(false) => set(Vec::new()),
        None => run.list(Question::V6(plain(&name)), |said| match said {
            Said::V6(list) => Some(list.clone()),
            _ => None,
        }),
    };
    // The only address that is asked about is the client's.
    IpAddr => RecordSet<Box<str>>, |run, _name| run.list(Question::Names, |said| match said {
        Said::Names(list) => Some(list.clone()),
        _ => None,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<Box<[u8]>> {
        list.iter().map(|t| t.as_bytes().into()).collect()
    }

    fn v4(run: &Run<'_>, name: &str) -> usize {
        let found: Option<RecordSet<Ipv4Addr>> = run.get(name);
        found.expect("always an answer").rrset.len()
    }

    #[test]
    fn names_come_through() {
        assert_eq!(text_of("a.example."), "a.example.");
        assert_eq!(text_of(""), "");
        assert_eq!(text_of("b\u{fc}cher."), "b\u{fc}cher.");
    }

    #[test]
    fn the_first_question_without_an_answer_stops_a_run() {
        let mut known = Known::default();
        let run = Run::new(&known, Aim::Spf);
        assert_eq!((v4(&run, "a.test."), v4(&run, "b.test.")), (0, 0));
        let a = Question::V4("a.test".into());
        assert_eq!((run.stopped(), run.voids()), (Some(Stop::Need(a.clone())), 0));
        known.learn(a, Said::V4(vec![Ipv4Addr::LOCALHOST]));
        known.learn(Question::V4("b.test".into()), Said::None(true));
        let run = Run::new(&known, Aim::Spf);
        assert_eq!((v4(&run, "a.test."), run.no_name(), v4(&run, "b.test.")), (1, false, 0));
        assert_eq!((run.stopped(), run.voids(), run.no_name()), (None, 1, true));
        known.learn(Question::V4("b.test".into()), Said::Failed);
        let run = Run::new(&known, Aim::Spf);
        assert_eq!((v4(&run, "b.test."), run.stopped(), run.voids()), (0, Some(Stop::Failed), 0));
    }

    #[test]
    fn exists_asks_for_v4_and_is_never_void() {
        let mut known = Known::default();
        let name = format!("x.test.{}", spf::EXISTS);
        let v6 = |run: &Run<'_>| {
            let found: Option<RecordSet<Ipv6Addr>> = run.get(name.as_str());
            found.expect("always an answer").rrset.len()
        };
        let run = Run::new(&known, Aim::Spf);
        assert_eq!((v6(&run), run.stopped()), (0, Some(Stop::Need(Question::V4("x.test".into())))));
        for (said, there) in [(Said::None(true), 0), (Said::V4(vec![Ipv4Addr::LOCALHOST]), 1)] {
            known.learn(Question::V4("x.test".into()), said);
            let run = Run::new(&known, Aim::Spf);
            assert_eq!((v6(&run), v4(&run, &name), run.voids(), run.stopped()), (there, there, 0, None));
        }
    }

    #[test]
    fn several_policies_are_none() {
        let dmarc = |list: &[&str]| match Said::of_texts(Text::Dmarc, &texts(list)) {
            Said::Text(Txt::Dmarc(_)) => true,
            Said::Text(Txt::Error(e)) => e != no_use(),
            _ => panic!("not a text"),
        };
        assert!(dmarc(&["v=DMARC1; p=reject"]) && dmarc(&["other", "v=DMARC1; p=reject"]));
        assert!(!dmarc(&["v=DMARC1; p=reject", "v=DMARC1; p=none"]) && !dmarc(&["other"]));
    }
}
