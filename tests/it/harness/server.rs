//! The real binary as a process, with a configuration, a directory and ports of its own.
//!
//! Killed when dropped. Its events are read as they come; awaiting one is bounded in time.
#![allow(clippy::disallowed_methods, reason = "tests write configurations and wait for processes")]

use super::client::Client;
use super::{PATIENCE, http, until};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ringpost");

/// A configuration file in the making: the last value of a key wins.
#[derive(Clone)]
pub struct Config {
    values: Vec<(&'static str, &'static str, String)>,
    /// Written at the end as it is: arrays of tables.
    pub tail: String,
    /// Put before the program's name: `prlimit --fsize=...`.
    pub wrapper: Vec<String>,
}

impl Config {
    /// Small and quick defaults. All mail goes to `smarthost`.
    pub fn new(smarthost: SocketAddr) -> Config {
        let config = Config { values: Vec::new(), tail: String::new(), wrapper: Vec::new() };
        config
            .set("server", "hostname", "\"mx.test.example\"")
            .set("server", "user", "\"\"")
            .set("server", "stop_grace", "\"10s\"")
            .set("cores", "mta", "1")
            .set("cores", "pin", "\"off\"")
            .set("storage", "segment_size", "\"1MiB\"")
            .set("storage", "journal_limit", "\"64MiB\"")
            .set("storage", "free_min", "\"1MiB\"")
            .set("storage", "durability", "\"weak\"")
            .set("relay", "smarthost", format!("\"{smarthost}\""))
            .set("destination", "idle", "\"1s\"")
            .set("metrics", "address", "\"127.0.0.1:0\"")
    }

    /// Sets a key; the value is TOML.
    pub fn set(mut self, section: &'static str, key: &'static str, value: impl Into<String>) -> Config {
        self.values.retain(|(s, k, _)| (*s, *k) != (section, key));
        self.values.push((section, key, value.into()));
        self
    }

    /// The text of the file, for a server in `dir`.
    pub fn text(&self, dir: &Path) -> String {
        let mut text = String::new();
        let mut sections: Vec<_> = self.values.iter().map(|v| v.0).collect();
        sections.sort_unstable();
        sections.dedup();
        for section in sections {
            text += &format!("[{section}]\n");
            for (_, key, value) in self.values.iter().filter(|v| v.0 == section) {
                text += &format!("{key} = {value}\n");
            }
            if section == "server" {
                text += &format!("data_dir = \"{}\"\n", dir.join("data").display());
            }
        }
        // Where there is a socket for operators is the same for all.
        let admin = format!("[admin]\nsocket = \"{}\"\n", dir.join("admin").display());
        match text.contains("[admin]\n") {
            true => text = text.replace("[admin]\n", &admin),
            false => text += &admin,
        }
        if !self.tail.contains("[[listener]]") {
            text += "[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\n";
        }
        text + &self.tail
    }
}

/// A directory for one server; removed at the end.
pub fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("ringpost-it-").tempdir().expect("a temporary directory")
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

/// A running server.
pub struct Server {
    pub smtp: SocketAddr,
    pub metrics: SocketAddr,
    /// Where operators are heard over TCP, if they are.
    pub operators: SocketAddr,
    child: Child,
    log: Arc<Log>,
    dir: Arc<tempfile::TempDir>,
}

impl Server {
    /// Starts a server in a new directory and waits until it serves.
    #[track_caller]
    pub fn start(config: &Config) -> Server {
        Self::start_in(Arc::new(directory()), config)
    }

    /// The same with all mail going to `smarthost`.
    #[track_caller]
    pub fn relay_to(smarthost: SocketAddr) -> Server {
        Self::start(&Config::new(smarthost))
    }

    /// The same in a directory that may have been used before.
    #[track_caller]
    pub fn start_in(dir: Arc<tempfile::TempDir>, config: &Config) -> Server {
        let file = dir.path().join("ringpost.toml");
        std::fs::write(&file, config.text(dir.path())).expect("a file");
        let mut words = config.wrapper.clone();
        words.push(PROGRAM.into());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args(["serve", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Log::default());
        let (stderr, to) = (child.stderr.take().expect("piped"), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                to.lines.lock().expect("no panic").0.push(line);
                to.changed.notify_all();
            }
            to.lines.lock().expect("no panic").1 = true;
            to.changed.notify_all();
        });
        let nowhere: SocketAddr = ([0, 0, 0, 0], 0).into();
        let mut server = Server { smtp: nowhere, metrics: nowhere, operators: nowhere, child, log, dir };
        let text = server.event("started");
        let part = |before: &str| {
            let rest = text.split_once(before).map_or("", |(_, r)| r);
            rest.split([']', ',', ' ']).next().unwrap_or("").parse().unwrap_or(nowhere)
        };
        (server.smtp, server.metrics) = (part("SMTP on ["), part("metrics on "));
        server.operators = part("operators on ");
        server
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its directory.
    pub fn dir(&self) -> Arc<tempfile::TempDir> {
        self.dir.clone()
    }

    /// All lines it has written.
    pub fn lines(&self) -> Vec<String> {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Waits for the event of this name, and gives its text.
    #[track_caller]
    pub fn event(&self, name: &str) -> String {
        self.event_with(name, "")
    }

    /// Waits for an event of this name that contains `part`, and gives its text.
    #[track_caller]
    pub fn event_with(&self, name: &str, part: &str) -> String {
        let find = |lines: &[String]| {
            let events = lines.iter().filter_map(|l| serde_json::from_str::<Value>(l).ok());
            let mut fitting = events.filter(|e| e["event"] == name);
            fitting.find_map(|e| e["text"].as_str().filter(|t| t.contains(part)).map(str::to_owned))
        };
        let log = self.log.lines.lock().expect("no panic");
        let waiting = |l: &mut (Vec<String>, bool)| find(&l.0).is_none() && !l.1;
        let (log, _) = self.log.changed.wait_timeout_while(log, PATIENCE, waiting).expect("no panic");
        find(&log.0).unwrap_or_else(|| panic!("no event {name} {part:?} in:\n{}", log.0.join("\n")))
    }

    /// A client that has read the greeting.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::hello(self.smtp)
    }

    /// Status and body of a page of the metrics address.
    #[track_caller]
    pub fn page(&self, path: &str) -> (u16, String) {
        http::get(self.metrics, path).expect("the metrics address answers")
    }

    /// The sum over cores of a series; labels as in `name{reason="x"`.
    #[track_caller]
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.page("/metrics").1;
        let lines = text
            .lines()
            .filter(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with(['{', ' ']) && r.contains(label)));
        let values: Vec<f64> = lines.map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(!values.is_empty(), "no series {name} {label} in\n{text}");
        values.iter().sum()
    }

    /// Runs a command of the program against this server.
    pub fn run(&self, words: &[&str]) -> Output {
        let file = self.dir.path().join("ringpost.toml");
        Command::new(PROGRAM).args(words).arg("-c").arg(file).output().expect("the program runs")
    }

    /// `queue ... --json`: exit code 0, one value a line.
    #[track_caller]
    pub fn queue(&self, words: &[&str]) -> Vec<Value> {
        let out = self.run(&[&["queue", "--json"], words].concat());
        let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{words:?}: {:?} {text}{errors}", out.status);
        text.lines().map(|l| serde_json::from_str(l).expect("a line of JSON")).collect()
    }

    /// Nothing is queued, not even a notification that is on its way to the disk (not listed yet).
    fn is_empty(&self) -> bool {
        self.queue(&["stats"]).iter().all(|s| s["messages"] == 0) && self.queue(&["list"]).is_empty()
    }

    /// Waits until the queue is empty.
    #[track_caller]
    pub fn drained(&self) {
        until("an empty queue", || self.is_empty().then_some(()));
    }

    /// Makes everything due until nothing is left: what was in flight at a flush may be deferred.
    #[track_caller]
    pub fn flushed(&self) {
        until("an empty queue after flushing", || {
            self.queue(&["flush", "--all"]);
            self.is_empty().then_some(())
        });
    }

    /// Waits until the message is listed and `right`.
    #[track_caller]
    pub fn listed(&self, id: &str, right: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{id} in the queue as it should be"), || {
            self.queue(&["list"]).into_iter().find(|m| m["queue_id"] == id && right(m))
        })
    }

    /// Sends it a signal: TERM, INT, HUP.
    pub fn signal(&self, name: &str) {
        let line = format!("kill -{name} {}", self.pid());
        assert!(Command::new("sh").args(["-c", &line]).status().expect("a shell").success());
    }

    /// Waits for its end; the exit code, if it has one.
    #[track_caller]
    pub fn exit(&mut self) -> Option<i32> {
        let child = &mut self.child;
        until("the end of the server", || child.try_wait().expect("a child")).code()
    }

    /// SIGTERM, and exit code 0.
    #[track_caller]
    pub fn stop(mut self) -> Arc<tempfile::TempDir> {
        self.signal("TERM");
        assert_eq!(self.exit(), Some(0), "{}", self.lines().join("\n"));
        self.dir()
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Arc<tempfile::TempDir> {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
        self.dir()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let alive = matches!(self.child.try_wait(), Ok(None));
        if std::thread::panicking() && alive && self.smtp.port() != 0 {
            let queue = self.run(&["queue", "list", "--json"]).stdout;
            eprintln!("the queue:\n{}", String::from_utf8_lossy(&queue));
        }
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server said:\n{}", self.lines().join("\n"));
        }
    }
}

/// Runs the program to its end, with this configuration file text.
pub fn run_once(words: &[&str], text: &str) -> (Option<i32>, String, PathBuf) {
    let dir = directory();
    let file = dir.path().join("ringpost.toml");
    std::fs::write(&file, text).expect("a file");
    let out = Command::new(PROGRAM).args(words).arg("-c").arg(&file).output().expect("the program runs");
    let said = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
    (out.status.code(), said, file)
}
