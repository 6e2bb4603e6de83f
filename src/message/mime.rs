//! L1: what a mail program asks of a message before it reads it, worked out once, at delivery.
//!
//! [`Scanner`] goes over a message in one pass, piece by piece, and gives the bytes of a summary:
//! ENVELOPE, BODYSTRUCTURE with the place of every part, PREVIEW (RFC 9051 §7.5.2, RFC 8970).
//! [`Summary`] reads these bytes in place; nothing of it touches the message again. The format is
//! described in `docs/storage.md`.
//!
//! Any bytes are a message: nothing here fails or panics on them. Line ends are CRLF (what stores
//! messages sees to it). All is bounded: see the constants. Where the RFCs leave open what a broken
//! message means, it means what Dovecot takes it for, as far as that makes sense.

mod boundary;
mod code;
mod continued;
mod field;
mod list;
mod preview;
mod scan;
mod summary;
#[cfg(test)]
mod tests;
mod written;

pub use code::Damaged;
pub use field::parameters;
pub use scan::Scanner;
pub use summary::{
    Address, Addresses, Children, Disposition, Envelope, Kind, Params, Part, Strings, Summary,
};
pub use written::{Written, may_be_known};

/// Parts of a message; what follows the last of them belongs to it.
pub const PARTS_MAX: usize = 2000;
/// Parts within one another; deeper ones are not looked into.
pub const DEPTH_MAX: usize = 100;
/// Bytes of one field that are looked at, without its name.
pub const FIELD_MAX: usize = 128 << 10;
/// Bytes of fields in a summary; fields beyond are left out, and [`Summary::is_cut`] says so.
pub const TEXT_MAX: usize = 256 << 10;
/// Parameters of one field.
pub const PARAMS_MAX: usize = 64;
/// Longest boundary in bytes that is looked for (RFC 2046 §5.1.1 allows 70).
pub const BOUNDARY_MAX: usize = 200;
/// Longest preview in characters (RFC 8970 §3.2).
pub const PREVIEW_MAX: usize = 200;
