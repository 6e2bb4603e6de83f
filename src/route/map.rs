//! Map files as people have them for Postfix, and the table they become.
//!
//! Owns the text forms (`name: target, target`, `key target`, lists) and look-ups that ignore ASCII
//! case without allocating. Reads no file: whoever calls reads the lists that a map includes. A bad
//! line is reported with its number; the rest counts.

use hashbrown::HashTable;

/// What a map file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `name: target, target` or `name target`.
    Aliases,
    /// `user@domain target, target` or `@domain target`.
    Virtual,
    /// `user@domain` or `@domain`; what follows is not looked at.
    Keys,
}

/// A bad line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

/// A table with ASCII case-insensitive keys. The order of nothing depends on hashing.
#[derive(Clone, Debug)]
pub struct Table<V> {
    entries: HashTable<(Box<[u8]>, V)>,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Table { entries: HashTable::new() }
    }
}

impl<V> Table<V> {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&V> {
        if self.entries.is_empty() {
            // Most servers have few maps; each message asks them all, several times.
            return None;
        }
        self.entries.find(hash(key), |(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v)
    }

    /// Adds an entry; `false` if the key was there (the first one stays).
    pub fn insert(&mut self, key: &[u8], value: V) -> bool {
        if self.get(key).is_some() {
            return false;
        }
        let key = key.to_ascii_lowercase().into_boxed_slice();
        self.entries.insert_unique(hash(&key), (key, value), |(k, _)| hash(k));
        true
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// FNV-1a over lower-case bytes. Keys come from the operator's files, so that nobody else can
/// choose them to collide.
fn hash(key: &[u8]) -> u64 {
    let fold = |h: u64, b: &u8| (h ^ u64::from(b.to_ascii_lowercase())).wrapping_mul(0x100_0000_01b3);
    let h = key.iter().fold(0xcbf2_9ce4_8422_2325, fold);
    h ^ (h >> 29)
}

/// A rewriting: addresses, in order.
pub type Targets = Vec<Box<[u8]>>;

/// A map that was parsed.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// What it says.
    pub table: Table<Targets>,
    /// Its keys and their lines, in order.
    pub keys: Vec<(usize, Vec<u8>)>,
    /// Lines that were left out, in order.
    pub bad: Vec<BadLine>,
}

/// Gives the text of an included list, or says why there is none.
pub type Include<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<u8>, String>;

/// Parses a map that includes nothing: `:include:` makes a line bad.
#[must_use]
pub fn parse(text: &[u8], kind: Kind) -> Parsed {
    parse_with(text, kind, &mut |_| Err(":include: is for maps in files".into()))
}

/// Parses a map; `include` reads the lists that its aliases name by `:include:/path`.
#[must_use]
pub fn parse_with(text: &[u8], kind: Kind, include: Include<'_>) -> Parsed {
    let Parsed { mut table, mut keys, mut bad } = Parsed::default();
    for (line, content) in logical_lines(text) {
        match entry(&content, kind, include) {
            Ok((key, targets)) => {
                if table.insert(&key, targets) {
                    keys.push((line, key));
                } else {
                    let message = format!("{} is here twice; the first one counts", show(&key));
                    bad.push(BadLine { line, message });
                }
            }
            Err(message) => bad.push(BadLine { line, message }),
        }
    }
    Parsed { table, keys, bad }
}

/// Lines without comments and empty ones; a line that begins with white space continues the last.
pub(super) fn logical_lines(text: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut lines: Vec<(usize, Vec<u8>)> = Vec::new();
    for (n, line) in text.split(|b| *b == b'\n').enumerate() {
        let content = line.trim_ascii();
        if content.is_empty() || content[0] == b'#' {
            continue;
        }
        match lines.last_mut() {
            Some((_, last)) if line[0].is_ascii_whitespace() => {
                last.push(b' ');
                last.extend_from_slice(content);
            }
            _ => lines.push((n + 1, content.to_vec())),
        }
    }
    lines
}

fn entry(line: &[u8], kind: Kind, include: Include<'_>) -> Result<(Vec<u8>, Targets), String> {
    let end = |b: &u8| b.is_ascii_whitespace() || (kind == Kind::Aliases && *b == b':');
    let (key, rest) = if line[0] == b'"' {
        let close = line[1..].iter().position(|b| *b == b'"').ok_or("a quote is not closed")? + 1;
        (&line[1..close], &line[close + 1..])
    } else {
        line.split_at(line.iter().position(end).unwrap_or(line.len()))
    };
    let rest = rest.trim_ascii();
    let rest =
        if kind == Kind::Aliases { rest.strip_prefix(b":").unwrap_or(rest).trim_ascii() } else { rest };
    if key.is_empty() || key == b"@" {
        return Err("no key".into());
    }
    if kind == Kind::Aliases && key.contains(&b'@') {
        return Err(format!(
            "{}: names here have no domain; addresses belong into the virtual map",
            show(key)
        ));
    }
    if kind == Kind::Keys {
        return Ok((key.to_vec(), Vec::new()));
    }
    let mut all = Targets::new();
    for one in words(rest)? {
        match list(&one) {
            Some(path) if kind == Kind::Aliases => all.extend(included(path, include)?),
            _ => all.push(target(&one)?),
        }
    }
    if all.is_empty() {
        return Err(format!("{} has no target", show(key)));
    }
    Ok((key.to_vec(), all))
}

/// The path of a target `:include:/path`, as in the aliases of Postfix and Sendmail.
fn list(target: &[u8]) -> Option<&[u8]> {
    let bare = target.strip_prefix(b"\"").map_or(target, |t| t.strip_suffix(b"\"").unwrap_or(t));
    let (word, path) = bare.split_at_checked(INCLUDE.len())?;
    word.eq_ignore_ascii_case(INCLUDE).then_some(path)
}

const INCLUDE: &[u8] = b":include:";

/// The addresses of a list. Lists do not include lists.
fn included(path: &[u8], include: Include<'_>) -> Result<Targets, String> {
    let path = std::str::from_utf8(path).map_err(|_| "the path of a list is not UTF-8".to_owned())?;
    if !path.starts_with('/') {
        return Err(format!("the list {path:?} needs a path from the root"));
    }
    let text = include(path).map_err(|e| format!("the list {path} cannot be read: {e}"))?;
    let mut all = Targets::new();
    for (line, content) in logical_lines(&text) {
        let told = |e: String| format!("the list {path}, line {line}: {e}");
        for one in words(&content).map_err(told)? {
            all.push(target(&one).map_err(told)?);
        }
    }
    Ok(all)
}

/// Addresses separated by commas or white space; quotes hold one together.
fn words(text: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut all = Vec::new();
    let mut one: Vec<u8> = Vec::new();
    let (mut quoted, mut escaped) = (false, false);
    for b in text.iter().copied().chain([b',']) {
        if !quoted && (b == b',' || b.is_ascii_whitespace()) {
            if !one.is_empty() {
                all.push(std::mem::take(&mut one));
            }
            continue;
        }
        quoted ^= b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        one.push(b);
    }
    if quoted { Err("a quote is not closed".into()) } else { Ok(all) }
}

fn target(text: &[u8]) -> Result<Box<[u8]>, String> {
    let bare = text.strip_prefix(b"\"").unwrap_or(text);
    // Mail must never start a program or write to a file (and an address must not do so by chance).
    if matches!(bare.first(), Some(b'|' | b'/')) {
        return Err(format!("{}: programs and files are not supported as targets", show(text)));
    }
    if list(text).is_some() {
        return Err(format!("{}: only aliases include lists, and lists do not", show(text)));
    }
    if text.iter().any(|b| b.is_ascii_control()) || text.len() > ADDRESS_MAX {
        return Err("an address with control characters or of more than 1000 bytes".into());
    }
    Ok(text.into())
}

const ADDRESS_MAX: usize = 1000;

fn show(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(text: &str, kind: Kind, key: &str) -> Option<Vec<String>> {
        let Parsed { table, bad, .. } = parse(text.as_bytes(), kind);
        assert_eq!(bad, [], "{text}");
        let strings = |t: &Targets| t.iter().map(|a| String::from_utf8(a.to_vec()).unwrap()).collect();
        table.get(key.as_bytes()).map(strings)
    }

    #[test]
    fn aliases_in_both_forms() {
        let text = "# comment\n\nRoot: alice, bob@b.example\n  carol\n\tdave\nabuse root\n\
                    sales:x@y.example\r\n\"a b\" : z\n";
        let a = |k| lookup(text, Kind::Aliases, k);
        assert_eq!(a("ROOT").unwrap(), ["alice", "bob@b.example", "carol", "dave"]);
        assert_eq!(a("abuse").unwrap(), ["root"]);
        assert_eq!(a("sales").unwrap(), ["x@y.example"]);
        assert_eq!(a("a b").unwrap(), ["z"]);
        assert_eq!(a("nobody"), None);
    }

    #[test]
    fn virtual_and_keys() {
        let text = "info@a.example  one@b.example,two@b.example\n@A.example all@b.example\n";
        assert_eq!(lookup(text, Kind::Virtual, "INFO@a.EXAMPLE").unwrap().len(), 2);
        assert_eq!(lookup(text, Kind::Virtual, "@a.example").unwrap(), ["all@b.example"]);
        assert_eq!(lookup("x@y.example OK\nz@y.example\n", Kind::Keys, "z@y.example"), Some(vec![]));
    }

    #[test]
    fn bad_lines_have_their_number() {
        let text = b"a: b\n\nc:\nd: |prog\ne: \"|prog x\"\nf: /dev/null\ng: :include:/x\n\
                     a: again\nh@x: y\ni: \"open\n";
        let Parsed { table, keys, bad } = parse(text, Kind::Aliases);
        assert_eq!(bad.iter().map(|b| b.line).collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!((table.len(), keys.len()), (1, 1));
    }

    #[test]
    fn lists_are_included_in_aliases() {
        let mut asked = Vec::new();
        let mut read = |path: &str| {
            asked.push(path.to_owned());
            match path {
                "/lists/a" => Ok(b"# members\nann@a.example, bob\n\n\"c d\"@e.example\n".to_vec()),
                "/lists/empty" => Ok(b"#\n".to_vec()),
                "/lists/bad" => Ok(b"ok\n|prog\n".to_vec()),
                "/lists/deep" => Ok(b":include:/lists/a\n".to_vec()),
                _ => Err("no such file".into()),
            }
        };
        let text = "all: x, :include:/lists/a, y\nquoted: \":Include:/lists/a\"\n\
                    none: :include:/lists/empty\nb: :include:/lists/bad\nd: :include:/lists/deep\n\
                    g: :include:/gone\nr: :include:lists/a\n";
        let Parsed { table, bad, .. } = parse_with(text.as_bytes(), Kind::Aliases, &mut read);
        let get =
            |k: &[u8]| table.get(k).map(|t| t.iter().map(|a| String::from_utf8_lossy(a)).collect::<Vec<_>>());
        assert_eq!(get(b"all").unwrap(), ["x", "ann@a.example", "bob", "\"c d\"@e.example", "y"]);
        assert_eq!(get(b"quoted").unwrap().len(), 3);
        let bad: Vec<(usize, bool)> = bad
            .iter()
            .zip([
                "no target",
                "/lists/bad, line 2: ",
                "lists do not",
                "/gone cannot be read",
                "from the root",
            ])
            .map(|(b, part)| (b.line, b.message.contains(part)))
            .collect();
        assert_eq!(bad, [3, 4, 5, 6, 7].map(|line| (line, true)));
        assert_eq!(asked.len(), 6);
        // An address of the virtual map is never a file.
        let Parsed { bad, .. } =
            parse_with(b"a@b.example :include:/lists/a\n", Kind::Virtual, &mut |_| unreachable!());
        assert_eq!(bad.len(), 1);
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut text = Vec::new();
        let mut x = 7u32;
        for _ in 0..50_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text.push(b"a@:,\" \n\t#\\|\x00\xff"[(x >> 16) as usize % 13]);
        }
        for kind in [Kind::Aliases, Kind::Virtual, Kind::Keys] {
            let Parsed { table, keys, .. } = parse(&text, kind);
            assert_eq!(table.len(), keys.len());
        }
    }
}
