//! Values of keys that are one word of a few.
//!
//! Owns the words. Knows no key.

use serde::{Deserialize, Serialize};

choice! {
    /// What the mail log says.
    MailEvents {
        /// Everything.
        All,
        /// Refusals, deferrals, bounces, removals.
        Failures,
        /// Nothing.
        Off,
    }
    /// Whose mail a brake counts together.
    BrakeScope {
        /// That of a login.
        Login,
        /// That of an IPv4 address or IPv6 /64.
        Address,
        /// That of an IPv4 /24 or IPv6 /48.
        Network,
        /// That with senders of one domain.
        SenderDomain,
    }
    /// What a brake does.
    BrakeAction {
        /// 450 4.7.1.
        Tempfail,
        /// The message is taken and held in the queue.
        Hold,
        /// 550 5.7.1.
        Reject,
    }
    /// What a filter speaks.
    FilterKind {
        /// The milter protocol, version 6.
        Milter,
        /// The policy delegation protocol of Postfix.
        Policy,
        /// Rspamd's own protocol.
        Rspamd,
    }
    /// What is done with mail whose filter cannot be asked.
    WhenDown {
        /// 451 4.7.1.
        Tempfail,
        /// It is taken without.
        Accept,
        /// 550 5.7.1.
        Reject,
    }
    /// Bind threads to CPUs?
    Pin {
        /// From 4 usable CPUs on.
        Auto,
        /// Yes.
        On,
        /// No.
        Off,
    }
    /// What a file system must promise.
    Durability {
        /// A completed write survives a power loss.
        Full,
        /// Anything goes: tmpfs, for tests.
        Weak,
    }
    /// What a listener speaks.
    Protocol {
        /// RFC 5321.
        Smtp,
        /// RFC 6409.
        Submission,
        /// RFC 8314.
        Submissions,
        /// RFC 2033.
        Lmtp,
        /// RFC 1939.
        Pop3,
        /// With TLS.
        Pop3s,
        /// RFC 9051.
        Imap,
        /// With TLS.
        Imaps,
        /// RFC 5804.
        Managesieve,
    }
    /// Authentication at a listener.
    AuthMode {
        /// By protocol.
        Auto,
        /// Not offered.
        Off,
        /// Offered.
        Offered,
        /// Needed.
        Required,
    }
    /// Encryption at a listener.
    ListenerTls {
        /// By protocol.
        Auto,
        /// Not offered.
        Off,
        /// Offered.
        Starttls,
        /// Needed.
        Required,
    }
    /// Encryption towards a next hop.
    RouteTls {
        /// Never.
        None,
        /// If the next hop offers it.
        Opportunistic,
        /// Or not at all.
        Required,
        /// As its TLSA records say; without any, if the next hop offers it.
        Dane,
    }
    /// Address family to try first.
    Prefer {
        /// IPv4.
        Ipv4,
        /// IPv6.
        Ipv6,
        /// The order of the answer.
        Dns,
    }
    /// What becomes of a bounce that cannot be delivered.
    DoubleBounce {
        /// It goes to the postmaster.
        Postmaster,
        /// It is removed.
        Drop,
    }
    /// What is said to mail for an account that is full.
    OverQuota {
        /// 552 5.2.2: the sender is told at once.
        Reject,
        /// 452 4.2.2: it is tried again.
        Defer,
    }
    /// A CR or LF alone.
    BareNewline {
        /// 550 5.5.2.
        Refuse,
        /// Becomes CRLF.
        Normalize,
    }
    /// DNSSEC.
    Dnssec {
        /// We check signatures.
        Validate,
        /// We believe the resolver.
        TrustAd,
        /// Not used.
        Off,
    }
    /// Form of event lines.
    EventFormat {
        /// One JSON object a line.
        Json,
        /// Text as Postfix writes it.
        Postfix,
    }
}

impl Protocol {
    /// It is spoken with mailboxes here, not with the queue.
    #[must_use]
    pub fn is_of_mailboxes(self) -> bool {
        !matches!(self, Protocol::Smtp | Protocol::Submission | Protocol::Submissions)
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
            serde::de::IntoDeserializer::into_deserializer(text);
        Protocol::deserialize(text).map_err(|e| e.to_string())
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}
