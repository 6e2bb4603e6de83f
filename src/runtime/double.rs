//! What a runtime for tests does not have: types without values for the traits that a test leaves
//! out. Owns no behaviour; whoever needs a network or a disk writes its own.

use super::{File, Lent, Listener, Part, Stream};
use crate::base::aligned::{AlignedBuf, SharedBytes};
use crate::base::time::Mono;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;

/// A stream or a file that cannot be.
pub enum Never {}

/// A listener that cannot be.
pub struct NoListener<S>(Never, PhantomData<S>);

impl<S: Stream> Listener for NoListener<S> {
    type Stream = S;

    async fn accept(&self) -> io::Result<(S, SocketAddr)> {
        match self.0 {}
    }
    fn local(&self) -> SocketAddr {
        match self.0 {}
    }
    fn close(&self) {
        match self.0 {}
    }
}

impl Stream for Never {
    async fn recv(&self, _: Vec<u8>) -> Lent<usize, Vec<u8>> {
        match *self {}
    }
    async fn readable(&self) -> io::Result<()> {
        match *self {}
    }
    async fn send(&self, _: Vec<u8>) -> Lent<(), Vec<u8>> {
        match *self {}
    }
    async fn send_parts(&self, _: Vec<Part>) -> Lent<(), Vec<Part>> {
        match *self {}
    }
    fn set_deadline(&self, _: Option<Mono>) {
        match *self {}
    }
    fn shutdown(&self) {
        match *self {}
    }
    fn local(&self) -> SocketAddr {
        match *self {}
    }
}

impl File for Never {
    async fn write_at(&self, _: SharedBytes, _: u64) -> io::Result<()> {
        match *self {}
    }
    async fn read_at(&self, _: AlignedBuf, _: u64) -> Lent<(), AlignedBuf> {
        match *self {}
    }
    async fn sync(&self) -> io::Result<()> {
        match *self {}
    }
    fn try_lock(&self) -> io::Result<bool> {
        match *self {}
    }
    fn len(&self) -> io::Result<u64> {
        match *self {}
    }
}
