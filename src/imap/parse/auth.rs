//! LOGIN (RFC 9051 §6.2.3) and AUTHENTICATE (§6.2.2, with the initial response of RFC 4959).
//!
//! Secrets are borrowed like everything else; they never show in `Debug`. Base64 is not decoded here.

use super::Parsed;
use super::input::{Input, Str};
use std::fmt;

/// A text that is not shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hidden<'a>(Str<'a>);

impl<'a> Hidden<'a> {
    /// The text, for whoever checks it.
    #[must_use]
    pub fn expose(&self) -> Str<'a> {
        self.0
    }
}

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// LOGIN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Login<'a> {
    /// The name.
    pub user: Str<'a>,
    /// The password.
    pub password: Hidden<'a>,
}

/// AUTHENTICATE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Authenticate<'a> {
    /// SASL mechanism.
    pub mechanism: &'a [u8],
    /// Initial response in base64. `=` stands for an empty one (RFC 4959 §3).
    pub initial: Option<Hidden<'a>>,
}

pub(super) fn login<'a>(input: &mut Input<'a>) -> Parsed<Login<'a>> {
    const USER: &str = "a user name";
    const PASSWORD: &str = "a password";
    input.space(USER)?;
    let user = input.astring(USER)?;
    input.space(PASSWORD)?;
    let password = Hidden(input.astring(PASSWORD)?);
    input.end()?;
    Ok(Login { user, password })
}

pub(super) fn authenticate<'a>(input: &mut Input<'a>) -> Parsed<Authenticate<'a>> {
    const MECHANISM: &str = "a SASL mechanism";
    input.space(MECHANISM)?;
    let mechanism = input.atom(MECHANISM)?;
    if input.is_at_end() {
        input.end()?;
        return Ok(Authenticate { mechanism, initial: None });
    }
    input.space("an initial response")?;
    // Outlook sends one with LOGIN too; whether a mechanism takes it is the mechanism's affair.
    let from = input.at();
    let base64 = |b: &&u8| b.is_ascii_alphanumeric() || matches!(**b, b'+' | b'/' | b'=');
    let len = input.rest().iter().take_while(base64).count();
    if len == 0 {
        return Err(input.bad("an initial response in base64, or ="));
    }
    input.seek(from + len);
    let initial = Some(Hidden(Str::plain(input.since(from))));
    input.end()?;
    Ok(Authenticate { mechanism, initial })
}
