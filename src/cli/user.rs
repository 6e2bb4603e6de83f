//! `ringpost user`: the users of the password file.
//!
//! Owns arguments, prompts and print-out; `file` changes the file. A running server sees the change by
//! itself within seconds. Who is disabled is the server's own affair: it is asked, the file stays as it is.
//! Passwords come from a prompt without echo or from standard input, never from the command line, and are
//! never printed.
#![allow(clippy::disallowed_methods, reason = "a program for operators reads and writes files")]

mod file;
#[cfg(test)]
mod tests;

use super::queue::{Contact, simply};
use super::{CONFIG_FILE, Exit};
use crate::admin::wire::Command as Request;
use crate::auth::mechanism::Mechanism;
use crate::auth::passwd;
use crate::auth::prepare::{self, PASSWORD_MAX};
use crate::auth::scheme::{Credential, ITERATIONS, ITERATIONS_MAX, Maker, SCHEMES};
use crate::base::secret::Secret;
use crate::config::Config;
use crate::runtime::uring::fill_random;
use clap::{Args, Subcommand};
use file::{Change, UsersFile};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// `ringpost user`.
#[derive(Debug, Args)]
pub struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
    /// Configuration file, for the place of the password file
    #[arg(short, long, global = true, default_value = CONFIG_FILE, value_name = "FILE")]
    config: PathBuf,
    /// Password file, instead of `auth.users` of the configuration
    #[arg(long, global = true, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Add a user; asks for the password
    Add(NewPassword),
    /// Change the password of a user
    Passwd(NewPassword),
    /// List the users and what they can log in with
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Remove a user
    Remove {
        /// The login
        login: String,
    },
    /// Keep a user from logging in, and end the sessions; the server must run
    Disable {
        /// The login
        login: String,
        /// Why; for people
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
    },
    /// Let a disabled user log in again; the server must run
    Enable {
        /// The login
        login: String,
    },
    /// List the disabled users, a JSON object a line; the server must run
    Disabled,
    /// Check a password; exit code 0: it is right, 77: it is wrong, 67: there is no such user
    Verify {
        /// The login
        login: String,
        /// Read the password from standard input (one line)
        #[arg(long)]
        password_stdin: bool,
    },
}

/// A login and how its password is stored.
#[derive(Debug, Args)]
struct NewPassword {
    /// The login
    login: String,
    /// Read the password from standard input (one line)
    #[arg(long)]
    password_stdin: bool,
    /// How it is stored; SCRAM serves PLAIN as well, the others PLAIN and LOGIN only
    #[arg(long, value_name = "SCHEME", default_value = SCHEMES[0], value_parser = scheme)]
    scheme: String,
    /// Iterations of SCRAM; all users should have the same
    #[arg(long, value_name = "N", default_value_t = ITERATIONS,
        value_parser = clap::value_parser!(u32).range(4096..=i64::from(ITERATIONS_MAX)))]
    iterations: u32,
}

fn scheme(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let known = SCHEMES.contains(&upper.as_str());
    if known { Ok(upper) } else { Err(format!("not one of {}", SCHEMES.join(", "))) }
}

/// Why a command failed: exit code and words.
struct Failure(Exit, String);

type Outcome = Result<(), Failure>;

fn failed<T>(exit: Exit, text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure(exit, text.into()))
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        let exit = match e.kind() {
            io::ErrorKind::NotFound => Exit::NoInput,
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::Io,
        };
        Failure(exit, e.to_string())
    }
}

impl UserArgs {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let request = match &self.command {
            UserCommand::Disable { login, reason } => {
                Request::Disable { login: login.clone(), reason: reason.clone() }
            }
            UserCommand::Enable { login } => Request::Enable { login: login.clone() },
            UserCommand::Disabled => Request::Disabled,
            _ => return self.change_file().into(),
        };
        let contact = Contact { config: self.config.clone(), socket: None };
        simply(&contact, false, request, "user")
    }

    fn change_file(&self) -> Exit {
        match self.obey(&mut io::stdout()) {
            Ok(()) => Exit::Ok,
            Err(Failure(exit, text)) => {
                eprintln!("ringpost user: {text}");
                exit
            }
        }
    }

    fn obey(&self, out: &mut impl Write) -> Outcome {
        let file = self.users_file()?;
        match &self.command {
            UserCommand::Add(new) => new.apply(&file, true),
            UserCommand::Passwd(new) => new.apply(&file, false),
            UserCommand::List { json } => list(&file, *json, out),
            UserCommand::Remove { login } => remove(&file, login),
            UserCommand::Verify { login, password_stdin } => verify(&file, login, *password_stdin),
            UserCommand::Disable { .. } | UserCommand::Enable { .. } | UserCommand::Disabled => {
                failed(Exit::Software, "that is asked of the server")
            }
        }
    }

    fn users_file(&self) -> Result<UsersFile, Failure> {
        if let Some(path) = &self.file {
            return Ok(UsersFile::new(path, None));
        }
        let (config, _) = Config::load(&self.config).map_err(|e| Failure(Exit::Config, e.to_string()))?;
        match config.auth.users {
            Some(path) => Ok(UsersFile::new(&path, config.user.as_deref())),
            None => failed(Exit::Config, "auth.users names no password file; name one with --file"),
        }
    }
}

/// The login as it is looked up.
fn prepared(login: &str) -> Result<String, Failure> {
    let good = !login.contains([':', '#']) && !login.contains(char::is_whitespace);
    match prepare::login(login).filter(|_| good) {
        Some(login) => Ok(login),
        None => failed(Exit::Usage, format!("{login:?} cannot be a login")),
    }
}

impl NewPassword {
    fn apply(&self, file: &UsersFile, add: bool) -> Outcome {
        let login = prepared(&self.login)?;
        let password = ask(self.password_stdin, true)?;
        let mut maker = Maker::new([0; 16]);
        fill_random(&mut maker.salt);
        maker.scheme.clone_from(&self.scheme);
        maker.iterations = self.iterations;
        let field = maker.make(&password).map_err(|e| Failure(Exit::Data, e))?;
        let change = if add { Change::Add(&field) } else { Change::Set(&field) };
        match file.change(&login, &change)? {
            true => Ok(()),
            false if add => failed(Exit::Data, format!("{login} is there already: `ringpost user passwd`")),
            false => failed(Exit::NoUser, format!("there is no user {login}")),
        }
    }
}

fn remove(file: &UsersFile, login: &str) -> Outcome {
    let login = prepared(login)?;
    match file.change(&login, &Change::Remove)? {
        true => Ok(()),
        false => failed(Exit::NoUser, format!("there is no user {login}")),
    }
}

fn verify(file: &UsersFile, login: &str, stdin: bool) -> Outcome {
    let login = prepared(login)?;
    let text = file.read()?;
    let mut lines = text.lines().filter_map(|l| passwd::split(l)?.ok());
    let field = lines.find(|(l, _, _)| prepare::login(l).as_deref() == Some(&login)).map(|(_, f, _)| f);
    let Some(field) = field else { return failed(Exit::NoUser, format!("there is no user {login}")) };
    let credential = Credential::parse(field).map_err(|e| Failure(Exit::Data, format!("{login}: {e}")))?;
    let password = ask(stdin, false)?;
    if credential.fits(&password) { Ok(()) } else { failed(Exit::NoPermission, "the password is wrong") }
}

fn list(file: &UsersFile, json: bool, out: &mut impl Write) -> Outcome {
    for (n, line) in file.read()?.lines().enumerate() {
        let entry = match passwd::split(line) {
            None => continue,
            Some(Ok((login, field, _))) => Credential::parse(field).map(|c| (login, c)),
            Some(Err(why)) => Err(why),
        };
        let (login, credential) = match entry {
            Ok(entry) => entry,
            Err(why) => {
                eprintln!("ringpost user: line {}: {why}", n + 1);
                continue;
            }
        };
        let locked = matches!(credential, Credential::Locked);
        let serves = if locked { Vec::new() } else { credential.serves().iter().collect() };
        let names: Vec<&str> = serves.into_iter().filter(by_password).map(|m| m.name()).collect();
        let scheme = credential.scheme();
        if json {
            let object = serde_json::json!({
                "login": login, "scheme": scheme, "locked": locked, "mechanisms": names,
            });
            writeln!(out, "{object}")?;
        } else {
            writeln!(out, "{login}\t{scheme}\t{}", names.join(" "))?;
        }
    }
    Ok(())
}

/// A mechanism that the password field decides on; those with PLUS go without saying.
fn by_password(mechanism: &Mechanism) -> bool {
    !mechanism.is_plus() && *mechanism != Mechanism::External
}

/// Asks for a password, twice if it is a new one.
fn ask(stdin: bool, new: bool) -> Result<Secret, Failure> {
    let password = if stdin {
        first_line(io::stdin().lock())?
    } else {
        let password = Secret::new(rpassword::prompt_password("Password: ")?.into_bytes());
        if new {
            let again = Secret::new(rpassword::prompt_password("Password again: ")?.into_bytes());
            if again.expose() != password.expose() {
                return failed(Exit::Data, "the two passwords differ");
            }
        }
        password
    };
    match password.expose() {
        [] => failed(Exit::Data, "the password is empty"),
        p if p.len() > PASSWORD_MAX || p.contains(&0) => {
            failed(Exit::Data, format!("a password has at most {PASSWORD_MAX} bytes, and no NUL"))
        }
        _ => Ok(password),
    }
}

/// The first line, without its end.
fn first_line(input: impl Read) -> io::Result<Secret> {
    let mut bytes = Vec::with_capacity(4 * PASSWORD_MAX);
    input.take(2 * PASSWORD_MAX as u64).read_to_end(&mut bytes)?;
    let bytes = Secret::new(bytes);
    let line = bytes.expose().split(|&b| b == b'\n').next().unwrap_or_default();
    Ok(line.strip_suffix(b"\r").unwrap_or(line).into())
}
