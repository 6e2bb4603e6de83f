//! Messages that operators mean by a condition, also when they have left the journal.

use super::archived::{MANY, fill, settled};
use super::*;
use crate::queue::pick::{Pick, Standing, Verb};

async fn select(desk: &Desk<Rig>, pick: &Pick, verb: Verb) -> Vec<QueueId> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let pick = Box::new(pick.clone());
        match desk.control(&Request::Select { pick, verb, after }).await {
            Response::Selected { ids, next, unread: 0, .. } => {
                all.extend(ids);
                let Some(_) = next else { return all };
                after = next;
            }
            other => panic!("{other:?}"),
        }
    }
}

fn to(pattern: &str) -> Pick {
    Pick { recipient: Some(pattern.into()), ..Pick::default() }
}

fn standing(state: Standing) -> Pick {
    Pick { state: Some(state), ..Pick::default() }
}

#[test]
fn parked_messages_are_found_and_changed_and_stay_so() {
    let world = Rc::new(World::default());
    let ten = run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            fill(r, &desk, 0..MANY).await;
            settled(r).await;
            assert!(desk.stats().parked > MANY / 2, "{:?}", desk.stats());
            assert_eq!(select(&desk, &to("*@A.example"), Verb::Look).await.len(), MANY);
            assert_eq!(select(&desk, &standing(Standing::Deferred), Verb::Look).await.len(), MANY);
            let ten = select(&desk, &to("m1?@a.example"), Verb::Hold).await;
            assert_eq!(ten.len(), 10);
            let shown = page(desk.control(&Request::ShowSome(ten.clone())).await);
            let addresses: Vec<_> = shown.iter().map(|m| m.recipients[0].address.clone()).collect();
            assert_eq!(addresses, (10..20).map(|n| format!("m{n}@a.example")).collect::<Vec<_>>());
            let name = shown[0].recipients[0].destination.clone();
            let there = Pick { destination: Some(name), ..Pick::default() };
            assert_eq!(select(&desk, &there, Verb::Look).await.len(), MANY);

            let note = "me".to_owned();
            let which = Which::Some(ten.clone());
            assert_eq!(desk.control(&Request::Hold { which, note: note.clone() }).await, Response::Done(10));
            assert_eq!(select(&desk, &standing(Standing::Hold), Verb::Look).await, ten);
            assert_eq!(select(&desk, &to("m1?@*"), Verb::Hold).await, [], "they are held already");
            let which = Which::Some(select(&desk, &to("m2?@*"), Verb::Requeue).await);
            assert_eq!(
                desk.control(&Request::Requeue { which, note: note.clone() }).await,
                Response::Done(10)
            );
            let which = Which::Some(select(&desk, &to("m3?@*"), Verb::Bounce).await);
            let bounce = Request::Bounce { which: which.clone(), note, reason: "because".into() };
            assert_eq!(desk.control(&bounce).await, Response::Done(10));
            settled(r).await;
            assert_eq!(desk.control(&bounce).await, Response::Done(0), "they have been given up");
            // A crash follows.
            ten
        },
    );
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            settled(r).await;
            assert_eq!(select(&desk, &standing(Standing::Hold), Verb::Look).await, ten);
            assert_eq!(select(&desk, &to("m2?@*"), Verb::Look).await.len(), 10);
            let given_up = select(&desk, &to("m3?@*"), Verb::Look).await;
            let which = Which::Some(given_up);
            let bounce = Request::Bounce { which, note: String::new(), reason: String::new() };
            assert_eq!(desk.control(&bounce).await, Response::Done(0), "also after a crash");
            let which = Which::Some(ten);
            assert_eq!(
                desk.control(&Request::Release { which, note: String::new() }).await,
                Response::Done(10)
            );
            r.a.up.set(true);
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            let mut got: Vec<String> = texts(&r.a).iter().flat_map(|m| m.to.clone()).collect();
            got.retain(|to| to.starts_with('m'));
            got.sort();
            let mut expected: Vec<String> =
                (0..MANY).filter(|n| !(30..40).contains(n)).map(|n| format!("m{n}@a.example")).collect();
            expected.sort();
            assert_eq!(got, expected, "each once, but for those that were given up");
        },
    );
}
