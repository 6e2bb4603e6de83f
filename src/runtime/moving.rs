//! Connections that move from one core to another.
//!
//! A runtime belongs to its core, and so do its streams; what travels is something that can be sent to
//! another thread and that becomes a stream of the runtime there. The kernel's connection is the same
//! all the time: what has arrived and was not received waits for the new owner.

use super::uring::Uring;
use super::{Net, Runtime};
use std::io;
use std::os::fd::OwnedFd;

/// A runtime whose connections can move.
pub trait Moving: Runtime {
    /// A connection on its way. Dropping it closes it.
    type Packed: Send + 'static;

    /// Takes a connection off this core. Nothing may be in flight on it.
    ///
    /// # Errors
    /// Descriptors are short; gives the connection back.
    fn pack(&self, stream: Self::Stream) -> Result<Self::Packed, (io::Error, Self::Stream)>;

    /// Makes it a connection of this core.
    ///
    /// # Errors
    /// The connection is lost.
    fn unpack(&self, packed: Self::Packed) -> io::Result<Self::Stream>;
}

impl Moving for Uring {
    type Packed = OwnedFd;

    fn pack(&self, stream: <Self as Net>::Stream) -> Result<OwnedFd, (io::Error, <Self as Net>::Stream)> {
        stream.duplicate().map_err(|e| (e, stream))
    }

    fn unpack(&self, packed: OwnedFd) -> io::Result<<Self as Net>::Stream> {
        self.adopt(packed)
    }
}
