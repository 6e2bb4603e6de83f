//! Tests of the disk double: what it promises, what it loses, and that it can lie.

use super::*;
use crate::world::Death;
use ringpost::runtime::shared;

fn page(fill: u8, pages: usize) -> SharedBytes {
    let mut buf = AlignedBuf::with_capacity(pages * PAGE);
    buf.set_len(pages * PAGE);
    buf.bytes_mut().fill(fill);
    shared(buf)
}

async fn segment(disk: &SimDisk, path: &str) -> SimFile {
    let path = Path::new(path);
    disk.create_zeroed(path, 16 * PAGE as u64).await.unwrap();
    let file = disk.open(path, OpenAs::Segment).await.unwrap();
    assert!(file.try_lock().unwrap());
    file
}

fn run<T: 'static>(seed: u64, test: impl AsyncFnOnce(World, SimDisk) -> T + 'static) -> (T, Vec<String>) {
    let world = World::new(seed, false);
    let (w, disk) = (world.clone(), SimDisk::new(&world));
    let value = world.block_on(async move { test(w, disk).await }).expect("ends");
    let violations = world.violations();
    world.end();
    (value, violations)
}

#[test]
fn a_completed_segment_write_survives_power_loss_unless_the_disk_lies() {
    let lost = |lying: bool| {
        (0..40)
            .filter(|&seed| {
                run(seed, async move |_, disk| {
                    disk.set_faults(DiskFaults { lying, ..DiskFaults::default() });
                    let file = segment(&disk, "/a").await;
                    file.write_at(page(7, 2), 0).await.unwrap();
                    drop(file);
                    disk.power_off();
                    let bytes = &disk.snapshot()[Path::new("/a")];
                    bytes[..2 * PAGE].iter().any(|&b| b != 7)
                })
                .0
            })
            .count()
    };
    assert_eq!(lost(false), 0);
    assert!(lost(true) > 20);
}

#[test]
fn a_write_in_flight_is_torn_by_sectors() {
    let mut kinds = BTreeSet::new();
    for seed in 0..60 {
        let (old_new, violations) = run(seed, async |world, disk| {
            let file = segment(&disk, "/a").await;
            let w = world.clone();
            world.spawn(1, async move {
                let _ = file.write_at(page(9, 4), 0).await;
            });
            world.pause(world.below(60 * US)).await;
            w.kill(1, Death::Power);
            disk.power_off();
            let bytes = disk.snapshot().remove(Path::new("/a")).unwrap();
            let sectors = bytes[..4 * PAGE].chunks(SECTOR);
            assert!(sectors.clone().all(|s| s.iter().all(|&b| b == s[0])), "a sector is whole");
            let new = sectors.filter(|s| s[0] == 9).count();
            (new > 0, new < 32)
        });
        assert_eq!(violations, Vec::<String>::new());
        kinds.insert(old_new);
    }
    assert_eq!(kinds.len(), 3, "all, nothing and a mixture must occur");
}

#[test]
fn writes_of_a_dead_process_hold_the_lock_until_they_have_landed() {
    let mut waited = 0;
    for seed in 0..40 {
        waited += run(seed, async |world, disk| {
            let file = segment(&disk, "/a").await;
            world.spawn(1, async move {
                let _ = file.write_at(page(5, 1), 0).await;
            });
            world.pause(20 * US).await;
            world.kill(1, Death::Process);
            let again = disk.open(Path::new("/a"), OpenAs::Segment).await.unwrap();
            let mut tries = 0;
            while !again.try_lock().unwrap() {
                tries += 1;
                world.pause(100 * MS).await;
            }
            let seen = again.read_at(AlignedBuf::with_capacity(PAGE), 0).await.1.bytes()[0];
            world.pause(20 * SEC).await;
            let later = again.read_at(AlignedBuf::with_capacity(PAGE), 0).await.1.bytes()[0];
            assert_eq!(seen, later, "nothing lands once the lock is granted");
            u32::from(tries > 0)
        })
        .0;
    }
    assert!(waited > 5, "late writes must occur: {waited}");
}

#[test]
fn side_files_need_sync_and_their_names_need_sync_dir() {
    let survivors = |sync: bool, sync_dir: bool| {
        (0..30)
            .filter(|&seed| {
                run(seed, async move |_, disk| {
                    disk.create_dir(Path::new("/d")).await.unwrap();
                    let file = disk.open(Path::new("/d/s"), OpenAs::NewSide).await.unwrap();
                    file.write_at(SharedBytes::copy_of(&[3; 3000]), 0).await.unwrap();
                    if sync {
                        file.sync().await.unwrap();
                    }
                    if sync_dir {
                        disk.sync_dir(Path::new("/d")).await.unwrap();
                    }
                    drop(file);
                    disk.power_off();
                    disk.snapshot().get(Path::new("/d/s")).is_some_and(|b| *b == [3; 3000])
                })
                .0
            })
            .count()
    };
    assert_eq!(survivors(true, true), 30);
    assert!((1..30).contains(&survivors(true, false)));
    assert!((1..30).contains(&survivors(false, true)));
}

#[test]
fn archive_files_are_written_once_and_need_sync() {
    let survivors = |sync: bool| {
        (0..30)
            .filter(|&seed| {
                let (whole, violations) = run(seed, async move |_, disk| {
                    let file = disk.open(Path::new("/a"), OpenAs::NewArchive).await.unwrap();
                    assert!(file.try_lock().unwrap());
                    disk.sync_dir(Path::new("/")).await.unwrap();
                    file.write_at(page(3, 2), 0).await.unwrap();
                    file.write_at(page(3, 1), 2 * PAGE as u64).await.unwrap();
                    if sync {
                        file.sync().await.unwrap();
                    }
                    drop(file);
                    disk.power_off();
                    disk.snapshot()[Path::new("/a")] == [3; 3 * PAGE]
                });
                assert_eq!(violations, Vec::<String>::new());
                whole
            })
            .count()
    };
    assert_eq!(survivors(true), 30);
    assert!((1..30).contains(&survivors(false)));
    let (_, violations) = run(1, async |_, disk| {
        disk.set_faults(DiskFaults { capacity: Some(10_000), ..DiskFaults::default() });
        let file = disk.open(Path::new("/a"), OpenAs::NewArchive).await.unwrap();
        assert!(file.try_lock().unwrap());
        assert_eq!(file.write_at(page(1, 3), 0).await.unwrap_err().raw_os_error(), Some(28));
        assert_eq!(file.len().unwrap(), 19 * SECTOR as u64, "as much as fitted");
        disk.set_faults(DiskFaults::default());
        file.write_at(page(1, 1), 0).await.unwrap();
        let reader = disk.open(Path::new("/a"), OpenAs::Archive).await.unwrap();
        reader.write_at(page(1, 1), 3 * PAGE as u64).await.unwrap();
    });
    assert_eq!(violations.len(), 2, "{violations:?}");
}

#[test]
fn after_a_failed_sync_the_next_one_lies() {
    let (_, _) = run(3, async |_, disk| {
        disk.create_dir(Path::new("/d")).await.unwrap();
        let file = disk.open(Path::new("/d/s"), OpenAs::NewSide).await.unwrap();
        file.write_at(SharedBytes::copy_of(&[3; 30_000]), 0).await.unwrap();
        disk.sync_dir(Path::new("/d")).await.unwrap();
        disk.set_faults(DiskFaults { sync_error: 10_000, ..DiskFaults::default() });
        assert!(file.sync().await.is_err());
        disk.set_faults(DiskFaults::default());
        assert!(file.sync().await.is_ok());
        assert_eq!(file.read_at(AlignedBuf::with_capacity(32_768), 0).await.1.bytes(), [3; 30_000]);
        drop(file);
        disk.power_off();
        assert_ne!(disk.snapshot()[Path::new("/d/s")], [3; 30_000]);
    });
}

#[test]
fn errors_capacity_and_broken_contracts_show() {
    let (_, violations) = run(4, async |_, disk| {
        let (a, b) = (Path::new("/a"), Path::new("/b"));
        let file = segment(&disk, "/a").await;
        disk.set_faults(DiskFaults { capacity: Some(70_000), read_error: 10_000, ..DiskFaults::default() });
        assert_eq!(disk.create_zeroed(b, 65_536).await.unwrap_err().raw_os_error(), Some(28));
        assert_eq!(disk.free_bytes(a).await.unwrap(), 70_000 - 65_536);
        assert!(file.read_at(AlignedBuf::with_capacity(PAGE), 0).await.0.is_err());
        disk.set_faults(DiskFaults { write_error: 10_000, ..DiskFaults::default() });
        assert_eq!(file.write_at(page(1, 1), 0).await.unwrap_err().raw_os_error(), Some(5));
        disk.set_faults(DiskFaults { short_write: 10_000, ..DiskFaults::default() });
        assert!(file.write_at(page(1, 1), 0).await.is_err());
        disk.set_faults(DiskFaults::default());
        assert_eq!(disk.list(Path::new("/")).await.unwrap(), [("a".to_owned(), 65_536)]);
        let other = disk.open(a, OpenAs::Segment).await.unwrap();
        assert!(!other.try_lock().unwrap());
        other.write_at(page(1, 1), 0).await.unwrap();
        file.write_at(page(1, 1), 100).await.unwrap();
        file.write_at(page(1, 1).part(0..100), 0).await.unwrap();
        disk.remove(a).await.unwrap();
        assert!(disk.open(a, OpenAs::Read).await.is_err());
    });
    assert_eq!(violations.len(), 3, "{violations:?}");
}

#[test]
fn a_directory_that_is_renamed_has_one_name_or_the_other() {
    let mut kinds = BTreeSet::new();
    for seed in 0..60 {
        let (found, violations) = run(seed, async |world, disk| {
            let (from, to) = (Path::new("/q/a"), Path::new("/q/b"));
            disk.create_dir(Path::new("/q/a/side")).await.unwrap();
            drop(segment(&disk, "/q/a/1").await);
            let d = disk.clone();
            world.spawn(1, async move { d.rename_dir(from, to).await.unwrap() });
            world.pause(world.below(2 * MS)).await;
            world.kill(1, Death::Power);
            disk.power_off();
            let mut found = disk.list_dirs(Path::new("/q")).await.unwrap();
            assert_eq!(found.len(), 1);
            let dir = Path::new("/q").join(&found[0]);
            assert_eq!(disk.list(&dir).await.unwrap().len(), 1, "with all that is in it");
            assert_eq!(disk.list_dirs(&dir).await.unwrap(), ["side"]);
            assert!(disk.remove_dir(&dir).await.is_err(), "not empty");
            found.remove(0)
        });
        assert!(violations.is_empty(), "{violations:?}");
        kinds.insert(found);
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["a", "b"]);
}
