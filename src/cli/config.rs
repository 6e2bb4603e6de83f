//! `ringpost config`: the configuration in force, and the one that is in force if nothing is written.
//!
//! Owns the print-out. Reads the file only; it holds no secrets, for these lie in files of their own.

use super::queue::{Contact, simply};
use super::{ConfigFile, Exit};
use crate::admin::wire::Command;
use crate::config::diagnose::Report;
use crate::config::{Config, raw::Raw};
use std::io::Write;
use std::process::ExitCode;

/// The commented file: each key with its default and its meaning.
const EXAMPLE: &str = include_str!("../../examples/ringpost.toml");

/// `ringpost config`.
#[derive(clap::Subcommand, Debug)]
pub enum ConfigCommand {
    /// Every key with the value in force: what the file says, else the default
    Show {
        /// Which file
        #[command(flatten)]
        file: ConfigFile,
        /// Only keys that differ from their defaults
        #[arg(long)]
        changed: bool,
        /// JSON instead of TOML
        #[arg(long)]
        json: bool,
    },
    /// A file with every key, its default and its meaning, to begin with
    Default,
    /// Have the running server read maps, users, keys and certificates anew, and say what came of it; keys
    /// of the file itself need a restart
    Reload {
        /// How the server is found
        #[command(flatten)]
        contact: Contact,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

impl ConfigCommand {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        match self {
            ConfigCommand::Reload { contact, json } => simply(&contact, json, Command::Reload, "config"),
            other => other.print(&mut std::io::stdout()).into(),
        }
    }

    fn print(&self, out: &mut impl Write) -> Exit {
        let text = match self {
            // Not printed: asked for.
            ConfigCommand::Reload { .. } => String::new(),
            ConfigCommand::Default => EXAMPLE.to_owned(),
            ConfigCommand::Show { file, changed, json } => match show(file, *changed, *json) {
                Ok(text) => text,
                Err((exit, text)) => {
                    eprintln!("ringpost config: {text}");
                    return exit;
                }
            },
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Exit::Ok,
            Err(_) => Exit::Io,
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a program for operators reads the file")]
fn show(file: &ConfigFile, changed: bool, json: bool) -> Result<String, (Exit, String)> {
    let name = file.config.display().to_string();
    let bad = |text: String| (Exit::Config, text);
    let text = std::fs::read_to_string(&file.config).map_err(|e| bad(format!("{name}: {e}")))?;
    // What cannot be used is not in force.
    Config::parse(&text, &name).map_err(|problems| bad(problems.to_string()))?;
    let (raw, _) = Report::read(&name, &text);
    let table = |raw: &Raw| toml::Table::try_from(raw).map_err(|e| (Exit::Software, e.to_string()));
    let mut all = table(&raw)?;
    if changed {
        without(&mut all, &table(&Raw::default())?);
    }
    let text = if json { serde_json::to_string_pretty(&all).ok() } else { toml::to_string(&all).ok() };
    text.map(|t| t.trim_end().to_owned() + "\n").ok_or((Exit::Software, "cannot be written".to_owned()))
}

/// Takes out of `all` what is as in `usual`.
fn without(all: &mut toml::Table, usual: &toml::Table) {
    all.retain(|key, value| {
        let Some(other) = usual.get(key) else { return true };
        if let (toml::Value::Table(mine), toml::Value::Table(theirs)) = (&mut *value, other) {
            without(mine, theirs);
            return !mine.is_empty();
        }
        value != other
    });
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests make files
mod tests {
    use super::*;

    fn shown(text: &str, changed: bool, json: bool) -> (Exit, String) {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("r.toml");
        std::fs::write(&config, text).unwrap();
        let mut out = Vec::new();
        let exit = ConfigCommand::Show { file: ConfigFile { config }, changed, json }.print(&mut out);
        (exit, String::from_utf8(out).unwrap())
    }

    const SMALL: &str = "[server]\nhostname = \"mx.a.example\"\n[queue]\nretry_first = \"7m\"\n";

    #[test]
    fn what_is_shown_can_be_read_again_and_says_the_same() {
        let (exit, text) = shown(SMALL, false, false);
        assert_eq!(exit, Exit::Ok);
        assert!(text.contains("retry_first = \"7m\"") && text.contains("stop_grace = \"30s\""), "{text}");
        let (mine, _) = Config::parse(SMALL, "a").unwrap();
        let (again, _) = Config::parse(&text, "b").unwrap_or_else(|p| panic!("{p}\n{text}"));
        // A user that is written must exist; that is all that differs.
        let same = |config| Config { hash: 0, user_written: false, ..config };
        assert_eq!(same(mine), same(again));
        let (_, changed) = shown(SMALL, true, false);
        let table = |text: &str| text.parse::<toml::Table>().unwrap();
        assert_eq!(table(&changed), table(SMALL));
        let object: serde_json::Value = serde_json::from_str(&shown(SMALL, true, true).1).unwrap();
        assert_eq!(object["queue"]["retry_first"], "7m");
        assert_eq!(shown("[server]\n", false, false).0, Exit::Config);
        let mut out = Vec::new();
        assert_eq!(ConfigCommand::Default.print(&mut out), Exit::Ok);
        assert!(Config::parse(&String::from_utf8(out).unwrap(), "d").is_ok());
    }
}
