//! The simulator: seeded, single-threaded, deterministic histories of a world with bad disks,
//! bad nets and crashes. How to run it: `seeds`. How to read a trace: `world::World::new`.

mod archive;
mod disk;
mod journal;
mod local;
mod machine;
mod mailbox;
mod net;
mod peers;
mod relay;
mod rng;
mod seeds;
mod world;
