//! L2: AUTH as the client (RFC 4954): the words around a SASL exchange.
//!
//! Owns framing and order; what is said is `auth::client`'s. A password goes out in the open only
//! under TLS, or where TLS was given up on purpose. That a server does not take it says nothing about
//! any message: the connection ends.

use super::Step;
use super::dialogue::{Close, Dialogue, Expected};
use crate::auth::client::{Account, Exchange, choose};
use crate::auth::prepare;
use crate::base::secret::Secret;
use crate::base::time::Mono;
use crate::smtp::reply_in::Reply;
use std::rc::Rc;

/// How to log in.
#[derive(Clone, Debug)]
pub struct Login {
    /// As whom.
    pub account: Rc<Account>,
    /// Fresh for each connection: visible ASCII without a comma.
    pub nonce: String,
    /// The password may be sent in clear text: that there is no TLS is somebody's decision.
    pub in_clear: bool,
}

/// RFC 4954 §4: an initial response that does not fit into a command line of 512 bytes is sent on its
/// own.
const LINE_MAX: usize = 512;

impl Dialogue {
    /// Logs in if that is wanted; else mail may be sent.
    pub(super) fn begin_login(&mut self, now: Mono, reply: &Reply<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let Some(login) = &self.options.login else {
            self.greeted = true;
            return None;
        };
        let tell = self.secured || login.in_clear;
        let Some(mechanism) = choose(self.caps.auth, tell) else {
            return Some(self.end(Close::LoginImpossible, reply));
        };
        let (exchange, first) = Exchange::begin(login.account.clone(), mechanism, &login.nonce);
        self.login = Some((exchange, None));
        out.extend_from_slice(b"AUTH ");
        out.extend_from_slice(mechanism.name().as_bytes());
        if let Some(first) = first {
            let coded = Secret::new(encode(&first));
            if "AUTH  \r\n".len() + mechanism.name().len() + coded.expose().len() <= LINE_MAX {
                out.push(b' ');
                out.extend_from_slice(coded.expose());
            } else if let Some((_, held)) = &mut self.login {
                *held = Some(first);
            }
        }
        out.extend_from_slice(b"\r\n");
        self.expect(Expected::Auth, now);
        None
    }

    pub(super) fn on_auth(&mut self, now: Mono, reply: &Reply<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let Some((exchange, held)) = &mut self.login else {
            return Some(self.end(Close::Unexpected(reply.code), reply));
        };
        let answer = match reply.class() {
            3 => match held.take() {
                Some(first) => Ok(first),
                None => prepare::decode(reply.text.trim_ascii())
                    .ok_or(())
                    .and_then(|challenge| exchange.respond(&challenge).map_err(drop)),
            },
            2 if exchange.finish().is_ok() => {
                self.login = None;
                self.greeted = true;
                return None;
            }
            2 => return Some(self.end(Close::LoginUnproven, reply)),
            4 | 5 => return Some(self.end(Close::LoginRefused(reply.code), reply)),
            _ => return Some(self.end(Close::Unexpected(reply.code), reply)),
        };
        match answer {
            Ok(answer) => {
                let coded = Secret::new(encode(&answer));
                out.extend_from_slice(coded.expose());
                out.extend_from_slice(b"\r\n");
                self.expect(Expected::Auth, now);
                None
            }
            // The connection ends with it; nothing has been sent that would have to be cancelled.
            Err(()) => Some(self.end(Close::LoginUnproven, reply)),
        }
    }
}

fn encode(secret: &Secret) -> Vec<u8> {
    prepare::encode(secret.expose()).into_bytes()
}
