//! L5: the command line: one enum of commands, one file for each.
//!
//! Owns parsing of arguments and the exit codes of sysexits.h. A command that is added gets a
//! variant, a file, and a line in `Command::run`.

pub mod check;
pub mod demo;
pub mod dkim;
pub mod doctor;
pub mod explain;
pub mod load;
pub mod mailbox;
pub mod queue;
pub mod serve;
pub mod storage;
pub mod user;
pub mod why;

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
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
    /// Check this host: kernel, limits, disk, clock, name servers; say what to change and why
    Doctor(doctor::Args),
    /// Say what would become of mail to an address, and why
    #[command(subcommand)]
    Explain(explain::ExplainCommand),
    /// Look at the queue of a running server, and change it
    Queue(queue::QueueArgs),
    /// Why a message is still here: what each recipient waits for, and what has been tried
    Why(why::WhyArgs),
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
    /// Load a mail server, receive its mail, compare the two
    #[command(subcommand)]
    Load(Box<load::LoadCommand>),
}

impl Command {
    fn run(self) -> ExitCode {
        match self {
            Command::Demo(args) => demo::run(&args),
            Command::Serve(args) => serve::run(&args),
            Command::Check(args) => check::run(&args, &mut std::io::stdout()).into(),
            Command::Doctor(args) => doctor::run(&args, &mut std::io::stdout()).into(),
            Command::Explain(command) => command.run(&mut std::io::stdout()).into(),
            Command::Queue(args) => args.run(),
            Command::Why(args) => args.run(),
            Command::Mailbox(args) => args.run().into(),
            Command::Dkim(command) => command.run(&mut std::io::stdout()).into(),
            Command::User(args) => args.run().into(),
            Command::Storage(command) => command.run().into(),
            Command::Load(command) => command.run(),
        }
    }
}

/// Runs the command in `args` (the first is the program's name).
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
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
    use clap::CommandFactory;

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
