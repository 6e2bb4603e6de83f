//! How many sessions are open, in all, per address and per network, on all cores together.
//!
//! Owns the counters: fixed tables of atomics without locks, 2.5 MiB at the default size, whatever
//! comes in. Keys (`place` says what counts as one) are hashed with a secret seed into two rows and
//! count as the lesser of their two counters: a count may be too high by collision (refusing a
//! session with a small chance under attack), never too low. Permits are given back on drop, on any
//! thread.

use super::place;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counters shared by all cores. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

struct Shared {
    seed: u64,
    limits: Limits,
    open: AtomicU32,
    addresses: Rows,
    networks: Rows,
}

/// Two rows of counters.
struct Rows([Box<[AtomicU32]>; 2]);

/// Most open sessions; 0: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// In all.
    pub all: u32,
    /// Of one address.
    pub per_address: u32,
    /// Of one network.
    pub per_network: u32,
}

/// Why a session is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// Too many sessions in all: 421 4.3.2.
    All,
    /// Too many of this address: 421 4.7.0.
    Address,
    /// Too many of the network around it: 421 4.7.0.
    Network,
}

/// The right to one session; dropping it gives it back.
pub struct Permit {
    shared: Arc<Shared>,
    address: Option<[usize; 2]>,
    network: Option<[usize; 2]>,
}

const ADDRESSES: usize = 1 << 18;
const NETWORKS: usize = 1 << 16;

impl Sessions {
    /// Counters with these limits and a secret `seed`.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self::with_cells(limits, seed, ADDRESSES, NETWORKS)
    }

    fn with_cells(limits: Limits, seed: u64, addresses: usize, networks: usize) -> Self {
        let (addresses, networks) = (Rows::new(addresses), Rows::new(networks));
        Sessions(Arc::new(Shared { seed, limits, open: AtomicU32::new(0), addresses, networks }))
    }

    /// Takes a permit for a session of `address`; `None` for a client that is exempt from the
    /// limits per address and network.
    pub fn enter(&self, address: Option<IpAddr>) -> Result<Permit, Full> {
        let shared = &self.0;
        let limits = shared.limits;
        let others = shared.open.fetch_add(1, Ordering::Relaxed);
        // From here on the permit gives back what was taken, whatever happens.
        let mut permit = Permit { shared: Arc::clone(shared), address: None, network: None };
        if limits.all != 0 && others >= limits.all {
            return Err(Full::All);
        }
        let Some(address) = address else { return Ok(permit) };
        if limits.per_address != 0 {
            let cells = shared.addresses.cells(place::address(address), shared.seed);
            permit.address = Some(cells);
            if shared.addresses.add(cells) >= limits.per_address {
                return Err(Full::Address);
            }
        }
        if limits.per_network != 0 {
            let cells = shared.networks.cells(place::network(address), shared.seed);
            permit.network = Some(cells);
            if shared.networks.add(cells) >= limits.per_network {
                return Err(Full::Network);
            }
        }
        Ok(permit)
    }

    /// Sessions open now.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.0.open.load(Ordering::Relaxed)
    }
}

impl Rows {
    fn new(cells: usize) -> Self {
        let row = || (0..cells).map(|_| AtomicU32::new(0)).collect();
        Rows([row(), row()])
    }

    fn cells(&self, key: u64, seed: u64) -> [usize; 2] {
        place::cells(key, seed, self.0[0].len())
    }

    /// Counts one more; gives how many there were.
    fn add(&self, cells: [usize; 2]) -> u32 {
        let add = |row: usize| self.0[row][cells[row]].fetch_add(1, Ordering::Relaxed);
        add(0).min(add(1))
    }

    fn take_back(&self, cells: [usize; 2]) {
        for (row, cell) in self.0.iter().zip(cells) {
            let before = row[cell].fetch_sub(1, Ordering::Relaxed);
            assert!(before > 0, "a session permit was given back twice");
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(cells) = self.address {
            self.shared.addresses.take_back(cells);
        }
        if let Some(cells) = self.network {
            self.shared.networks.take_back(cells);
        }
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> Option<IpAddr> {
        Some(s.parse().unwrap())
    }

    fn limits(all: u32, per_address: u32, per_network: u32) -> Limits {
        Limits { all, per_address, per_network }
    }

    #[test]
    fn limits_hold_and_come_back() {
        let s = Sessions::new(limits(4, 2, 0), 99);
        let a = s.enter(ip("192.0.2.1")).unwrap();
        let _b = s.enter(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(s.enter(ip("192.0.2.1")).err(), Some(Full::Address));
        drop(a);
        let _c = s.enter(ip("192.0.2.1")).unwrap();
        let _d = s.enter(ip("192.0.2.2")).unwrap();
        let _e = s.enter(None).unwrap();
        assert_eq!(s.enter(ip("192.0.2.3")).err(), Some(Full::All));
        assert_eq!(s.open(), 4);
    }

    #[test]
    fn ipv6_counts_by_64() {
        let s = Sessions::new(limits(0, 1, 0), 7);
        let _a = s.enter(ip("2001:db8:0:1::1")).unwrap();
        assert_eq!(s.enter(ip("2001:db8:0:1:ffff::9")).err(), Some(Full::Address));
        assert!(s.enter(ip("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn networks_count_their_addresses_together() {
        let s = Sessions::new(limits(0, 2, 3), 7);
        let held: Vec<_> = (1..=3u8).map(|n| s.enter(Some([192, 0, 2, n].into())).unwrap()).collect();
        assert_eq!(s.enter(ip("192.0.2.9")).err(), Some(Full::Network));
        assert!(s.enter(ip("192.0.3.9")).is_ok() && s.enter(None).is_ok());
        drop(held);
        assert!(s.enter(ip("192.0.2.9")).is_ok());
        assert_eq!(s.open(), 0);
    }

    #[test]
    fn zero_is_no_limit_and_collisions_never_undercount() {
        let s = Sessions::new(limits(0, 0, 0), 7);
        let all: Vec<_> = (0..1000).map(|_| s.enter(ip("192.0.2.1")).unwrap()).collect();
        assert_eq!(s.open(), 1000);
        drop(all);
        // With 2 cells a row nearly all collide; the limit must still hold for each.
        let s = Sessions::with_cells(limits(0, 3, 0), 7, 2, 2);
        let mut held: Vec<Permit> = Vec::new();
        for n in 0..100u8 {
            held.extend(s.enter(Some([10, 0, 0, n % 5].into())).ok());
        }
        assert!(held.len() <= 5 * 3 && held.len() >= 3);
    }

    #[test]
    fn threads_agree() {
        let s = Sessions::new(limits(50, 20, 0), 3);
        std::thread::scope(|scope| {
            for t in 0..8u8 {
                let s = s.clone();
                scope.spawn(move || {
                    for n in 0..20_000u32 {
                        let permit = s.enter(Some([10, 0, 0, (t + (n % 4) as u8) % 4].into()));
                        assert!(s.open() <= 50 + 8);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(s.open(), 0);
        let all: Vec<_> = (0..20).map(|_| s.enter(ip("10.0.0.0")).unwrap()).collect();
        assert!(s.enter(ip("10.0.0.0")).is_err());
        drop(all);
    }
}
