//! The conditions of `ringpost queue`: arguments, the question before a change, what is told meanwhile.
//!
//! Owns the words. Which messages are meant is decided by the server. A change that a condition makes is
//! shown before it is made: on a terminal by a question, else with `--dry-run`; without a terminal `--yes` is
//! needed.

use crate::admin::wire::{Change, Line, Which};
use crate::config::units::{Duration, Size};
use crate::queue::pick::{Pick, Standing, Verb};
use clap::{Args, ValueEnum};
use std::io::{self, BufRead, IsTerminal, Write};

/// Conditions; all must hold.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Conditions (all must hold; patterns know * and ?, case does not matter)")]
pub struct Picked {
    /// Sender; '<>' is the null sender
    #[arg(long, value_name = "PATTERN")]
    sender: Option<String>,
    /// A recipient that is still to be served
    #[arg(long, value_name = "PATTERN")]
    recipient: Option<String>,
    /// The domain of a recipient that is still to be served
    #[arg(long, value_name = "PATTERN")]
    domain: Option<String>,
    /// The site of a recipient, as `why` names it
    #[arg(long, value_name = "PATTERN")]
    site: Option<String>,
    /// Messages waiting for this destination (its name as `queue stats` shows it)
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Came at least so long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    older: Option<Duration>,
    /// Came less than so long ago
    #[arg(long, value_name = "TIME")]
    younger: Option<Duration>,
    /// More bytes than this, such as 10MiB
    #[arg(long, value_name = "SIZE")]
    larger: Option<Size>,
    /// Fewer bytes than this
    #[arg(long, value_name = "SIZE")]
    smaller: Option<Size>,
    /// Where it stands
    #[arg(long, value_enum)]
    state: Option<StateWord>,
    /// The login under which it was sent
    #[arg(long, value_name = "PATTERN")]
    user: Option<String>,
    /// The next hop that an operator has given it by a reroute
    #[arg(long, value_name = "PATTERN")]
    rerouted: Option<String>,
    /// A field of its header, such as 'Subject=*invoice*'; may be given more than once
    #[arg(long, value_name = "NAME=PATTERN", value_parser = field)]
    header: Vec<(String, String)>,
}

/// Words for [`Standing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StateWord {
    Active,
    Deferred,
    Hold,
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, pattern) = text.split_once('=').ok_or("write NAME=PATTERN")?;
    let name = name.trim().trim_end_matches(':');
    if name.is_empty() {
        return Err("the name of a header field is missing".into());
    }
    Ok((name.to_owned(), pattern.to_owned()))
}

impl Picked {
    /// As the server takes it.
    pub fn pick(&self) -> Pick {
        Pick {
            sender: self.sender.clone().map(|s| if s == "<>" { String::new() } else { s }),
            recipient: self.recipient.clone(),
            domain: self.domain.clone(),
            site: self.site.clone(),
            destination: self.destination.clone(),
            older: self.older.map(|t| t.0.as_secs()),
            younger: self.younger.map(|t| t.0.as_secs()),
            larger: self.larger.map(|s| s.0),
            smaller: self.smaller.map(|s| s.0),
            state: self.state.map(|word| match word {
                StateWord::Active => Standing::Active,
                StateWord::Deferred => Standing::Deferred,
                StateWord::Hold => Standing::Hold,
            }),
            user: self.user.clone(),
            rerouted: self.rerouted.clone(),
            headers: self.header.clone(),
        }
    }

    /// True if there is no condition.
    pub fn is_empty(&self) -> bool {
        self.pick() == Pick::default()
    }

    /// The destination, if that is the only condition.
    pub fn only_destination(&self) -> Option<String> {
        let pick = self.pick();
        let rest = Pick { destination: None, ..pick.clone() };
        pick.destination.filter(|_| rest == Pick::default())
    }
}

/// Which messages a change is for.
#[derive(Debug, Clone, Args)]
pub struct Chosen {
    /// Queue ids
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// All messages
    #[arg(long)]
    pub all: bool,
    /// Conditions
    #[command(flatten)]
    pub picked: Picked,
    /// Say how many messages are meant, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
}

impl Chosen {
    /// Why these arguments do not go together.
    pub fn check(&self) -> Result<(), &'static str> {
        match (self.ids.is_empty(), self.all, self.picked.is_empty()) {
            (true, false, true) => Err("say which messages: ids, conditions, or --all"),
            (false, true, _) | (false, _, false) => Err("ids, or conditions, or --all: not several of them"),
            (true, true, false) if self.picked.only_destination().is_some() => {
                Err("--all, or --destination: not both")
            }
            _ => Ok(()),
        }
    }

    /// The request.
    pub fn change(&self, verb: Verb, reason: String, seconds: Option<u64>) -> Result<Change, &'static str> {
        let which = match self.ids.is_empty() {
            true => Which::Pick(Box::new(self.picked.pick())),
            false => Which::Ids(self.ids.clone()),
        };
        let asks = self.ids.is_empty() && !(self.yes || self.dry_run);
        if asks && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err("this may change many messages: see how many with --dry-run, then say --yes");
        }
        let (preview, unseen) = (self.dry_run, self.yes && !self.dry_run);
        Ok(Change { reason, seconds, preview, unseen, ..Change::of(verb, which) })
    }
}

/// Tells what a change by condition tells on its way.
pub struct Teller {
    json: bool,
    verb: Verb,
    /// The cursor stands behind an unfinished line.
    midway: bool,
}

impl Teller {
    /// Of a change by `verb`.
    pub fn new(json: bool, verb: Verb) -> Self {
        Teller { json, verb, midway: false }
    }

    /// Prints `line`. False: it is none of these.
    pub fn line(&mut self, out: &mut impl Write, line: &Line) -> io::Result<bool> {
        match line {
            Line::Progress { what, done, of } => {
                if io::stderr().is_terminal() {
                    eprint!("\r{what} {done} of {of}   ");
                    self.midway = true;
                }
            }
            Line::Matches { messages, bytes, unread, .. } => {
                self.unread(*unread);
                match self.json {
                    true => writeln!(out, "{{\"matches\":{messages},\"bytes\":{bytes}}}")?,
                    false => writeln!(out, "{}", amount(*messages, *bytes))?,
                }
            }
            Line::Hold(hold) => {
                self.finish();
                if self.json { writeln!(out, "{hold}")? } else { print_hold(out, hold)? }
            }
            _ => {
                self.finish();
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(&mut self) {
        if std::mem::take(&mut self.midway) {
            eprintln!();
        }
    }

    fn unread(&mut self, unread: u64) {
        self.finish();
        if unread > 0 {
            eprintln!("{unread} messages cannot be read now, and are not counted");
        }
    }

    /// Asks whether so many messages are to be changed.
    pub fn ask(&mut self, messages: u64, bytes: u64, unread: u64) -> io::Result<bool> {
        self.unread(unread);
        if messages == 0 {
            eprintln!("{}", amount(messages, bytes));
            return Ok(false);
        }
        eprint!("{}. {}? [y/N] ", amount(messages, bytes), self.verb.word());
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        let yes = matches!(answer.trim(), "y" | "Y" | "yes");
        if !yes {
            eprintln!("nothing is changed");
        }
        Ok(yes)
    }
}

fn amount(messages: u64, bytes: u64) -> String {
    let s = if messages == 1 { " matches" } else { "s match" };
    format!("{messages} message{s}, {} Kbytes", bytes.div_ceil(1024))
}

fn print_hold(out: &mut impl Write, hold: &serde_json::Value) -> io::Result<()> {
    let word = |key: &str| super::queue::escape(hold[key].as_str().unwrap_or(""));
    let until = match hold["until"].as_u64() {
        Some(ms) => format!("until {}", crate::base::time::Wall(ms)),
        None => "until it is taken back".to_owned(),
    };
    let since = crate::base::time::Wall(hold["since"].as_u64().unwrap_or(0));
    let (number, messages) = (&hold["number"], &hold["messages"]);
    let (what, by, reason) = (word("what"), word("by"), word("reason"));
    writeln!(out, "hold {number}: {messages} messages, {what}, since {since} {until}, by {by}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        chosen: Chosen,
    }

    fn chosen(words: &[&str]) -> Chosen {
        Words::try_parse_from([&["x"], words].concat()).unwrap_or_else(|e| panic!("{e}")).chosen
    }

    #[test]
    fn what_is_meant_must_be_said_once() {
        for (words, good) in [
            (&[][..], false),
            (&["ID"], true),
            (&["--all"], true),
            (&["ID", "--all"], false),
            (&["ID", "--sender", "a"], false),
            (&["--destination", "a"], true),
            (&["--destination", "a", "--all"], false),
            (&["--sender", "a", "--older", "2h"], true),
        ] {
            assert_eq!(chosen(words).check().is_ok(), good, "{words:?}");
        }
    }

    #[test]
    fn conditions_are_read() {
        let words = ["--sender", "<>", "--older", "2h", "--larger", "1KiB", "--state", "hold"];
        let pick = chosen(&[&words[..], &["--header", "Subject: =*x*=y"]].concat()).picked.pick();
        assert_eq!((pick.sender.as_deref(), pick.older, pick.larger), (Some(""), Some(7200), Some(1024)));
        assert_eq!(pick.state, Some(Standing::Hold));
        assert_eq!(pick.headers, [("Subject".to_owned(), "*x*=y".to_owned())]);
        assert!(Words::try_parse_from(["x", "--header", "=a"]).is_err());
        assert_eq!(chosen(&["--destination", "d"]).picked.only_destination().as_deref(), Some("d"));
        assert!(chosen(&["--destination", "d", "--older", "1s"]).picked.only_destination().is_none());
    }

    #[test]
    fn without_a_terminal_a_word_is_needed() {
        // Tests have no terminal for one of the two at least when they run under a harness.
        if io::stdin().is_terminal() && io::stderr().is_terminal() {
            return;
        }
        assert!(chosen(&["--sender", "a"]).change(Verb::Hold, String::new(), None).is_err());
        for words in [&["--sender", "a", "--yes"][..], &["--sender", "a", "--dry-run"], &["ID"]] {
            let change = chosen(words).change(Verb::Hold, String::new(), None).expect("good");
            let by_ids = matches!(change.which, Some(Which::Ids(_)));
            assert!(by_ids || change.unseen || change.preview, "{words:?}");
        }
    }
}
