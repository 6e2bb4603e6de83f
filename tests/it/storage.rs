//! `ringpost storage`: what operators see of the files of a server, running, stopped, damaged.

#![allow(clippy::disallowed_methods, reason = "damages files")]

use crate::harness::server::PROGRAM;
use crate::harness::{Config, Hop, Server};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

const FROM: &str = "sender@client.test";
const TO: &str = "rcpt@next.test";

fn storage(dir: &Path, words: &[&str]) -> Output {
    let config = dir.join("ringpost.toml");
    let config: &[&str] = if words[0] == "dump-segment" { &[] } else { &["-c", config.to_str().unwrap()] };
    Command::new(PROGRAM).arg("storage").args(words).args(config).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

#[test]
fn files_are_shown_verified_and_dumped() {
    let config = Config::new(Hop::later());
    let server = Server::start(&config);
    let mut client = server.client();
    let large = b"0123456789\r\n".repeat(200_000);
    let ids: Vec<String> = (0..4)
        .map(|n| client.mail(FROM, &[TO], if n == 3 { &large } else { b"Subject: kept\r\n\r\nbody\r\n" }))
        .collect();
    for id in &ids {
        server.listed(id, |m| m["queue_name"] == "deferred");
    }
    let busy = storage(server.dir().path(), &["verify"]);
    assert_eq!(busy.status.code(), Some(75), "{busy:?}");
    let shown = json(&storage(server.dir().path(), &["show", "--json"]));
    assert_eq!(shown["logs"][0]["segments"][0]["state"], "in the log", "{shown}");
    assert_eq!(shown["logs"][0]["side_files"], 1, "{shown}");
    let dir = server.stop();

    let sound = storage(dir.path(), &["verify", "--json"]);
    let verdict = json(&sound);
    assert_eq!((sound.status.code(), &verdict["sound"]), (Some(0), &Value::Bool(true)), "{verdict}");
    assert!(verdict["logs"][0]["records"].as_u64().unwrap() >= 4, "{verdict}");

    let log = dir.path().join("data/queue/0000");
    let segment = log.join("00000001.segment");
    let dumped = storage(dir.path(), &["dump-segment", segment.to_str().unwrap(), "--payload"]);
    let text = String::from_utf8(dumped.stdout).unwrap();
    assert!(dumped.status.success() && text.contains("| Subject: kept\\r\\n"), "{text}");

    // The first message, and the body of the last.
    let damage = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    damage(&segment, 8192 + 100);
    let side = std::fs::read_dir(log.join("side")).unwrap().next().unwrap().unwrap().path();
    damage(&side, 100_000);
    let broken = storage(dir.path(), &["verify", "--json"]);
    let verdict = json(&broken);
    assert_eq!((broken.status.code(), &verdict["damage_count"]), (Some(65), &Value::from(2)), "{verdict}");
    let damages = &verdict["logs"][0]["damages"];
    assert_eq!(damages[0]["ids"][0], ids[0].as_str(), "{verdict}");
    assert_eq!(damages[1]["ids"][0], ids[3].as_str(), "{verdict}");
    assert_eq!(storage(dir.path(), &["dump-segment", segment.to_str().unwrap()]).status.code(), Some(65));
    assert_eq!(storage(dir.path(), &["dump-segment", "/nowhere"]).status.code(), Some(66));
}
