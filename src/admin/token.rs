//! L5: the token that opens the HTTP interface over TCP.
//!
//! Owns the file's form: one line, 32 to 512 bytes that are printable ASCII without blanks. Keeps the digest
//! of the token only, and compares digests in constant time. A file that others may read, or that the group
//! may write, is refused; if it becomes so while the server runs, the token that was read last stays good.
//! Nothing of a token is ever part of an error or an event.

#![allow(clippy::disallowed_methods, reason = "a file read at the start, and when it has changed")]

use aws_lc_rs::constant_time::verify_slices_are_equal;
use sha2::{Digest, Sha256};
use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Bytes of a token.
const LONG: std::ops::RangeInclusive<usize> = 32..=512;

/// Knows a token when it is shown.
pub struct Token([u8; 32]);

impl Token {
    /// That of the file.
    ///
    /// # Errors
    /// It cannot be read, has too many rights, or holds no token; the text names the file.
    pub fn read(path: &Path) -> Result<Token, String> {
        let name = path.display();
        let cannot = |e: std::io::Error| format!("{name}: {e}");
        let file = File::open(path).map_err(cannot)?;
        let mode = file.metadata().map_err(cannot)?.permissions().mode();
        if mode & 0o027 != 0 {
            return Err(format!(
                "{name} has mode {:04o}: others may read it, or the group may write it; chmod 0640",
                mode & 0o7777
            ));
        }
        let mut text = Zeroizing::new(Vec::with_capacity(*LONG.end() + 2));
        file.take(*LONG.end() as u64 + 2).read_to_end(&mut text).map_err(cannot)?;
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        if !LONG.contains(&line.len()) || !line.iter().all(u8::is_ascii_graphic) {
            let (least, most) = (LONG.start(), LONG.end());
            return Err(format!(
                "{name}: one line of {least} to {most} printable characters without blanks is needed, \
                 such as from `openssl rand -hex 32`"
            ));
        }
        Ok(Token(Sha256::digest(line).into()))
    }

    /// True if `header`, the value of Authorization, shows it (RFC 6750 §2.1; RFC 9110 §11.1: the name of a
    /// scheme in any case).
    #[must_use]
    pub fn is_shown(&self, header: &[u8]) -> bool {
        let Some((scheme, shown)) = header.split_at_checked(7) else { return false };
        let digest: [u8; 32] = Sha256::digest(shown.trim_ascii()).into();
        scheme.eq_ignore_ascii_case(b"bearer ") && verify_slices_are_equal(&self.0, &digest).is_ok()
    }
}

/// What a file looks like: inode, length, and when what it is has changed, its rights among that.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let facts = fs::metadata(path).ok()?;
    Some((facts.ino(), facts.len(), facts.ctime(), facts.ctime_nsec()))
}

/// The token that is good now: that of the file, which may change.
pub struct Gate {
    path: PathBuf,
    token: RefCell<Token>,
    stamp: Cell<Stamp>,
}

impl Gate {
    /// With the token of the file.
    ///
    /// # Errors
    /// As [`Token::read`].
    pub fn open(path: &Path) -> Result<Gate, String> {
        // A change while it is read is seen afterwards.
        let stamp = Cell::new(stamp(path));
        Ok(Gate { path: path.to_owned(), token: RefCell::new(Token::read(path)?), stamp })
    }

    /// Reads the file anew if it has changed. `Some`: there is another token, or the file is wrong, and the
    /// old one stays good.
    pub fn poll(&self) -> Option<Result<(), String>> {
        let now = stamp(&self.path);
        if self.stamp.replace(now) == now {
            return None;
        }
        match Token::read(&self.path) {
            Ok(token) if token.0 == self.token.borrow().0 => None,
            Ok(token) => {
                *self.token.borrow_mut() = token;
                Some(Ok(()))
            }
            Err(text) => Some(Err(text)),
        }
    }

    /// As [`Token::is_shown`].
    #[must_use]
    pub fn is_shown(&self, header: &[u8]) -> bool {
        self.token.borrow().is_shown(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};

    #[test]
    fn rights_form_and_comparison() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        let secret = "0123456789abcdefghijklmnopqrstuv";
        let with = |text: &str, mode: u32| {
            let _ = fs::remove_file(&path);
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
            Token::read(&path)
        };
        let token = with(&format!("{secret}\n"), 0o640).expect("good");
        for (header, good) in [
            (format!("Bearer {secret}"), true),
            (format!("bearer  {secret} "), true),
            (format!("Bearer {secret}x"), false),
            (format!("Bearer {}", &secret[1..]), false),
            (format!("Basic {secret}"), false),
            (secret.to_owned(), false),
            ("Bearer".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(token.is_shown(header.as_bytes()), good, "{header}");
        }
        for mode in [0o644, 0o660, 0o604, 0o602] {
            let e = with(secret, mode).err().expect("refused");
            assert!(e.contains("chmod") && !e.contains(secret), "{e}");
        }
        for bad in ["short", &secret.replace('a', " "), &secret.repeat(20), &format!("{secret}\n\n"), ""] {
            let e = with(bad, 0o600).err().expect("refused");
            assert!(bad.is_empty() || !e.contains(bad), "{e}");
        }
        assert!(Token::read(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_changed_file_counts_and_a_wrong_one_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        let put = |text: &str, mode: u32| {
            let new = dir.path().join("new");
            fs::write(&new, text).expect("written");
            fs::set_permissions(&new, Permissions::from_mode(mode)).expect("set");
            fs::rename(&new, &path).expect("moved");
        };
        let (old, new) = ("o".repeat(32), "n".repeat(32));
        let good = |gate: &Gate, token: &str| gate.is_shown(format!("Bearer {token}").as_bytes());
        put(&old, 0o600);
        let gate = Gate::open(&path).expect("good");
        assert!(gate.poll().is_none() && good(&gate, &old));
        for (text, mode) in [("short", 0o600), (&*new, 0o644)] {
            put(text, mode);
            let e = gate.poll().and_then(Result::err).expect("refused");
            assert!(!e.contains(text) && good(&gate, &old) && !good(&gate, &new), "{e}");
            assert!(gate.poll().is_none(), "said once");
        }
        fs::remove_file(&path).expect("removed");
        assert!(gate.poll().is_some_and(|r| r.is_err()) && good(&gate, &old));
        put(&new, 0o600);
        assert_eq!(gate.poll(), Some(Ok(())));
        assert!(good(&gate, &new) && !good(&gate, &old));
        put(&new, 0o640);
        assert!(gate.poll().is_none() && good(&gate, &new), "the same one");
    }
}
