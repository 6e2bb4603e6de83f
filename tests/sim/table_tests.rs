//! Tests of the table's double: what a crash leaves of it, and what can be done to it.

use super::super::{DiskFaults, SimDisk};
use super::SimTable;
use crate::world::{Death, MS, SEC, World};
use ringpost::runtime::{Changes, Disk, ScanLimit, Table, TableOptions};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

const OPTIONS: TableOptions =
    TableOptions { reserve_bytes: 8 << 10, grow_bytes: 4 << 10, cache_bytes: 0, packed: None };
const ALL: ScanLimit = ScanLimit { rows: usize::MAX, bytes: usize::MAX };

fn path() -> &'static Path {
    Path::new("/index")
}

fn run<T: 'static>(seed: u64, test: impl AsyncFnOnce(World, SimDisk) -> T + 'static) -> T {
    let world = World::new(seed, false);
    let (w, disk) = (world.clone(), SimDisk::new(&world));
    let value = world.block_on(async move { test(w, disk).await }).expect("ends");
    assert_eq!(world.violations(), Vec::<String>::new());
    world.end();
    value
}

/// Ten rows, all of this value.
fn all(value: u8) -> Changes {
    let mut changes = Changes::new();
    (0..10).for_each(|n| changes.put(&[b'k', n], &[value; 100]));
    changes
}

/// The value of all rows; it must be the same, and of all ten.
async fn value(table: &SimTable) -> u8 {
    let rows = table.scan(b"k", b"", ALL).await.unwrap();
    let values: BTreeSet<&[u8]> = rows.iter().map(|(_, value)| value).collect();
    assert_eq!((rows.len(), values.len()), (10, 1), "a mixture");
    values.first().unwrap()[0]
}

#[test]
fn a_commit_survives_power_loss_unless_the_disk_lies() {
    let after = |lying: bool| {
        let of_seed = |seed| {
            run(seed, async move |_, disk| {
                let table = disk.open_table(path(), OPTIONS).await.unwrap();
                table.commit(all(1)).await.unwrap();
                disk.set_faults(DiskFaults { lying, ..DiskFaults::default() });
                table.commit(all(2)).await.unwrap();
                drop(table);
                disk.power_off();
                match disk.open_table(path(), OPTIONS).await {
                    Ok(table) => Some(value(&table).await),
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::InvalidData);
                        None
                    }
                }
            })
        };
        (0..40).map(of_seed).collect::<BTreeSet<_>>()
    };
    assert_eq!(after(false), BTreeSet::from([Some(2)]));
    assert_eq!(after(true), BTreeSet::from([None, Some(1), Some(2)]));
}

#[test]
fn a_commit_in_flight_is_there_or_not_after_a_crash() {
    for how in [Death::Power, Death::Process] {
        let of_seed = |seed| {
            run(seed, async move |world, disk| {
                let (w, d) = (world.clone(), disk.clone());
                world.spawn(1, async move {
                    let table = d.open_table(path(), OPTIONS).await.unwrap();
                    table.commit(all(1)).await.unwrap();
                    w.event("first", 0, 0);
                    table.commit(all(2)).await.unwrap();
                    w.pause(60 * SEC).await;
                });
                world.pause(6 * MS + world.below(3 * MS)).await;
                world.kill(1, how);
                if how == Death::Power {
                    disk.power_off();
                }
                let table = disk.open_table(path(), OPTIONS).await.unwrap();
                if table.scan(b"", b"", ALL).await.unwrap().is_empty() {
                    return 0;
                }
                value(&table).await
            })
        };
        let seen: BTreeSet<u8> = (0..80).map(of_seed).collect();
        assert!(seen.contains(&1) && seen.contains(&2), "{seen:?} after {how:?}");
    }
}

#[test]
fn a_failed_commit_leaves_one_of_both_and_ends_the_table() {
    let of_seed = |seed| {
        run(seed, async |_, disk| {
            let table = disk.open_table(path(), OPTIONS).await.unwrap();
            table.commit(all(1)).await.unwrap();
            disk.set_faults(DiskFaults { sync_error: 10_000, ..DiskFaults::default() });
            assert!(table.commit(all(2)).await.is_err());
            disk.set_faults(DiskFaults::default());
            assert!(table.commit(all(3)).await.is_err() && table.get(&[b'k', 1]).await.is_err());
            drop(table);
            value(&disk.open_table(path(), OPTIONS).await.unwrap()).await
        })
    };
    assert_eq!((0..40).map(of_seed).collect::<BTreeSet<u8>>(), BTreeSet::from([1, 2]));
}

#[test]
fn a_full_disk_refuses_rows_and_takes_the_rest() {
    run(1, async |_, disk| {
        let table = disk.open_table(path(), OPTIONS).await.unwrap();
        table.commit(all(1)).await.unwrap();
        disk.set_faults(DiskFaults { capacity: Some(table.bytes()), ..DiskFaults::default() });
        let mut more = Changes::new();
        (0..200).for_each(|n| more.put(&[b'n', n], &[9; 100]));
        assert_eq!(table.commit(more.clone()).await.unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(table.get(b"n\x01").await.unwrap(), None);
        table.commit(all(2)).await.unwrap();
        assert_eq!(value(&table).await, 2);
        let mut fewer = Changes::new();
        (0..9).for_each(|n| fewer.delete(&[b'k', n]));
        table.commit(fewer).await.unwrap();
        disk.set_faults(DiskFaults::default());
        table.commit(more).await.unwrap();
        assert_eq!(table.scan(b"", b"", ALL).await.unwrap().len(), 201);
    });
}

#[test]
fn a_table_can_be_of_yesterday_gone_or_something_else() {
    run(1, async |_, disk| {
        let table = disk.open_table(path(), OPTIONS).await.unwrap();
        for n in 1..=5 {
            table.commit(all(n)).await.unwrap();
        }
        table.copy_to(Path::new("/copy")).await.unwrap();
        table.close().await.unwrap();
        assert!(disk.roll_back_table(path(), 2) && !disk.roll_back_table(path(), 9));
        let table = disk.open_table(path(), OPTIONS).await.unwrap();
        assert_eq!(value(&table).await, 3);
        drop(table);
        disk.spoil_table(path());
        let spoilt = disk.open_table(path(), OPTIONS).await.err().unwrap();
        assert_eq!(spoilt.kind(), ErrorKind::InvalidData);
        disk.lose_file(path());
        let table = disk.open_table(path(), OPTIONS).await.unwrap();
        assert!(table.scan(b"", b"", ALL).await.unwrap().is_empty());
        let copy = disk.open_table(Path::new("/copy"), OPTIONS).await.unwrap();
        assert_eq!(value(&copy).await, 5);
    });
}
