//! The router of a config: its map files read, and read again when they change.
//!
//! Owns reading of maps. A map that cannot be read at the start is an error; later, the old router
//! stays in use and the problem is reported, so that a slip in a file never stops mail.

use super::access::Access as AccessFiles;
use super::diagnose::{Problem, Problems, Severity};
use super::forwarding;
use super::resolve::Config;
use crate::route::access::{self, Access};
use crate::route::map::{self, Kind, Parsed, Table, Targets};
use crate::route::rewrite::{self, Rules};
use crate::route::tables::{Bounds, Router, split};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Time of change and length of each map file.
type Stamps = Vec<(PathBuf, Option<(SystemTime, u64)>)>;

/// Lists that the maps include.
type Lists = BTreeSet<PathBuf>;

/// Makes new routers when the maps change.
pub struct Reloader {
    config: Arc<Config>,
    /// Those that the maps named when they were last read.
    lists: Lists,
    stamps: Stamps,
}

impl Reloader {
    /// Reads the maps of `config`; the first router, and warnings.
    pub fn start(config: Arc<Config>) -> Result<(Self, Arc<Router>, Problems), Problems> {
        // Taken before reading, so that a change during reading is seen next time. The lists are
        // known only afterwards: a change of one within this moment is seen with its next change.
        let mut stamps = stamps(&config, &Lists::new());
        let mut lists = Lists::new();
        let (router, problems) = read(&config, &mut lists)?;
        stamps.extend(stamps_of(&lists));
        Ok((Reloader { config, lists, stamps }, Arc::new(router), problems))
    }

    /// A new router if a map has changed since the last call (told by time of change and length).
    /// An error is reported once; the old router stays good.
    pub fn poll(&mut self) -> Option<Result<(Arc<Router>, Problems), Problems>> {
        let now = stamps(&self.config, &self.lists);
        if now == self.stamps {
            return None;
        }
        let mut lists = Lists::new();
        let made = read(&self.config, &mut lists);
        // New lists with their state of now; those that were watched with that from before reading.
        let new: Lists = lists.difference(&self.lists).cloned().collect();
        self.stamps = now;
        self.stamps.extend(stamps_of(&new));
        self.lists.extend(new);
        Some(made.map(|(r, p)| (Arc::new(r), p)))
    }
}

/// The router of `config`, with warnings; errors if a map cannot be read or has bad lines.
pub fn router(config: &Config) -> Result<(Router, Problems), Problems> {
    read(config, &mut Lists::new())
}

fn read(config: &Config, lists: &mut Lists) -> Result<(Router, Problems), Problems> {
    let mut problems = Problems::default();
    let d = &config.domains;
    let mut r = Router::new(&config.hostname);
    d.local.iter().for_each(|name| r.add_local(name));
    d.relay.iter().for_each(|name| r.add_relay(name));
    for (domain, hop) in &config.routes {
        r.add_route(domain, hop.clone());
    }
    if let Some(hop) = &config.relay.smarthost {
        r.set_smarthost(hop.clone());
    } else {
        r.set_direct();
    }
    if config.has_mailboxes() {
        r.set_mailboxes();
    }
    let bounds = Bounds { depth: config.limits.alias_depth, recipients: config.limits.alias_recipients };
    r.set_rewriting(d.postmaster.as_deref(), &d.recipient_delimiter, bounds);
    let mut load = |path: &Option<PathBuf>, kind, problems: &mut Problems| {
        path.as_deref().map(|path| load(path, kind, lists, problems)).unwrap_or_default()
    };
    let (known, _) = load(&d.relay_recipients, Kind::Keys, &mut problems);
    r.set_relay_recipients(d.relay_recipients.is_some().then_some(known));
    let (aliases, _) = load(&d.aliases, Kind::Aliases, &mut problems);
    let (rewrites, addresses) = load(&d.rewrites, Kind::Virtual, &mut problems);
    r.set_maps(aliases, rewrites);
    let (senders, _) = load(&config.submission.senders, Kind::Virtual, &mut problems);
    let mut rules = |path: &Option<PathBuf>| path.as_deref().map(|p| expressions(p, &mut problems));
    let (of_senders, of_recipients) = (rules(&d.rewrite_senders), rules(&d.rewrite_recipients));
    r.set_expressions(of_senders.unwrap_or_default(), of_recipients.unwrap_or_default());
    r.set_senders(config.submission.senders.is_some().then_some(senders));
    r.set_access(access(&config.access, &mut problems));
    let srs = config.srs.as_ref();
    r.set_srs(srs.and_then(|srs| forwarding::read(srs, read_file(&srs.file), &mut problems)));
    check_domains(&r, d.rewrites.as_deref(), &addresses, &mut problems);
    check_postmaster(&r, config, &mut problems);
    if problems.fatal() { Err(problems) } else { Ok((r, problems)) }
}

fn load(
    path: &Path,
    kind: Kind,
    lists: &mut Lists,
    problems: &mut Problems,
) -> (Table<Targets>, Vec<(usize, Vec<u8>)>) {
    let text = content(path, problems);
    let mut include = |list: &str| {
        lists.insert(list.into());
        read_file(Path::new(list)).map_err(|e| e.to_string())
    };
    let Parsed { table, keys, bad } = map::parse_with(&text, kind, &mut include);
    tell_lines(path, bad, problems);
    (table, keys)
}

/// The access maps; none if no file is named.
fn access(files: &AccessFiles, problems: &mut Problems) -> Option<Access> {
    let AccessFiles { client, helo, sender, recipient } = files;
    [client, helo, sender, recipient].into_iter().flatten().next()?;
    let mut load = |path: &Option<PathBuf>, kind| {
        let Some(path) = path else { return access::Map::default() };
        let (map, bad) = access::parse(&content(path, problems), kind);
        tell_lines(path, bad, problems);
        map
    };
    Some(Access {
        client: load(client, access::Kind::Client),
        helo: load(helo, access::Kind::Helo),
        sender: load(sender, access::Kind::Mail),
        recipient: load(recipient, access::Kind::Mail),
    })
}

fn expressions(path: &Path, problems: &mut Problems) -> Rules {
    let (rules, bad) = rewrite::parse(&content(path, problems));
    tell_lines(path, bad, problems);
    rules
}

/// The bytes of a map; none, and an error, if it cannot be read.
fn content(path: &Path, problems: &mut Problems) -> Vec<u8> {
    read_file(path).unwrap_or_else(|e| {
        let what = format!("the map cannot be read: {e}");
        let (name, help) = (path.display().to_string(), "make it readable, or leave its key out");
        problems.0.push(Problem::of_file(Severity::Error, &name, None, what, help));
        Vec::new()
    })
}

/// Largest map or list, in bytes: some millions of addresses.
const FILE_MAX: u64 = 256 << 20;

/// A regular file as it is. Anything else could block, or have no end.
#[allow(clippy::disallowed_methods)] // maps are read by the composition root, never by a core
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let facts = std::fs::metadata(path)?;
    let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if !facts.is_file() {
        return refuse("not a regular file");
    }
    if facts.len() > FILE_MAX {
        return refuse("larger than 256 MiB");
    }
    std::fs::read(path)
}

fn tell_lines(path: &Path, bad: Vec<map::BadLine>, problems: &mut Problems) {
    let name = path.display().to_string();
    let bad = bad.into_iter().take(LINES_MAX);
    problems.0.extend(bad.map(|b| Problem::of_file(Severity::Error, &name, Some(b.line), b.message, "")));
}

/// Bad lines that are reported of one map.
const LINES_MAX: usize = 50;

fn check_domains(r: &Router, path: Option<&Path>, keys: &[(usize, Vec<u8>)], problems: &mut Problems) {
    let Some(path) = path else { return };
    let strange = keys.iter().filter(|(_, key)| {
        let domain = split(key).1;
        !domain.is_empty() && !r.is_local(domain) && !r.is_relay(domain)
    });
    for (line, key) in strange.take(LINES_MAX) {
        let what = format!(
            "the domain of {} is not ours: only clients that may relay can use it",
            key.escape_ascii()
        );
        let help = "add the domain to domains.local or domains.relay";
        problems.0.push(Problem::of_file(
            Severity::Warning,
            &path.display().to_string(),
            Some(*line),
            what,
            help,
        ));
    }
}

fn check_postmaster(r: &Router, config: &Config, problems: &mut Problems) {
    use crate::policy::access::{Client, Verdict, recipient};
    let Some(postmaster) = &config.domains.postmaster else { return };
    if let Verdict::Refuse(refusal) = recipient(r, Client::Trusted, postmaster.as_bytes()) {
        let what = format!("mail for domains.postmaster {postmaster:?} would be refused: {}", refusal.text);
        let help = "name an address with a route, or give it an alias";
        problems.0.push(Problem::of_file(Severity::Warning, &config.hostname, None, what, help));
    }
}

fn stamps(config: &Config, lists: &Lists) -> Stamps {
    let d = &config.domains;
    let maps = [
        &d.aliases,
        &d.rewrites,
        &d.relay_recipients,
        &d.rewrite_senders,
        &d.rewrite_recipients,
        &config.submission.senders,
        &config.access.client,
        &config.access.helo,
        &config.access.sender,
        &config.access.recipient,
    ];
    let secrets = config.srs.as_ref().map(|srs| &srs.file);
    stamps_of(maps.into_iter().flatten().chain(secrets).chain(lists))
}

fn stamps_of<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Stamps {
    let stamp = |p: &PathBuf| {
        let facts = std::fs::metadata(p).ok();
        (p.clone(), facts.and_then(|m| Some((m.modified().ok()?, m.len()))))
    };
    files.into_iter().map(stamp).collect()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests make files
mod tests {
    use super::*;
    use crate::policy::access::{Client, Verdict, recipient};

    #[test]
    fn maps_are_read_again_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let aliases = dir.path().join("aliases");
        std::fs::write(&aliases, "sales: a@out.example\n").unwrap();
        let text = format!(
            "[server]\nhostname = \"mx.home.example\"\n[relay]\nsmarthost = \"192.0.2.1\"\n[domains]\n\
             local = [\"home.example\"]\npostmaster = \"p@out.example\"\naliases = {:?}\n",
            aliases.display().to_string()
        );
        let (config, _) = Config::parse(&text, "t").unwrap();
        let (mut reloader, first, problems) = Reloader::start(Arc::new(config)).unwrap();
        assert_eq!(problems.0, []);
        let takes =
            |r: &Router| matches!(recipient(r, Client::Stranger, b"new@home.example"), Verdict::AcceptAs(_));
        assert!(!takes(&first));
        assert!(reloader.poll().is_none());
        std::fs::write(&aliases, "sales: a@out.example\nnew: b@out.example\n").unwrap();
        let (second, _) = reloader.poll().unwrap().unwrap();
        assert!(takes(&second) && !takes(&first));
        std::fs::write(&aliases, "broken:\n").unwrap();
        let problems = reloader.poll().unwrap().unwrap_err();
        assert_eq!((problems.0[0].at, problems.fatal()), (Some((1, 1)), true));
        assert!(reloader.poll().is_none());
        let list = dir.path().join("list");
        std::fs::write(&list, "a@out.example\n").unwrap();
        std::fs::write(&aliases, format!("new: :include:{}\n", list.display())).unwrap();
        let targets = |r: &Router| match recipient(r, Client::Stranger, b"new@home.example") {
            Verdict::AcceptAs(targets) => targets.len(),
            _ => 0,
        };
        assert_eq!(targets(&reloader.poll().unwrap().unwrap().0), 1);
        assert!(reloader.poll().is_none());
        std::fs::write(&list, "a@out.example\nb@out.example\n").unwrap();
        assert_eq!(targets(&reloader.poll().unwrap().unwrap().0), 2);
        std::fs::remove_file(&list).unwrap();
        let problems = reloader.poll().unwrap().unwrap_err();
        assert!(problems.0[0].message.contains("list cannot be read"), "{problems}");
        std::fs::remove_file(&aliases).unwrap();
        assert!(reloader.poll().unwrap().unwrap_err().0[0].message.contains("cannot be read"));
        // It comes back.
        std::fs::write(&aliases, "new: a@out.example\n").unwrap();
        assert_eq!(targets(&reloader.poll().unwrap().unwrap().0), 1);
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let huge = dir.path().join("huge");
        std::fs::File::create(&huge).unwrap().set_len(FILE_MAX + 1).unwrap();
        let said = |path: &Path| read_file(path).unwrap_err().to_string();
        assert!(said(Path::new("/dev/zero")).contains("not a regular file"));
        assert!(said(dir.path()).contains("not a regular file"));
        assert!(said(&huge).contains("larger"));
    }
}
