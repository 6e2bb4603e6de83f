//! `ringpost man` and `ringpost completions`: pages and shell completions, made of the command definitions.
//!
//! Owns names of files. A page that is there is written over.

use super::Exit;
use clap::Command;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Arguments of `man`.
#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// Directory for the pages; made if it is not there
    dir: PathBuf,
}

/// Arguments of `completions`.
#[derive(clap::Args, Debug)]
pub struct CompletionArgs {
    /// For which shell
    shell: clap_complete::Shell,
}

impl ManArgs {
    /// Writes a page for each command in `command`.
    pub fn run(&self, command: Command) -> Exit {
        match write_all(command, &self.dir) {
            Ok(count) => {
                println!("{count} pages in {}", self.dir.display());
                Exit::Ok
            }
            Err(e) => {
                eprintln!("ringpost man: {}: {e}", self.dir.display());
                Exit::CannotCreate
            }
        }
    }
}

impl CompletionArgs {
    /// Prints the completions.
    pub fn run(&self, mut command: Command, out: &mut impl Write) -> Exit {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, "ringpost", &mut text);
        if out.write_all(&text).is_ok() { Exit::Ok } else { Exit::Io }
    }
}

fn write_all(mut command: Command, dir: &Path) -> io::Result<usize> {
    std::fs::create_dir_all(dir)?;
    // Options of all subcommands are handed down.
    command.build();
    write_one(&command, "ringpost", dir)
}

#[allow(clippy::disallowed_methods, reason = "a program for packagers writes files")]
fn write_one(command: &Command, name: &str, dir: &Path) -> io::Result<usize> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name).render(&mut page)?;
    std::fs::write(dir.join(format!("{name}.1")), page)?;
    let mut count = 1;
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help" && !s.is_hide_set()) {
        count += write_one(sub, &format!("{name}-{}", sub.get_name()), dir)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn each_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let count = write_all(crate::cli::Line::command(), dir.path()).unwrap();
        assert!(count > 40, "{count}");
        let page = std::fs::read_to_string(dir.path().join("ringpost-queue-hold.1")).unwrap();
        assert!(page.contains(".TH") && page.contains("sender") && page.contains("such as 2h"), "{page}");
        let mut out = Vec::new();
        let shell = clap_complete::Shell::Bash;
        assert_eq!(CompletionArgs { shell }.run(crate::cli::Line::command(), &mut out), Exit::Ok);
        assert!(String::from_utf8(out).unwrap().contains("requeue"));
    }
}
