//! ENVELOPE, BODY and BODYSTRUCTURE (RFC 9051 §7.5.2), from whatever knows the structure of a message.
//!
//! The structure comes through two small traits, so that nothing of a message is parsed here and
//! nothing is allocated. Where a message leaves something open, it is answered as Dovecot does: a
//! text without charset has `us-ascii`, a part without encoding `7bit`, a multipart without parts an
//! empty text. Nesting is bounded by whoever made the structure.

use super::{Wire, nstring, number, string};

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

/// Appends an ENVELOPE.
pub fn envelope<'a>(out: &mut Vec<u8>, envelope: &impl Envelope<'a>, wire: Wire) {
    out.push(b'(');
    nstring(out, envelope.date(), wire);
    out.push(b' ');
    nstring(out, envelope.subject(), wire);
    for field in [Field::From, Field::Sender, Field::ReplyTo, Field::To, Field::Cc, Field::Bcc] {
        out.push(b' ');
        addresses(out, envelope.addresses(field), wire);
    }
    out.push(b' ');
    nstring(out, envelope.in_reply_to(), wire);
    out.push(b' ');
    nstring(out, envelope.message_id(), wire);
    out.push(b')');
}

fn addresses<'a>(out: &mut Vec<u8>, list: impl Iterator<Item = Address<'a>>, wire: Wire) {
    let from = out.len();
    for address in list {
        out.extend_from_slice(if out.len() == from { b"((" } else { b"(" });
        for (i, text) in [address.name, address.route, address.mailbox, address.host].into_iter().enumerate()
        {
            if i > 0 {
                out.push(b' ');
            }
            nstring(out, text, wire);
        }
        out.push(b')');
    }
    out.extend_from_slice(if out.len() == from { b"NIL" } else { b")" });
}

/// Stands for a multipart without parts.
const EMPTY: &[u8] = b"(\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 0 0";

/// Appends BODYSTRUCTURE or, without `extended`, BODY.
pub fn structure<'a, P: Part<'a>>(out: &mut Vec<u8>, part: &P, extended: bool, wire: Wire) {
    if part.kind() == Kind::Multipart {
        multipart(out, part, extended, wire);
    } else {
        single(out, part, extended, wire);
    }
}

fn multipart<'a, P: Part<'a>>(out: &mut Vec<u8>, part: &P, extended: bool, wire: Wire) {
    out.push(b'(');
    let from = out.len();
    for child in part.children() {
        structure(out, &child, extended, wire);
    }
    if out.len() == from {
        out.extend_from_slice(EMPTY);
        out.extend_from_slice(if extended { b" NIL NIL NIL NIL)" } else { b")" });
    }
    out.push(b' ');
    string(out, part.media().1, wire);
    if extended {
        out.push(b' ');
        params(out, part.params(), false, wire);
        extension(out, part, wire);
    }
    out.push(b')');
}

fn single<'a, P: Part<'a>>(out: &mut Vec<u8>, part: &P, extended: bool, wire: Wire) {
    let (media, subtype) = part.media();
    out.push(b'(');
    string(out, media, wire);
    out.push(b' ');
    string(out, subtype, wire);
    out.push(b' ');
    params(out, part.params(), part.kind() == Kind::Text, wire);
    out.push(b' ');
    nstring(out, part.id(), wire);
    out.push(b' ');
    nstring(out, part.description(), wire);
    out.push(b' ');
    string(out, part.encoding().unwrap_or(b"7bit"), wire);
    out.push(b' ');
    number(out, part.size());
    let nested = (part.envelope(), part.children().next());
    match (part.kind(), nested) {
        (Kind::Message, (Some(inner), Some(body))) => {
            out.push(b' ');
            envelope(out, &inner, wire);
            out.push(b' ');
            structure(out, &body, extended, wire);
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
        extension(out, part, wire);
    }
    out.push(b')');
}

/// ` disposition language location`.
fn extension<'a, P: Part<'a>>(out: &mut Vec<u8>, part: &P, wire: Wire) {
    out.push(b' ');
    match part.disposition() {
        Some(kind) => {
            out.push(b'(');
            string(out, kind, wire);
            out.push(b' ');
            params(out, part.disposition_params(), false, wire);
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
}

/// `("name" "value" ...)` or NIL; `charset`: with the default of a text if it has none.
fn params<'a>(out: &mut Vec<u8>, list: impl Iterator<Item = Param<'a>>, charset: bool, wire: Wire) {
    let from = out.len();
    let mut missing = charset;
    let put = |out: &mut Vec<u8>, name: &[u8], value: &[u8]| {
        out.push(if out.len() == from { b'(' } else { b' ' });
        string(out, name, wire);
        out.push(b' ');
        string(out, value, wire);
    };
    for (name, value) in list {
        missing &= !name.eq_ignore_ascii_case(b"charset");
        put(out, name, value);
    }
    if missing {
        put(out, b"charset", b"us-ascii");
    }
    out.extend_from_slice(if out.len() == from { b"NIL" } else { b")" });
}
