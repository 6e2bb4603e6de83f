//! What waits for a domain and goes another way than routes say, because an operator has rerouted it.
//!
//! Owns the question and the words. Asks the running server, over the admin socket; if none answers, or not
//! in time, nothing is said. Changes nothing.

use crate::admin::wire::{Command, Line};
use crate::cli::http;
use crate::queue::pick::Pick;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Messages that are counted at most.
const MESSAGES_MAX: u64 = 1000;
/// How long the server may be silent.
const PATIENCE: Duration = Duration::from_secs(5);

/// Next hops, each with how many messages for the domain go there; null: that is not known.
pub(super) fn of(socket: &Path, domain: &[u8]) -> Value {
    let Ok(domain) = std::str::from_utf8(domain) else { return Value::Null };
    match UnixStream::connect(socket).and_then(|stream| ask(stream, domain)) {
        Ok((hops, all)) => {
            let hops = hops.into_iter().map(|(to, messages)| json!({"to": to, "messages": messages}));
            json!({"next_hops": hops.collect::<Vec<_>>(), "all": all})
        }
        Err(_) => Value::Null,
    }
}

/// What was counted, and whether that is all.
fn ask(stream: UnixStream, domain: &str) -> io::Result<(BTreeMap<String, u64>, bool)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let some = |text: &str| Some(text.to_owned());
    let pick = Pick { domain: some(domain), rerouted: some("*"), ..Pick::default() };
    let command = Command::List { pick: Box::new(pick), in_doubt: false, count: false };
    let body = http::ask(stream, &command)?.map_err(|problem| io::Error::other(problem.detail))?;
    let (mut hops, mut count) = (BTreeMap::new(), 0);
    let read = http::lines(body, |line| {
        if let Line::Message(m) = &line {
            *hops.entry(m["rerouted"].as_str().unwrap_or("").to_owned()).or_insert(0) += 1;
            count += 1;
        }
        if count < MESSAGES_MAX { Ok(()) } else { Err(io::ErrorKind::QuotaExceeded.into()) }
    });
    match read {
        Ok(()) => Ok((hops, true)),
        Err(_) if count == MESSAGES_MAX => Ok((hops, false)),
        Err(e) => Err(e),
    }
}

pub(super) fn print(rerouted: &Value, out: &mut impl Write) -> io::Result<()> {
    let least = if rerouted["all"] == false { "at least " } else { "" };
    for hop in rerouted["next_hops"].as_array().into_iter().flatten() {
        let (n, to) = (&hop["messages"], hop["to"].as_str().unwrap_or(""));
        writeln!(
            out,
            "rerouted      by an operator to {to}: {least}{n} of the messages that wait for the domain"
        )?;
    }
    Ok(())
}
