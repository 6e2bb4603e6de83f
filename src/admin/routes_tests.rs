//! Each command finds its way into a request and back; what the table does not name is refused.

use super::*;
use crate::admin::wire::{Change, Which};
use crate::queue::pick::{Pick, Standing, Verb};
use std::collections::BTreeSet;

fn commands() -> Vec<Command> {
    let text = |t: &str| t.to_owned();
    let id = || text("ABC 1/2?3");
    let pick = || Pick {
        sender: Some(String::new()),
        domain: Some(text("ex\u{e4}mple+tag.net")),
        older: Some(7200),
        state: Some(Standing::Hold),
        headers: vec![(text("Subject"), text("*a=b&c*")), (text("X"), text("100%"))],
        ..Pick::default()
    };
    let mut all = vec![
        Command::List { pick: Box::default(), in_doubt: false, count: false },
        Command::List { pick: Box::new(pick()), in_doubt: true, count: true },
        Command::Show { id: id() },
        Command::Cat { id: id() },
        Command::Why { id: id() },
        Command::Undo { number: 7 },
        Command::Holds,
        Command::Suspend { what: text("*.x"), reason: text("r\u{e4}\n"), seconds: Some(9) },
        Command::Resume { which: text("*") },
        Command::Rules,
        Command::Who,
        Command::Kick { whom: text("::1") },
        Command::Drain { on: false },
        Command::Disable { login: text("a"), reason: String::new() },
        Command::Enable { login: text("a") },
        Command::Disabled,
        Command::Trace { outwards: true, peer: text("*"), seconds: 3 },
        Command::State,
        Command::Top { seconds: Some(2) },
        Command::Metrics,
        Command::Stats,
        Command::Storage,
        Command::CopyIndex { dir: "/tmp/x".into() },
        Command::BackupMailboxes { dir: "/tmp/y".into() },
        Command::Reload,
        Command::Description,
    ];
    for verb in [Verb::Hold, Verb::Release, Verb::Flush, Verb::Requeue, Verb::Bounce, Verb::Delete] {
        for which in [
            Which::All,
            Which::Ids(vec![id()]),
            Which::Destination(text("mx:a")),
            Which::Pick(Box::new(pick())),
        ] {
            all.push(Command::Change(Change {
                reason: text("why"),
                preview: true,
                ..Change::of(verb, which)
            }));
        }
    }
    all.push(Command::Change(Change {
        to: Some(text("hop.example:25")),
        ..Change::of(Verb::Reroute, Which::Ids(vec![id()]))
    }));
    all
}

#[test]
fn every_command_comes_back_from_its_request() {
    let mut seen = BTreeSet::new();
    for asked in commands() {
        let sent = request(&asked).unwrap_or_else(|e| panic!("{asked:?}: {e}"));
        assert!(sent.target.is_ascii() && !sent.target.contains(' '), "{}", sent.target);
        let (path, query) = sent.target.split_once('?').unwrap_or((&sent.target, ""));
        let (route, got) = command(sent.method, path, query, &sent.body).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(got, asked);
        seen.insert((route.method, route.path));
    }
    let all: BTreeSet<_> = ROUTES.iter().map(|r| (r.method, r.path)).collect();
    assert_eq!(seen, all);
}

#[test]
fn what_is_not_in_the_table_is_refused() {
    for (method, target, body, status) in [
        ("GET", "/v1/nothing", "", 404),
        ("GET", "/v2/queue", "", 404),
        ("GET", "/v1/queue/", "", 404),
        ("PUT", "/v1/queue", "", 405),
        ("GET", "/v1/queue?colour=red", "", 400),
        ("GET", "/v1/queue?older=2h", "", 400),
        ("GET", "/v1/queue?older=1&older=2", "", 400),
        ("GET", "/v1/queue?state=lost", "", 400),
        ("GET", "/v1/queue?sender=%G1", "", 400),
        ("GET", "/v1/queue?header=Subject", "", 400),
        ("GET", "/v1/queue?count=yes", "", 400),
        ("GET", "/v1/queue", "{}", 400),
        ("GET", "/v1/holds?x=1", "", 400),
        ("GET", "/v1/trace?peer=a", "", 400),
        ("DELETE", "/v1/holds/x", "", 400),
        ("POST", "/v1/queue/hold", "[]", 400),
        ("POST", "/v1/queue/hold", "{\"which\":\"all\",\"more\":1}", 400),
        ("POST", "/v1/queue/hold", "{\"verb\":\"delete\",\"which\":\"all\"}", 400),
        ("POST", "/v1/queue/hold", "{\"which\":{\"pick\":{\"colour\":1}}}", 400),
        ("POST", "/v1/drain", "", 400),
        ("POST", "/v1/drain", "{\"on\":\"yes\"}", 400),
    ] {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match command(method, path, query, body.as_bytes()) {
            Err(problem) => assert_eq!(problem.status, status, "{method} {target} {body}: {problem:?}"),
            Ok(got) => panic!("{method} {target} {body}: {got:?}"),
        }
    }
}

#[test]
fn the_table_is_sound() {
    let mut names = BTreeSet::new();
    for route in ROUTES {
        assert!(names.insert(route.name), "{} is there twice", route.name);
        let in_path = route.params.iter().filter(|p| p.place == Place::Path);
        let braces: BTreeSet<_> = in_path.map(|p| format!("{{{}}}", p.name)).collect();
        let parts: BTreeSet<_> =
            route.path.split('/').filter(|p| p.starts_with('{')).map(str::to_owned).collect();
        assert_eq!(braces, parts, "{}", route.path);
        assert!(route.body.is_none() || route.method != "GET", "{}", route.path);
    }
}
