//! What is in `deploy/` for Prometheus and Grafana names only series that the program has, with the labels
//! and values that they have; each alert is tested both ways.
//!
//! Reads files only. Whether the questions give data is for tests/interop/prometheus.py, which has a
//! Prometheus.
#![allow(clippy::disallowed_methods)] // reads the source tree, as a test may

use crate::source::root;
use ringpost::metrics::families::FAMILIES;
use ringpost::metrics::{PROCESS, TABLE};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

/// Labels of a series; no values: any.
type Labels = BTreeMap<&'static str, BTreeSet<&'static str>>;

/// Labels that Prometheus adds, or that its histograms have.
const OF_PROMETHEUS: &[&str] = &["instance", "job", "le", "alertname", "alertstate", "severity"];

/// Every series, as it is called outside: histograms by their three parts.
fn known() -> BTreeMap<String, Labels> {
    let mut all: BTreeMap<String, Labels> = BTreeMap::new();
    let mut add = |name: &str, kind: &str, labels: &[(&'static str, &[&'static str])]| {
        let parts: &[&str] = if kind == "Histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        for part in parts {
            let entry = all.entry(format!("{name}{part}")).or_default();
            labels.iter().for_each(|(label, values)| entry.entry(*label).or_default().extend(*values));
        }
    };
    for (name, kind, labels, _) in TABLE {
        add(name, kind, &[("core", &[])]);
        labels.iter().for_each(|(label, value)| add(name, kind, &[(*label, &[*value])]));
    }
    for (name, kind, label, values, _) in FAMILIES {
        add(name, kind, &[("core", &[]), (*label, *values)]);
    }
    for (name, kind, labels, _) in PROCESS {
        add(name, kind, &[]);
        labels.iter().for_each(|label| add(name, kind, &[(*label, &[])]));
    }
    all
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn files(folder: &str, end: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.to_string_lossy().ends_with(end));
    paths.sort();
    assert!(!paths.is_empty(), "no {end} in {folder}");
    paths.iter().map(|p| (p.display().to_string(), fs::read_to_string(p).unwrap())).collect()
}

/// Series named in `text`, each with what stands in braces behind it.
fn named(text: &str) -> Vec<(&str, &str)> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(part) {
        let word = &rest[start..];
        let word = &word[..word.find(|c| !part(c)).unwrap_or(word.len())];
        rest = &rest[start + word.len()..];
        if word.starts_with("ringpost_") || word.contains(":ringpost_") || word.starts_with("process_") {
            let braces =
                rest.strip_prefix('{').and_then(|r| r.split_once('}')).map_or("", |(inside, _)| inside);
            found.push((word, braces));
        }
    }
    found
}

/// What is wrong with `braces` (`label="value",label=~"a|b"`) behind a series with these labels.
fn wrong_labels(braces: &str, labels: &Labels) -> Vec<String> {
    let mut wrong = Vec::new();
    for one in braces.split(',').filter(|one| !one.trim().is_empty()) {
        let label = one.split(['=', '!', '~']).next().unwrap_or("").trim();
        let value = one.split('"').nth(1).unwrap_or("");
        match labels.get(label) {
            None if OF_PROMETHEUS.contains(&label) => {}
            None => wrong.push(format!("no label {label}")),
            Some(values) if values.is_empty() => {}
            Some(values) => {
                let unknown = value.split('|').filter(|v| !values.contains(v));
                wrong.extend(unknown.map(|v| format!("{label} is never {v:?}")));
            }
        }
    }
    wrong
}

/// All texts with questions: where they stand, and they.
fn questions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for folder in ["deploy/prometheus/rules", "deploy/prometheus/tests"] {
        for (path, text) in files(folder, ".yml") {
            let is_question = |l: &&str| !l.trim_start().starts_with('#') && !l.contains("- record: ");
            let lines = text.lines().filter(is_question);
            all.push((path, lines.collect::<Vec<_>>().join("\n")));
        }
    }
    for (path, text) in files("deploy/grafana/dashboards", ".json") {
        let dashboard: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
        for target in dashboard["panels"].as_array().unwrap().iter().flat_map(targets) {
            all.push((path.clone(), target["expr"].as_str().unwrap().to_owned()));
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            all.extend(variable["definition"].as_str().map(|text| (path.clone(), text.to_owned())));
        }
    }
    all
}

fn targets(panel: &Value) -> impl Iterator<Item = &Value> {
    panel["targets"].as_array().into_iter().flatten()
}

#[test]
fn deployed_questions_name_series_that_exist() {
    let known = known();
    let recording = read("deploy/prometheus/rules/ringpost-recording.yml");
    let recorded: BTreeSet<&str> =
        recording.split("record: ").skip(1).map(|r| r.lines().next().unwrap()).collect();
    let (mut wrong, mut used) = (BTreeSet::new(), BTreeSet::new());
    for (path, text) in &questions() {
        for (name, braces) in named(text) {
            used.insert(name.to_owned());
            if recorded.contains(name) {
                continue;
            }
            match known.get(name) {
                None => wrong.extend([format!("{path}: there is no series {name}")]),
                Some(labels) => wrong.extend(
                    wrong_labels(braces, labels)
                        .into_iter()
                        .map(|w| format!("{path}: {name}{{{braces}}}: {w}")),
                ),
            }
        }
        for by in text.split("by (").skip(1).filter_map(|rest| rest.split(')').next()) {
            for label in by.split(',').map(str::trim) {
                let is_one = OF_PROMETHEUS.contains(&label) || known.values().any(|l| l.contains_key(label));
                if !is_one {
                    wrong.insert(format!("{path}: by ({by}): no series has a label {label}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
    assert!(used.len() > 80, "only {} series are looked at", used.len());
    let unused: Vec<_> = recorded.iter().filter(|r| !used.contains(**r)).collect();
    assert!(unused.is_empty(), "recorded, and nobody asks: {unused:?}");
}

#[test]
fn mistakes_in_questions_are_found() {
    let known = known();
    let text =
        r#"sum(rate(ringpost_fsync_seconds_bucket{le="1"}[5m])) / core:ringpost_x:y + process_threads"#;
    let names =
        [("ringpost_fsync_seconds_bucket", "le=\"1\""), ("core:ringpost_x:y", ""), ("process_threads", "")];
    assert_eq!(named(text), names);
    let of = |name: &str, braces: &str| wrong_labels(braces, &known[name]);
    assert!(
        of("ringpost_deliveries_total", r#"result=~"delivered|bounced",core="7",instance="a""#).is_empty()
    );
    assert_eq!(of("ringpost_deliveries_total", r#"result="sent",color="red""#).len(), 2);
    assert!(!known.contains_key("ringpost_fsync_seconds") && known.contains_key("ringpost_ready"));
}

#[test]
fn every_alert_is_tested_both_ways() {
    let rules = read("deploy/prometheus/rules/ringpost-alerts.yml");
    let tests = read("deploy/prometheus/tests/alerts.yml");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 20, "{}", alerts.len());
    let mut tested: BTreeMap<&str, &str> = BTreeMap::new();
    for test in tests.split("  - name: '").skip(1) {
        assert!(tested.insert(test.split(':').next().unwrap(), test).is_none(), "twice: {test}");
    }
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        for part in ["severity: ", "summary: ", "action: "] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        let test = tested.remove(name).unwrap_or_else(|| panic!("{name} is not tested"));
        let asked = format!("alertname=\"{name}\"");
        assert!(test.contains("exp_samples: []") && test.contains("value: 1 }"), "{name}: not both ways");
        assert!(test.split("expr: ").skip(1).all(|e| e.contains(&asked)), "{name}: asks for another");
        assert!(test.contains("instance=\"good\""), "{name}: nobody else is looked at");
    }
    assert!(tested.is_empty(), "tests of alerts that are not there: {:?}", tested.keys());
}

#[test]
fn dashboards_are_complete() {
    let mut uids = BTreeSet::new();
    let dashboards = files("deploy/grafana/dashboards", ".json");
    assert_eq!(dashboards.len(), 5);
    for (path, text) in dashboards {
        let d: Value = serde_json::from_str(&text).unwrap();
        assert!(
            d["title"].as_str().is_some() && uids.insert(d["uid"].as_str().unwrap().to_owned()),
            "{path}"
        );
        let panels = d["panels"].as_array().unwrap();
        let ids: BTreeSet<u64> = panels.iter().map(|p| p["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{path}: ids");
        let mut places = BTreeSet::new();
        for panel in panels {
            let (at, title) = (&panel["gridPos"], &panel["title"]);
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|k| at[k].as_u64().unwrap());
            assert!(x + w <= 24 && h > 0, "{path}: {title}");
            let cells = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
            cells.for_each(|cell| assert!(places.insert(cell), "{path}: {title} lies on another"));
            let asks = targets(panel).filter(|t| t["refId"].is_string()).count();
            assert!(asks > 0 || panel["type"] == "row", "{path}: {title} asks nothing");
        }
    }
}
