//! What is wrong with a file, where, and what to do: file:line:column, the key, the line with a
//! caret, a suggestion.
//!
//! Owns positions and wording. Knows no key by name: the shape of the file comes as a table, rules
//! between keys report by path (`limits.recipients`, `listener.0.address`). All problems of a file
//! are found in one run.

use super::raw::Raw;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// How bad a problem is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Good to know.
    Note,
    /// Probably not what is meant.
    Warning,
    /// The file cannot be used.
    Error,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// One problem of one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// Name of the file.
    pub file: String,
    /// Line and column, from 1 (columns count characters); `None`: the file as a whole.
    pub at: Option<(usize, usize)>,
    /// The key, as `section.key`; empty if it is no key's.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub help: String,
    /// The line of the file and how many characters of it are meant.
    pub excerpt: Option<(String, usize)>,
}

impl Problem {
    /// A problem of line `line` of a file without keys (a map), or of the whole file.
    #[must_use]
    pub fn of_file(severity: Severity, file: &str, line: Option<usize>, message: String, help: &str) -> Self {
        Problem {
            severity,
            file: file.into(),
            at: line.map(|l| (l, 1)),
            key: String::new(),
            message,
            help: help.into(),
            excerpt: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}: ", self.severity.word())?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let (Some((line, column)), Some((text, width))) = (self.at, &self.excerpt) {
            let gutter = line.to_string().len();
            write!(f, "\n {line} | {text}")?;
            let pad: String =
                text.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "\n {:gutter$} | {pad}{}", "", "^".repeat((*width).max(1)))?;
        }
        if !self.help.is_empty() {
            write!(f, "\n   = {}", self.help)?;
        }
        Ok(())
    }
}

/// All problems of a run; `Display` prints one after the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// True if one is an error.
    #[must_use]
    pub fn fatal(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// How many are of this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.0.iter().filter(|p| p.severity == severity).count()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|p| writeln!(f, "{p}"))
    }
}

impl std::error::Error for Problems {}

/// Collects the problems of one file.
pub struct Report<'a> {
    name: &'a str,
    text: &'a str,
    /// Key and value of each path.
    places: BTreeMap<String, (Range<usize>, Range<usize>)>,
    problems: Vec<Problem>,
}

impl<'a> Report<'a> {
    /// Reads `text`, the content of the file `name`. What cannot be read keeps its default and is
    /// reported.
    #[must_use]
    pub fn read(name: &'a str, text: &'a str) -> (Raw, Self) {
        let mut report = Report { name, text, places: BTreeMap::new(), problems: Vec::new() };
        let (mut table, errors) = DeTable::parse_recoverable(text);
        for e in errors {
            report.push(Severity::Error, e.span(), "", e.message().into(), "this is not TOML");
        }
        if !report.problems.is_empty() {
            return (Raw::default(), report);
        }
        report.note_places("", table.get_ref());
        let shape = toml::Value::try_from(Raw::shape()).expect("the defaults can be written");
        let shape = shape.as_table().expect("a file is a table");
        report.remove_unknown("", table.get_mut(), shape, shape);
        // One value that cannot be read hides the next, so each is taken out in turn.
        for _ in 0..MAX_PROBLEMS {
            match Raw::deserialize(toml::Deserializer::from(table.clone())) {
                Ok(raw) => return (raw, report),
                Err(e) => {
                    let Some(path) = report.unreadable(&e) else { break };
                    if !remove(table.get_mut(), &path) {
                        break;
                    }
                }
            }
        }
        (Raw::default(), report)
    }

    /// Reports a problem of the value at `path`, or of the innermost part of it that is written.
    pub fn add(&mut self, severity: Severity, path: &str, message: impl Into<String>, help: &str) {
        let mut at = path;
        let span = loop {
            if let Some((key, value)) = self.places.get(at) {
                // Of a table, its name is shown; of anything else, the value.
                break Some(if self.text[value.clone()].contains('\n') {
                    key.clone()
                } else {
                    value.clone()
                });
            }
            match at.rsplit_once('.') {
                Some((outer, _)) => at = outer,
                None => break None,
            }
        };
        self.push(severity, span, path, message.into(), help);
    }

    /// Reports an error.
    pub fn error(&mut self, path: &str, message: impl Into<String>, help: &str) {
        self.add(Severity::Error, path, message, help);
    }

    /// Reports a warning.
    pub fn warning(&mut self, path: &str, message: impl Into<String>, help: &str) {
        self.add(Severity::Warning, path, message, help);
    }

    /// True if `path` is written in the file.
    #[must_use]
    pub fn is_written(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    /// All that was found, in the order of the file.
    #[must_use]
    pub fn finish(mut self) -> Problems {
        self.problems.sort_by_key(|p| (p.at.is_none(), p.at));
        Problems(self.problems)
    }

    fn push(
        &mut self,
        severity: Severity,
        span: Option<Range<usize>>,
        path: &str,
        message: String,
        help: &str,
    ) {
        let mut problem = Problem::of_file(severity, self.name, None, message, help);
        problem.key = readable(path);
        if let Some(span) = span {
            let start = span.start.min(self.text.len());
            let line_start = self.text[..start].rfind('\n').map_or(0, |n| n + 1);
            let line = self.text[line_start..].lines().next().unwrap_or("");
            let number = self.text[..line_start].matches('\n').count() + 1;
            let column = self.text[line_start..start].chars().count();
            let end = span.end.clamp(start, line_start + line.len().max(start - line_start));
            let width = self.text[start..end].chars().count();
            problem.at = Some((number, column + 1));
            problem.excerpt = Some((line.chars().take(COLUMNS).collect(), width.min(COLUMNS)));
        }
        self.problems.push(problem);
    }

    fn note_places(&mut self, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let here = join(path, key.get_ref());
            self.note_place(&here, key.span(), value);
        }
    }

    fn note_place(&mut self, here: &str, key: Range<usize>, value: &toml::Spanned<DeValue<'_>>) {
        self.places.insert(here.into(), (key.clone(), value.span()));
        match value.get_ref() {
            DeValue::Table(t) => self.note_places(here, t),
            DeValue::Array(a) => {
                for (n, item) in a.iter().enumerate() {
                    // A table in a list is known by its `[[header]]`, which is where its span starts.
                    self.note_place(&join(here, &n.to_string()), first_line(self.text, item.span()), item);
                }
            }
            _ => {}
        }
    }

    /// Reports keys that are not in `shape` and takes them out.
    fn remove_unknown(
        &mut self,
        path: &str,
        table: &mut DeTable<'_>,
        shape: &toml::Table,
        whole: &toml::Table,
    ) {
        for (key, mut value) in std::mem::take(table) {
            let here = join(path, key.get_ref());
            match (shape.get(&**key.get_ref()), value.get_mut()) {
                (None, _) => {
                    let help = suggest_key(key.get_ref(), path, shape, whole);
                    let what = if path.is_empty() { "unknown section" } else { "unknown key" };
                    self.push(Severity::Error, Some(key.span()), &here, what.into(), &help);
                    continue;
                }
                (Some(toml::Value::Table(inner)), DeValue::Table(t)) => {
                    self.remove_unknown(&here, t, inner, whole)
                }
                (Some(toml::Value::Array(list)), DeValue::Array(items)) => {
                    let inner = list.first().and_then(toml::Value::as_table);
                    for (n, item) in items.iter_mut().enumerate() {
                        if let (DeValue::Table(t), Some(inner)) = (item.get_mut(), inner) {
                            self.remove_unknown(&join(&here, &n.to_string()), t, inner, whole);
                        }
                    }
                }
                _ => {}
            }
            table.insert(key, value);
        }
    }

    /// Reports a value that could not be read; its path.
    fn unreadable(&mut self, e: &toml::de::Error) -> Option<String> {
        let span = e.span();
        let path = span.as_ref().and_then(|s| {
            let inside = |r: &Range<usize>| r.start <= s.start && s.end <= r.end;
            let fits = self.places.iter().filter(|(_, (_, value))| inside(value));
            fits.min_by_key(|(p, (_, v))| (v.len(), p.len())).map(|(p, _)| p.clone())
        });
        let message = e.message();
        let help = suggest_variant(message).unwrap_or_default();
        self.push(Severity::Error, span, path.as_deref().unwrap_or(""), message.replace('`', "\""), &help);
        path
    }
}

const MAX_PROBLEMS: usize = 50;
const COLUMNS: usize = 160;

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

/// `listener.0.address` as people count: `listener[1].address`.
fn readable(path: &str) -> String {
    let mut out = String::new();
    for part in path.split('.') {
        if let Ok(n) = part.parse::<usize>() {
            out.push_str(&format!("[{}]", n + 1));
        } else {
            out.push_str(if out.is_empty() { "" } else { "." });
            out.push_str(part);
        }
    }
    out
}

fn first_line(text: &str, span: Range<usize>) -> Range<usize> {
    let line = text[span.clone()].find('\n').map_or(span.end, |n| span.start + n);
    span.start..line
}

/// Takes the value at `path` out; of a list item, the whole list. False if nothing was there.
fn remove(table: &mut DeTable<'_>, path: &str) -> bool {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    if rest.is_empty() {
        return table.remove(first).is_some();
    }
    let (index, inner) = rest.split_once('.').unwrap_or((rest, ""));
    match table.get_mut(first).map(toml::Spanned::get_mut) {
        Some(DeValue::Table(t)) => remove(t, rest),
        Some(DeValue::Array(a)) => match index.parse::<usize>().ok().and_then(|n| a.get_mut(n)) {
            Some(item) if !inner.is_empty() => match item.get_mut() {
                DeValue::Table(t) => remove(t, inner),
                _ => false,
            },
            _ => table.remove(first).is_some(),
        },
        _ => false,
    }
}

fn suggest_key(key: &str, path: &str, shape: &toml::Table, whole: &toml::Table) -> String {
    if let Some(near) = nearest(key, shape.keys().map(String::as_str)) {
        return format!("is {near:?} meant?");
    }
    let elsewhere: Vec<String> = whole
        .iter()
        .filter(|(name, section)| *name != path && section.as_table().is_some_and(|t| t.contains_key(key)))
        .map(|(name, _)| format!("[{name}]"))
        .collect();
    if !elsewhere.is_empty() {
        return format!("{key:?} belongs into {}", elsewhere.join(" or "));
    }
    let known: Vec<&str> = shape.keys().map(String::as_str).collect();
    format!("known here: {}", known.join(", "))
}

/// From "unknown variant `x`, expected one of `a`, `b`": the nearest.
fn suggest_variant(message: &str) -> Option<String> {
    let mut quoted = message.strip_prefix("unknown variant ")?.split('`').skip(1).step_by(2);
    let given = quoted.next()?;
    nearest(given, quoted).map(|near| format!("is {near:?} meant?"))
}

/// The nearest of `known` to `word`, if near enough to be a slip.
fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let far = 1 + word.chars().count() / 3;
    known.map(|k| (distance(word, k), k)).filter(|(d, _)| *d <= far).min_by_key(|(d, _)| *d).map(|(_, k)| k)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(COLUMNS).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<Problem> {
        Report::read("t.toml", text).1.finish().0
    }

    #[test]
    fn unknown_key_has_place_and_suggestion() {
        let p = problems("[queue]\n  lifetme = \"5d\"\n");
        assert_eq!(p.len(), 1);
        assert_eq!((p[0].at, p[0].key.as_str()), (Some((2, 3)), "queue.lifetme"));
        assert_eq!(
            p[0].to_string(),
            "t.toml:2:3: error: queue.lifetme: unknown key\n 2 |   lifetme = \"5d\"\n   |   ^^^^^^^\n   \
             = is \"lifetime\" meant?"
        );
    }

    #[test]
    fn key_in_the_wrong_section() {
        let p = problems("[server]\nrecipients = 5\n");
        assert!(p[0].help.contains("[limits]"), "{}", p[0]);
        assert!(problems("[limit]\nrecipients = 5\n")[0].help.contains("\"limits\""));
    }

    #[test]
    fn all_problems_in_one_run() {
        let text = "[limits]\nmessage_size = \"50MB\"\nrecipients = -1\nhopps = 3\n\
                    [queue]\nlifetime = \"soon\"\n[[listener]]\nprotocol = \"smpt\"\naddress = [\"::\"]\n";
        let p = problems(text);
        let lines: Vec<_> = p.iter().map(|p| (p.at.unwrap().0, p.key.as_str())).collect();
        let expected = [
            (2, "limits.message_size"),
            (3, "limits.recipients"),
            (4, "limits.hopps"),
            (6, "queue.lifetime"),
            (8, "listener[1].protocol"),
            (9, "listener[1].address[1]"),
        ];
        assert_eq!(lines, expected, "{}", Problems(p.clone()));
    }

    #[test]
    fn what_can_be_read_is_read() {
        let (raw, report) = Report::read("t", "[limits]\nrecipients = 7\nhops = \"x\"\n");
        assert_eq!((raw.limits.recipients, raw.limits.hops), (7, 50));
        assert!(report.finish().fatal());
    }

    #[test]
    fn not_toml() {
        let p = problems("[server\nhostname = \"x\"\n");
        assert!(!p.is_empty() && p[0].at.unwrap().0 == 1, "{}", Problems(p));
        assert!(!problems("hostname = \"a\"\nhostname = \"b\"\n").is_empty());
    }

    #[test]
    fn choices_are_suggested() {
        let p = problems("[[route]]\ntls = \"oportunistic\"\n");
        assert_eq!((p[0].help.as_str(), p[0].at), ("is \"opportunistic\" meant?", Some((2, 7))));
    }

    #[test]
    fn distances() {
        assert_eq!((distance("", "abc"), distance("kitten", "sitting"), distance("a", "a")), (3, 3, 0));
        assert_eq!(nearest("retry_frist", ["retry_first", "retry_max"].into_iter()), Some("retry_first"));
        assert_eq!(nearest("xyz", ["retry_first"].into_iter()), None);
    }
}
