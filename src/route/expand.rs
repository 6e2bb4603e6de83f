//! What an address stands for: a sender that was rewritten, expressions, virtual map, aliases, postmaster.
//!
//! Owns the order of rewriting and its bounds. The local part is never changed but by an expression,
//! only compared without regard to ASCII case. Loops and excess end in [`Expansion::Fault`], which
//! is an error of our configuration: the sender may try again.

use super::rewrite::Rewritten;
use super::srs::Returned;
use super::tables::{Plan, Router, split};

/// What an address stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expansion {
    /// Itself.
    Same,
    /// These addresses instead; in order, each once.
    To(Vec<Box<[u8]>>),
    /// More than the bounds allow.
    Fault(Fault),
}

/// Why an address cannot be rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// More rewritings in a row than allowed.
    TooDeep,
    /// More recipients than allowed.
    TooMany,
    /// An expression has made something of it that is no address.
    NoAddress,
}

/// Total look-ups of one expansion when its bounds are turned off.
const STEPS_MAX: usize = 1_000_000;

impl Router {
    /// What `address` stands for. An address that is rewritten to itself among others stays one of
    /// them.
    #[must_use]
    pub fn expand(&self, address: &[u8]) -> Expansion {
        if let Some(Returned::To(sender)) = self.returned(address) {
            return Expansion::To(vec![sender]);
        }
        match self.rewrite_recipients.apply(address) {
            Rewritten::Same => self.look_up(address),
            Rewritten::Bad => Expansion::Fault(Fault::NoAddress),
            Rewritten::To(other) => match self.look_up(&other) {
                Expansion::Same => Expansion::To(vec![other]),
                expansion => expansion,
            },
        }
    }

    /// The same by the maps alone.
    fn look_up(&self, address: &[u8]) -> Expansion {
        let Some(first) = self.rewrite(address) else { return Expansion::Same };
        let depth_max = if self.bounds.depth == 0 { u32::MAX } else { self.bounds.depth };
        let count_max = match self.bounds.recipients {
            0 => STEPS_MAX,
            n => n as usize,
        };
        let mut seen: hashbrown::HashMap<Box<[u8]>, (), std::hash::BuildHasherDefault<Fnv>> =
            hashbrown::HashMap::default();
        let mut done = Vec::new();
        let mut todo: Vec<(Box<[u8]>, u32)> = first.into_iter().rev().map(|t| (t, 1)).collect();
        seen.insert(folded(address), ());
        let mut kept_self = false;
        while let Some((target, depth)) = todo.pop() {
            if target.eq_ignore_ascii_case(address) {
                if !kept_self {
                    done.push(target);
                }
                kept_self = true;
                continue;
            }
            if seen.insert(folded(&target), ()).is_some() {
                continue;
            }
            match self.rewrite(&target) {
                None => done.push(target),
                Some(_) if depth >= depth_max => return Expansion::Fault(Fault::TooDeep),
                Some(next) => {
                    if next.iter().any(|n| n.eq_ignore_ascii_case(&target)) {
                        done.push(target);
                    }
                    todo.extend(next.into_iter().rev().map(|t| (t, depth + 1)));
                }
            }
            if done.len() > count_max || todo.len() > count_max.saturating_mul(2) || seen.len() > STEPS_MAX {
                return Expansion::Fault(Fault::TooMany);
            }
        }
        if done.len() > count_max {
            return Expansion::Fault(Fault::TooMany);
        }
        // A closed circle (a to b, b to a) leaves nobody: mail must not vanish in it.
        if done.is_empty() { Expansion::Fault(Fault::TooDeep) } else { Expansion::To(done) }
    }

    /// One step; `None` if the address stays as it is.
    fn rewrite(&self, address: &[u8]) -> Option<Vec<Box<[u8]>>> {
        let (local, domain) = split(address);
        let base = self.base(local);
        let ours = domain.is_empty() || self.is_local(domain) || domain.eq_ignore_ascii_case(&self.hostname);
        let at = &address[local.len()..];
        if !self.rewrites.is_empty() {
            if let Some(targets) = self.rewrites.get(address) {
                return Some(targets.iter().map(|t| complete(t, domain)).collect());
            }
            if let Some(base) = base
                && let Some(targets) = self.rewrites.get(&[base, at].concat())
            {
                // As Postfix does for virtual maps: what follows the user is kept.
                let extension = &local[base.len()..];
                return Some(targets.iter().map(|t| extended(&complete(t, domain), extension)).collect());
            }
            if let Some(targets) = ours.then(|| self.rewrites.get(local)).flatten() {
                return Some(targets.iter().map(|t| complete(t, domain)).collect());
            }
            if let Some(targets) = (!domain.is_empty()).then(|| self.rewrites.get(at)).flatten() {
                // "@a @b" keeps the local part.
                let with_local = |t: &[u8]| {
                    if t.first() == Some(&b'@') { [local, t].concat().into() } else { complete(t, domain) }
                };
                return Some(targets.iter().map(|t| with_local(t)).collect());
            }
        }
        if ours && !self.aliases.is_empty() {
            let found = self.aliases.get(local).or_else(|| self.aliases.get(base?));
            if let Some(targets) = found {
                return Some(targets.iter().map(|t| complete(t, domain)).collect());
            }
        }
        self.to_postmaster(local, domain, ours, address)
    }

    /// RFC 5321 §4.5.1: postmaster, with our domain or with none, in any case, reaches someone.
    fn to_postmaster(
        &self,
        local: &[u8],
        domain: &[u8],
        ours: bool,
        address: &[u8],
    ) -> Option<Vec<Box<[u8]>>> {
        let postmaster = self.postmaster.as_ref()?;
        let unknown_at_relay = || self.is_relay(domain) && !self.is_relay_recipient(address);
        if !local.eq_ignore_ascii_case(b"postmaster") || !(ours || unknown_at_relay()) {
            return None;
        }
        // An explicit route for a local domain takes its postmaster along.
        if !domain.is_empty() && ours && self.is_local(domain) && self.plan(domain) != Plan::Local {
            return None;
        }
        (!postmaster.eq_ignore_ascii_case(address)).then(|| vec![postmaster.clone()])
    }
}

/// A target without domain gets that of the address it stands for.
fn complete(target: &[u8], domain: &[u8]) -> Box<[u8]> {
    // A backslash means: as it is (Postfix aliases).
    let target = target.strip_prefix(b"\\").unwrap_or(target);
    if target.contains(&b'@') || domain.is_empty() {
        return target.into();
    }
    [target, b"@", domain].concat().into()
}

fn extended(target: &[u8], extension: &[u8]) -> Box<[u8]> {
    let (local, _) = split(target);
    [local, extension, &target[local.len()..]].concat().into()
}

fn folded(address: &[u8]) -> Box<[u8]> {
    address.to_ascii_lowercase().into()
}

/// A fixed hash: nothing may depend on chance here, and the keys are the operator's.
#[derive(Default)]
struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::destination::{NextHop, TlsPolicy};
    use super::super::map::{Kind, parse};
    use super::super::tables::Bounds;
    use super::*;

    fn router(aliases: &str, virt: &str) -> Router {
        let mut r = Router::new("mx.home.example");
        r.add_local("home.example");
        r.add_relay("cust.example");
        r.set_maps(
            parse(aliases.as_bytes(), Kind::Aliases).table,
            parse(virt.as_bytes(), Kind::Virtual).table,
        );
        r.set_rewriting(Some("boss@out.example"), "+-", Bounds { depth: 5, recipients: 4 });
        r
    }

    fn to(r: &Router, address: &str) -> Vec<String> {
        match r.expand(address.as_bytes()) {
            Expansion::Same => vec!["=".into()],
            Expansion::To(all) => all.iter().map(|a| String::from_utf8(a.to_vec()).unwrap()).collect(),
            Expansion::Fault(f) => vec![format!("{f:?}")],
        }
    }

    #[test]
    fn aliases_are_for_local_domains() {
        let r = router("root: alice, Bob@x.example\nalice: Al@y.example\n", "");
        assert_eq!(to(&r, "ROOT@home.example"), ["Al@y.example", "Bob@x.example"]);
        assert_eq!(to(&r, "root+x@home.example"), ["Al@y.example", "Bob@x.example"]);
        assert_eq!(to(&r, "root@cust.example"), ["="]);
        assert_eq!(to(&r, "root@else.example"), ["="]);
        assert_eq!(to(&r, "Carol@home.example"), ["="]);
    }

    #[test]
    fn virtual_forms() {
        let r = router(
            "",
            "a@v.example x@y.example\n@v.example all@y.example\n@w.example @z.example\nweb  w@y.example\n",
        );
        assert_eq!(to(&r, "A@V.example"), ["x@y.example"]);
        assert_eq!(to(&r, "a+Tag@v.example"), ["x+Tag@y.example"]);
        assert_eq!(to(&r, "b@v.example"), ["all@y.example"]);
        assert_eq!(to(&r, "MiXed@w.example"), ["MiXed@z.example"]);
        assert_eq!(to(&r, "web@home.example"), ["w@y.example"]);
        assert_eq!(to(&r, "web@v2.example"), ["="]);
    }

    #[test]
    fn loops_and_bounds() {
        let r = router("a: b\nb: a\nself: self, x@y.example\none: two\ntwo: two\n", "");
        assert_eq!(to(&r, "a@home.example"), ["a@home.example"]);
        assert_eq!(to(&r, "self@home.example"), ["self@home.example", "x@y.example"]);
        assert_eq!(to(&r, "one@home.example"), ["two@home.example"]);
        let r = router("c: d\nd: e\ne: d\n", "");
        assert_eq!(to(&r, "c@home.example"), ["TooDeep"]);
        let r = router("l1: l2\nl2: l3\nl3: l4\nl4: l5\nl5: l6\nl6: x@y.example\n", "");
        assert_eq!(to(&r, "l1@home.example"), ["TooDeep"]);
        assert_eq!(to(&r, "l2@home.example"), ["x@y.example"]);
        let r = router("many: a@x, b@x, c@x, d@x, e@x\nfour: a@x, b@x, c@x, d@x, A@x\n", "");
        assert_eq!(to(&r, "many@home.example"), ["TooMany"]);
        assert_eq!(to(&r, "four@home.example").len(), 4);
    }

    #[test]
    fn expressions_come_first_and_once() {
        let mut r = router("sales: x@y.example\n", "v@v.example sales@home.example\n");
        let rules = b"/^(.*)@old\\.example$/ $1@home.example\n/^v[0-9]+@/ v@v.example\n/^bad@/ nobody\n";
        let (rules, bad) = super::super::rewrite::parse(rules);
        assert_eq!(bad, []);
        r.set_expressions(Default::default(), rules);
        assert_eq!(to(&r, "Sales@OLD.example"), ["x@y.example"]);
        assert_eq!(to(&r, "other@old.example"), ["other@home.example"]);
        assert_eq!(to(&r, "v7@old.example"), ["v7@home.example"], "the first that fits, once");
        assert_eq!(to(&r, "v7@new.example"), ["x@y.example"]);
        assert_eq!(to(&r, "bad@new.example"), ["NoAddress"]);
        assert_eq!(to(&r, "a@new.example"), ["="]);
    }

    #[test]
    fn postmaster_reaches_someone() {
        let mut r = router("", "");
        for a in ["postmaster", "PostMaster@home.example", "postmaster@mx.home.example"] {
            assert_eq!(to(&r, a), ["boss@out.example"], "{a}");
        }
        // The customer's postmaster is the customer's, as long as he is known.
        assert_eq!(to(&r, "postmaster@cust.example"), ["="]);
        r.set_relay_recipients(Some(parse(b"a@cust.example\n", Kind::Keys).table));
        assert_eq!(to(&r, "postmaster@cust.example"), ["boss@out.example"]);
        assert_eq!(to(&r, "postmaster@else.example"), ["="]);
        assert!(r.add_route("home.example", NextHop::parse("192.0.2.1", TlsPolicy::None).unwrap()));
        assert_eq!(to(&r, "postmaster@home.example"), ["="]);
        let r = router("postmaster: duty@x.example\n", "");
        assert_eq!(to(&r, "postmaster@home.example"), ["duty@x.example"]);
    }
}
