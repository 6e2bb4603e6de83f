//! L3: every series, in one table: name, kind, labels, help.
//!
//! [`Core::new`] registers all series of one core at once, so that each is exported as zero from
//! the start; shells keep the handles and never use the macros of `metrics` (14 times dearer).
//! Rendering is the admin endpoint's work. Nothing here can fail.

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};

macro_rules! series {
    ($($field:ident: $kind:ident $name:literal {$($label:literal = $value:literal),*} $help:literal;)*) => {
        /// The series of one mail core. Cheap to clone; increments cost about 4 ns.
        #[derive(Clone)]
        pub struct Core {
            $(#[doc = $help] pub $field: $kind,)*
        }

        /// Name, kind, fixed labels and help of every series of [`Core`] (all also carry `core`).
        pub const TABLE: &[(&str, &str, &[(&str, &str)], &str)] =
            &[$(($name, stringify!($kind), &[$(($label, $value)),*], $help),)*];

        impl Core {
            /// Registers the series of core number `core` with `recorder`.
            pub fn new(recorder: &impl Recorder, core: usize) -> Self {
                Core {
                    $($field: {
                        #[allow(unused_mut)]
                        let mut labels = vec![Label::new("core", core.to_string())];
                        $(labels.push(Label::new($label, $value));)*
                        $kind::register(recorder, $name, labels, $help)
                    },)*
                }
            }
        }
    };
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
    replies_2xx: Counter "ringpost_smtp_replies_total" {"class" = "2xx"} "Replies sent to clients";
    replies_3xx: Counter "ringpost_smtp_replies_total" {"class" = "3xx"} "Replies sent to clients";
    replies_4xx: Counter "ringpost_smtp_replies_total" {"class" = "4xx"} "Replies sent to clients";
    replies_5xx: Counter "ringpost_smtp_replies_total" {"class" = "5xx"} "Replies sent to clients";
    sessions_timed_out: Counter "ringpost_smtp_timeouts_total" {} "Sessions closed because a deadline passed";
    sessions_refused: Counter "ringpost_smtp_refused_total" {} "Connections refused at once by a session limit";
    session_panics: Counter "ringpost_session_panics_total" {} "Sessions closed by a fault of ours; must stay 0";
    received: Counter "ringpost_messages_received_total" {} "Messages accepted and on stable storage";
    received_bytes: Counter "ringpost_bytes_received_total" {} "Bytes of accepted messages";
    delivered: Counter "ringpost_deliveries_total" {"result" = "delivered"} "Recipients by result of an attempt";
    deferred: Counter "ringpost_deliveries_total" {"result" = "deferred"} "Recipients by result of an attempt";
    bounced: Counter "ringpost_deliveries_total" {"result" = "bounced"} "Recipients by result of an attempt";
    dsn_sent: Counter "ringpost_dsn_total" {} "Delivery status notifications made";
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
    journal_poisoned: Gauge "ringpost_journal_poisoned" {} "1 after a write or sync error: nothing is accepted until a restart";
    acked_unsynced: Counter "ringpost_acked_unsynced_total" {} "Messages acknowledged before they were on stable storage; 0 by construction";
}
