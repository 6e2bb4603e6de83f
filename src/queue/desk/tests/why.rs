//! What `why` says of attempts: those of the journal, and the last one when the journal has forgotten it.

use super::archived::fill;
use super::*;
use crate::queue::control::{Tried, WhyRecipient};

/// What is said of the one recipient of `id`.
async fn why(desk: &Desk<Rig>, id: QueueId) -> WhyRecipient {
    let Response::Why(mut why) = desk.control(&Request::Why(id)).await else { panic!("no answer") };
    assert_eq!(why.recipients.len(), 1);
    why.recipients.remove(0)
}

fn numbers(r: &WhyRecipient) -> Vec<u16> {
    r.tried.iter().map(|t| t.attempt).collect()
}

#[test]
fn the_first_attempt_and_the_ten_latest_and_at_least_the_last() {
    run(
        &Rc::new(World::default()),
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            let said = std::cell::Cell::new(0);
            *r.b.rcpt.borrow_mut() = Box::new(move |_| {
                said.set(said.get() + 1);
                format!("451 4.7.1 Not at {}", said.get())
            });
            let id = send(&desk, &["x@b.example"]).await;
            r.sleep(2 * SECOND).await;
            for attempts in 1..=13 {
                let w = why(&desk, id).await;
                assert_eq!((w.state, w.attempts, w.missing), ("deferred", attempts, 0));
                let last = w.tried.last().expect("the last one");
                assert_eq!(last.reply, format!("451 4.7.1 Not at {attempts}"));
                assert!(last.next.starts_with("20") || last.next.starts_with("19"), "a time: {last:?}");
                let want: Vec<u16> = match attempts {
                    ..=11 => (1..=attempts).collect(),
                    n => [1].into_iter().chain(n - 9..=n).collect(),
                };
                assert_eq!(numbers(&w), want);
                assert_eq!(w.last_reply.as_deref(), Some(&*last.reply));
                if attempts < 13 {
                    desk.control(&Request::Flush(Which::One(id))).await;
                    r.sleep(2 * SECOND).await;
                }
            }
            assert_eq!(why(&desk, id).await.tried[0].server, "[10.0.0.2]");
            // Mail for others drives it out of the journal.
            r.a.up.set(false);
            fill(r, &desk, 0..300).await;
            r.sleep(5 * SECOND).await;
            let w = why(&desk, id).await;
            let [Tried { attempt: 13, reply, server, next }] = &w.tried[..] else { panic!("{w:?}") };
            assert_eq!((&**reply, w.attempts, w.missing), ("451 4.7.1 Not at 13", 13, 12));
            assert!(!server.is_empty() && !next.is_empty(), "{w:?}");
        },
    );
}
