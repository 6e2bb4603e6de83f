//! Changes of the password file: under a lock, as a whole, with its mode and owner.
//!
//! The new text is written beside the file, made durable, and put in its place, so that a server that
//! reads meanwhile sees the old or the new one. Other lines stay as they are, also those that cannot be
//! used. Errors leave the old file in place.
#![allow(clippy::disallowed_methods, reason = "a program for operators reads and writes files")]

use crate::auth::passwd;
use crate::auth::prepare;
use crate::runtime::privileges;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What to do with a user.
#[derive(Debug)]
pub enum Change<'a> {
    /// A new line with this password field.
    Add(&'a str),
    /// Another password field; the rest of the line stays.
    Set(&'a str),
    /// The line goes.
    Remove,
}

/// The password file.
#[derive(Debug)]
pub struct UsersFile {
    path: PathBuf,
    /// Whose group may read a new file, if root makes it.
    reader: Option<String>,
}

impl UsersFile {
    /// The file at `path`, or where that leads; the server runs as `reader`.
    pub fn new(path: &Path, reader: Option<&str>) -> Self {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        UsersFile { path, reader: reader.map(str::to_owned) }
    }

    /// Its text.
    pub fn read(&self) -> io::Result<Zeroizing<String>> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", self.path.display()));
        fs::read_to_string(&self.path).map(Zeroizing::new).map_err(named)
    }

    /// Changes the line of `login`, which has been prepared. False: there is no such user, or, to be
    /// added, there is.
    pub fn change(&self, login: &str, change: &Change<'_>) -> io::Result<bool> {
        let _lock = self.lock()?;
        let text = match (self.read(), change) {
            (Err(e), Change::Add(_)) if e.kind() == io::ErrorKind::NotFound => Zeroizing::default(),
            (text, _) => text?,
        };
        match edited(&text, login, change) {
            Some(new) => self.replace(&new).map(|()| true),
            None => Ok(false),
        }
    }

    /// Held by whoever changes the file, until dropped.
    fn lock(&self) -> io::Result<File> {
        let path = self.beside(".lock");
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        file.lock()?;
        Ok(file)
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(ending);
        name.into()
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.beside(".new");
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        self.dress(&file)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }

    /// Mode and owner of the old file; or, of a first one, such that the server can read it.
    fn dress(&self, file: &File) -> io::Result<()> {
        let own = file.metadata()?;
        if let Ok(old) = fs::metadata(&self.path) {
            if (old.uid(), old.gid()) != (own.uid(), own.gid()) {
                fchown(file, Some(old.uid()), Some(old.gid()))?;
            }
            return file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777));
        }
        let reader = self.reader.as_deref().filter(|_| privileges::is_root());
        if let Some(user) = reader.and_then(|name| privileges::user(name).ok()) {
            fchown(file, None, Some(user.gid))?;
            file.set_permissions(fs::Permissions::from_mode(0o640))?;
        }
        Ok(())
    }
}

/// The text with the change; `None`: see [`UsersFile::change`].
fn edited(text: &str, login: &str, change: &Change<'_>) -> Option<Zeroizing<String>> {
    // Room beforehand: a text that moves while it grows would leave pieces behind.
    let mut new = Zeroizing::new(String::with_capacity(text.len() + 8192));
    let mut found = false;
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches(['\r', '\n']);
        let is_it = |l: &str| !found && prepare::login(l).as_deref() == Some(login);
        match passwd::split(bare) {
            Some(Ok((name, field, _))) if is_it(name) => {
                found = true;
                if let Change::Set(with) = change {
                    let rest = &line[name.len() + 1 + field.len()..];
                    *new += &format!("{name}:{with}{rest}");
                }
            }
            _ => *new += line,
        }
    }
    match change {
        Change::Add(field) if !found => {
            if !new.is_empty() && !new.ends_with('\n') {
                new.push('\n');
            }
            *new += &format!("{login}:{field}\n");
            Some(new)
        }
        Change::Add(_) => None,
        Change::Set(_) | Change::Remove => found.then_some(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# all of us\nann:{PLAIN}x:1000:1000::/home/ann\r\nbroken\nBob:{PLAIN}y";

    #[test]
    fn other_lines_stay() {
        let edit = |login: &str, change: &Change<'_>| edited(TEXT, login, change).map(|t| t.to_string());
        assert_eq!(edit("ann", &Change::Set("{Z}")).unwrap(), TEXT.replace("{PLAIN}x", "{Z}"));
        assert_eq!(edit("bob", &Change::Set("{Z}")).unwrap(), TEXT.replace("{PLAIN}y", "{Z}"));
        assert_eq!(edit("bob", &Change::Remove).unwrap(), TEXT.replace("Bob:{PLAIN}y", ""));
        assert_eq!(edit("eve", &Change::Add("{Z}")).unwrap(), format!("{TEXT}\neve:{{Z}}\n"));
        assert_eq!(edit("ann", &Change::Add("{Z}")), None);
        assert_eq!((edit("eve", &Change::Set("{Z}")), edit("eve", &Change::Remove)), (None, None));
    }

    #[test]
    fn replaced_as_a_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let file = UsersFile::new(&path, None);
        assert!(file.change("ann", &Change::Set("{PLAIN}x")).is_err(), "there is no file");
        assert!(file.change("ann", &Change::Add("{PLAIN}x")).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(UsersFile::new(&link, None).change("bob", &Change::Add("{PLAIN}y")).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(*file.read().unwrap(), "ann:{PLAIN}x\nbob:{PLAIN}y\n");
        assert!(!path.with_extension("new").exists());
    }
}
