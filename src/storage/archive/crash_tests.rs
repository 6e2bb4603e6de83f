//! The archive and machines that stop: scripts of appends, syncs, cleaning and full disks, ended by
//! loss of power or the death of the process at any moment, checked against what was promised.

use crate::base::time::Wall;
use crate::runtime::yield_now;
use crate::storage::archive::vault_tests::{DIR, LOG, head, world};
use crate::storage::archive::{Archive, ArchiveError, Options, Place, Victim};
use crate::storage::double::{Double, World};
use crate::storage::options::Poison;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

const NOW: Wall = Wall(7);

#[derive(Clone, Debug)]
enum Op {
    Append(u16),
    /// To its end.
    Sync,
    /// Asked for, then let go on by itself.
    Ask,
    /// The disk does some of what it has to do.
    Pass(u8),
    Dead(u8),
    Clean,
    /// So many bytes are left; or as many as are wanted.
    Room(Option<u16>),
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// In order.
    Close,
    /// The process dies; what it has written stays.
    Kill,
    /// The machine stops; of each sector that was not synced a bit says whether it stays.
    Power(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0u16..9000).prop_map(Op::Append),
        3 => Just(Op::Sync),
        1 => Just(Op::Ask),
        2 => (1u8..12).prop_map(Op::Pass),
        3 => any::<u8>().prop_map(Op::Dead),
        2 => Just(Op::Clean),
        1 => proptest::option::weighted(0.5, 0u16..40_000).prop_map(Op::Room),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        1 => Just(End::Close),
        1 => Just(End::Kill),
        3 => any::<u64>().prop_map(End::Power),
        1 => Just(End::Power(0)),
        1 => Just(End::Power(u64::MAX)),
    ]
}

fn payload(id: u64, len: u32) -> Vec<u8> {
    (0..len - 20).map(|n| (u64::from(n) * 7 + id * 31 + u64::from(n >> 8)) as u8).collect()
}

/// What is known outside of the machine.
#[derive(Default)]
struct Book {
    /// Every place that was ever given out.
    given: BTreeMap<Place, u64>,
    /// What lives and was promised.
    live: BTreeMap<u64, Place>,
    next: u64,
}

impl Book {
    /// A new process looks at the archive.
    async fn check(&self, a: &Archive<Double>) {
        for (id, at) in &self.live {
            assert!(a.keep(*at), "{id} at {at:?} is nowhere");
            let found = a.read(*at, *id).await;
            assert_eq!(*found.expect("what lives is there"), *payload(*id, at.len));
        }
        let mut found = BTreeMap::new();
        for segment in a.segments() {
            let visit = |h: crate::storage::RecordHead, at: Place, bytes: &[u8]| {
                assert_eq!(bytes, payload(h.id, at.len), "invented or altered");
                found.insert(at, h.id);
            };
            let scanned = a.scan(segment, visit).await.expect("it can be read");
            assert_eq!(scanned.damage_count, 0, "a crash is not damage");
            let entries = a.footer(segment).await.expect("it can be read");
            for e in entries {
                let at = Place { segment, offset: e.offset, len: e.len };
                assert_eq!(found.get(&at), Some(&e.id), "footer and records agree");
            }
        }
        assert!(found.iter().all(|f| self.given.get(f.0) == Some(f.1)), "never given out");
        for (id, at) in &self.live {
            assert_eq!(found.get(at), Some(id), "what lives is found without knowing where");
        }
        a.counted();
        assert_eq!(a.stats().live_records, self.live.len() as u64);
    }
}

/// One process on the disk.
struct Life<'a> {
    a: Archive<Double>,
    book: &'a mut Book,
    world: Rc<World>,
    pending: BTreeMap<u64, Place>,
}

impl Life<'_> {
    async fn run(&mut self, op: &Op) {
        match op {
            Op::Append(len) => {
                self.book.next += 1;
                let id = self.book.next;
                let _ = self.append(id, u32::from(*len) + 20).await;
            }
            Op::Sync => self.sync().await,
            Op::Ask => {
                let said = {
                    let mut sync = pin!(self.a.sync());
                    poll_fn(|cx| Poll::Ready(sync.as_mut().poll(cx))).await
                };
                if let Poll::Ready(result) = said {
                    self.synced(result);
                }
            }
            Op::Pass(n) => {
                for _ in 0..*n {
                    yield_now().await;
                }
            }
            Op::Dead(pick) => {
                let n = usize::from(*pick) % self.book.live.len().max(1);
                if let Some((&id, &at)) = self.book.live.iter().nth(n) {
                    self.book.live.remove(&id);
                    self.a.dead(at, NOW);
                }
            }
            Op::Clean => self.clean().await,
            Op::Room(room) => self.world.room.set(room.map(u64::from)),
        }
    }

    async fn append(&mut self, id: u64, len: u32) -> Result<Place, ArchiveError> {
        let bytes = payload(id, len);
        let at = self.a.append(head(id), 0, &[&bytes]).await?;
        assert_eq!(at.len, len);
        assert!(self.book.given.insert(at, id).is_none(), "a place is given out once");
        self.pending.insert(id, at);
        Ok(at)
    }

    async fn sync(&mut self) {
        let result = self.a.sync().await;
        self.synced(result);
    }

    fn synced(&mut self, result: Result<(), ArchiveError>) {
        for (id, at) in std::mem::take(&mut self.pending) {
            let durable = self.a.is_durable(at);
            assert!(durable || result == Err(ArchiveError::Full));
            if durable && result.is_ok() {
                if let Some(old) = self.book.live.insert(id, at) {
                    self.a.dead(old, NOW);
                }
            } else {
                self.a.dead(at, NOW);
            }
        }
    }

    async fn clean(&mut self) {
        self.sync().await;
        match self.a.victim(NOW) {
            Some(Victim::Empty(n)) => {
                assert!(self.book.live.values().all(|at| at.segment != n), "it is needed");
                let full = self.a.remove(n).await == Err(ArchiveError::Full);
                assert!(full || self.a.segments().iter().all(|s| *s != n));
            }
            Some(Victim::Copy(n)) => {
                let here = self.book.live.iter().filter(|(_, at)| at.segment == n);
                for (id, at) in here.map(|(id, at)| (*id, *at)).collect::<Vec<_>>() {
                    let bytes = self.a.read(at, id).await.expect("what lives can be read");
                    assert_eq!(*bytes, *payload(id, at.len));
                    if self.append(id, at.len).await.is_err() {
                        break;
                    }
                }
                self.sync().await;
            }
            None => {}
        }
    }
}

fn live(world: &Rc<World>, book: &mut Book, ops: &[Op], end: End) {
    let rt = Double::new(world);
    rt.block_on(async {
        let (dir, options) = (Path::new(DIR), Options::tiny());
        let opened = Archive::open(rt.clone(), dir, options, Poison::new(), LOG).await;
        let (a, report) = opened.expect("it opens after any crash");
        assert_eq!((report.set_aside, report.bad_heads), (0, 0), "a crash is not damage");
        book.check(&a).await;
        let mut life = Life { a, book, world: world.clone(), pending: BTreeMap::new() };
        for op in ops {
            life.run(op).await;
        }
        if matches!(end, End::Close) {
            life.a.close().await;
        }
    });
    rt.kill();
    world.room.set(None);
    if let End::Power(mut mask) = end {
        world.power_off(|| {
            mask = mask.rotate_left(1);
            mask & 1 == 1
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_synced_survives_and_nothing_is_invented(
        lives in proptest::collection::vec((proptest::collection::vec(op(), 0..40), end()), 1..6),
    ) {
        let world = world();
        let mut book = Book::default();
        for (ops, end) in &lives {
            live(&world, &mut book, ops, *end);
        }
        live(&world, &mut book, &[], End::Close);
    }
}

#[test]
fn a_long_life_takes_no_more_space_than_it_needs() {
    let world = world();
    let mut book = Book::default();
    for round in 0..60u64 {
        let mut ops = Vec::new();
        for n in 0..30 {
            ops.push(Op::Append((round * 37 + n * 401) as u16 % 5000));
            if n % 5 == 4 {
                ops.push(Op::Sync);
                ops.extend((0..5).filter(|d| round > 5 || d % 2 == 0).map(|d| Op::Dead((d * 7) as u8)));
                ops.extend([Op::Clean, Op::Clean]);
            }
        }
        let mask = round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let end = [End::Close, End::Kill, End::Power(mask)][round as usize % 3];
        live(&world, &mut book, &ops, end);
    }
    let files = world.files.borrow();
    let bytes: usize = files.values().map(|f| f.data.borrow().len()).sum();
    let live: u32 = book.live.values().map(|at| at.len).sum();
    let last = files.keys().last().expect("some").display().to_string();
    assert!(book.next == 1800 && live > 100_000, "{live} of {} bytes live", bytes);
    assert!(bytes < 3 * live as usize + 256 * 1024, "{live} of {bytes} bytes live");
    assert!(*last > *"/archive/00000060.archive", "the archive has come far: {last}");
}
