//! The storage engine: journal and archive, used by the queue and later by mailboxes.
//!
//! Knows records as kinds and bytes; not what a mail is. Every byte on disk is described in
//! `docs/storage.md`.
//!
//! * L1 [`segment`], [`batch`], [`record`], [`stretch`]: bytes and numbers.
//! * L2 [`journal`] (stage, write, release) with [`space`] (which segment is needed by whom) and
//!   [`group`] (who waits for a batch); [`recover`] and [`walk`] (what a log says after a crash).
//! * L4 [`keeper`] drives a journal on a disk; [`side`] holds bodies too large for a batch;
//!   [`opening`] is how a journal starts, [`removal`] how one that is not needed any more ends.
//! * [`model`] and [`oracle`]: a whole log in memory and its checker, for tests, fuzzing, benches.
//!
//! [`archive`] is for records that outlive the journal's window: when the log is longer than that
//! ([`keeper::Keeper::overflow`]) or space runs short ([`keeper::Keeper::pressure`]), the owner takes live
//! records out of the oldest segment. What must be found without reading the journal is in the owner's
//! index, a `runtime::table`; how the two are held together: `docs/decisions/0003-index-mark.md`.

pub mod archive;
pub mod batch;
pub mod group;
pub mod journal;
pub mod keeper;
pub mod model;
pub mod options;
pub mod oracle;
pub mod record;
pub mod recover;
pub mod segment;
pub mod space;
pub mod stretch;
pub mod ticket;
pub mod walk;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod keeper_tests;

#[cfg(test)]
pub(crate) use keeper::double;
pub use keeper::{opening, removal, side};
pub use options::{Options, Poison, Urgency};
pub use record::{Location, RecordHead, Recovered};
