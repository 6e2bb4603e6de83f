//! The rules of `[tls]` and of `tls =` at a listener.
//!
//! Owns what must fit together: a key to each certificate, a certificate to each listener that needs
//! one. Reads no certificate: `certificates` does.

use super::diagnose::{Report, Severity};
use super::raw::{self, ListenerTls, Protocol};
use super::resolve::{absolute, path};
use crate::base::security::TlsVersion;
use crate::route::destination::host_name;
use crate::smtp::inbound;
use std::path::PathBuf;

/// `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// For all names, and for clients that name none.
    pub main: Files,
    /// `[[tls.sni]]`: names (lower case, `*.` in front for one label) and their certificate.
    pub sni: Vec<(Vec<String>, Files)>,
    /// `tls.minimum`.
    pub minimum: TlsVersion,
    /// `tls.client_authorities`.
    pub client_authorities: Option<PathBuf>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// PEM file.
    pub certificate: PathBuf,
    /// PEM file.
    pub key: PathBuf,
}

/// `[tls]`; `None` if there is no certificate.
pub(super) fn resolve(raw: &raw::Tls, report: &mut Report<'_>) -> Option<Tls> {
    let minimum = match raw.minimum.as_str() {
        "1.2" => TlsVersion::Tls12,
        "1.3" => TlsVersion::Tls13,
        other => {
            report.error(
                "tls.minimum",
                format!("{other:?} is no version we speak"),
                "write \"1.2\" or \"1.3\"",
            );
            TlsVersion::Tls12
        }
    };
    let mut taken: Vec<String> = Vec::new();
    let mut sni = Vec::new();
    for (n, block) in raw.sni.iter().enumerate() {
        let at = |key: &str| format!("tls.sni.{n}.{key}");
        let names = names(&block.names, &at("names"), &mut taken, report);
        if let Some(files) = files(&block.certificate, &block.key, &format!("tls.sni.{n}"), report) {
            sni.push((names, files));
        } else if block.certificate.is_empty() && block.key.is_empty() {
            report.error(
                &at("certificate"),
                "is required",
                "name the PEM files of the certificate and its key",
            );
        }
    }
    let main = files(&raw.certificate, &raw.key, "tls", report);
    let client_authorities = path(&raw.client_authorities, "tls.client_authorities", report);
    if main.is_none() && raw.certificate.is_empty() && raw.key.is_empty() {
        let needed =
            [("tls.sni", !raw.sni.is_empty()), ("tls.client_authorities", client_authorities.is_some())];
        for (key, _) in needed.iter().filter(|(_, set)| *set) {
            let help = "write tls.certificate and tls.key: they are for clients that name no host";
            report.error(key, "needs a certificate for all other names", help);
        }
    }
    Some(Tls { main: main?, sni, minimum, client_authorities })
}

fn files(certificate: &str, key: &str, at: &str, report: &mut Report<'_>) -> Option<Files> {
    match (certificate.is_empty(), key.is_empty()) {
        (true, true) => None,
        (false, true) => {
            let help = "name the PEM file of the certificate's private key";
            report.error(&format!("{at}.key"), "is required beside the certificate", help);
            None
        }
        (true, false) => {
            let help = "name the PEM file of the key's certificate, with its intermediate ones";
            report.error(&format!("{at}.certificate"), "is required beside the key", help);
            None
        }
        (false, false) => {
            let certificate = absolute(certificate, &format!("{at}.certificate"), report);
            let key = absolute(key, &format!("{at}.key"), report);
            Some(Files { certificate: certificate?, key: key? })
        }
    }
}

fn names(list: &[String], at: &str, taken: &mut Vec<String>, report: &mut Report<'_>) -> Vec<String> {
    if list.is_empty() {
        report.error(at, "is required", "write the host names that clients connect to");
    }
    let mut good = Vec::new();
    for (n, text) in list.iter().enumerate() {
        let at = format!("{at}.{n}");
        let name = match text.strip_prefix("*.") {
            Some(parent) => host_name(parent).map(|name| format!("*.{name}")),
            None => host_name(text),
        };
        match name {
            Err(e) => {
                report.error(&at, e, "write a host name, or \"*.\" and a domain for all hosts right below it")
            }
            Ok(name) if taken.contains(&name) => {
                report.error(&at, format!("{name:?} has a certificate already"), "");
            }
            Ok(name) => {
                taken.push(name.clone());
                good.push(name);
            }
        }
    }
    good
}

/// What listener number `n` does with TLS; `have`: there is a certificate.
pub(super) fn of_listener(l: &raw::Listener, n: usize, have: bool, report: &mut Report<'_>) -> inbound::Tls {
    let at = |key: &str| format!("listener.{n}.{key}");
    let certificate = "write tls.certificate and tls.key";
    let implicit = match l.protocol.0 {
        Some(Protocol::Submissions) => Some(("submissions", "submission")),
        Some(Protocol::Pop3s) => Some(("pop3s", "pop3")),
        Some(Protocol::Imaps) => Some(("imaps", "imap")),
        _ => None,
    };
    if let Some((name, other)) = implicit {
        if matches!(l.tls, ListenerTls::Off | ListenerTls::Starttls) {
            let help = format!("leave tls out, or write protocol = \"{other}\"");
            report.error(&at("tls"), format!("\"{name}\" begins with TLS (RFC 8314)"), &help);
        } else if !have {
            report.error(&at("protocol"), format!("\"{name}\" needs a certificate"), certificate);
        }
        return inbound::Tls::Implicit;
    }
    let tls = match l.tls {
        ListenerTls::Off => inbound::Tls::Off,
        ListenerTls::Auto if !have => inbound::Tls::Off,
        ListenerTls::Auto | ListenerTls::Starttls => inbound::Tls::Offered,
        ListenerTls::Required => inbound::Tls::Required,
    };
    if tls != inbound::Tls::Off && !have {
        report.error(&at("tls"), "needs a certificate", certificate);
    }
    if tls == inbound::Tls::Required && l.protocol.0 == Some(Protocol::Smtp) {
        let what = "other servers that cannot do TLS cannot send to us; RFC 3207 section 4 forbids it for a \
                    server that all may use";
        report.add(Severity::Note, &at("tls"), what, "");
    }
    tls
}

#[cfg(test)]
mod tests {
    use crate::base::security::TlsVersion;
    use crate::config::{Config, Problems, Severity};
    use crate::smtp::inbound;

    const SERVER: &str = "[server]\nhostname = \"mx.example.net\"\n[relay]\nsmarthost = \"192.0.2.1:25\"\n";
    const TLS: &str = "[tls]\ncertificate = \"/c\"\nkey = \"/k\"\n";

    fn listener(rest: &str) -> String {
        format!("[[listener]]\naddress = \"0.0.0.0:25\"\n{rest}\n")
    }

    fn config(rest: &str) -> Result<Config, Vec<String>> {
        let errors = |Problems(all): Problems| -> Vec<String> {
            let errors = all.into_iter().filter(|p| p.severity == Severity::Error);
            errors.map(|p| p.key + ": " + &p.message).collect()
        };
        Config::parse(&(SERVER.to_string() + rest), "t").map(|(c, _)| c).map_err(errors)
    }

    #[test]
    fn what_listeners_do() {
        for (tls, rest, expected) in [
            (false, "protocol = \"smtp\"", inbound::Tls::Off),
            (true, "protocol = \"smtp\"", inbound::Tls::Offered),
            (true, "protocol = \"smtp\"\ntls = \"off\"", inbound::Tls::Off),
            (true, "protocol = \"submission\"", inbound::Tls::Offered),
            (true, "protocol = \"submission\"\ntls = \"required\"", inbound::Tls::Required),
            (true, "protocol = \"submissions\"", inbound::Tls::Implicit),
            (true, "protocol = \"submissions\"\ntls = \"required\"", inbound::Tls::Implicit),
        ] {
            let text = if tls { TLS.to_string() } else { String::new() } + &listener(rest);
            assert_eq!(config(&text).unwrap().listeners[0].tls, expected, "{rest}");
        }
        assert_eq!(config(TLS).unwrap().listeners[0].tls, inbound::Tls::Offered, "the default listener");
    }

    #[test]
    fn what_must_fit_together() {
        let sni = |rest: &str| format!("{TLS}[[tls.sni]]\n{rest}\n");
        for (text, key) in [
            (listener("protocol = \"smtp\"\ntls = \"starttls\""), "listener[1].tls"),
            (listener("protocol = \"smtp\"\ntls = \"required\""), "listener[1].tls"),
            (listener("protocol = \"submissions\""), "listener[1].protocol"),
            (TLS.to_string() + &listener("protocol = \"submissions\"\ntls = \"off\""), "listener[1].tls"),
            ("[tls]\ncertificate = \"/c\"\n".into(), "tls.key"),
            ("[tls]\nkey = \"/k\"\n".into(), "tls.certificate"),
            ("[tls]\ncertificate = \"c\"\nkey = \"/k\"\n".into(), "tls.certificate"),
            (TLS.to_string() + "minimum = \"1.1\"\n", "tls.minimum"),
            ("[tls]\nclient_authorities = \"/a\"\n".into(), "tls.client_authorities"),
            (sni("certificate = \"/c\"\nkey = \"/k\""), "tls.sni[1].names"),
            (sni("names = [\"a.example\"]"), "tls.sni[1].certificate"),
            (sni("names = [\"a b\"]\ncertificate = \"/c\"\nkey = \"/k\""), "tls.sni[1].names[1]"),
            (
                sni("names = [\"a.example\", \"A.example\"]\ncertificate = \"/c\"\nkey = \"/k\""),
                "tls.sni[1].names[2]",
            ),
            ("[[tls.sni]]\nnames = [\"a.example\"]\ncertificate = \"/c\"\nkey = \"/k\"\n".into(), "tls.sni"),
        ] {
            let errors = config(&text).expect_err(&text);
            assert!(errors[0].starts_with(&format!("{key}: ")), "{text}: {errors:?}");
        }
    }

    #[test]
    fn all_of_it() {
        let text = format!(
            "{TLS}minimum = \"1.3\"\nclient_authorities = \"/a\"\n[[tls.sni]]\nnames = [\"*.B.example\"]\n\
             certificate = \"/c2\"\nkey = \"/k2\"\n"
        );
        let tls = config(&text).unwrap().tls.unwrap();
        assert_eq!(
            (tls.minimum, tls.sni[0].0.as_slice()),
            (TlsVersion::Tls13, &["*.b.example".to_string()][..])
        );
        assert_eq!(tls.client_authorities.unwrap().to_str(), Some("/a"));
        assert_eq!(config("").unwrap().tls, None);
    }
}
