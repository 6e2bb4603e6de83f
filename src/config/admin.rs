//! L5: `[admin]`: where operators are heard, and what they must show.
//!
//! Owns the rules between its keys. Reads no file: the token is read by who serves, and by `ringpost check`.

use super::diagnose::Report;
use super::raw;
use super::resolve::path;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where operators are heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    /// The socket.
    pub socket: Option<PathBuf>,
    /// The address, and the file of the token.
    pub tcp: Option<(SocketAddr, PathBuf)>,
}

pub(super) fn resolve(raw: &raw::Admin, report: &mut Report<'_>) -> Admin {
    let socket = path(&raw.socket, "admin.socket", report);
    let token = path(&raw.token_file, "admin.token_file", report);
    if let Some(address) = raw.address.0
        && !address.ip().to_canonical().is_loopback()
        && !raw.beyond_loopback
    {
        let help = "put a proxy with TLS before a loopback address, or write beyond_loopback = true";
        report.error("admin.address", format!("{address} can be reached from other hosts"), help);
    }
    if raw.address.0.is_some() && raw.token_file.is_empty() {
        report.error("admin.token_file", "is required with admin.address", "openssl rand -hex 32 > FILE");
    }
    Admin { socket, tcp: raw.address.0.zip(token) }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn tcp_needs_a_token_and_a_word_for_the_world() {
        let read = |admin: &str| {
            let text = format!("[server]\nhostname = \"mx.example.net\"\n[admin]\n{admin}");
            Config::parse(&text, "t").map(|(config, _)| config.admin).map_err(|p| p.to_string())
        };
        let good = read("address = \"127.0.0.1:9126\"\ntoken_file = \"/etc/token\"\n").expect("good");
        assert_eq!(good.tcp.map(|tcp| tcp.0.port()), Some(9126));
        let default = read("").expect("good");
        assert!(default.tcp.is_none() && default.socket.is_some());
        let no_token = read("address = \"127.0.0.1:9126\"\n").expect_err("no token");
        assert!(no_token.contains("admin.token_file"), "{no_token}");
        let far = "address = \"192.0.2.1:9126\"\ntoken_file = \"/etc/token\"\n";
        let refused = read(far).expect_err("reachable");
        assert!(refused.contains("beyond_loopback"), "{refused}");
        assert!(read(&format!("{far}beyond_loopback = true\n")).is_ok());
        assert!(read("address = \"[::ffff:127.0.0.1]:1\"\ntoken_file = \"/t\"\n").is_ok());
    }
}
