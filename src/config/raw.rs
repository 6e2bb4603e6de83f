//! The file as written: one struct per section, one field per key, each with its default.
//!
//! Owns the names and defaults of all keys. Knows no rule between keys (`resolve` does) and no
//! position in the file (`diagnose` does). Keys whose function this version lacks are here too, so
//! that `resolve` can say so. `examples/ringpost.toml` documents every key; a test compares.

use super::units::{ByteRate, Cores as CoreSet, Duration, Listen, Many, Maybe, Network, Rate, Size};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

macro_rules! section {
    ($(
        $(#[$about:meta])*
        $name:ident { $($(#[$doc:meta])* $key:ident: $type:ty = $default:expr,)* }
    )*) => { $(
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[$doc])* pub $key: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                $name { $($key: $default,)* }
            }
        }
    )* };
}

macro_rules! choice {
    ($($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $value:ident,)* })*) => { $(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$doc])* $value,)* }
    )* };
}

mod authenticity;
mod choices;
pub use authenticity::{
    ArcKey, Authenticity, AuthenticityFor, Check, Dkim, DkimKey, ListenerCheck, ReportAction, ReportKeys,
    SrsKeys,
};
pub use choices::*;

section! {
    /// The whole file.
    Raw {
        /// `[server]`
        server: Server = Server::default(),
        /// `[cores]`
        cores: Cores = Cores::default(),
        /// `[storage]`
        storage: Storage = Storage::default(),
        /// `[[listener]]`
        listener: Vec<Listener> = Vec::new(),
        /// `[tls]`
        tls: Tls = Tls::default(),
        /// `[domains]`
        domains: Domains = Domains::default(),
        /// `[relay]`
        relay: Relay = Relay::default(),
        /// `[[route]]`
        route: Vec<Route> = Vec::new(),
        /// `[[filter]]`
        filter: Vec<Filter> = Vec::new(),
        /// `[queue]`
        queue: Queue = Queue::default(),
        /// `[destination]`
        destination: Destination = Destination::default(),
        /// `[submission]`
        submission: Submission = Submission::default(),
        /// `[[brake]]`
        brake: Vec<Brake> = Vec::new(),
        /// `[access]`
        access: Access = Access::default(),
        /// `[[dnsbl]]`
        dnsbl: Vec<Dnsbl> = Vec::new(),
        /// `[limits]`
        limits: Limits = Limits::default(),
        /// `[timeouts]`
        timeouts: Timeouts = Timeouts::default(),
        /// `[memory]`
        memory: Memory = Memory::default(),
        /// `[auth]`
        auth: Auth = Auth::default(),
        /// `[dns]`
        dns: Dns = Dns::default(),
        /// `[authenticity]`
        authenticity: Authenticity = Authenticity::default(),
        /// `[dkim]`
        dkim: Dkim = Dkim::default(),
        /// `[arc]`
        arc: ArcKey = ArcKey::default(),
        /// `[srs]`
        srs: SrsKeys = SrsKeys::default(),
        /// `[reports]`
        reports: ReportKeys = ReportKeys::default(),
        /// `[mailbox]`
        mailbox: Mailbox = Mailbox::default(),
        /// `[pop3]`
        pop3: Pop3 = Pop3::default(),
        /// `[metrics]`
        metrics: Metrics = Metrics::default(),
        /// `[admin]`
        admin: Admin = Admin::default(),
        /// `[events]`
        events: Events = Events::default(),
    }

    /// `[server]`: who we are.
    Server {
        /// Name in greeting, EHLO, Received and bounces. Required.
        hostname: String = String::new(),
        /// Where journals lie.
        data_dir: String = "/var/lib/ringpost".into(),
        /// User to become after binding; empty: stay.
        user: String = "ringpost".into(),
        /// After SIGTERM: time to finish what is in hand.
        stop_grace: Duration = Duration::s(30),
    }

    /// `[cores]`: threads.
    Cores {
        /// For SMTP and the queue.
        mta: CoreSet = CoreSet::Auto,
        /// For mailboxes.
        access: CoreSet = CoreSet::Auto,
        /// Bind threads to CPUs.
        pin: Pin = Pin::Auto,
        /// Mailbox shards.
        shards: CoreSet = CoreSet::Auto,
    }

    /// `[storage]`: the journal.
    Storage {
        /// Bytes of one segment file; at least 1 MiB.
        segment_size: Size = Size::mib(64),
        /// What a file system must promise.
        durability: Durability = Durability::Full,
        /// Upper bound of the journal's bytes per core.
        journal_limit: Size = Size::mib(4096),
        /// Bytes of the journal per core from which on waiting mail goes into the archive.
        journal_window: Size = Size::mib(512),
        /// Free bytes of the file system that new mail leaves alone.
        free_min: Size = Size::mib(1024),
    }

    /// `[[listener]]`: one service.
    Listener {
        /// Required.
        protocol: Maybe<Protocol> = Maybe(None),
        /// Required.
        address: Many<Listen> = Many(Vec::new()),
        /// Authentication.
        auth: AuthMode = AuthMode::Auto,
        /// Encryption.
        tls: ListenerTls = ListenerTls::Auto,
        /// Networks whose PROXY header is required and believed.
        proxy_protocol_from: Vec<Network> = Vec::new(),
        /// Networks that may use XCLIENT.
        xclient_from: Vec<Network> = Vec::new(),
        /// What is done here of what `[authenticity]` says.
        authenticity: ListenerCheck = ListenerCheck::Auto,
    }

    /// `[tls]`: certificates.
    Tls {
        /// PEM file.
        certificate: String = String::new(),
        /// PEM file.
        key: String = String::new(),
        /// Least version.
        minimum: String = "1.2".into(),
        /// PEM file of the authorities whose certificates of clients are believed.
        client_authorities: String = String::new(),
        /// PEM file of the authorities whose certificates of next hops are believed; empty: the system's.
        roots: String = String::new(),
        /// `[[tls.sni]]`
        sni: Vec<Sni> = Vec::new(),
    }

    /// `[[tls.sni]]`: another certificate for some names.
    Sni {
        /// Host names.
        names: Vec<String> = Vec::new(),
        /// PEM file.
        certificate: String = String::new(),
        /// PEM file.
        key: String = String::new(),
    }

    /// `[domains]`: whose mail we take.
    Domains {
        /// Recipients here live on this server.
        local: Vec<String> = Vec::new(),
        /// Accepted from anyone and passed on.
        relay: Vec<String> = Vec::new(),
        /// Map of the known recipients of relay domains.
        relay_recipients: String = String::new(),
        /// Gets the mail of postmaster@ our domains, and double bounces.
        postmaster: String = String::new(),
        /// Map of names in local domains.
        aliases: String = String::new(),
        /// Map of addresses.
        r#virtual: String = String::new(),
        /// Expressions that rewrite senders: "/pattern/flags replacement".
        rewrite_senders: String = String::new(),
        /// Expressions that rewrite recipients, before the maps.
        rewrite_recipients: String = String::new(),
        /// Characters that begin an address extension.
        recipient_delimiter: String = "+".into(),
    }

    /// `[relay]`: mail that passes through.
    Relay {
        /// Clients that may relay anywhere.
        networks: Vec<Network> =
            vec!["127.0.0.0/8".parse().expect("valid"), "::1/128".parse().expect("valid")],
        /// Next hop of all mail without a route.
        smarthost: String = String::new(),
        /// File with "user password".
        smarthost_auth: String = String::new(),
        /// Encryption towards the smarthost.
        smarthost_tls: RouteTls = RouteTls::Opportunistic,
        /// Port of MX hosts.
        mx_port: u16 = 25,
        /// Source address.
        bind_ipv4: Maybe<Ipv4Addr> = Maybe(None),
        /// Source address.
        bind_ipv6: Maybe<Ipv6Addr> = Maybe(None),
        /// Name in EHLO; empty: hostname.
        helo: String = String::new(),
        /// Address family to try first.
        prefer: Prefer = Prefer::Dns,
        /// `[relay.timeouts]`
        timeouts: RelayTimeouts = RelayTimeouts::default(),
    }

    /// `[relay.timeouts]`: how long we wait for a next hop (RFC 5321 section 4.5.3.2).
    RelayTimeouts {
        /// For the connection.
        connect: Duration = Duration::s(30),
        /// For the greeting.
        greeting: Duration = Duration::s(300),
        /// For the reply to EHLO or HELO.
        helo: Duration = Duration::s(300),
        /// For a TLS handshake.
        tls: Duration = Duration::s(60),
        /// For the reply to MAIL.
        mail: Duration = Duration::s(300),
        /// For the reply to RCPT.
        rcpt: Duration = Duration::s(300),
        /// For the reply to DATA.
        data: Duration = Duration::s(120),
        /// For each piece of the message.
        data_block: Duration = Duration::s(180),
        /// For the reply to the end of the message.
        final_dot: Duration = Duration::s(600),
        /// For the reply to RSET or QUIT.
        quit: Duration = Duration::s(30),
    }

    /// `[[route]]`: where a domain's mail goes.
    Route {
        /// Required.
        domain: String = String::new(),
        /// Required.
        next_hop: String = String::new(),
        /// Encryption.
        tls: RouteTls = RouteTls::Opportunistic,
    }

    /// `[[filter]]`: a program that is asked about mail that comes in.
    Filter {
        /// For logs; empty: its address.
        name: String = String::new(),
        /// What it speaks.
        kind: FilterKind = FilterKind::Milter,
        /// Required.
        address: String = String::new(),
        /// Protocols of the listeners whose mail it sees.
        listeners: Vec<Protocol> = vec![Protocol::Smtp, Protocol::Submission, Protocol::Submissions],
        /// What is done when it cannot be asked.
        when_down: WhenDown = WhenDown::Tempfail,
        /// For the connection.
        connect_timeout: Duration = Duration::s(5),
        /// For each answer before the end of the message.
        command_timeout: Duration = Duration::s(30),
        /// For a message as a whole.
        message_timeout: Duration = Duration::s(300),
        /// Not for clients in `relay.networks`.
        skip_trusted: bool = false,
        /// Not for clients that have logged in.
        skip_authenticated: bool = false,
    }

    /// `[queue]`: retries.
    Queue {
        /// Wait after the first failed attempt; then doubled.
        retry_first: Duration = Duration::s(300),
        /// Longest wait.
        retry_max: Duration = Duration::s(4000),
        /// Then the message bounces.
        lifetime: Duration = Duration::s(5 * 86_400),
        /// The same for bounces.
        bounce_lifetime: Duration = Duration::s(86_400),
        /// Age at which the sender is told of the delay; 0: never.
        delay_warning: Duration = Duration::s(0),
        /// What becomes of a bounce that cannot be delivered.
        double_bounce: DoubleBounce = DoubleBounce::Postmaster,
        /// Messages in the queue of one core.
        messages: u32 = 20_000_000,
    }

    /// `[destination]`: defaults for every destination.
    Destination {
        /// Concurrent connections.
        connections: u32 = 20,
        /// Messages before a connection is closed; 0: no limit.
        messages_per_connection: u32 = 100,
        /// Recipients of one message in one transaction; 0: no limit.
        recipients_per_message: u32 = 50,
        /// Messages per time.
        rate: Rate = Rate(None),
        /// Recipients per time; up to one message more.
        recipient_rate: Rate = Rate(None),
        /// Bytes of messages per time; up to one message more.
        byte_rate: ByteRate = ByteRate(None),
        /// How long a connection without work stays open.
        idle: Duration = Duration::s(60),
        /// Connections before the first one has worked; 0: no such limit.
        slow_start: u32 = 5,
        /// How long a site is left alone that cannot be reached; then doubled up to
        pause_first: Duration = Duration::s(60),
        /// Longest pause.
        pause_max: Duration = Duration::s(4000),
        /// Messages that a site puts off (4xx to MAIL, DATA or the message, or 421) in a row before it
        /// is left alone; 0: never.
        pause_after_deferrals: u32 = 20,
        /// `[[destination.for]]`
        #[serde(rename = "for")]
        narrowed: Vec<DestinationFor> = Vec::new(),
    }

    /// `[[destination.for]]`: narrower values for some destinations.
    DestinationFor {
        /// Pattern of host names; this or `domain` is required.
        site: String = String::new(),
        /// Pattern of domains.
        domain: String = String::new(),
        /// As in [`Destination`].
        #[serde(skip_serializing_if = "Option::is_none")]
        connections: Option<u32> = None,
        /// As in [`Destination`].
        #[serde(skip_serializing_if = "Option::is_none")]
        messages_per_connection: Option<u32> = None,
        /// As in [`Destination`].
        #[serde(skip_serializing_if = "Option::is_none")]
        recipients_per_message: Option<u32> = None,
        /// As in [`Destination`].
        #[serde(skip_serializing_if = "Option::is_none")]
        rate: Option<Rate> = None,
        /// As in [`Destination`].
        #[serde(skip_serializing_if = "Option::is_none")]
        recipient_rate: Option<Rate> = None,
        /// As in [`Destination`].
        #[serde(skip_serializing_if = "Option::is_none")]
        byte_rate: Option<ByteRate> = None,
        /// As in [`Destination`].
        #[serde(skip_serializing_if = "Option::is_none")]
        idle: Option<Duration> = None,
        /// As in [`Destination`].
        #[serde(skip_serializing_if = "Option::is_none")]
        slow_start: Option<u32> = None,
        /// As in [`Destination`].
        #[serde(skip_serializing_if = "Option::is_none")]
        pause_first: Option<Duration> = None,
        /// As in [`Destination`].
        #[serde(skip_serializing_if = "Option::is_none")]
        pause_max: Option<Duration> = None,
        /// As in [`Destination`].
        #[serde(skip_serializing_if = "Option::is_none")]
        pause_after_deferrals: Option<u32> = None,
    }

    /// `[submission]`: mail of our own users (RFC 6409).
    Submission {
        /// Map of logins and the addresses they may send from; empty: any.
        senders: String = String::new(),
        /// The client's address is left out of Received.
        hide_client: bool = false,
        /// Messages per time of one login.
        message_rate: Rate = Rate(None),
        /// Recipients per time of one login.
        recipient_rate: Rate = Rate(None),
    }

    /// `[[brake]]`: how much mail of one may come in; all that apply count.
    Brake {
        /// Whose mail is counted together.
        by: BrakeScope = BrakeScope::Login,
        /// Messages per time.
        messages: Rate = Rate(None),
        /// Recipients per time.
        recipients: Rate = Rate(None),
        /// Bytes of messages per time, each rounded up to KiB.
        bytes: ByteRate = ByteRate(None),
        /// Share of recipients that may be refused, here or by next hops, in percent; 0: any.
        failed_percent: u32 = 0,
        /// From so many recipients on.
        failed_least: u32 = 50,
        /// Within this time.
        failed_window: Duration = Duration::s(3600),
        /// Messages that wait in the queue; 0: any.
        waiting: u32 = 0,
        /// Clients that may relay by their address are counted by address and network, too.
        trusted: bool = false,
        /// What is done with what is above a limit.
        action: BrakeAction = BrakeAction::Tempfail,
    }

    /// `[access]`: maps "key action".
    Access {
        /// Of clients: addresses, networks, names.
        client: String = String::new(),
        /// Of names in EHLO and HELO.
        helo: String = String::new(),
        /// Of senders: addresses, domains.
        sender: String = String::new(),
        /// Of recipients: addresses, domains.
        recipient: String = String::new(),
        /// Sum of the scores of DNS lists from which on a client is listed.
        dnsbl_threshold: i32 = 1,
        /// What is done with its mail.
        dnsbl_action: BrakeAction = BrakeAction::Reject,
        /// Text of the refusal.
        dnsbl_text: String = "%a is listed by %z".into(),
        /// How long all lists together may take.
        dnsbl_time: Duration = Duration::s(5),
        /// Who sends for the first time is asked to come again.
        greylist: bool = false,
        /// Not before this time has passed.
        greylist_delay: Duration = Duration::s(300),
        /// Within this time.
        greylist_window: Duration = Duration::s(2 * 86_400),
        /// Who has come again is known for so long after its last mail.
        greylist_known: Duration = Duration::s(35 * 86_400),
    }

    /// `[[dnsbl]]`: a DNS list of clients (RFC 5782).
    Dnsbl {
        /// Required.
        zone: String = String::new(),
        /// Answers that count; empty: all.
        codes: Vec<Network> = Vec::new(),
        /// What it counts.
        score: i32 = 1,
    }

    /// `[limits]`: 0 turns a limit off.
    Limits {
        /// Bytes of a message; announced as SIZE.
        message_size: Size = Size::mib(50),
        /// Recipients of one transaction.
        recipients: u32 = 1000,
        /// Recipients beyond that are answered 452; beyond this number more, each counts as an error.
        recipients_overshoot: u32 = 1000,
        /// Bytes of a refused message that are read and dropped before the session is closed.
        message_drop: Size = Size::mib(256),
        /// Received lines.
        hops: u32 = 50,
        /// Open sessions.
        sessions: u32 = 100_000,
        /// Open sessions of one IPv4 address or IPv6 /64.
        sessions_per_address: u32 = 100,
        /// Open sessions of one IPv4 /24 or IPv6 /48.
        sessions_per_network: u32 = 400,
        /// Connections a minute of one IPv4 address or IPv6 /64.
        connections_per_minute: u32 = 300,
        /// Connections a minute of one IPv4 /24 or IPv6 /48.
        connections_per_minute_per_network: u32 = 1200,
        /// Failed logins of one IPv4 address or IPv6 /64 before it is refused.
        login_failures: u32 = 20,
        /// Failed logins with one login before clients that are not known for it are refused.
        login_failures_per_login: u32 = 100,
        /// In this time so many failures fade.
        login_memory: Duration = Duration::s(3600),
        /// The wait after the first failure; then doubled.
        login_delay: Duration = Duration::s(2),
        /// The longest wait.
        login_delay_max: Duration = Duration::s(15),
        /// Open sessions of one user.
        sessions_per_user: u32 = 30,
        /// A CR or LF alone in a message.
        bare_newline: BareNewline = BareNewline::Refuse,
        /// Bytes of a command line.
        command_line: Size = Size::kib(2),
        /// Bytes of a line during AUTH (RFC 4954 section 4).
        auth_line: Size = Size::kib(12),
        /// Bytes of all headers together.
        header_size: Size = Size::mib(1),
        /// Bytes of one header.
        header_field_size: Size = Size::kib(100),
        /// Number of headers.
        headers: u32 = 1000,
        /// Transactions of one session.
        messages_per_session: u32 = 1000,
        /// NOOP, RSET, VRFY, HELP between two messages.
        junk_commands: u32 = 100,
        /// Commands before EHLO that we do not know.
        unknown_commands: u32 = 3,
        /// Failed logins before the session is closed.
        auth_failures: u32 = 3,
        /// Errors before each further reply waits `error_delay`.
        errors_soft: u32 = 10,
        /// Errors before the session is closed.
        errors_hard: u32 = 20,
        /// See `errors_soft`.
        error_delay: Duration = Duration::s(1),
        /// Bytes a second a client must send a message at.
        data_rate_min: Size = Size(500),
        /// Reply bytes that wait for a client before we read no more of it.
        output_buffer: Size = Size::kib(128),
        /// Rewritings of one recipient in a row.
        alias_depth: u32 = 20,
        /// Recipients that one recipient becomes.
        alias_recipients: u32 = 1000,
        /// Bytes up to which a bounce returns the message; more: its headers.
        bounce_size: Size = Size(50_000),
    }

    /// `[timeouts]`: how long we wait for a client; 0 turns one off.
    Timeouts {
        /// For the next command.
        command: Duration = Duration::s(300),
        /// For the next bytes of a message.
        data_block: Duration = Duration::s(180),
        /// For a TLS handshake.
        tls: Duration = Duration::s(30),
        /// From MAIL to the beginning of the message.
        envelope: Duration = Duration::s(1800),
        /// For a whole message, beyond its size at `limits.data_rate_min`.
        data: Duration = Duration::s(300),
        /// For a client to take our reply.
        write: Duration = Duration::s(180),
        /// For stable storage, before the client is told 451.
        commit: Duration = Duration::s(60),
        /// For a session as a whole.
        session: Duration = Duration::s(0),
        /// For the PROXY header of a listed proxy.
        proxy_header: Duration = Duration::s(5),
        /// How long the greeting of clients that may not relay is held back; 0: not at all.
        greeting_delay: Duration = "100ms".parse().expect("valid"),
    }

    /// `[memory]`: bounds of memory.
    Memory {
        /// Bytes of messages being received, all sessions together.
        budget: Size = Size::mib(512),
        /// Bytes of a message above which it goes to a side file.
        spill: Size = Size::mib(1),
    }

    /// `[auth]`: users.
    Auth {
        /// Password file.
        users: String = String::new(),
        /// SASL mechanisms; empty: all that can be served but CRAM-MD5 and the PLUS forms.
        mechanisms: Vec<String> = Vec::new(),
        /// Passwords without TLS.
        allow_plaintext: bool = false,
        /// Threads that check passwords; 0: one for every two CPUs.
        hash_threads: u32 = 0,
        /// Passwords that wait for them, on all cores together.
        hash_waiting: u32 = 500,
        /// How long one may take, the wait included.
        hash_time: Duration = Duration::s(5),
        /// Recent successes that each core keeps.
        cache: u32 = 20_000,
        /// How long.
        cache_time: Duration = Duration::s(600),
    }

    /// `[dns]`
    Dns {
        /// Resolvers; empty: the system's.
        servers: Vec<String> = Vec::new(),
        /// Validation.
        dnssec: Dnssec = Dnssec::Validate,
        /// File; empty: the root's.
        trust_anchors: String = String::new(),
    }

    /// `[mailbox]`
    Mailbox {
        /// Bytes per account; 0: none.
        quota: Size = Size(0),
        /// Messages per account; 0: none.
        quota_messages: u32 = 0,
        /// What is said to mail for an account that is full.
        over_quota: OverQuota = OverQuota::Reject,
    }

    /// `[pop3]`
    Pop3 {
        /// For a command after the login.
        idle: Duration = Duration::s(600),
        /// Least time between two logins of a user; 0: none.
        login_delay: Duration = Duration::s(0),
        /// Days after which mail is removed, as clients are told; 0: never.
        expire_days: u32 = 0,
        /// LAST is obeyed.
        last: bool = false,
    }

    /// `[metrics]`
    Metrics {
        /// Where /metrics, /healthz and /readyz are served; empty: nowhere.
        address: Maybe<SocketAddr> = Maybe(Some("127.0.0.1:9125".parse().expect("valid"))),
    }

    /// `[admin]`
    Admin {
        /// Socket for the command line and the HTTP interface (docs/api.md); empty: none.
        socket: String = "/run/ringpost/admin.sock".into(),
        /// Where the HTTP interface is served over TCP, too, to those who show the token; empty: nowhere.
        /// Without TLS: a proxy in front has to do that.
        address: Maybe<SocketAddr> = Maybe(None),
        /// File with the token: one line of 32 to 512 characters; others may not read it.
        token_file: String = String::new(),
        /// `address` may be one that other hosts reach, where the token passes unencrypted.
        beyond_loopback: bool = false,
    }

    /// `[events]`: notices and alarms.
    Events {
        /// Form of a line.
        format: EventFormat = EventFormat::Json,
        /// `stderr`, `journald`, or a path.
        target: String = "stderr".into(),
        /// The mail log, to the same place: a record for every message that comes in, every attempt to
        /// deliver it, every refusal (all); only of what did not go well (failures); none (off).
        mail: MailEvents = MailEvents::All,
    }
}

impl Raw {
    /// The defaults with one block of each kind of list: the shape of the file.
    #[must_use]
    pub fn shape() -> Self {
        let one = DestinationFor {
            connections: Some(20),
            messages_per_connection: Some(100),
            recipients_per_message: Some(50),
            rate: Some(Rate(None)),
            recipient_rate: Some(Rate(None)),
            byte_rate: Some(ByteRate(None)),
            idle: Some(Duration::s(60)),
            slow_start: Some(5),
            pause_first: Some(Duration::s(60)),
            pause_max: Some(Duration::s(4000)),
            pause_after_deferrals: Some(20),
            ..DestinationFor::default()
        };
        let mut raw =
            Raw { listener: vec![Listener::default()], route: vec![Route::default()], ..Raw::default() };
        raw.tls.sni.push(Sni::default());
        raw.filter.push(Filter::default());
        raw.destination.narrowed.push(one);
        raw.brake.push(Brake::default());
        raw.dnsbl.push(Dnsbl::default());
        authenticity::shape(&mut raw);
        raw
    }
}
