//! From the configuration to the options of each part. Plain mapping; nothing fails.
//!
//! In the configuration 0 turns a limit off; the parts want a number, so off becomes the largest.

use crate::access::host;
use crate::config::Config;
use crate::config::filters;
use crate::config::raw::{self, Protocol};
use crate::config::resolve::Listener;
use crate::config::units::{Duration as Span, PerTime, Size};
use crate::delivery::{agent, relay};
use crate::imap;
use crate::mailbox::store;
use crate::mailbox::types::Quota;
use crate::policy::access::Networks;
use crate::pop3;
use crate::queue::desk::{self, DoubleBounce};
use crate::queue::pace::{Backoff, Rate};
use crate::queue::schedule::Limits;
use crate::route::mx::Family;
use crate::runtime::table::TableOptions;
use crate::smtp::data::{self, BareNewline, NulBytes};
use crate::smtp::inbound::AuthMode;
use crate::smtp::serve::filter::{self, Filter};
use crate::smtp::{inbound, outbound, serve};
use crate::storage::{self, archive};
use crate::tls::Certificates;
use std::rc::Rc;
use std::time::Duration;

/// Bytes that are allocated to the index beforehand: enough for the deletes of many messages, and
/// no more than is of use.
const INDEX_RESERVE_MIN: u64 = 4 << 20;
const INDEX_RESERVE_MAX: u64 = 64 << 20;

/// A day short of what timers can hold; stands for "no limit".
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

fn bytes(size: Size) -> u64 {
    size.limit().unwrap_or(u64::MAX >> 1)
}

fn count(n: u32) -> u32 {
    if n == 0 { u32::MAX } else { n }
}

fn time(span: Span) -> Duration {
    span.limit().unwrap_or(NEVER)
}

/// A journal of one core.
pub fn storage(c: &Config) -> storage::Options {
    let segment = u32::try_from(c.storage.segment_size.0).expect("checked by the configuration");
    let count = |bytes: u64| u32::try_from(bytes / u64::from(segment)).unwrap_or(u32::MAX);
    let segments_max = count(c.storage.journal_limit.0).clamp(8, 65_536);
    storage::Options {
        segments_max,
        // The other half is for what cannot be taken out at once.
        window: count(c.storage.journal_window.0).clamp(2, segments_max / 2),
        disk_free_min: c.storage.free_min.0,
        ..storage::Options::production(segment)
    }
}

/// The queue of one core, of `cores`.
pub fn desk(c: &Config, cores: usize) -> desk::Options {
    let postmaster = c.domains.postmaster.clone().unwrap_or_default();
    let mut options = desk::Options::new(&c.hostname, &postmaster);
    options.retry = Backoff { first: c.queue.retry_first.0, max: c.queue.retry_max.0 };
    options.lifetime = c.queue.lifetime.0;
    options.bounce_lifetime = c.queue.bounce_lifetime.0;
    options.delay_warning = c.queue.delay_warning.0;
    options.double_bounce = match c.queue.double_bounce {
        // Nobody to send it to.
        raw::DoubleBounce::Postmaster if postmaster.is_empty() => DoubleBounce::Drop,
        raw::DoubleBounce::Postmaster => DoubleBounce::Postmaster,
        raw::DoubleBounce::Drop => DoubleBounce::Drop,
    };
    // 0 turns a limit off everywhere else; here it means what it says.
    options.bounce_size = usize::try_from(c.limits.bounce_size.0).unwrap_or(usize::MAX);
    options.recipients_max = count(c.destination.recipients_per_message) as usize;
    options.commit_wait = time(c.timeouts.commit);
    options.limits.body_bytes = share(c, cores);
    options.limits.messages = c.queue.messages as usize;
    let segment = u32::try_from(c.storage.segment_size.0).expect("checked by the configuration");
    // The last space is for the more urgent: new mail leaves all of it, the archive, which takes mail
    // out of a journal that would be full otherwise, a half, and the index has its own allocated.
    options.archive =
        archive::Options { disk_free_min: c.storage.free_min.0 / 2, ..archive::Options::production(segment) };
    let reserve_bytes = (c.storage.free_min.0 / 16).clamp(INDEX_RESERVE_MIN, INDEX_RESERVE_MAX);
    options.table = TableOptions { reserve_bytes, ..options.table };
    options
}

/// A mailbox shard, of `shards`.
pub fn mailboxes(c: &Config, shards: u16) -> store::Options {
    let segment = u32::try_from(c.storage.segment_size.0).expect("checked by the configuration");
    let usual = store::Options::default();
    // As for the queue: see there.
    let archive =
        archive::Options { disk_free_min: c.storage.free_min.0 / 2, ..archive::Options::production(segment) };
    let reserve_bytes = (c.storage.free_min.0 / 16).clamp(INDEX_RESERVE_MIN, INDEX_RESERVE_MAX);
    let table = TableOptions { reserve_bytes, ..usual.table };
    let resident_max = usual.resident_max / usize::from(shards.clamp(1, 16));
    store::Options { archive, table, resident_max, ..usual }
}

/// What an account may hold.
pub fn quota(c: &Config) -> Quota {
    Quota { bytes: c.mailbox.quota.0, messages: c.mailbox.quota_messages.into() }
}

/// Half of the memory budget of a core: for bodies coming in, and for bodies on their way out.
fn share(c: &Config, cores: usize) -> usize {
    usize::try_from(bytes(c.memory.budget) / 2 / cores as u64).unwrap_or(usize::MAX)
}

/// The sessions of one core, of `cores`.
pub fn sessions(c: &Config, cores: usize) -> serve::Options {
    let others = inbound(c);
    // Load tests and other relays send without end over one connection.
    let trusted = inbound::Options { transactions_max: u32::MAX, ..others.clone() };
    serve::Options {
        trusted: Rc::new(trusted),
        others: Rc::new(others),
        side_bytes: usize::try_from(c.memory.spill.0).unwrap_or(usize::MAX).max(64 << 10),
        memory: share(c, cores),
        busy: time(c.timeouts.commit),
        write: time(c.timeouts.write),
        session: time(c.timeouts.session),
        proxy_header: time(c.timeouts.proxy_header),
        // Zero means what it says: nobody looks.
        greeting_delay: c.timeouts.greeting_delay.0,
        check: c.authenticity.timeout,
        ..serve::Options::new(&c.hostname)
    }
}

/// The filters of one core, each with the protocols of its listeners. `tell`: how each is told of.
pub fn filters(c: &Config, tell: impl Fn() -> filter::Tell) -> Vec<(Vec<Protocol>, Rc<Filter>)> {
    let new = |f: &filters::Filter| (f.listeners.clone(), Filter::new(f.options.clone(), tell()));
    c.filters.iter().map(new).collect()
}

/// How each listening socket lets clients in, in the order of the sockets of a core.
pub fn doors(
    c: &Config,
    certificates: Option<&Certificates>,
    filters: &[(Vec<Protocol>, Rc<Filter>)],
) -> Vec<Rc<serve::Door>> {
    let door = |l: &Listener| {
        let asked = filters.iter().filter(|(protocols, _)| protocols.contains(&l.protocol));
        let (proxies, forwarders) = (l.proxies.iter().copied(), l.forwarders.iter().copied());
        let for_users = matches!(l.protocol, Protocol::Submission | Protocol::Submissions);
        let submission = serve::Submission { hide_client: c.submission.hide_client };
        Rc::new(serve::Door {
            tls: l.tls,
            certificates: certificates.cloned(),
            // Where users log in; other servers have nothing to prove.
            ask_certificate: for_users,
            proxies: Networks::new(proxies),
            forwarders: Networks::new(forwarders),
            submission: for_users.then_some(submission),
            authenticity: c.authenticity.at(l).map(Rc::new),
            lmtp: false,
            filters: asked.map(|(_, filter)| filter.clone()).collect(),
            auth: match l.auth {
                raw::AuthMode::Offered => AuthMode::Offered,
                raw::AuthMode::Required => AuthMode::Required,
                raw::AuthMode::Off | raw::AuthMode::Auto => AuthMode::Off,
            },
        })
    };
    c.mail_listeners().flat_map(|l| vec![door(l); l.addresses.len()]).collect()
}

fn inbound(c: &Config) -> inbound::Options {
    let (l, t) = (&c.limits, &c.timeouts);
    inbound::Options {
        message: data::Limits {
            size: bytes(l.message_size),
            header: bytes(l.header_size),
            field: bytes(l.header_field_size),
            fields: count(l.headers),
            hops: count(l.hops),
            bare_newline: match l.bare_newline {
                raw::BareNewline::Refuse => BareNewline::Refuse,
                raw::BareNewline::Normalize => BareNewline::Normalize,
            },
            nul: NulBytes::Refuse,
        },
        // The receive buffer must hold a line.
        line_max: usize::try_from(bytes(l.command_line)).unwrap_or(usize::MAX).min(16 << 10),
        auth_line: usize::try_from(bytes(l.auth_line)).unwrap_or(usize::MAX).min(16 << 10),
        auth_failures_max: count(l.auth_failures),
        recipients_max: count(l.recipients),
        recipients_overshoot: count(l.recipients_overshoot),
        transactions_max: count(l.messages_per_session),
        junk_max: count(l.junk_commands),
        errors_soft: count(l.errors_soft),
        errors_hard: count(l.errors_hard),
        unknown_max: count(l.unknown_commands),
        error_delay: l.error_delay.0,
        tls_time: time(t.tls),
        command_time: time(t.command),
        block_time: time(t.data_block),
        envelope_time: time(t.envelope),
        data_time: time(t.data),
        data_rate: l.data_rate_min.0,
        drop_max: bytes(l.message_drop),
        replies_max: usize::try_from(bytes(l.output_buffer)).unwrap_or(usize::MAX).max(4096),
        ..inbound::Options::production(&c.hostname)
    }
}

/// The connections to next hops.
pub fn agent(c: &Config) -> agent::Options {
    let t = &c.relay.timeouts;
    let client = outbound::Options {
        recipients_max: count(c.destination.recipients_per_message),
        transactions_max: count(c.destination.messages_per_connection),
        banner: t.greeting.0,
        hello: t.helo.0,
        handshake: t.tls.0,
        mail: t.mail.0,
        rcpt: t.rcpt.0,
        data: t.data.0,
        block: t.data_block.0,
        final_dot: t.final_dot.0,
        quit: t.quit.0,
        ..outbound::Options::new(&c.relay.helo)
    };
    let relay = relay::Options { client, idle: c.destination.idle.0, ..relay::Options::new(&c.relay.helo) };
    let family = family(c.relay.prefer);
    agent::Options { relay, connect: t.connect.0, family, ..agent::Options::new(&c.relay.helo) }
}

/// The family of addresses that is tried first.
pub fn family(prefer: raw::Prefer) -> Family {
    match prefer {
        raw::Prefer::Ipv4 => Family::Ipv4,
        raw::Prefer::Ipv6 => Family::Ipv6,
        raw::Prefer::Dns => Family::Any,
    }
}

/// The limits of a destination.
pub fn destination(d: &raw::Destination) -> Limits {
    let rate = |r: Option<PerTime>| r.map_or(Rate::default(), |r| Rate { count: r.count.into(), per: r.per });
    Limits {
        connections: d.connections.max(1),
        slow_start: d.slow_start,
        messages_per_connection: d.messages_per_connection,
        recipients_per_message: d.recipients_per_message,
        idle: d.idle.0,
        rate: rate(d.rate.0),
        recipients: rate(d.recipient_rate.0),
        bytes: d.byte_rate.0.map_or(Rate::default(), |r| Rate { count: r.bytes, per: r.per }),
        pause: Backoff { first: d.pause_first.0, max: d.pause_max.0 },
        put_off: d.pause_after_deferrals,
    }
}

/// What sessions that read mailboxes have in common.
pub fn access_host(c: &Config) -> host::Options {
    let t = &c.timeouts;
    host::Options { proxy_header: time(t.proxy_header), write: time(t.write), ..host::Options::default() }
}

/// The sessions of POP3.
pub fn pop3(c: &Config) -> pop3::serve::Options {
    let (l, t) = (&c.limits, &c.timeouts);
    let seconds = c.pop3.login_delay.0.as_secs();
    let session = pop3::inbound::Options {
        auth_line: usize::try_from(bytes(l.auth_line)).unwrap_or(usize::MAX).min(16 << 10),
        failures_max: count(l.auth_failures),
        errors_max: count(l.errors_hard),
        tls_time: time(t.tls),
        idle_time: time(c.pop3.idle),
        send_time: time(c.pop3.idle),
        replies_max: usize::try_from(bytes(l.output_buffer)).unwrap_or(usize::MAX).max(4096),
        last: c.pop3.last,
        login_delay: u32::try_from(seconds).unwrap_or(u32::MAX),
        expire: (c.pop3.expire_days > 0).then_some(c.pop3.expire_days),
        ..pop3::inbound::Options::production()
    };
    pop3::serve::Options { session: Rc::new(session), lasts: time(t.session) }
}

/// The sessions of IMAP.
pub fn imap(c: &Config, cores: usize) -> imap::serve::Options {
    let (l, t) = (&c.limits, &c.timeouts);
    let session = imap::session::Options {
        auth_line: usize::try_from(bytes(l.auth_line)).unwrap_or(usize::MAX).min(16 << 10),
        failures_max: count(l.auth_failures),
        errors_max: count(l.errors_hard),
        tls_time: time(t.tls),
        replies_max: usize::try_from(bytes(l.output_buffer)).unwrap_or(usize::MAX).max(4096),
        // What mail may be as it comes in; more than 4 GiB no mailbox takes.
        append_limit: Some(bytes(l.message_size).min(u64::from(u32::MAX) / 2)),
        header_max: bytes(l.header_size).max(64 << 10),
        ..imap::session::Options::production()
    };
    imap::serve::Options { session: Rc::new(session), lasts: time(t.session), memory: share(c, cores) }
}

/// The sessions of LMTP: their clients are relays of the site.
pub fn lmtp(c: &Config, cores: usize) -> serve::Options {
    let session = inbound::Options {
        transactions_max: u32::MAX,
        junk_max: 1000,
        errors_soft: u32::MAX,
        errors_hard: 10_000,
        error_delay: Duration::ZERO,
        ..inbound(c)
    };
    let session = Rc::new(session);
    let (trusted, others) = (session.clone(), session);
    serve::Options { trusted, others, greeting_delay: Duration::ZERO, ..sessions(c, cores) }
}
