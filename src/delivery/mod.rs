//! L4: takes due work, plans, sends, settles.

pub mod agent;
pub mod bounce;
pub mod logs;
pub mod relay;
mod side_cursor;
mod stop;
pub mod trust;
