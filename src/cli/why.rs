//! `ringpost why QUEUE-ID`: why a message is still here.
//!
//! Owns the print-out. Asks the running server over the admin socket; reads no journal. Exit codes as
//! those of `ringpost queue`.

use super::queue::{Contact, converse, escape};
use crate::admin::wire::{Command, Line};
use serde_json::Value;
use std::io::{self, Write};
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct WhyArgs {
    #[command(flatten)]
    contact: Contact,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Queue id
    #[arg(value_name = "QUEUE-ID")]
    id: String,
}

impl WhyArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let mut out = io::stdout().lock();
        converse(&self.contact, &Command::Why { id: self.id }, "why", |line| match line {
            Line::Why(value) if self.json => writeln!(out, "{value}"),
            Line::Why(value) => print(&mut out, &value),
            _ => Ok(()),
        })
    }
}

fn print(out: &mut impl Write, why: &Value) -> io::Result<()> {
    let word = |v: &Value| escape(v.as_str().unwrap_or(""));
    let at = crate::base::time::Wall(why["arrival_time"].as_u64().unwrap_or(0) * 1000).to_string();
    let sender = Some(word(&why["sender"])).filter(|s| !s.is_empty()).unwrap_or("MAILER-DAEMON".into());
    writeln!(out, "{} from {sender}, {} bytes, came {}", word(&why["queue_id"]), why["message_size"], at)?;
    if let Some(to) = why["rerouted"].as_str() {
        writeln!(out, "rerouted by an operator to {}", escape(to))?;
    }
    for r in why["recipients"].as_array().into_iter().flatten() {
        writeln!(out, "{}: {}", word(&r["address"]), word(&r["state"]))?;
        writeln!(out, "  waits for    {}", word(&r["waits_for"]))?;
        writeln!(out, "  destination  {}", word(&r["destination"]))?;
        if r["site"] != r["destination"] {
            writeln!(out, "  site         {}", word(&r["site"]))?;
        }
        if let Some(ahead) = r["ahead"].as_u64() {
            writeln!(out, "  ahead        {ahead} messages")?;
        }
        if let Some(reply) = r["last_reply"].as_str() {
            writeln!(out, "  last reply   {}", escape(reply))?;
        }
        writeln!(out, "  attempts     {}", r["attempts"])?;
        for t in r["tried"].as_array().into_iter().flatten() {
            let [reply, server, next] = ["reply", "server", "next"].map(|key| word(&t[key]));
            let of = if server.is_empty() { String::new() } else { format!("{server}: ") };
            let then = if next.is_empty() { String::new() } else { format!("; then not before {next}") };
            writeln!(out, "  {:>5}        {of}{reply}{then}", t["attempt"].to_string())?;
        }
        match r["missing"].as_u64() {
            Some(n) if n > 0 => writeln!(out, "               {n} more, of which nothing is known now")?,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_printed_and_nothing_steers_the_terminal() {
        let why = serde_json::json!({
            "queue_id": "X", "arrival_time": 0, "sender": "", "message_size": 7,
            "rerouted": "other.example:25",
            "recipients": [{"address": "a@b", "state": "deferred", "waits_for": "attempt 3, in 9 s",
                "destination": "mx:b", "site": "site:mx.b", "ahead": 4, "attempts": 2,
                "last_reply": "451 \u{1b}[2J", "missing": 1,
                "tried": [{"attempt": 1, "reply": "450 no", "server": "mx.b", "next": "T"},
                    {"attempt": 2, "reply": "451 no", "server": "", "next": ""}]}],
        });
        let mut out = Vec::new();
        print(&mut out, &why).expect("memory");
        let text = String::from_utf8(out).expect("text");
        for part in [
            "X from MAILER-DAEMON, 7 bytes",
            "rerouted by an operator to other.example:25\n",
            "a@b: deferred\n",
            "waits for    attempt 3, in 9 s\n",
            "site         site:mx.b\n",
            "ahead        4 messages\n",
            "1        mx.b: 450 no; then not before T\n",
            "2        451 no\n",
            "1 more, of",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
