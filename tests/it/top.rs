//! `ringpost top` on a real terminal, which script(1) is.
#![allow(clippy::disallowed_methods, reason = "a test runs programs")]

use crate::harness::server::PROGRAM;
use crate::harness::{Config, Hop, Server};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

#[test]
fn it_fits_and_leaves_the_terminal_as_it_was() {
    if Command::new("script").arg("--version").output().is_err() {
        return eprintln!("skipped: no script(1) here");
    }
    let server = Server::start(&Config::new(Hop::later()));
    let file = server.dir().path().join("ringpost.toml");
    let top = format!("{PROGRAM} top --every 200ms -c {}", file.display());
    for key in ["q", "\x03"] {
        // Two rows, forty columns; larger while it runs.
        let larger = "(sleep 2; stty -F /dev/tty cols 60 rows 20)";
        let line = format!("stty cols 40 rows 3; {larger} & {top}; echo ended with $?; stty -a; wait");
        let mut child = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut said = String::new();
        // The destinations are behind the third row.
        while !said.contains("DESTINATION") {
            let mut bytes = [0; 1024];
            let n = output.read(&mut bytes).unwrap();
            assert!(n > 0, "{said}");
            said += &String::from_utf8_lossy(&bytes[..n]);
        }
        input.write_all(key.as_bytes()).unwrap();
        let mut rest = Vec::new();
        output.read_to_end(&mut rest).unwrap();
        child.wait().unwrap();
        said += &String::from_utf8_lossy(&rest);
        assert!(said.contains("ended with 0"), "{said}");
        assert!(said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l"), "the cursor is there again: {said}");
        let modes = said.rsplit_once("ended").unwrap().1;
        assert!(modes.contains(" icanon") && modes.contains(" echo ") && modes.contains("isig"), "{modes}");
        let frames: Vec<&str> = said.split("\x1b[H").skip(1).collect();
        let rows = |frame: &str| frame.split_once("\x1b[J").unwrap_or((frame, "")).0.matches("\r\n").count();
        assert_eq!(rows(frames[0]), 2, "{:?}", frames[0]);
        assert!(frames.iter().any(|frame| rows(frame) > 5), "{said}");
        // The terminal puts a carriage return before each line feed.
        let shown = |row: &str| row.replace(['\r', '\n'], "").replace("\x1b[K", "").replace("\x1b[J", "");
        let longest = frames[0].lines().map(|row| shown(row).chars().count()).max();
        assert!(longest <= Some(40), "{:?}", frames[0]);
    }
}
