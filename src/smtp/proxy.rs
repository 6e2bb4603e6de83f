//! The header by which a proxy tells whose connection it passes on (PROXY protocol, versions 1 and 2,
//! as HAProxy describes it).
//!
//! Reads what has been received so far, however it was cut, and says how much of it is the header. It
//! does not know who may send one: the shell asks for a header only of peers that are listed. What is
//! no header is left alone, a header with errors ends the connection (the protocol forbids to guess). A
//! checksum is verified if there is one; of other extensions nothing is used.

use crate::base::crc::{PLAIN, crc32c};
use ppp::{v1, v2};
use std::net::{IpAddr, SocketAddr};

/// Longest header of version 1 in bytes, with its CRLF.
pub const V1_MAX: usize = 107;
/// Longest header of version 2 in bytes that is taken, extensions included. With certificates of
/// clients in it a header has about 1 KiB.
pub const V2_MAX: usize = 4096;

const V1_PREFIX: &[u8] = b"PROXY ";
/// Shortest header: `PROXY UNKNOWN` with its CRLF.
const V1_MIN: usize = 15;
/// Shortest header that names addresses.
const V1_TCP: &[u8] = b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n";
/// Fixed part of a header of version 2.
const V2_HEAD: usize = 16;

/// What has been read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// It may become a header, which then has so many bytes more at least (1 or more, never beyond
    /// [`V2_MAX`]). Who receives no more than that never receives what stands behind the header.
    More(usize),
    /// This is no header; the bytes are the peer's own.
    Absent,
    /// A header with errors, or one that is too long.
    Bad,
    /// A header of `used` bytes.
    Header {
        /// Bytes of the header; what stands behind it is the client's.
        used: usize,
        /// The connection that is passed on. `None`: the proxy speaks for itself (`LOCAL`, a health
        /// check), or does not know, or names something that is not a TCP connection.
        connection: Option<Connection>,
    },
}

/// The two ends of the connection that the proxy has accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The client. IPv4 in IPv6 form is turned into IPv4.
    pub client: SocketAddr,
    /// The address that the client has connected to.
    pub server: SocketAddr,
}

/// Reads the beginning of a connection.
#[must_use]
pub fn read(input: &[u8]) -> Reading {
    if starts_alike(input, V1_PREFIX) {
        return read_v1(input);
    }
    if starts_alike(input, v2::PROTOCOL_PREFIX) {
        return read_v2(input);
    }
    Reading::Absent
}

/// One is the beginning of the other.
fn starts_alike(input: &[u8], prefix: &[u8]) -> bool {
    let len = input.len().min(prefix.len());
    input[..len] == prefix[..len]
}

fn read_v1(input: &[u8]) -> Reading {
    let window = &input[..input.len().min(V1_MAX)];
    let Some(lf) = memchr::memchr(b'\n', window) else {
        return if input.len() < V1_MAX { Reading::More(missing_v1(input)) } else { Reading::Bad };
    };
    // The library takes some lines that end in a bare LF.
    if !input[..lf].ends_with(b"\r") {
        return Reading::Bad;
    }
    let Ok(header) = v1::Header::try_from(&input[..=lf]) else { return Reading::Bad };
    let connection = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(a) => connection(
            (a.source_address.into(), a.source_port),
            (a.destination_address.into(), a.destination_port),
        ),
        v1::Addresses::Tcp6(a) => connection(
            (a.source_address.into(), a.source_port),
            (a.destination_address.into(), a.destination_port),
        ),
    };
    Reading::Header { used: lf + 1, connection }
}

/// What is missing at least of a line that has not come to its end.
fn missing_v1(input: &[u8]) -> usize {
    let line_end = if input.last() == Some(&b'\r') { 1 } else { 2 };
    // "PROXY TCP6 :: :: 0 0" is shorter than the shortest with IPv4.
    let shortest = if input.starts_with(b"PROXY TCP4") { V1_TCP.len() } else { V1_MIN };
    shortest.saturating_sub(input.len()).max(line_end)
}

fn read_v2(input: &[u8]) -> Reading {
    if input.len() < V2_HEAD {
        // Up to here it may be a header of version 1 if it is empty.
        let shortest = if input.is_empty() { V1_MIN } else { V2_HEAD };
        return Reading::More(shortest - input.len());
    }
    let used = V2_HEAD + usize::from(u16::from_be_bytes([input[14], input[15]]));
    if used > V2_MAX {
        return Reading::Bad;
    }
    let header = match v2::Header::try_from(input) {
        Ok(header) => header,
        Err(v2::ParseError::Partial(..)) => return Reading::More(used - input.len()),
        Err(_) => return Reading::Bad,
    };
    if !checksum_fits(&header, &input[..used]) {
        return Reading::Bad;
    }
    let connection = match (header.command, header.protocol, header.addresses) {
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(a)) => connection(
            (a.source_address.into(), a.source_port),
            (a.destination_address.into(), a.destination_port),
        ),
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(a)) => connection(
            (a.source_address.into(), a.source_port),
            (a.destination_address.into(), a.destination_port),
        ),
        _ => None,
    };
    Reading::Header { used, connection }
}

/// PP2_TYPE_CRC32C, section 2.2.3 of the protocol: the CRC-32C of the whole header, with zeros in its own
/// place. True if there is none.
fn checksum_fits(header: &v2::Header<'_>, bytes: &[u8]) -> bool {
    let mut at = bytes.len() - header.tlv_bytes().len();
    // What is no extension at all ends the list; it is nothing that we use.
    for extension in header.tlvs().map_while(Result::ok) {
        let value = at + 3..at + 3 + extension.value.len();
        if extension.kind == u8::from(v2::Type::CRC32C) {
            let whole = [&bytes[..value.start], &[0; 4], &bytes[value.end..]];
            if bytes[value.clone()] != crc32c(PLAIN, &whole).to_be_bytes() {
                return false;
            }
        }
        at = value.end;
    }
    true
}

fn connection(client: (IpAddr, u16), server: (IpAddr, u16)) -> Option<Connection> {
    let end = |(address, port): (IpAddr, u16)| SocketAddr::new(address.to_canonical(), port);
    Some(Connection { client: end(client), server: end(server) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2_header(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut h = v2::PROTOCOL_PREFIX.to_vec();
        h.extend_from_slice(&[0x20 | command, family]);
        h.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        h.extend_from_slice(payload);
        h
    }

    const IPV4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0, 25];

    #[test]
    fn a_line_of_version_1_ends_in_crlf() {
        assert_eq!(read(b"PROXY TCP6 2001:db8::7 ::ffff:192.0.2.1 1 21 \n"), Reading::Bad);
        assert_eq!(read(b"PROXY TCP4 192.0.2.7 198.51.100.1 1 25\n"), Reading::Bad);
    }

    fn header(used: usize, client: &str, server: &str) -> Reading {
        let connection = Connection { client: client.parse().unwrap(), server: server.parse().unwrap() };
        Reading::Header { used, connection: Some(connection) }
    }

    #[test]
    fn version_1() {
        let line = "PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\n";
        let read_text = |t: &str| read(t.as_bytes());
        assert_eq!(
            read_text(&(line.to_string() + "EHLO x\r\n")),
            header(line.len(), "192.0.2.7:12345", "198.51.100.1:25")
        );
        let six = "PROXY TCP6 2001:db8::7 2001:db8::1 12345 25\r\n";
        assert_eq!(read_text(six), header(six.len(), "[2001:db8::7]:12345", "[2001:db8::1]:25"));
        let mapped = "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 1 25\r\n";
        assert_eq!(read_text(mapped), header(mapped.len(), "192.0.2.7:1", "198.51.100.1:25"));
        for unknown in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"]
        {
            let expected = Reading::Header { used: unknown.len(), connection: None };
            assert_eq!(read_text(unknown), expected, "{unknown}");
        }
    }

    /// Attack catalogue, row 12: wrong lengths, wrong fields, endless lines.
    #[test]
    fn row_12_bad_headers() {
        for bad in [
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 12345\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 12345 65536\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 -1 25\r\n",
            "PROXY TCP4 192.0.2.7\0 198.51.100.1 1 25\r\n",
            "PROXY TCP4 2001:db8::7 198.51.100.1 1 25\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 1 25\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 25 x\r\n",
            "PROXY  TCP4 192.0.2.7 198.51.100.1 1 25\r\n",
        ] {
            assert_eq!(read(bad.as_bytes()), Reading::Bad, "{bad:?}");
        }
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        assert_eq!(read(&endless), Reading::Bad);
        assert_eq!(read(&endless[..V1_MAX - 1]), Reading::More(2));
        assert_eq!(read(&endless[..V1_MAX]), Reading::Bad);
        // Version, command, family, protocol; addresses shorter than the family's.
        let mut version = v2_header(1, 0x11, IPV4);
        version[12] = 0x11;
        let bad = [
            version,
            v2_header(2, 0x11, IPV4),
            v2_header(1, 0x41, IPV4),
            v2_header(1, 0x13, IPV4),
            v2_header(1, 0x11, &IPV4[..11]),
            v2_header(1, 0x21, IPV4),
        ];
        for bad in bad {
            assert_eq!(read(&bad), Reading::Bad, "{}", bad.escape_ascii());
        }
        // Refused by its announced length: nothing is received for it.
        let long = v2_header(1, 0x11, &[0; V2_MAX - V2_HEAD + 1]);
        assert_eq!(read(&long[..V2_HEAD]), Reading::Bad);
        let longest = v2_header(1, 0x11, &[0; V2_MAX - V2_HEAD]);
        assert_eq!(read(&longest[..V2_HEAD]), Reading::More(V2_MAX - V2_HEAD));
        assert_eq!(read(&longest[..V2_MAX - 1]), Reading::More(1));
        assert_eq!(read(&longest), header(V2_MAX, "0.0.0.0:0", "0.0.0.0:0"));
    }

    #[test]
    fn version_2() {
        let expected = header(28, "192.0.2.7:12345", "198.51.100.1:25");
        assert_eq!(read(&v2_header(1, 0x11, IPV4)), expected);
        let with_tlv = v2_header(1, 0x11, &[IPV4, &[0x04, 0, 2, 9, 9], b"\xff\xff"].concat());
        assert_eq!(read(&with_tlv), header(35, "192.0.2.7:12345", "198.51.100.1:25"));
        let mut six = [0; 36];
        six[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 7]);
        six[31] = 1;
        six[35] = 25;
        assert_eq!(read(&v2_header(1, 0x21, &six)), header(52, "192.0.2.7:0", "[::1]:25"));
        // Not a connection of a client: health checks, what the proxy does not know, sockets of files.
        for own in [
            v2_header(0, 0, b""),
            v2_header(0, 0x11, IPV4),
            v2_header(1, 0, b"xyz"),
            v2_header(1, 0x12, IPV4),
        ] {
            assert_eq!(read(&own), Reading::Header { used: own.len(), connection: None });
        }
        let unix = v2_header(1, 0x31, &[b'/'; 216]);
        assert_eq!(read(&unix), Reading::Header { used: unix.len(), connection: None });
    }

    /// A header whose checksum is right: `before` and `after` are other extensions.
    fn with_checksum(command: u8, family: u8, addresses: &[u8], before: &[u8], after: &[u8]) -> Vec<u8> {
        let payload = [addresses, before, &[3, 0, 4, 0, 0, 0, 0], after].concat();
        let mut whole = v2_header(command, family, &payload);
        let sum = crc32c(PLAIN, &[&whole]).to_be_bytes();
        let at = V2_HEAD + addresses.len() + before.len() + 3;
        whole[at..at + 4].copy_from_slice(&sum);
        whole
    }

    #[test]
    fn checksums_of_version_2() {
        let expected = |used| header(used, "192.0.2.7:12345", "198.51.100.1:25");
        let other = [4, 0, 2, 9, 9];
        for (before, after) in
            [(&b""[..], &b""[..]), (&other, &b""[..]), (&b""[..], &other), (&other, &other)]
        {
            let good = with_checksum(1, 0x11, IPV4, before, after);
            assert_eq!(read(&good), expected(good.len()));
            assert_eq!(read(&[&good[..], b"EHLO x"].concat()), expected(good.len()));
            for at in V2_HEAD..good.len() {
                let mut damaged = good.clone();
                damaged[at] ^= 0x10;
                // In the type of the checksum, or in lengths before it, it makes another list of it.
                let still = matches!(read(&damaged), Reading::Header { .. });
                let place = V2_HEAD + IPV4.len();
                assert!(!still || (place..place + before.len() + 3).contains(&at), "{at}");
            }
        }
        let local = with_checksum(0, 0, b"", b"", b"");
        assert_eq!(read(&local), Reading::Header { used: local.len(), connection: None });
        let mut short = v2_header(1, 0x11, &[IPV4, &[3, 0, 3, 0, 0, 0]].concat());
        assert_eq!(read(&short), Reading::Bad, "not of four bytes");
        short.truncate(short.len() - 1);
        assert_eq!(read(&short), Reading::More(1));
    }

    #[test]
    fn what_is_no_header() {
        for other in
            ["EHLO x\r\n", "proxy TCP4 ", "PROXY\tTCP4 ", "QUIT\r\n", "\r\nQUIT", "\x16\x03\x01", "POST /"]
        {
            assert_eq!(read(other.as_bytes()), Reading::Absent, "{other:?}");
        }
        for (open, missing) in [
            ("", 15),
            ("P", 14),
            ("PROXY ", 9),
            ("PROXY TCP4", 22),
            ("PROXY UNKNOWN\r", 1),
            ("\r", 15),
            ("\r\n\r\n\0\r\nQUIT\n", 4),
        ] {
            assert_eq!(read(open.as_bytes()), Reading::More(missing), "{open:?}");
        }
    }

    proptest! {
        /// However it is cut: the verdict on a beginning is the verdict on the whole, or to wait.
        #[test]
        fn splits_make_no_difference(
            kind in 0usize..4,
            tail in prop::collection::vec(any::<u8>(), 0..64),
            flip in any::<(u16, u8)>(),
        ) {
            let mut input = match kind {
                0 => b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\n".to_vec(),
                1 => b"PROXY UNKNOWN\r\n".to_vec(),
                2 => v2_header(1, 0x11, IPV4),
                _ => v2_header(0, 0, b"abc"),
            };
            if flip.1 % 2 == 1 {
                let at = usize::from(flip.0) % input.len();
                input[at] ^= flip.1;
            }
            input.extend_from_slice(&tail);
            let whole = read(&input);
            for end in 0..input.len() {
                match read(&input[..end]) {
                    Reading::More(n) => {
                        prop_assert!(n > 0 && end + n <= V2_MAX);
                        if let Reading::Header { used, .. } = whole {
                            prop_assert!(end + n <= used, "never asks for what is not the header's");
                        }
                    }
                    early => prop_assert_eq!(early, whole, "at {}", end),
                }
            }
        }
    }
}
