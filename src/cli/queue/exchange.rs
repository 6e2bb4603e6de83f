//! `ringpost queue export` and `import`: messages as files, and back.
//!
//! Owns the form of the files: `ID.eml` has trace headers and body as they are, `ID.json` what the listing
//! says. Import submits over SMTP: each message gets a new id, a new arrival time and one more trace header.
//! A file that is there already is not written over. An exported message stays in the queue.

use super::{Contact, converse, fail, fetch};
use crate::admin::wire::{Command, Line};
use crate::cli::submit::{self, Mail};
use crate::cli::{Exit, queue::escape};
use crate::config::Config;
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Copies the messages of `look` into `dir`.
pub(super) fn export(contact: &Contact, look: Command, dir: &Path) -> ExitCode {
    if let Err(e) = fs::create_dir_all(dir) {
        return fail("queue", 73, &format!("{}: {e}", dir.display()));
    }
    let mut found: Vec<Value> = Vec::new();
    let code = converse(contact, &look, "queue", |line| {
        if let Line::Message(m) = line {
            found.push(m);
        }
        Ok(())
    });
    if code != ExitCode::SUCCESS {
        return code;
    }
    let mut count = 0;
    for m in &found {
        // Such an id is a name without folders.
        let Some(id) = m["queue_id"].as_str().filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()))
        else {
            continue;
        };
        match one(contact, m, id, dir) {
            Ok(true) => count += 1,
            // It has ended meanwhile, which has been said.
            Ok(false) => {}
            Err(e) => return fail("queue", 73, &format!("{}: {e}", dir.join(id).display())),
        }
    }
    println!("{count} messages exported to {}", dir.display());
    ExitCode::SUCCESS
}

fn one(contact: &Contact, m: &Value, id: &str, dir: &Path) -> io::Result<bool> {
    let path = dir.join(format!("{id}.eml"));
    let mut file = create(&path)?;
    let cat = Command::Cat { id: id.to_owned() };
    let mut result = Ok(());
    let code = fetch(contact, &cat, "queue", |body| {
        result = io::copy(body, &mut file).map(drop);
        Ok(())
    });
    result?;
    if code != ExitCode::SUCCESS {
        fs::remove_file(&path)?;
        return Ok(false);
    }
    file.sync_all()?;
    let mut file = create(&dir.join(format!("{id}.json")))?;
    writeln!(file, "{m}")?;
    file.sync_all()?;
    Ok(true)
}

fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Submits the messages in `dir`.
pub(super) fn import(contact: &Contact, dir: &Path, smtp: Option<&str>) -> ExitCode {
    let config = Config::load(&contact.config).ok().map(|loaded| loaded.0);
    let server = smtp.map_or_else(|| submit::server(config.as_ref()), str::to_owned);
    let mut names = match listed(dir) {
        Ok(names) => names,
        Err(e) => return fail("queue", 66, &format!("{}: {e}", dir.display())),
    };
    names.sort();
    let (mut count, mut worst) = (0, Exit::Ok);
    for name in &names {
        let mail = match read(dir, name) {
            Ok(mail) => mail,
            Err(e) => {
                eprintln!("ringpost queue: {name}: {e}");
                worst = Exit::Data;
                continue;
            }
        };
        match submit::submit(&server, &mail) {
            Ok((reply, refused)) => {
                count += 1;
                println!("{name}: {}", escape(&reply));
                for trouble in refused {
                    eprintln!("ringpost queue: {name}: {}", escape(&trouble.text));
                    worst = trouble.exit;
                }
            }
            Err(trouble) => {
                eprintln!("ringpost queue: {name}: {}", escape(&trouble.text));
                worst = trouble.exit;
            }
        }
    }
    println!("{count} of {} messages imported", names.len());
    worst.into()
}

/// The names of messages in `dir`.
fn listed(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        names.extend(name.to_str().and_then(|n| n.strip_suffix(".json")).map(str::to_owned));
    }
    Ok(names)
}

fn read(dir: &Path, name: &str) -> io::Result<Mail> {
    let bad = |e| io::Error::new(io::ErrorKind::InvalidData, e);
    let facts: Value = serde_json::from_slice(&fs::read(dir.join(format!("{name}.json")))?).map_err(bad)?;
    let recipients = facts["recipients"].as_array().into_iter().flatten();
    let recipients: Vec<String> =
        recipients.filter_map(|r| r["address"].as_str().map(str::to_owned)).collect();
    if recipients.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it names no recipients"));
    }
    let sender = facts["sender"].as_str().unwrap_or_default().to_owned();
    let content = fs::read(dir.join(format!("{name}.eml")))?;
    Ok(Mail { sender, recipients, content, ..Mail::default() })
}
