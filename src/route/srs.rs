//! Senders of mail that is forwarded (Sender Rewriting Scheme): written, and read when mail comes back.
//!
//! A stranger's mail that an alias sends on to another domain would fail SPF there, because its sender's
//! domain does not name us. Its sender becomes `SRS0=HASH=DAY=domain=local` at a domain of ours; one that is
//! such an address of another forwarder already, `SRS1=HASH=forwarder==HASH=DAY=domain=local`, which
//! leads back there. The hash (HMAC-SHA-256, 40 bits) makes it impossible to have us send mail to addresses
//! that we have not written ourselves; who knows one can reach the one address in it, until it is old. Knows
//! no clock and no file. Secrets are never shown.

use super::tables::{Router, split};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use zeroize::Zeroizing;

/// Five bits each, in a form that survives a change of case.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Characters of a hash.
const HASH: usize = 8;
/// Days after which their number begins anew: two characters.
const DAYS: u64 = 1024;
/// What may stand behind `SRS0` and `SRS1`.
pub const SEPARATORS: &[u8] = b"=+-";
/// The oldest that can be told from the new.
pub const AGE_MAX: u64 = DAYS - 24;
/// RFC 5321 §4.5.3.1.3: bytes of a path, without its brackets.
const PATH_MAX: usize = 254;
/// A secret is no shorter.
pub const SECRET_MIN: usize = 16;
/// Secrets in force at a time.
pub const SECRETS_MAX: usize = 16;

/// How senders are rewritten.
#[derive(Clone)]
pub struct Srs {
    domain: Box<[u8]>,
    separator: u8,
    max_age: u64,
    /// The first one signs, all are believed.
    secrets: Vec<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Srs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SRS at {} with {} secrets", self.domain.escape_ascii(), self.secrets.len())
    }
}

/// An address that looks like one of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Returned {
    /// We have written it; mail for it goes there.
    To(Box<[u8]>),
    /// We have not.
    Forged,
}

/// The secrets of a key file: one a line, the first one signs; empty lines and those with `#` do not count.
///
/// # Errors
/// What is wrong, without anything of a secret.
pub fn secrets(text: &[u8]) -> Result<Vec<Zeroizing<Vec<u8>>>, &'static str> {
    let lines = text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    let all: Vec<_> = lines
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| Zeroizing::new(line.to_vec()))
        .collect();
    match all.len() {
        0 => Err("holds no secret"),
        1..=SECRETS_MAX if all.iter().all(|secret| secret.len() >= SECRET_MIN) => Ok(all),
        1..=SECRETS_MAX => Err("holds a secret of less than 16 characters"),
        _ => Err("holds more than 16 secrets"),
    }
}

/// The parts of a local part, in the order in which they stand there.
enum Parts<'a> {
    /// `SRS0`: hash, day, domain, local part.
    Zero([&'a [u8]; 4]),
    /// `SRS1`: hash, forwarder, and what its local part is behind `SRS0`.
    One([&'a [u8]; 3]),
}

/// What stands behind the tag and its separator; `None`: it is not such a local part.
fn behind<'a>(tag: &[u8], local: &'a [u8]) -> Option<&'a [u8]> {
    let (begin, rest) = local.split_at_checked(tag.len())?;
    let (separator, rest) = rest.split_first()?;
    (begin.eq_ignore_ascii_case(tag) && SEPARATORS.contains(separator)).then_some(rest)
}

/// `None`: a part is missing.
fn parts<const N: usize>(text: &[u8]) -> Option<[&[u8]; N]> {
    let mut all = text.splitn(N, |b| *b == b'=');
    let parts = std::array::from_fn(|_| all.next().unwrap_or_default());
    parts.iter().all(|p| !p.is_empty()).then_some(parts)
}

/// A local part as it is meant, and whether it is in quotes (RFC 5321 §4.1.2).
fn bare(local: &[u8]) -> (&[u8], bool) {
    let inner = local.strip_prefix(b"\"").and_then(|l| l.strip_suffix(b"\""));
    inner.map_or((local, false), |inner| (inner, true))
}

fn address(local: &[u8], quoted: bool, domain: &[u8]) -> Box<[u8]> {
    let quote: &[u8] = if quoted { b"\"" } else { b"" };
    [quote, local, quote, b"@", domain].concat().into()
}

fn digit(b: u8) -> Option<u64> {
    let at = ALPHABET.iter().position(|a| *a == b.to_ascii_uppercase())?;
    u64::try_from(at).ok()
}

impl Srs {
    /// Rewrites to `domain`. `max_age`: days, at most [`AGE_MAX`]; `secrets`: as [`secrets`] gives them.
    ///
    /// # Panics
    /// Without a secret.
    #[must_use]
    pub fn new(domain: &str, separator: u8, max_age: u64, secrets: Vec<Zeroizing<Vec<u8>>>) -> Self {
        assert!(!secrets.is_empty(), "there is a secret");
        Srs { domain: domain.as_bytes().into(), separator, max_age, secrets }
    }

    fn hash(secret: &[u8], kind: u8, parts: &[&[u8]]) -> [u8; HASH] {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
        mac.update(&[kind]);
        for part in parts {
            // The case of a local part is not kept by everybody; no part has a "=" but the last.
            mac.update(b"=");
            mac.update(&part.to_ascii_lowercase());
        }
        let bits = mac.finalize().into_bytes()[..5].iter().fold(0_u64, |bits, b| bits << 8 | u64::from(*b));
        std::array::from_fn(|n| ALPHABET[(bits >> (35 - 5 * n) & 31) as usize])
    }

    fn is_ours(&self, hash: &[u8], kind: u8, parts: &[&[u8]]) -> bool {
        let same = |secret: &Zeroizing<Vec<u8>>| {
            // Without a look at where they differ: nobody learns a hash from how long it takes.
            let right = Self::hash(secret, kind, parts);
            let differ = hash.iter().zip(right).fold(0, |d, (a, b)| d | (a.to_ascii_uppercase() ^ b));
            hash.len() == HASH && differ == 0
        };
        self.secrets.iter().any(same)
    }

    /// The sender in whose place mail of `sender` is forwarded on this day since the epoch; `None`: it stays,
    /// being empty, without a domain, or too long for a path.
    #[must_use]
    pub fn forward(&self, sender: &[u8], day: u64) -> Option<Box<[u8]>> {
        let (local, domain) = split(sender);
        let (local, quoted) = bare(local);
        if local.is_empty() || domain.is_empty() || domain.contains(&b'=') {
            return None;
        }
        let secret = &self.secrets[0];
        let one = |host: &[u8], rest: &[u8]| {
            let hash = Self::hash(secret, b'1', &[host, rest]);
            [b"SRS1", &[self.separator][..], &hash, b"=", host, b"=", rest].concat()
        };
        let of_others = behind(b"SRS1", local).and_then(parts::<3>);
        let of_others = of_others.filter(|[.., rest]| SEPARATORS.contains(&rest[0]));
        let written = if let Some([_, host, rest]) = of_others {
            // Mail that comes back goes to the first forwarder at once, not along all of them.
            one(host, rest)
        } else if behind(b"SRS0", local).is_some() {
            one(domain, &local[4..])
        } else {
            let day = [ALPHABET[((day % DAYS) >> 5) as usize], ALPHABET[(day % 32) as usize]];
            let hash = Self::hash(secret, b'0', &[&day, domain, local]);
            [b"SRS0", &[self.separator][..], &hash, b"=", &day, b"=", domain, b"=", local].concat()
        };
        let whole = address(&written, quoted, &self.domain);
        (whole.len() <= PATH_MAX).then_some(whole)
    }

    fn read_parts<'a>(&self, address: &'a [u8]) -> Option<(Option<Parts<'a>>, bool)> {
        let (local, domain) = split(address);
        if !domain.eq_ignore_ascii_case(&self.domain) {
            return None;
        }
        let (local, quoted) = bare(local);
        let parts = match (behind(b"SRS0", local), behind(b"SRS1", local)) {
            (Some(rest), _) => parts(rest).map(Parts::Zero),
            (None, Some(rest)) => parts(rest).map(Parts::One),
            (None, None) => return None,
        };
        Some((parts, quoted))
    }

    /// What `address` leads back to; `None`: it is none of these.
    #[must_use]
    pub fn read(&self, address: &[u8]) -> Option<Returned> {
        let (parts, quoted) = self.read_parts(address)?;
        Some(match parts {
            Some(Parts::Zero([hash, day, domain, local]))
                if self.is_ours(hash, b'0', &[day, domain, local]) =>
            {
                Returned::To(self::address(local, quoted, domain))
            }
            Some(Parts::One([hash, host, rest])) if self.is_ours(hash, b'1', &[host, rest]) => {
                Returned::To(self::address(&[b"SRS0", rest].concat(), quoted, host))
            }
            _ => Returned::Forged,
        })
    }

    /// True if `address` was written too long before this day. That of another forwarder has a day of his.
    #[must_use]
    pub fn is_old(&self, address: &[u8], today: u64) -> bool {
        let Some((Some(Parts::Zero([_, day, ..])), _)) = self.read_parts(address) else { return false };
        let [a, b] = day else { return true };
        let (Some(a), Some(b)) = (digit(*a), digit(*b)) else { return true };
        let age = (today % DAYS + DAYS - (a << 5 | b)) % DAYS;
        // A clock that was a day ahead when it was written does no harm.
        age > self.max_age && age != DAYS - 1
    }
}

impl Router {
    /// Mail that is forwarded to strangers gets other senders.
    pub fn set_srs(&mut self, srs: Option<Srs>) {
        self.srs = srs.map(std::sync::Arc::new);
    }

    /// The sender in whose place mail of `sender` is forwarded to `to` on this day since the epoch; `None`:
    /// it stays.
    #[must_use]
    pub fn forwarded(&self, sender: &[u8], to: &[u8], day: u64) -> Option<Box<[u8]>> {
        let srs = self.srs.as_ref()?;
        let here = |domain: &[u8]| {
            self.is_local(domain) || self.is_host(domain) || domain.eq_ignore_ascii_case(&srs.domain)
        };
        let (from, to) = (split(sender).1, split(to).1);
        // Customers' servers know from whom they get their mail.
        let stays = to.is_empty() || here(to) || self.is_relay(to) || here(from);
        if stays { None } else { srs.forward(sender, day) }
    }

    /// What an address that mail comes back to stands for; `None`: it is none of these.
    #[must_use]
    pub fn returned(&self, address: &[u8]) -> Option<Returned> {
        self.srs.as_ref()?.read(address)
    }

    /// True for such an address that is too old on this day since the epoch.
    pub fn is_expired(&self, address: &[u8], today: impl FnOnce() -> u64) -> bool {
        let Some(srs) = &self.srs else { return false };
        srs.read_parts(address).is_some() && srs.is_old(address, today())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 20_000;

    fn srs_with(text: &str) -> Srs {
        Srs::new("srs.home.example", b'=', 21, secrets(text.as_bytes()).unwrap())
    }

    fn srs() -> Srs {
        srs_with("0123456789abcdef\n")
    }

    fn text(address: Box<[u8]>) -> String {
        String::from_utf8(address.into()).unwrap()
    }

    fn forward(sender: &str) -> String {
        text(srs().forward(sender.as_bytes(), DAY).unwrap())
    }

    fn back(address: &str) -> Option<String> {
        match srs().read(address.as_bytes())? {
            Returned::To(to) => Some(text(to)),
            Returned::Forged => Some("forged".into()),
        }
    }

    #[test]
    fn what_is_written_leads_back() {
        for sender in [
            "joe@a.example",
            "Joe+x=y@A.example",
            "\"joe b\"@a.example",
            "SRS0@a.example",
            "SRS1=x@b.example",
        ] {
            let written = forward(sender);
            let begin = if sender.starts_with('"') { "\"SRS0=" } else { "SRS0=" };
            assert!(written.starts_with(begin) && written.ends_with("@srs.home.example"), "{written}");
            assert_eq!(back(&written).as_deref(), Some(sender));
            // Whoever writes it in other letters has the same address.
            let other = back(&written.to_ascii_lowercase()).unwrap();
            assert_eq!(other, sender.to_ascii_lowercase());
        }
        for sender in ["", "joe", "@a.example"] {
            assert_eq!(srs().forward(sender.as_bytes(), DAY), None, "{sender:?}");
        }
        assert_eq!(srs().forward(format!("{}@a.example", "x".repeat(230)).as_bytes(), DAY), None);
        let other = Srs { separator: b'+', ..srs() };
        let written = text(other.forward(b"joe@a.example", DAY).unwrap());
        assert!(written.starts_with("SRS0+"), "{written}");
        assert_eq!(back(&written).as_deref(), Some("joe@a.example"));
    }

    #[test]
    fn another_forwarders_address_leads_back_to_it() {
        // As others write it, with a hash and a day that say nothing to us.
        let first = "SRS0+x1Yz=2K=orig.example=joe@first.example";
        let second = forward(first);
        assert!(second.starts_with("SRS1="), "{second}");
        assert!(second.ends_with("=first.example=+x1Yz=2K=orig.example=joe@srs.home.example"), "{second}");
        assert_eq!(back(&second).as_deref(), Some(first));
        // A third one skips the second.
        let third = forward("SRS1=Abcd=first.example=+x1Yz=2K=orig.example=joe@second.example");
        assert_eq!(third, second);
        // Its day is not ours to read.
        assert!(!srs().is_old(second.as_bytes(), DAY + 500));
        // A foreign one at our domain was not written by us.
        let foreign = "SRS1=Abcd=first.example=+x1Yz=2K=orig.example=joe@srs.home.example";
        assert_eq!(back(foreign).as_deref(), Some("forged"));
    }

    #[test]
    fn what_we_have_not_written_leads_nowhere() {
        let written = forward("joe@a.example");
        for forged in [
            written.replace("joe", "jim"),
            written.replace("a.example", "b.example"),
            written.replacen("SRS0=", "SRS0=A", 1),
            format!("SRS0={}", &written[14..]),
            "SRS0=@srs.home.example".into(),
            "SRS0====@srs.home.example".into(),
            "SRS1=a=b@srs.home.example".into(),
            "SRS0=AAAAAAAA=AA=a.example=joe@srs.home.example".into(),
            // The kinds do not stand for each other.
            written.replacen("SRS0", "SRS1", 1),
        ] {
            assert_eq!(back(&forged).as_deref(), Some("forged"), "{forged}");
        }
        for other in
            ["joe@srs.home.example", "SRS0@srs.home.example", "srs0x@srs.home.example", "SRS0=a@b.example"]
        {
            assert_eq!(back(other), None, "{other}");
        }
    }

    #[test]
    fn old_ones_are_told_and_secrets_are_replaced() {
        for day in [DAY, DAY / 1024 * 1024, DAY / 1024 * 1024 - 1] {
            let written = srs().forward(b"joe@a.example", day).unwrap();
            let old = |after: u64| srs().is_old(&written, day + after);
            assert_eq!([0, 21, 22, 500, 1022].map(old), [false, false, true, true, true], "{day}");
            assert!(!srs().is_old(&written, day - 1), "a clock that was ahead");
        }
        assert!(srs().is_old(b"SRS0=AAAAAAAA=1=a.example=joe@srs.home.example", DAY));
        assert!(!srs().is_old(b"joe@srs.home.example", DAY));
        let written = srs().forward(b"joe@a.example", DAY).unwrap();
        let after = srs_with("# new\nfedcba9876543210\n\n0123456789abcdef\n");
        assert!(matches!(after.read(&written), Some(Returned::To(_))));
        let new = after.forward(b"joe@a.example", DAY).unwrap();
        assert!(new != written && srs().read(&new) == Some(Returned::Forged));
        assert_eq!(srs_with("fedcba9876543210").read(&written), Some(Returned::Forged));
        for bad in ["", "# 0123456789abcdef0123\n", "short\n", &"0123456789abcdef\n".repeat(17)] {
            assert!(secrets(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(!format!("{:?}", srs()).contains("0123"));
    }

    #[test]
    fn mail_of_strangers_to_strangers_is_rewritten() {
        let mut router = Router::new("mx.home.example");
        router.add_local("home.example");
        router.add_relay("cust.example");
        let forwarded =
            |r: &Router, from: &str, to: &str| r.forwarded(from.as_bytes(), to.as_bytes(), DAY).is_some();
        assert!(!forwarded(&router, "joe@a.example", "x@b.example"), "off");
        router.set_srs(Some(srs()));
        for (from, to, is) in [
            ("joe@a.example", "x@b.example", true),
            ("joe@cust.example", "x@b.example", true),
            ("joe@a.example", "x@HOME.example", false),
            ("joe@a.example", "x@cust.example", false),
            ("joe@a.example", "x", false),
            ("joe@home.example", "x@b.example", false),
            ("joe@mx.home.example", "x@b.example", false),
            ("SRS0=x@SRS.home.example", "x@b.example", false),
            ("", "x@b.example", false),
        ] {
            assert_eq!(forwarded(&router, from, to), is, "{from} {to}");
        }
        let written = router.forwarded(b"joe@a.example", b"x@b.example", DAY).unwrap();
        assert!(!router.is_expired(&written, || DAY) && router.is_expired(&written, || DAY + 30));
        assert!(!router.is_expired(b"joe@a.example", || unreachable!("the clock is not asked")));
    }

    proptest! {
        #[test]
        fn nothing_that_comes_makes_it_stumble(
            local in prop::collection::vec(any::<u8>(), 0..80),
            day in any::<u64>(),
        ) {
            for tag in [&b""[..], b"SRS0=", b"SRS1-", b"SRS0=AAAAAAAA=", b"\"SRS1="] {
                let address = [tag, &local, b"@srs.home.example"].concat();
                let read = srs().read(&address);
                prop_assert!(!matches!(read, Some(Returned::To(_))), "{:?}", address.escape_ascii());
                let _ = srs().is_old(&address, day);
            }
            let sender = [&local[..], b"@a.example"].concat();
            if let Some(written) = srs().forward(&sender, day % 100_000) {
                prop_assert_eq!(srs().read(&written), Some(Returned::To(sender.into())));
                prop_assert!(!srs().is_old(&written, day % 100_000));
            }
        }
    }
}
