//! What operators do with many messages, with sessions and with users, on the real server.
#![allow(clippy::disallowed_methods, reason = "tests write password files and read exported ones")]

use crate::harness::server::PROGRAM;
use crate::harness::{Client, Config, Hop, Server, until};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

const BODY: &[u8] = b"Subject: plain\r\n\r\nhello\r\n";

/// A server with these messages: sender, recipient, body; nobody takes them.
fn full(config: &Config, mails: &[(&str, &str, &[u8])]) -> (Server, Vec<String>) {
    let server = Server::start(config);
    let mut client = server.client();
    let ids: Vec<String> = mails.iter().map(|(from, to, body)| client.mail(from, &[to], body)).collect();
    for id in &ids {
        server.listed(id, |m| m["queue_name"] == "deferred");
    }
    (server, ids)
}

fn three() -> (Server, Vec<String>) {
    full(
        &Config::new(Hop::later()).set("cores", "mta", "2"),
        &[
            ("a@one.test", "x@first.test", BODY),
            ("b@one.test", "y@second.test", b"Subject: cheap\r\n\twatches\r\n\r\nx\r\n"),
            (
                "c@two.test",
                "z@second.test",
                &[b"Subject: long\r\n\r\n", [b'x'; 3000].as_slice(), b"\r\n"].concat(),
            ),
        ],
    )
}

fn found(server: &Server, words: &[&str]) -> Vec<String> {
    let list = server.queue(&[&["list"], words].concat());
    let mut ids: Vec<_> = list.iter().map(|m| m["queue_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn some(ids: &[String], which: &[usize]) -> Vec<String> {
    let mut some: Vec<_> = which.iter().map(|n| ids[*n].clone()).collect();
    some.sort();
    some
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&[&out.stdout[..], &out.stderr].concat()).into_owned()
}

#[test]
fn conditions_find_what_they_say() {
    let (server, ids) = three();
    for (words, which) in [
        (&["--sender", "*@ONE.test"][..], &[0, 1][..]),
        (&["--recipient", "z@*"], &[2]),
        (&["--domain", "second.test"], &[1, 2]),
        (&["--domain", "second.*", "--sender", "b@*"], &[1]),
        (&["--larger", "2KiB"], &[2]),
        (&["--smaller", "2KiB"], &[0, 1]),
        (&["--state", "deferred"], &[0, 1, 2]),
        (&["--state", "hold"], &[]),
        (&["--older", "1h"], &[]),
        (&["--younger", "1h"], &[0, 1, 2]),
        (&["--header", "subject=cheap*watches"], &[1]),
        (&["--user", "*"], &[]),
        (&["--destination", "127.*:2525"], &[0, 1, 2]),
        (&["--site", "elsewhere"], &[]),
    ] {
        assert_eq!(found(&server, words), some(&ids, which), "{words:?}");
    }
    let count = server.queue(&["list", "--count", "--domain", "second.test"]);
    assert_eq!(count[0]["matches"], 2);
    let long = "x".repeat(600);
    assert_eq!(server.run(&["queue", "list", "--sender", &long]).status.code(), Some(64));
}

#[test]
fn nothing_changes_unseen_and_a_hold_is_taken_back() {
    let (server, ids) = three();
    let out = server.run(&["queue", "hold", "--sender", "*@one.test"]);
    assert_eq!(out.status.code(), Some(64), "{}", text(&out));
    assert!(text(&out).contains("--dry-run"), "{}", text(&out));
    for words in [&["queue", "hold"][..], &["queue", "hold", &ids[0], "--all"], &["queue", "delete", "-y"]] {
        assert_eq!(server.run(words).status.code(), Some(64), "{words:?}");
    }
    let dry = server.queue(&["hold", "--sender", "*@one.test", "--dry-run"]);
    assert_eq!((&dry[0]["matches"], dry.len()), (&2.into(), 1));
    assert!(found(&server, &["--state", "hold"]).is_empty());
    let said = server.queue(&["hold", "--sender", "*@one.test", "--yes", "--reason", "spam wave"]);
    assert_eq!(
        (&said[0]["matches"], &said[1]["number"], &said[2]["changed"]),
        (&2.into(), &1.into(), &2.into())
    );
    assert_eq!(found(&server, &["--state", "hold"]), some(&ids, &[0, 1]));
    let told = server.event_with("operator", "hold 2");
    assert!(told.starts_with("uid ") && told.contains("*@one.test") && told.contains("spam wave"), "{told}");
    // What is held already does not count again, so that taking the second back leaves the first.
    let again = server.queue(&["hold", "--domain", "*", "--yes"]);
    assert_eq!((&again[0]["matches"], &again[1]["number"]), (&1.into(), &2.into()));
    assert_eq!(server.queue(&["undo", "2"])[0]["changed"], 1);
    assert_eq!(found(&server, &["--state", "hold"]), some(&ids, &[0, 1]));
    let holds = server.queue(&["holds"]);
    assert_eq!((holds.len(), &holds[0]["reason"]), (1, &"spam wave".into()));
    assert_eq!(server.run(&["queue", "undo", "2"]).status.code(), Some(65));
    assert_eq!(server.queue(&["release", "--state", "hold", "--yes"])[1]["changed"], 2);
    assert!(found(&server, &["--state", "hold"]).is_empty());
}

#[test]
fn a_hold_ends_by_itself_also_after_a_restart() {
    let config = Config::new(Hop::later());
    let (server, ids) = full(&config, &[("a@one.test", "x@first.test", BODY)]);
    let said = server.queue(&["hold", &ids[0], "--for", "3s"]);
    assert!(said[1]["until"].is_u64(), "{said:?}");
    let server = Server::start_in(server.kill(), &config);
    server.event_with("operator", "hold 1 is over: release 1");
    assert!(found(&server, &["--state", "hold"]).is_empty());
    assert!(server.queue(&["holds"]).is_empty());
}

/// The question on a terminal, its answers, and that the effect is what was counted.
#[test]
fn what_is_changed_is_what_was_counted() {
    let (server, ids) = three();
    let file = server.dir().path().join("ringpost.toml");
    let line = format!("{PROGRAM} queue delete --domain second.test -c {}", file.display());
    let ask = |answer: &str, between: &dyn Fn()| {
        // script(1) is the terminal.
        let mut child = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut said = Vec::new();
        while !said.ends_with(b"[y/N] ") {
            let mut byte = [0];
            assert_eq!(output.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        between();
        writeln!(input, "{answer}").unwrap();
        output.read_to_end(&mut said).unwrap();
        child.wait().unwrap();
        String::from_utf8_lossy(&said).into_owned()
    };
    if Command::new("script").arg("--version").output().is_err() {
        return eprintln!("skipped: no script(1) here");
    }
    let said = ask("n", &|| ());
    assert!(said.contains("2 messages match") && said.contains("nothing is changed"), "{said}");
    assert_eq!(found(&server, &[]).len(), 3);
    let late = std::cell::RefCell::new(String::new());
    let said = ask("y", &|| {
        let id = server.client().mail("d@two.test", &["late@second.test"], BODY);
        server.listed(&id, |_| true);
        late.replace(id);
    });
    assert!(said.contains("2 messages changed"), "{said}");
    let mut left = vec![ids[0].clone(), late.into_inner()];
    left.sort();
    assert_eq!(found(&server, &[]), left, "what came in between was not counted, and stays");
}

#[test]
fn bounced_mail_is_told_to_its_sender_with_the_reason() {
    let hop = Hop::start();
    hop.refuse("RCPT TO:<x@", "450 4.2.0 Later");
    let (server, ids) = full(&Config::new(hop.address), &[("a@one.test", "x@first.test", BODY)]);
    server.queue(&["hold", &ids[0]]);
    let said = server.queue(&["bounce", "--recipient", "x@*", "--yes", "--reason", "customer has left"]);
    assert_eq!(said[1]["changed"], 1, "{said:?}");
    let bounce = hop.one();
    assert!(
        bounce.to[0].contains("a@one.test") && bounce.text().contains("customer has left"),
        "{}",
        bounce.text()
    );
    assert!(bounce.text().contains("5.7.1") && !bounce.text().contains("uid "), "{}", bounce.text());
    server.drained();
    // The mail log comes a moment later.
    let record = until("a record", || server.lines().into_iter().find(|l| l.contains("AdminBounce")));
    assert!(record.contains("customer has left") && record.contains("uid "), "{record}");
    assert_eq!(server.metric("ringpost_deliveries_total", "result=\"bounced\""), 1.0);
}

#[test]
fn requeued_mail_forgets_its_attempts_and_takes_todays_way() {
    let (old, new) = (Hop::start(), Hop::start());
    old.refuse("RCPT", "450 4.2.0 Later");
    let mut config = Config::new(Hop::later());
    let route = |to: &Hop| format!("[[route]]\ndomain = \"first.test\"\nnext_hop = \"{}\"\n", to.address);
    config.tail = route(&old);
    let server = Server::start(&config);
    let id = server.client().mail("a@one.test", &["x@first.test"], BODY);
    let tried = |server: &Server, n: u64| {
        server.listed(&id, |m| m["recipients"][0]["attempts"] == n && m["queue_name"] == "deferred");
    };
    tried(&server, 1);
    server.queue(&["flush", &id]);
    tried(&server, 2);
    assert_eq!(server.queue(&["requeue", &id])[1]["changed"], 1);
    tried(&server, 1);
    server.queue(&["hold", &id]);
    let out = server.run(&["queue", "requeue", &id]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "0 messages match, 0 Kbytes\n0 messages changed\n");
    server.queue(&["release", &id]);
    // Another next hop, and a restart that keeps when the next attempt is due.
    config.tail = route(&new);
    let server = Server::start_in(server.stop(), &config);
    tried(&server, 1);
    assert_eq!(server.queue(&["requeue", "--domain", "first.test", "-y"])[1]["changed"], 1);
    assert!(new.one().to[0].contains("x@first.test"));
    server.drained();
}

#[test]
fn mail_is_sent_another_way_also_after_a_restart() {
    let config = Config::new(Hop::later()).set("cores", "mta", "2");
    let mails: Vec<(&str, &str, &[u8])> = vec![
        ("a@one.test", "x@first.test", BODY),
        ("b@one.test", "y@second.test", BODY),
        ("c@two.test", "z@second.test", BODY),
    ];
    let (server, ids) = full(&config, &mails);
    let other = Hop::later();
    let to = other.to_string();
    for bad in [&["--to", "no host"][..], &["--to", ""], &[]] {
        let words = [&["queue", "reroute", "--domain", "second.test", "-y"], bad].concat();
        assert!(matches!(server.run(&words).status.code(), Some(2 | 64)), "{words:?}");
    }
    let dry = server.queue(&["reroute", "--domain", "second.test", "--to", &to, "--dry-run"]);
    assert_eq!((&dry[0]["matches"], dry.len()), (&2.into(), 1));
    let words = ["reroute", "--domain", "second.test", "--to", &to, "-y", "--reason", "down"];
    assert_eq!(server.queue(&words)[1]["changed"], 2);
    let told = server.event_with("operator", "reroute 2");
    assert!(told.contains(&to) && told.contains("reason: down"), "{told}");
    let shown = server.queue(&["show", &ids[1]]);
    assert_eq!(
        (&shown[0]["rerouted"], &shown[0]["recipients"][0]["destination"]),
        (&to.as_str().into(), &to.as_str().into())
    );
    assert!(text(&server.run(&["why", &ids[1]])).contains(&format!("rerouted by an operator to {to}")));
    let explained = |address: &str| text(&server.run(&["explain", "route", address]));
    let says = format!("by an operator to {to}: 2 of the messages that wait for the domain");
    assert!(explained("anybody@Second.test").contains(&says), "{}", explained("anybody@Second.test"));
    assert!(!explained("x@first.test").contains("by an operator"), "{}", explained("x@first.test"));
    assert_eq!(found(&server, &["--rerouted", &to]), some(&ids, &[1, 2]));
    assert_eq!(server.queue(&["reroute", &ids[2], "--to", "default"])[1]["changed"], 1);
    assert_eq!(found(&server, &["--rerouted", "*"]), some(&ids, &[1]));
    assert!(server.queue(&["show", &ids[2]])[0].get("rerouted").is_none());
    let server = Server::start_in(server.stop(), &config);
    let hop = Hop::on(other);
    server.queue(&["flush", "--all"]);
    assert!(hop.one().to[0].contains("y@second.test"));
    until("the others wait", || (found(&server, &[]) == some(&ids, &[0, 2])).then_some(()));
}

#[test]
fn deleted_flushed_and_shown_by_condition() {
    let nobody = Hop::later();
    let mails: Vec<(&str, &str, &[u8])> =
        vec![("a@one.test", "x@first.test", BODY), ("b@two.test", "y@first.test", BODY)];
    let (server, ids) = full(&Config::new(nobody), &mails);
    assert_eq!(server.queue(&["delete", "--sender", "a@*", "-y"])[1]["changed"], 1);
    assert_eq!(found(&server, &[]), some(&ids, &[1]));
    let hop = Hop::on(nobody);
    assert_eq!(server.queue(&["flush", "--recipient", "y@*", "-y"])[1]["changed"], 1);
    assert!(hop.one().from.contains("b@two.test"));
    server.drained();
}

#[test]
fn exported_mail_can_be_imported() {
    let (server, ids) = three();
    let dir = server.dir().path().join("out");
    let name = dir.display().to_string();
    let out = server.run(&["queue", "export", &name, "--domain", "second.test"]);
    assert!(text(&out).contains("2 messages exported"), "{}", text(&out));
    let eml = std::fs::read(dir.join(format!("{}.eml", ids[1]))).unwrap();
    assert!(eml.starts_with(b"Received:") && eml.ends_with(b"Subject: cheap\r\n\twatches\r\n\r\nx\r\n"));
    let hop = Hop::start();
    let other = Server::relay_to(hop.address);
    let smtp = other.smtp.to_string();
    let out = other.run(&["queue", "import", &name, "--smtp", &smtp]);
    assert!(out.status.success() && text(&out).contains("2 of 2 messages imported"), "{}", text(&out));
    let mails = hop.wait(2);
    let mail = mails.iter().find(|m| m.from.contains("b@one.test")).expect("one of them");
    assert!(mail.to[0].contains("y@second.test") && mail.content().ends_with(&eml));
    assert_eq!(
        server.run(&["queue", "export", &name, "--all"]).status.code(),
        Some(73),
        "nothing is written over"
    );
    let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| !n.to_string_lossy().starts_with('.')), "{left:?}");
    let out = other.run(&["queue", "import", &name, "--smtp", &smtp, "--json"]);
    let said: Vec<Value> = text(&out).lines().map(|l| serde_json::from_str(l).expect(l)).collect();
    assert_eq!(said.last(), Some(&serde_json::json!({ "imported": said.len() - 1, "of": said.len() - 1 })));
    assert!(said[0]["reply"].as_str().is_some_and(|r| r.starts_with("250")), "{said:?}");
}

#[test]
fn sessions_are_seen_and_ended() {
    let hop = Hop::start();
    let server = Server::start(&Config::new(hop.address).set("cores", "mta", "2"));
    let who = || -> Vec<Value> {
        let out = server.run(&["who", "--json"]);
        text(&out).lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    };
    assert!(who().is_empty());
    let mut idle: Vec<Client> = (0..3).map(|_| server.client()).collect();
    let mut busy = server.client();
    busy.envelope("a@one.test", &["b@first.test"]);
    let all = until("four sessions", || {
        Some(who()).filter(|w| w.iter().filter(|s| s["state"] == "idle").count() == 3)
    });
    assert_eq!((all.len(), &all[0]["service"], &all[0]["user"]), (4, &"smtp".into(), &"".into()), "{all:?}");
    assert!(all.iter().all(|s| s["peer"].as_str().unwrap().starts_with("127.0.0.1:")));
    assert!(text(&server.run(&["who"])).contains("4 sessions"));
    assert_eq!(text(&server.run(&["kick", "nobody"])), "0 sessions ended\n");
    assert_eq!(text(&server.run(&["kick", "127.0.0.1"])), "4 sessions ended\n");
    for client in &mut idle {
        client.reply().expect("421 4.3.2");
        client.expect_end();
    }
    assert!(busy.try_reply().is_none_or(|r| r.0.starts_with("421")), "cut off");
    until("nobody", || who().is_empty().then_some(()));
    server.event_with("operator", "kick 4, of 127.0.0.1");
}

/// Users who may not log in: sessions end, a right password is a wrong one, and a restart changes nothing.
#[test]
fn a_disabled_user_is_out_and_stays_out() {
    let hop = Hop::start();
    let dir = Arc::new(crate::harness::server::directory());
    let users = dir.path().join("users");
    std::fs::write(&users, "ann:{PLAIN}secret\nbob:{PLAIN}secret\n").unwrap();
    let mut config = Config::new(hop.address)
        .set("relay", "networks", "[]")
        .set("auth", "users", format!("{:?}", users.display().to_string()))
        .set("auth", "allow_plaintext", "true")
        .set("limits", "login_delay", "\"0s\"");
    config.tail =
        "[[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.1:0\"\nauth = \"required\"\n".into();
    let server = Server::start_in(dir, &config);
    let login = |server: &Server, who: &str| {
        let mut client = server.client();
        let reply = client.say(&format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{who}\0secret"))));
        (client, reply.code())
    };
    let (mut ann, code) = login(&server, "ann");
    assert_eq!(code, 235);
    let (mut bob, _) = login(&server, "bob");
    ann.mail("ann@one.test", &["x@first.test"], BODY);
    hop.one();
    let out = server.run(&["user", "disable", "ann", "--reason", "stolen"]);
    assert_eq!(text(&out), "1 sessions ended\n");
    ann.reply().expect("421");
    assert_eq!(bob.say("NOOP").code(), 250, "others stay");
    let refused = login(&server, "ann").1;
    let wrong = server.client().say(&format!("AUTH PLAIN {}", STANDARD.encode("\0bob\0wrong"))).code();
    assert_eq!((refused, wrong), (535, 535));
    assert_eq!(server.run(&["user", "disable", "eve"]).status.code(), Some(67));
    assert!(text(&server.run(&["user", "disabled"])).contains("\"login\":\"ann\""));
    // The password file changes, the server restarts: still out.
    std::fs::write(&users, "ann:{PLAIN}secret\nbob:{PLAIN}secret\ncarl:{PLAIN}x\n").unwrap();
    server.event_with("reload", "3 users");
    assert_eq!(login(&server, "ann").1, 535);
    let server = Server::start_in(server.stop(), &config);
    assert_eq!(login(&server, "ann").1, 535);
    assert!(server.run(&["user", "enable", "ann"]).status.success());
    assert_eq!(login(&server, "ann").1, 235);
    assert_eq!(server.run(&["user", "enable", "ann"]).status.code(), Some(67));
}

#[test]
fn mail_is_found_by_the_login_that_sent_it() {
    let dir = Arc::new(crate::harness::server::directory());
    let users = dir.path().join("users");
    std::fs::write(&users, "ann:{PLAIN}secret\n").unwrap();
    let mut config = Config::new(Hop::later())
        .set("auth", "users", format!("{:?}", users.display().to_string()))
        .set("auth", "allow_plaintext", "true");
    config.tail = "[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\nauth = \"offered\"\n".into();
    let server = Server::start_in(dir, &config);
    let mut client = server.client();
    let nobodys = client.mail("a@one.test", &["x@first.test"], BODY);
    client.say(&format!("AUTH PLAIN {}", STANDARD.encode("\0ann\0secret"))).expect("235");
    let hers = client.mail("a@one.test", &["x@first.test"], BODY);
    server.listed(&nobodys, |_| true);
    server.listed(&hers, |_| true);
    assert_eq!(found(&server, &["--user", "ann"]), std::slice::from_ref(&hers));
    let server = Server::start_in(server.kill(), &config);
    assert_eq!(found(&server, &["--user", "a*"]), [hers]);
}

#[test]
fn a_drained_server_takes_nothing_and_says_so() {
    let nobody = Hop::later();
    let server = Server::relay_to(nobody);
    let mut idle = server.client();
    let id = server.client().mail("a@one.test", &["x@first.test"], BODY);
    server.listed(&id, |m| m["queue_name"] == "deferred");
    let out = server.run(&["drain"]);
    assert!(text(&out).contains("1 messages left") && out.status.success(), "{}", text(&out));
    idle.reply().expect("421 4.3.2");
    Client::raw(server.smtp).reply().expect("421 4.3.2");
    let (status, why) = server.page("/readyz");
    assert_eq!((status, why.contains("emptying")), (503, true), "{why}");
    let out = server.run(&["drain", "--wait", "--for", "1s"]);
    assert_eq!(out.status.code(), Some(75), "{}", text(&out));
    let hop = Hop::on(nobody);
    let out = server.run(&["drain", "--wait", "--json"]);
    assert!(out.status.success() && text(&out).ends_with("\"held\":0}\n"), "{}", text(&out));
    assert!(hop.one().from.contains("a@one.test"));
    assert!(server.run(&["drain", "--cancel"]).status.success());
    assert_eq!(server.page("/readyz").0, 200);
    server.client().mail("a@one.test", &["x@first.test"], BODY);
    hop.wait(2);
}

#[test]
fn suspensions_have_a_short_way() {
    let hop = Hop::start();
    let server = Server::relay_to(hop.address);
    let name = hop.address.to_string();
    let out = server.run(&["suspend", &name, "--reason", "moving", "--for", "1h"]);
    assert!(out.status.success(), "{}", text(&out));
    let id = server.client().mail("a@one.test", &["x@first.test"], BODY);
    server.listed(&id, |m| m["recipients"][0]["delay_reason"].as_str().is_some_and(|r| r.contains("moving")));
    assert!(text(&server.run(&["suspend", "--list"])).contains("moving"));
    assert_eq!(server.run(&["suspend"]).status.code(), Some(64));
    assert!(server.run(&["resume", &name]).status.success());
    hop.one();
    server.event_with("operator", "resume 1");
}

#[test]
fn top_shows_a_frame() {
    let hop = Hop::start();
    let server = Server::relay_to(hop.address);
    server.client().mail("a@one.test", &["x@first.test"], BODY);
    hop.one();
    let out = server.run(&["top", "--once", "--every", "200ms", "--json"]);
    let frame: Value = serde_json::from_str(&text(&out)).unwrap_or_else(|e| panic!("{e}: {}", text(&out)));
    assert_eq!(
        (&frame["cores"][0]["role"], &frame["cores"][0]["state"]),
        (&"mta".into(), &"ready".into()),
        "{frame}"
    );
    assert!(frame["rates"]["in"].is_number() && frame["queue"]["messages"] == 0, "{frame}");
    let screen = text(&server.run(&["top", "--once", "--every", "200ms"]));
    assert!(screen.contains("CORE") && screen.contains("DESTINATION"), "{screen}");
}

/// Runs the program under the name of another, with a message.
fn called(name: &str, dir: &Path, words: &[&str], smtp: &str, input: &[u8]) -> Output {
    let link = dir.join(name);
    if !link.exists() {
        std::os::unix::fs::symlink(PROGRAM, &link).unwrap();
    }
    let mut command = Command::new(link);
    command.args(words).arg("-C").arg(dir.join("ringpost.toml")).env("RINGPOST_SMTP", smtp);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have refused its arguments already.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[test]
fn programs_that_call_sendmail_are_served() {
    let hop = Hop::start();
    let server = Server::relay_to(hop.address);
    let (dir, smtp) = (server.dir(), server.smtp.to_string());
    let sendmail = |words: &[&str], input: &[u8]| called("sendmail", dir.path(), words, &smtp, input);
    let out = sendmail(
        &["-oi", "-t", "-f", "me@one.test"],
        b"To: A <x@first.test>, y@first.test\nBcc: z@first.test\nSubject: hi\n\n.\nend\n",
    );
    assert!(out.status.success() && out.stdout.is_empty(), "{}", text(&out));
    let mail = hop.one();
    assert!(mail.from.contains("<me@one.test>") && mail.to.len() == 3, "{:?}", mail.to);
    let content = String::from_utf8(mail.content()).unwrap();
    assert!(
        content.contains("\r\nFrom: me@one.test\r\n") && content.contains("\r\nMessage-ID: <"),
        "{content}"
    );
    assert!(content.ends_with("\r\n\r\n.\r\nend\r\n") && !content.contains("Bcc"), "{content}");
    assert_eq!(sendmail(&["-bd"], b"").status.code(), Some(64));
    assert_eq!(sendmail(&[], b"Subject: to nobody\n\n").status.code(), Some(64));
    let said =
        b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<b@first.test>\r\nDATA\r\nS: x\r\n\r\n.\r\nNOOP\r\nQUIT\r\n";
    let out = text(&sendmail(&["-bs"], said));
    assert!(out.starts_with("220 ") && out.contains("queued as") && out.contains("\r\n221 "), "{out}");
    hop.wait(2);
    hop.refuse("RCPT", "450 4.2.0 Later");
    assert!(sendmail(&["w@first.test"], b"Subject: waits\n\nx\n").status.success());
    let mailq = |words: &[&str]| text(&called("mailq", dir.path(), words, &smtp, b""));
    until("a queue that is shown", || mailq(&[]).contains("w@first.test").then_some(()));
    hop.accept();
    until("a flush", || {
        assert!(sendmail(&["-q"], b"").status.success());
        mailq(&[]).contains("Mail queue is empty").then_some(())
    });
    assert!(called("newaliases", dir.path(), &[], &smtp, b"").status.success());
    drop(server);
    let nobody = called("sendmail", dir.path(), &["x@first.test"], "127.0.0.1:1", b"Subject: x\n\nx\n");
    assert_eq!(nobody.status.code(), Some(75), "{}", text(&nobody));
}

#[test]
fn the_configuration_and_the_pages_are_printed() {
    let server = Server::relay_to(Hop::later());
    let shown = text(&server.run(&["config", "show", "--changed"]));
    assert!(
        shown.contains("hostname = \"mx.test.example\"") && !shown.contains("durability = \"full\""),
        "{shown}"
    );
    let default = Command::new(PROGRAM).args(["config", "default"]).output().unwrap();
    assert!(text(&default).contains("#data_dir = \"/var/lib/ringpost\""));
    let pages = server.dir().path().join("man");
    let out = Command::new(PROGRAM).arg("man").arg(&pages).output().unwrap();
    assert!(out.status.success() && pages.join("ringpost-queue-bounce.1").exists(), "{}", text(&out));
    let bash = Command::new(PROGRAM).args(["completions", "bash"]).output().unwrap();
    assert!(text(&bash).contains("_ringpost"));
}

/// What passes is shown, but for passwords and bodies.
#[test]
fn a_peer_is_watched_live() {
    let hop = Hop::start();
    let dir = Arc::new(crate::harness::server::directory());
    let users = dir.path().join("users");
    std::fs::write(&users, "ann:{PLAIN}secret\n").unwrap();
    let mut config = Config::new(hop.address)
        .set("auth", "users", format!("{:?}", users.display().to_string()))
        .set("auth", "allow_plaintext", "true");
    config.tail = "[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\nauth = \"offered\"\n".into();
    let server = Server::start_in(dir, &config);
    let watch = |way: &str| {
        let mut command = Command::new(PROGRAM);
        command
            .args(["trace", way, "127.0.0.1", "--for", "3s", "-c"])
            .arg(server.dir().path().join("ringpost.toml"));
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let (inwards, outwards) = (watch("in"), watch("out"));
    let begun = || server.lines().iter().filter(|l| l.contains("trace 1, of 127.0.0.1")).count() == 2;
    until("two traces", || begun().then_some(()));
    // The watch begins when the core is first asked, at once.
    until("a watched session", || {
        let mut client = server.client();
        let secret = STANDARD.encode("\0ann\0secret");
        client.say(&format!("AUTH PLAIN {secret}")).expect("235");
        client.mail("a@one.test", &["x@first.test"], b"Subject: private\r\n\r\nquite private\r\n");
        (hop.mails().len() >= 3).then_some(())
    });
    let shown =
        |child: std::process::Child| String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let (inwards, outwards) = (shown(inwards), shown(outwards));
    for part in [
        "C: EHLO ",
        "C: AUTH PLAIN (not shown)",
        "S: 235 ",
        "C: MAIL FROM:<a@one.test>",
        "C: DATA",
        "S: 354 ",
    ] {
        assert!(inwards.contains(part), "{part}: {inwards}");
    }
    assert!(outwards.contains("C: RCPT TO:<x@first.test>") && outwards.contains("S: 250"), "{outwards}");
    for text in [inwards, outwards] {
        assert!(!text.contains("private") && !text.contains(&STANDARD.encode("\0ann\0secret")), "{text}");
    }
}
