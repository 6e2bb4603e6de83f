//! The verbs on directories made here, on the real ring: what goes in comes out, and keeps its names.

use super::*;
use crate::mailbox::spread;
use clap::Parser;
use serde_json::Value;
use std::fs;
use std::time::{Duration, SystemTime};

#[derive(Parser)]
struct Words {
    #[command(flatten)]
    args: MailboxArgs,
}

struct Site {
    dir: tempfile::TempDir,
}

const CONFIG: &str = "[server]\nhostname = \"mx.example.net\"\n[relay]\nsmarthost = \"192.0.2.1:25\"\n\
    [storage]\nsegment_size = \"1MiB\"\njournal_limit = \"16MiB\"\njournal_window = \"2MiB\"\n";

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("ringpost.toml"), CONFIG).expect("written");
        fs::create_dir(dir.path().join("data")).expect("made");
        Site { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Runs a verb; its exit code and its lines of JSON.
    fn run(&self, words: &[&str]) -> (Exit, Vec<Value>) {
        let (exit, out) = self.bytes(&[words, &["--json"]].concat());
        let text = String::from_utf8(out).expect("UTF-8");
        let line = |l: &str| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"));
        (exit, text.lines().map(line).collect())
    }

    fn bytes(&self, words: &[&str]) -> (Exit, Vec<u8>) {
        let (config, data) = (self.path("ringpost.toml"), self.path("data"));
        let site = ["mailbox", "-c", &config, "--data-dir", &data];
        let words = Words::try_parse_from(site.iter().chain(words)).unwrap_or_else(|e| panic!("{e}"));
        let mut out = Vec::new();
        match words.args.obey(&mut out) {
            Ok(exit) => (exit, out),
            Err(failure) => {
                eprintln!("{}", failure.text);
                (failure.exit, out)
            }
        }
    }

    fn done(&self, words: &[&str]) -> Vec<Value> {
        let (exit, lines) = self.run(words);
        assert_eq!(exit, Exit::Ok, "{words:?}: {lines:?}");
        lines
    }

    fn write(&self, path: &str, text: &[u8]) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().expect("one")).expect("made");
        fs::write(&path, text).expect("written");
        let file = fs::File::options().write(true).open(&path).expect("there");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).expect("set");
    }

    /// What clients see of an account.
    fn seen(&self, account: &str) -> Vec<Value> {
        let mut seen = Vec::new();
        for mut mailbox in self.done(&["list", account]) {
            mailbox["highest_modseq"] = Value::Null;
            let name = mailbox["mailbox"].as_str().expect("a name").to_owned();
            seen.push(mailbox);
            for mut m in self.done(&["show", account, &name]) {
                let uid = m["uid"].to_string();
                let (exit, content) = self.bytes(&["show", account, &name, "--uid", &uid, "--content"]);
                assert_eq!(exit, Exit::Ok);
                m["content"] = Value::from(String::from_utf8_lossy(&content).into_owned());
                (m["modseq"], m["save_date"]) = (Value::Null, Value::Null);
                seen.push(m);
            }
        }
        seen
    }
}

/// A Maildir of Dovecot's, with what can be in one.
fn maildir(site: &Site) -> String {
    site.write("md/cur/100.a:2,FSa", b"Subject: one\n\n.dot\nend");
    site.write("md/cur/101.b,S=5:2,", b"Subject: two\r\n\r\nx\r\n");
    site.write("md/new/102.c", b"Subject: three\n\n\xe4\n");
    let large = [&b"Subject: large\n\n"[..], &b"0123456789 abcdef\n".repeat(30_000)].concat();
    site.write("md/cur/90.d:2,T", &large);
    site.write("md/dovecot-keywords", b"0 $Work\n");
    site.write("md/dovecot-uidlist", b"3 V1200000000 N20\n3 Pmine :100.a:2,\n7 :101.b,S=5:2,F\n9 W2 :90.d\n");
    site.write("md/subscriptions", b"INBOX\nA.B &AOQ-\n");
    site.write("md/.A.B &AOQ-/cur/5.x:2,S", b"Subject: below\n\nb\n");
    site.write("md/.A.B &AOQ-/dovecot-uidlist", b"3 V1200000001 N5\n4 :5.x\n");
    site.path("md")
}

#[test]
fn a_maildir_comes_in_and_goes_out_with_what_clients_know_it_by() {
    let site = Site::new();
    let md = maildir(&site);
    let nobody = site.run(&["import", "a@x.example", &md]);
    assert_eq!(nobody.0, Exit::NoInput, "nobody has said how many shards there are");
    let lines = site.done(&["import", "a@x.example", &md, "--shards", "2"]);
    assert_eq!((&lines[0]["messages"], &lines[0]["new_uids"]), (&5.into(), &0.into()), "{lines:?}");
    let again = site.done(&["import", "a@x.example", &md]);
    assert_eq!((&again[0]["messages"], &again[0]["there_before"]), (&0.into(), &5.into()), "{again:?}");

    let boxes = site.done(&["list", "a@x.example"]);
    let find = |name: &str| boxes.iter().find(|b| b["mailbox"] == name).unwrap_or_else(|| panic!("{name}"));
    let inbox = find("INBOX");
    assert_eq!((&inbox["uidvalidity"], &inbox["uidnext"]), (&1_200_000_000.into(), &21.into()));
    assert_eq!(find("A/B \u{e4}")["subscribed"], true);
    assert_eq!(find("Trash")["special_use"], "trash");
    let seen = site.seen("a@x.example");
    let one = seen.iter().find(|m| m["subject"] == "one").expect("there");
    assert_eq!((&one["uid"], &one["uidl"], &one["size"]), (&3.into(), &"mine".into(), &25.into()));
    assert_eq!(one["content"], "Subject: one\r\n\r\n.dot\r\nend");
    assert_eq!(one["flags"], serde_json::json!(["\\Seen", "\\Flagged", "$Work"]));
    assert_eq!(one["internal_date"], "2001-09-09T01:46:40.000Z");
    let uidl = |subject: &str| seen.iter().find(|m| m["subject"] == subject).expect("there")["uidl"].clone();
    assert_eq!(uidl("two"), "0000000747868c00");
    let uids: Vec<&Value> = seen.iter().filter(|m| m["uid"].is_u64()).map(|m| &m["uid"]).collect();
    assert_eq!(uids, [4, 3, 7, 9, 20].map(Value::from).iter().collect::<Vec<_>>());

    let out = site.path("out");
    let lines = site.done(&["export", "a@x.example", &out]);
    assert_eq!((&lines[0]["messages"], &lines[0]["damaged"]), (&5.into(), &0.into()));
    assert_eq!(site.run(&["export", "a@x.example", &out]).0, Exit::CannotCreate, "it is not empty");
    site.done(&["import", "b@x.example", &out]);
    assert_eq!(site.seen("b@x.example"), seen, "and in again");
}

#[test]
fn accounts_are_renamed_removed_and_their_shards_carried_away() {
    let site = Site::new();
    let md = maildir(&site);
    site.done(&["import", "a@x.example", &md, "--shards", "2"]);
    let seen = site.seen("a@x.example");
    let home = |name: &str| spread::shard_of(name, 2);
    for other in [false, true] {
        // Within the shard, and into the other one.
        let to = (0..)
            .map(|n| format!("new{n}@x.example"))
            .find(|n| (home(n) != home("a@x.example")) == other)
            .expect("there is one");
        site.done(&["rename", "a@x.example", &to]);
        assert_eq!(site.run(&["list", "a@x.example"]).0, Exit::NoUser);
        assert_eq!(site.seen(&to), seen);
        site.done(&["rename", &to, "a@x.example"]);
    }
    assert_eq!(site.seen("a@x.example"), seen);

    let copy = site.path("copy");
    site.done(&["backup", &copy]);
    assert_eq!(site.run(&["backup", &copy]).0, Exit::CannotCreate, "it is never written over");
    assert_eq!(site.run(&["restore", &copy]).0, Exit::CannotCreate, "there are mailboxes");
    assert_eq!(site.run(&["remove", "a@x.example"]).0, Exit::Usage);
    site.done(&["remove", "a@x.example", "--yes"]);
    assert!(site.done(&["list"]).is_empty());
    assert!(flip(Path::new(&copy), b"Subject: one"));
    assert_eq!(site.run(&["restore", &copy, "--replace"]).0, Exit::Data, "its list says so");
    assert!(flip(Path::new(&copy), b"Rubject: one"), "and back");
    site.done(&["restore", &copy, "--replace"]);
    assert!(Path::new(&site.path("data/mailbox.replaced/shards")).exists(), "what was there stays");
    assert_eq!(site.run(&["restore", &copy, "--replace"]).0, Exit::CannotCreate, "nor is that written over");
    let mut back = site.seen("a@x.example");
    for (now, before) in back.iter_mut().zip(&seen).filter(|(now, _)| now["uidnext"].is_u64()) {
        let gap = now["uidnext"].as_u64().unwrap() - before["uidnext"].as_u64().unwrap();
        assert!(gap >= 1 << 20, "what was given since must not be given again: {now}");
        now["uidnext"] = before["uidnext"].clone();
    }
    assert_eq!(back, seen);
}

/// Flips a bit of what is found in a file below `dir`.
fn flip(dir: &Path, needle: &[u8]) -> bool {
    let mut files = vec![dir.to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(&path).expect("read").map(|e| e.expect("read").path()));
            continue;
        }
        let mut bytes = fs::read(&path).expect("read");
        if let Some(at) = memchr::memmem::find(&bytes, needle) {
            bytes[at] ^= 1;
            fs::write(&path, bytes).expect("written");
            return true;
        }
    }
    false
}

#[test]
fn damage_is_named_and_reindexing_keeps_the_rest() {
    let site = Site::new();
    // More than the window of the journal, so that most of it is in the archive.
    for n in 0..300u32 {
        let text = format!("Subject: m{n}\n\nbody of number {n:05}\n{}", "some words more\n".repeat(900));
        site.write(&format!("md/cur/{}.m:2,", 1000 + n), text.as_bytes());
    }
    site.done(&["import", "a@x.example", &site.path("md"), "--shards", "1"]);
    let sound = site.done(&["verify"]);
    assert_eq!(sound.last().expect("a sum")["messages"], 300, "{sound:?}");
    let shard = Path::new(&site.path("data")).join("mailbox/0000");
    assert!(fs::read_dir(shard.join("archive")).expect("read").count() > 1, "some of it is there");
    assert!(flip(&shard.join("archive"), b"body of number 00003"));
    let (exit, lines) = site.run(&["verify"]);
    assert_eq!(exit, Exit::Data);
    let told: Vec<&Value> = lines.iter().filter(|l| l["uid"].is_u64()).collect();
    assert_eq!((told.len(), &told[0]["uid"], &told[0]["account"]), (1, &4.into(), &"a@x.example".into()));
    assert_eq!(lines[0]["damages"].as_array().map(Vec::len), Some(1), "and as bytes of a file: {lines:?}");
    // All others are there, with and without the index.
    for _ in 0..2 {
        let shown = site.done(&["show", "a@x.example"]);
        let readable = shown.iter().filter(|m| m["subject"] != "m3" && m["readable"] == true).count();
        assert_eq!(readable, 299);
        fs::remove_file(shard.join("index")).expect("there");
        let (exit, lines) = site.run(&["verify", "a@x.example"]);
        assert_eq!((exit, lines.len()), (Exit::Data, 2), "it is lost, and not made by a look: {lines:?}");
        let (exit, lines) = site.run(&["reindex"]);
        assert_eq!((exit, &lines[0]["damages"]), (Exit::Data, &1.into()), "{lines:?}");
    }
    let (exit, lines) = site.run(&["verify", "a@x.example"]);
    assert_eq!(exit, Exit::Ok, "what is lost is not in the mailbox any more: {lines:?}");
    let gone = site.done(&["expunge", "a@x.example", "INBOX", "--uid", "1:100", "--before", "2020-01-01"]);
    assert_eq!(gone[0]["messages"], 99, "one is damaged and gone");
    assert_eq!(site.done(&["list"])[0]["messages"], 200);
}

#[test]
fn an_mbox_comes_in_with_its_uids() {
    let site = Site::new();
    let text = "From a@b Thu Nov 24 18:22:48 1994\nX-IMAPbase: 1300000000 12\nStatus: RO\nX-UID: 4\n\
        Subject: x\n\nbare\n\nFrom c Fri Nov 25 18:22:48 1994\nX-UID: 9\nX-Keywords: k\nSubject: y\n\nb\n\n";
    site.write("box", text.as_bytes());
    let from = site.path("box");
    let lines = site.done(&["import", "a@x.example", &from, "--mailbox", "Old/Mail", "--shards", "1"]);
    assert_eq!(lines[0]["messages"], 2);
    let shown = site.done(&["show", "a@x.example", "Old/Mail"]);
    let facts: Vec<_> = shown.iter().map(|m| (m["uid"].as_u64(), m["size"].as_u64())).collect();
    assert_eq!(facts, [(Some(4), Some(20)), (Some(9), Some(17))]);
    assert_eq!(shown[0]["flags"], serde_json::json!(["\\Seen"]));
    assert_eq!(shown[1]["internal_date"], "1994-11-25T18:22:48.000Z");
    assert_eq!(site.done(&["import", "a@x.example", &from, "--mailbox", "Old/Mail"])[0]["messages"], 0);
    let boxes = site.done(&["list", "a@x.example"]);
    let there = boxes.iter().find(|b| b["mailbox"] == "Old/Mail").expect("there");
    assert_eq!((&there["uidvalidity"], &there["uidnext"]), (&1_300_000_000.into(), &13.into()));
    site.write("no", b"Subject: x\n\nb\n");
    assert_eq!(site.run(&["import", "a@x.example", &site.path("no")]).0, Exit::Data);
    assert_eq!(site.run(&["import", "a@x.example", &site.path("nowhere")]).0, Exit::NoInput);
}

const ACCOUNTS: [&str; 6] =
    ["a@x.example", "b@x.example", "c@x.example", "d@x.example", "e@x.example", "f@x.example"];

/// A site with some accounts over two shards, and what clients see of each.
fn spread_out() -> (Site, Vec<Vec<Value>>) {
    let site = Site::new();
    let md = maildir(&site);
    for account in ACCOUNTS {
        site.done(&["import", account, &md, "--shards", "2"]);
    }
    let seen = ACCOUNTS.map(|account| site.seen(account)).to_vec();
    (site, seen)
}

fn all_seen(site: &Site) -> Vec<Vec<Value>> {
    ACCOUNTS.map(|account| site.seen(account)).to_vec()
}

#[test]
fn accounts_are_spread_over_more_shards_and_fewer() {
    let (site, seen) = spread_out();
    for shards in [5, 5, 1, 3] {
        let was = fs::read_to_string(Path::new(&site.path("data")).join("mailbox/shards")).expect("there");
        let was = spread::parse(&was).expect("a number");
        let lines = site.done(&["reshard", &shards.to_string()]);
        let moves = |a: &&&str| spread::shard_of(a, was) != spread::shard_of(a, shards);
        let moves = ACCOUNTS.iter().filter(moves).count();
        assert_eq!(lines[0], serde_json::json!({ "shards": shards, "was": was, "moved": moves }));
        assert_eq!(all_seen(&site), seen);
        let listed = site.done(&["list"]);
        assert_eq!(listed.len(), ACCOUNTS.len(), "{listed:?}");
        let there = fs::read_dir(Path::new(&site.path("data")).join("mailbox")).expect("read");
        let dirs = there.filter(|e| e.as_ref().expect("read").path().is_dir()).count();
        assert_eq!(dirs, usize::from(if was == shards { was } else { shards }));
    }
    let none = Site::new();
    assert_eq!(none.run(&["reshard", "4"]).0, Exit::NoInput);
}

#[test]
fn spreading_that_was_interrupted_is_brought_to_its_end() {
    use crate::mailbox::api::Mailboxes;
    use crate::mailbox::store::Index;
    use crate::mailbox::types::Quota;
    let (site, seen) = spread_out();
    let args = SiteArgs {
        config: site.path("ringpost.toml").into(),
        data_dir: Some(site.path("data").into()),
        json: false,
    };
    let place = shards::Site::take(&args).expect("ours");
    place.mark(3).expect("written");
    let worked = place.work(async |desk| {
        let mut open = std::collections::BTreeMap::new();
        for shard in 0..3 {
            open.insert(shard, desk.open(shard, Index::Mend).await?.0);
        }
        assert_eq!(reshard::move_all(&open, 3, false, 2).await?, 2);
        // b, of shard 0, had its name in the new place, and was not removed from the old one yet.
        let twin = open[&0].create_account("b@x.example", &[], Quota::default()).await;
        // Another had been copied in part.
        let half = open[&0].create_account("f@x.example (moving)", &[], Quota::default()).await;
        assert!(twin.is_ok() && half.is_ok());
        for store in open.into_values() {
            store.close().await;
        }
        Ok(())
    });
    worked.expect("works");
    drop(place);
    assert_eq!(site.run(&["list"]).0, Exit::Config);
    assert_eq!(site.run(&["reshard", "4"]).0, Exit::Usage);
    site.done(&["reshard", "3"]);
    assert_eq!(all_seen(&site), seen);
    assert_eq!(site.done(&["list"]).len(), ACCOUNTS.len());
}
