//! L5: the command line: one enum of commands, one file for each.
//!
//! Owns parsing of arguments and the exit codes of sysexits.h. A command that is added gets a
//! variant, a file, and a line in `Command::run`.

pub mod api;
pub mod check;
pub mod config;
pub mod demo;
pub mod dkim;
pub mod doctor;
pub mod explain;
mod http;
pub mod load;
pub mod mailbox;
pub mod man;
pub mod people;
pub mod pick;
pub mod queue;
pub mod sendmail;
pub mod serve;
pub mod storage;
pub mod submit;
mod terminal;
pub mod top;
pub mod trace;
pub mod user;
pub mod why;

use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Exit codes of sysexits.h that scripts and service managers understand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Wrong arguments.
    Usage = 64,
    /// Wrong input data.
    Data = 65,
    /// An input file is not there.
    NoInput = 66,
    /// There is no such user.
    NoUser = 67,
    /// A service that is needed is not there.
    Unavailable = 69,
    /// A fault of ours.
    Software = 70,
    /// The system lacks something (kernel, descriptors, memory).
    System = 71,
    /// A file cannot be made.
    CannotCreate = 73,
    /// Reading or writing failed.
    Io = 74,
    /// Try again later.
    TempFail = 75,
    /// Not allowed.
    NoPermission = 77,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Where the configuration is unless `-c` says otherwise.
pub const CONFIG_FILE: &str = "/etc/ringpost/ringpost.toml";

/// ringpost: takes mail over SMTP, keeps it safe, passes it on.
#[derive(Parser, Debug)]
#[command(name = "ringpost", version, arg_required_else_help = true, propagate_version = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// The option of all commands that read the configuration.
#[derive(clap::Args, Clone, Debug)]
pub struct ConfigFile {
    /// Configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = CONFIG_FILE)]
    pub config: PathBuf,
}

/// The commands.
#[derive(Subcommand, Debug)]
enum Command {
    /// Try it on loopback: a server, a sink, real messages, step by step
    Demo(demo::DemoArgs),
    /// Run the server until it is told to stop
    Serve(ConfigFile),
    /// Check the configuration and its map files
    Check(check::Args),
    /// The configuration in force; a file with every key to begin with
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Check this host: kernel, limits, disk, clock, name servers; say what to change and why
    Doctor(doctor::Args),
    /// Say what would become of mail to an address, and why
    #[command(subcommand)]
    Explain(explain::ExplainCommand),
    /// Print the OpenAPI description of the HTTP interface
    Api,
    /// Look at the queue of a running server, and change it
    Queue(Box<queue::QueueArgs>),
    /// Why a message is still here: what each recipient waits for, and what has been tried
    Why(why::WhyArgs),
    /// A screen of what the server does: cores, queue, rates, destinations
    Top(top::TopArgs),
    /// The lines of SMTP and LMTP that pass between the server and a peer, live; no passwords, no bodies
    Trace(trace::TraceArgs),
    /// The sessions that are open, on all cores
    Who(people::Plain),
    /// End the sessions of a user, or from an address
    Kick(people::KickArgs),
    /// Send nothing to a destination until it is resumed; its mail keeps its place
    Suspend(people::SuspendArgs),
    /// End a suspension
    Resume(people::ResumeArgs),
    /// Take no new mail, and empty the queue: before a node is moved
    Drain(people::DrainArgs),
    /// Mailboxes: looked at, verified, mended, filled, emptied, carried away; the server must not run
    Mailbox(Box<mailbox::MailboxArgs>),
    /// Keys that sign mail: make one, show what belongs into DNS and whether it is there
    #[command(subcommand)]
    Dkim(dkim::DkimCommand),
    /// Look at the users of the password file, and change them
    User(user::UserArgs),
    /// The files of the queue: what there is, whether it is sound; the index made anew, or copied
    #[command(subcommand)]
    Storage(storage::StorageCommand),
    /// Submit a message from standard input, as programs of a Unix host do; also when called by that name
    #[command(disable_help_flag = true)]
    Sendmail(Words),
    /// The queue, as `sendmail -bp`; also when called by that name
    #[command(disable_help_flag = true)]
    Mailq(Words),
    /// Check the aliases, which are read again by themselves; also when called by that name
    #[command(disable_help_flag = true)]
    Newaliases(Words),
    /// Write manual pages, one for each command
    Man(man::ManArgs),
    /// Print completions for a shell
    Completions(man::CompletionArgs),
    /// Load a mail server, receive its mail, compare the two
    #[command(subcommand)]
    Load(Box<load::LoadCommand>),
}

/// Arguments in the manner of sendmail.
#[derive(clap::Args, Debug)]
struct Words {
    /// Options of sendmail and recipients: -t -i -f ADDRESS -F NAME -N WHEN -R full|hdrs -V ENVID -C FILE -bm
    /// -bs -bp -bi -q -oi; others of its options are taken and change nothing
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORD")]
    words: Vec<OsString>,
}

impl Command {
    fn run(self) -> ExitCode {
        match self {
            Command::Demo(args) => demo::run(&args),
            Command::Serve(args) => serve::run(&args),
            Command::Check(args) => check::run(&args, &mut std::io::stdout()).into(),
            Command::Config(command) => command.run(),
            Command::Doctor(args) => doctor::run(&args, &mut std::io::stdout()).into(),
            Command::Explain(command) => command.run(&mut std::io::stdout()).into(),
            Command::Api => api::run(&mut std::io::stdout()).into(),
            Command::Queue(args) => args.run(),
            Command::Why(args) => args.run(),
            Command::Top(args) => args.run(),
            Command::Trace(args) => args.run(),
            Command::Who(args) => args.who(),
            Command::Kick(args) => args.run(),
            Command::Suspend(args) => args.run(),
            Command::Resume(args) => args.run(),
            Command::Drain(args) => args.run(),
            Command::Mailbox(args) => args.run().into(),
            Command::Dkim(command) => command.run(&mut std::io::stdout()).into(),
            Command::User(args) => args.run(),
            Command::Storage(command) => command.run().into(),
            Command::Sendmail(args) => sendmail::run("sendmail", &args.words),
            Command::Mailq(args) => sendmail::run("mailq", &args.words),
            Command::Newaliases(args) => sendmail::run("newaliases", &args.words),
            Command::Man(args) => args.run(Line::command()).into(),
            Command::Completions(args) => args.run(Line::command(), &mut std::io::stdout()).into(),
            Command::Load(command) => command.run(),
        }
    }
}

/// Runs the command in `args` (the first is the program's name, which may be a command by itself).
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let name = args.first().and_then(|name| Path::new(name).file_name()?.to_str());
    if let Some(name) = name.filter(|name| sendmail::is_ours(name)) {
        return sendmail::run(name, &args[1..]);
    }
    match Line::try_parse_from(args) {
        Ok(line) => line.command.run(),
        Err(e) => {
            // Nowhere to tell if the terminal is gone.
            let _ = e.print();
            if e.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_sound_and_all_have_help() {
        Line::command().debug_assert();
        for command in Line::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
        }
    }

    #[test]
    fn exit_codes() {
        let code = |args: &[&str]| format!("{:?}", run(args.iter().map(OsString::from)));
        let exit = |e: Exit| format!("{:?}", ExitCode::from(e));
        assert_eq!(code(&["ringpost", "--bad"]), exit(Exit::Usage));
        assert_eq!(code(&["ringpost"]), exit(Exit::Usage));
        assert_eq!(code(&["ringpost", "--help"]), exit(Exit::Ok));
        assert_eq!(code(&["ringpost", "check", "--help"]), exit(Exit::Ok));
        assert_eq!(code(&["ringpost", "check", "-c", "/nowhere/x.toml"]), exit(Exit::Config));
    }
}
