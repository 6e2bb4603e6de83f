//! The queue of waiting messages: records, index, schedule, limits (L2); `desk` is one core's queue (L4).

pub mod bell;
pub mod bodies;
pub mod index;
pub mod limits;
pub mod pace;
pub mod record;
pub mod routing;
pub mod schedule;
pub mod seam;
