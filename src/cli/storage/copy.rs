//! `ringpost storage copy-index`: asks a running server for copies of its indexes.
//!
//! The server writes them, as its own user; none is written over. Each is consistent in itself, as of
//! one transaction, durable with its name when it is told.

use super::{CONFIG_FILE, Exit, Failure};
use crate::admin::wire::{Command, Line};
use crate::config::Config;
use clap::Args;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
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
            Ok((config, _)) => config.admin_socket.ok_or_else(|| {
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

fn ask(mut stream: UnixStream, command: &Command) -> Result<Vec<Value>, Failure> {
    let broke = |e: io::Error| Failure::new(Exit::Io, format!("the connection to the server broke: {e}"));
    let mut text = serde_json::to_vec(command).map_err(|e| broke(e.into()))?;
    text.push(b'\n');
    stream.write_all(&text).map_err(broke)?;
    let mut copies = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(broke)?;
        match serde_json::from_str(&line).map_err(|e| broke(e.into()))? {
            Line::Copied(copy) => copies.push(copy),
            Line::Error { text, code } => {
                let exit = match code {
                    73 => Exit::CannotCreate,
                    _ => Exit::TempFail,
                };
                return Err(Failure::new(exit, text));
            }
            Line::End => return Ok(copies),
            _ => return Err(Failure::new(Exit::Software, "the server gave another answer")),
        }
    }
    Err(broke(io::ErrorKind::UnexpectedEof.into()))
}
