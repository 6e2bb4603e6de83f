//! L2: who may do what, and how much of it.

pub mod access;
pub mod brakes;
pub mod delegation;
pub mod failures;
pub mod greylist;
pub mod lists;
pub mod logins;
pub mod place;
pub mod rates;
pub mod ratio;
pub mod reports;
pub mod rspamd;
pub mod sessions;
pub mod waiting;
