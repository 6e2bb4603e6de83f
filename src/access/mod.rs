//! L4: what the sessions that read mailboxes have in common, whatever their protocol.
//!
//! * [`gate`]: who may come in, what is counted for it, and at which door.
//! * [`host`]: what the sessions of one core and protocol share; accepting; PROXY headers.
//! * [`live`]: the open sessions, so that a stop reaches them.
//! * [`roll`]: who is here, and how a session is ended from outside; of all protocols.
//! * [`wire`]: one connection: TLS or not, received bytes, replies that wait; [`outbox`]: these;
//!   [`squeeze`]: the connection is compressed.
//! * [`login`]: between a session machine and the core's desk for logins.
//! * [`moving`]: a session that goes to the core that owns its mailbox.
//!
//! Knows no protocol and no mailbox. An error of a socket ends its session; errors of ours become
//! replies of the protocol.

pub mod gate;
pub mod host;
pub mod live;
pub mod login;
pub mod moving;
pub mod outbox;
pub mod roll;
pub mod squeeze;
pub mod wire;
