//! Mailboxes: the mail of our own users, on which LMTP, POP3 and IMAP stand.
//!
//! An *account* owns *mailboxes* (IMAP folders); a *shard* is a set of accounts with one journal, one
//! archive and one index, and one core owns it. Knows neither sessions nor protocols, nor how many
//! shards there are. What is on the disk: `docs/storage.md`, "Mailboxes".
//!
//! **One rule holds it together.** Every operation is one journal record that says how things are after
//! it (absolute, with a list where many things change); what is visible is the fold of the committed
//! records, by the same code at release and at recovery. So nothing is visible before it is on stable
//! storage, and what a restart finds is exactly what had been committed.
//!
//! * L1 [`types`]: ids, flags, messages, UID sets; [`name`]: names of mailboxes; [`api`]: the interface,
//!   its questions and answers; [`record`], [`row`], [`wire`]: operations and rows of the index as bytes;
//!   [`fresh`]: what no session has been told of; [`spread`]: which shard an account is in.
//! * L2 [`directory`]: accounts, mailboxes, counters; [`opened`]: an opened mailbox and the snapshots
//!   that sessions have of it; [`bodies`]: which messages have a body; [`deliveries`]: what queues have
//!   handed over already; [`ledger`]: what the index has not got yet; [`shard`]: the state of a shard,
//!   which applies records; [`plan`]: what is asked becomes a record.
//! * L4 [`store`]: a shard on a disk.
//!
//! **For who uses it:** start at [`api::Mailboxes`] (one shard) and [`api::Selected`] (a session's view
//! of one mailbox). Both are traits: beyond one machine another implementation may stand behind them.

pub mod api;
pub mod bodies;
pub mod deliveries;
pub mod directory;
pub mod fresh;
pub mod ledger;
pub mod name;
pub mod opened;
pub mod plan;
pub mod record;
pub mod row;
pub mod shard;
pub mod spread;
pub mod store;
pub mod types;
pub mod wire;
