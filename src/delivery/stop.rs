//! L4: one place that a connection can go to, and how it is opened.
//!
//! Owns what is known of the place: its names for people and for reports, and how DNS led to it. Knows no
//! policy and no schedule. Errors are those of connecting, as they come.

use crate::base::time::Mono;
use crate::queue::routing::Hop;
use crate::route::mx;
use crate::runtime::{Net, Runtime};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What is connected to.
pub(super) enum Spot {
    /// An address.
    Address(SocketAddr),
    /// A socket in the file system.
    Path(PathBuf),
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spot::Address(address) => address.fmt(f),
            Spot::Path(path) => path.display().fmt(f),
        }
    }
}

/// A place to connect to.
pub(super) struct Stop {
    /// The host, if there is a name.
    pub name: Option<Box<str>>,
    /// What reports call it: its host name, or an address literal; empty if it has neither.
    pub server: Rc<str>,
    pub spot: Spot,
    /// If it was found in DNS: how, the number of its host, and for which domain.
    pub found: Option<(Rc<mx::Plan>, usize, Box<str>)>,
    /// It speaks LMTP.
    pub lmtp: bool,
}

impl Stop {
    /// An address.
    pub fn at(address: SocketAddr) -> Self {
        let server = format!("[{}]", address.ip()).into();
        Stop { name: None, server, spot: Spot::Address(address), found: None, lmtp: false }
    }

    /// A host that a route names, at one of its addresses.
    pub fn host(name: &str, address: SocketAddr) -> Self {
        let (found, lmtp) = (None, false);
        Stop { name: Some(name.into()), server: name.into(), spot: Spot::Address(address), found, lmtp }
    }

    /// A socket in the file system.
    pub fn path(path: &Path) -> Self {
        Stop { name: None, server: "".into(), spot: Spot::Path(path.into()), found: None, lmtp: true }
    }

    /// Its address; a socket in the file system has none.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.spot {
            Spot::Address(address) => Some(*address),
            Spot::Path(_) => None,
        }
    }

    /// For people.
    pub fn whom(&self, hop: &Hop) -> String {
        match &self.name {
            Some(name) if self.found.is_some() => format!("{name} ({})", self.spot),
            _ => hop.key.clone(),
        }
    }

    /// Connects, from the source address of the destination for its family.
    pub async fn connect<R: Runtime>(
        &self,
        rt: &R,
        hop: &Hop,
        deadline: Mono,
    ) -> io::Result<<R as Net>::Stream> {
        match &self.spot {
            Spot::Address(address) => {
                let source = if address.is_ipv4() { hop.source.0 } else { hop.source.1 };
                rt.connect(*address, source, deadline).await
            }
            Spot::Path(path) => rt.connect_path(path, deadline).await,
        }
    }
}
