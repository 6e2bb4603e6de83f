//! What one pass over a body has found out about it.
//!
//! Bodies are stored unstuffed with CRLF line ends; sizes and offsets are of this form.

/// Facts about a stored body (without the trace headers that are put before it).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BodyFacts {
    /// Bytes, unstuffed, CRLF line ends.
    pub len: u64,
    /// Some line begins with a dot: sending by DATA must add one (RFC 5321 §4.5.2).
    pub has_dot_lines: bool,
    /// Some byte is above 127 (needs 8BITMIME onward, RFC 6152).
    pub eight_bit: bool,
    /// Some byte of the header is above 127 (needs SMTPUTF8 onward, RFC 6531).
    pub header_eight_bit: bool,
    /// Number of Received fields (RFC 5321 §6.3).
    pub hops: u32,
    /// Some line is longer than the 998 bytes of RFC 5321 §4.5.3.1.6.
    pub long_lines: bool,
}

impl BodyFacts {
    /// The flags as they are stored in a message record.
    #[must_use]
    pub fn bits(&self) -> u8 {
        u8::from(self.has_dot_lines)
            | u8::from(self.eight_bit) << 1
            | u8::from(self.header_eight_bit) << 2
            | u8::from(self.long_lines) << 3
    }
}

/// The stored flags of [`BodyFacts::bits`], read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BodyFlags(pub u8);

impl BodyFlags {
    /// Some line begins with a dot.
    #[must_use]
    pub fn has_dot_lines(self) -> bool {
        self.0 & 1 != 0
    }
    /// Some byte is above 127.
    #[must_use]
    pub fn eight_bit(self) -> bool {
        self.0 & 2 != 0
    }
    /// Some byte of the header is above 127.
    #[must_use]
    pub fn header_eight_bit(self) -> bool {
        self.0 & 4 != 0
    }
    /// Some line is longer than the 998 bytes of RFC 5321 §4.5.3.1.6.
    #[must_use]
    pub fn long_lines(self) -> bool {
        self.0 & 8 != 0
    }
}
