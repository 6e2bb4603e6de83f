//! L3: every series, in one table: name, kind, labels, help.
//!
//! [`Core::new`] registers all series of one core at once, so that each is exported as zero from
//! the start; shells keep the handles and never use the macros of `metrics` (14 times dearer). Series that
//! exist for each value of a label are [`families`]; those of the largest destinations are [`destinations`].
//! [`Process`] has what is one for the whole process and is read when it is asked for.
//! `docs/metrics.md` lists exactly these tables; a test compares. Nothing here can fail: what
//! cannot be read is left out.

pub mod cores;
pub mod destinations;
pub mod families;

use crate::base::time::Wall;
use destinations::{Counting, Registry};
use families::Families;
use metrics::{Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use std::fmt::Write;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

pub use metrics::{Counter, Gauge, Histogram, NoopRecorder};

macro_rules! series {
    ($($field:ident: $kind:ident $name:literal {$($label:literal = $value:literal),*} $help:literal;)*) => {
        /// The series of one mail core. Cheap to clone; increments cost about 4 ns.
        #[derive(Clone)]
        pub struct Core {
            series: Arc<Series>,
            /// Series for each value of a label.
            pub families: Arc<Families>,
            destinations: Registry,
        }

        /// The handles of all series.
        pub struct Series {
            $(#[doc = $help] pub $field: $kind,)*
        }

        impl Deref for Core {
            type Target = Series;

            fn deref(&self) -> &Series {
                &self.series
            }
        }

        /// Name, kind, fixed labels and help of every series of [`Core`] (all also carry `core`).
        pub const TABLE: &[(&str, &str, &[(&str, &str)], &str)] =
            &[$(($name, stringify!($kind), &[$(($label, $value)),*], $help),)*];

        impl Core {
            /// Registers the series of core number `core` with `recorder`.
            pub fn new(recorder: &impl Recorder, core: usize) -> Self {
                let series = Series {
                    $($field: {
                        #[allow(unused_mut)]
                        let mut labels = vec![Label::new("core", core.to_string())];
                        $(labels.push(Label::new($label, $value));)*
                        $kind::register(recorder, $name, labels, $help)
                    },)*
                };
                let families = Arc::new(Families::new(recorder, core));
                Core { series: Arc::new(series), families, destinations: Registry::default() }
            }
        }
    };
}

impl Core {
    /// Its destinations are counted in `registry`, with those of others.
    #[must_use]
    pub fn counted_in(self, registry: &Registry) -> Self {
        Core { destinations: registry.clone(), ..self }
    }

    /// For one queue to count its destinations with.
    #[must_use]
    pub fn destinations(&self) -> Counting {
        Counting::new(&self.destinations)
    }

    /// The queue has ended: what its gauges showed is no more.
    pub fn clear_queue(&self) {
        let queue = [&self.queue_messages, &self.queue_active, &self.queue_deferred, &self.queue_held];
        let rest = [&self.queue_bytes, &self.queue_oldest, &self.journal_segments, &self.journal_live_ratio];
        let archive = [&self.archive_bytes, &self.archive_live_bytes, &self.index_bytes, &self.index_lag];
        let parked = [&self.queue_parked, &self.queue_loading, &self.queue_destinations];
        let paused = [&self.queue_paused_sites, &self.queue_paused_messages];
        let all = queue.into_iter().chain(rest).chain(archive).chain(parked).chain(paused);
        all.for_each(|gauge| gauge.set(0.0));
    }
}

trait Register {
    fn register(recorder: &impl Recorder, name: &'static str, labels: Vec<Label>, help: &'static str)
    -> Self;
}

const META: Metadata<'static> = Metadata::new("ringpost", Level::INFO, None);

impl Register for Counter {
    fn register(r: &impl Recorder, name: &'static str, labels: Vec<Label>, help: &'static str) -> Self {
        r.describe_counter(name.into(), None::<Unit>, help.into());
        r.register_counter(&Key::from_parts(name, labels), &META)
    }
}

impl Register for Gauge {
    fn register(r: &impl Recorder, name: &'static str, labels: Vec<Label>, help: &'static str) -> Self {
        r.describe_gauge(name.into(), None::<Unit>, help.into());
        let g = r.register_gauge(&Key::from_parts(name, labels), &META);
        g.set(0.0);
        g
    }
}

impl Register for Histogram {
    fn register(r: &impl Recorder, name: &'static str, labels: Vec<Label>, help: &'static str) -> Self {
        r.describe_histogram(name.into(), None::<Unit>, help.into());
        r.register_histogram(&Key::from_parts(name, labels), &META)
    }
}

series! {
    smtp_sessions: Gauge "ringpost_smtp_sessions" {} "SMTP sessions open now";
    smtp_connections: Counter "ringpost_connections_total" {"direction" = "in"} "Connections accepted or opened";
    out_connections: Counter "ringpost_connections_total" {"direction" = "out"} "Connections accepted or opened";
    out_connections_failed: Counter "ringpost_connections_failed_total" {"direction" = "out"} "Connections that could not be opened";
    out_open: Gauge "ringpost_connections" {"direction" = "out"} "Connections open now";
    out_reused: Counter "ringpost_connection_reuse_total" {} "Messages sent over a connection that had carried one before";
    out_tls_any: Counter "ringpost_tls_outbound_handshakes_total" {"proof" = "none"} "Handshakes completed with next hops, by what vouches for the next hop";
    out_tls_authority: Counter "ringpost_tls_outbound_handshakes_total" {"proof" = "authority"} "Handshakes completed with next hops, by what vouches for the next hop";
    out_tls_dane: Counter "ringpost_tls_outbound_handshakes_total" {"proof" = "dane"} "Handshakes completed with next hops, by what vouches for the next hop";
    out_tls_failed: Counter "ringpost_tls_outbound_handshakes_failed_total" {} "Handshakes with next hops that failed";
    out_tls_in_clear: Counter "ringpost_tls_outbound_cleartext_total" {} "Connections made in clear text because a handshake with the host had failed";
    out_tls_missing: Counter "ringpost_tls_outbound_missing_total" {} "Connections given up because TLS was required and not to be had";
    tls_sessions: Gauge "ringpost_tls_sessions" {} "Sessions of clients under TLS open now";
    tls12: Counter "ringpost_tls_handshakes_total" {"version" = "1.2"} "Handshakes completed with clients";
    tls13: Counter "ringpost_tls_handshakes_total" {"version" = "1.3"} "Handshakes completed with clients";
    tls12_resumed: Counter "ringpost_tls_resumptions_total" {"version" = "1.2"} "Handshakes that took up an earlier session";
    tls13_resumed: Counter "ringpost_tls_resumptions_total" {"version" = "1.3"} "Handshakes that took up an earlier session";
    tls_not_tls: Counter "ringpost_tls_handshakes_failed_total" {"reason" = "not_tls"} "Handshakes with clients that failed";
    tls_version: Counter "ringpost_tls_handshakes_failed_total" {"reason" = "version"} "Handshakes with clients that failed";
    tls_cipher: Counter "ringpost_tls_handshakes_failed_total" {"reason" = "cipher"} "Handshakes with clients that failed";
    tls_protocol: Counter "ringpost_tls_handshakes_failed_total" {"reason" = "alpn"} "Handshakes with clients that failed";
    tls_certificate: Counter "ringpost_tls_handshakes_failed_total" {"reason" = "certificate"} "Handshakes with clients that failed";
    tls_late: Counter "ringpost_tls_handshakes_failed_total" {"reason" = "timeout"} "Handshakes with clients that failed";
    tls_gone: Counter "ringpost_tls_handshakes_failed_total" {"reason" = "closed"} "Handshakes with clients that failed";
    tls_other: Counter "ringpost_tls_handshakes_failed_total" {"reason" = "other"} "Handshakes with clients that failed";
    replies_2xx: Counter "ringpost_smtp_replies_total" {"class" = "2xx"} "Replies sent to clients";
    replies_3xx: Counter "ringpost_smtp_replies_total" {"class" = "3xx"} "Replies sent to clients";
    replies_4xx: Counter "ringpost_smtp_replies_total" {"class" = "4xx"} "Replies sent to clients";
    replies_5xx: Counter "ringpost_smtp_replies_total" {"class" = "5xx"} "Replies sent to clients";
    sessions_timed_out: Counter "ringpost_smtp_timeouts_total" {} "Sessions closed because a deadline passed";
    refused_sessions: Counter "ringpost_smtp_refused_total" {"reason" = "sessions"} "Connections refused at once by a limit";
    refused_address: Counter "ringpost_smtp_refused_total" {"reason" = "address"} "Connections refused at once by a limit";
    refused_network: Counter "ringpost_smtp_refused_total" {"reason" = "network"} "Connections refused at once by a limit";
    refused_rate: Counter "ringpost_smtp_refused_total" {"reason" = "rate"} "Connections refused at once by a limit";
    refused_stopping: Counter "ringpost_smtp_refused_total" {"reason" = "stopping"} "Connections refused at once by a limit";
    early_talkers: Counter "ringpost_smtp_early_talkers_total" {} "Sessions ended because the client spoke before the greeting";
    logins_delayed: Counter "ringpost_login_backoff_total" {"result" = "delayed"} "Attempts to log in that had to wait, or were refused unseen, after failures";
    logins_refused: Counter "ringpost_login_backoff_total" {"result" = "refused"} "Attempts to log in that had to wait, or were refused unseen, after failures";
    proxy_client: Counter "ringpost_proxy_headers_total" {"result" = "client"} "Connections from proxies by what their PROXY header said";
    proxy_own: Counter "ringpost_proxy_headers_total" {"result" = "own"} "Connections from proxies by what their PROXY header said";
    proxy_none: Counter "ringpost_proxy_headers_total" {"result" = "none"} "Connections from proxies by what their PROXY header said";
    proxy_bad: Counter "ringpost_proxy_headers_total" {"result" = "bad"} "Connections from proxies by what their PROXY header said";
    rejected_relay: Counter "ringpost_rejections_total" {"reason" = "relay"} "Recipients and messages refused";
    rejected_login: Counter "ringpost_rejections_total" {"reason" = "login"} "Recipients and messages refused";
    rejected_sender: Counter "ringpost_rejections_total" {"reason" = "sender"} "Recipients and messages refused";
    rejected_rate: Counter "ringpost_rejections_total" {"reason" = "rate"} "Recipients and messages refused";
    rejected_unknown: Counter "ringpost_rejections_total" {"reason" = "unknown_user"} "Recipients and messages refused";
    rejected_no_route: Counter "ringpost_rejections_total" {"reason" = "no_route"} "Recipients and messages refused";
    rejected_map: Counter "ringpost_rejections_total" {"reason" = "map"} "Recipients and messages refused";
    rejected_size: Counter "ringpost_rejections_total" {"reason" = "size"} "Recipients and messages refused";
    rejected_content: Counter "ringpost_rejections_total" {"reason" = "content"} "Recipients and messages refused";
    rejected_quota: Counter "ringpost_rejections_total" {"reason" = "quota"} "Recipients and messages refused";
    rejected_authenticity: Counter "ringpost_rejections_total" {"reason" = "authenticity"} "Recipients and messages refused";
    rejected_storage: Counter "ringpost_rejections_total" {"reason" = "storage"} "Recipients and messages refused";
    braked_tempfail: Counter "ringpost_braked_total" {"action" = "tempfail"} "Messages and recipients above the limit of a brake, by what was done";
    braked_hold: Counter "ringpost_braked_total" {"action" = "hold"} "Messages and recipients above the limit of a brake, by what was done";
    braked_reject: Counter "ringpost_braked_total" {"action" = "reject"} "Messages and recipients above the limit of a brake, by what was done";
    access_permit: Counter "ringpost_access_total" {"action" = "permit"} "Entries of access maps that applied, by what was done";
    access_reject: Counter "ringpost_access_total" {"action" = "reject"} "Entries of access maps that applied, by what was done";
    access_defer: Counter "ringpost_access_total" {"action" = "defer"} "Entries of access maps that applied, by what was done";
    access_hold: Counter "ringpost_access_total" {"action" = "hold"} "Entries of access maps that applied, by what was done";
    access_discard: Counter "ringpost_access_total" {"action" = "discard"} "Entries of access maps that applied, by what was done";
    access_redirect: Counter "ringpost_access_total" {"action" = "redirect"} "Entries of access maps that applied, by what was done";
    client_names_found: Counter "ringpost_client_names_total" {"result" = "found"} "Clients whose names were looked up for access maps: with names that lead back to them, without, and failed";
    client_names_none: Counter "ringpost_client_names_total" {"result" = "none"} "Clients whose names were looked up for access maps: with names that lead back to them, without, and failed";
    client_names_failed: Counter "ringpost_client_names_total" {"result" = "failed"} "Clients whose names were looked up for access maps: with names that lead back to them, without, and failed";
    dnsbl_listed: Counter "ringpost_dnsbl_total" {"result" = "listed"} "Clients asked about at DNS lists, by what was found (cached: known already); failed: lists that did not answer";
    dnsbl_clean: Counter "ringpost_dnsbl_total" {"result" = "clean"} "Clients asked about at DNS lists, by what was found (cached: known already); failed: lists that did not answer";
    dnsbl_cached: Counter "ringpost_dnsbl_total" {"result" = "cached"} "Clients asked about at DNS lists, by what was found (cached: known already); failed: lists that did not answer";
    dnsbl_failed: Counter "ringpost_dnsbl_total" {"result" = "failed"} "Clients asked about at DNS lists, by what was found (cached: known already); failed: lists that did not answer";
    greylist_known: Counter "ringpost_greylist_total" {"result" = "known"} "Recipients of clients that greylisting is for: of known networks, of those that came again, put off";
    greylist_came_again: Counter "ringpost_greylist_total" {"result" = "came_again"} "Recipients of clients that greylisting is for: of known networks, of those that came again, put off";
    greylist_deferred: Counter "ringpost_greylist_total" {"result" = "deferred"} "Recipients of clients that greylisting is for: of known networks, of those that came again, put off";
    filter_passed: Counter "ringpost_filter_messages_total" {"verdict" = "accept"} "Messages, and commands that were refused, by what filters said of them";
    filter_held: Counter "ringpost_filter_messages_total" {"verdict" = "hold"} "Messages, and commands that were refused, by what filters said of them";
    filter_discarded: Counter "ringpost_filter_messages_total" {"verdict" = "discard"} "Messages, and commands that were refused, by what filters said of them";
    filter_refused: Counter "ringpost_filter_messages_total" {"verdict" = "refuse"} "Messages, and commands that were refused, by what filters said of them";
    filter_changed: Counter "ringpost_filter_changes_total" {} "Messages that a filter has changed, once for each filter";
    filter_connections: Counter "ringpost_filter_connections_total" {} "Connections opened to filters";
    filter_failed_connect: Counter "ringpost_filter_failures_total" {"reason" = "connect"} "Questions that a filter could not be asked, or has not answered as it should";
    filter_failed_time: Counter "ringpost_filter_failures_total" {"reason" = "timeout"} "Questions that a filter could not be asked, or has not answered as it should";
    filter_failed_closed: Counter "ringpost_filter_failures_total" {"reason" = "closed"} "Questions that a filter could not be asked, or has not answered as it should";
    filter_failed_protocol: Counter "ringpost_filter_failures_total" {"reason" = "protocol"} "Questions that a filter could not be asked, or has not answered as it should";
    filter_failed_storage: Counter "ringpost_filter_failures_total" {"reason" = "storage"} "Questions that a filter could not be asked, or has not answered as it should";
    filter_seconds: Histogram "ringpost_filter_seconds" {} "From the end of a message to the verdict of its filters";
    auth_ok_plain: Counter "ringpost_auth_success_total" {"mechanism" = "PLAIN"} "Logins that succeeded, by SASL mechanism";
    auth_ok_login: Counter "ringpost_auth_success_total" {"mechanism" = "LOGIN"} "Logins that succeeded, by SASL mechanism";
    auth_ok_cram_md5: Counter "ringpost_auth_success_total" {"mechanism" = "CRAM-MD5"} "Logins that succeeded, by SASL mechanism";
    auth_ok_scram_sha_1: Counter "ringpost_auth_success_total" {"mechanism" = "SCRAM-SHA-1"} "Logins that succeeded, by SASL mechanism";
    auth_ok_scram_sha_1_plus: Counter "ringpost_auth_success_total" {"mechanism" = "SCRAM-SHA-1-PLUS"} "Logins that succeeded, by SASL mechanism";
    auth_ok_scram_sha_256: Counter "ringpost_auth_success_total" {"mechanism" = "SCRAM-SHA-256"} "Logins that succeeded, by SASL mechanism";
    auth_ok_scram_sha_256_plus: Counter "ringpost_auth_success_total" {"mechanism" = "SCRAM-SHA-256-PLUS"} "Logins that succeeded, by SASL mechanism";
    auth_ok_external: Counter "ringpost_auth_success_total" {"mechanism" = "EXTERNAL"} "Logins that succeeded, by SASL mechanism";
    auth_no_plain: Counter "ringpost_auth_failures_total" {"mechanism" = "PLAIN"} "Logins with a wrong login or password, by SASL mechanism";
    auth_no_login: Counter "ringpost_auth_failures_total" {"mechanism" = "LOGIN"} "Logins with a wrong login or password, by SASL mechanism";
    auth_no_cram_md5: Counter "ringpost_auth_failures_total" {"mechanism" = "CRAM-MD5"} "Logins with a wrong login or password, by SASL mechanism";
    auth_no_scram_sha_1: Counter "ringpost_auth_failures_total" {"mechanism" = "SCRAM-SHA-1"} "Logins with a wrong login or password, by SASL mechanism";
    auth_no_scram_sha_1_plus: Counter "ringpost_auth_failures_total" {"mechanism" = "SCRAM-SHA-1-PLUS"} "Logins with a wrong login or password, by SASL mechanism";
    auth_no_scram_sha_256: Counter "ringpost_auth_failures_total" {"mechanism" = "SCRAM-SHA-256"} "Logins with a wrong login or password, by SASL mechanism";
    auth_no_scram_sha_256_plus: Counter "ringpost_auth_failures_total" {"mechanism" = "SCRAM-SHA-256-PLUS"} "Logins with a wrong login or password, by SASL mechanism";
    auth_no_external: Counter "ringpost_auth_failures_total" {"mechanism" = "EXTERNAL"} "Logins with a wrong login or password, by SASL mechanism";
    auth_malformed: Counter "ringpost_auth_broken_total" {"reason" = "malformed"} "Logins without a verdict: not in the form of the mechanism, or nobody could check them (temporary failure)";
    auth_unavailable: Counter "ringpost_auth_broken_total" {"reason" = "unavailable"} "Logins without a verdict: not in the form of the mechanism, or nobody could check them (temporary failure)";
    auth_cached: Counter "ringpost_auth_cache_hits_total" {} "Passwords that were right a moment ago and needed no hash";
    auth_hashes: Counter "ringpost_auth_hashes_total" {} "Passwords given to the hashing threads";
    auth_waiting: Gauge "ringpost_auth_waiting" {} "Passwords that wait for a hashing thread";
    auth_overflow: Counter "ringpost_auth_overflow_total" {} "Passwords turned away because too many waited";
    pop3_sessions: Gauge "ringpost_pop3_sessions" {} "POP3 sessions open now";
    pop3_connections: Counter "ringpost_pop3_connections_total" {} "POP3 connections accepted";
    pop3_refused_sessions: Counter "ringpost_pop3_refused_total" {"reason" = "sessions"} "POP3 connections refused at once by a limit";
    pop3_refused_address: Counter "ringpost_pop3_refused_total" {"reason" = "address"} "POP3 connections refused at once by a limit";
    pop3_refused_network: Counter "ringpost_pop3_refused_total" {"reason" = "network"} "POP3 connections refused at once by a limit";
    pop3_refused_rate: Counter "ringpost_pop3_refused_total" {"reason" = "rate"} "POP3 connections refused at once by a limit";
    pop3_refused_stopping: Counter "ringpost_pop3_refused_total" {"reason" = "stopping"} "POP3 connections refused at once by a limit";
    pop3_ok: Counter "ringpost_pop3_replies_total" {"class" = "ok"} "POP3 replies sent to clients";
    pop3_err: Counter "ringpost_pop3_replies_total" {"class" = "err"} "POP3 replies sent to clients";
    pop3_timeouts: Counter "ringpost_pop3_timeouts_total" {} "POP3 sessions closed because a deadline passed";
    pop3_in_use: Counter "ringpost_pop3_locked_total" {} "Logins refused because another POP3 session has the mailbox";
    pop3_retrieved: Counter "ringpost_pop3_messages_total" {"result" = "retrieved"} "Messages that POP3 clients have fetched (TOP, too) or deleted";
    pop3_deleted: Counter "ringpost_pop3_messages_total" {"result" = "deleted"} "Messages that POP3 clients have fetched (TOP, too) or deleted";
    pop3_moved_in: Counter "ringpost_pop3_moves_total" {"direction" = "in"} "POP3 sessions that moved at their login to the core that owns the mailbox";
    pop3_moved_out: Counter "ringpost_pop3_moves_total" {"direction" = "out"} "POP3 sessions that moved at their login to the core that owns the mailbox";
    imap_sessions: Gauge "ringpost_imap_sessions" {} "IMAP sessions open now";
    imap_connections: Counter "ringpost_imap_connections_total" {} "IMAP connections accepted";
    imap_refused_sessions: Counter "ringpost_imap_refused_total" {"reason" = "sessions"} "IMAP connections refused at once by a limit";
    imap_refused_address: Counter "ringpost_imap_refused_total" {"reason" = "address"} "IMAP connections refused at once by a limit";
    imap_refused_network: Counter "ringpost_imap_refused_total" {"reason" = "network"} "IMAP connections refused at once by a limit";
    imap_refused_rate: Counter "ringpost_imap_refused_total" {"reason" = "rate"} "IMAP connections refused at once by a limit";
    imap_refused_stopping: Counter "ringpost_imap_refused_total" {"reason" = "stopping"} "IMAP connections refused at once by a limit";
    imap_timeouts: Counter "ringpost_imap_timeouts_total" {} "IMAP sessions closed because a deadline passed";
    imap_moved_in: Counter "ringpost_imap_moves_total" {"direction" = "in"} "IMAP sessions that moved at their login to the core that owns the account";
    imap_moved_out: Counter "ringpost_imap_moves_total" {"direction" = "out"} "IMAP sessions that moved at their login to the core that owns the account";
    imap_notify: Histogram "ringpost_imap_notify_seconds" {} "From the commit of a message until the socket has taken the EXISTS of an IMAP session in IDLE, on the core that owns the mailbox";
    core_lag: Histogram "ringpost_core_lag_seconds" {} "How late the core comes to what is due: it is busy with something else, or has no CPU; looked at four times a second";
    session_panics: Counter "ringpost_session_panics_total" {} "Sessions closed by a fault of ours; must stay 0";
    received: Counter "ringpost_messages_received_total" {} "Messages accepted and on stable storage";
    received_bytes: Counter "ringpost_bytes_received_total" {} "Bytes of accepted messages";
    delivered: Counter "ringpost_deliveries_total" {"result" = "delivered"} "Recipients by result of an attempt";
    deferred: Counter "ringpost_deliveries_total" {"result" = "deferred"} "Recipients by result of an attempt";
    bounced: Counter "ringpost_deliveries_total" {"result" = "bounced"} "Recipients by result of an attempt";
    dsn_sent: Counter "ringpost_dsn_total" {} "Delivery status notifications made";
    direct: Counter "ringpost_direct_deliveries_total" {} "Recipients whose mail went into their mailboxes without being queued; part of ringpost_deliveries_total";
    mail_log_lost: Counter "ringpost_mail_log_lost_total" {} "Records of the mail log that were not written because their writer was behind";
    dsn_postmaster: Counter "ringpost_double_bounces_total" {"result" = "postmaster"} "Notifications that cannot reach the sender, by what became of them";
    dsn_dropped: Counter "ringpost_double_bounces_total" {"result" = "dropped"} "Notifications that cannot reach the sender, by what became of them";
    queue_messages: Gauge "ringpost_queue_messages" {"state" = "all"} "Messages in the queue";
    queue_active: Gauge "ringpost_queue_messages" {"state" = "active"} "Messages in the queue";
    queue_deferred: Gauge "ringpost_queue_messages" {"state" = "deferred"} "Messages in the queue";
    queue_held: Gauge "ringpost_queue_messages" {"state" = "held"} "Messages in the queue";
    queue_bytes: Gauge "ringpost_queue_bytes" {} "Bytes of the messages in the queue";
    queue_oldest: Gauge "ringpost_queue_oldest_seconds" {} "Age of the oldest message in the queue";
    first_attempt: Histogram "ringpost_first_attempt_seconds" {} "From acceptance to the start of the first attempt";
    delivery: Histogram "ringpost_delivery_seconds" {} "From acceptance to the last recipient's delivery";
    commits: Counter "ringpost_commits_total" {} "Batches written to stable storage";
    commit_seconds: Histogram "ringpost_fsync_seconds" {} "Duration of one durable write";
    commit_records: Histogram "ringpost_commit_batch_records" {} "Records in one durable write";
    commit_bytes: Histogram "ringpost_commit_batch_bytes" {} "Bytes in one durable write";
    journal_segments: Gauge "ringpost_journal_segments" {} "Journal segments in use";
    journal_live_ratio: Gauge "ringpost_journal_live_ratio" {} "Share of journal bytes that are still needed";
    queue_destinations: Gauge "ringpost_queue_destinations" {} "Destinations known to the queue; those that nothing waits for are forgotten when there are many";
    queue_paused_sites: Gauge "ringpost_queue_paused_sites" {} "Sites (next hops with their connections) that are left alone for a while because they could not be reached";
    queue_paused_messages: Gauge "ringpost_queue_paused_messages" {} "Messages that are due and wait for sites that are left alone, or for suspended destinations";
    queue_parked: Gauge "ringpost_queue_parked" {} "Messages of the queue that are in archive and index, not in the journal";
    queue_loading: Gauge "ringpost_queue_loading" {} "1 while the index is read after the start";
    archive_bytes: Gauge "ringpost_archive_bytes" {} "Bytes of the archive";
    archive_live_bytes: Gauge "ringpost_archive_live_bytes" {} "Bytes of the archive that are still needed";
    index_bytes: Gauge "ringpost_index_bytes" {} "Bytes of the index on the disk";
    index_lag: Gauge "ringpost_index_lag" {} "Changes that the index has not got yet; the journal has them";
    journal_poisoned: Gauge "ringpost_journal_poisoned" {} "1 after a write or sync error: nothing is accepted until a restart";
    dns_found: Counter "ringpost_dns_lookups_total" {"result" = "found"} "Questions put to name servers";
    dns_no_name: Counter "ringpost_dns_lookups_total" {"result" = "no_name"} "Questions put to name servers";
    dns_no_data: Counter "ringpost_dns_lookups_total" {"result" = "no_data"} "Questions put to name servers";
    dns_bogus: Counter "ringpost_dns_lookups_total" {"result" = "bogus"} "Questions put to name servers";
    dns_failed: Counter "ringpost_dns_lookups_total" {"result" = "failed"} "Questions put to name servers";
    dns_cache_hits: Counter "ringpost_dns_cache_hits_total" {} "Domains whose mail exchangers were known already";
    dns_seconds: Histogram "ringpost_dns_seconds" {} "Duration of one question to name servers";
    authenticity_seconds: Histogram "ringpost_authenticity_seconds" {} "From the end of a message to the results of SPF, DKIM, DMARC and ARC";
    authenticity_busy: Counter "ringpost_authenticity_busy_total" {} "Messages whose signatures count as temporary errors because too many wait to be verified";
    dkim_signatures: Counter "ringpost_dkim_signatures_total" {} "Signatures made";
    dkim_unsigned: Counter "ringpost_dkim_unsigned_total" {} "Messages of our own clients whose author's domain has no key, or not for this client";
    dkim_busy: Counter "ringpost_dkim_busy_total" {} "Messages put off (451) because too many wait for signatures or seals with RSA";
    arc_none: Counter "ringpost_arc_seals_total" {"cv" = "none"} "Messages of strangers that were sealed, by what became of the chain before";
    arc_pass: Counter "ringpost_arc_seals_total" {"cv" = "pass"} "Messages of strangers that were sealed, by what became of the chain before";
    arc_fail: Counter "ringpost_arc_seals_total" {"cv" = "fail"} "Messages of strangers that were sealed, by what became of the chain before";
    arc_unsealed: Counter "ringpost_arc_unsealed_total" {} "Messages of strangers that were passed on without a seal: behind cv=fail, behind 50 seals, or because the chain could not be looked at";
    srs_rewritten: Counter "ringpost_srs_rewritten_total" {} "Forwarded messages whose sender was rewritten";
    reports_feedback: Counter "ringpost_reports_total" {"kind" = "feedback"} "Messages to the addresses for reports, by what they were; delivered: reports of success";
    reports_bounce: Counter "ringpost_reports_total" {"kind" = "bounce"} "Messages to the addresses for reports, by what they were; delivered: reports of success";
    reports_delivered: Counter "ringpost_reports_total" {"kind" = "delivered"} "Messages to the addresses for reports, by what they were; delivered: reports of success";
    reports_unreadable: Counter "ringpost_reports_total" {"kind" = "unreadable"} "Messages to the addresses for reports, by what they were; delivered: reports of success";
    dnssec_off: Gauge "ringpost_dnssec_off" {} "1 while DNSSEC is off because the name servers strip signatures";
    acked_unsynced: Counter "ringpost_acked_unsynced_total" {} "Messages acknowledged before they were on stable storage; 0 by construction";
}

const COMMAND_SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Upper bounds of the buckets of every histogram.
pub const BUCKETS: &[(&str, &[f64])] = &[
    (
        "ringpost_filter_seconds",
        &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 300.0],
    ),
    ("ringpost_imap_notify_seconds", COMMAND_SECONDS),
    (
        "ringpost_core_lag_seconds",
        &[0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0],
    ),
    (
        "ringpost_first_attempt_seconds",
        &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0],
    ),
    (
        "ringpost_delivery_seconds",
        &[
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
            900.0, 3600.0, 14_400.0, 86_400.0, 432_000.0,
        ],
    ),
    (
        "ringpost_fsync_seconds",
        &[
            0.000_05, 0.0001, 0.000_15, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0025, 0.005, 0.01, 0.025,
            0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
        ],
    ),
    (
        "ringpost_commit_batch_records",
        &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0],
    ),
    (
        "ringpost_commit_batch_bytes",
        &[
            4096.0,
            8192.0,
            16_384.0,
            32_768.0,
            65_536.0,
            131_072.0,
            262_144.0,
            524_288.0,
            1_048_576.0,
            4_194_304.0,
        ],
    ),
    (
        "ringpost_dns_seconds",
        &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
    ),
    (
        "ringpost_authenticity_seconds",
        &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
    ),
    // One for each provider or command: fewer.
    (
        "ringpost_provider_delivery_seconds",
        &[0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0, 14_400.0, 86_400.0],
    ),
    ("ringpost_pop3_command_seconds", COMMAND_SECONDS),
    ("ringpost_imap_command_seconds", COMMAND_SECONDS),
];

/// The recorder that [`Core::new`] registers with; its handle renders. `run_upkeep` of the handle
/// must be called every few seconds, or histograms grow.
#[must_use]
pub fn exporter() -> PrometheusRecorder {
    let with = |builder: PrometheusBuilder, (name, bounds): &(&str, &[f64])| {
        builder.set_buckets_for_metric(Matcher::Full((*name).into()), bounds).expect("bounds are not empty")
    };
    BUCKETS.iter().fold(PrometheusBuilder::new(), with).build_recorder()
}

/// Name, kind, labels and help of the series of [`Process`].
pub const PROCESS: &[(&str, &str, &[&str], &str)] = &[
    ("ringpost_build_info", "Gauge", &["version"], "Always 1; the version is the label"),
    ("ringpost_config_hash", "Gauge", &[], "Changes with the configuration file"),
    ("ringpost_ready", "Gauge", &[], "1 while new mail is taken, as /readyz says"),
    (
        "ringpost_core_state",
        "Gauge",
        &["core", "role", "state"],
        "1 for the state the core is in (starting, ready, full, poisoned, stopping, ended), 0 for the others",
    ),
    (
        "ringpost_core_beat_age_seconds",
        "Gauge",
        &["core", "role"],
        "How long ago the core last went round; more than a second: it stands still",
    ),
    (
        "ringpost_core_cpu_seconds_total",
        "Counter",
        &["core", "role"],
        "Time on a CPU of the core's thread, user and system",
    ),
    (
        "ringpost_core_wait_seconds_total",
        "Counter",
        &["core", "role"],
        "Time in which the core's thread could have run and other threads had its CPU",
    ),
    (
        "ringpost_destination_recipients_total",
        "Counter",
        &["destination", "result"],
        "Recipients by destination and result of an attempt, for the destinations with most mail (at most 50); other is all the rest",
    ),
    ("ringpost_disk_size_bytes", "Gauge", &[], "Size of the file system of the data directory"),
    ("ringpost_disk_free_bytes", "Gauge", &[], "Bytes left there for ringpost"),
    ("ringpost_disk_reserve_bytes", "Gauge", &[], "storage.free_min: with less left no new mail is taken"),
    ("ringpost_events_dropped_total", "Counter", &[], "Notices lost because their writer was behind"),
    (
        "ringpost_tls_certificate_expiry_seconds",
        "Gauge",
        &["certificate"],
        "When the certificate in this file expires, since the Unix epoch",
    ),
    (
        "ringpost_tls_reload_failed",
        "Gauge",
        &[],
        "1 while files of certificates have changed and cannot be used; the old ones are in use",
    ),
    ("process_start_time_seconds", "Gauge", &[], "When the process began, since the Unix epoch"),
    ("process_cpu_seconds_total", "Counter", &[], "User and system time of all threads"),
    ("process_resident_memory_bytes", "Gauge", &[], "Memory that is resident"),
    ("process_open_fds", "Gauge", &[], "Open descriptors"),
    ("process_max_fds", "Gauge", &[], "Limit of open descriptors"),
    ("process_threads", "Gauge", &[], "Threads"),
];

/// The series of the process as a whole.
pub struct Process {
    /// When the process began.
    pub started: Wall,
    /// Of the configuration in force.
    pub config_hash: u64,
    /// Of the certificates in force.
    pub certificates: Arc<CertificateStatus>,
    /// Of all queues.
    pub destinations: Registry,
    /// `storage.free_min`, in bytes.
    pub reserve: u64,
}

/// What is asked for when the series of the process are shown.
pub struct Facts {
    /// What the kernel says of us.
    pub proc: ProcSelf,
    /// New mail is taken.
    pub ready: bool,
    /// Notices lost.
    pub events_dropped: u64,
    /// All cores.
    pub cores: Vec<cores::Facts>,
    /// Bytes of the data directory's file system: all, and those that we may still use.
    pub disk: Option<(u64, u64)>,
}

/// What is known of certificates: set by who reads them, shown with the series.
#[derive(Debug, Default)]
pub struct CertificateStatus(Mutex<(Vec<(String, i64)>, bool)>);

impl CertificateStatus {
    fn state(&self) -> std::sync::MutexGuard<'_, (Vec<(String, i64)>, bool)> {
        // Whole values only are put in: a panic elsewhere has not spoilt it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are in force: path of each, and the second it expires, since the Unix epoch.
    pub fn set(&self, expiries: Vec<(String, i64)>) {
        *self.state() = (expiries, false);
    }

    /// Whether files have changed that cannot be used.
    pub fn set_failed(&self, failed: bool) {
        self.state().1 = failed;
    }

    /// What was set last.
    #[must_use]
    pub fn expiries(&self) -> Vec<(String, i64)> {
        self.state().0.clone()
    }

    /// What was set last.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.state().1
    }

    fn render(&self, name: &str, out: &mut String) {
        for (path, at) in self.expiries() {
            let path = escaped(&path);
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name}{{certificate=\"{path}\"}} {at}");
        }
    }
}

/// The value of a label, as the text form wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// What the process says of itself under `/proc/self`, as text; empty if it cannot be read.
pub struct ProcSelf {
    /// `/proc/self/stat`.
    pub stat: String,
    /// `/proc/self/limits`.
    pub limits: String,
    /// Entries of `/proc/self/fd`.
    pub open_fds: Option<u64>,
    /// Clock ticks a second (`sysconf(_SC_CLK_TCK)`).
    pub ticks: u64,
    /// Bytes of a page.
    pub page: u64,
    /// Its threads, as far as the kernel accounts for them.
    pub threads: Vec<cores::Thread>,
}

impl Process {
    /// Appends the series in text form to `out`.
    pub fn render(&self, facts: &Facts, out: &mut String) {
        for (name, kind, labels, help) in PROCESS {
            let kind = kind.to_ascii_lowercase();
            // Writing to a String cannot fail.
            let head = |out: &mut String| writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            match (*name, labels.is_empty()) {
                ("ringpost_build_info", _) => {
                    let _ = head(out);
                    let _ = writeln!(out, "{name}{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"));
                }
                (_, false) => {
                    let _ = head(out);
                    match *name {
                        "ringpost_tls_certificate_expiry_seconds" => self.certificates.render(name, out),
                        "ringpost_destination_recipients_total" => self.destinations.render(name, out),
                        _ => cores::render(name, &facts.cores, &facts.proc.threads, out),
                    }
                    out.push('\n');
                }
                (_, true) => {
                    let Some(value) = self.value(name, facts) else { continue };
                    let _ = head(out);
                    let _ = writeln!(out, "{name} {value}\n");
                }
            }
        }
    }

    /// Of a series without labels.
    fn value(&self, name: &str, facts: &Facts) -> Option<f64> {
        let number = |n: u64| n as f64;
        let flag = |is: bool| Some(f64::from(u8::from(is)));
        let proc = &facts.proc;
        match name {
            "ringpost_config_hash" => Some(number(self.config_hash)),
            "ringpost_ready" => flag(facts.ready),
            "ringpost_events_dropped_total" => Some(number(facts.events_dropped)),
            "ringpost_tls_reload_failed" => flag(self.certificates.is_failed()),
            "ringpost_disk_size_bytes" => facts.disk.map(|(size, _)| number(size)),
            "ringpost_disk_free_bytes" => facts.disk.map(|(_, free)| number(free)),
            "ringpost_disk_reserve_bytes" => Some(number(self.reserve)),
            "process_start_time_seconds" => Some(number(self.started.0) / 1000.0),
            // proc(5): state is field 3, utime 14, stime 15, num_threads 20, rss 24.
            "process_cpu_seconds_total" => {
                Some(number(proc.field(14)? + proc.field(15)?) / number(proc.ticks.max(1)))
            }
            "process_resident_memory_bytes" => proc.field(24).map(|pages| number(pages * proc.page)),
            "process_open_fds" => proc.open_fds.map(number),
            "process_max_fds" => {
                let line = proc.limits.lines().find_map(|l| l.strip_prefix("Max open files"))?;
                line.split_whitespace().next()?.parse().ok().map(number)
            }
            "process_threads" => proc.field(20).map(number),
            _ => None,
        }
    }
}

impl ProcSelf {
    /// Field number `n` of `stat`, from the third on.
    fn field(&self, n: usize) -> Option<u64> {
        // The name in parentheses may contain anything; the numbers follow the last one.
        let (_, rest) = self.stat.rsplit_once(')')?;
        rest.split_whitespace().nth(n - 3)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use families::FAMILIES;
    use std::collections::BTreeMap;

    const DOCUMENT: &str = include_str!("../docs/metrics.md");

    #[test]
    fn series_are_unique_and_well_named() {
        let mut seen = std::collections::BTreeSet::new();
        let mut kinds = BTreeMap::new();
        for (name, kind, labels, help) in TABLE {
            assert!(seen.insert((name, labels)), "{name} {labels:?} is there twice");
            assert_eq!(*kinds.entry(name).or_insert((kind, help)), (kind, help), "{name}");
            assert!(name.starts_with("ringpost_"), "{name}");
        }
        let of_families = FAMILIES.iter().map(|t| (t.0, t.1));
        for (name, _) in of_families.clone() {
            assert!(name.starts_with("ringpost_") && !kinds.contains_key(&&name), "{name}");
        }
        let all =
            TABLE.iter().map(|t| (t.0, t.1)).chain(PROCESS.iter().map(|t| (t.0, t.1))).chain(of_families);
        for (name, kind) in all {
            assert_eq!(name.ends_with("_total"), kind == "Counter", "{name}: _total is for counters");
            assert!(
                !["_ms", "_us", "_kb", "_mb", "_minutes"].iter().any(|u| name.contains(u)),
                "{name}: base units"
            );
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
        }
        let singles = TABLE.iter().filter(|t| t.1 == "Histogram").map(|t| t.0);
        let of_families = FAMILIES.iter().filter(|t| t.1 == "Histogram").map(|t| t.0);
        let histograms: Vec<&str> = singles.chain(of_families).collect();
        assert_eq!(histograms, BUCKETS.iter().map(|b| b.0).collect::<Vec<_>>());
        assert!(BUCKETS.iter().all(|(_, b)| b.is_sorted()));
    }

    #[test]
    fn zeros_are_exported_from_the_start() {
        let recorder = exporter();
        let cores = [Core::new(&recorder, 0), Core::new(&recorder, 1)];
        let text = recorder.handle().render();
        for (name, kind, labels, _) in TABLE {
            let labels: String = labels.iter().map(|(k, v)| format!(",{k}=\"{v}\"")).collect();
            for core in ["0", "1"] {
                let (count, value) = if *kind == "Histogram" { ("_count", "0") } else { ("", "0") };
                let line = format!("\n{name}{count}{{core=\"{core}\"{labels}}} {value}\n");
                assert!(text.contains(&line), "{line} is not in\n{text}");
            }
        }
        for (name, kind, label, values, _) in FAMILIES {
            for value in *values {
                let count = if *kind == "Histogram" { "_count" } else { "" };
                let line = format!("\n{name}{count}{{core=\"1\",{label}=\"{value}\"}} 0\n");
                assert!(text.contains(&line), "{line} is not in\n{text}");
            }
        }
        cores[1].received.increment(3);
        cores[1].commit_seconds.record(0.0002);
        let text = recorder.handle().render();
        assert!(text.contains("ringpost_messages_received_total{core=\"1\"} 3\n"));
        assert!(text.contains("ringpost_fsync_seconds_bucket{core=\"1\",le=\"0.0002\"} 1\n"), "{text}");
    }

    #[test]
    fn process_series() {
        let proc = ProcSelf {
            stat: "7 (ring) post) S 1 7 7 0 -1 4 1 0 0 0 250 50 0 0 20 0 9 0 100 1000000 25 18446744073709551615".into(),
            limits: "Limit  Soft Limit  Hard Limit  Units\nMax open files            20000      30000      files\n".into(),
            open_fds: Some(11),
            ticks: 100,
            page: 4096,
            threads: vec![cores::Thread::parse("mta-0", "1500000000 0 1").unwrap()],
        };
        let certificates = Arc::<CertificateStatus>::default();
        certificates.set(vec![("/etc/a \"b\".pem".into(), 1_800_000_000)]);
        certificates.set_failed(true);
        let process = Process {
            started: Wall(1_700_000_000_500),
            config_hash: 77,
            certificates,
            destinations: Registry::default(),
            reserve: 4096,
        };
        let core = cores::Facts { number: 0, role: "mta", thread: "mta-0".into(), state: 1, beat_age: None };
        let facts =
            Facts { proc, ready: true, events_dropped: 5, cores: vec![core], disk: Some((10_000, 7_000)) };
        let counting = Core::new(&NoopRecorder, 0).counted_in(&process.destinations).destinations();
        let mut text = String::new();
        process.render(&facts, &mut text);
        drop(counting);
        for line in [
            concat!("ringpost_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "ringpost_config_hash 77",
            "ringpost_ready 1",
            "ringpost_events_dropped_total 5",
            r#"ringpost_tls_certificate_expiry_seconds{certificate="/etc/a \"b\".pem"} 1800000000"#,
            "ringpost_tls_reload_failed 1",
            "process_start_time_seconds 1700000000.5",
            "process_cpu_seconds_total 3",
            "process_resident_memory_bytes 102400",
            "process_open_fds 11",
            "process_max_fds 20000",
            "process_threads 9",
            "# TYPE process_cpu_seconds_total counter",
            r#"ringpost_core_cpu_seconds_total{core="0",role="mta"} 1.5"#,
            r#"ringpost_core_state{core="0",role="mta",state="ready"} 1"#,
            r#"ringpost_destination_recipients_total{destination="other",result="deferred"} 0"#,
            "ringpost_disk_free_bytes 7000",
            "ringpost_disk_reserve_bytes 4096",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        text.clear();
        let proc = ProcSelf { stat: String::new(), limits: String::new(), open_fds: None, ..facts.proc };
        process.render(&Facts { proc, ready: false, disk: None, ..facts }, &mut text);
        assert!(!text.contains("process_cpu") && text.contains("ringpost_ready 0"));
        assert!(!text.contains("disk_free") && text.contains("\nringpost_disk_reserve_bytes 4096\n"));
    }

    #[test]
    fn document_lists_the_tables() {
        let mut rows: Vec<String> = Vec::new();
        for (name, kind, labels, help) in TABLE {
            let key = labels.first().map_or(String::new(), |(k, _)| format!(", `{k}`"));
            let values: Vec<&str> =
                TABLE.iter().filter(|t| t.0 == *name).flat_map(|t| t.2).map(|(_, v)| *v).collect();
            let values = if values.is_empty() { String::new() } else { format!(" ({})", values.join(", ")) };
            let row = format!("| `{name}` | {} | `core`{key}{values} | {help} |", kind.to_lowercase());
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        for (name, kind, label, values, help) in FAMILIES {
            let (kind, values) = (kind.to_lowercase(), values.join(", "));
            rows.push(format!("| `{name}` | {kind} | `core`, `{label}` ({values}) | {help} |"));
        }
        for (name, kind, labels, help) in PROCESS {
            let labels: Vec<String> = labels.iter().map(|l| format!("`{l}`")).collect();
            rows.push(format!("| `{name}` | {} | {} | {help} |", kind.to_lowercase(), labels.join(", ")));
        }
        let written: Vec<&str> = DOCUMENT.lines().filter(|l| l.starts_with("| `")).collect();
        assert_eq!(written, rows, "docs/metrics.md should have:\n{}", rows.join("\n"));
    }
}
