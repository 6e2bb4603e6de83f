//! The queue of waiting messages: records, index, schedule, limits (L2); `desk` is one core's queue (L4).

pub mod bodies;
pub mod index;
pub mod pace;
pub mod record;
pub mod schedule;
pub mod seam;
