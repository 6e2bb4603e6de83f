//! A wall clock that is set: no mail waits or expires because of it.

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn mail_does_not_expire_through_a_jump_of_the_clock() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            *r.a.rcpt.borrow_mut() = Box::new(|_| "451 4.2.0 full".into());
            send(&desk, &["x@a.example"]).await;
            r.sleep(HOUR).await;
            r.rig.set_clock(10 * DAY, false);
            send(&desk, &["y@a.example"]).await;
            // Tried again, and found unreachable: the two ways to expire.
            r.sleep(3 * HOUR).await;
            r.a.up.set(false);
            r.sleep(3 * HOUR).await;
            assert_eq!((desk.stats().messages, texts(&r.b).len()), (2, 0));
            r.rig.set_clock(11 * DAY, true);
            r.sleep(4 * DAY).await;
            assert_eq!((desk.stats().messages, texts(&r.b).len()), (2, 0));
            r.sleep(DAY).await;
            assert!(r.empty(&desk, 3 * HOUR).await, "after five days it expires all the same");
            assert_eq!(texts(&r.b).len(), 2);
        },
    );
}

#[test]
fn a_retry_never_waits_for_a_clock_that_was_set_back() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            *r.a.rcpt.borrow_mut() = Box::new(|_| "451 4.2.0 full".into());
            for to in ["x@a.example", "y@a.example", "z@a.example"] {
                send(&desk, &[to]).await;
            }
            r.sleep(HOUR).await;
            desk.close().await;
        },
    );
    let back = |r: &mut Run| r.rig.set_clock(10 * DAY, true);
    run(&world, back, async |r| {
        let (desk, recovery) = r.open().await;
        assert_eq!(recovery.messages, 3);
        let longest = r.options.retry.longest().as_millis() as u64;
        let due: Vec<u64> =
            list(&desk, false).await.iter().map(|l| l.recipients[0].due_in_ms.unwrap()).collect();
        assert!(due.iter().all(|d| *d <= longest) && due[0].abs_diff(due[1]) > 1000, "{due:?}");
        assert!(r.empty(&desk, 2 * HOUR).await);
        assert_eq!(texts(&r.a).len(), 3);
    });
}

#[test]
fn a_clock_wrong_at_the_start_expires_nothing_while_it_may_be_put_right() {
    let world = Rc::new(World::default());
    let full = |r: &mut Run| *r.a.rcpt.borrow_mut() = Box::new(|_| "451 4.2.0 full".into());
    run(&world, full, async |r| {
        let (desk, _) = r.open().await;
        send(&desk, &["x@a.example"]).await;
        r.sleep(HOUR).await;
        desk.close().await;
    });
    let wrong = |r: &mut Run| {
        full(r);
        r.rig.set_clock(10 * DAY, false);
    };
    run(&world, wrong, async |r| {
        let (desk, _) = r.open().await;
        r.sleep(HOUR / 2).await;
        r.rig.set_clock(10 * DAY, true);
        r.sleep(DAY).await;
        assert_eq!((desk.stats().messages, texts(&r.b).len()), (1, 0));
        assert!(r.empty(&desk, 5 * DAY).await);
        assert!(texts(&r.b)[0].data.contains("Status: 5.4.7"));
    });
}
