//! Crashes at every write, and bad weather for days.

use super::*;

/// Ends the process after each number of journal writes in turn: every recipient is told or
/// served, and never told twice.
#[test]
fn a_crash_after_any_write_loses_nothing_and_notifies_once() {
    for crash_at in 1..40 {
        let world = Rc::new(World::default());
        let mut accepted = Vec::new();
        let mut delivered: Vec<Mail> = Vec::new();
        let refuse = |a: &str| if a.starts_with("bad") { "550 5.1.1 no" } else { "250 Ok" }.to_string();
        run(
            &world,
            |_| {},
            async |r| {
                *r.a.rcpt.borrow_mut() = Box::new(refuse);
                let (desk, _) = r.open().await;
                let start = world.writes.get();
                for n in 0..6 {
                    let to = [format!("good{n}@a.example"), format!("bad{n}@a.example")];
                    let id = send(&desk, &[&to[0], &to[1]]).await;
                    accepted.push((n, id));
                    if world.writes.get() - start >= crash_at {
                        break;
                    }
                    r.sleep(Duration::from_millis(20 * (crash_at % 3))).await;
                }
                for _ in 0..200 {
                    if world.writes.get() - start >= crash_at {
                        break;
                    }
                    r.sleep(Duration::from_millis(10)).await;
                }
                delivered.extend(texts(&r.a));
                delivered.extend(texts(&r.b));
            },
        );
        run(
            &world,
            |_| {},
            async |r| {
                *r.a.rcpt.borrow_mut() = Box::new(refuse);
                let (desk, recovery) = r.open().await;
                assert!(recovery.malformed.is_empty());
                assert!(r.empty(&desk, 3 * HOUR).await, "crash at {crash_at}: drains");
                delivered.extend(texts(&r.a));
                delivered.extend(texts(&r.b));
            },
        );
        for (n, _) in &accepted {
            let good = format!("good{n}@a.example");
            let times = delivered.iter().filter(|m| m.to.contains(&good)).count();
            assert!((1..=2).contains(&times), "crash at {crash_at}: {good} {times} times");
            let bad = format!("; bad{n}@a.example");
            let mut ids: Vec<&str> = delivered
                .iter()
                .filter(|m| m.data.contains(&bad))
                .map(|m| m.data.lines().find(|l| l.starts_with("Message-ID:")).unwrap())
                .collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 1, "crash at {crash_at}: notifications about bad{n}");
        }
    }
}

/// Weather: servers that come and go, refuse, defer and die; a crash after a random number of writes;
/// again and again. After the faults stop everything is served or told, and notified once.
#[test]
fn any_weather_loses_nothing() {
    for seed in 0..40u64 {
        let world = Rc::new(World::default());
        world.random.set(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut accepted: Vec<(String, String)> = Vec::new();
        let mut delivered: Vec<Mail> = Vec::new();
        for life in 0..5 {
            let calm = life == 4;
            run(
                &world,
                |r| r.rig.set_clock(Duration::from_secs(life * 600), false),
                async |r| {
                    *r.a.rcpt.borrow_mut() = Box::new(bad_is_refused);
                    let (desk, recovery) = r.open().await;
                    assert!(recovery.malformed.is_empty(), "seed {seed}");
                    if !calm {
                        storm(r, &desk, &world, &mut accepted, (seed, life)).await;
                    } else {
                        assert!(r.empty(&desk, 12 * HOUR).await, "seed {seed}: drains");
                        r.sleep(SECOND).await;
                        assert_eq!(desk.stats().journal_live_bytes, 0, "seed {seed}");
                    }
                    assert!(r.a.most_open.get() <= 3 && r.b.most_open.get() <= 3, "seed {seed}");
                    delivered.extend(texts(&r.a));
                    delivered.extend(texts(&r.b));
                },
            );
        }
        assert!(!accepted.is_empty());
        for (good, bad) in &accepted {
            let times = delivered.iter().filter(|m| m.to.contains(good)).count();
            assert!(times >= 1, "seed {seed}: {good} lost");
            let about = format!("Final-Recipient: rfc822; {bad}\n");
            let mut ids: Vec<&str> = delivered
                .iter()
                .filter(|m| m.data.contains(&about))
                .map(|m| m.data.lines().find(|l| l.starts_with("Message-ID:")).unwrap())
                .collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 1, "seed {seed}: notifications about {bad}");
        }
    }
}

fn bad_is_refused(a: &str) -> String {
    if a.starts_with("bad") { "550 5.1.1 no" } else { "250 2.1.5 Ok" }.into()
}

async fn storm(
    r: &Run,
    desk: &Desk<Rig>,
    world: &World,
    accepted: &mut Vec<(String, String)>,
    (seed, life): (u64, u64),
) {
    let random = |n: u64| crate::runtime::Entropy::random(&r.rig) % n;
    let end = world.writes.get() + 3 + random(60);
    for n in 0..60 {
        let tag = format!("{seed}.{life}.{n}@a.example");
        match random(12) {
            0 => r.a.up.set(false),
            1 => r.a.up.set(true),
            2 => *r.a.rcpt.borrow_mut() = Box::new(|_| "450 4.2.0 later".into()),
            3 => r.a.dies_at_data.set(!r.a.dies_at_data.get()),
            4 => *r.a.dot.borrow_mut() = ["", "250 Ok", "451 4.3.0 no"][random(3) as usize].into(),
            5 => r.sleep(Duration::from_secs(random(400))).await,
            6 => drop(desk.control(&Request::Flush(Which::All)).await),
            _ => *r.a.rcpt.borrow_mut() = Box::new(bad_is_refused),
        }
        let (good, bad) = (format!("good{tag}"), format!("bad{tag}"));
        // One that is acknowledged although the process has "died" by then would prove nothing.
        if world.writes.get() >= end {
            return;
        }
        send(desk, &[&good, &bad]).await;
        accepted.push((good, bad));
        r.sleep(Duration::from_millis(random(50))).await;
    }
}

/// What a crash has left in doubt stays so over a clean stop, if it was not tried again meanwhile.
#[test]
fn a_clean_stop_clears_no_doubt_of_an_earlier_crash() {
    let world = Rc::new(World::default());
    run(&world, |r| r.a.up.set(false), async |r| _ = send(&r.open().await.0, &["x@a.example"]).await);
    for life in 0..2 {
        run(
            &world,
            |_| {},
            async |r| {
                let (desk, recovery) = r.open().await;
                assert_eq!((recovery.messages, recovery.in_doubt), (1, 1), "life {life}");
                assert!(desk.loaded().await.is_some());
                let hold = Request::Hold { which: Which::All, note: String::new() };
                assert_eq!(desk.control(&hold).await, Response::Done(1 - life));
                desk.stop();
                assert!(desk.drained(r.rig.now().after(30 * SECOND)).await);
                desk.close().await;
            },
        );
    }
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, recovery) = r.open().await;
            assert_eq!((recovery.messages, recovery.in_doubt), (1, 1));
            assert!(desk.loaded().await.is_some());
            let release = Request::Release { which: Which::All, note: String::new() };
            assert_eq!(desk.control(&release).await, Response::Done(1));
            assert!(r.empty(&desk, HOUR).await);
            send(&desk, &["y@nowhere.example"]).await;
            desk.stop();
            assert!(desk.drained(r.rig.now().after(30 * SECOND)).await);
            desk.close().await;
        },
    );
    run(&world, |_| {}, async |r| assert_eq!(r.open().await.1.in_doubt, 0));
}
