//! Summaries of `message::mime` as `imap::encode::structure` wants to see them.

use crate::imap::encode::structure::{self, Address, Field, Kind, Param};
use crate::message::mime::{self, Addresses, Envelope, Part};

/// An envelope.
pub(super) struct EnvelopeOf<'a>(pub Envelope<'a>);

/// A part.
pub(super) struct PartOf<'a>(pub Part<'a>);

fn addresses(list: Addresses<'_>) -> impl Iterator<Item = Address<'_>> {
    list.map(|a| Address { name: a.name, route: a.route, mailbox: a.mailbox, host: a.host })
}

impl<'a> structure::Envelope<'a> for EnvelopeOf<'a> {
    fn date(&self) -> Option<&'a [u8]> {
        self.0.date
    }

    fn subject(&self) -> Option<&'a [u8]> {
        self.0.subject
    }

    fn addresses(&self, field: Field) -> impl Iterator<Item = Address<'a>> {
        addresses(match field {
            Field::From => self.0.from,
            Field::Sender => self.0.sender(),
            Field::ReplyTo => self.0.reply_to(),
            Field::To => self.0.to,
            Field::Cc => self.0.cc,
            Field::Bcc => self.0.bcc,
        })
    }

    fn in_reply_to(&self) -> Option<&'a [u8]> {
        self.0.in_reply_to
    }

    fn message_id(&self) -> Option<&'a [u8]> {
        self.0.message_id
    }
}

impl<'a> structure::Part<'a> for PartOf<'a> {
    type Envelope = EnvelopeOf<'a>;

    fn kind(&self) -> Kind {
        match self.0.kind {
            mime::Kind::Basic => Kind::Basic,
            mime::Kind::Text => Kind::Text,
            mime::Kind::Message => Kind::Message,
            mime::Kind::Multipart => Kind::Multipart,
        }
    }

    fn media(&self) -> (&'a [u8], &'a [u8]) {
        (self.0.media, self.0.subtype)
    }

    fn params(&self) -> impl Iterator<Item = Param<'a>> {
        self.0.params
    }

    fn id(&self) -> Option<&'a [u8]> {
        self.0.id
    }

    fn description(&self) -> Option<&'a [u8]> {
        self.0.description
    }

    fn encoding(&self) -> Option<&'a [u8]> {
        self.0.encoding
    }

    fn md5(&self) -> Option<&'a [u8]> {
        self.0.md5
    }

    fn disposition(&self) -> Option<&'a [u8]> {
        self.0.disposition.map(|d| d.kind)
    }

    fn disposition_params(&self) -> impl Iterator<Item = Param<'a>> {
        self.0.disposition.into_iter().flat_map(|d| d.params)
    }

    fn languages(&self) -> impl Iterator<Item = &'a [u8]> {
        self.0.language
    }

    fn location(&self) -> Option<&'a [u8]> {
        self.0.location
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn lines(&self) -> u64 {
        self.0.lines
    }

    fn envelope(&self) -> Option<EnvelopeOf<'a>> {
        self.0.envelope().copied().map(EnvelopeOf)
    }

    fn children(&self) -> impl Iterator<Item = Self> {
        self.0.children().map(PartOf)
    }
}
