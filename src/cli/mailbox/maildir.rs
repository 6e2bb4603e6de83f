//! Maildirs as Dovecot and Courier keep them: folders (Maildir++), messages with their flags, and the lists
//! beside them.
//!
//! Reads names and lists, never content. What one folder has that cannot be understood is a note; a folder
//! that cannot be read is an error.

use super::Failure;
use super::lists::{self, UidList, base};
use super::source::{About, keyword};
use crate::base::time::Wall;
use crate::mailbox::name;
use crate::mailbox::types::{Flags, Guid};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A folder.
#[derive(Debug)]
pub struct Folder {
    /// Its name here.
    pub name: String,
    /// Where it is.
    pub dir: PathBuf,
}

/// What is in a folder: messages by UID, those without one last, by the time in their names.
#[derive(Debug, Default)]
pub struct Contents {
    /// Its UIDVALIDITY; 0: not known.
    pub uidvalidity: u32,
    /// The next UID; 0: not known.
    pub uidnext: u32,
    /// Messages, and their files.
    pub messages: Vec<(About, PathBuf)>,
    /// What could not be understood.
    pub notes: Vec<String>,
}

/// What UIDLs are made of that no list has: a format with `%u` (UID), `%v` (UIDVALIDITY) and `%f` (file name
/// without flags), numbers also as `%08Xu`, in hexadecimal digits.
#[derive(Clone, Debug)]
pub struct UidlFormat(pub String);

impl UidlFormat {
    /// The UIDL of a message.
    fn make(&self, uid: u32, uidvalidity: u32, file: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = self.0.bytes().peekable();
        while let Some(b) = rest.next() {
            if b != b'%' {
                out.push(b);
                continue;
            }
            let (mut zero, mut width, mut hex) = (false, 0usize, false);
            loop {
                match rest.next() {
                    Some(b'0') if width == 0 => zero = true,
                    Some(d @ b'0'..=b'9') => width = (width * 10 + usize::from(d - b'0')).min(32),
                    Some(b'X') => hex = true,
                    Some(letter @ (b'u' | b'v')) => {
                        let n = if letter == b'u' { uid } else { uidvalidity };
                        let digits = if hex { format!("{n:x}") } else { n.to_string() };
                        let fill = if zero { '0' } else { ' ' };
                        let missing = width.saturating_sub(digits.len());
                        (0..missing).for_each(|_| out.push(fill as u8));
                        out.extend_from_slice(digits.as_bytes());
                        break;
                    }
                    Some(b'f') => {
                        out.extend_from_slice(file);
                        break;
                    }
                    Some(other) => {
                        out.push(other);
                        break;
                    }
                    None => break,
                }
            }
        }
        out
    }
}

/// The folders of a Maildir, INBOX first.
pub fn folders(root: &Path) -> Result<Vec<Folder>, Failure> {
    let failed = |e| Failure::reading(root, &e);
    if let Err(e) = fs::metadata(root.join("cur")) {
        return Err(Failure::reading(&root.join("cur"), &e));
    }
    let mut folders = vec![Folder { name: name::INBOX.to_owned(), dir: root.to_owned() }];
    for entry in fs::read_dir(root).map_err(failed)? {
        let dir = entry.map_err(failed)?.path();
        let file = dir.file_name().map(OsStr::as_bytes).unwrap_or_default();
        let Some(levels) = file.strip_prefix(b".").filter(|l| !l.is_empty() && *l != b".") else { continue };
        if dir.join("cur").is_dir() {
            folders.push(Folder { name: folder_name(levels), dir });
        }
    }
    folders[1..].sort_by(|a, b| a.name.cmp(&b.name));
    // Two that would be called the same: each message must go somewhere of its own.
    for n in 1..folders.len() {
        while folders[..n].iter().any(|f| f.name == folders[n].name) {
            folders[n].name.push('_');
        }
    }
    Ok(folders)
}

/// The name of a folder: levels with dots between them, in modified UTF-7 or UTF-8.
#[must_use]
pub fn folder_name(levels: &[u8]) -> String {
    let level = |bytes: &[u8]| {
        // What an export writes for a dot within a level.
        let text = String::from_utf8_lossy(bytes).replace("&AC4-", "&-AC4-");
        let decoded = name::from_utf7(text.as_bytes()).unwrap_or(text).replace("&AC4-", ".");
        let odd = |c: char| c.is_control() || matches!(c, '/' | '*' | '%' | '\u{2028}' | '\u{2029}');
        let name: String = decoded.chars().map(|c| if odd(c) { '_' } else { c }).collect();
        if name.is_empty() { "_".to_owned() } else { name }
    };
    let joined = levels.split(|b| *b == b'.').map(level).collect::<Vec<_>>().join("/");
    let name = name::canonical(&joined).unwrap_or_else(|| {
        let hash: String = Sha256::digest(levels)[..8].iter().map(|b| format!("{b:02x}")).collect();
        format!("folder-{hash}")
    });
    // The Maildir itself is INBOX.
    if name == name::INBOX { "INBOX_".to_owned() } else { name }
}

/// Names that are subscribed.
pub fn subscriptions(root: &Path) -> Vec<String> {
    let text = ["subscriptions", "courierimapsubscribed"].iter().find_map(|f| fs::read(root.join(f)).ok());
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let named = |n: &String| match n.eq_ignore_ascii_case(name::INBOX) {
        true => name::INBOX.to_owned(),
        false => folder_name(n.as_bytes()),
    };
    lists::subscriptions(&text).iter().map(named).collect()
}

/// The lists beside the messages of a folder.
struct Lists {
    uids: UidList,
    uidls: BTreeMap<Vec<u8>, Vec<u8>>,
    letters: BTreeMap<usize, String>,
    keywords: BTreeMap<Vec<u8>, Vec<String>>,
    /// The list of UIDs is Dovecot's, which makes UIDLs of UIDs.
    dovecot: bool,
}

fn optional(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::reading(path, &e)),
    }
}

fn read_lists(dir: &Path, notes: &mut Vec<String>) -> Result<Lists, Failure> {
    let mut found = None;
    for file in ["dovecot-uidlist", "courierimapuiddb"] {
        let path = dir.join(file);
        let Some(text) = optional(&path)? else { continue };
        match lists::uid_list(&text) {
            Some(list) if found.is_none() => found = Some((list, file.starts_with('d'))),
            Some(_) => {}
            None => notes.push(format!("{}: not a list of UIDs", path.display())),
        }
    }
    let (uids, dovecot) = found.unwrap_or_default();
    let courier = optional(&dir.join("courierpop3dsizelist"))?.unwrap_or_default();
    let (uidls, bad) = lists::courier_uidls(&courier);
    if bad + uids.bad > 0 {
        notes.push(format!("{}: {} lines of lists cannot be understood", dir.display(), bad + uids.bad));
    }
    let text = |file: &str| -> Result<String, Failure> {
        let bytes = optional(&dir.join(file))?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let letters = lists::keywords(&text("dovecot-keywords")?);
    let keywords = lists::courier_keywords(&text("courierimapkeywords/:list")?);
    Ok(Lists { uids, uidls, letters, keywords, dovecot })
}

/// What is in a folder. `inbox`: it is the maildrop, so UIDLs count; those that no list has are of `format`.
pub fn contents(dir: &Path, inbox: bool, format: Option<&UidlFormat>) -> Result<Contents, Failure> {
    let mut out = Contents::default();
    let lists = read_lists(dir, &mut out.notes)?;
    (out.uidvalidity, out.uidnext) = (lists.uids.uidvalidity, lists.uids.uidnext);
    for part in ["cur", "new"] {
        let folder = dir.join(part);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound && part == "new" => continue,
            Err(e) => return Err(Failure::reading(&folder, &e)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| Failure::reading(&folder, &e))?;
            let file = entry.file_name();
            if file.as_bytes().starts_with(b".") {
                continue;
            }
            match entry.metadata() {
                Ok(m) if m.is_file() => {
                    let about = message(file.as_bytes(), &m, &lists, (inbox, format));
                    out.messages.push((about, entry.path()));
                }
                Ok(_) => {}
                // It was moved by a program that still runs; then it is seen elsewhere, or next time.
                Err(e) => out.notes.push(format!("{}: {e}", entry.path().display())),
            }
        }
    }
    let order = |(about, path): &(About, PathBuf)| {
        let file = path.file_name().map(|f| base(f.as_bytes()).to_vec()).unwrap_or_default();
        let time = file.split(|b| !b.is_ascii_digit()).next().unwrap_or_default();
        let time: u64 = std::str::from_utf8(time).ok().and_then(|t| t.parse().ok()).unwrap_or(u64::MAX);
        (about.uid == 0, about.uid, time, file)
    };
    out.messages.sort_by_cached_key(order);
    if out.uidvalidity == 0 {
        out.messages.iter_mut().for_each(|m| m.0.uid = 0);
    }
    Ok(out)
}

fn message(
    file: &[u8],
    meta: &fs::Metadata,
    lists: &Lists,
    (inbox, format): (bool, Option<&UidlFormat>),
) -> About {
    let name = base(file);
    let known = lists.uids.files.get(name);
    let uid = known.map_or(0, |k| k.uid);
    let (flags, mut keywords) = flags(file, &lists.letters);
    keywords.extend(lists.keywords.get(name).into_iter().flatten().filter_map(|k| keyword(k)));
    keywords.dedup();
    let mut uidl = Vec::new();
    if inbox {
        let listed = known.map(|k| k.uidl.clone()).filter(|u| !u.is_empty());
        let default = UidlFormat("%08Xu%08Xv".to_owned());
        let made = || {
            let format = format.or((lists.dovecot && uid != 0).then_some(&default))?;
            Some(format.make(uid, lists.uids.uidvalidity, name))
        };
        let found = listed.or_else(|| lists.uidls.get(name).cloned()).or_else(made);
        uidl = found.filter(|u| lists::is_uidl(u)).unwrap_or_default();
    }
    About {
        uid,
        uidl,
        guid: Some(known.and_then(|k| k.guid).unwrap_or_else(|| guid_of(name))),
        flags,
        keywords,
        internal: Wall(u64::try_from(meta.mtime()).unwrap_or(0) * 1000),
        saved: Some(Wall(u64::try_from(meta.ctime()).unwrap_or(0) * 1000)),
    }
}

/// A GUID of what is unique by itself.
pub fn guid_of(name: &[u8]) -> Guid {
    let mut guid = [0; 16];
    guid.copy_from_slice(&Sha256::digest(name)[..16]);
    Guid(guid)
}

/// Flags and keywords in the name of a file.
fn flags(file: &[u8], letters: &BTreeMap<usize, String>) -> (Flags, Vec<String>) {
    let (mut flags, mut keywords) = (Flags::default(), Vec::new());
    let Some(at) = memchr::memmem::find(file, b":2,") else { return (flags, keywords) };
    for letter in file[at + 3..].iter().take_while(|b| **b != b',') {
        flags = flags.with(match letter {
            b'D' => Flags::DRAFT,
            b'F' => Flags::FLAGGED,
            b'R' => Flags::ANSWERED,
            b'S' => Flags::SEEN,
            b'T' => Flags::DELETED,
            b'P' => {
                // Passed on: what mail programs call so.
                keywords.push("$Forwarded".to_owned());
                Flags::default()
            }
            b'a'..=b'z' => {
                let name = letters.get(&usize::from(letter - b'a'));
                keywords.extend(name.and_then(|name| keyword(name)));
                Flags::default()
            }
            _ => Flags::default(),
        });
    }
    (flags, keywords)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders() {
        for (file, name) in [
            (&b"Sent"[..], "Sent"),
            (b"A.B &AOQ-", "A/B \u{e4}"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
            (b"a/b.c*", "a_b/c_"),
            (b"v1&AC4-0.x", "v1.0/x"),
            (b"inbox", "INBOX_"),
            (b"a..b", "a/_/b"),
            (b"&bad", "&bad"),
        ] {
            assert_eq!(folder_name(file), name);
        }
        assert!(folder_name(&b"x.".repeat(60)).starts_with("folder-"));
    }

    #[test]
    fn uidls_by_a_format() {
        let make = |format: &str| {
            String::from_utf8(UidlFormat(format.to_owned()).make(26, 0x5001, b"1.a")).expect("ASCII")
        };
        assert_eq!(make("%08Xu%08Xv"), "0000001a00005001");
        assert_eq!(
            (make("%v.%u"), make("%f"), make("x%%%"), make("%4u")),
            ("20481.26".into(), "1.a".into(), "x%".into(), "  26".into())
        );
    }

    #[test]
    fn flags_in_names() {
        let letters = BTreeMap::from([(0, "work".to_owned()), (2, "bad (".to_owned())]);
        let (f, k) = flags(b"1.a:2,FSab,x", &letters);
        assert_eq!((f, k), (Flags::SEEN.with(Flags::FLAGGED), vec!["work".to_owned()]));
        assert_eq!(flags(b"1.a:2,PDTRc", &letters).1, ["$Forwarded"]);
        assert_eq!(flags(b"1.aS", &letters), (Flags::default(), vec![]));
    }
}
