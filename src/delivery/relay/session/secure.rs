//! L4: a connection under TLS: the handshake, and the loop's buffers sealed and opened.
//!
//! What is sealed is copied once, in one piece for each send. A failed handshake ends the connection;
//! whether another one is made in clear text is not decided here. A connection in clear text never
//! comes by.

use super::Session;
use crate::delivery::relay::{ConnectionEnd, Source};
use crate::runtime::{Part, Runtime, Stream};
use crate::smtp::outbound::{Close, Phase};
use crate::tls::Fault;
use crate::tls::client::Client;
use std::io;
use std::mem;

/// Received at once: a record of the greatest size.
const WIRE: usize = 17 << 10;
/// Opened at once; replies are short.
const PLAIN: usize = 1024;
/// What a record adds, at most: header, nonce, tag, padding.
const RECORD_EXTRA: usize = 64;
const RECORD: usize = 16 << 10;

/// The state of TLS.
pub(super) struct Secure {
    tls: Client,
    /// For what is received.
    wire: Vec<u8>,
    /// What the server did wrong; what it said before is heard first.
    fault: Option<Fault>,
}

impl Secure {
    /// Opens what has been received, and appends it to `into`.
    fn open(&mut self, wire: &[u8], into: &mut Vec<u8>) {
        let mut at = 0;
        loop {
            loop {
                into.reserve(PLAIN);
                if self.tls.read(into) == 0 {
                    break;
                }
            }
            if at == wire.len() {
                return;
            }
            match self.tls.feed(&wire[at..]) {
                Ok(n) => at += n,
                Err(fault) => {
                    self.fault = Some(fault);
                    return;
                }
            }
        }
    }
}

impl<R: Runtime, S: Source> Session<'_, R, S> {
    /// Does the handshake.
    pub(super) async fn handshake(&mut self) -> Option<ConnectionEnd> {
        let input = self.empty_input();
        self.input = input;
        let tls = self.options.tls.clone()?;
        let client = match Client::connect(&tls.rules, &tls.terms, tls.address) {
            Ok(client) => client,
            Err(fault) => return Some(failed(&fault.text)),
        };
        let mut secure = Box::new(Secure { tls: client, wire: Vec::with_capacity(WIRE), fault: None });
        self.stream.set_deadline(Some(self.rt.now().after(self.client.options().handshake)));
        let mut sealed = Vec::with_capacity(PLAIN);
        while secure.tls.is_handshaking() {
            sealed.clear();
            secure.tls.pull(&mut sealed);
            let wire = mem::take(&mut secure.wire);
            let (result, mut wire) = if sealed.is_empty() {
                self.stream.recv(wire).await
            } else {
                let (result, back, wire) = self.stream.send_recv(sealed, wire).await;
                sealed = back;
                (result, wire)
            };
            match result {
                Ok(0) => return Some(failed("closed by the server")),
                Ok(_) => secure.open(&wire, &mut self.input),
                Err(e) => return Some(failed(&e.kind().to_string())),
            }
            wire.clear();
            secure.wire = wire;
            if let Some(fault) = secure.fault.take() {
                // It may say why; the server need not listen.
                sealed.clear();
                secure.tls.pull(&mut sealed);
                if !sealed.is_empty() {
                    let _ = self.stream.send(sealed).await;
                }
                return Some(failed(&fault.text));
            }
        }
        if !self.input.is_empty() {
            return Some(ConnectionEnd::ProtocolError { what: Close::Unexpected(0), phase: Phase::Hello });
        }
        if let Some(established) = secure.tls.established() {
            self.source.secured(&established);
        }
        self.secure = Some(secure);
        // The last of the handshake goes along.
        self.client.secured(self.rt.now(), &mut self.out);
        None
    }

    /// As `exchange`.
    pub(super) async fn exchange_sealed(&mut self) -> Option<ConnectionEnd> {
        if let Some(end) = self.broken() {
            return Some(end);
        }
        let input = self.empty_input();
        self.input = input;
        self.stream.set_deadline(self.client.deadline());
        if !(self.flight.is_empty() || self.out.is_empty() && self.parts.is_empty()) {
            self.sent_at.get_or_insert(self.rt.now());
        }
        loop {
            let parts = self.all_parts();
            let wire = self.empty_wire();
            let (result, wire) = if parts.is_empty() {
                self.stream.recv(wire).await
            } else {
                let (result, parts, wire) = self.stream.send_parts_recv(parts, wire).await;
                self.reclaim(parts);
                (result, wire)
            };
            let end = self.opened(result, wire);
            // Tickets, say, are no answer.
            if end.is_some() || !self.input.is_empty() {
                return end;
            }
        }
    }

    /// What ends the connection though nothing is being done on it.
    pub(super) fn broken(&mut self) -> Option<ConnectionEnd> {
        let fault = self.secure.as_mut()?.fault.take()?;
        // A server that has misgivings about the end of the handshake says so with its first words.
        Some(if self.client.is_open() {
            self.failed(&io::ErrorKind::InvalidData.into())
        } else {
            failed(&fault.text)
        })
    }

    /// RFC 8446 §6.1: says that no more comes, before the connection is closed.
    pub(super) async fn say_closed(&mut self) {
        let Some(secure) = self.secure.as_mut() else { return };
        let mut sealed = Vec::new();
        secure.tls.close(&mut sealed);
        self.stream.set_deadline(Some(self.rt.now().after(self.client.options().quit)));
        // The server may be gone: all that mattered has been said.
        let _ = self.stream.send(sealed).await;
    }

    /// A buffer to receive into while work is waited for.
    pub(super) fn empty_wire(&mut self) -> Vec<u8> {
        let secure = self.secure.as_mut().expect("under TLS");
        let mut wire = mem::take(&mut secure.wire);
        wire.clear();
        wire.reserve(WIRE);
        wire
    }

    /// As `received`.
    pub(super) fn opened(&mut self, result: io::Result<usize>, wire: Vec<u8>) -> Option<ConnectionEnd> {
        let secure = self.secure.as_mut().expect("under TLS");
        if result.is_ok() {
            secure.open(&wire, &mut self.input);
        }
        secure.wire = wire;
        match result {
            Err(e) => Some(self.failed(&e)),
            Ok(_) if !self.input.is_empty() => None,
            Ok(0) => Some(self.server_closed(Box::default())),
            Ok(_) if secure.fault.is_none() && secure.tls.is_peer_closed() => {
                Some(self.server_closed(Box::default()))
            }
            Ok(_) => self.broken(),
        }
    }

    /// All of `parts` as one, sealed, with whatever else is to be sent; none if there is nothing.
    pub(super) fn sealed(&mut self, mut parts: Vec<Part>) -> Vec<Part> {
        let secure = self.secure.as_mut().expect("under TLS");
        let plain: usize = parts.iter().map(|p| p.bytes().len()).sum();
        if plain == 0 && !secure.tls.has_output() {
            return parts;
        }
        let records = plain / RECORD + parts.len() + 1;
        let mut sealed = Vec::with_capacity(plain + records * RECORD_EXTRA);
        for part in &parts {
            secure.tls.write(part.bytes(), &mut sealed);
        }
        secure.tls.pull(&mut sealed);
        let room = |spare: &Vec<Vec<u8>>| spare.len() < super::SPARE_MAX;
        for part in parts.drain(..) {
            if let Part::Owned(mut bytes) = part
                && room(&self.spare)
                && bytes.capacity() <= super::OUT_MAX
            {
                bytes.clear();
                self.spare.push(bytes);
            }
        }
        parts.push(Part::Owned(sealed));
        parts
    }
}

fn failed(text: &str) -> ConnectionEnd {
    ConnectionEnd::HandshakeFailed { text: text.into() }
}
