//! L3: TLS, driven step by step on buffers that the caller owns.
//!
//! [`Connection`] turns received bytes into plain ones and plain ones into bytes to send; it knows no
//! socket, no task and no protocol above. [`Credentials`] is a certificate chain with its key,
//! [`Snapshot`] all of them with the rules of a handshake, [`Certificates`] the snapshot in force,
//! shared by all threads and replaced as a whole. Files are read by the composition.
//!
//! What a peer does wrong is a [`Fault`] with an alert to send; the connection is over then. What is
//! wrong with a certificate or key is a [`BadPem`] that says in which file and what to do, never with
//! the contents of a key.

mod client_auth;
mod connection;
mod credentials;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;
mod x509;

pub use client_auth::{Authorities, authorities};
pub use connection::{Connection, Fault, Reason};
pub use credentials::{BadPem, Credentials, Part};
pub use snapshot::{Certificates, Rules, Snapshot};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::{Arc, LazyLock};

/// The one provider of cryptography. Made once: it is a table of several KiB.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    PROVIDER.clone()
}
