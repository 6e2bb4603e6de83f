//! Responses about mailboxes: LIST, LSUB, STATUS, NAMESPACE, FLAGS, QUOTA, ID (RFC 9051 §7.3; RFC 5258,
//! 6154, 8474, 9208, 2971).
//!
//! Names come in the encoding of the wire (modified UTF-7 or UTF-8), as the session has chosen it.

use super::{Wire, astring, flags, nstring, number, string};
use crate::imap::parse::flags::System;
use crate::imap::parse::mailbox::Uses;
use crate::imap::parse::status::Items;

/// Attributes of a name in LIST (RFC 9051 §7.3.1). A set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attributes(pub u8);

impl Attributes {
    /// `\NonExistent`: there is no such mailbox; means `\Noselect` too.
    pub const NON_EXISTENT: Attributes = Attributes(1);
    /// `\Noselect`: it cannot be selected.
    pub const NO_SELECT: Attributes = Attributes(2);
    /// `\Noinferiors`: nothing can be below it.
    pub const NO_INFERIORS: Attributes = Attributes(4);
    /// `\HasChildren`.
    pub const HAS_CHILDREN: Attributes = Attributes(8);
    /// `\HasNoChildren`.
    pub const HAS_NO_CHILDREN: Attributes = Attributes(16);
    /// `\Subscribed`.
    pub const SUBSCRIBED: Attributes = Attributes(32);
    /// `\Marked`.
    pub const MARKED: Attributes = Attributes(64);
    /// `\Unmarked`.
    pub const UNMARKED: Attributes = Attributes(128);

    const NAMES: [(Attributes, &'static str); 8] = [
        (Attributes::NON_EXISTENT, "\\NonExistent"),
        (Attributes::NO_SELECT, "\\Noselect"),
        (Attributes::NO_INFERIORS, "\\Noinferiors"),
        (Attributes::HAS_CHILDREN, "\\HasChildren"),
        (Attributes::HAS_NO_CHILDREN, "\\HasNoChildren"),
        (Attributes::SUBSCRIBED, "\\Subscribed"),
        (Attributes::MARKED, "\\Marked"),
        (Attributes::UNMARKED, "\\Unmarked"),
    ];

    /// Both together.
    #[must_use]
    pub fn with(self, other: Attributes) -> Attributes {
        Attributes(self.0 | other.0)
    }
}

/// A name of LIST or LSUB.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// What is said of it.
    pub attributes: Attributes,
    /// What it is for.
    pub uses: Uses,
    /// Its name.
    pub name: &'a [u8],
    /// A name below it is subscribed and is not listed itself (RFC 5258 §3.5).
    pub child_info: bool,
    /// By which name it was asked for, if that is another one (RFC 9051 §6.3.9.7).
    pub old_name: Option<&'a [u8]>,
}

/// Appends `* LIST` or, if `lsub`, `* LSUB`; the delimiter is `/`.
pub fn list(out: &mut Vec<u8>, lsub: bool, listed: &Listed<'_>, wire: Wire) {
    out.extend_from_slice(if lsub { b"* LSUB (" } else { b"* LIST (" });
    let set = |bits: u8, of: u8| bits & of != 0;
    let attributes = Attributes::NAMES.iter().filter(|(a, _)| set(listed.attributes.0, a.0)).map(|a| a.1);
    let uses = Uses::NAMES.iter().filter(|(u, _)| set(listed.uses.0, u.0)).map(|u| u.1);
    join(out, attributes.chain(uses));
    out.extend_from_slice(b") \"/\" ");
    astring(out, listed.name, wire);
    if listed.child_info || listed.old_name.is_some() {
        out.extend_from_slice(b" (");
        if listed.child_info {
            out.extend_from_slice(b"\"CHILDINFO\" (\"SUBSCRIBED\")");
        }
        if let Some(old) = listed.old_name {
            out.extend_from_slice(if listed.child_info { b" \"OLDNAME\" (" } else { b"\"OLDNAME\" (" });
            astring(out, old, wire);
            out.push(b')');
        }
        out.push(b')');
    }
    out.extend_from_slice(b"\r\n");
}

fn join<'a>(out: &mut Vec<u8>, names: impl Iterator<Item = &'a str>) {
    for (i, name) in names.enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(name.as_bytes());
    }
}

/// The answer to LIST with an empty pattern: the delimiter and the root.
pub fn delimiter(out: &mut Vec<u8>) {
    out.extend_from_slice(b"* LIST (\\Noselect) \"/\" \"\"\r\n");
}

/// What STATUS can say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters<'a> {
    /// Messages.
    pub messages: u32,
    /// With `\Recent`.
    pub recent: u32,
    /// The next UID.
    pub uid_next: u32,
    /// UIDVALIDITY.
    pub uid_validity: u32,
    /// Without `\Seen`.
    pub unseen: u32,
    /// With `\Deleted`.
    pub deleted: u32,
    /// Octets of all messages.
    pub size: u64,
    /// HIGHESTMODSEQ.
    pub highest_mod_seq: u64,
    /// The largest message it takes; none: no limit of its own.
    pub append_limit: Option<u64>,
    /// Its object id.
    pub mailbox_id: &'a [u8],
    /// Octets of the messages with `\Deleted`.
    pub deleted_storage: u64,
}

/// Appends `* STATUS` with the items asked for.
pub fn status(out: &mut Vec<u8>, name: &[u8], items: Items, counters: &Counters<'_>, wire: Wire) {
    out.extend_from_slice(b"* STATUS ");
    astring(out, name, wire);
    out.extend_from_slice(b" (");
    let from = out.len();
    for (item, name) in Items::NAMES.iter().filter(|(item, _)| items.has(*item)) {
        if out.len() > from {
            out.push(b' ');
        }
        out.extend_from_slice(name.as_bytes());
        out.push(b' ');
        let n = match *item {
            Items::MESSAGES => u64::from(counters.messages),
            Items::RECENT => u64::from(counters.recent),
            Items::UIDNEXT => u64::from(counters.uid_next),
            Items::UIDVALIDITY => u64::from(counters.uid_validity),
            Items::UNSEEN => u64::from(counters.unseen),
            Items::DELETED => u64::from(counters.deleted),
            Items::SIZE => counters.size,
            Items::HIGHESTMODSEQ => counters.highest_mod_seq,
            Items::DELETED_STORAGE => counters.deleted_storage,
            Items::MAILBOXID => {
                out.push(b'(');
                out.extend_from_slice(counters.mailbox_id);
                out.push(b')');
                continue;
            }
            _ => match counters.append_limit {
                Some(limit) => limit,
                None => {
                    out.extend_from_slice(b"NIL");
                    continue;
                }
            },
        };
        number(out, n);
    }
    out.extend_from_slice(b")\r\n");
}

/// Appends `* FLAGS`.
pub fn flags_line<'a>(out: &mut Vec<u8>, system: System, keywords: impl IntoIterator<Item = &'a [u8]>) {
    out.extend_from_slice(b"* FLAGS ");
    flags(out, system, keywords);
    out.extend_from_slice(b"\r\n");
}

/// Appends `* NAMESPACE`: one of the user's own, with `/`, and no others (RFC 2342 §5).
pub fn namespace(out: &mut Vec<u8>) {
    out.extend_from_slice(b"* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n");
}

/// Appends `* QUOTA` (RFC 9208 §5.1): resources with usage and limit.
pub fn quota(out: &mut Vec<u8>, root: &[u8], resources: &[(&str, u64, u64)], wire: Wire) {
    out.extend_from_slice(b"* QUOTA ");
    astring(out, root, wire);
    out.extend_from_slice(b" (");
    for (i, (name, usage, limit)) in resources.iter().enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(name.as_bytes());
        out.push(b' ');
        number(out, *usage);
        out.push(b' ');
        number(out, *limit);
    }
    out.extend_from_slice(b")\r\n");
}

/// Appends `* QUOTAROOT` (RFC 9208 §5.2).
pub fn quota_root(out: &mut Vec<u8>, mailbox: &[u8], roots: &[&[u8]], wire: Wire) {
    out.extend_from_slice(b"* QUOTAROOT ");
    astring(out, mailbox, wire);
    for root in roots {
        out.push(b' ');
        astring(out, root, wire);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `* ID` (RFC 2971 §3.2).
pub fn id(out: &mut Vec<u8>, fields: &[(&str, Option<&str>)]) {
    out.extend_from_slice(b"* ID ");
    if fields.is_empty() {
        out.extend_from_slice(b"NIL");
    }
    for (i, (name, value)) in fields.iter().enumerate() {
        out.push(if i == 0 { b'(' } else { b' ' });
        string(out, name.as_bytes(), Wire::Ascii);
        out.push(b' ');
        nstring(out, value.map(str::as_bytes), Wire::Ascii);
    }
    out.extend_from_slice(if fields.is_empty() { b"\r\n" } else { b")\r\n" });
}
