//! Tests of the command: what is asked for, what is printed, exit codes.
#![allow(clippy::disallowed_methods, reason = "tests make files")]

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    user: UserArgs,
}

fn parse(words: &[&str]) -> Result<UserArgs, clap::Error> {
    Cli::try_parse_from([&["user"], words].concat()).map(|c| c.user)
}

#[test]
fn arguments() {
    let args = parse(&["add", "ann", "--scheme", "argon2id", "--file", "/f"]).unwrap();
    let UserCommand::Add(new) = args.command else { panic!("add") };
    assert_eq!((new.scheme.as_str(), new.iterations), ("ARGON2ID", ITERATIONS));
    for bad in [&["add", "ann", "--scheme", "rot13"][..], &["add", "ann", "--iterations", "1"], &["add"]] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn lists_and_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    std::fs::write(&path, "ann:{PLAIN}x\nbob:!\nbad\n").unwrap();
    let file = UsersFile::new(&path, None);
    let mut out = Vec::new();
    assert!(list(&file, false, &mut out).is_ok());
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text, "ann\tPLAIN\tSCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN\nbob\tlocked\t\n");
    let mut out = Vec::new();
    assert!(list(&file, true, &mut out).is_ok());
    let first: serde_json::Value =
        serde_json::from_slice(out.split(|b| *b == b'\n').next().unwrap()).unwrap();
    assert_eq!((first["login"].as_str(), first["locked"].as_bool()), (Some("ann"), Some(false)));
    assert!(remove(&file, "Bob").is_ok());
    assert!(remove(&file, "bob").is_err_and(|f| f.0 == Exit::NoUser));
    assert!(remove(&file, "a b").is_err_and(|f| f.0 == Exit::Usage));
    let nowhere = UsersFile::new(&dir.path().join("none"), None);
    assert!(list(&nowhere, false, &mut Vec::new()).is_err_and(|f| f.0 == Exit::NoInput));
}

#[test]
fn one_line_of_input_is_the_password() {
    for (input, password) in [("a b\n", "a b"), ("a\r\nb\n", "a"), ("a", "a"), ("\n", ""), ("", "")] {
        assert_eq!(first_line(input.as_bytes()).unwrap().expose(), password.as_bytes(), "{input:?}");
    }
}
