//! The queue of waiting messages: records, index, schedule, limits (L2); `desk` is one core's queue (L4).

pub mod bell;
pub mod bodies;
pub mod control;
pub mod desk;
mod evacuate;
pub mod index;
pub mod limits;
mod notices;
pub mod open;
mod operate;
pub mod pace;
mod pulse;
mod reach;
pub mod record;
pub mod recover;
pub mod routing;
pub mod schedule;
pub mod settle;
pub mod state;

#[cfg(test)]
mod double;
#[cfg(test)]
mod tests;
