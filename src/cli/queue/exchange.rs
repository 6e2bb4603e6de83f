//! `ringpost queue export` and `import`: messages as files, and back.
//!
//! Owns the form of the files: `ID.eml` has trace headers and body as they are, `ID.json` what the listing
//! says. Import submits over SMTP: each message gets a new id, a new arrival time and one more trace header.
//! A file that is there already is not written over. An exported message stays in the queue. Several messages
//! are on their way at a time; memory does not grow with their number, but for their names. What was exported
//! is on stable storage before its number is told.

use super::{Contact, converse, fail, fetch, socket};
use crate::admin::wire::{Command, Line};
use crate::cli::mailbox::Progress;
use crate::cli::submit::{self, Mail};
use crate::cli::{Exit, queue::escape};
use crate::config::Config;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Messages on their way at a time.
const AT_ONCE: usize = 8;

/// What the listing has said, a line a message; its file is removed in the end.
struct Listing(PathBuf);

impl Drop for Listing {
    fn drop(&mut self) {
        // Somebody has removed it already.
        let _ = fs::remove_file(&self.0);
    }
}

/// What the workers share.
struct Work<T> {
    left: T,
    count: u64,
    /// Why all end.
    failed: Option<String>,
    progress: Progress,
}

impl<T> Work<T> {
    fn new(left: T) -> Mutex<Self> {
        Mutex::new(Work { left, count: 0, failed: None, progress: Progress::new() })
    }
}

fn lock<T>(work: &Mutex<T>) -> MutexGuard<'_, T> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies the messages of `look` into `dir`.
pub(super) fn export(contact: &Contact, json: bool, look: Command, dir: &Path) -> ExitCode {
    let contact = match socket(contact, "queue") {
        Ok(path) => Contact { socket: Some(path), config: contact.config.clone() },
        Err(code) => return code,
    };
    let cannot = |path: &Path, e: &io::Error| fail("queue", 73, &format!("{}: {e}", path.display()));
    if let Err(e) = fs::create_dir_all(dir) {
        return cannot(dir, &e);
    }
    let path = dir.join(format!(".listing-{}", std::process::id()));
    let listing = match create(&path) {
        Ok(file) => (file, Listing(path)),
        Err(e) => return cannot(&path, &e),
    };
    let mut out = BufWriter::new(&listing.0);
    let mut written = Ok(());
    let code = converse(&contact, &look, "queue", |line| {
        if let (Line::Message(m), Ok(())) = (line, &written) {
            written = writeln!(out, "{m}");
        }
        Ok(())
    });
    let written = written.and_then(|()| out.flush());
    drop(out);
    let found = match written.and_then(|()| File::open(&listing.1.0)) {
        Ok(file) => BufReader::new(file),
        Err(e) => return cannot(&listing.1.0, &e),
    };
    if code != ExitCode::SUCCESS {
        return code;
    }
    let work = Work::new(found);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| copy_some(&contact, &work, dir));
        }
    });
    let work = work.into_inner().unwrap_or_else(PoisonError::into_inner);
    work.progress.end();
    if let Some(text) = work.failed {
        return fail("queue", 73, &text);
    }
    // One sync for all of them: one for each would take a thousand times as long.
    if let Err(e) = File::open(dir).and_then(|dir| Ok(rustix::fs::syncfs(dir)?)) {
        return cannot(dir, &e);
    }
    let count = work.count;
    match json {
        true => println!("{}", json!({ "exported": count, "directory": dir.display().to_string() })),
        false => println!("{count} messages exported to {}", dir.display()),
    }
    ExitCode::SUCCESS
}

/// Copies messages until there are no more, or something is wrong with the files.
fn copy_some(contact: &Contact, work: &Mutex<Work<BufReader<File>>>, dir: &Path) {
    loop {
        let mut line = String::new();
        let mut now = lock(work);
        if now.failed.is_some() {
            return;
        }
        let read = now.left.read_line(&mut line);
        drop(now);
        let done = match read {
            Ok(0) => return,
            Ok(_) => one(contact, line.trim_end(), dir),
            Err(e) => Err((dir.to_owned(), e)),
        };
        let mut now = lock(work);
        match done {
            Ok(true) => now.count += 1,
            // It has ended meanwhile, which has been said.
            Ok(false) => {}
            Err((path, e)) => now.failed = Some(format!("{}: {e}", path.display())),
        }
        let count = now.count;
        now.progress.show(|| format!("{count} messages exported"));
    }
}

fn one(contact: &Contact, line: &str, dir: &Path) -> Result<bool, (PathBuf, io::Error)> {
    let facts: Value = serde_json::from_str(line).map_err(|e| (dir.to_owned(), e.into()))?;
    // Such an id is a name without folders.
    let id = facts["queue_id"].as_str().filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()));
    let Some(id) = id else { return Ok(false) };
    let path = dir.join(format!("{id}.eml"));
    let body = || -> io::Result<bool> {
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
        }
        Ok(code == ExitCode::SUCCESS)
    };
    if !body().map_err(|e| (path.clone(), e))? {
        return Ok(false);
    }
    let path = dir.join(format!("{id}.json"));
    create(&path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .map_err(|e| (path, e))?;
    Ok(true)
}

fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Submits the messages in `dir`.
pub(super) fn import(contact: &Contact, json: bool, dir: &Path, smtp: Option<&str>) -> ExitCode {
    let server = smtp.map_or_else(
        || submit::server(Config::load(&contact.config).ok().map(|loaded| loaded.0).as_ref()),
        str::to_owned,
    );
    let mut names = match listed(dir) {
        Ok(names) => names,
        Err(e) => return fail("queue", 66, &format!("{}: {e}", dir.display())),
    };
    names.sort();
    let work = Work::new((names.iter(), Exit::Ok));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| submit_some(&server, json, dir, &work));
        }
    });
    let work = work.into_inner().unwrap_or_else(PoisonError::into_inner);
    work.progress.end();
    match json {
        true => println!("{}", json!({ "imported": work.count, "of": names.len() })),
        false => println!("{} of {} messages imported", work.count, names.len()),
    }
    work.left.1.into()
}

type Names<'a> = (std::slice::Iter<'a, String>, Exit);

/// Submits messages until there are no more.
fn submit_some(server: &str, json: bool, dir: &Path, work: &Mutex<Work<Names<'_>>>) {
    loop {
        let Some(name) = lock(work).left.0.next() else { return };
        let (reply, troubles) = match read(dir, name) {
            Ok(mail) => match submit::submit(server, &mail) {
                Ok((reply, refused)) => (Some(escape(&reply)), refused),
                Err(trouble) => (None, vec![trouble]),
            },
            Err(e) => (None, vec![submit::Trouble { exit: Exit::Data, text: e.to_string() }]),
        };
        let mut now = lock(work);
        if let Some(reply) = reply {
            now.count += 1;
            match json {
                true => println!("{}", json!({ "name": name, "reply": reply })),
                false => println!("{name}: {reply}"),
            }
        }
        for trouble in troubles {
            eprintln!("ringpost queue: {name}: {}", escape(&trouble.text));
            now.left.1 = trouble.exit;
        }
        let count = now.count;
        now.progress.show(|| format!("{count} messages imported"));
    }
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
