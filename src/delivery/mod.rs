//! L4: takes due work, plans, sends, settles.

pub mod relay;
