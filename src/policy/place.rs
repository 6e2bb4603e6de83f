//! Whom a limit counts: an address, or the network around it, as a number for tables of fixed size.
//!
//! An IPv4 client counts by address, an IPv6 client by its /64, which is the least that a customer
//! gets; networks are the /24 of IPv4 and the /48 of IPv6. IPv4 in IPv6 form is IPv4.

use std::net::IpAddr;

/// Keeps the numbers of IPv6 apart from those of IPv4: global prefixes have this bit clear.
const SIX: u64 = 1 << 63;

/// The number of an address.
#[must_use]
pub fn address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(a) => u64::from(a.to_bits()),
        IpAddr::V6(a) => (a.to_bits() >> 64) as u64 ^ SIX,
    }
}

/// The number of the network around an address.
#[must_use]
pub fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(a) => u64::from(a.to_bits() >> 8),
        IpAddr::V6(a) => (a.to_bits() >> 80) as u64 ^ SIX,
    }
}

/// The number of a name; ASCII case makes no difference. Not secret: whoever mixes it in adds a seed.
#[must_use]
pub fn name(name: &[u8]) -> u64 {
    // FNV-1a.
    name.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
        (h ^ u64::from(b.to_ascii_lowercase())).wrapping_mul(0x100_0000_01b3)
    })
}

/// Two cells of tables with `cells` (a power of two) cells each, for the number `key`.
#[must_use]
pub fn cells(key: u64, seed: u64, cells: usize) -> [usize; 2] {
    let h = mix(mix(key ^ seed).wrapping_add(seed.rotate_left(32)));
    let mask = cells - 1;
    [h as usize & mask, (h >> 32) as usize & mask]
}

/// The finalizer of SplitMix64.
#[must_use]
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_counts_as_one() {
        let at = |f: fn(IpAddr) -> u64, a: &str| f(a.parse().unwrap());
        assert_eq!(at(address, "192.0.2.1"), at(address, "::ffff:192.0.2.1"));
        assert_ne!(at(address, "192.0.2.1"), at(address, "192.0.2.2"));
        assert_eq!(at(network, "192.0.2.1"), at(network, "::ffff:192.0.2.255"));
        assert_ne!(at(network, "192.0.2.1"), at(network, "192.0.3.1"));
        assert_eq!(at(address, "2001:db8:1:2::1"), at(address, "2001:db8:1:2:ffff::"));
        assert_ne!(at(address, "2001:db8:1:2::1"), at(address, "2001:db8:1:3::1"));
        assert_eq!(at(network, "2001:db8:1:2::1"), at(network, "2001:db8:1:3::1"));
        assert_ne!(at(network, "2001:db8:1::1"), at(network, "2001:db8:2::1"));
        assert_ne!(at(address, "::1"), at(address, "0.0.0.0"));
        assert_eq!(name(b"User@Example.NET"), name(b"user@example.net"));
        assert_ne!(name(b"a"), name(b"b"));
    }
}
