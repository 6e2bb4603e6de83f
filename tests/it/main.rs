//! Tests of the whole: the rules of the source tree, and black-box tests of the real binary.

mod access_maps;
mod auth;
mod authenticity;
mod backlog;
mod bounces;
mod brakes;
mod cores;
mod crash;
mod dane;
mod demo;
mod deploy;
mod destinations;
mod disk;
mod dns_faults;
mod dnsbl;
mod doctor;
mod dsn;
mod filters;
mod forwarding;
mod greylist;
mod harness;
mod hostile;
mod hostile_hops;
mod hostile_load;
mod imap;
mod index;
mod lmtp_out;
mod mailboxes;
mod memory;
mod mx;
mod open_relay;
mod operator;
mod pop3;
mod proxy;
mod queue;
mod rates;
mod relay;
mod reports;
mod rewriting;
mod senders;
mod source;
mod spf;
mod starttls_out;
mod storage;
mod submission;
mod table;
mod three_servers;
mod tidy;
mod tls;
mod tls_entry;
mod verbs;
mod watched;
mod xclient;

/// Counts what is held; see `memory`.
#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;
