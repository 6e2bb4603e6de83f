//! How many sessions are open, in all and per address, on all cores together.
//!
//! Owns the counters: a fixed table of atomics without locks, 2 MiB at the default size, whatever
//! comes in. Addresses are hashed with a secret seed into two rows and count as the lesser of their
//! two counters: a count may be too high by collision (refusing a session with a small chance
//! under attack), never too low. IPv4 counts by address, IPv6 by /64. Permits are given back on
//! drop, on any thread.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counters shared by all cores. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

struct Shared {
    seed: u64,
    limit: u32,
    per_address: u32,
    open: AtomicU32,
    rows: [Box<[AtomicU32]>; 2],
}

/// Why a session is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// Too many sessions in all: 421 4.3.2.
    All,
    /// Too many of this address: 421 4.7.0.
    Address,
}

/// The right to one session; dropping it gives it back.
pub struct Permit {
    shared: Arc<Shared>,
    cells: Option<[usize; 2]>,
}

const CELLS: usize = 1 << 18;

impl Sessions {
    /// Counters with these limits (0: none) and a secret `seed`.
    #[must_use]
    pub fn new(limit: u32, per_address: u32, seed: u64) -> Self {
        Self::with_cells(limit, per_address, seed, CELLS)
    }

    fn with_cells(limit: u32, per_address: u32, seed: u64, cells: usize) -> Self {
        let row = || (0..cells).map(|_| AtomicU32::new(0)).collect();
        Sessions(Arc::new(Shared { seed, limit, per_address, open: AtomicU32::new(0), rows: [row(), row()] }))
    }

    /// Takes a permit for a session of `address`; `None` for a client that is exempt from the
    /// limit per address.
    pub fn enter(&self, address: Option<IpAddr>) -> Result<Permit, Full> {
        let shared = &self.0;
        let others = shared.open.fetch_add(1, Ordering::Relaxed);
        // From here on the permit gives back what was taken, whatever happens.
        let mut permit = Permit { shared: Arc::clone(shared), cells: None };
        if shared.limit != 0 && others >= shared.limit {
            return Err(Full::All);
        }
        if let Some(address) = address.filter(|_| shared.per_address != 0) {
            let cells = shared.cells(address);
            let count = |row: usize| shared.rows[row][cells[row]].fetch_add(1, Ordering::Relaxed);
            let others = count(0).min(count(1));
            permit.cells = Some(cells);
            if others >= shared.per_address {
                return Err(Full::Address);
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

impl Shared {
    fn cells(&self, address: IpAddr) -> [usize; 2] {
        let key = match address.to_canonical() {
            IpAddr::V4(a) => u64::from(a.to_bits()),
            // Never equal to an IPv4 key before mixing: those have 32 bits, global /64s more.
            IpAddr::V6(a) => (a.to_bits() >> 64) as u64 ^ (1 << 63),
        };
        let h = mix(mix(key ^ self.seed).wrapping_add(self.seed.rotate_left(32)));
        let mask = self.rows[0].len() - 1;
        [h as usize & mask, (h >> 32) as usize & mask]
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(cells) = self.cells {
            for (row, cell) in self.shared.rows.iter().zip(cells) {
                let before = row[cell].fetch_sub(1, Ordering::Relaxed);
                assert!(before > 0, "a session permit was given back twice");
            }
        }
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The finalizer of SplitMix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> Option<IpAddr> {
        Some(s.parse().unwrap())
    }

    #[test]
    fn limits_hold_and_come_back() {
        let s = Sessions::new(4, 2, 99);
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
        let s = Sessions::new(0, 1, 7);
        let _a = s.enter(ip("2001:db8:0:1::1")).unwrap();
        assert_eq!(s.enter(ip("2001:db8:0:1:ffff::9")).err(), Some(Full::Address));
        assert!(s.enter(ip("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn zero_is_no_limit_and_collisions_never_undercount() {
        let s = Sessions::new(0, 0, 7);
        let all: Vec<_> = (0..1000).map(|_| s.enter(ip("192.0.2.1")).unwrap()).collect();
        assert_eq!(s.open(), 1000);
        drop(all);
        // With 2 cells a row nearly all collide; the limit must still hold for each.
        let s = Sessions::with_cells(0, 3, 7, 2);
        let mut held: Vec<Permit> = Vec::new();
        for n in 0..100u8 {
            held.extend(s.enter(Some([10, 0, 0, n % 5].into())).ok());
        }
        assert!(held.len() <= 5 * 3 && held.len() >= 3);
    }

    #[test]
    fn threads_agree() {
        let s = Sessions::new(50, 20, 3);
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
