//! L2: the client side of the milter protocol, version 6 (Sendmail 8.14 and later), without IO.
//!
//! `wire` has the packets, `client` the dialogue with one filter, `header` the header of a message while
//! filters change it, `macros` what a filter wants to be told besides. None of it knows sockets, time,
//! configuration or sessions. What a filter sends is bounded and checked before it is believed; what breaks
//! a rule is a [`Fault`], after which the connection is of no use.

pub mod client;
pub mod header;
mod macros;
pub mod wire;

pub use client::{Answer, Client, Rejection, Stage, Step};
pub use header::{Change, Header};

/// What is wrong with what a filter has sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A packet without bytes, or longer than any may be.
    Length,
    /// A packet that is not in the form of its kind.
    Form,
    /// A packet of a kind that is not known, or has no place where it came.
    Unexpected,
    /// Another version of the protocol, or demands that were not offered.
    Version,
    /// A change that the filter has not said it would make.
    NotAgreed,
    /// More changes than are allowed, or larger ones.
    TooMuch,
    /// An address that is none.
    Address,
    /// A header field that is none.
    Field,
    /// A reply code that is none.
    Code,
    /// The filter is being shut down, or says that it cannot serve this connection.
    Refuses,
}

impl Fault {
    /// In words, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Fault::Length => "a packet of an impossible length",
            Fault::Form => "a malformed packet",
            Fault::Unexpected => "a reply that does not belong here",
            Fault::Version => "a protocol version or options that were not offered",
            Fault::NotAgreed => "a change that was not negotiated",
            Fault::TooMuch => "too many or too large changes",
            Fault::Address => "an address that is none",
            Fault::Field => "a header field that is none",
            Fault::Code => "a reply code that is none",
            Fault::Refuses => "it does not serve this connection",
        }
    }
}
