//! The envelope of a message: sender, recipients and their DSN parameters.
//!
//! [`Envelope`] is built command by command and *is* its stored form, so that making it durable
//! is one copy. [`EnvelopeView`] reads that form from any bytes and refuses bad ones; it never
//! panics on them. Addresses are bytes without angle brackets and source route, case untouched.
//!
//! Form (little endian): `version u8 = 1, flags u8, sender u16+bytes, envid u16+bytes,
//! count u32`, then per recipient `notify u8, address u16+bytes, orcpt u16+bytes`.

use std::fmt;

/// BODY= of MAIL (RFC 6152, RFC 3030).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BodyKind {
    /// 7BIT or not given.
    #[default]
    SevenBit,
    /// 8BITMIME.
    EightBitMime,
}

/// RET= of MAIL (RFC 3461 §4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    /// Return the whole message.
    Full,
    /// Return the headers only.
    Headers,
}

/// Parameters of MAIL that are kept with the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SenderOptions {
    /// BODY=.
    pub body: BodyKind,
    /// SMTPUTF8 was given (RFC 6531).
    pub smtputf8: bool,
    /// RET=, if given.
    pub ret: Option<Ret>,
}

/// NOTIFY= of RCPT as a bit set (RFC 3461 §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Notify(pub u8);

impl Notify {
    /// Nothing given: failure, and delay at our choice.
    pub const DEFAULT: Notify = Notify(0);
    /// NEVER.
    pub const NEVER: Notify = Notify(1);
    /// SUCCESS.
    pub const SUCCESS: Notify = Notify(2);
    /// FAILURE.
    pub const FAILURE: Notify = Notify(4);
    /// DELAY.
    pub const DELAY: Notify = Notify(8);
    /// Not a keyword: the address stands for others in the same envelope. Nothing is sent to it; the
    /// sender wants to know that (RFC 3464 §2.3.3, "expanded").
    pub const EXPANDED: Notify = Notify(16);

    /// True if all bits of `other` are set.
    #[must_use]
    pub fn has(self, other: Notify) -> bool {
        self.0 & other.0 == other.0 && other.0 != 0
    }

    /// Without the bits of `other`.
    #[must_use]
    pub fn without(self, other: Notify) -> Notify {
        Notify(self.0 & !other.0)
    }

    /// True if a failure is to be reported: FAILURE, or nothing said.
    #[must_use]
    pub fn on_failure(self) -> bool {
        self == Self::DEFAULT || self.has(Self::FAILURE)
    }
}

/// One recipient as read from a stored envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recipient<'a> {
    /// The address: local part, `@`, domain.
    pub address: &'a [u8],
    /// NOTIFY=.
    pub notify: Notify,
    /// ORCPT= as given (`rfc822;xtext`), empty if not.
    pub orcpt: &'a [u8],
}

/// An envelope that is being built; reused from transaction to transaction.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    bytes: Vec<u8>,
    count_at: usize,
    last_at: usize,
}

impl Default for Envelope {
    fn default() -> Self {
        let mut e = Envelope { bytes: Vec::new(), count_at: 0, last_at: 0 };
        e.begin(b"", SenderOptions::default(), b"");
        e
    }
}

impl Envelope {
    /// The greatest length of an address or parameter in bytes.
    pub const FIELD_MAX: usize = u16::MAX as usize;

    /// Starts anew with a sender (empty: the null sender). Panics above [`Self::FIELD_MAX`].
    pub fn begin(&mut self, sender: &[u8], options: SenderOptions, envid: &[u8]) {
        self.bytes.clear();
        let mut flags = 0u8;
        flags |= u8::from(options.body == BodyKind::EightBitMime);
        flags |= u8::from(options.smtputf8) << 1;
        flags |= match options.ret {
            None => 0,
            Some(Ret::Full) => 1 << 2,
            Some(Ret::Headers) => 2 << 2,
        };
        self.bytes.extend_from_slice(&[1, flags]);
        put(&mut self.bytes, sender);
        put(&mut self.bytes, envid);
        self.count_at = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_le_bytes());
        self.last_at = self.bytes.len();
    }

    /// Adds a recipient. Panics above [`Self::FIELD_MAX`].
    pub fn push(&mut self, address: &[u8], notify: Notify, orcpt: &[u8]) {
        self.last_at = self.bytes.len();
        self.bytes.push(notify.0);
        put(&mut self.bytes, address);
        put(&mut self.bytes, orcpt);
        self.set_count(self.count() + 1);
    }

    /// Takes back the recipient that was added last (it was refused). Only once after a push.
    pub fn pop(&mut self) {
        assert!(self.last_at < self.bytes.len(), "no recipient to take back");
        self.bytes.truncate(self.last_at);
        self.set_count(self.count() - 1);
    }

    /// Number of recipients.
    #[must_use]
    pub fn count(&self) -> u32 {
        let b = &self.bytes[self.count_at..self.count_at + 4];
        u32::from_le_bytes(b.try_into().expect("four bytes"))
    }

    /// The stored form.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// This envelope as a view.
    #[must_use]
    pub fn view(&self) -> EnvelopeView<'_> {
        EnvelopeView::parse(&self.bytes).expect("an envelope is its own stored form").0
    }

    /// The recipient that was added last.
    #[must_use]
    pub fn last(&self) -> Option<Recipient<'_>> {
        let mut rest = self.bytes.get(self.last_at..)?;
        recipient(&mut rest)
    }

    fn set_count(&mut self, n: u32) {
        self.bytes[self.count_at..self.count_at + 4].copy_from_slice(&n.to_le_bytes());
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

/// A stored envelope, read in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeView<'a> {
    sender: &'a [u8],
    envid: &'a [u8],
    options: SenderOptions,
    count: u32,
    recipients: &'a [u8],
}

impl<'a> EnvelopeView<'a> {
    /// Reads a stored envelope from the start of `bytes`; also gives its length.
    /// `None` if the bytes are not one.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let mut rest = bytes;
        let [version, flags] = *take(&mut rest, 2)? else { return None };
        if version != 1 || flags >> 4 != 0 {
            return None;
        }
        let ret = match flags >> 2 & 3 {
            0 => None,
            1 => Some(Ret::Full),
            2 => Some(Ret::Headers),
            _ => return None,
        };
        let body = if flags & 1 != 0 { BodyKind::EightBitMime } else { BodyKind::SevenBit };
        let options = SenderOptions { body, smtputf8: flags & 2 != 0, ret };
        let sender = field(&mut rest)?;
        let envid = field(&mut rest)?;
        let count = u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?);
        let recipients = rest;
        for _ in 0..count {
            recipient(&mut rest)?;
        }
        let used = bytes.len() - rest.len();
        let recipients = &recipients[..recipients.len() - rest.len()];
        Some((EnvelopeView { sender, envid, options, count, recipients }, used))
    }

    /// The reverse path without brackets; empty for the null sender.
    #[must_use]
    pub fn sender(&self) -> &'a [u8] {
        self.sender
    }

    /// ENVID= as given (xtext), empty if not.
    #[must_use]
    pub fn envid(&self) -> &'a [u8] {
        self.envid
    }

    /// The kept parameters of MAIL.
    #[must_use]
    pub fn options(&self) -> SenderOptions {
        self.options
    }

    /// Number of recipients.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The recipients in order.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient<'a>> + use<'a> {
        let mut rest = self.recipients;
        std::iter::from_fn(move || if rest.is_empty() { None } else { recipient(&mut rest) })
    }
}

impl fmt::Debug for EnvelopeView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.sender.escape_ascii())?;
        for r in self.recipients() {
            write!(f, " -> <{}>", r.address.escape_ascii())?;
        }
        Ok(())
    }
}

fn put(out: &mut Vec<u8>, field: &[u8]) {
    let len = u16::try_from(field.len()).expect("fields are bounded by the command line");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(field);
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(n)?;
    *rest = tail;
    Some(head)
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u16::from_le_bytes(take(rest, 2)?.try_into().ok()?);
    take(rest, usize::from(len))
}

fn recipient<'a>(rest: &mut &'a [u8]) -> Option<Recipient<'a>> {
    let notify = Notify(take(rest, 1)?[0]);
    let address = field(rest)?;
    let orcpt = field(rest)?;
    Some(Recipient { address, notify, orcpt })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_and_reads_back() {
        let mut e = Envelope::default();
        let options = SenderOptions { body: BodyKind::EightBitMime, smtputf8: true, ret: Some(Ret::Headers) };
        e.begin(b"a@b.example", options, b"x+2By");
        e.push(b"c@d.example", Notify::NEVER, b"");
        e.push(b"no@where.example", Notify::DEFAULT, b"");
        e.pop();
        e.push(b"e@f.example", Notify(6), b"rfc822;e@f.example");
        let (v, used) = EnvelopeView::parse(e.bytes()).unwrap();
        assert_eq!(used, e.bytes().len());
        assert_eq!(
            (v.sender(), v.envid(), v.options(), v.count()),
            (&b"a@b.example"[..], &b"x+2By"[..], options, 2)
        );
        let r: Vec<_> = v.recipients().collect();
        assert_eq!(r[0].address, b"c@d.example");
        assert!(r[1].notify.on_failure() && r[1].notify.has(Notify::SUCCESS) && !r[0].notify.on_failure());
        for cut in 0..e.bytes().len() {
            assert!(EnvelopeView::parse(&e.bytes()[..cut]).is_none(), "cut at {cut}");
        }
        e.begin(b"", SenderOptions::default(), b"");
        assert_eq!(e.count(), 0);
        assert!(e.last().is_none());
    }
}
