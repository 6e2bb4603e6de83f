//! Which command it is, of those that need no selected mailbox and are rare: before, at and after
//! login. Owns no grammar but their names.

use super::input::{Input, capitals};
use super::{Parsed, Verb, alone, auth, session};

/// The command, or none if it is not one of these (the cursor is where it was).
pub(super) fn verb<'a>(input: &mut Input<'a>) -> Option<Parsed<Verb<'a>>> {
    let from = input.at();
    let mut space = [0; 24];
    Some(match capitals(input.word(), &mut space) {
        b"CAPABILITY" => alone(input, Verb::Capability),
        b"LOGIN" => auth::login(input).map(Verb::Login),
        b"AUTHENTICATE" => auth::authenticate(input).map(Verb::Authenticate),
        b"LOGOUT" => alone(input, Verb::Logout),
        b"STARTTLS" => alone(input, Verb::StartTls),
        b"ENABLE" => session::enable(input).map(Verb::Enable),
        b"ID" => session::id(input).map(Verb::Id),
        b"COMPRESS" => session::compress(input).map(|()| Verb::Compress),
        b"UNAUTHENTICATE" => alone(input, Verb::Unauthenticate),
        _ => {
            input.seek(from);
            return None;
        }
    })
}
