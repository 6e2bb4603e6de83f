//! Keys about where mail comes from: `[authenticity]`, `[[dkim.key]]`, `authenticity =` at a listener.
//!
//! As all of `raw`: names and defaults, no rules.

use super::Raw;
use crate::config::units::Duration;
use serde::{Deserialize, Serialize};

section! {
    /// `[authenticity]`: whether mail of strangers comes from whom it says.
    Authenticity {
        /// SPF (RFC 7208).
        spf: Check = Check::Off,
        /// DKIM (RFC 6376).
        dkim: Check = Check::Off,
        /// DMARC (RFC 9989).
        dmarc: Check = Check::Off,
        /// ARC (RFC 8617).
        arc: Check = Check::Off,
        /// Patterns of domains whose seals make up for a failure of DMARC.
        arc_trusted: Vec<String> = Vec::new(),
        /// In whose name results are written; empty: server.hostname.
        authserv_id: String = String::new(),
        /// For all look-ups of a message together.
        timeout: Duration = Duration::s(20),
        /// `[[authenticity.for]]`
        #[serde(rename = "for")]
        narrowed: Vec<AuthenticityFor> = Vec::new(),
    }

    /// `[[authenticity.for]]`: other values for some domains.
    AuthenticityFor {
        /// Pattern. Required.
        domain: String = String::new(),
        /// As in [`Authenticity`], for senders (MAIL) of the domain.
        #[serde(skip_serializing_if = "Option::is_none")]
        spf: Option<Check> = None,
        /// As in [`Authenticity`], for authors (From) of the domain.
        #[serde(skip_serializing_if = "Option::is_none")]
        dkim: Option<Check> = None,
        /// As in [`Authenticity`], for authors (From) of the domain.
        #[serde(skip_serializing_if = "Option::is_none")]
        dmarc: Option<Check> = None,
    }

    /// `[dkim]`: signatures of mail of our own clients.
    Dkim {
        /// `[[dkim.key]]`
        key: Vec<DkimKey> = Vec::new(),
    }

    /// `[[dkim.key]]`: a key.
    DkimKey {
        /// Whose authors' mail it signs. Required.
        domain: String = String::new(),
        /// Its name in DNS. Required.
        selector: String = String::new(),
        /// PEM file. Required.
        file: String = String::new(),
    }
}

choice! {
    /// What is done with a method that says where mail comes from.
    Check {
        /// Nothing.
        Off,
        /// The message is told what was found.
        Tag,
        /// What fails is refused.
        Enforce,
    }
    /// The same at a listener.
    ListenerCheck {
        /// As `[authenticity]` says.
        Auto,
        /// Nothing.
        Off,
        /// Nothing is refused.
        Tag,
    }
}

/// One block of each list.
pub(super) fn shape(raw: &mut Raw) {
    raw.dkim.key.push(DkimKey::default());
    let off = Some(Check::Off);
    let other = AuthenticityFor { spf: off, dkim: off, dmarc: off, ..AuthenticityFor::default() };
    raw.authenticity.narrowed.push(other);
}
