//! Series that exist once for each value of a label: providers, commands. The values are fixed, so that
//! there are never more series, and all are there from the start.
//!
//! Owns the values and who belongs to which. Cannot fail.

use super::{Counter, Histogram, Register};
use metrics::{Label, Recorder};

macro_rules! families {
    ($($field:ident: $kind:ident $name:literal $label:literal $values:ident $help:literal;)*) => {
        /// The handles of all families; a value's handle stands where the value stands in its list.
        pub struct Families {
            $(#[doc = $help] pub $field: Box<[$kind]>,)*
        }

        /// Name, kind, label, values and help of every family (all series also carry `core`).
        pub const FAMILIES: &[(&str, &str, &str, &[&str], &str)] =
            &[$(($name, stringify!($kind), $label, $values, $help),)*];

        impl Families {
            pub(super) fn new(recorder: &impl Recorder, core: usize) -> Self {
                let labels = |label: &'static str, value: &'static str| {
                    vec![Label::new("core", core.to_string()), Label::new(label, value)]
                };
                Families {
                    $($field: $values
                        .iter()
                        .map(|value| $kind::register(recorder, $name, labels($label, value), $help))
                        .collect(),)*
                }
            }
        }
    };
}

families! {
    provider_delivered: Counter "ringpost_provider_delivered_total" "provider" PROVIDERS
        "Recipients that a provider has taken";
    provider_deferred: Counter "ringpost_provider_deferred_total" "provider" PROVIDERS
        "Recipients that a provider has put off";
    provider_bounced: Counter "ringpost_provider_bounced_total" "provider" PROVIDERS
        "Recipients that a provider has refused for good";
    provider_seconds: Histogram "ringpost_provider_delivery_seconds" "provider" PROVIDERS
        "From acceptance to the delivery of a message's last recipient, by the provider of that one";
    pop3_command: Histogram "ringpost_pop3_command_seconds" "verb" POP3_VERBS
        "From the arrival of a POP3 command to its whole reply";
    imap_command: Histogram "ringpost_imap_command_seconds" "verb" IMAP_VERBS
        "From the arrival of an IMAP command (APPEND: of its last byte) to its whole response";
    spf: Counter "ringpost_spf_results_total" "result" OUTCOMES
        "Messages of strangers by the result of SPF for the sender (without one, for the name in EHLO)";
    dkim: Counter "ringpost_dkim_results_total" "result" OUTCOMES
        "Messages of strangers by the best result of their DKIM signatures";
    arc: Counter "ringpost_arc_results_total" "result" OUTCOMES
        "Messages of strangers by the result of ARC";
    dmarc: Counter "ringpost_dmarc_results_total" "result" OUTCOMES
        "Messages of strangers by the result of DMARC";
}

/// Results of SPF, DKIM, ARC and DMARC, in the order of `authenticity::results`.
pub const OUTCOMES: &[&str] =
    &["none", "pass", "fail", "softfail", "neutral", "policy", "temperror", "permerror"];

/// Providers, told by the names of their mail exchangers; the last one is everybody else.
pub const PROVIDERS: &[&str] =
    &["google", "microsoft", "yahoo", "apple", "ionos", "t-online", "mail_ru", "yandex", "proton", "other"];

/// End of a mail exchanger's name, and the provider.
const EXCHANGERS: &[(&str, &str)] = &[
    (".google.com", "google"),
    (".googlemail.com", "google"),
    (".outlook.com", "microsoft"),
    (".mx.microsoft", "microsoft"),
    (".yahoodns.net", "yahoo"),
    (".mail.icloud.com", "apple"),
    (".gmx.net", "ionos"),
    (".web.de", "ionos"),
    (".kundenserver.de", "ionos"),
    (".t-online.de", "t-online"),
    (".mail.ru", "mail_ru"),
    (".yandex.ru", "yandex"),
    (".yandex.net", "yandex"),
    (".protonmail.ch", "proton"),
];

/// Where the provider of a site stands in [`PROVIDERS`]. `site` is the name of a pool of connections: hosts,
/// then perhaps, behind a space, what is demanded of them.
#[must_use]
pub fn provider(site: &str) -> usize {
    let hosts = &site[..memchr::memchr(b' ', site.as_bytes()).unwrap_or(site.len())];
    if hosts.bytes().next_back().is_none_or(|last| !last.is_ascii_alphabetic()) {
        // An address, or a port: asked for each message.
        return PROVIDERS.len() - 1;
    }
    let known = EXCHANGERS.iter().find(|(end, _)| hosts.ends_with(end)).map(|(_, provider)| *provider);
    let place = known.and_then(|provider| PROVIDERS.iter().position(|p| *p == provider));
    place.unwrap_or(PROVIDERS.len() - 1)
}

/// Commands of POP3, as `pop3::inbound` tells them apart: all that come with a login are one, and so are
/// those that are short and rare.
pub const POP3_VERBS: &[&str] = &["login", "list", "retr", "dele", "quit", "other"];

/// Commands of IMAP, as `imap::session` tells them apart.
pub const IMAP_VERBS: &[&str] = &[
    "login", "select", "list", "status", "fetch", "store", "search", "append", "copy", "expunge", "idle",
    "noop", "other",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_told_by_their_exchangers() {
        let name = |site: &str| PROVIDERS[provider(site)];
        assert_eq!(name("site:(alt1|alt2).gmail-smtp-in.l.google.com"), "google");
        assert_eq!(
            name("site:firm-example.mail.protection.outlook.com verified for firm.example"),
            "microsoft"
        );
        assert_eq!(name("site:(mx00|mx01).emig.gmx.net DANE for gmx.net"), "ionos");
        for other in ["192.0.2.7:25", "site:mx.example.net", "site:notgoogle.com", "", "mailboxes 0003"] {
            assert_eq!(name(other), "other", "{other}");
        }
    }

    #[test]
    fn every_exchanger_has_a_provider_that_is_listed() {
        for (end, provider) in EXCHANGERS {
            assert!(PROVIDERS.contains(provider) && end.starts_with('.'), "{end} {provider}");
        }
    }
}
