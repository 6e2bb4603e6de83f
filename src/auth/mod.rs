//! Who is it? Mechanisms, users, passwords; for every protocol.
//!
//! * L2 [`sasl`]: the mechanisms as state machines without IO.
//! * L2 [`client`]: the same as the one who logs in.
//! * L2 [`scheme`]: forms of stored passwords, and whether a password fits.
//! * L2 [`passwd`]: the password file as a table; [`store`]: the narrow interface to any store of users.
//! * L2 [`cache`], [`fair`]: recent successes; whose password is checked next.
//! * L4 [`service`]: one core's desk for logins; [`hashing`]: the threads that check passwords.
//!
//! Knows no protocol: SMTP, POP3 and IMAP carry the same exchanges in words of their own. Passwords are
//! held as [`Secret`](crate::base::secret::Secret) only, and no error carries one.

pub mod cache;
pub mod client;
pub mod fair;
pub mod hashing;
pub mod mechanism;
pub mod passwd;
pub mod prepare;
pub mod sasl;
pub mod scheme;
pub mod service;
pub mod store;
