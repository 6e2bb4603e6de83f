//! L2: which next hop a recipient has, and what an address stands for.

pub mod destination;
pub mod expand;
pub mod map;
pub mod senders;
pub mod tables;
