//! The queue of waiting messages: records, index, schedule, limits (L2); `desk` is one core's queue (L4).
//!
//! * L1 [`record`]: the queue's records as bytes; [`row`]: a message as a row of the index.
//! * L2 [`recover`]: what a log of records says; [`ledger`] with [`names`]: what the index has not got
//!   yet, and how it calls destinations.
//! * L2 [`age`] (how old a message is), [`absent`] (who has no place in a list), [`index`] (what is
//!   resident of each message) with [`entry`] (of those at work), [`stub`] (of those that wait long) and
//!   [`order`] (their ids) and `chains` (lists for operators), [`bodies`] (which are in memory),
//!   [`schedule`] with [`pace`] (who goes next), [`shares`] (limits that several queues have together) and
//!   [`common`] (that all cores have), [`tour`] (which destinations are forgotten), [`rules`] and [`pick`]
//!   (of operators), [`limits`] (when to take more), [`whose`] (mail it is), [`via`] (which next hop
//!   operators give it), [`routing`] (what is asked of routes), [`bell`] and [`state`] (what the desk's
//!   tasks share).
//! * L4 [`desk`] drives them over a journal; [`control`]: what operators ask of it.

pub mod absent;
pub mod age;
pub mod bell;
pub mod bodies;
pub(crate) mod chains;
pub mod common;
pub mod control;
pub mod desk;
pub mod entry;
pub mod index;
pub mod ledger;
pub mod limits;
pub mod names;
pub mod order;
pub mod pace;
pub mod pick;
pub mod record;
pub mod recover;
pub mod routing;
pub mod row;
pub mod rules;
pub mod schedule;
pub mod shares;
pub mod state;
pub mod stub;
pub mod tour;
pub mod via;
pub mod whose;

#[cfg(test)]
mod resident_tests;
