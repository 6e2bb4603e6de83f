//! The HTTP interface of operators on the real server: every request that is described, and its bounds.
#![allow(clippy::disallowed_methods, reason = "tests write files and hold sockets")]

use crate::harness::api::{Answer, ask, ask_tcp, misfits};
use crate::harness::server::{PROGRAM, directory, run_once};
use crate::harness::{Config, Hop, Server, until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

const BODY: &[u8] = b"Subject: plain\r\n\r\nhello\r\n";
const LINES: &str = "Accept: application/x-ndjson\r\n";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn get(server: &Server, target: &str) -> Answer {
    ask(server, "GET", target, "", "")
}

fn post(server: &Server, target: &str, body: &Value) -> Answer {
    ask(server, "POST", target, "", &body.to_string())
}

/// A server with users and with mail that nobody takes.
fn full(messages: usize) -> (Server, Vec<String>) {
    let dir = Arc::new(directory());
    let users = dir.path().join("users");
    std::fs::write(&users, "ann:{PLAIN}secret\n").unwrap();
    let config = Config::new(Hop::later()).set("auth", "users", format!("{:?}", users.display().to_string()));
    let server = Server::start_in(dir, &config);
    let mut client = server.client();
    let ids =
        (0..messages).map(|n| client.mail("a@one.test", &[&format!("x{n}@first.test")], BODY)).collect();
    for id in &ids {
        let _: &String = id;
        server.listed(id, |m| m["queue_name"] == "deferred");
    }
    (server, ids)
}

/// What each operation is asked, in this order, with the status that is expected.
fn requests(ids: &[String]) -> Vec<(&'static str, String, Value, u16)> {
    let id = &ids[0];
    let one = || json!({"which": {"ids": [id]}, "reason": "test"});
    let count = || json!({"which": {"pick": {"domain": "first.test"}}, "preview": true});
    vec![
        ("list", "/v1/queue?domain=first.*&state=deferred".into(), Value::Null, 200),
        ("list", "/v1/queue?sender=a%40one.test&count=true".into(), Value::Null, 200),
        ("list", "/v1/queue?older=soon".into(), Value::Null, 400),
        ("show", format!("/v1/queue/{id}"), Value::Null, 200),
        ("show", "/v1/queue/nonsense".into(), Value::Null, 404),
        ("why", format!("/v1/queue/{id}/why"), Value::Null, 200),
        ("content", format!("/v1/queue/{id}/content"), Value::Null, 200),
        ("hold", "/v1/queue/hold".into(), count(), 200),
        ("hold", "/v1/queue/hold".into(), json!({"which": {"ids": [id]}, "seconds": 3600}), 200),
        ("hold", "/v1/queue/hold".into(), json!({"which": {"pick": {}}}), 428),
        ("holds", "/v1/holds".into(), Value::Null, 200),
        ("undo", "/v1/holds/1".into(), Value::Null, 200),
        ("undo", "/v1/holds/1".into(), Value::Null, 404),
        ("flush", "/v1/queue/flush".into(), json!({"which": "all"}), 200),
        ("requeue", "/v1/queue/requeue".into(), one(), 200),
        ("reroute", "/v1/queue/reroute".into(), json!({"which": {"ids": [id]}, "to": "default"}), 200),
        ("reroute", "/v1/queue/reroute".into(), one(), 400),
        ("hold", "/v1/queue/hold".into(), json!({"which": {"ids": [id]}, "to": "mx"}), 400),
        ("release", "/v1/queue/release".into(), json!({"which": {"destination": "none"}}), 200),
        ("bounce", "/v1/queue/bounce".into(), count(), 200),
        ("delete", "/v1/queue/delete".into(), json!({"stamp": "none"}), 410),
        ("delete", "/v1/queue/delete".into(), one(), 200),
        ("suspend", "/v1/destinations/suspend".into(), json!({"what": "x.test", "seconds": 60}), 200),
        ("suspend", "/v1/destinations/suspend".into(), json!({"what": ""}), 400),
        ("suspended", "/v1/destinations/suspended".into(), Value::Null, 200),
        ("resume", "/v1/destinations/resume".into(), json!({"which": "x.test"}), 200),
        ("resume", "/v1/destinations/resume".into(), json!({"which": "x.test"}), 404),
        ("sessions", "/v1/sessions".into(), Value::Null, 200),
        ("kick", "/v1/sessions/kick".into(), json!({"whom": "nobody"}), 200),
        ("disable", "/v1/users/disable".into(), json!({"login": "ann", "reason": "test"}), 200),
        ("disable", "/v1/users/disable".into(), json!({"login": "eve"}), 404),
        ("disabled", "/v1/users/disabled".into(), Value::Null, 200),
        ("enable", "/v1/users/enable".into(), json!({"login": "ann"}), 200),
        ("drain", "/v1/drain".into(), json!({"on": true}), 200),
        ("state", "/v1/state".into(), Value::Null, 200),
        ("drain", "/v1/drain".into(), json!({"on": false}), 200),
        ("trace", "/v1/trace?peer=*&seconds=1".into(), Value::Null, 200),
        ("top", "/v1/top?seconds=1".into(), Value::Null, 200),
        ("top", "/v1/top?seconds=100".into(), Value::Null, 400),
        ("stats", "/v1/stats".into(), Value::Null, 200),
        ("metrics", "/v1/metrics".into(), Value::Null, 200),
        ("storage", "/v1/storage".into(), Value::Null, 200),
        // Of no shard: there are no mailboxes.
        ("backup", "/v1/mailboxes/backup".into(), json!({"dir": "/nonexistent"}), 200),
        ("reload", "/v1/config/reload".into(), Value::Null, 200),
        ("description", "/v1/openapi.json".into(), Value::Null, 200),
    ]
}

/// The description, and the operations in it: name to method and responses.
fn described(server: &Server) -> (Value, BTreeMap<String, (String, Value)>) {
    let description = get(server, "/v1/openapi.json").json();
    let mut all = BTreeMap::new();
    for path in description["paths"].as_object().unwrap().values() {
        for (method, operation) in path.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap().to_owned();
            all.insert(name, (method.to_ascii_uppercase(), operation["responses"].clone()));
        }
    }
    (description, all)
}

#[test]
fn every_request_is_answered_as_it_is_described() {
    let (server, ids) = full(3);
    let (description, operations) = described(&server);
    let printed = std::process::Command::new(PROGRAM).arg("api").output().unwrap().stdout;
    assert_eq!(serde_json::from_slice::<Value>(&printed).unwrap(), description);
    let open = server.client();
    let mut asked = BTreeSet::new();
    let copies = server.dir().path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    let copy = |status| ("copy-index", "/v1/storage/copy-index".to_owned(), json!({"dir": copies}), status);
    let mut requests = requests(&ids);
    // The second time the files are there already.
    requests.extend([copy(200), copy(500)]);
    for (name, target, body, status) in requests {
        let (method, responses) = &operations[name];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        // Not twice: what it changes is changed.
        let accepts = if asked.contains(name) { "" } else { "Accept: application/json\r\n" };
        let answer = ask(&server, method, &target, accepts, &body);
        assert_eq!(answer.status, status, "{name} {target} {body}: {}", answer.body);
        let response = responses.get(status.to_string()).unwrap_or(&responses["default"]);
        let kind = answer
            .head
            .lines()
            .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-type: ").map(str::to_owned));
        let kind = kind.expect("a type");
        let content =
            response["content"].get(&kind).unwrap_or_else(|| panic!("{name}: {kind} is not described"));
        let values = match &*kind {
            "application/x-ndjson" => answer.lines(),
            kind if kind.contains("json") => vec![answer.json()],
            _ => vec![answer.body.clone().into()],
        };
        for value in values {
            let wrong = misfits(&description, &content["schema"], &value);
            assert!(wrong.is_empty(), "{name} {target}: {wrong:#?}");
        }
        asked.insert(name.to_owned());
    }
    drop(open);
    assert_eq!(asked, operations.into_keys().collect());
    server.event_with("operator", "reload ");
}

#[test]
fn what_is_told_is_what_is_so() {
    let (server, ids) = full(2);
    let list = get(&server, "/v1/queue?recipient=x1*").json();
    assert_eq!(
        (list["messages"].as_array().unwrap().len(), &list["messages"][0]["queue_id"]),
        (1, &json!(ids[1]))
    );
    let text = get(&server, &format!("/v1/queue/{}/content", ids[0])).body;
    assert!(text.starts_with("Received: ") && text.ends_with("hello\r\n"), "{text}");
    let state = get(&server, "/v1/state").json();
    assert_eq!(
        (&state["ready"], &state["messages"], &state["draining"]),
        (&json!(true), &json!(2), &json!(false))
    );
    post(&server, "/v1/drain", &json!({"on": true}));
    let state = get(&server, "/v1/state").json();
    assert_eq!((&state["ready"], &state["draining"]), (&json!(false), &json!(true)));
    assert!(state["reason"].as_str().unwrap().contains("emptying"), "{state}");
    post(&server, "/v1/drain", &json!({"on": false}));
    // One of two is not there: the other is held all the same, and both are told.
    let gone = ids[0].replace(|c: char| c.is_ascii_digit(), "1");
    let ids_of = |all: [&String; 2]| json!({"which": {"ids": all}});
    let held = post(&server, "/v1/queue/hold", &ids_of([&gone, &ids[1]])).json();
    assert_eq!((&held["changed"], &held["problems"][0]["status"]), (&json!(1), &json!(404)), "{held}");
    let none = post(&server, "/v1/queue/hold", &ids_of([&gone, &gone]));
    assert_eq!((none.status, &none.json()["exit_code"]), (404, &json!(65)));
    assert!(none.head.contains("application/problem+json"), "{}", none.head);
    // As lines the same, with more on the way.
    let lines = ask(&server, "GET", "/v1/queue", LINES, "").lines();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|l| l["message"]["queue_id"].is_string()), "{lines:?}");
    let wrong = ask(&server, "PUT", "/v1/queue", "", "");
    assert!(wrong.status == 405 && wrong.head.to_ascii_lowercase().contains("allow: get"), "{}", wrong.head);
}

#[test]
fn a_stamp_changes_what_its_preview_has_counted() {
    let (server, ids) = full(2);
    let preview = |verb: &str| {
        let body = json!({"which": {"pick": {"domain": "first.test"}}, "preview": true, "reason": "first"});
        post(&server, &format!("/v1/queue/{verb}"), &body).json()["matches"].clone()
    };
    let stamped = |verb: &str, stamp: &Value, more: Value| {
        let mut body = json!({"stamp": stamp});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post(&server, &format!("/v1/queue/{verb}"), &body)
    };
    let seen = preview("hold");
    assert_eq!(
        (
            &seen["messages"],
            get(&server, "/v1/queue?state=hold").json()["messages"].as_array().unwrap().len()
        ),
        (&json!(2), 0)
    );
    let late = server.client().mail("a@one.test", &["late@first.test"], BODY);
    server.listed(&late, |m| m["queue_name"] == "deferred");
    assert_eq!(stamped("delete", &seen["stamp"], json!({})).status, 410, "a stamp is for its verb");
    assert_eq!(stamped("hold", &seen["stamp"], json!({"which": "all"})).status, 400);
    let done = stamped("hold", &seen["stamp"], json!({"reason": "second", "seconds": 3600})).json();
    assert_eq!((&done["changed"], &done["hold"]["reason"]), (&json!(2), &json!("second")), "{done}");
    assert!(done["hold"]["until"].is_u64(), "{done}");
    assert_eq!(stamped("hold", &seen["stamp"], json!({})).status, 410, "it is good once");
    server.listed(&late, |m| m["queue_name"] == "deferred");
    server.listed(&ids[0], |m| m["queue_name"] == "hold");
    // Four are kept; the oldest makes place.
    let stamps: Vec<Value> = (0..5).map(|_| preview("release")["stamp"].clone()).collect();
    assert_eq!(stamped("release", &stamps[0], json!({})).status, 410);
    assert_eq!(stamped("release", &stamps[1], json!({})).json()["changed"], 2);
    assert_eq!(stamped("release", &stamps[2], json!({})).json()["changed"], 0, "they are not held any more");
    server.event_with("operator", "hold 2, of {\"domain\":");
}

#[test]
fn over_tcp_a_token_opens_the_door() {
    let hop = Hop::start();
    let dir = Arc::new(directory());
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let config = Config::new(hop.address).set("admin", "address", "\"127.0.0.1:0\"").set(
        "admin",
        "token_file",
        format!("{:?}", file.display().to_string()),
    );
    let mode = |mode: u32| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    for command in ["serve", "check"] {
        let (code, said, _) = run_once(&[command], &config.text(dir.path()));
        assert!(code == Some(78) && said.contains("chmod") && !said.contains(TOKEN), "{code:?} {said}");
    }
    mode(0o600);
    let server = Server::start_in(dir, &config);
    let with = |token: &str| ask_tcp(server.operators, "GET", "/v1/state", token, "");
    for wrong in ["", "Authorization: Bearer 0123\r\n", &format!("Authorization: Basic {TOKEN}\r\n")] {
        let answer = with(wrong);
        assert_eq!(answer.status, 401, "{wrong}: {}", answer.body);
        assert!(answer.head.to_ascii_lowercase().contains("www-authenticate: bearer"), "{}", answer.head);
    }
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(with(&right).json()["ready"], true);
    let body = json!({"what": "*.x", "reason": "test"}).to_string();
    let done = ask_tcp(server.operators, "POST", "/v1/destinations/suspend", &right, &body);
    assert_eq!(done.json()["by"], "token from 127.0.0.1");
    server.event_with("operator", "token from 127.0.0.1: suspend");
    server.event_with("admin", "the token is missing or wrong");
    assert!(!server.lines().iter().any(|line| line.contains(TOKEN) || line.contains("Bearer 0123")));
    // The socket needs none.
    assert_eq!(get(&server, "/v1/state").status, 200);
    // What is wrong changes nothing, and is told to whoever has it read; a new token is good at once, and the
    // old one is not any more.
    let read_anew = || post(&server, "/v1/config/reload", &Value::Null).json()["files"].to_string();
    let new = TOKEN.replace('0', "x");
    let put = |text: &str| {
        let path = file.with_extension("new");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(&path, &file).unwrap();
    };
    put("short");
    read_anew();
    server.event_with("admin", "the old token stays in use");
    assert_eq!(with(&right).status, 200);
    put(&new);
    read_anew();
    server.event_with("admin", "a new token is in use");
    let newer = format!("Authorization: Bearer {new}\r\n");
    assert_eq!((with(&newer).status, with(&right).status), (200, 401));
    assert!(!server.lines().iter().any(|line| line.contains(&new)));
}

#[test]
fn requests_and_connections_are_bounded_and_lists_flow() {
    let (server, ids) = full(1);
    let long = json!({"what": "x".repeat(70_000)}).to_string();
    let refused = ask(&server, "POST", "/v1/destinations/suspend", "", &long);
    assert_eq!(refused.status, 413, "{}", refused.body);
    let long = format!("/v1/queue?sender={}", "x".repeat(40_000));
    let refused = ask(&server, "GET", &long, "", "");
    assert!((400..500).contains(&refused.status), "{}", refused.head);
    assert_eq!(ask(&server, "POST", "/v1/drain", "", "no json").status, 400);
    // Silent ones take places; those that go give them back.
    let connect = || UnixStream::connect(server.dir().path().join("admin")).unwrap();
    let mut silent: Vec<_> = (0..32).map(|_| connect()).collect();
    silent.truncate(16);
    assert_eq!(get(&server, "/v1/state").status, 200);
    // What comes as it is read has no length.
    let list = get(&server, "/v1/queue");
    assert!(list.head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{}", list.head);
    assert_eq!(list.json()["messages"][0]["queue_id"], json!(ids[0]));
}

#[test]
fn a_reload_tells_what_came_of_it() {
    let hop = Hop::start();
    let dir = Arc::new(directory());
    let map = dir.path().join("aliases");
    std::fs::write(&map, "info one@next.test\n").unwrap();
    let config = Config::new(hop.address).set("domains", "local", "[\"here.test\"]").set(
        "domains",
        "aliases",
        format!("\"{}\"", map.display()),
    );
    let server = Server::start_in(dir, &config);
    // It may be looked at in between by itself: then there is nothing more to tell.
    let mut n = 0;
    let mut told = |text: &str| {
        until("a reload with something to tell", || {
            n += 1;
            std::fs::write(&map, format!("{text}\n{}", "# more\n".repeat(n))).unwrap();
            let answer = ask(&server, "POST", "/v1/config/reload", "", "").json();
            Some(answer).filter(|answer| answer["said"] != json!([]))
        })
    };
    let good = told("news two@next.test");
    assert_eq!((&good["good"], &good["said"][0]["text"]), (&json!(true), &json!("new maps are in use")));
    let bad = told("news");
    assert_eq!((&bad["good"], &bad["said"][0]["level"]), (&json!(false), &json!("alarm")));
    assert!(bad["said"][0]["text"].as_str().unwrap().contains("aliases:1"), "{bad}");
    let out = server.run(&["config", "reload"]);
    assert!(out.status.success(), "{out:?}");
    server.client().mail("a@one.test", &["news@here.test"], BODY);
    assert_eq!(hop.one().to, ["<two@next.test>"]);
}
