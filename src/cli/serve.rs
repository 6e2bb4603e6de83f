//! `ringpost serve`: the server in the foreground, until a signal stops it.

use super::ConfigFile;
use crate::config::Config;
use crate::server;
use std::process::ExitCode;
use std::sync::Arc;

/// Runs the server. Exit code 0 after an orderly stop; 78 configuration, 71 system, 75 the data
/// directory is in use.
pub fn run(args: &ConfigFile) -> ExitCode {
    let config = match Config::load(&args.config) {
        Ok((config, warnings)) => {
            eprint!("{warnings}");
            config
        }
        Err(problems) => {
            eprint!("{problems}");
            return ExitCode::from(78);
        }
    };
    match server::start(Arc::new(config)).and_then(server::Running::wait) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ringpost: {}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}
