//! One command, read in place (RFC 9051 §6 and §9, RFC 3501, and the extensions each file names).
//!
//! [`parse`] takes the whole text of a command without its last CRLF, literals in place, and borrows
//! from it. One file per command or family; each owns the types of its arguments. It knows no session:
//! order, permissions and whether an extension was enabled are the session's. Every error is a
//! [`Bad`] that says what was expected and where.

pub mod access;
pub mod append;
pub mod auth;
pub mod copy;
pub mod date;
pub mod fetch;
pub mod flags;
pub mod input;
pub mod list;
pub mod mailbox;
pub mod quota;
pub mod search;
pub mod select;
pub mod session;
pub mod sort;
pub mod status;
pub mod store;

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod quirk_tests;
#[cfg(test)]
mod tests;

pub use input::{Bad, Parsed, Str};

use crate::imap::set::SeqSet;
use input::{Input, capitals};
use mailbox::Mailbox;

/// Parentheses within one another: what no client needs is refused before it costs anything.
pub const DEPTH_MAX: usize = 32;

/// The longest tag in bytes. It is repeated in replies.
pub const TAG_MAX: usize = 128;

/// A command and its tag.
#[derive(Clone, PartialEq, Debug)]
pub struct Command<'a> {
    /// The tag, as it is repeated in the reply.
    pub tag: &'a [u8],
    /// What is asked.
    pub verb: Verb<'a>,
}

/// Which messages a command is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Messages {
    /// These numbers; message sequence numbers or UIDs as the command says.
    Set(SeqSet),
    /// `$`: the saved result of SEARCH (RFC 5182).
    Saved,
}

/// What is asked.
#[derive(Clone, PartialEq, Debug)]
pub enum Verb<'a> {
    /// CAPABILITY.
    Capability,
    /// NOOP.
    Noop,
    /// LOGOUT.
    Logout,
    /// STARTTLS.
    StartTls,
    /// AUTHENTICATE.
    Authenticate(auth::Authenticate<'a>),
    /// LOGIN.
    Login(auth::Login<'a>),
    /// UNAUTHENTICATE (RFC 8437).
    Unauthenticate,
    /// ENABLE (RFC 5161).
    Enable(session::Enable<'a>),
    /// ID (RFC 2971).
    Id(session::Id<'a>),
    /// COMPRESS DEFLATE (RFC 4978).
    Compress,
    /// IDLE (RFC 2177).
    Idle,
    /// NAMESPACE (RFC 2342).
    Namespace,
    /// SELECT.
    Select(select::Select<'a>),
    /// EXAMINE.
    Examine(select::Select<'a>),
    /// CREATE.
    Create(mailbox::Create<'a>),
    /// DELETE.
    Delete(Mailbox<'a>),
    /// RENAME.
    Rename {
        /// The mailbox.
        from: Mailbox<'a>,
        /// Its new name.
        to: Mailbox<'a>,
    },
    /// SUBSCRIBE.
    Subscribe(Mailbox<'a>),
    /// UNSUBSCRIBE.
    Unsubscribe(Mailbox<'a>),
    /// LIST.
    List(list::List<'a>),
    /// LSUB.
    Lsub(list::Lsub<'a>),
    /// STATUS.
    Status(status::Status<'a>),
    /// APPEND, up to the first message; see [`append`].
    Append(append::Append<'a>),
    /// REPLACE and UID REPLACE (RFC 8508), up to the message.
    Replace(append::Replace<'a>),
    /// CHECK (RFC 3501 §6.4.1).
    Check,
    /// CLOSE.
    Close,
    /// UNSELECT.
    Unselect,
    /// EXPUNGE; UID EXPUNGE (RFC 4315) with its UIDs.
    Expunge(Option<Messages>),
    /// SEARCH and UID SEARCH.
    Search(search::Search<'a>),
    /// SORT and UID SORT (RFC 5256).
    Sort(sort::Sort<'a>),
    /// THREAD and UID THREAD (RFC 5256).
    Thread(sort::Thread<'a>),
    /// FETCH and UID FETCH.
    Fetch(fetch::Fetch<'a>),
    /// STORE and UID STORE.
    Store(store::Store<'a>),
    /// COPY and UID COPY.
    Copy(copy::Copy<'a>),
    /// MOVE and UID MOVE (RFC 6851).
    Move(copy::Copy<'a>),
    /// GETQUOTA (RFC 9208).
    GetQuota(Str<'a>),
    /// GETQUOTAROOT (RFC 9208).
    GetQuotaRoot(Mailbox<'a>),
    /// SETQUOTA (RFC 9208).
    SetQuota(quota::SetQuota<'a>),
}

/// Reads the text of a command, without its last CRLF.
///
/// # Errors
/// [`Bad`]; the tag to answer with is [`tag`] of the same text.
pub fn parse(text: &[u8]) -> Parsed<Command<'_>> {
    let mut input = Input::new(text);
    let tag = input.tag()?;
    if tag.len() > TAG_MAX {
        return input.bad_at(0, "a tag of at most 128 characters");
    }
    input.space("a command after the tag")?;
    let verb = verb(&mut input)?;
    Ok(Command { tag, verb })
}

/// The tag with which to answer `text`, whatever else is wrong with it; `*` if it has none.
#[must_use]
pub fn tag(text: &[u8]) -> &[u8] {
    match Input::new(text).tag() {
        Ok(tag) if tag.len() <= TAG_MAX && matches!(text.get(tag.len()), None | Some(b' ')) => tag,
        _ => b"*",
    }
}

const UNKNOWN: &str = "a command that this server knows";

fn verb<'a>(input: &mut Input<'a>) -> Parsed<Verb<'a>> {
    let from = input.at();
    let mut space = [0; 24];
    match capitals(input.word(), &mut space) {
        b"UID" => {
            input.space("FETCH, STORE, SEARCH or another command after UID")?;
            with_numbers(input, true)
        }
        b"NOOP" => alone(input, Verb::Noop),
        b"IDLE" => alone(input, Verb::Idle),
        b"SELECT" => select::select(input).map(Verb::Select),
        b"EXAMINE" => select::select(input).map(Verb::Examine),
        b"STATUS" => status::status(input).map(Verb::Status),
        b"APPEND" => append::append(input).map(Verb::Append),
        b"LIST" => list::list(input).map(Verb::List),
        b"LSUB" => list::lsub(input).map(Verb::Lsub),
        b"CLOSE" => alone(input, Verb::Close),
        b"UNSELECT" => alone(input, Verb::Unselect),
        b"CHECK" => alone(input, Verb::Check),
        b"CREATE" => mailbox::create(input).map(Verb::Create),
        b"DELETE" => mailbox::one(input).map(Verb::Delete),
        b"RENAME" => mailbox::two(input).map(|(from, to)| Verb::Rename { from, to }),
        b"SUBSCRIBE" => mailbox::one(input).map(Verb::Subscribe),
        b"UNSUBSCRIBE" => mailbox::one(input).map(Verb::Unsubscribe),
        b"NAMESPACE" => alone(input, Verb::Namespace),
        b"GETQUOTA" => quota::get(input).map(Verb::GetQuota),
        b"GETQUOTAROOT" => mailbox::one(input).map(Verb::GetQuotaRoot),
        b"SETQUOTA" => quota::set(input).map(Verb::SetQuota),
        _ => {
            input.seek(from);
            access::verb(input).unwrap_or_else(|| with_numbers(input, false))
        }
    }
}

/// The commands that exist with and without UID.
fn with_numbers<'a>(input: &mut Input<'a>, uid: bool) -> Parsed<Verb<'a>> {
    let from = input.at();
    let mut space = [0; 24];
    match capitals(input.word(), &mut space) {
        b"FETCH" => fetch::fetch(input, uid).map(Verb::Fetch),
        b"STORE" => store::store(input, uid).map(Verb::Store),
        b"SEARCH" => search::search(input, uid).map(Verb::Search),
        b"COPY" => copy::copy(input, uid).map(Verb::Copy),
        b"MOVE" => copy::copy(input, uid).map(Verb::Move),
        b"EXPUNGE" => copy::expunge(input, uid).map(Verb::Expunge),
        b"SORT" => sort::sort(input, uid).map(Verb::Sort),
        b"THREAD" => sort::thread(input, uid).map(Verb::Thread),
        b"REPLACE" => append::replace(input, uid).map(Verb::Replace),
        _ => input.bad_at(from, UNKNOWN),
    }
}

/// A command without arguments.
fn alone<'a>(input: &mut Input<'a>, verb: Verb<'a>) -> Parsed<Verb<'a>> {
    input.end()?;
    Ok(verb)
}

/// A set or `$`, after its space.
fn messages(input: &mut Input<'_>) -> Parsed<Messages> {
    input.space("a sequence set")?;
    if input.eat(b'$') { Ok(Messages::Saved) } else { input.set().map(Messages::Set) }
}
