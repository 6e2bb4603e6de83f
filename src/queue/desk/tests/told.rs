//! What senders are told: when, how often, together or apart; also over crashes, and when it is much.

use super::archived::settled;
use super::*;
use std::collections::BTreeMap;

/// How often each recipient is named with `action`, by notifications with different ids.
fn told(mails: &[Mail], action: &str) -> BTreeMap<String, usize> {
    let mut out: BTreeMap<String, std::collections::BTreeSet<String>> = BTreeMap::new();
    for m in mails.iter().filter(|m| m.from.is_empty()) {
        let id = m.data.lines().find(|l| l.starts_with("Message-ID:")).expect("an id");
        let mut last = "";
        for line in m.data.lines() {
            if let Some(address) = line.strip_prefix("Final-Recipient: rfc822; ") {
                last = address;
            } else if line == format!("Action: {action}") {
                out.entry(last.to_owned()).or_default().insert(id.to_owned());
            }
        }
    }
    out.into_iter().map(|(address, ids)| (address, ids.len())).collect()
}

fn once(range: std::ops::Range<usize>, domain: &str) -> BTreeMap<String, usize> {
    range.map(|n| (format!("m{n}@{domain}"), 1)).collect()
}

fn refuse(_: &str) -> String {
    "550 5.1.1 No such user".into()
}

#[test]
fn success_is_told_once_whenever_the_power_goes() {
    for crash_at in 1..30 {
        let world = Rc::new(World::default());
        let mut accepted = 0;
        let mut got: Vec<Mail> = Vec::new();
        run(
            &world,
            |_| {},
            async |r| {
                let (desk, _) = r.open().await;
                let start = world.writes.get();
                while accepted < 6 && world.writes.get() - start < crash_at {
                    let to = format!("m{accepted}@a.example");
                    let e = envelope("me@from.example", &[(&to, Notify::SUCCESS)]);
                    send_as(&desk, &e, "a: b\r\n\r\nx\r\n").await.expect("accepted");
                    accepted += 1;
                    r.sleep(Duration::from_millis(20 * (crash_at % 3))).await;
                }
                for _ in 0..200 {
                    if world.writes.get() - start >= crash_at {
                        break;
                    }
                    r.sleep(Duration::from_millis(10)).await;
                }
                got.extend(texts(&r.b));
            },
        );
        run(
            &world,
            |_| {},
            async |r| {
                let (desk, recovery) = r.open().await;
                assert!(recovery.malformed.is_empty());
                assert!(r.empty(&desk, HOUR).await, "crash at {crash_at}: {:?}", desk.stats());
                r.sleep(SECOND).await;
                assert_eq!(desk.stats().journal_live_bytes, 0);
                got.extend(texts(&r.b));
            },
        );
        assert_eq!(told(&got, "relayed"), once(0..accepted, "a.example"), "crash at {crash_at}");
    }
}

#[test]
fn a_list_is_told_as_expanded_and_its_targets_report_no_success() {
    let world = Rc::new(World::default());
    let list = [("list@a.example", Notify(Notify::SUCCESS.0 | Notify::FAILURE.0))];
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            r.a.up.set(false);
            r.b.up.set(false);
            send_as(&desk, &envelope("me@from.example", &list), "a: b\r\n\r\nx\r\n").await.expect("accepted");
        },
    );
    // Also when it was all that could be done before a crash.
    run(
        &world,
        |_| {},
        async |r| {
            *r.a.rcpt.borrow_mut() = Box::new(refuse);
            let (desk, _) = r.open().await;
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            let got = texts(&r.b);
            let one = |who: &str| [(who.to_owned(), 1)].into_iter().collect::<BTreeMap<_, _>>();
            assert_eq!(told(&got, "expanded"), one("list@a.example"));
            assert_eq!(told(&got, "failed"), one("one@a.example"));
            assert_eq!(told(&got, "relayed"), BTreeMap::new());
            let expanded = got.iter().find(|m| m.data.contains("Action: expanded")).expect("told");
            assert!(expanded.data.contains("\nStatus: 2.0.0\n"), "{}", expanded.data);
        },
    );
}

#[test]
fn failures_at_several_destinations_are_one_report() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            *r.a.rcpt.borrow_mut() = Box::new(refuse);
            *r.b.rcpt.borrow_mut() =
                Box::new(|a| if a.starts_with("me") { "250 Ok" } else { "550 no" }.into());
            send(&desk, &["x@a.example", "y@b.example", "z@nowhere.example"]).await;
            assert!(r.empty(&desk, 60 * SECOND).await);
            let got = texts(&r.b);
            assert_eq!(got.len(), 1, "{got:?}");
            assert_eq!(told(&got, "failed").len(), 3);
            let of_a = got[0].data.split("\n\n").find(|g| g.contains("; x@a.example\n")).expect("a group");
            assert!(of_a.contains("\nRemote-MTA: dns; one\n"), "{of_a}");
            let of_b = got[0].data.split("\n\n").find(|g| g.contains("; y@b.example\n")).expect("a group");
            assert!(of_b.contains("\nRemote-MTA: dns; [10.0.0.2]\n"), "{of_b}");
            let of_z = got[0].data.split("\n\n").find(|g| g.contains("; z@nowhere")).expect("a group");
            assert!(!of_z.contains("Remote-MTA") && of_z.contains("\nLast-Attempt-Date: "), "{of_z}");
            // One that can still come is not waited for.
            r.a.got.borrow_mut().clear();
            r.b.got.borrow_mut().clear();
            *r.a.rcpt.borrow_mut() = Box::new(|_| "450 4.2.0 later".into());
            send(&desk, &["x@a.example", "y@b.example"]).await;
            r.sleep(60 * SECOND).await;
            assert_eq!(told(&texts(&r.b), "failed"), [("y@b.example".to_owned(), 1)].into_iter().collect());
        },
    );
}

/// Many messages are refused while the sender's server is away. What is owed is a line in the journal and
/// the index each; no notification is in the queue but those with which the server is tried.
#[test]
fn nothing_is_rendered_while_the_sender_is_away() {
    const COUNT: usize = 600;
    let world = Rc::new(World::default());
    let mut got = Vec::new();
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            *r.a.rcpt.borrow_mut() = Box::new(refuse);
            r.b.up.set(false);
            send(&desk, &["first@b.example"]).await;
            r.sleep(SECOND).await;
            let before = desk.0.state.borrow().last_id;
            super::archived::fill(r, &desk, 0..COUNT).await;
            r.sleep(HOUR).await;
            let stats = desk.stats();
            assert_eq!(stats.messages, COUNT + 1, "each waits as the message that it is");
            assert!(stats.parked >= COUNT - 50, "{stats:?}");
            let notices = desk.0.state.borrow().index.after(before).count() - COUNT;
            assert_eq!(notices, 0);
            settled(r).await;
        },
    );
    run(
        &world,
        |_| {},
        async |r| {
            r.b.up.set(false);
            let (desk, recovery) = r.open().await;
            let loaded = desk.loaded().await.expect("loads");
            // Nothing of them is in doubt, and nothing is sent again.
            assert_eq!((loaded.in_doubt, recovery.in_doubt), (0, 0));
            r.sleep(2 * HOUR).await;
            let untried = desk.0.state.borrow().untried.len();
            assert!(untried <= 500, "{untried}");
            r.b.up.set(true);
            assert!(r.empty(&desk, 24 * HOUR).await, "{:?}", desk.stats());
            assert!(texts(&r.a).is_empty());
            got.extend(texts(&r.b));
        },
    );
    assert_eq!(told(&got, "failed"), once(0..COUNT, "a.example"));
}

#[test]
fn what_a_sender_cannot_be_told_in_time_the_postmaster_is() {
    let world = Rc::new(World::default());
    let table = |r: &mut Run| {
        r.options.bounce_lifetime = 5 * HOUR;
        r.options.lifetime = 2 * HOUR;
    };
    run(&world, table, async |r| {
        let (desk, _) = r.open().await;
        *r.b.rcpt.borrow_mut() = Box::new(refuse);
        // The sender's own server is away from the start.
        r.a.up.set(false);
        send(&desk, &["first@a.example"]).await;
        r.sleep(SECOND).await;
        let e = envelope("me@a.example", &[("x@b.example", Notify::DEFAULT)]);
        send_as(&desk, &e, "Subject: lost\r\n\r\nx\r\n").await.expect("accepted");
        r.sleep(HOUR).await;
        assert_eq!(list(&desk, false).await.len(), 2);
        let reason = list(&desk, false).await[1].recipients[0].delay_reason.clone().expect("a reason");
        assert!(reason.starts_with("failed, its sender is still to be told: 550 5.1.1"), "{reason}");
        *r.b.rcpt.borrow_mut() = Box::new(|_| "250 Ok".into());
        r.sleep(10 * HOUR).await;
        let got = texts(&r.b);
        let lost: Vec<_> = got.iter().filter(|m| m.data.contains("Subject: lost")).collect();
        assert_eq!(lost.len(), 1, "{got:?}");
        assert_eq!(lost[0].to, ["postmaster@b.example"]);
    });
}

#[test]
fn more_recipients_than_a_record_holds_are_told_in_several_reports() {
    const COUNT: usize = 400;
    let world = Rc::new(World::default());
    let set = |r: &mut Run| r.storage.segments_max = 200;
    run(&world, set, async |r| {
        let (desk, _) = r.open().await;
        // Long enough that all of them together are more.
        *r.a.rcpt.borrow_mut() = Box::new(|_| format!("550 5.1.1 {}", "no such user ".repeat(20)));
        let to: Vec<String> = (0..COUNT).map(|n| format!("m{n}@a.example")).collect();
        for part in to.chunks(100) {
            let list: Vec<&str> = part.iter().map(String::as_str).collect();
            send(&desk, &list).await;
        }
        assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
        let got = texts(&r.b);
        assert_eq!(told(&got, "failed"), once(0..COUNT, "a.example"));
        assert!((5..100).contains(&got.len()), "{} reports", got.len());
    });
}

#[test]
fn an_automatic_answer_is_not_answered() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            *r.a.rcpt.borrow_mut() = Box::new(refuse);
            let answer = "Auto-Submitted: auto-replied\r\n\r\nI am away.\r\n";
            let mut expected = Vec::new();
            for (notify, to) in
                [(Notify::DEFAULT, "postmaster@b.example"), (Notify::FAILURE, "me@from.example")]
            {
                let e = envelope("me@from.example", &[("x@a.example", notify)]);
                send_as(&desk, &e, answer).await.expect("accepted");
                assert!(r.empty(&desk, 60 * SECOND).await);
                expected.push(to);
            }
            assert_eq!(texts(&r.b).iter().map(|m| m.to[0].clone()).collect::<Vec<_>>(), expected);
        },
    );
}

#[test]
fn what_is_owed_of_held_and_deleted_messages_waits_or_goes() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            *r.a.rcpt.borrow_mut() = Box::new(refuse);
            r.b.up.set(false);
            send(&desk, &["first@b.example"]).await;
            r.sleep(SECOND).await;
            let mut ids = Vec::new();
            for _ in 0..3 {
                ids.push(send(&desk, &["x@a.example"]).await);
            }
            r.sleep(SECOND).await;
            let note = String::new;
            let hold = Request::Hold { which: Which::One(ids[0]), note: note() };
            let delete = Request::Delete { which: Which::One(ids[1]), note: note() };
            for request in [&hold, &delete] {
                assert_eq!(desk.control(request).await, Response::Done(1));
            }
            r.b.up.set(true);
            desk.control(&Request::Flush(Which::All)).await;
            r.sleep(3 * HOUR).await;
            let about =
                |id: &QueueId| texts(&r.b).iter().filter(|m| m.data.contains(&id.to_string())).count();
            assert_eq!([about(&ids[0]), about(&ids[1]), about(&ids[2])], [0, 0, 1]);
            let release = Request::Release { which: Which::One(ids[0]), note: note() };
            assert_eq!(desk.control(&release).await, Response::Done(1));
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            assert_eq!(about(&ids[0]), 1);
        },
    );
}

#[test]
fn a_warning_names_all_that_wait_and_want_it() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.options.delay_warning = HOUR,
        async |r| {
            let (desk, _) = r.open().await;
            let late = |a: &str| if a.starts_with('l') { "451 4.2.0 full" } else { "250 Ok" }.into();
            *r.a.rcpt.borrow_mut() = Box::new(late);
            *r.b.rcpt.borrow_mut() = Box::new(late);
            // Each has retries of its own, so one of them is the first to be late.
            let to = [
                ("l1@a.example", Notify::DEFAULT),
                ("l2@b.example", Notify::DEFAULT),
                ("l3@a.example", Notify::FAILURE),
                ("l4@a.example", Notify::DELAY),
                ("done@b.example", Notify::DEFAULT),
            ];
            send_as(&desk, &envelope("me@from.example", &to), "Subject: s\r\n\r\nx\r\n").await.unwrap();
            r.sleep(12 * HOUR).await;
            let names = ["l1@a.example", "l2@b.example", "l4@a.example"];
            let expected: BTreeMap<_, _> = names.iter().map(|n| ((*n).to_owned(), 1)).collect();
            let got = texts(&r.b);
            assert_eq!(told(&got, "delayed"), expected, "{got:?}");
            assert_eq!(got.iter().filter(|m| m.from.is_empty()).count(), 1, "{got:?}");
        },
    );
}
