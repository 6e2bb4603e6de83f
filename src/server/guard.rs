//! The counters that all cores share: open sessions and how often clients come.
//!
//! Made once from the configuration; cheap to clone. Nothing here fails.

use crate::base::time::Mono;
use crate::config::Config;
use crate::config::units::Rate;
use crate::policy::brakes::Brakes;
use crate::policy::failures::{self, Failures};
use crate::policy::logins::UserSessions;
use crate::policy::place;
use crate::policy::rates::Rates;
use crate::policy::sessions::{Limits, Sessions};
use std::net::IpAddr;
use std::time::Duration;

/// Cells of a row of a table of addresses, and of networks.
const ADDRESSES: usize = 1 << 17;
const NETWORKS: usize = 1 << 15;
/// Cells of a row of a table of logins.
const LOGINS: usize = 1 << 15;

/// The counters.
#[derive(Clone)]
pub struct Guard {
    /// Open sessions.
    pub sessions: Sessions,
    connections: Rates,
    network_connections: Rates,
    messages: Rates,
    recipients: Rates,
    /// Open sessions of users.
    pub user_sessions: UserSessions,
    /// Failed logins.
    pub failures: Failures,
    /// Brakes, if there are any.
    pub brakes: Option<Brakes>,
}

impl Guard {
    /// Counters with the limits of the configuration; `seed` gives secret numbers.
    pub fn new(c: &Config, seed: impl Fn() -> u64) -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        let l = &c.limits;
        let sessions = Limits {
            all: l.sessions,
            per_address: l.sessions_per_address,
            per_network: l.sessions_per_network,
        };
        let network = Rates::new(l.connections_per_minute_per_network, MINUTE, NETWORKS, seed());
        Guard {
            sessions: Sessions::new(sessions, seed()),
            connections: Rates::new(l.connections_per_minute, MINUTE, ADDRESSES, seed()),
            network_connections: network,
            messages: user_rate(c.submission.message_rate, seed()),
            recipients: user_rate(c.submission.recipient_rate, seed()),
            user_sessions: UserSessions::new(l.sessions_per_user, seed()),
            failures: Failures::new(failures(c), &seed),
            brakes: Brakes::new(&c.brakes, &seed),
        }
    }

    /// Counts a message of a login; false: it sends too many.
    pub fn may_send(&self, login: &[u8], now: Mono) -> bool {
        self.messages.take(place::name(login), now)
    }

    /// Counts a recipient of a login; false: it has too many.
    pub fn may_address(&self, login: &[u8], now: Mono) -> bool {
        self.recipients.take(place::name(login), now)
    }

    /// Counts a connection of a client that is not exempt; false: it comes too often.
    pub fn may_connect(&self, client: IpAddr, now: Mono) -> bool {
        self.connections.take(place::address(client), now)
            && self.network_connections.take(place::network(client), now)
    }
}

fn failures(c: &Config) -> failures::Options {
    let l = &c.limits;
    failures::Options {
        per_client: l.login_failures,
        per_login: l.login_failures_per_login,
        memory: l.login_memory.0,
        delay_first: l.login_delay.0,
        delay_max: l.login_delay_max.0,
        ..failures::Options::default()
    }
}

fn user_rate(rate: Rate, seed: u64) -> Rates {
    let (count, per) = rate.0.map_or((0, Duration::ZERO), |r| (r.count, r.per));
    Rates::new(count, per, LOGINS, seed)
}
