//! L5: the token that opens the HTTP interface over TCP.
//!
//! Owns the file's form: one line, 32 to 512 bytes that are printable ASCII without blanks. Keeps the digest
//! of the token only, and compares digests in constant time. A file that others may read, or that the group
//! may write, is refused. Nothing of a token is ever part of an error or an event.

#![allow(clippy::disallowed_methods, reason = "a file read once, at the start")]

use aws_lc_rs::constant_time::verify_slices_are_equal;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
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
}
