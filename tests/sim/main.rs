//! The simulator: seeded, single-threaded, deterministic (see `world`).
//!
//! `cargo test --test sim` runs 200 seeds; `SIM_SEEDS=n` any number, from `SIM_FIRST` (0) on;
//! `SIM_SEED=x` one, with one line per event: microseconds, node, event, two numbers.

mod disk;
mod machine;
mod net;
mod rng;
mod world;
