//! L5: the configuration file, from text to a typed [`Config`], with every problem named.

pub mod diagnose;
pub mod raw;
pub mod units;
