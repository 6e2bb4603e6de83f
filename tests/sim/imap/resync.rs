//! Clients that keep a copy of a mailbox and bring it up to date with QRESYNC (RFC 7162 §3.2.5), over
//! sessions and crashes, while others change it: what they are told is exactly the difference.
//! Mod-sequences never go back.

use super::client::{Client, number_behind};
use super::node::{PASSWORD, PORT, USERS};
use crate::net::SimNet;
use crate::world::{MS, SEC, World};
use ringpost::base::time::Mono;
use ringpost::imap::set::SeqSet;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A client's copy of INBOX; it survives the client.
#[derive(Clone, Debug, Default)]
pub struct Copy {
    /// 0: nothing is known yet.
    validity: u32,
    modseq: u32,
    /// Flags of each UID.
    mail: BTreeMap<u32, Vec<String>>,
    /// In which life of the server it was brought up to date.
    life: u64,
}

pub type SharedCopy = Rc<RefCell<Copy>>;

/// Copies that were brought up to date, those among them over a restart, and those that were told something.
pub static DONE: [AtomicU64; 3] = [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];

/// See the module.
pub struct Syncer {
    pub world: World,
    pub net: SimNet,
    pub server: IpAddr,
    pub copy: SharedCopy,
    pub id: u64,
    pub life: u64,
}

/// UID, MODSEQ and flags of a FETCH response.
fn fetched(response: &str) -> Option<(u32, u32, Vec<String>)> {
    let uid = response.contains(" FETCH (").then(|| number_behind(response, "UID "))??;
    let modseq = number_behind(response, "MODSEQ (")?;
    let flags = response.split_once("FLAGS (")?.1.split_once(')')?.0;
    // That one is of the session.
    let mut flags: Vec<String> =
        flags.split(' ').filter(|f| !f.is_empty() && *f != "\\Recent").map(str::to_owned).collect();
    flags.sort();
    Some((uid, modseq, flags))
}

fn vanished(response: &str) -> Option<SeqSet> {
    let set = response.strip_prefix("* VANISHED ")?;
    let set = set.strip_prefix("(EARLIER) ").unwrap_or(set);
    Some(SeqSet::parse(set.as_bytes()).ok()?.0)
}

impl Copy {
    /// Takes over what SELECT has told, and says what is wrong with it.
    fn learn(&mut self, told: &[String], known: u32, wrong: &mut Vec<String>) {
        for response in told {
            if let Some(set) = vanished(response) {
                self.mail.retain(|uid, _| !set.contains(*uid, 0));
            } else if let Some((uid, modseq, flags)) = fetched(response) {
                if modseq <= known {
                    wrong.push(format!("resync: {response}, and {known} was known"));
                }
                self.mail.insert(uid, flags);
            }
        }
    }

    /// Whether it is what is there; `highest` was told before.
    fn compare(&self, full: &BTreeMap<u32, (u32, Vec<String>)>, highest: u32, wrong: &mut Vec<String>) {
        for uid in self.mail.keys().filter(|uid| !full.contains_key(uid)) {
            wrong.push(format!("resync: {uid} is gone, and nobody has said so"));
        }
        for (uid, (modseq, flags)) in full {
            match self.mail.get(uid) {
                None => wrong.push(format!("resync: {uid} is there, and nobody has said so")),
                // What has changed since the mailbox was selected is told later.
                Some(known) if *modseq <= highest && known != flags => {
                    wrong.push(format!("resync: flags of {uid} are {flags:?}, told were {known:?}"));
                }
                Some(_) => {}
            }
        }
    }
}

impl Syncer {
    pub async fn for_ever(self) {
        let me = IpAddr::from([10, 9, 1, self.id as u8]);
        let login = USERS[self.id as usize % 2];
        loop {
            let to = SocketAddr::new(self.server, PORT + self.world.below(2) as u16);
            let deadline = Mono(self.world.now() + 10 * SEC);
            if let Ok(stream) = self.net.connect(me, to, deadline).await {
                let mut client = Client::new(&self.world, stream);
                client.believes = false;
                self.sync(&mut client, login).await;
                if self.world.below(2) == 0 {
                    client.abort();
                }
            }
            self.world.pause(self.world.below(80 * MS)).await;
        }
    }

    async fn sync(&self, client: &mut Client, login: &str) -> Option<()> {
        client.response().await?;
        if !client.command(&format!("LOGIN {login} \"{PASSWORD}\"")).await?.is_ok() {
            return None;
        }
        client.command("ENABLE QRESYNC").await?;
        let before = self.copy.borrow().clone();
        let command = match before.validity {
            0 => "SELECT INBOX".to_owned(),
            validity => format!("SELECT INBOX (QRESYNC ({validity} {}))", before.modseq),
        };
        let selected = client.command(&command).await?;
        if !selected.is_ok() {
            return None;
        }
        let code = |name: &str| selected.untagged.iter().find_map(|r| number_behind(r, name));
        let (validity, highest) = (code("[UIDVALIDITY ")?, code("[HIGHESTMODSEQ ")?);
        let everything = client.command("UID FETCH 1:* (FLAGS MODSEQ)").await?;
        if !everything.is_ok() {
            return None;
        }
        let mut full = BTreeMap::new();
        for (uid, modseq, flags) in everything.untagged.iter().filter_map(|r| fetched(r)) {
            // A second one is about what has changed meanwhile.
            full.entry(uid).or_insert((modseq, flags));
        }
        if before.validity != 0 {
            self.check(&before, &selected.untagged, &full, (validity, highest));
        }
        let mail = full.into_iter().map(|(uid, (_, flags))| (uid, flags)).collect();
        self.copy.replace(Copy { validity, modseq: highest, mail, life: self.life });
        client.command("LOGOUT").await.map(drop)
    }

    fn check(
        &self,
        before: &Copy,
        told: &[String],
        full: &BTreeMap<u32, (u32, Vec<String>)>,
        (validity, highest): (u32, u32),
    ) {
        let mut wrong = Vec::new();
        if validity != before.validity {
            wrong.push(format!("resync: UIDVALIDITY was {}, is {validity}", before.validity));
        }
        if highest < before.modseq {
            wrong.push(format!("resync: HIGHESTMODSEQ was {}, is {highest}", before.modseq));
        }
        for set in told.iter().filter_map(|r| vanished(r)) {
            if let Some(uid) = full.keys().find(|uid| set.contains(**uid, 0)) {
                wrong.push(format!("resync: {uid} is said to have vanished, and is there"));
            }
        }
        let mut after = before.clone();
        after.learn(told, before.modseq, &mut wrong);
        after.compare(full, highest, &mut wrong);
        for text in wrong {
            self.world.violation(text);
        }
        DONE[0].fetch_add(1, Ordering::Relaxed);
        DONE[1].fetch_add(u64::from(before.life != self.life), Ordering::Relaxed);
        let news = told.iter().any(|r| vanished(r).is_some() || fetched(r).is_some());
        DONE[2].fetch_add(u64::from(news), Ordering::Relaxed);
    }
}

/// The planted bugs: what a server could leave out, or say too much.
#[test]
fn a_difference_that_is_not_told_is_seen() {
    let flags = |text: &str| vec![text.to_owned()];
    let copy = Copy {
        validity: 1,
        modseq: 5,
        mail: BTreeMap::from([(1, vec![]), (2, flags("\\Seen")), (3, vec![])]),
        life: 0,
    };
    let full = BTreeMap::from([(1, (2, vec![])), (2, (6, vec![])), (4, (7, flags("\\Flagged")))]);
    let told = [
        "* VANISHED (EARLIER) 3",
        "* 2 FETCH (UID 2 MODSEQ (6) FLAGS ())",
        "* 3 FETCH (UID 4 MODSEQ (7) FLAGS (\\Flagged \\Recent))",
    ];
    let wrong = |told: &[&str]| {
        let (mut copy, mut wrong) = (copy.clone(), Vec::new());
        let told: Vec<String> = told.iter().map(|r| (*r).to_owned()).collect();
        copy.learn(&told, 5, &mut wrong);
        copy.compare(&full, 7, &mut wrong);
        wrong.len()
    };
    assert_eq!(wrong(&told), 0);
    for missing in 0..3 {
        let rest: Vec<&str> =
            told.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, r)| *r).collect();
        assert_eq!(wrong(&rest), 1, "without {}", told[missing]);
    }
    assert_eq!(wrong(&[told[0], told[1], told[2], "* 1 FETCH (UID 1 MODSEQ (2) FLAGS ())"]), 1, "too much");
}
