//! `ringpost doctor` on the real host: what it says is said for all, in both forms, and ends in time.

use crate::harness::server::{Config, PROGRAM, Server, directory};
use crate::harness::until;
use serde_json::Value;
use std::process::Command;

/// Runs it with a configuration file's path; exit code and what it prints.
fn doctor(config: &str, more: &[&str]) -> (i32, String) {
    let mut child = Command::new(PROGRAM)
        .args(["doctor", "-c", config])
        .args(more)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program starts");
    until("the end of doctor", || child.try_wait().expect("a child").map(drop));
    let out = child.wait_with_output().expect("a child");
    (out.status.code().expect("an exit code"), String::from_utf8(out.stdout).expect("text"))
}

fn findings(text: &str) -> Vec<(String, String)> {
    let object: Value = serde_json::from_str(text).expect("JSON");
    let all = object["findings"].as_array().expect("a list").iter();
    let text = |v: &Value| v.as_str().expect("text").to_owned();
    all.map(|f| (text(&f["check"]), text(&f["verdict"]))).collect()
}

#[test]
fn a_running_server_is_recognised() {
    let sink = "127.0.0.1:9".parse().unwrap();
    // No name server answers there: it is said, and in time.
    let config = Config::new(sink).set("dns", "servers", "[\"127.0.0.1:9\"]").set("dns", "dnssec", "\"off\"");
    let server = Server::start(&config);
    let dir = server.dir();
    // The listener, which comes last, as it has turned out to be.
    let text = std::fs::read_to_string(dir.path().join("ringpost.toml")).expect("the file");
    let (before, after) = text.rsplit_once("127.0.0.1:0").expect("a listener");
    let file = dir.path().join("fixed.toml");
    #[allow(clippy::disallowed_methods, reason = "tests write configurations")]
    std::fs::write(&file, format!("{before}{}{after}", server.smtp)).expect("a file");
    let file = file.display().to_string();
    let (code, text) = doctor(&file, &["--json", "--reach", &server.smtp.to_string()]);
    let found = findings(&text);
    let verdict = |name: &str| {
        let one = found.iter().find(|f| f.0 == name);
        one.unwrap_or_else(|| panic!("{name} is not in {text}")).1.as_str()
    };
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(&format!("is served, by ringpost (pid {})", server.pid())), "{text}");
    for good in ["configuration", "kernel", "io_uring", "file system", "address", "port 25 outside"] {
        assert_eq!(verdict(good), "ok", "{good}: {text}");
    }
    assert_eq!(verdict("name servers"), "change", "{text}");
    assert_ne!(verdict("durable write"), "unknown", "{text}");
    let left = std::fs::read_dir(dir.path().join("data")).expect("a folder").filter_map(Result::ok);
    assert!(left.into_iter().all(|e| !e.file_name().to_string_lossy().contains("doctor")));
}

#[test]
fn what_must_be_changed_gives_the_code_of_configuration() {
    let dir = directory();
    let (data, file) = (dir.path().join("data"), dir.path().join("r.toml"));
    let text = format!(
        "[server]\nhostname = \"mx.test.example\"\ndata_dir = \"{}\"\n[storage]\nfree_min = \"1000000GiB\"\n\
         [dns]\nservers = [\"127.0.0.1:9\"]\n[relay]\nsmarthost = \"192.0.2.1\"\n",
        data.display()
    );
    #[allow(clippy::disallowed_methods, reason = "tests write configurations")]
    std::fs::write(&file, text).expect("a file");
    let (code, text) = doctor(&file.display().to_string(), &[]);
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("MUST    space"), "{text}");
    assert!(text.contains("will NOT do"), "{text}");
    assert!(!data.exists(), "doctor makes nothing");
    let (_, text) = doctor("/nowhere/ringpost.toml", &[]);
    assert!(text.contains("change  configuration"), "{text}");
}
