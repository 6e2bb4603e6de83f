//! Messages that an operator sends another way, over restarts, parked or not.

use super::archived::{MANY, fill, recipients, settled, stored};
use super::*;
use crate::queue::row::{self, RowView};

async fn reroute(desk: &Desk<Rig>, ids: &[QueueId], to: &str) -> Response {
    desk.control(&Request::Reroute { ids: ids.to_vec(), note: "me: why".into(), to: to.into() }).await
}

async fn all(desk: &Desk<Rig>) -> Vec<QueueId> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        match desk.control(&Request::List { after, limit: 200, in_doubt: false }).await {
            Response::Page { messages, next } => {
                ids.extend(messages.iter().map(|m| m.queue_id.parse::<QueueId>().expect("an id")));
                let Some(_) = next else { return ids };
                after = next;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Those of the messages of `fill` that a server got.
fn numbers(server: &Server) -> Vec<usize> {
    let to = |to: &String| to.strip_prefix('m')?.strip_suffix("@a.example")?.parse().ok();
    let mut all: Vec<usize> = recipients(server).iter().filter_map(to).collect();
    all.sort_unstable();
    all
}

fn both_down(r: &mut Run) {
    r.a.up.set(false);
    r.b.up.set(false);
}

#[test]
fn what_waits_goes_elsewhere_at_once_and_may_come_back() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            let ids =
                [send(&desk, &["x@a.example"]).await, send(&desk, &["y@a.example", "z@a.example"]).await];
            let held = send(&desk, &["h@a.example"]).await;
            let hold = Request::Hold { which: Which::One(held), note: String::new() };
            assert_eq!(desk.control(&hold).await, Response::Done(1));
            r.sleep(SECOND).await;
            assert_eq!(reroute(&desk, &ids, "b.example").await, Response::Done(2));
            assert_eq!(reroute(&desk, &[held], "b.example").await, Response::Done(1));
            r.sleep(SECOND).await;
            assert_eq!(recipients(&r.b), ["x@a.example", "y@a.example", "z@a.example"]);
            let shown = &page(desk.control(&Request::Show(held)).await)[0];
            assert_eq!((shown.queue_name, shown.rerouted.as_deref()), ("hold", Some("b.example")));
            assert_eq!(shown.recipients[0].destination, "b");
            let Response::Why(why) = desk.control(&Request::Why(held)).await else { panic!() };
            assert_eq!(why.rerouted.as_deref(), Some("b.example"));
            assert_eq!(reroute(&desk, &[held], "").await, Response::Done(1));
            let release = Request::Release { which: Which::One(held), note: String::new() };
            assert_eq!(desk.control(&release).await, Response::Done(1));
            r.a.up.set(true);
            assert!(r.empty(&desk, HOUR).await);
            assert_eq!(recipients(&r.a), ["h@a.example"]);
            assert!(desk.0.state.borrow().vias.get(held.message).is_none(), "nothing is kept");
        },
    );
}

#[test]
fn it_outlasts_crashes_parked_or_not() {
    let world = Rc::new(World::default());
    run(&world, both_down, async |r| {
        let (desk, _) = r.open().await;
        fill(r, &desk, 0..MANY).await;
        settled(r).await;
        let ids = all(&desk).await;
        // The first are parked, the last are in the journal.
        let reads = world.reads.get();
        assert_eq!(reroute(&desk, &ids[..20], "b.example").await, Response::Done(20));
        assert_eq!(world.reads.get(), reads, "rows are enough");
        assert_eq!(reroute(&desk, &ids[MANY - 20..], "b.example").await, Response::Done(20));
        assert_eq!(reroute(&desk, &ids[10..20], "").await, Response::Done(10), "as routes say again");
    });
    run(&world, both_down, async |r| {
        let (desk, _) = r.open().await;
        settled(r).await;
        let ids = all(&desk).await;
        let shown = page(desk.control(&Request::ShowSome(ids[5..15].to_vec())).await);
        let to: Vec<_> = shown.iter().map(|m| m.recipients[0].destination.as_str()).collect();
        assert_eq!(to, [["b"; 5], ["a"; 5]].concat());
        settled(r).await;
        for (key, value) in stored(&world).rows.borrow().iter() {
            let Some(id) = row::id_of(key) else { continue };
            let parked = ids[..20].iter().position(|i| i.message == id);
            let via = RowView::parse(value).expect("a row").via;
            assert!(parked.is_none_or(|n| via == if n < 10 { "b.example" } else { "" }), "{parked:?} {via}");
        }
    });
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            r.sleep(HOUR).await;
            let expected: Vec<usize> = (0..10).chain(MANY - 20..MANY).collect();
            assert_eq!(numbers(&r.b), expected, "each once");
            r.a.up.set(true);
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            assert_eq!(numbers(&r.a), (10..MANY - 20).collect::<Vec<_>>());
        },
    );
}

#[test]
fn a_copy_in_the_archive_says_it_to_an_index_that_is_made_anew() {
    let world = Rc::new(World::default());
    run(&world, both_down, async |r| {
        let (desk, _) = r.open().await;
        fill(r, &desk, 0..10).await;
        let ids = all(&desk).await;
        assert_eq!(reroute(&desk, &ids, "b.example").await, Response::Done(10));
        fill(r, &desk, 10..MANY).await;
        settled(r).await;
        assert!(desk.stats().parked > MANY / 2);
    });
    world.tables.borrow_mut().remove(Path::new("/q/index"));
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            r.sleep(HOUR).await;
            assert_eq!(numbers(&r.b), (0..10).collect::<Vec<_>>());
            assert_eq!(desk.stats().messages, MANY - 10);
        },
    );
}
