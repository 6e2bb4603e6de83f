//! Mail that is held from its beginning, and whose it is.

use super::*;
use crate::intake::Terms;
use crate::queue::record::MessageView;

/// Takes a message for `to` on these terms.
async fn take(desk: &Desk<Rig>, to: &str, terms: Terms<'_>) -> QueueId {
    let intake = Intake::new(desk.clone());
    let arrival = desk.runtime().wall();
    let id = intake.next_id(arrival);
    let e = envelope("me@from.example", &[(to, Notify::DEFAULT)]);
    let facts = BodyFacts { len: 4, ..BodyFacts::default() };
    let body = Body::Slices(&[b"x: y"]);
    let m = Submission { id, arrival, envelope: &e, trace: b"", body, facts };
    intake.stage_on(&m, terms).expect("taken").await.expect("safe").id
}

/// The login with which the record of `id` says that it came.
async fn user(desk: &Desk<Rig>, id: QueueId) -> String {
    let resident = desk.read_back(desk.key_of(id).expect("there")).await;
    let payload = match resident {
        Some(payload) => payload,
        None => desk.read_parked(id.message).await.expect("readable").1,
    };
    String::from_utf8(MessageView::parse(&payload).expect("well formed").user.to_vec()).expect("text")
}

async fn is_held(desk: &Desk<Rig>, id: QueueId) -> bool {
    let Response::Why(why) = desk.control(&Request::Why(id)).await else { panic!("no answer") };
    assert_eq!(why.recipients[0].waits_for, "an operator to release it; held by the brake");
    page(desk.control(&Request::Show(id)).await)[0].queue_name == "hold"
}

#[test]
fn what_is_held_from_its_beginning_stays_so_over_a_restart_until_it_is_released() {
    let world = Rc::new(World::default());
    let terms = Terms { user: b"bob", hold: Some("the brake") };
    let ids = run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            let ids = [
                take(&desk, "x@a.example", terms).await,
                // Not refused before it is released, either.
                take(&desk, "x@nowhere.example", terms).await,
            ];
            assert!(is_held(&desk, ids[0]).await && is_held(&desk, ids[1]).await);
            assert_eq!(desk.control(&Request::Flush(Which::All)).await, Response::Done(0));
            r.sleep(HOUR).await;
            assert_eq!((desk.stats().held, texts(&r.a).len(), texts(&r.b).len()), (2, 0, 0));
            take(&desk, "y@a.example", Terms { user: b"bob", hold: None }).await;
            r.sleep(2 * SECOND).await;
            assert_eq!(texts(&r.a).len(), 1, "only those are held that should be");
            ids
        },
    );
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            r.sleep(HOUR).await;
            assert!(is_held(&desk, ids[0]).await && is_held(&desk, ids[1]).await);
            assert_eq!((desk.stats().held, texts(&r.a).len(), texts(&r.b).len()), (2, 0, 0));
            assert_eq!(user(&desk, ids[0]).await, "bob");
            let release = Request::Release { which: Which::All, note: "well".into() };
            assert_eq!(desk.control(&release).await, Response::Done(2));
            assert!(r.empty(&desk, 60 * SECOND).await);
            assert_eq!((texts(&r.a).len(), texts(&r.b).len()), (1, 1), "sent, and its sender told");
        },
    );
}

#[test]
fn the_login_is_kept_when_the_message_is_moved_into_the_archive() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            let long = [b'u'; 300];
            let ids = [
                take(&desk, "x@a.example", Terms { user: b"bob", hold: Some("the brake") }).await,
                take(&desk, "x@a.example", Terms { user: &long, hold: None }).await,
            ];
            archived::fill(r, &desk, 0..archived::MANY).await;
            archived::settled(r).await;
            assert!(desk.stats().parked > archived::MANY / 2);
            assert_eq!((user(&desk, ids[0]).await, user(&desk, ids[1]).await.len()), ("bob".into(), 255));
            assert_eq!(desk.stats().held, 1);
        },
    );
}
