//! L5: one frame of what the server does: sums and rates of two looks at `/metrics` and the queues.
//!
//! Pure; used by the server (`/v1/top`) and by `ringpost top`. A series that is not there counts as zero.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

/// Series by name and labels as they stand in the text.
pub type Series = BTreeMap<String, f64>;

/// What the server says at one moment.
pub struct Sample {
    /// When.
    pub at: Instant,
    /// Of `/metrics`.
    pub series: Series,
    /// The counts of all queues.
    pub queues: Vec<Value>,
}

/// Open sessions, by protocol.
const SESSIONS: [&str; 3] = ["ringpost_smtp_sessions", "ringpost_pop3_sessions", "ringpost_imap_sessions"];
/// The series of the text of `/metrics`.
#[must_use]
pub fn series(text: &str) -> Series {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' ').and_then(|(name, v)| Some((name.into(), v.parse().ok()?))))
        .collect()
}

/// The sum of the series `name` whose labels contain `label`.
fn sum(series: &Series, name: &str, label: &str) -> f64 {
    let of_name = series.range(name.to_owned()..).take_while(|(key, _)| key.starts_with(name));
    let fits = |key: &str| {
        let rest = &key[name.len()..];
        (rest.is_empty() || rest.starts_with('{')) && rest.contains(label)
    };
    of_name.filter(|(key, _)| fits(key)).map(|(_, v)| v).sum()
}

/// The value of a label in the text of a series.
fn label<'a>(key: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = key.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

/// All that is shown; of the destinations, the `most` largest.
#[must_use]
pub fn frame(before: &Sample, now: &Sample, most: usize) -> Value {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
    let rate = |name: &str, label: &str| {
        let added = sum(&now.series, name, label) - sum(&before.series, name, label);
        (added.max(0.0) / seconds * 10.0).round() / 10.0
    };
    let level = |name: &str, label: &str| sum(&now.series, name, label) as u64;
    let of_queues = |key: &str| now.queues.iter().filter_map(|q| q[key].as_u64()).sum::<u64>();
    json!({
        "cores": cores(before, now, seconds),
        "rates": {
            "in": rate("ringpost_messages_received_total", ""),
            "in_bytes": rate("ringpost_bytes_received_total", ""),
            "delivered": rate("ringpost_deliveries_total", "result=\"delivered\""),
            "deferred": rate("ringpost_deliveries_total", "result=\"deferred\""),
            "bounced": rate("ringpost_deliveries_total", "result=\"bounced\""),
            "rejected": rate("ringpost_rejections_total", ""),
            "commits": rate("ringpost_commits_total", ""),
        },
        "sessions": {
            "smtp": level("ringpost_smtp_sessions", ""),
            "pop3": level("ringpost_pop3_sessions", ""),
            "imap": level("ringpost_imap_sessions", ""),
            "out": level("ringpost_connections", "direction=\"out\""),
        },
        "queue": {
            "messages": of_queues("messages"),
            "active": of_queues("active"),
            "deferred": of_queues("deferred"),
            "held": of_queues("held"),
            "bytes": of_queues("bytes"),
            "oldest_seconds": level_max(&now.series, "ringpost_queue_oldest_seconds"),
        },
        "destinations": destinations(now, most),
    })
}

fn level_max(series: &Series, name: &str) -> u64 {
    let of_name = series.range(name.to_owned()..).take_while(|(key, _)| key.starts_with(name));
    of_name.map(|(_, v)| *v as u64).max().unwrap_or(0)
}

fn cores(before: &Sample, now: &Sample, seconds: f64) -> Vec<Value> {
    let name = "ringpost_core_cpu_seconds_total";
    let all = now.series.range(name.to_owned()..).take_while(|(key, _)| key.starts_with(name));
    all.map(|(key, value)| {
        let core = label(key, "core").unwrap_or("");
        let mine = format!("core=\"{core}\"");
        let states = now.series.range("ringpost_core_state{".to_owned()..);
        let states = states.take_while(|(key, _)| key.starts_with("ringpost_core_state{"));
        let mut states = states.filter(|(key, v)| **v == 1.0 && key.contains(&mine));
        let state = states.find_map(|(key, _)| label(key, "state"));
        let used = value - before.series.get(key).copied().unwrap_or(*value);
        let per = |name: &str| sum(&now.series, name, &mine) as u64;
        json!({
            "core": core,
            "role": label(key, "role"),
            "state": state,
            "cpu_percent": (used / seconds * 1000.0).round() / 10.0,
            "sessions": SESSIONS.iter().map(|name| per(name)).sum::<u64>(),
        })
    })
    .collect()
}

/// Those with the most messages; several queues may have the same.
fn destinations(now: &Sample, most: usize) -> Vec<Value> {
    let mut all: BTreeMap<String, (u64, u64, u64, String)> = BTreeMap::new();
    for d in now.queues.iter().filter_map(|q| q["destinations"].as_array()).flatten() {
        let number = |key: &str| d[key].as_u64().unwrap_or(0);
        let one = all.entry(d["name"].as_str().unwrap_or("").to_owned()).or_default();
        one.0 += number("ready");
        one.1 += number("connections");
        one.2 = one.2.max(number("failures"));
        if let Some(reason) = d["reason"].as_str() {
            reason.clone_into(&mut one.3);
        }
    }
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by(|a, b| (b.1.0, b.1.1).cmp(&(a.1.0, a.1.1)).then_with(|| a.0.cmp(&b.0)));
    let one = |(name, d): (String, (u64, u64, u64, String))| {
        let (ready, connections, failures, reason) = d;
        json!({
            "name": name,
            "ready": ready,
            "connections": connections,
            "failures": failures,
            "reason": reason,
        })
    };
    all.into_iter().take(most).map(one).collect()
}
