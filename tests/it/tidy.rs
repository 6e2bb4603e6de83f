//! The rules of the source tree as tests: layers, lengths, words, anchors. Every message names the
//! fix. A file that breaks a rule for a reason stands in [`EXCUSED`] with that reason.
#![allow(clippy::disallowed_methods)] // reads the source tree, as a test may

use crate::source::{Source, crate_paths, functions, root, sources};
use std::collections::{BTreeMap, BTreeSet};

/// Where Rust is written.
const FOLDERS: &[&str] = &["src", "tests", "benches", "examples", "fuzz/fuzz_targets"];
const COLUMNS_MAX: usize = 110;
const LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

/// (path, rule, reason).
const EXCUSED: &[(&str, &str, &str)] = &[
    ("src/metrics.rs", "columns", "a table: one series a line, so that it can be read and searched"),
    ("src/base/scan.rs", "unsafe", "vector instructions of the body scanner; a bench demands them"),
];

/// What each part of the library may use (see `lib.rs` and DESIGN: layers). The longest prefix
/// of a file's path below `src/` decides. Shells see state machines, never the other way round.
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &["base"]),
    ("message", &["base", "message"]),
    ("smtp/outbound", &["auth", "base", "message", "smtp"]),
    ("smtp", &["base", "message", "smtp"]),
    ("milter", &["base", "message", "smtp", "milter"]),
    ("pop3", &["base", "message", "pop3"]),
    ("lmtp", &["base", "message", "smtp", "lmtp"]),
    ("imap/session", &["base", "message", "imap", "mailbox"]),
    ("imap", &["base", "message", "imap"]),
    ("storage", &["base", "storage"]),
    ("queue/whose.rs", &["base", "policy", "queue"]),
    ("queue", &["base", "message", "storage", "queue"]),
    ("mailbox", &["base", "message", "storage", "mailbox"]),
    ("route", &["base", "message", "route"]),
    ("policy", &["base", "message", "route", "policy"]),
    ("authenticity", &["base", "message", "authenticity"]),
    ("auth", &["base", "auth"]),
    ("runtime", &["base", "runtime"]),
    ("tls/client.rs", &["base", "route", "tls"]),
    ("tls", &["base", "tls"]),
    ("metrics", &["base"]),
    ("events", &["base", "message"]),
];

/// Async shells: may also use runtime, metrics, events and each other; no state machine may use
/// them. A prefix of a path below `src/`.
const SHELLS: &[&str] = &[
    "smtp/serve",
    "imap/serve",
    "pop3/serve",
    "access",
    "storage/keeper",
    "storage/archive/vault",
    "queue/desk",
    "mailbox/store",
    "auth/hashing",
    "auth/service",
    "authenticity/aside",
    "authenticity/check",
    "route/dns",
    "channel",
    "intake",
    "attempts",
    "delivery",
];

/// What only the composition may use.
const TOP: &[&str] = &["config", "admin", "server", "load", "cli", "main"];

/// Fails with all findings at once.
fn none(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn excused(path: &str, rule: &str) -> bool {
    EXCUSED.iter().any(|(p, r, _)| *p == path && *r == rule)
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.', '_']))
}

fn is_shell(path: &str) -> bool {
    SHELLS.iter().any(|s| is_below(path, s))
}

fn is_top(path: &str) -> bool {
    TOP.iter().any(|t| is_below(path, t))
}

/// The code of a file up to its unit tests, which may use more.
fn product_code(source: &Source) -> &str {
    let end = source.code.find("#[cfg(test)]").unwrap_or(source.code.len());
    &source.code[..end]
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("tests.rs") || path.contains("/tests/")
}

/// Why the file `path` (below `src/`) may not use `used` (`folder/file`), if it may not.
fn trespass(path: &str, used: &str) -> Option<String> {
    let fix = |why: &str| Some(format!("src/{path} may not use crate::{}: {why}", used.replace('/', "::")));
    if is_top(path) || path == "lib.rs" {
        return None;
    }
    if is_top(used) {
        return fix("composition imports the parts, never the other way round");
    }
    if is_shell(path) {
        return None;
    }
    if is_shell(used) {
        return fix("a state machine does not know the shell that drives it; pass the result as an argument");
    }
    // The proof of a commit is for everybody who says that something is safe.
    if used == "storage/ticket" {
        return None;
    }
    let allowed = LAYERS.iter().find(|(prefix, _)| is_below(path, prefix)).map(|l| l.1);
    let Some(allowed) = allowed else {
        return Some(format!("src/{path} has no layer: add its folder to LAYERS in tests/it/tidy.rs"));
    };
    let folder = used.split('/').next().unwrap_or(used);
    match folder {
        _ if allowed.contains(&folder) => None,
        "runtime" => fix("pass time and bytes as arguments and return steps"),
        "metrics" | "events" => fix("return facts; the shell counts and reports"),
        _ => fix("it lies in a higher layer or in another domain (LAYERS in tests/it/tidy.rs)"),
    }
}

#[test]
fn layers_hold() {
    let mut found = Vec::new();
    for source in sources(&["src"]).iter().filter(|s| !is_test_file(&s.path)) {
        let path = source.path.strip_prefix("src/").expect("below src");
        for (line, used) in crate_paths(product_code(source)) {
            // `crate::` alone, or a macro of ours, names no part.
            if !used.is_empty() && !excused(&source.path, "layer") {
                found.extend(trespass(path, &used).map(|t| format!("{t} (line {line})")));
            }
        }
    }
    none(found);
}

#[test]
fn layer_table_refuses_what_it_must() {
    for (path, used) in [
        ("smtp/inbound.rs", "runtime"),
        ("smtp/inbound/data.rs", "queue/desk"),
        ("storage/journal.rs", "storage/keeper"),
        ("queue/schedule.rs", "metrics/Core"),
        ("base/wheel.rs", "message/body"),
        ("smtp/serve.rs", "config/Options"),
        ("delivery/relay.rs", "server"),
        ("route/tables.rs", "queue/index"),
        ("pop3/inbound/mail.rs", "storage/journal"),
    ] {
        assert!(trespass(path, used).is_some(), "{path} used {used}");
    }
    for (path, used) in [
        ("smtp/serve.rs", "intake/Intake"),
        ("storage/keeper.rs", "runtime"),
        ("server.rs", "queue/desk"),
        ("queue/desk/settle.rs", "storage/keeper"),
        ("message/dsn.rs", "base/time"),
        ("pop3/inbound/mail.rs", "storage/ticket"),
    ] {
        assert_eq!(trespass(path, used), None);
    }
}

#[test]
fn state_machines_do_not_wait() {
    let mut found = Vec::new();
    for source in sources(&["src"]).iter().filter(|s| !is_test_file(&s.path)) {
        let path = source.path.strip_prefix("src/").expect("below src");
        let pure = [
            "base",
            "message",
            "smtp",
            "pop3",
            "lmtp",
            "imap",
            "storage",
            "queue",
            "mailbox",
            "route",
            "policy",
            "milter",
            "authenticity",
        ];
        if is_shell(path) || !pure.iter().any(|p| is_below(path, p)) || excused(&source.path, "async") {
            continue;
        }
        for (i, line) in product_code(source).lines().enumerate() {
            if line.contains("async ") || line.contains(".await") {
                found.push(format!(
                    "src/{path}:{}: async in a state machine: move it to a shell and return a step",
                    i + 1
                ));
            }
        }
    }
    none(found);
}

#[test]
fn files_open_with_what_they_own_and_stay_short() {
    let mut found = Vec::new();
    for s in sources(FOLDERS) {
        let lines = s.text.lines().count();
        if !s.text.starts_with("//!") && !excused(&s.path, "header") {
            found.push(format!("{}: begin with //! and say what the file owns and must not know", s.path));
        }
        if lines > LINES_MAX && !excused(&s.path, "lines") {
            found.push(format!("{}: {lines} lines, at most {LINES_MAX}: split it by subject", s.path));
        }
        for (i, line) in s.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX && !excused(&s.path, "columns") {
                found.push(format!("{}:{}: {columns} columns, at most {COLUMNS_MAX}: wrap", s.path, i + 1));
            }
        }
        for (name, line, length) in functions(&s.code) {
            if length > FUNCTION_LINES_MAX && !excused(&s.path, "function") {
                found.push(format!(
                    "{}:{line}: fn {name} has {length} lines, at most {FUNCTION_LINES_MAX}: \
                     move a step of it into a function with a name",
                    s.path
                ));
            }
        }
    }
    none(found);
}

#[test]
fn sources_are_ascii() {
    let mut found = Vec::new();
    for s in sources(FOLDERS) {
        for (i, line) in s.text.lines().enumerate() {
            let comment = line.find("//").unwrap_or(line.len());
            let odd = line.char_indices().find(|&(at, c)| !(c.is_ascii() || c == '\u{a7}' && at > comment));
            if let Some((_, c)) = odd
                && !excused(&s.path, "ascii")
            {
                found.push(format!("{}:{}: {c:?}: write it as an escape, or in ASCII", s.path, i + 1));
            }
        }
    }
    none(found);
}

#[test]
fn unsafe_code_lives_in_the_runtime_and_says_why() {
    let mut found = Vec::new();
    for s in sources(FOLDERS) {
        let text: Vec<&str> = s.text.lines().collect();
        for (i, line) in s.code.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if !words.any(|w| w == "unsafe") {
                continue;
            }
            if !s.path.starts_with("src/runtime/") && !excused(&s.path, "unsafe") {
                found.push(format!("{}:{}: unsafe outside of src/runtime: move it there", s.path, i + 1));
            }
            let before = text[i.saturating_sub(8)..=i].join("\n");
            if !before.contains("// SAFETY:") && !before.contains("# Safety") {
                found.push(format!("{}:{}: unsafe without // SAFETY: above it", s.path, i + 1));
            }
        }
    }
    none(found);
}

#[test]
fn no_unfinished_work() {
    let banned = [
        concat!("to", "do!"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("unimple", "mented!"),
        concat!("db", "g!("),
        concat!("allow(dead", "_code)"),
        concat!("#[ig", "nore"),
    ];
    let mut found = Vec::new();
    for s in sources(FOLDERS) {
        for (i, line) in s.text.lines().enumerate() {
            let word = banned.iter().find(|w| line.contains(**w) && !excused(&s.path, w));
            found.extend(word.map(|w| format!("{}:{}: {w}: finish it or take it out", s.path, i + 1)));
        }
    }
    none(found);
}

/// The numbers behind "RFC " in `text`.
fn rfcs_in(text: &str) -> BTreeSet<u32> {
    let number = |t: &str| t.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    text.split("RFC ").skip(1).filter_map(number).collect()
}

#[test]
fn rfcs_are_listed_and_kept() {
    let path = root().join("docs/rfc.tsv");
    let table = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("docs/rfc.tsv: {e}: list each RFC: number, title, Yes/Partial/No, where"));
    let mut found = Vec::new();
    let mut listed = BTreeMap::new();
    for (i, line) in table.lines().enumerate().filter(|(_, l)| !l.starts_with('#') && !l.is_empty()) {
        let columns: Vec<&str> = line.split('\t').collect();
        match (columns[0].parse::<u32>(), columns.get(2)) {
            (Ok(n), Some(&status @ ("Yes" | "Partial" | "No"))) => drop(listed.insert(n, status)),
            // The first line may name the columns.
            _ if i == 0 => {}
            _ => found.push(format!("docs/rfc.tsv:{}: number, title, Yes/Partial/No, where", i + 1)),
        }
    }
    let mut anchored = BTreeSet::new();
    for s in sources(&["src"]) {
        for rfc in rfcs_in(&s.text) {
            anchored.insert(rfc);
            if !listed.contains_key(&rfc) {
                found.push(format!("{}: RFC {rfc} is not in docs/rfc.tsv: add its line", s.path));
            }
        }
    }
    let bare = listed.iter().filter(|(n, status)| **status == "Yes" && !anchored.contains(n));
    found.extend(bare.map(|(n, _)| {
        format!("docs/rfc.tsv: RFC {n} says Yes, but no line of src/ says \"RFC {n}\": anchor it")
    }));
    none(found);
}

#[test]
fn excuses_are_still_needed() {
    let paths: BTreeSet<String> = sources(FOLDERS).into_iter().map(|s| s.path).collect();
    let gone = EXCUSED.iter().filter(|(p, _, _)| !paths.contains(*p));
    none(gone.map(|(p, _, _)| format!("{p} is excused but does not exist: take the excuse out")).collect());
}
