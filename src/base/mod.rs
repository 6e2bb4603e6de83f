//! L0: no mail, no IO, no clock. Time and ids as types, aligned memory, byte scanning,
//! secrets, timer wheel, tables and queues of any length that never stall; what TLS has established,
//! as data.

pub mod aligned;
pub mod chain;
pub mod chunks;
pub mod crc;
pub mod heavy;
pub mod ids;
pub mod scan;
pub mod secret;
pub mod security;
pub mod time;
pub mod wheel;
