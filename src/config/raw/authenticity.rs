//! Keys about where mail comes from: `[authenticity]`, `[[dkim.key]]`, `[arc]`, `[srs]`, `[reports]`,
//! `authenticity =` at a listener.
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

    /// `[arc]`: seals of mail of strangers that is passed on.
    ArcKey {
        /// In whose name; empty: nothing is sealed.
        domain: String = String::new(),
        /// Its name in DNS.
        selector: String = String::new(),
        /// PEM file.
        file: String = String::new(),
    }

    /// `[srs]`: senders of mail that is forwarded.
    SrsKeys {
        /// Domain of the senders that are written; empty: they stay.
        domain: String = String::new(),
        /// File of secrets.
        key_file: String = String::new(),
        /// How long mail may come back by them.
        max_age: Duration = Duration::s(21 * 86_400),
        /// What stands behind SRS0 and SRS1.
        separator: String = "=".into(),
    }

    /// `[reports]`: bounces and complaints that come in.
    ReportKeys {
        /// Addresses of complaints.
        feedback: Vec<String> = Vec::new(),
        /// Addresses of bounces.
        bounces: Vec<String> = Vec::new(),
        /// What becomes of the messages.
        action: ReportAction = ReportAction::Deliver,
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
    /// What becomes of a report that was read.
    ReportAction {
        /// It goes where its address leads.
        Deliver,
        /// It is thrown away.
        Discard,
    }
}

/// One block of each list.
pub(super) fn shape(raw: &mut Raw) {
    raw.dkim.key.push(DkimKey::default());
    let off = Some(Check::Off);
    let other = AuthenticityFor { spf: off, dkim: off, dmarc: off, ..AuthenticityFor::default() };
    raw.authenticity.narrowed.push(other);
}
