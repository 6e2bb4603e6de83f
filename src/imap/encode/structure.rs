//! ENVELOPE, BODY and BODYSTRUCTURE (RFC 9051 §7.5.2), from whatever knows the structure of a message.
//!
//! The structure comes through two small traits, so that nothing of a message is parsed here and
//! nothing is allocated. Where a message leaves something open, it is answered as Dovecot does: a
//! text without charset has `us-ascii`, a part without encoding `7bit`, a multipart without parts an
//! empty text. Nesting is bounded by whoever made the structure.

use super::{Wire, nstring, number, string, surrogate};

/// An address of ENVELOPE, or the begin or the end of a group (then without host).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Address<'a> {
    /// Display name.
    pub name: Option<&'a [u8]>,
    /// Source route (obsolete).
    pub route: Option<&'a [u8]>,
    /// Local part; name of a group at its begin; none at its end.
    pub mailbox: Option<&'a [u8]>,
    /// Domain.
    pub host: Option<&'a [u8]>,
}

/// Which addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// From.
    From,
    /// Sender; From if there is none.
    Sender,
    /// Reply-To; From if there is none.
    ReplyTo,
    /// To.
    To,
    /// Cc.
    Cc,
    /// Bcc.
    Bcc,
}

/// What ENVELOPE shows.
pub trait Envelope<'a> {
    /// Date, as it is written.
    fn date(&self) -> Option<&'a [u8]>;
    /// Subject.
    fn subject(&self) -> Option<&'a [u8]>;
    /// Addresses of a field.
    fn addresses(&self, field: Field) -> impl Iterator<Item = Address<'a>>;
    /// In-Reply-To.
    fn in_reply_to(&self) -> Option<&'a [u8]>;
    /// Message-ID.
    fn message_id(&self) -> Option<&'a [u8]>;
}

/// How a part is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// None of the others.
    Basic,
    /// text/...
    Text,
    /// message/rfc822 or message/global: has an envelope and one child.
    Message,
    /// multipart/...
    Multipart,
}

/// A parameter: name and value.
pub type Param<'a> = (&'a [u8], &'a [u8]);

/// What BODYSTRUCTURE shows of a part.
pub trait Part<'a>: Sized {
    /// Its envelope's type.
    type Envelope: Envelope<'a>;

    /// How it is built.
    fn kind(&self) -> Kind;
    /// Type and subtype.
    fn media(&self) -> (&'a [u8], &'a [u8]);
    /// Parameters of Content-Type.
    fn params(&self) -> impl Iterator<Item = Param<'a>>;
    /// Content-ID.
    fn id(&self) -> Option<&'a [u8]>;
    /// Content-Description.
    fn description(&self) -> Option<&'a [u8]>;
    /// Content-Transfer-Encoding.
    fn encoding(&self) -> Option<&'a [u8]>;
    /// Content-MD5.
    fn md5(&self) -> Option<&'a [u8]>;
    /// Content-Disposition without its parameters.
    fn disposition(&self) -> Option<&'a [u8]>;
    /// Its parameters.
    fn disposition_params(&self) -> impl Iterator<Item = Param<'a>>;
    /// Content-Language.
    fn languages(&self) -> impl Iterator<Item = &'a [u8]>;
    /// Content-Location.
    fn location(&self) -> Option<&'a [u8]>;
    /// Octets of the body.
    fn size(&self) -> u64;
    /// Lines of the body.
    fn lines(&self) -> u64;
    /// Envelope of the message within.
    fn envelope(&self) -> Option<Self::Envelope>;
    /// Parts directly within.
    fn children(&self) -> impl Iterator<Item = Self>;
}

/// Appends a text or a name: for clients that take no UTF-8, as encoded words. True if they were needed.
fn text(out: &mut Vec<u8>, text: Option<&[u8]>, wire: Wire) -> bool {
    match text {
        Some(text) if wire == Wire::Ascii && surrogate::is_needed(text) => {
            string(out, &surrogate::words(text), wire);
            true
        }
        _ => {
            nstring(out, text, wire);
            false
        }
    }
}

/// Appends an ENVELOPE. True if something is shown otherwise than it is written ([`surrogate`]).
pub fn envelope<'a>(out: &mut Vec<u8>, envelope: &impl Envelope<'a>, wire: Wire) -> bool {
    out.push(b'(');
    nstring(out, envelope.date(), wire);
    out.push(b' ');
    let mut other = text(out, envelope.subject(), wire);
    for field in [Field::From, Field::Sender, Field::ReplyTo, Field::To, Field::Cc, Field::Bcc] {
        out.push(b' ');
        other |= addresses(out, envelope.addresses(field), wire);
    }
    out.push(b' ');
    nstring(out, envelope.in_reply_to(), wire);
    out.push(b' ');
    nstring(out, envelope.message_id(), wire);
    out.push(b')');
    other
}

fn addresses<'a>(out: &mut Vec<u8>, list: impl Iterator<Item = Address<'a>>, wire: Wire) -> bool {
    let from = out.len();
    let mut other = false;
    for address in list {
        out.extend_from_slice(if out.len() == from { b"((" } else { b"(" });
        let Address { name, route, mailbox, host } = address;
        match (mailbox, host) {
            (Some(local), Some(domain)) if wire == Wire::Ascii && is_utf8_only(local, domain) => {
                // RFC 6858 §2.1: an address that nobody has, and all that is known as its name.
                string(out, &surrogate::name_of(name, local, domain), wire);
                out.extend_from_slice(b" NIL ");
                string(out, surrogate::NOWHERE.0, wire);
                out.push(b' ');
                string(out, surrogate::NOWHERE.1, wire);
                other = true;
            }
            _ => {
                other |= text(out, name, wire);
                out.push(b' ');
                nstring(out, route, wire);
                out.push(b' ');
                // The name of a group is text.
                match host {
                    None => other |= text(out, mailbox, wire),
                    Some(_) => nstring(out, mailbox, wire),
                }
                out.push(b' ');
                nstring(out, host, wire);
            }
        }
        out.push(b')');
    }
    out.extend_from_slice(if out.len() == from { b"NIL" } else { b")" });
    other
}

fn is_utf8_only(local: &[u8], domain: &[u8]) -> bool {
    let utf8 = |text: &[u8]| text.is_ascii() || surrogate::is_needed(text);
    (!local.is_ascii() || !domain.is_ascii()) && utf8(local) && utf8(domain)
}

/// Stands for a multipart without parts.
const EMPTY: &[u8] = b"(\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 0 0";

/// Appends BODYSTRUCTURE or, without `extended`, BODY. True as that of [`envelope`].
pub fn structure<'a, P: Part<'a>>(out: &mut Vec<u8>, part: &P, extended: bool, wire: Wire) -> bool {
    if part.kind() == Kind::Multipart {
        multipart(out, part, extended, wire)
    } else {
        single(out, part, extended, wire)
    }
}

fn multipart<'a, P: Part<'a>>(out: &mut Vec<u8>, part: &P, extended: bool, wire: Wire) -> bool {
    out.push(b'(');
    let from = out.len();
    let mut other = false;
    for child in part.children() {
        other |= structure(out, &child, extended, wire);
    }
    if out.len() == from {
        out.extend_from_slice(EMPTY);
        out.extend_from_slice(if extended { b" NIL NIL NIL NIL)" } else { b")" });
    }
    out.push(b' ');
    string(out, part.media().1, wire);
    if extended {
        out.push(b' ');
        other |= params(out, part.params(), false, wire);
        other |= extension(out, part, wire);
    }
    out.push(b')');
    other
}

fn single<'a, P: Part<'a>>(out: &mut Vec<u8>, part: &P, extended: bool, wire: Wire) -> bool {
    let (media, subtype) = part.media();
    out.push(b'(');
    string(out, media, wire);
    out.push(b' ');
    string(out, subtype, wire);
    out.push(b' ');
    let mut other = params(out, part.params(), part.kind() == Kind::Text, wire);
    out.push(b' ');
    nstring(out, part.id(), wire);
    out.push(b' ');
    other |= text(out, part.description(), wire);
    out.push(b' ');
    string(out, part.encoding().unwrap_or(b"7bit"), wire);
    out.push(b' ');
    number(out, part.size());
    let nested = (part.envelope(), part.children().next());
    match (part.kind(), nested) {
        (Kind::Message, (Some(inner), Some(body))) => {
            out.push(b' ');
            other |= envelope(out, &inner, wire);
            out.push(b' ');
            other |= structure(out, &body, extended, wire);
            out.push(b' ');
            number(out, part.lines());
        }
        (Kind::Text | Kind::Message, _) => {
            out.push(b' ');
            number(out, part.lines());
        }
        _ => {}
    }
    if extended {
        out.push(b' ');
        nstring(out, part.md5(), wire);
        other |= extension(out, part, wire);
    }
    out.push(b')');
    other
}

/// ` disposition language location`.
fn extension<'a, P: Part<'a>>(out: &mut Vec<u8>, part: &P, wire: Wire) -> bool {
    let mut other = false;
    out.push(b' ');
    match part.disposition() {
        Some(kind) => {
            out.push(b'(');
            string(out, kind, wire);
            out.push(b' ');
            other |= params(out, part.disposition_params(), false, wire);
            out.push(b')');
        }
        None => out.extend_from_slice(b"NIL"),
    }
    out.push(b' ');
    let from = out.len();
    for language in part.languages() {
        out.push(if out.len() == from { b'(' } else { b' ' });
        string(out, language, wire);
    }
    out.extend_from_slice(if out.len() == from { b"NIL" } else { b")" });
    out.push(b' ');
    nstring(out, part.location(), wire);
    other
}

/// `("name" "value" ...)` or NIL; `charset`: with the default of a text if it has none.
fn params<'a>(out: &mut Vec<u8>, list: impl Iterator<Item = Param<'a>>, charset: bool, wire: Wire) -> bool {
    let from = out.len();
    let mut other = false;
    let mut missing = charset;
    let put = |out: &mut Vec<u8>, name: &[u8], value: &[u8]| {
        out.push(if out.len() == from { b'(' } else { b' ' });
        string(out, name, wire);
        out.push(b' ');
        string(out, value, wire);
    };
    for (name, value) in list {
        missing &= !name.eq_ignore_ascii_case(b"charset");
        match surrogate::parameter(name, value).filter(|_| wire == Wire::Ascii) {
            Some((name, value)) => {
                put(out, &name, &value);
                other = true;
            }
            None => put(out, name, value),
        }
    }
    if missing {
        put(out, b"charset", b"us-ascii");
    }
    out.extend_from_slice(if out.len() == from { b"NIL" } else { b")" });
    other
}
