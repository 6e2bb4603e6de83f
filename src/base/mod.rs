//! L0: no mail, no IO, no clock. Time and ids as types, aligned memory, byte scanning, timer wheel.

pub mod aligned;
pub mod crc;
pub mod ids;
pub mod scan;
pub mod time;
pub mod wheel;
