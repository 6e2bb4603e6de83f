//! The certificates and rules of a handshake, as one that is made whole and replaced whole.
//!
//! A handshake keeps the snapshot it began with. Tickets of resumption belong to a snapshot: all
//! threads share their keys, and with another certificate they are void, so that nobody resumes under
//! the old one and what a channel binding says of the certificate is always true. Cannot fail once
//! made.

use super::client_auth::{Ask, Authorities};
use super::credentials::Credentials;
use super::provider;
use crate::base::security::TlsVersion;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ConfigBuilder, Error, ServerConfig, SupportedProtocolVersion, WantsVerifier};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// What a handshake must keep to.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The lowest version.
    pub minimum: TlsVersion,
    /// Our protocols, by the names with which clients may ask for them (RFC 7301). A client that asks only
    /// for others than the one it gets is refused (attack: ALPACA), one that asks for none is not.
    pub protocols: &'static [&'static str],
    /// Whose certificates of clients are believed; none: they are not asked for.
    pub authorities: Option<Authorities>,
}

/// Tickets that a client gets with a TLS 1.3 handshake. Mail clients open one connection after the
/// other, and each ticket costs a record to seal and to send.
const TICKETS: usize = 1;

/// Certificates by the name that the client asks for.
#[derive(Debug)]
pub(super) struct Names {
    /// The first is for all other names, and for clients that name none.
    all: Vec<Credentials>,
    /// Lower case; a `*.` in front stands for one label.
    by_name: HashMap<String, usize>,
}

impl Names {
    pub(super) fn of(&self, name: Option<&str>) -> &Credentials {
        let found = name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let exact = self.by_name.get(&name);
            exact.or_else(|| self.by_name.get(&format!("*.{}", name.split_once('.')?.1)))
        });
        &self.all[found.copied().unwrap_or(0)]
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.of(hello.server_name()).key.clone())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) names: Arc<Names>,
    pub(super) authorities: Option<Authorities>,
    configs: Vec<Configs>,
}

/// What a handshake is made with.
#[derive(Debug)]
struct Configs {
    protocol: &'static str,
    open: Arc<ServerConfig>,
    /// The same, asking for a certificate.
    asking: Option<Arc<ServerConfig>>,
}

impl Snapshot {
    /// Of a certificate for everybody, and of others for some names (lower case, `*.` in front for
    /// one label).
    ///
    /// # Errors
    /// There is no randomness for the keys of the tickets.
    pub fn new(
        main: Credentials,
        named: Vec<(Vec<String>, Credentials)>,
        rules: &Rules,
    ) -> Result<Self, Error> {
        let mut names = Names { all: vec![main], by_name: HashMap::new() };
        for (list, credentials) in named {
            for name in list {
                names.by_name.entry(name).or_insert(names.all.len());
            }
            names.all.push(credentials);
        }
        let names = Arc::new(names);
        let tickets = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        let make = |ask: Option<&Authorities>| -> Result<ServerConfig, Error> {
            let verifier = ask.map(|a| Arc::new(Ask(a.clone())));
            let builder = builder(rules.minimum)?;
            let builder = match verifier {
                Some(verifier) => builder.with_client_cert_verifier(verifier),
                None => builder.with_client_cert_verifier(WebPkiClientVerifier::no_client_auth()),
            };
            let mut config = builder.with_cert_resolver(names.clone());
            config.ticketer = tickets.clone();
            // Tickets only: a store of sessions would be memory that every client can fill.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = TICKETS;
            Ok(config)
        };
        let (open, asking) = (make(None)?, rules.authorities.as_ref().map(|a| make(Some(a))).transpose()?);
        // All share certificates and tickets.
        let of = |config: &ServerConfig, protocol: &str| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.into()];
            Arc::new(config)
        };
        let configs = rules.protocols.iter().map(|&protocol| Configs {
            protocol,
            open: of(&open, protocol),
            asking: asking.as_ref().map(|config| of(config, protocol)),
        });
        Ok(Snapshot { configs: configs.collect(), authorities: rules.authorities.clone(), names })
    }

    /// What a handshake for `protocol` is made with; `ask`: the client is asked for a certificate if
    /// authorities are known. `None`: it is not one of ours.
    pub(super) fn config(&self, protocol: &str, ask: bool) -> Option<Arc<ServerConfig>> {
        let found = self.configs.iter().find(|c| c.protocol == protocol)?;
        Some(found.asking.as_ref().filter(|_| ask).unwrap_or(&found.open).clone())
    }
}

fn builder(minimum: TlsVersion) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, Error> {
    const FROM_12: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    const FROM_13: &[&SupportedProtocolVersion] = &[&TLS13];
    let versions = match minimum {
        TlsVersion::Tls12 => FROM_12,
        TlsVersion::Tls13 => FROM_13,
    };
    ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)
}

/// The snapshot in force, shared by all threads. Taking it costs an uncontended lock, once for each
/// handshake.
#[derive(Clone, Debug)]
pub struct Certificates(Arc<RwLock<Arc<Snapshot>>>);

impl Certificates {
    /// With this first snapshot.
    #[must_use]
    pub fn new(first: Snapshot) -> Self {
        Certificates(Arc::new(RwLock::new(Arc::new(first))))
    }

    /// Handshakes that begin from now on use this one.
    pub fn replace(&self, next: Snapshot) {
        // A panic elsewhere leaves a whole snapshot: it is only ever swapped.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }

    /// The one in force.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::Maker;

    #[test]
    fn names_choose() {
        let of = |host: &str| Maker::new().hosts(&[host]).make().credentials();
        let rules = Rules { minimum: TlsVersion::Tls12, protocols: &["smtp"], authorities: None };
        let named = vec![
            (vec!["a.example".into(), "b.example".into()], of("a.example")),
            (vec!["*.w.example".into()], of("w.example")),
        ];
        let snapshot = Snapshot::new(of("main.example"), named, &rules).unwrap();
        for (name, host) in [
            (None, "main.example"),
            (Some("other.example"), "main.example"),
            (Some("B.example"), "a.example"),
            (Some("a.example."), "a.example"),
            (Some("x.w.example"), "w.example"),
            (Some("w.example"), "main.example"),
            (Some("y.x.w.example"), "main.example"),
            (Some("localhost"), "main.example"),
        ] {
            assert_eq!(snapshot.names.of(name).hosts, [host], "{name:?}");
        }
    }
}
