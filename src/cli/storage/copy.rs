//! `ringpost storage copy-index`: asks a running server for copies of its indexes.
//!
//! The server writes them, as its own user; none is written over. Each is consistent in itself, as of
//! one transaction, durable with its name when it is told.

use super::{CONFIG_FILE, Exit, Failure};
use crate::admin::wire::{Command, Line};
use crate::cli::http;
use crate::config::Config;
use clap::Args;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Which server, and where to.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Directory for the copies, which the server's user may write to
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Configuration file, for the place of the admin socket
    #[arg(short, long, default_value = CONFIG_FILE, value_name = "FILE")]
    config: PathBuf,
    /// Admin socket, instead of asking the configuration file
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: CopyArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let socket = match args.socket {
        Some(path) => path,
        None => match Config::load(&args.config) {
            Ok((config, _)) => config.admin.socket.ok_or_else(|| {
                Failure::new(Exit::Config, "admin.socket is empty: the server has no admin socket")
            })?,
            Err(problems) => return Err(Failure::new(Exit::Config, problems)),
        },
    };
    // The server's working directory is another one.
    let dir = std::path::absolute(&args.dir).map_err(|e| Failure::reading(&args.dir, &e))?;
    let stream = UnixStream::connect(&socket).map_err(|e| {
        let text = format!("no server answers at {}: {e} (is `ringpost serve` running?)", socket.display());
        Failure::new(Exit::Unavailable, text)
    })?;
    let copies = ask(stream, &Command::CopyIndex { dir })?;
    if args.json {
        writeln!(out, "{:#}", json!({ "copies": copies }))?;
    } else {
        for copy in &copies {
            let log = copy["log"].as_u64().unwrap_or(0);
            writeln!(out, "log {log:04}: {}", copy["path"].as_str().unwrap_or(""))?;
        }
    }
    Ok(Exit::Ok)
}

fn ask(stream: UnixStream, command: &Command) -> Result<Vec<Value>, Failure> {
    let broke = |e: io::Error| Failure::new(Exit::Io, format!("the connection to the server broke: {e}"));
    let (mut copies, mut problems) = (Vec::new(), Vec::new());
    match http::ask(stream, command).map_err(broke)? {
        Err(problem) => problems.push(problem),
        Ok(body) => http::lines(body, |line| {
            match line {
                Line::Copied(copy) => copies.push(copy),
                Line::Problem(problem) => problems.push(problem),
                _ => return Err(io::Error::other("the server gave another answer")),
            }
            Ok(())
        })
        .map_err(broke)?,
    }
    let Some(problem) = problems.into_iter().next() else { return Ok(copies) };
    let exit = if problem.exit_code == 73 { Exit::CannotCreate } else { Exit::TempFail };
    Err(Failure::new(exit, problem.detail))
}
