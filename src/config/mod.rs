//! L5: the configuration file, from text to a typed [`Config`], with every problem named.
//!
//! `raw` has the keys and their defaults, `units` the forms of values, `diagnose` the places of
//! problems, `resolve`, `routes`, `tls`, `brakes`, `access`, `filters`, `authenticity`, `forwarding` the
//! rules, `reload` the maps, `users` the password file, `certificates` those of TLS, `signing` the keys that
//! sign mail.
//! `examples/ringpost.toml` documents each key; the tests here hold file, defaults and
//! `docs/configuration.md` together.

pub mod access;
pub mod admin;
pub mod authenticity;
mod brakes;
pub mod certificates;
pub mod diagnose;
pub mod filters;
pub mod forwarding;
pub mod outgoing;
pub mod raw;
pub mod reload;
pub mod resolve;
mod routes;
pub mod signing;
pub mod tls;
pub mod units;
pub mod users;

pub use diagnose::{Problem, Problems, Severity};
pub use resolve::Config;

#[cfg(test)]
mod tests;
