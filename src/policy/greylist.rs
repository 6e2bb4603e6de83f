//! Greylisting: who sends for the first time is asked to come again, which few of those who send junk do.
//!
//! Owns two tables of fixed size, shared by all cores: of triplets (network of the client, sender,
//! recipient) with when they were first seen, and of networks that have come again, with when they were
//! last seen. What is in them can be written to a file and read back. Names are hashed with a secret seed; a
//! collision lets mail through that should have waited, with a chance of some millionths, or makes a
//! place free too early. Nothing here fails: a file that is not ours is not read.

use super::place;
use crate::base::crc::{PLAIN, crc32c};
use crate::base::time::Wall;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What can be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// How long a triplet waits.
    pub delay: Duration,
    /// For so long after it was first seen it may come again.
    pub window: Duration,
    /// A network that has come again is known for so long after its last mail.
    pub known: Duration,
}

/// What is said to a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The network is known.
    Known,
    /// It has come again; the network is known from now on.
    CameAgain,
    /// It is to come again, not before this time has passed.
    Wait(Duration),
}

/// The tables. Cheap to clone; shared by all cores.
#[derive(Clone)]
pub struct Greylist(Arc<Shared>);

struct Shared {
    options: Options,
    seed: u64,
    triplets: Table,
    networks: Table,
}

/// Marks (upper 32 bits) and times (seconds since 1970); 0: free.
struct Table(Box<[AtomicU64]>);

const TRIPLETS: usize = 1 << 18;
const NETWORKS: usize = 1 << 16;
const MAGIC: &[u8; 8] = b"rpgrey\x00\x01";

impl Greylist {
    /// Empty tables, 2.5 MiB; a secret `seed`.
    #[must_use]
    pub fn new(options: Options, seed: u64) -> Self {
        Self::with_cells(options, seed, TRIPLETS, NETWORKS)
    }

    fn with_cells(options: Options, seed: u64, triplets: usize, networks: usize) -> Self {
        let table = |cells| Table((0..cells).map(|_| AtomicU64::new(0)).collect());
        Greylist(Arc::new(Shared { options, seed, triplets: table(triplets), networks: table(networks) }))
    }

    /// A client at `client` has mail from `sender` for `recipient`.
    #[must_use]
    pub fn ask(&self, client: IpAddr, sender: &[u8], recipient: &[u8], wall: Wall) -> Verdict {
        let s = &*self.0;
        let now = seconds(wall);
        let network = place::mix(s.seed ^ near(client));
        if s.networks.find(network).is_some_and(|last| age(last, now) <= s.options.known) {
            s.networks.put(network, now);
            return Verdict::Known;
        }
        let triplet = [sender, recipient].iter().fold(network, |h, name| place::mix(h ^ place::name(name)));
        match s.triplets.find(triplet).map(|first| age(first, now)) {
            Some(age) if age < s.options.delay => Verdict::Wait(s.options.delay - age),
            Some(age) if age <= s.options.window => {
                s.networks.put(network, now);
                Verdict::CameAgain
            }
            Some(_) | None => {
                s.triplets.put(triplet, now);
                Verdict::Wait(s.options.delay)
            }
        }
    }

    /// What there is to keep over a restart.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let s = &*self.0;
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&s.seed.to_le_bytes());
        for table in [&s.triplets, &s.networks] {
            out.extend_from_slice(&(table.0.len() as u64).to_le_bytes());
            out.extend(table.0.iter().flat_map(|cell| cell.load(Ordering::Relaxed).to_le_bytes()));
        }
        let crc = crc32c(PLAIN, &[&out]);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// The tables as they were written; `None`: these bytes are something else, or damaged.
    #[must_use]
    pub fn read(options: Options, bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        let rest = body.strip_prefix(MAGIC)?;
        if crc32c(PLAIN, &[body]) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (numbers, []) = rest.as_chunks::<8>() else { return None };
        let mut numbers = numbers.iter().map(|n| u64::from_le_bytes(*n));
        let seed = numbers.next()?;
        let mut table = |cells: usize| {
            if numbers.next()? != cells as u64 {
                return None;
            }
            let all: Box<[AtomicU64]> = numbers.by_ref().take(cells).map(AtomicU64::new).collect();
            (all.len() == cells).then_some(Table(all))
        };
        let (triplets, networks) = (table(TRIPLETS)?, table(NETWORKS)?);
        Some(Greylist(Arc::new(Shared { options, seed, triplets, networks })))
    }
}

/// The /24 of an IPv4 client, the /64 of an IPv6 one: large senders try again from a neighbour.
fn near(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(_) => place::network(client),
        IpAddr::V6(_) => place::address(client),
    }
}

fn seconds(wall: Wall) -> u32 {
    u32::try_from(wall.0 / 1000).unwrap_or(u32::MAX)
}

/// A clock that was set back makes nothing older.
fn age(then: u32, now: u32) -> Duration {
    Duration::from_secs(now.saturating_sub(then).into())
}

impl Table {
    /// The two cells where `key` may be, and its mark.
    fn cells(&self, key: u64) -> ([&AtomicU64; 2], u64) {
        let [a, b] = place::cells(key, key.rotate_left(17), self.0.len());
        // Never 0, so that no entry looks free.
        ([&self.0[a], &self.0[b]], place::mix(key ^ 0x5851_f42d_4c95_7f2d) >> 32 | 1)
    }

    fn find(&self, key: u64) -> Option<u32> {
        let (cells, mark) = self.cells(key);
        let here = cells.map(|cell| cell.load(Ordering::Relaxed));
        here.into_iter().find(|cell| cell >> 32 == mark).map(|cell| cell as u32)
    }

    /// In its place, or in that of the older of two.
    fn put(&self, key: u64, now: u32) {
        let (cells, mark) = self.cells(key);
        let here = cells.map(|cell| cell.load(Ordering::Relaxed));
        let own = here.iter().position(|cell| cell >> 32 == mark);
        let n = own.unwrap_or(usize::from((here[1] as u32) < here[0] as u32));
        cells[n].store(mark << 32 | u64::from(now), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{CameAgain, Known, Wait};

    const MINUTE: Duration = Duration::from_secs(60);
    const OPTIONS: Options = Options {
        delay: Duration::from_secs(300),
        window: Duration::from_secs(172_800),
        known: Duration::from_secs(3_024_000),
    };

    fn at(seconds: u64) -> Wall {
        Wall(1_700_000_000_000 + seconds * 1000)
    }

    fn ask(g: &Greylist, client: &str, to: &str, seconds: u64) -> Verdict {
        g.ask(client.parse().unwrap(), b"a@b.example", to.as_bytes(), at(seconds))
    }

    #[test]
    fn who_comes_again_in_time_is_known() {
        let g = Greylist::with_cells(OPTIONS, 7, 1024, 1024);
        assert_eq!(ask(&g, "192.0.2.1", "x@c.example", 0), Wait(5 * MINUTE));
        assert_eq!(ask(&g, "192.0.2.1", "x@c.example", 240), Wait(MINUTE), "the first time counts");
        assert_eq!(ask(&g, "192.0.2.1", "y@c.example", 400), Wait(5 * MINUTE), "another triplet");
        // From a neighbour, and in another case.
        assert_eq!(ask(&g, "192.0.2.77", "X@C.example", 300), CameAgain);
        assert_eq!(ask(&g, "192.0.2.9", "y@c.example", 401), Known);
        assert_eq!(ask(&g, "192.0.3.1", "x@c.example", 401), Wait(5 * MINUTE), "another network");
        // Known for so long after its last mail.
        assert_eq!(ask(&g, "192.0.2.1", "z@c.example", 3_000_000), Known);
        assert_eq!(ask(&g, "192.0.2.1", "z@c.example", 6_000_000), Known);
        assert_eq!(ask(&g, "192.0.2.1", "z@c.example", 9_100_000), Wait(5 * MINUTE));
    }

    #[test]
    fn who_comes_too_late_begins_again_and_ipv6_counts_by_64() {
        let g = Greylist::with_cells(OPTIONS, 7, 1024, 1024);
        assert_eq!(ask(&g, "2001:db8::1", "x@c.example", 0), Wait(5 * MINUTE));
        assert_eq!(ask(&g, "2001:db8::1", "x@c.example", 200_000), Wait(5 * MINUTE));
        assert_eq!(ask(&g, "2001:db8:0:1::1", "x@c.example", 200_400), Wait(5 * MINUTE));
        assert_eq!(ask(&g, "2001:db8::ffff:1", "x@c.example", 200_400), CameAgain);
    }

    #[test]
    fn tables_are_read_back_and_nothing_else_is() {
        let g = Greylist::new(OPTIONS, 7);
        assert_eq!(ask(&g, "192.0.2.1", "x@c.example", 0), Wait(5 * MINUTE));
        let mut bytes = g.write();
        let again = Greylist::read(OPTIONS, &bytes).expect("its own");
        assert_eq!(ask(&again, "192.0.2.1", "x@c.example", 300), CameAgain);
        assert!(Greylist::read(OPTIONS, &bytes[1..]).is_none() && Greylist::read(OPTIONS, b"").is_none());
        assert!(Greylist::read(OPTIONS, &bytes[..bytes.len() - 8]).is_none());
        bytes[1000] ^= 1;
        assert!(Greylist::read(OPTIONS, &bytes).is_none(), "damage is seen");
    }

    #[test]
    fn a_flood_drives_out_the_oldest_only() {
        let g = Greylist::with_cells(OPTIONS, 7, 1 << 12, 1 << 8);
        for n in 0..100_000u64 {
            let _ = g.ask([10, (n >> 8) as u8, n as u8, 1].into(), b"s", &n.to_le_bytes(), at(n / 1000));
        }
        let late = (0..100u64).filter(|n| {
            let _ = g.ask([192, 0, 2, 1].into(), b"s", &n.to_le_bytes(), at(200));
            let again = g.ask([192, 0, 2, 1].into(), b"s", &n.to_le_bytes(), at(201));
            again == Wait(Duration::from_secs(299))
        });
        assert!(late.count() >= 95);
    }
}
