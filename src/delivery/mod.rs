//! L4: takes due work, plans, sends, settles.

pub mod agent;
pub mod bounce;
pub mod direct;
pub mod local;
pub mod logs;
pub mod post;
pub mod relay;
pub mod shards;
mod side_cursor;
mod stop;
pub mod trust;
