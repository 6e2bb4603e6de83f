//! Counters of a sink, readable from any thread while it runs, and its report.
//!
//! Owns counting only: relaxed atomics with one writer. Cannot fail.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        // One writer: a plain store is enough, and cheaper than an atomic addition.
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets it to `n`.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($name:ident: $help:literal;)*) => {
        /// What a sink has seen so far.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $name: Count,)*
        }

        /// What a sink had seen when it ended.
        #[derive(Clone, Debug, Default, PartialEq, Serialize)]
        pub struct Report {
            $(#[doc = $help] pub $name: u64,)*
            /// From the first message to the last.
            pub seconds: f64,
            /// Messages per second between the first and the last.
            pub messages_per_second: f64,
            /// CPU of the sink itself per message, microseconds; 0 if unknown.
            pub sink_cpu_us_per_message: f64,
        }

        impl Counters {
            /// The figures as they are now; `cpu_seconds` is what the sink itself used.
            #[must_use]
            pub fn report(&self, cpu_seconds: f64) -> Report {
                let seconds = self.last_nanos.get().saturating_sub(self.first_nanos.get()) as f64 / 1e9;
                let messages = self.messages.get();
                let per = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
                Report {
                    $($name: self.$name.get(),)*
                    seconds,
                    messages_per_second: per(messages.saturating_sub(1) as f64, seconds),
                    sink_cpu_us_per_message: per(cpu_seconds * 1e6, messages as f64),
                }
            }
        }
    };
}

counters! {
    messages: "Messages taken.";
    recipients: "Recipients of messages taken.";
    bytes: "Content bytes of messages taken.";
    notifications: "Of the messages taken, those from the null sender that are no load messages.";
    foreign: "Of the messages taken, others without the id of a load message.";
    connections: "Connections accepted.";
    refused_connections: "Connections closed at once because too many were open.";
    tempfails: "Replies 4xx played.";
    rejects: "Replies 5xx played.";
    dropped: "Connections dropped as played.";
    violations: "Breaches of the protocol by clients: bare newlines, bad syntax, pipelining not offered.";
    undeclared_eight_bit: "Messages with bytes above 127 sent without BODY=8BITMIME.";
    oversized: "Messages above the size limit.";
    broken: "Connections that broke or timed out within a transaction.";
    first_nanos: "When the first message was taken, nanoseconds since the Unix epoch.";
    last_nanos: "When the last message was taken, nanoseconds since the Unix epoch.";
}

impl Counters {
    /// Counts a played reply.
    pub(super) fn played(&self, text: &str) {
        match text.as_bytes().first() {
            Some(b'4') => self.tempfails.add(1),
            Some(b'5') => self.rejects.add(1),
            _ => {}
        }
    }
}
