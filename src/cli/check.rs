//! `ringpost check`: all problems of the configuration, its maps and its password file.
//!
//! Owns their print-out. Changes nothing. Exit code 78 if there is an error, 0 otherwise.

use super::{ConfigFile, Exit};
use crate::admin::token::Token;
use crate::config::resolve::EventTarget;
use crate::config::{Config, Problem, Problems, Severity, certificates, outgoing, reload, signing, users};
use crate::runtime::{privileges, uring};
use std::io::Write;

/// Arguments of `check`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the command for this process only: it becomes the server's user, as the server does, so that
/// files are read with the same rights.
pub fn run(args: &Args, out: &mut impl Write) -> Exit {
    run_as(args, out, become_user)
}

/// As [`run`]; `become_user` comes before all files but the configuration itself.
fn run_as(args: &Args, out: &mut impl Write, become_user: fn(&Config) -> Vec<Problem>) -> Exit {
    let problems = match Config::load(&args.file.config) {
        Err(problems) => problems,
        Ok((config, Problems(mut all))) => {
            all.extend(become_user(&config));
            all.extend(reload::router(&config).map_or_else(|errors| errors.0, |(_, warnings)| warnings.0));
            all.extend(users::check(&config));
            let read = certificates::read(&config, uring::wall_now());
            all.extend(
                read.map(|r| r.map_or_else(|errors| errors.0, |read| read.problems.0)).unwrap_or_default(),
            );
            all.extend(outgoing::read(&config).map_or_else(|errors| errors.0, |(_, warnings)| warnings.0));
            all.extend(
                signing::read(&signing::files(&config))
                    .map_or_else(|errors| errors.0, |(_, warnings)| warnings.0),
            );
            all.extend(token(&config));
            all.extend(mail_log(&config));
            Problems(all)
        }
    };
    let name = args.file.config.display().to_string();
    let printed = if args.json { print_json(&name, &problems, out) } else { print(&name, &problems, out) };
    match (printed, problems.fatal()) {
        (Err(_), _) => Exit::Io,
        (Ok(()), true) => Exit::Config,
        (Ok(()), false) => Exit::Ok,
    }
}

/// Becomes the user that the server will run as, if we are root and there is such a user.
fn become_user(config: &Config) -> Vec<Problem> {
    let Some(name) = config.user.as_deref().filter(|_| privileges::is_root()) else { return Vec::new() };
    let problem = |severity, e: privileges::PrivilegeError| {
        vec![Problem::of_file(severity, name, None, e.to_string(), "files were read as root")]
    };
    match privileges::user(name) {
        // The default need not exist.
        Err(_) if !config.user_written => Vec::new(),
        Err(e) => problem(Severity::Error, e),
        Ok(user) => privileges::drop_to(&user).map_or_else(|e| problem(Severity::Error, e), |()| Vec::new()),
    }
}

/// The token of the HTTP interface must be there, and be nobody else's.
fn token(config: &Config) -> Option<Problem> {
    let (_, path) = config.admin.tcp.as_ref()?;
    let what = Token::read(path).err()?;
    let name = path.display().to_string();
    Some(Problem::of_file(Severity::Error, &name, None, what, "server.user must be able to read it"))
}

/// The mail log must be writable by the server's user; one that is not there yet is made at the start.
fn mail_log(config: &Config) -> Option<Problem> {
    let EventTarget::File(path) = &config.event_target else { return None };
    #[allow(clippy::disallowed_methods)] // a program for operators
    let e = std::fs::OpenOptions::new().append(true).open(path).err()?;
    let help = "server.user must be able to write it, or it cannot be opened again";
    let denied = e.kind() == std::io::ErrorKind::PermissionDenied;
    let what = format!("the mail log cannot be written: {e}");
    denied.then(|| Problem::of_file(Severity::Warning, &path.display().to_string(), None, what, help))
}

fn print(name: &str, problems: &Problems, out: &mut impl Write) -> std::io::Result<()> {
    write!(out, "{problems}")?;
    let (errors, warnings) = (problems.count(Severity::Error), problems.count(Severity::Warning));
    let verdict = if problems.fatal() { "cannot be used" } else { "is good" };
    writeln!(out, "{name} {verdict}: errors {errors}, warnings {warnings}")
}

fn print_json(name: &str, problems: &Problems, out: &mut impl Write) -> std::io::Result<()> {
    let one = |p: &Problem| {
        serde_json::json!({
            "severity": p.severity.word(),
            "file": p.file,
            "line": p.at.map(|a| a.0),
            "column": p.at.map(|a| a.1),
            "key": p.key,
            "message": p.message,
            "help": p.help,
        })
    };
    let object = serde_json::json!({
        "file": name,
        "usable": !problems.fatal(),
        "errors": problems.count(Severity::Error),
        "warnings": problems.count(Severity::Warning),
        "problems": problems.0.iter().map(one).collect::<Vec<_>>(),
    });
    writeln!(out, "{object:#}")
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests make files
mod tests {
    use super::*;

    fn check(text: &str, json: bool) -> (Exit, String) {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("r.toml");
        std::fs::write(&config, text.replace("DIR", &dir.path().display().to_string())).unwrap();
        std::fs::write(dir.path().join("aliases"), "a: b@c.example\nbad:\n").unwrap();
        let mut out = Vec::new();
        // The tests' own process stays who it is.
        let exit = run_as(&Args { file: ConfigFile { config }, json }, &mut out, |_| Vec::new());
        (exit, String::from_utf8(out).unwrap())
    }

    #[test]
    fn good_and_bad() {
        let good = "[server]\nhostname = \"mx.example.net\"\n[relay]\nsmarthost = \"192.0.2.1\"\n";
        let (exit, text) = check(good, false);
        assert_eq!(exit, Exit::Ok);
        assert!(text.ends_with("r.toml is good: errors 0, warnings 0\n"), "{text}");
        let (exit, text) = check(&good.replace("smarthost", "smarthots"), false);
        assert_eq!(exit, Exit::Config);
        assert!(text.contains("r.toml:4:1: error: relay.smarthots: unknown key"), "{text}");
        assert!(text.contains("is \"smarthost\" meant?"));
        let with_map = good.to_string() + "[domains]\naliases = \"DIR/aliases\"\n";
        let (exit, text) = check(&with_map, false);
        assert_eq!(exit, Exit::Config);
        assert!(text.contains("aliases:2:1: error: \"bad\" has no target"), "{text}");
        let (exit, text) = check("[server]\n", true);
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((exit, object["problems"][0]["line"].as_u64()), (Exit::Config, Some(1)));
    }
}
