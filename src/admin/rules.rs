//! L5: the operators' rules of which destinations are not sent to, kept in a file over restarts.
//!
//! Owns the file `suspended.json` of the data directory and the numbers of rules; hands the rules to the
//! queues. Runs on the control thread. A file that cannot be read ends the start: mail that was to be kept
//! must not go out because of it. A change that cannot be written is not made.

use super::kept;
use crate::base::time::Wall;
use crate::queue::rules::{RULES_MAX, Rule};
use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file in the data directory.
const NAME: &str = "suspended.json";
/// Bytes of a text of an operator.
const TEXT_MAX: usize = 500;

/// The rules there are.
pub struct Book {
    path: PathBuf,
    rules: RefCell<Vec<Rule>>,
}

/// What an operator asks for.
pub struct New<'a> {
    /// See [`Rule::what`].
    pub what: &'a str,
    /// See [`Rule::reason`].
    pub reason: &'a str,
    /// See [`Rule::by`].
    pub by: &'a str,
    /// Seconds for which it holds; none: until it is taken back.
    pub seconds: Option<u64>,
}

impl Book {
    /// The rules of the last run, of this data directory.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn open(data_dir: &Path) -> io::Result<Book> {
        let path = data_dir.join(NAME);
        let rules = kept::read(&path, "resume all")?;
        Ok(Book { path, rules: RefCell::new(rules) })
    }

    /// Those that hold at `wall`.
    #[must_use]
    pub fn rules(&self, wall: Wall) -> Vec<Rule> {
        self.rules.borrow().iter().filter(|r| r.holds(wall)).cloned().collect()
    }

    /// One more; gives it.
    ///
    /// # Errors
    /// There are too many, or the file cannot be written.
    pub fn add(&self, new: &New<'_>, wall: Wall) -> io::Result<Rule> {
        let mut rules = self.rules(wall);
        let too_long = [new.what, new.reason].iter().any(|text| text.len() > TEXT_MAX);
        if new.what.is_empty() || too_long {
            let text = format!("a name of 1 to {TEXT_MAX} bytes is needed, and no longer reason");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if rules.len() >= RULES_MAX {
            let text = format!("there are {RULES_MAX} rules already");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let until = new.seconds.map(|s| wall.0.saturating_add(s.saturating_mul(1000)));
        let rule = Rule {
            number: self.rules.borrow().iter().map(|r| r.number).max().unwrap_or(0) + 1,
            what: new.what.into(),
            reason: new.reason.into(),
            by: new.by.into(),
            since: wall.0,
            until,
        };
        rules.push(rule.clone());
        self.replace(rules)?;
        Ok(rule)
    }

    /// Takes back the rule with this number, or all with exactly this name; gives how many.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn remove(&self, which: &str, wall: Wall) -> io::Result<usize> {
        let mut rules = self.rules(wall);
        let before = rules.len();
        let number = which.parse::<u32>().ok();
        rules.retain(|r| Some(r.number) != number && !r.what.eq_ignore_ascii_case(which));
        let removed = before - rules.len();
        if removed > 0 {
            self.replace(rules)?;
        }
        Ok(removed)
    }

    fn replace(&self, rules: Vec<Rule>) -> io::Result<()> {
        kept::write(&self.path, &rules)?;
        self.rules.replace(rules);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests write files")]
    use super::*;
    use std::fs;

    #[test]
    fn rules_outlast_a_restart_and_end_in_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let book = Book::open(dir.path()).expect("no file is no rules");
        let new = |what, seconds| New { what, reason: "why", by: "me", seconds };
        let first = book.add(&new("a.example", None), Wall(1000)).expect("written");
        let second = book.add(&new("*.b", Some(5)), Wall(1000)).expect("written");
        assert_eq!((first.number, second.number, second.until), (1, 2, Some(6000)));
        let book = Book::open(dir.path()).expect("a good file");
        assert_eq!(book.rules(Wall(5999)), [first.clone(), second]);
        assert_eq!(book.rules(Wall(6000)), [first]);
        assert_eq!(
            (book.remove("A.example", Wall(7000)).ok(), book.remove("9", Wall(7000)).ok()),
            (Some(1), Some(0))
        );
        assert!(Book::open(dir.path()).expect("a good file").rules(Wall(0)).is_empty());
        assert!(book.add(&new("", None), Wall(1)).is_err());
        fs::write(dir.path().join(NAME), "x").expect("written");
        assert!(Book::open(dir.path()).is_err());
    }
}
