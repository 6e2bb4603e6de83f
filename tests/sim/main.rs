//! The simulator: seeded, single-threaded, deterministic histories of a world with bad disks,
//! bad nets and crashes. How to run it: `seeds`. How to read a trace: `world::World::new`.

mod archive;
mod disk;
mod imap;
mod journal;
mod local;
mod machine;
mod mailbox;
mod mailbox_backup;
mod mailbox_damage;
mod mailbox_full;
mod mailbox_model;
mod mailbox_world;
mod net;
mod peers;
mod pop3;
mod relay;
mod rng;
mod seeds;
mod world;
