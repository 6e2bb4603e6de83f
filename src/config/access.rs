//! `[access]`: where the maps are.

use super::diagnose::Report;
use super::raw;
use super::resolve::path;
use std::path::PathBuf;

/// Map files; none of them: nothing is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    /// Of clients.
    pub client: Option<PathBuf>,
    /// Of names in EHLO and HELO.
    pub helo: Option<PathBuf>,
    /// Of senders.
    pub sender: Option<PathBuf>,
    /// Of recipients.
    pub recipient: Option<PathBuf>,
}

/// The files as they were named.
pub fn resolve(raw: &raw::Access, report: &mut Report<'_>) -> Access {
    Access {
        client: path(&raw.client, "access.client", report),
        helo: path(&raw.helo, "access.helo", report),
        sender: path(&raw.sender, "access.sender", report),
        recipient: path(&raw.recipient, "access.recipient", report),
    }
}
