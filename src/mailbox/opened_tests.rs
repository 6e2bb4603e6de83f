//! Tests of opened mailboxes: a model session that believes only what it is told.

use super::*;
use crate::mailbox::types::{BodyId, Flags};
use proptest::prelude::*;

fn message(uid: u32, modseq: u64) -> Message {
    Message { uid, modseq, body: BodyId(u64::from(uid)), ..Message::default() }
}

fn expunge(modseq: u64, uids: &[u32]) -> Expunge {
    Expunge { modseq, when: Wall(modseq), uids: uids.iter().copied().collect() }
}

fn opened(count: u32) -> Opened {
    Opened::new((1..=count).map(|u| message(u, 1)).collect(), Vec::new(), 1, 1, 0)
}

#[test]
fn expunges_wait_until_they_may_be_told() {
    let mut o = opened(5);
    let v = o.enter();
    let floor = o.floor();
    o.expunge(expunge(2, &[2, 4]));
    assert!(!o.has_news(v, false) || o.sync(v, false).is_empty());
    assert_eq!((o.exists(v), o.at(v, 2).map(|m| m.uid), o.seq(v, 5)), (5, Some(2), Some(5)));
    assert!(o.get(2).is_none() && o.floor() == floor && floor < o.generation() && o.len() == 3);
    let late = o.enter();
    assert_eq!((o.exists(late), o.seq(late, 5), o.seq(late, 4)), (3, Some(3), None));
    let told = o.sync(v, true);
    assert_eq!(told, [News::Expunged { seq: 2, uid: 2 }, News::Expunged { seq: 3, uid: 4 }]);
    assert_eq!((o.exists(v), o.at(v, 2).map(|m| m.uid), o.seq_from(v, 2)), (3, Some(3), 2));
    assert!(o.floor() == o.generation() && !o.has_news(v, true));
}

#[test]
fn a_message_that_came_and_went_is_never_told() {
    let mut o = opened(1);
    let v = o.enter();
    o.put(message(2, 2));
    o.expunge(expunge(3, &[2]));
    assert_eq!(o.sync(v, true), []);
    o.put(message(3, 4));
    o.expunge(expunge(5, &[3]));
    // Without expunges it is there for a while: then it is told, too.
    assert_eq!(o.sync(v, false), [News::Exists(2)]);
    assert_eq!(o.sync(v, true), [News::Expunged { seq: 2, uid: 3 }]);
}

#[test]
fn own_changes_are_not_told_and_those_of_others_are() {
    let mut o = opened(3);
    let (a, b) = (o.enter(), o.enter());
    let seen = Message { flags: Flags::SEEN, ..message(2, 2) };
    o.put(seen);
    o.told(a, 2);
    assert!(!o.has_news(a, true) && o.has_news(b, true));
    assert_eq!((o.sync(a, true), o.sync(b, true)), (vec![], vec![News::Changed { seq: 2, message: seen }]));
    // Its own change is overtaken by somebody else's.
    o.put(message(3, 3));
    o.told(a, 3);
    let flagged = Message { flags: Flags::FLAGGED, ..message(3, 4) };
    o.put(flagged);
    assert_eq!(o.sync(a, true), [News::Changed { seq: 3, message: flagged }]);
    o.set_keywords(1);
    assert_eq!(o.sync(a, true), [News::Keywords]);
    o.delete();
    assert_eq!(o.sync(a, true), [News::Deleted]);
}

#[test]
fn the_first_unseen_message_is_remembered() {
    let seen = |uid, modseq| Message { flags: Flags::SEEN, ..message(uid, modseq) };
    let mut o = opened(5);
    let v = o.enter();
    assert_eq!(o.first_unseen(v), Some(1));
    (1..=4).for_each(|uid| o.put(seen(uid, 2)));
    assert_eq!((o.first_unseen(v), o.unseen_from), (Some(5), 4));
    o.put(message(2, 3));
    assert_eq!(o.first_unseen(v), Some(2));
    o.put(seen(2, 4));
    // What is gone counts no more, also if it is still shown; what is not shown has no number yet.
    o.expunge(expunge(5, &[5]));
    o.put(message(6, 6));
    assert_eq!((o.first_unseen(v), o.exists(v)), (None, 5));
    o.expunge(expunge(7, &[1, 3]));
    o.sync(v, true);
    assert_eq!((o.first_unseen(v), o.exists(v)), (Some(3), 3));
    // Tombs are taken out below what is remembered.
    o.leave(v);
    let v = o.enter();
    assert_eq!((o.slots(), o.unseen_from, o.first_unseen(v)), (3, 2, Some(3)));
    // Many that have been seen: a part of the way each time.
    let count = UNSEEN_AMONG as u32 + 9;
    let mut o = Opened::new((1..=count).map(|uid| seen(uid, 1)).collect(), Vec::new(), 1, 1, 0);
    o.put(message(count + 1, 2));
    let v = o.enter();
    assert_eq!((o.first_unseen(v), o.unseen_from), (None, UNSEEN_AMONG));
    assert_eq!((o.first_unseen(v), o.unseen_from), (Some(count + 1), count as usize));
}

#[test]
fn the_history_is_bounded_by_age_and_count() {
    let mut o = opened(3);
    o.expunge(expunge(2, &[1]));
    o.expunge(expunge(3, &[3]));
    assert_eq!(o.vanished(1), Vanished::Exactly(UidSet::of([(1, 1), (3, 3)])));
    assert_eq!(o.vanished(2), Vanished::Exactly(UidSet::of([(3, 3)])));
    assert_eq!(o.vanished(0), Vanished::Unknown);
    assert_eq!(o.trim(Wall(HISTORY_AGE + 3)), [2]);
    assert_eq!((o.vanished(1), o.kept_from()), (Vanished::Unknown, 2));
    let many = UidSet::of((0..HISTORY_MAX as u32).map(|n| (n * 2 + 10, n * 2 + 10)));
    o.expunge(Expunge { modseq: 4, when: Wall(4), uids: many });
    assert_eq!(o.trim(Wall(4)), [3]);
    assert_eq!((o.vanished(2), o.vanished(3)), (Vanished::Unknown, o.vanished(3)));
    assert!(matches!(o.vanished(3), Vanished::Exactly(set) if set.len() == HISTORY_MAX as u64));
}

/// What a client knows: UIDs by sequence number, and flags as told.
#[derive(Default)]
struct Client {
    uids: Vec<u32>,
    view: ViewId,
}

impl Client {
    fn sync(&mut self, o: &mut Opened, expunges: bool) -> Vec<Message> {
        let mut changed = Vec::new();
        let mut exists = None;
        for news in o.sync(self.view, expunges) {
            match news {
                News::Expunged { seq, uid } => {
                    assert!(expunges && exists.is_none());
                    assert_eq!(self.uids.remove(seq as usize - 1), uid);
                }
                News::Exists(n) => exists = Some(n),
                News::Changed { seq, message } => {
                    assert_eq!(self.uids[seq as usize - 1], message.uid);
                    changed.push(message);
                }
                News::Recent(_) | News::Keywords | News::Deleted => unreachable!("none of them happens here"),
            }
        }
        if let Some(n) = exists {
            let known = self.uids.len() as u32;
            assert!(n > known, "told only when there are more");
            for seq in known + 1..=n {
                self.uids.push(o.at(self.view, seq).expect("told").uid);
            }
        }
        changed
    }

    fn check(&self, o: &mut Opened) {
        assert_eq!(o.exists(self.view) as usize, self.uids.len());
        for (i, uid) in self.uids.iter().enumerate() {
            assert_eq!(o.at(self.view, i as u32 + 1).map(|m| m.uid), Some(*uid));
            assert_eq!(o.seq(self.view, *uid), Some(i as u32 + 1));
        }
        assert!(o.at(self.view, 0).is_none() && o.at(self.view, self.uids.len() as u32 + 1).is_none());
        assert_eq!(o.seq_from(self.view, u32::MAX) as usize, self.uids.len() + 1);
        for (seq, most) in [(0, 9), (1, usize::MAX), (2, 2), (self.uids.len() as u32 + 1, 5)] {
            let mut window = Vec::new();
            o.window(self.view, seq, most, &mut window);
            let shown = self.uids.iter().skip((seq as usize).wrapping_sub(1)).take(most).copied();
            assert_eq!(window.iter().map(|m| m.uid).collect::<Vec<_>>(), shown.collect::<Vec<_>>());
        }
    }
}

proptest! {
    #[test]
    fn sequence_numbers_are_those_that_were_told(
        steps in proptest::collection::vec((0u8..8, any::<u32>(), any::<bool>()), 1..120),
    ) {
        let mut o = opened(3);
        let mut alive: BTreeMap<u32, u64> = (1..=3).map(|u| (u, 1)).collect();
        let (mut uid, mut modseq) = (3, 1);
        let mut clients: Vec<Client> = Vec::new();
        for (what, n, may) in steps {
            let some = |alive: &BTreeMap<u32, u64>| {
                alive.keys().nth(n as usize % alive.len().max(1)).copied()
            };
            match what {
                0 if clients.len() < 4 => {
                    let mut client = Client { view: o.enter(), uids: Vec::new() };
                    client.uids = alive.keys().copied().collect();
                    clients.push(client);
                }
                1 if !clients.is_empty() => {
                    let gone = clients.swap_remove(n as usize % clients.len());
                    o.leave(gone.view);
                }
                2 | 3 => {
                    (uid, modseq) = (uid + 1 + n % 3, modseq + 1);
                    o.put(message(uid, modseq));
                    alive.insert(uid, modseq);
                }
                4 => if let Some(u) = some(&alive) {
                    modseq += 1;
                    o.put(message(u, modseq));
                    alive.insert(u, modseq);
                },
                5 => {
                    let from = n % 8;
                    let gone: Vec<u32> = alive.keys().copied().filter(|u| u % 8 == from).collect();
                    if !gone.is_empty() {
                        modseq += 1;
                        o.expunge(expunge(modseq, &gone));
                        alive.retain(|u, _| u % 8 != from);
                    }
                }
                _ if !clients.is_empty() => {
                    let client = n as usize % clients.len();
                    let since = o.views[&clients[client].view].modseq;
                    let known: Vec<u32> = clients[client].uids.clone();
                    let changed = clients[client].sync(&mut o, may);
                    let expected: Vec<u32> = known.iter().copied()
                        .filter(|u| alive.get(u).is_some_and(|m| *m > since)).collect();
                    prop_assert_eq!(changed.iter().map(|m| m.uid).collect::<Vec<_>>(), expected);
                    if may {
                        prop_assert!(!o.has_news(clients[client].view, true));
                        let now: Vec<u32> = alive.keys().copied().collect();
                        prop_assert_eq!(&clients[client].uids, &now);
                    }
                }
                _ => {}
            }
            clients.iter().for_each(|c| c.check(&mut o));
            prop_assert_eq!(o.len(), alive.len());
        }
        clients.iter().for_each(|c| o.leave(c.view));
        prop_assert_eq!(o.slots(), alive.len(), "nothing is left behind");
    }
}

#[test]
fn sessions_that_share_new_mail_remember_it_within_bounds() {
    let mut o = opened(0);
    let v = o.enter();
    assert_eq!(o.meets(v), None, "it has not asked");
    o.meet(v, true);
    for n in 1..=500u32 {
        (2 * n - 1..=2 * n).for_each(|uid| o.put(message(uid, u64::from(uid) + 1)));
        o.sync(v, true);
        // The other one of each two was told to somebody else before.
        let count = o.met(v, &UidSet::of([(2 * n, 2 * n)]));
        assert!(count.is_some() && o.recent(v).ranges().len() <= RECENT_RANGES);
    }
    assert!((2..=1000).step_by(2).all(|uid| o.recent(v).has(uid)) && !o.recent(v).has(1));
    let before = o.recent_told(v);
    o.expunge(expunge(2000, &[2, 3, 1000]));
    assert_eq!(o.met(v, &UidSet::default()), None, "they are shown as long as nobody is told");
    o.sync(v, true);
    assert_eq!(o.met(v, &UidSet::default()), Some(before - 2), "3 is not recent");
}
