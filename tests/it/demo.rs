//! The README's first command: it must work as it stands.

use std::process::Command;

#[test]
fn the_demo_goes_all_the_way_and_ends() {
    let data = tempfile::tempdir().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_ringpost"));
    demo.args(["demo", "--once", "--port", "0", "--data"]).arg(data.path());
    let done = demo.output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(0), "{text}\n{}", String::from_utf8_lossy(&done.stderr));
    let id = text.lines().find_map(|l| l.strip_prefix("     S: 250 2.0.0 Ok: queued as "));
    let id = id.expect("the dialogue is shown");
    assert!(text.contains(&format!("(ringpost) with ESMTP id {id}")), "it arrived with its id: {text}");
    assert!(text.contains("20000 acknowledged and delivered"), "{text}");
}
