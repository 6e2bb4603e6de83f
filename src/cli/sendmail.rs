//! `sendmail`, `mailq` and `newaliases`, as programs of a Unix host call them.
//!
//! Called by these names, or as `ringpost sendmail|mailq|newaliases`. A message is submitted over SMTP to the
//! server of this host: anybody may do that, while the admin socket is the server's own; nothing is kept if
//! the server is not there (75: try again). Owns the options, the reading of header addresses and what a
//! message lacks. `-bp` and `-q` ask the admin socket, and need its rights. Exit codes after sysexits.h.

#![allow(
    clippy::disallowed_methods,
    reason = "a program for scripts reads standard input and talks to this host"
)]

use super::queue::{Contact, escape, simply};
use super::submit::{self, Mail, Trouble};
use super::{CONFIG_FILE, Exit};
use crate::admin::wire::{Change, Command, Which};
use crate::base::time::Wall;
use crate::config::{Config, reload};
use crate::message::submitted::FieldsSeen;
use crate::message::{date, headers};
use crate::queue::pick::Verb;
use crate::runtime::uring;
use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Names by which we are called.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    matches!(name, "sendmail" | "mailq" | "newaliases")
}

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Mode {
    /// A message comes on standard input.
    #[default]
    Submit,
    /// SMTP is spoken on standard input and output.
    Smtp,
    /// The queue is shown.
    List,
    /// The aliases are looked at.
    Aliases,
    /// What waits is tried.
    Flush,
}

/// The options.
#[derive(Debug, Default, PartialEq)]
struct Options {
    mode: Mode,
    /// Recipients come from the header.
    from_header: bool,
    /// A line with a dot alone does not end the message.
    dots: bool,
    sender: Option<String>,
    full_name: Option<String>,
    /// NOTIFY=.
    notify: Option<String>,
    /// RET=.
    ret: Option<String>,
    /// ENVID=.
    envid: Option<String>,
    config: Option<PathBuf>,
    recipients: Vec<String>,
}

/// Options that others know and that change nothing here, with an argument.
const IGNORED_WITH: &[u8] = b"ABdhLmMoOpX";
/// The same, without one.
const IGNORED: &[u8] = b"EeGnUv";

impl Options {
    /// Reads the arguments behind the name.
    fn read(name: &str, words: &[String]) -> Result<Options, String> {
        let mode = match name {
            "mailq" => Mode::List,
            "newaliases" => Mode::Aliases,
            _ => Mode::Submit,
        };
        let mut o = Options { mode, ..Options::default() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(rest) = word.strip_prefix('-').filter(|r| !r.is_empty()) else {
                o.recipients.push(word.clone());
                continue;
            };
            if rest == "-" {
                o.recipients.extend(words.by_ref().cloned());
                break;
            }
            let (letter, attached) = rest.split_at(rest.chars().next().map_or(1, char::len_utf8));
            let mut value = || match attached {
                "" => words.next().cloned().ok_or_else(|| format!("-{letter} needs a value")),
                attached => Ok(attached.to_owned()),
            };
            match letter.as_bytes()[0] {
                b't' if attached.is_empty() => o.from_header = true,
                b'i' if attached.is_empty() => o.dots = true,
                // Several letters in one word, such as -ti.
                b't' | b'i' => {
                    for c in rest.bytes() {
                        match c {
                            b't' => o.from_header = true,
                            b'i' => o.dots = true,
                            _ => return Err(format!("-{rest} is not known")),
                        }
                    }
                }
                b'o' if attached == "i" => o.dots = true,
                b'o' if !attached.is_empty() => {}
                b'f' | b'r' => o.sender = Some(value()?),
                b'F' => o.full_name = Some(value()?),
                b'N' => o.notify = Some(value()?),
                b'R' => o.ret = Some(value()?),
                b'V' => o.envid = Some(value()?),
                b'C' => o.config = Some(value()?.into()),
                b'b' => o.mode = mode_of(&value()?)?,
                b'I' if attached.is_empty() => o.mode = Mode::Aliases,
                b'q' => o.mode = Mode::Flush,
                c if IGNORED_WITH.contains(&c) => drop(value()?),
                c if IGNORED.contains(&c) => {}
                _ => return Err(format!("-{rest} is not known")),
            }
        }
        Ok(o)
    }

    /// Parameters of MAIL and RCPT (RFC 3461).
    fn parameters(&self) -> Result<(String, String), String> {
        let word = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        let (mut mail, mut rcpt) = (String::new(), String::new());
        if let Some(ret) = &self.ret {
            match &*ret.to_ascii_lowercase() {
                "full" => mail.push_str(" RET=FULL"),
                "hdrs" => mail.push_str(" RET=HDRS"),
                _ => return Err("-R takes full or hdrs".into()),
            }
        }
        if let Some(envid) = self.envid.as_deref() {
            if !word(envid) {
                return Err("-V takes a word in xtext".into());
            }
            mail.push_str(&format!(" ENVID={envid}"));
        }
        if let Some(notify) = self.notify.as_deref() {
            if !word(notify) {
                return Err("-N takes never, or some of failure,delay,success".into());
            }
            rcpt.push_str(&format!(" NOTIFY={}", notify.to_ascii_uppercase()));
        }
        Ok((mail, rcpt))
    }
}

fn mode_of(letter: &str) -> Result<Mode, String> {
    match letter {
        "m" => Ok(Mode::Submit),
        "s" => Ok(Mode::Smtp),
        "p" => Ok(Mode::List),
        "i" => Ok(Mode::Aliases),
        "d" | "D" | "l" => Err("the server is started by `ringpost serve`".into()),
        other => Err(format!("-b{other} is not known")),
    }
}

/// Runs as `name`, with the arguments behind it.
pub fn run(name: &str, words: &[OsString]) -> ExitCode {
    let words: Vec<String> = words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let complain = |exit: Exit, text: &str| {
        eprintln!("{name}: {}", escape(text));
        ExitCode::from(exit)
    };
    let options = match Options::read(name, &words) {
        Ok(options) => options,
        Err(text) => return complain(Exit::Usage, &text),
    };
    let path = options.config.clone().unwrap_or_else(|| CONFIG_FILE.into());
    let contact = Contact { config: path.clone(), socket: None };
    let done = match options.mode {
        Mode::List => {
            let all = Command::List { pick: Box::default(), in_doubt: false, count: false };
            return simply(&contact, false, all, name);
        }
        Mode::Flush => {
            let flush = Command::Change(Change::of(Verb::Flush, Which::All));
            return simply(&contact, false, flush, name);
        }
        Mode::Aliases => aliases(&path),
        Mode::Smtp => smtp(&path),
        Mode::Submit => message(&options, &path),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble { exit, text }) => complain(exit, &text),
    }
}

/// Maps are read again by the server itself when they change: all that is left is to say what is wrong with
/// them.
fn aliases(config: &Path) -> Result<(), Trouble> {
    let wrong = |e: crate::config::Problems| Trouble { exit: Exit::Config, text: e.to_string() };
    let (config, _) = Config::load(config).map_err(wrong)?;
    reload::router(&config).map(drop).map_err(wrong)
}

/// Carries commands and replies between standard input and output and the server, one after the other:
/// programs that say everything at once would break the protocol.
fn smtp(config: &Path) -> Result<(), Trouble> {
    let config = Config::load(config).ok().map(|loaded| loaded.0);
    let mut server = submit::connect(&submit::server(config.as_ref()))?;
    let mut replies = io::BufReader::new(server.try_clone()?);
    let (mut input, mut out) = (io::stdin().lock(), io::stdout().lock());
    let mut code = carry_reply(&mut replies, &mut out)?;
    let mut line = Vec::new();
    while code.is_some() {
        line.clear();
        if (&mut input).take(COMMAND_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        server.write_all(&line)?;
        // RFC 3030 §2: so many bytes follow.
        if let Some(n) = chunk(&line) {
            io::copy(&mut (&mut input).take(n), &mut server)?;
        }
        code = carry_reply(&mut replies, &mut out)?;
        if code == Some(354) {
            let mut content = Vec::new();
            if !read_message(&mut input, false, &mut content)? {
                // It breaks off in the middle: nobody has asked for half a message to be sent.
                return Ok(());
            }
            server.write_all(&content)?;
            server.write_all(b".\r\n")?;
            code = carry_reply(&mut replies, &mut out)?;
        }
    }
    Ok(())
}

/// Bytes of a line of SMTP.
const COMMAND_MAX: u64 = 64 << 10;

/// The bytes that follow a BDAT command.
fn chunk(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace();
    let is_chunk = words.next()?.eq_ignore_ascii_case("BDAT");
    words.next()?.parse().ok().filter(|_| is_chunk)
}

/// Carries one reply; gives its code. `None`: the server has closed.
fn carry_reply(replies: &mut impl BufRead, out: &mut impl Write) -> io::Result<Option<u16>> {
    loop {
        let mut line = Vec::new();
        if replies.take(COMMAND_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        out.write_all(&line)?;
        if line.get(3) != Some(&b'-') {
            out.flush()?;
            return Ok(line.get(..3).and_then(|c| std::str::from_utf8(c).ok()?.parse().ok()));
        }
    }
}

fn message(options: &Options, config: &Path) -> Result<(), Trouble> {
    let usage = |text: String| Trouble { exit: Exit::Usage, text };
    let (mail_options, rcpt_options) = options.parameters().map_err(usage)?;
    let config = Config::load(config).ok().map(|loaded| loaded.0);
    let origin = origin(config.as_ref());
    let mut content = Vec::new();
    read_message(&mut io::stdin().lock(), options.dots, &mut content)?;
    let mut recipients: Vec<String> = options.recipients.iter().flat_map(|w| addresses(w)).collect();
    if options.from_header {
        let (found, without) = from_header(&content);
        recipients.extend(found);
        content = without;
    }
    recipients.iter_mut().for_each(|r| qualify(r, &origin));
    recipients.sort();
    recipients.dedup();
    if recipients.is_empty() {
        return Err(usage("no recipients; name some, or say -t".into()));
    }
    let user = user_name();
    let sender = match options.sender.as_deref() {
        Some("<>" | "") => String::new(),
        Some(written) => {
            let mut sender = addresses(written).into_iter().next().unwrap_or_default();
            qualify(&mut sender, &origin);
            sender
        }
        None => format!("{user}@{origin}"),
    };
    let now = uring::wall_now();
    let from = if sender.is_empty() { format!("MAILER-DAEMON@{origin}") } else { sender.clone() };
    complete(&mut content, &from, options.full_name.as_deref(), now, &origin);
    let mail = Mail { sender, recipients, mail_options, rcpt_options, content };
    let (_, refused) = submit::submit(&submit::server(config.as_ref()), &mail)?;
    // The others have it.
    match refused
        .into_iter()
        .reduce(|all, one| Trouble { text: format!("{}\n{}", all.text, one.text), ..one })
    {
        None => Ok(()),
        Some(trouble) => Err(trouble),
    }
}

/// Reads to the end, or to a line with a dot alone; true: that came.
fn read_message(input: &mut impl BufRead, dots: bool, out: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let from = out.len();
        if input.read_until(b'\n', out)? == 0 {
            return Ok(false);
        }
        if !dots && matches!(&out[from..], b".\n" | b".\r\n" | b".") {
            out.truncate(from);
            return Ok(true);
        }
    }
}

/// The domain of addresses without one.
fn origin(config: Option<&Config>) -> String {
    let of_config = config.map(|c| c.domains.local.first().unwrap_or(&c.hostname).clone());
    let of_system = || {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Some(name.trim().to_owned()).filter(|n| !n.is_empty())
    };
    of_config.or_else(of_system).unwrap_or_else(|| "localhost".to_owned())
}

fn qualify(address: &mut String, origin: &str) {
    if !address.contains('@') {
        address.push('@');
        address.push_str(origin);
    }
}

/// Who has called us, as the system says.
fn user_name() -> String {
    let uid = std::fs::metadata("/proc/self").map_or(0, |facts| facts.uid());
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    };
    text.lines().find_map(of_line).unwrap_or_else(|| format!("uid{uid}"))
}

/// The addresses of a list as header fields have them (RFC 5322 §3.4): without names, comments and groups.
fn addresses(list: &str) -> Vec<String> {
    let (mut all, mut word, mut angle) = (Vec::new(), String::new(), None::<String>);
    let (mut quoted, mut comment) = (false, 0u32);
    let mut chars = list.chars();
    let mut end = |word: &mut String, angle: &mut Option<String>| {
        let written = angle.take().unwrap_or_else(|| std::mem::take(word));
        word.clear();
        let address = written.trim();
        if !address.is_empty() {
            all.push(address.to_owned());
        }
    };
    while let Some(c) = chars.next() {
        if comment == 0 && (quoted || c == '"') {
            quoted ^= c == '"';
            let text = angle.as_mut().unwrap_or(&mut word);
            text.push(c);
            if c == '\\' {
                text.extend(chars.next());
            }
            continue;
        }
        match c {
            '\\' if comment > 0 => drop(chars.next()),
            '(' => comment += 1,
            ')' => comment = comment.saturating_sub(1),
            _ if comment > 0 => {}
            '<' => angle = Some(String::new()),
            // What follows an address in angle brackets is no part of it.
            '>' => word.clear(),
            ',' | ';' => end(&mut word, &mut angle),
            // The name of a group.
            ':' if angle.is_none() => word.clear(),
            c if c.is_whitespace() => {}
            c if angle.is_some() => angle.iter_mut().for_each(|a| a.push(c)),
            c => word.push(c),
        }
    }
    end(&mut word, &mut angle);
    all
}

/// The recipients that the header names, and the message without Bcc.
fn from_header(content: &[u8]) -> (Vec<String>, Vec<u8>) {
    let content = with_crlf(content);
    let resent = headers::fields(&content).any(|f| f.name.to_ascii_lowercase().starts_with(b"resent-"));
    let names: &[&str] =
        if resent { &["Resent-To", "Resent-Cc", "Resent-Bcc"] } else { &["To", "Cc", "Bcc"] };
    let (mut found, mut out) = (Vec::new(), Vec::with_capacity(content.len()));
    let mut header = 0;
    for field in headers::fields(&content) {
        header += field.raw.len();
        if names.iter().any(|name| field.is(name)) {
            found.extend(addresses(&String::from_utf8_lossy(field.value)));
        }
        if !(field.is("Bcc") || field.is("Resent-Bcc")) {
            out.extend_from_slice(field.raw);
        }
    }
    out.extend_from_slice(&content[header..]);
    (found, out)
}

fn with_crlf(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 32);
    for line in content.split_inclusive(|b| *b == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                out.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

/// Puts in front what the message lacks.
fn complete(content: &mut Vec<u8>, sender: &str, name: Option<&str>, now: Wall, origin: &str) {
    *content = with_crlf(content);
    let mut seen = FieldsSeen::default();
    seen.feed(content);
    let mut front = Vec::new();
    let id = format!("{:x}.{:x}", now.0, std::process::id());
    seen.put_missing(&mut front, &date::text(now), id.as_bytes(), origin);
    if headers::find(content, "From").is_none() {
        let clean =
            |n: &str| n.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect::<String>();
        let from = match name.map(clean).filter(|n| !n.is_empty()) {
            Some(name) => format!("From: \"{name}\" <{sender}>\r\n"),
            None => format!("From: {sender}\r\n"),
        };
        front.extend_from_slice(from.as_bytes());
    }
    // A message without a header: its first line must not become one.
    let headless = headers::fields(content).next().is_none() && !content.starts_with(b"\r\n");
    if headless {
        front.extend_from_slice(b"\r\n");
    }
    front.append(content);
    *content = front;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, words: &[&str]) -> Result<Options, String> {
        Options::read(name, &words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_as_programs_write_them() {
        let o =
            read("sendmail", &["-oi", "-t", "-fbounce@a", "-F", "A B", "-oem", "-om", "--", "x@y"]).unwrap();
        assert!(o.dots && o.from_header && o.mode == Mode::Submit);
        assert_eq!((o.sender.as_deref(), o.full_name.as_deref()), (Some("bounce@a"), Some("A B")));
        assert_eq!(o.recipients, ["x@y"]);
        let o = read("sendmail", &["-ti", "-f", "a@b", "-B", "8BITMIME", "-N", "never"]).unwrap();
        assert!(o.dots && o.from_header && o.recipients.is_empty());
        assert_eq!(o.parameters().unwrap().1, " NOTIFY=NEVER");
        for (name, words, mode) in [
            ("sendmail", &["-bs"][..], Mode::Smtp),
            ("sendmail", &["-b", "p"], Mode::List),
            ("sendmail", &["-bi"], Mode::Aliases),
            ("sendmail", &["-q"], Mode::Flush),
            ("sendmail", &["-q15m"], Mode::Flush),
            ("sendmail", &["-bm", "-v"], Mode::Submit),
            ("mailq", &[], Mode::List),
            ("newaliases", &[], Mode::Aliases),
        ] {
            assert_eq!(read(name, words).unwrap().mode, mode, "{words:?}");
        }
        for bad in [&["-bd"][..], &["-f"], &["-Z"], &["-tx"]] {
            assert!(read("sendmail", bad).is_err(), "{bad:?}");
        }
        assert!(read("sendmail", &["-R", "some"]).unwrap().parameters().is_err());
    }

    #[test]
    fn lists_of_addresses() {
        for (list, expect) in [
            ("a@b", &["a@b"][..]),
            ("A B <a@b>, c@d (see, there) ,<e@f>", &["a@b", "c@d", "e@f"]),
            ("\"x, y\" <a@b>", &["a@b"]),
            ("\"x, y\"@b", &["\"x, y\"@b"]),
            ("friends: a@b, c@d; e@f", &["a@b", "c@d", "e@f"]),
            ("undisclosed-recipients:;", &[]),
            ("root", &["root"]),
            ("", &[]),
        ] {
            assert_eq!(addresses(list), expect, "{list}");
        }
    }

    #[test]
    fn recipients_of_the_header_and_no_blind_copy() {
        let (to, out) = from_header(b"To: a@b,\n c@d\nBcc: e@f\nSubject: x\n\nTo: no@body\n");
        assert_eq!(to, ["a@b", "c@d", "e@f"]);
        assert_eq!(out, b"To: a@b,\r\n c@d\r\nSubject: x\r\n\r\nTo: no@body\r\n");
        let (to, _) = from_header(b"To: a@b\nResent-To: r@s\n\n");
        assert_eq!(to, ["r@s"]);
    }

    #[test]
    fn what_is_missing_is_put_in_front() {
        let done = |text: &str, name| {
            let mut content = text.as_bytes().to_vec();
            complete(&mut content, "me@here", name, Wall(1_795_417_200_000), "here");
            String::from_utf8(content).unwrap()
        };
        let text = done("Subject: x\n\nbody\n", Some("A \"B\""));
        assert!(text.starts_with("Date: Mon, 23 Nov 2026 07:00:00 +0000\r\nMessage-ID: <"), "{text}");
        assert!(text.ends_with("From: \"A B\" <me@here>\r\nSubject: x\r\n\r\nbody\r\n"), "{text}");
        let whole = "Date: x\r\nMessage-ID: y\r\nFrom: z\r\n\r\nbody\r\n";
        assert_eq!(done(whole, None), whole);
        assert!(done("just text\n", None).ends_with("From: me@here\r\n\r\njust text\r\n"));
    }

    #[test]
    fn chunks_are_counted_and_replies_are_whole() {
        assert_eq!(
            (chunk(b"bdat 12 LAST\r\n"), chunk(b"MAIL 12\r\n"), chunk(b"BDAT\r\n")),
            (Some(12), None, None)
        );
        let (mut replies, mut out) = (&b"250-a\r\n250 b\r\n354 go\r\n"[..], Vec::new());
        let mut next = || carry_reply(&mut replies, &mut out).unwrap();
        assert_eq!((next(), next(), next()), (Some(250), Some(354), None));
        assert_eq!(out, b"250-a\r\n250 b\r\n354 go\r\n");
    }

    #[test]
    fn a_dot_ends_a_message_or_not() {
        let read = |dots| {
            let mut out = Vec::new();
            read_message(&mut &b"a\n.\nb\n"[..], dots, &mut out).unwrap();
            out
        };
        assert_eq!((read(false), read(true)), (b"a\n".to_vec(), b"a\n.\nb\n".to_vec()));
    }
}
