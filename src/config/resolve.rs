//! The rules between keys: from the file as written to the [`Config`] that the server uses.
//!
//! Owns what must fit together and what this version cannot do. A key whose function is missing
//! here and that would change who may read or send mail is an error; other such keys are warnings:
//! none is ignored in silence. Imports the modules' types, never the other way round.

use super::access::{self, Access};
use super::admin::{self, Admin};
use super::authenticity::{self, Authenticity, KeyFile};
use super::brakes;
use super::diagnose::{Problem, Problems, Report, Severity};
use super::filters;
use super::forwarding;
use super::raw::{self, AuthMode, Protocol, Raw};
use super::routes::{next_hop, routes};
use super::tls;
use super::units::{Cores, Listen, Network, Rate};
use super::users::{self, Auth};
use crate::mailbox::spread::SHARDS_MAX;
use crate::policy::brakes::Rule;
use crate::policy::greylist::Options as Greylisting;
use crate::policy::reports::Reports;
use crate::route::destination::{NextHop, host_name};
use crate::smtp::inbound;
use crate::smtp::serve::lists::Options as ListOptions;
use ipnet::IpNet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use super::raw::{
    Destination, DestinationFor, Limits, Mailbox, Memory, Queue, RelayTimeouts, Storage, Timeouts,
};

/// A file that passed all rules. Plain data; limits of 0 are turned off.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `server.hostname`, lower case.
    pub hostname: String,
    /// `server.data_dir`, absolute.
    pub data_dir: PathBuf,
    /// `server.user`.
    pub user: Option<String>,
    /// It was written, not left at its default: then it must exist.
    pub user_written: bool,
    /// `server.stop_grace`.
    pub stop_grace: Duration,
    /// `cores.mta`.
    pub mta_cores: Cores,
    /// `cores.access`.
    pub access_cores: Cores,
    /// `cores.shards`; none: as many as access cores, unless the data directory has another number.
    pub shards: Option<u16>,
    /// `cores.pin`.
    pub pin: raw::Pin,
    /// `[storage]`.
    pub storage: Storage,
    /// `[[listener]]`; at least one.
    pub listeners: Vec<Listener>,
    /// `[tls]`; none without a certificate.
    pub tls: Option<tls::Tls>,
    /// `[domains]`.
    pub domains: Domains,
    /// `[relay]`.
    pub relay: Relay,
    /// `[dns]`.
    pub dns: Dns,
    /// `[[route]]`: domain (`example.net`, `.example.net`, `*`) and next hop.
    pub routes: Vec<(String, NextHop)>,
    /// `[[filter]]`, in the order in which they are asked.
    pub filters: Vec<filters::Filter>,
    /// `[queue]`.
    pub queue: Queue,
    /// `[destination]` and its `[[destination.for]]`.
    pub destination: Destination,
    /// `[submission]`.
    pub submission: Submission,
    /// `[[brake]]`.
    pub brakes: Vec<Rule>,
    /// `[access]`.
    pub access: Access,
    /// `[[dnsbl]]`, and how they are used.
    pub lists: ListOptions,
    /// `access.greylist`, and how long what takes.
    pub greylist: Option<Greylisting>,
    /// `[limits]`.
    pub limits: Limits,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[memory]`.
    pub memory: Memory,
    /// `[auth]`.
    pub auth: Auth,
    /// `[authenticity]`.
    pub authenticity: Authenticity,
    /// `[[dkim.key]]`.
    pub dkim: Vec<KeyFile>,
    /// `[arc]`; none: nothing is sealed.
    pub arc: Option<KeyFile>,
    /// `[srs]`; none: senders stay.
    pub srs: Option<forwarding::SrsFile>,
    /// `[reports]`; none: no report is read.
    pub reports: Option<Reports>,
    /// `[mailbox]`.
    pub mailbox: Mailbox,
    /// `[pop3]`.
    pub pop3: raw::Pop3,
    /// `metrics.address`.
    pub metrics: Option<SocketAddr>,
    /// `[admin]`.
    pub admin: Admin,
    /// `events.format`.
    pub event_format: raw::EventFormat,
    /// `events.mail`.
    pub mail_events: raw::MailEvents,
    /// `events.target`.
    pub event_target: EventTarget,
    /// A number that changes with the text of the file; below 2^48, so that a gauge holds it.
    pub hash: u64,
}

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where; at least one, or one of `paths`.
    pub addresses: Vec<SocketAddr>,
    /// Sockets in the file system (LMTP only).
    pub paths: Vec<PathBuf>,
    /// Networks whose PROXY header is required and believed.
    pub proxies: Vec<IpNet>,
    /// Networks that may use XCLIENT and XFORWARD.
    pub forwarders: Vec<IpNet>,
    /// What it does with AUTH; never [`AuthMode::Auto`].
    pub auth: AuthMode,
    /// What it does with TLS.
    pub tls: inbound::Tls,
    /// What it does of `[authenticity]`.
    pub authenticity: raw::ListenerCheck,
}

/// `[domains]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Domains {
    /// Lower case.
    pub local: Vec<String>,
    /// Lower case.
    pub relay: Vec<String>,
    /// Map file.
    pub relay_recipients: Option<PathBuf>,
    /// An address.
    pub postmaster: Option<String>,
    /// Map file.
    pub aliases: Option<PathBuf>,
    /// Map file.
    pub rewrites: Option<PathBuf>,
    /// File of expressions.
    pub rewrite_senders: Option<PathBuf>,
    /// File of expressions.
    pub rewrite_recipients: Option<PathBuf>,
    /// Characters that begin an address extension; may be empty.
    pub recipient_delimiter: String,
}

/// `[relay]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Relay {
    /// Clients that may relay anywhere.
    pub networks: Vec<IpNet>,
    /// Next hop of all mail without a route.
    pub smarthost: Option<NextHop>,
    /// File with the login and the password for the smarthost.
    pub login: Option<PathBuf>,
    /// File of the authorities whose certificates of next hops are believed; none: the system's.
    pub roots: Option<PathBuf>,
    /// Source address.
    pub bind_ipv4: Option<Ipv4Addr>,
    /// Source address.
    pub bind_ipv6: Option<Ipv6Addr>,
    /// Name in EHLO.
    pub helo: String,
    /// Address family to try first.
    pub prefer: raw::Prefer,
    /// Port of mail exchangers.
    pub mx_port: u16,
    /// How long we wait for a next hop.
    pub timeouts: RelayTimeouts,
}

/// `[submission]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// Map file.
    pub senders: Option<PathBuf>,
    /// The client's address is left out of Received.
    pub hide_client: bool,
    /// Messages of one login.
    pub message_rate: Rate,
    /// Recipients of one login.
    pub recipient_rate: Rate,
}

/// `[dns]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// Name servers; empty: the system's.
    pub servers: Vec<SocketAddr>,
    /// Whether signatures are checked.
    pub dnssec: raw::Dnssec,
    /// File of DNSKEY records; none: the keys of the root.
    pub trust_anchors: Option<PathBuf>,
}

/// `events.target`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventTarget {
    /// Standard error.
    Stderr,
    /// Standard error with priorities for journald.
    Journald,
    /// This file, appended to.
    File(PathBuf),
}

impl Config {
    /// Reads the file at `path`; the config and its warnings, or all its problems.
    #[allow(clippy::disallowed_methods)] // the configuration is read by the composition root
    pub fn load(path: &std::path::Path) -> Result<(Config, Problems), Problems> {
        let name = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Self::parse(&text, &name),
                Err(_) => Err(whole_file(&name, "is not UTF-8 text".into(), "save it as UTF-8")),
            },
            Err(e) => {
                Err(whole_file(&name, format!("cannot be read: {e}"), "name another file with -c FILE"))
            }
        }
    }

    /// Reads `text`, which is called `name` in problems.
    pub fn parse(text: &str, name: &str) -> Result<(Config, Problems), Problems> {
        let (raw, mut report) = Report::read(name, text);
        let config = resolve(raw, text, &mut report);
        let problems = report.finish();
        match config {
            Some(config) if !problems.fatal() => Ok((config, problems)),
            _ => Err(problems),
        }
    }

    /// True if there are mailboxes here: for the users, in the local domains.
    #[must_use]
    pub fn has_mailboxes(&self) -> bool {
        self.auth.users.is_some() && !self.domains.local.is_empty()
    }

    /// The listeners of mail cores.
    pub fn mail_listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(|l| !l.protocol.is_of_mailboxes())
    }

    /// The listeners of access cores.
    pub fn access_listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(|l| l.protocol.is_of_mailboxes())
    }

    /// The values for a destination with this host name and this domain: those of the first
    /// matching `[[destination.for]]`, else those of `[destination]`.
    #[must_use]
    pub fn destination_for(&self, host: &str, domain: &str) -> Destination {
        self.narrowed_by(self.narrowing(&[host], domain))
    }

    /// The values of `[destination]`, as narrowed by this block.
    #[must_use]
    pub fn narrowed_by(&self, block: Option<&DestinationFor>) -> Destination {
        let mut values = Destination { narrowed: Vec::new(), ..self.destination.clone() };
        if let Some(f) = block {
            values.connections = f.connections.unwrap_or(values.connections);
            values.messages_per_connection =
                f.messages_per_connection.unwrap_or(values.messages_per_connection);
            values.recipients_per_message = f.recipients_per_message.unwrap_or(values.recipients_per_message);
            values.rate = f.rate.unwrap_or(values.rate);
            values.recipient_rate = f.recipient_rate.unwrap_or(values.recipient_rate);
            values.byte_rate = f.byte_rate.unwrap_or(values.byte_rate);
            values.idle = f.idle.unwrap_or(values.idle);
            values.slow_start = f.slow_start.unwrap_or(values.slow_start);
            values.pause_first = f.pause_first.unwrap_or(values.pause_first);
            values.pause_max = f.pause_max.unwrap_or(values.pause_max);
            values.pause_after_deferrals = f.pause_after_deferrals.unwrap_or(values.pause_after_deferrals);
        }
        values
    }

    /// The first `[[destination.for]]` that is about `domain`, or about a site one of whose hosts is in
    /// `hosts`.
    #[must_use]
    pub fn narrowing(&self, hosts: &[&str], domain: &str) -> Option<&DestinationFor> {
        let fits = |f: &&DestinationFor| {
            if f.site.is_empty() {
                matches_pattern(&f.domain, domain)
            } else {
                hosts.iter().any(|host| matches_pattern(&f.site, host))
            }
        };
        self.destination.narrowed.iter().find(fits)
    }
}

/// `*` alone, `*.suffix`, or a name; ASCII case is ignored.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let ends = |suffix: &str| {
        let at = name.len().checked_sub(suffix.len());
        at.is_some_and(|at| at > 0 && name.as_bytes()[at..].eq_ignore_ascii_case(suffix.as_bytes()))
    };
    pattern == "*" || pattern.strip_prefix('*').map_or_else(|| pattern.eq_ignore_ascii_case(name), ends)
}

fn whole_file(name: &str, message: String, help: &str) -> Problems {
    Problems(vec![Problem::of_file(Severity::Error, name, None, message, help)])
}

/// The config, and all broken rules in `report`. `None` only if a required key is missing.
fn resolve(raw: Raw, text: &str, report: &mut Report<'_>) -> Option<Config> {
    let hostname = hostname(&raw.server.hostname, report);
    unavailable_at_listeners(&raw.listener, report);
    authenticity::of_listeners(&raw.listener, report);
    numbers(&raw, report);
    let tls = tls::resolve(&raw.tls, report);
    let have = tls.is_some() || !raw.tls.certificate.is_empty();
    let users = path(&raw.auth.users, "auth.users", report);
    let auth = users::resolve(&raw, users, report);
    of_mailboxes(&raw.listener, auth.users.is_some() && !raw.domains.local.is_empty(), report);
    if raw.pop3.idle.0 < std::time::Duration::from_secs(600) {
        report.warning("pop3.idle", "is below the 10 minutes of RFC 1939 section 3", "");
    }
    let listeners = listeners(&raw.listener, have, auth.users.is_some(), report);
    let domains = domains(raw.domains, report);
    let roots = path(&raw.tls.roots, "tls.roots", report);
    let relay = relay(raw.relay, hostname.as_deref().unwrap_or(""), roots, report);
    let routes = routes(&raw.route, report);
    narrowed(&raw.destination, report);
    let authenticity = authenticity::resolve(&raw.authenticity, hostname.as_deref().unwrap_or(""), report);
    let data_dir = absolute(&raw.server.data_dir, "server.data_dir", report).unwrap_or_default();
    let event_target = match raw.events.target.as_str() {
        "stderr" => EventTarget::Stderr,
        "journald" => EventTarget::Journald,
        path => EventTarget::File(absolute(path, "events.target", report).unwrap_or_default()),
    };
    Some(Config {
        hostname: hostname?,
        data_dir,
        user: (!raw.server.user.is_empty()).then_some(raw.server.user),
        user_written: report.is_written("server.user"),
        stop_grace: raw.server.stop_grace.0,
        mta_cores: raw.cores.mta,
        access_cores: raw.cores.access,
        shards: shards(&raw.cores.shards, report),
        pin: raw.cores.pin,
        storage: raw.storage,
        listeners,
        tls,
        domains,
        relay,
        dns: dns(&raw.dns, report),
        routes,
        filters: filters::resolve(&raw.filter, report),
        queue: raw.queue,
        destination: raw.destination,
        submission: submission(&raw.submission, report),
        brakes: brakes::resolve(&raw.brake, report),
        access: access::resolve(&raw.access, report),
        lists: access::lists(&raw.dnsbl, &raw.access, report),
        greylist: access::greylist(&raw.access, report),
        limits: raw.limits,
        timeouts: raw.timeouts,
        memory: raw.memory,
        auth,
        authenticity,
        dkim: authenticity::keys(&raw.dkim, report),
        arc: forwarding::arc(&raw.arc, &raw.authenticity, report),
        srs: forwarding::srs(&raw.srs, report),
        reports: forwarding::reports(&raw.reports, report),
        mailbox: raw.mailbox,
        pop3: raw.pop3,
        metrics: raw.metrics.address.0,
        admin: admin::resolve(&raw.admin, report),
        event_format: raw.events.format,
        mail_events: raw.events.mail,
        event_target,
        hash: hash(text),
    })
}

fn submission(raw: &raw::Submission, report: &mut Report<'_>) -> Submission {
    Submission {
        senders: path(&raw.senders, "submission.senders", report),
        hide_client: raw.hide_client,
        message_rate: raw.message_rate,
        recipient_rate: raw.recipient_rate,
    }
}

fn hostname(text: &str, report: &mut Report<'_>) -> Option<String> {
    if text.is_empty() {
        report.error("server.hostname", "is required", "write hostname = \"mx1.example.net\" under [server]");
        return None;
    }
    match host_name(text) {
        Err(e) => {
            report.error(
                "server.hostname",
                e,
                "write the full name of this host, such as \"mx1.example.net\"",
            );
            None
        }
        Ok(name) => {
            if !name.contains('.') {
                let what = format!("{name:?} has no domain; many servers refuse such a name in EHLO");
                report.warning("server.hostname", what, "write the full name that its address resolves to");
            }
            Some(name)
        }
    }
}

const MISSING: &str = "not available in this version";

/// The number of shards that was written.
fn shards(written: &Cores, report: &mut Report<'_>) -> Option<u16> {
    match written {
        Cores::Auto => None,
        Cores::Count(n) if *n <= u32::from(SHARDS_MAX) => u16::try_from(*n).ok(),
        Cores::Count(_) => {
            report.error("cores.shards", format!("must be {SHARDS_MAX} at most"), "");
            None
        }
        Cores::List(_) => {
            report.error("cores.shards", "must be a number", "write shards = 4, or \"auto\"");
            None
        }
    }
}

/// Whose mailboxes are served? Without users and domains of ours there are none.
fn of_mailboxes(listeners: &[raw::Listener], have: bool, report: &mut Report<'_>) {
    for (n, l) in listeners.iter().enumerate().filter(|_| !have) {
        if let Some(p) = l.protocol.0.filter(|p| p.is_of_mailboxes()) {
            let help = "name a password file with auth.users, and the domains with domains.local";
            report.error(&format!("listener.{n}.protocol"), format!("\"{p}\" needs mailboxes"), help);
        }
    }
}

fn unavailable_at_listeners(listeners: &[raw::Listener], report: &mut Report<'_>) {
    for (n, l) in listeners.iter().enumerate() {
        let at = |key: &str| format!("listener.{n}.{key}");
        match l.protocol.0 {
            Some(Protocol::Smtp | Protocol::Submission | Protocol::Submissions) | None => {}
            Some(Protocol::Pop3 | Protocol::Pop3s | Protocol::Imap | Protocol::Imaps | Protocol::Lmtp) => {}
            Some(p) => {
                let help = "smtp, submission, submissions, lmtp, pop3, pop3s, imap and imaps are";
                report.error(&at("protocol"), format!("\"{p}\" is {MISSING}"), help);
            }
        }
    }
}

/// Most bytes of a message that a bounce may return.
const BOUNCE_MAX: u64 = 512 << 10;

fn numbers(raw: &Raw, report: &mut Report<'_>) {
    let (q, s, l) = (&raw.queue, &raw.storage, &raw.limits);
    let segment = s.segment_size.0;
    if !(1 << 20..=1 << 30).contains(&segment) || !segment.is_multiple_of(4096) {
        report.error("storage.segment_size", "must be from 1MiB to 1GiB, in steps of 4KiB", "");
    } else if s.journal_limit.0 < 8 * segment {
        let help = format!("write at least {} bytes, or smaller segments", 8 * segment);
        report.error("storage.journal_limit", "must hold 8 segments at least", &help);
    }
    if q.retry_first.0.is_zero() || q.retry_first > q.retry_max {
        report.error("queue.retry_first", "must be above 0 and not above queue.retry_max", "");
    }
    for (key, lifetime) in [("queue.lifetime", q.lifetime), ("queue.bounce_lifetime", q.bounce_lifetime)] {
        if lifetime < q.retry_first {
            report.warning(key, "is shorter than queue.retry_first: there is one attempt only", "");
        }
    }
    if raw.destination.connections == 0 {
        report.error("destination.connections", "must be 1 at least", "");
    }
    let (first, max) = (raw.destination.pause_first, raw.destination.pause_max);
    if first.0.is_zero() || first > max {
        report.error("destination.pause_first", "must be above 0 and not above destination.pause_max", "");
    }
    let soft_above = l.errors_hard != 0 && l.errors_soft > l.errors_hard;
    if soft_above {
        report.error("limits.errors_soft", "is above limits.errors_hard", "");
    }
    let (line, field) = (l.command_line.limit(), l.header_field_size.limit());
    if line.is_some_and(|n| !(512..=1 << 16).contains(&n)) {
        report.error(
            "limits.command_line",
            "must be from 512 bytes (RFC 5321 section 4.5.3.1.4) to 64KiB",
            "",
        );
    }
    if l.auth_line.limit().is_some_and(|n| !(1024..=16 << 10).contains(&n)) {
        report.error("limits.auth_line", "must be from 1KiB to 16KiB (RFC 4954 section 4: 12KiB)", "");
    }
    if l.header_size.limit().is_some_and(|n| field.is_none_or(|f| f > n)) {
        report.error("limits.header_field_size", "is above limits.header_size", "");
    }
    if l.bounce_size.0 > BOUNCE_MAX {
        report.error("limits.bounce_size", "is above 512KiB: a bounce has to fit into one record", "");
    }
    if (1..100).contains(&l.recipients) {
        report.warning("limits.recipients", "is below 100, which RFC 5321 section 4.5.3.1.8 asks for", "");
    }
    if raw.timeouts.command.limit().is_some_and(|t| t < Duration::from_secs(300)) {
        report.add(Severity::Note, "timeouts.command", "RFC 5321 section 4.5.3.2.7 asks for 5 minutes", "");
    }
    if raw.memory.budget.limit().is_some_and(|b| b < raw.memory.spill.0) {
        report.error("memory.spill", "is above memory.budget", "");
    }
}

/// `have`: there is a certificate; `users`: there are users.
fn listeners(written: &[raw::Listener], have: bool, users: bool, report: &mut Report<'_>) -> Vec<Listener> {
    let mut all = Vec::new();
    let mut taken: Vec<SocketAddr> = Vec::new();
    if written.is_empty() {
        let addresses = vec![([0, 0, 0, 0], 25).into(), (Ipv6Addr::UNSPECIFIED, 25).into()];
        let tls = tls::of_listener(&raw::Listener::default(), 0, have, report);
        let (protocol, auth) = (Protocol::Smtp, AuthMode::Off);
        let (paths, proxies, forwarders) = (vec![], vec![], vec![]);
        let authenticity = raw::ListenerCheck::Auto;
        return vec![Listener { protocol, addresses, paths, auth, tls, proxies, forwarders, authenticity }];
    }
    for (n, l) in written.iter().enumerate() {
        let at = |key: &str| format!("listener.{n}.{key}");
        if l.protocol.0.is_none() && !report.is_written(&at("protocol")) {
            report.error(&at("protocol"), "is required", "write protocol = \"smtp\"");
        }
        if l.address.0.is_empty() && !report.is_written(&at("address")) {
            report.error(&at("address"), "is required", "write address = [\"0.0.0.0:25\", \"[::]:25\"]");
        }
        let (mut addresses, mut paths) = (Vec::new(), Vec::new());
        for (i, address) in l.address.0.iter().enumerate() {
            let here = if report.is_written(&at(&format!("address.{i}"))) {
                format!("address.{i}")
            } else {
                "address".into()
            };
            match address {
                Listen::Unix(path) if l.protocol.0 == Some(Protocol::Lmtp) => paths.push(path.clone()),
                Listen::Unix(_) => {
                    let help = "write an address and a port, such as \"0.0.0.0:25\"";
                    report.error(&at(&here), "a socket in the file system is for \"lmtp\" only", help)
                }
                Listen::Tcp(a) if a.port() == 25 && l.protocol.0 == Some(Protocol::Lmtp) => {
                    let help = "write another port, such as 24";
                    report.error(&at(&here), "LMTP is never served on port 25 (RFC 2033 section 5)", help)
                }
                Listen::Tcp(a) if taken.contains(a) => {
                    report.error(&at(&here), format!("{a} is listed twice"), "")
                }
                Listen::Tcp(a) => {
                    taken.push(*a);
                    addresses.push(*a);
                }
            }
        }
        for (key, list) in
            [("proxy_protocol_from", &l.proxy_protocol_from), ("xclient_from", &l.xclient_from)]
        {
            everyone(&at(key), list, report);
        }
        all.push(Listener {
            protocol: l.protocol.0.unwrap_or(Protocol::Smtp),
            addresses,
            paths,
            auth: users::mode(l, users),
            tls: tls::of_listener(l, n, have, report),
            proxies: l.proxy_protocol_from.iter().map(|n| n.0).collect(),
            forwarders: l.xclient_from.iter().map(|n| n.0).collect(),
            authenticity: l.authenticity,
        });
    }
    all
}

/// Whoever is in these networks says who it is.
fn everyone(key: &str, networks: &[Network], report: &mut Report<'_>) {
    for (n, _) in networks.iter().enumerate().filter(|(_, network)| network.0.prefix_len() == 0) {
        let what = "everyone may pretend to be any client, also one that may relay";
        report.error(&format!("{key}.{n}"), what, "list the addresses of your own proxies only");
    }
}

fn domains(raw: raw::Domains, report: &mut Report<'_>) -> Domains {
    let mut names = |key: &str, list: &[String]| {
        let mut good: Vec<String> = Vec::new();
        for (n, text) in list.iter().enumerate() {
            let at = format!("domains.{key}.{n}");
            match host_name(text) {
                Ok(name) if good.contains(&name) => report.warning(&at, "is listed twice", ""),
                Ok(name) => good.push(name),
                Err(e) => report.error(&at, e, "write a domain such as \"example.net\""),
            }
        }
        good
    };
    let (local, relay) = (names("local", &raw.local), names("relay", &raw.relay));
    if let Some(both) = local.iter().find(|d| relay.contains(d)) {
        let what = format!("{both:?} is in domains.local too");
        report.error("domains.relay", what, "local: its mailboxes are here; relay: they are elsewhere");
    }
    if raw.recipient_delimiter.bytes().any(|b| !b.is_ascii_punctuation() || b == b'@') {
        report.error(
            "domains.recipient_delimiter",
            "must be characters such as \"+\" or \"+-\", or empty",
            "",
        );
    }
    let postmaster = (!raw.postmaster.is_empty()).then_some(raw.postmaster);
    match &postmaster {
        Some(p) if !p.contains('@') || p.starts_with('@') || p.bytes().any(|b| b <= b' ') => {
            report.error(
                "domains.postmaster",
                format!("{p:?} is not an address"),
                "write \"name@example.net\"",
            );
        }
        None if !local.is_empty() || !relay.is_empty() => {
            let what = "nobody gets the mail of postmaster@ our domains (RFC 5321 section 4.5.1)";
            report.warning("domains.postmaster", what, "write postmaster = \"name@example.net\"");
        }
        _ => {}
    }
    Domains {
        local,
        relay,
        relay_recipients: path(&raw.relay_recipients, "domains.relay_recipients", report),
        postmaster,
        aliases: path(&raw.aliases, "domains.aliases", report),
        rewrites: path(&raw.r#virtual, "domains.virtual", report),
        rewrite_senders: path(&raw.rewrite_senders, "domains.rewrite_senders", report),
        rewrite_recipients: path(&raw.rewrite_recipients, "domains.rewrite_recipients", report),
        recipient_delimiter: raw.recipient_delimiter,
    }
}

fn relay(raw: raw::Relay, hostname: &str, roots: Option<PathBuf>, report: &mut Report<'_>) -> Relay {
    let mut smarthost = (!raw.smarthost.is_empty())
        .then(|| next_hop(&raw.smarthost, raw.smarthost_tls, "relay.smarthost", report))
        .flatten();
    let login = path(&raw.smarthost_auth, "relay.smarthost_auth", report);
    if login.is_some() {
        if raw.smarthost.is_empty() {
            report.error(
                "relay.smarthost_auth",
                "is for a smarthost, and there is none",
                "write relay.smarthost",
            );
        }
        if raw.smarthost_tls != raw::RouteTls::Required {
            let what = "whoever answers in the smarthost's place may get the password";
            report.warning("relay.smarthost_tls", what, "write smarthost_tls = \"required\"");
        }
        smarthost = smarthost.map(NextHop::with_login);
    }
    for (n, network) in raw.networks.iter().enumerate() {
        if network.0.prefix_len() == 0 {
            let what = "everyone may relay through this server: it will be used to send junk";
            report.warning(&format!("relay.networks.{n}"), what, "list your own networks only");
        }
    }
    let helo = match raw.helo.as_str() {
        "" => hostname.to_string(),
        name => host_name(name).unwrap_or_else(|e| {
            report.error("relay.helo", e, "");
            String::new()
        }),
    };
    Relay {
        networks: raw.networks.iter().map(|n| n.0).collect(),
        smarthost,
        login,
        roots,
        bind_ipv4: raw.bind_ipv4.0,
        bind_ipv6: raw.bind_ipv6.0,
        helo,
        prefer: raw.prefer,
        mx_port: raw.mx_port,
        timeouts: raw.timeouts,
    }
}

fn dns(raw: &raw::Dns, report: &mut Report<'_>) -> Dns {
    let mut servers = Vec::new();
    for (n, text) in raw.servers.iter().enumerate() {
        // "192.0.2.53", "192.0.2.53:5353", "[2001:db8::53]:5353", "2001:db8::53".
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        let address = text.parse::<SocketAddr>().ok();
        match address.or_else(|| Some(SocketAddr::new(bare.parse().ok()?, 53))).filter(|a| a.port() != 0) {
            Some(address) => servers.push(address),
            None => report.error(
                &format!("dns.servers.{n}"),
                format!("{text:?} is not the address of a name server"),
                "write \"192.0.2.53\" or \"192.0.2.53:5353\"",
            ),
        }
    }
    if raw.dnssec == raw::Dnssec::TrustAd
        && let Some(far) = servers.iter().find(|a| !a.ip().to_canonical().is_loopback())
    {
        let what = format!("whoever is between this host and {} can say that anything is secure", far.ip());
        report.warning("dns.dnssec", what, "\"validate\" checks signatures here");
    }
    let trust_anchors = path(&raw.trust_anchors, "dns.trust_anchors", report);
    Dns { servers, dnssec: raw.dnssec, trust_anchors }
}

fn narrowed(destination: &Destination, report: &mut Report<'_>) {
    for (n, f) in destination.narrowed.iter().enumerate() {
        let at = format!("destination.for.{n}");
        if f.site.is_empty() == f.domain.is_empty() {
            report.error(
                &at,
                "needs either site or domain",
                "write site = \"*.example.com\" or domain = \"example.com\"",
            );
        }
        if f.connections == Some(0) {
            report.error(&format!("{at}.connections"), "must be 1 at least", "");
        }
        let first = f.pause_first.unwrap_or(destination.pause_first);
        if first.0.is_zero() || first > f.pause_max.unwrap_or(destination.pause_max) {
            report.error(&format!("{at}.pause_first"), "must be above 0 and not above pause_max", "");
        }
    }
}

pub(super) fn path(text: &str, key: &str, report: &mut Report<'_>) -> Option<PathBuf> {
    if text.is_empty() { None } else { absolute(text, key, report) }
}

pub(super) fn absolute(text: &str, key: &str, report: &mut Report<'_>) -> Option<PathBuf> {
    if !text.starts_with('/') {
        report.error(key, format!("{text:?} is not an absolute path"), "begin it with /");
        return None;
    }
    Some(text.into())
}

/// FNV-1a, folded to 48 bits.
fn hash(text: &str) -> u64 {
    let h = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    (h ^ (h >> 48)) & ((1 << 48) - 1)
}
