//! What an idle session under TLS holds, counted byte by byte at the allocator.
//!
//! The server runs in a process of this program, whose allocator counts, and writes the count into a
//! file again and again. Buffers that lie free for the next session are counted once for all. What the
//! cryptographic library takes from the C library is not (about 1.5 KiB for each session);
//! `benches/tls.sh` measures the pages of the whole process.
#![allow(clippy::disallowed_methods, reason = "the server under test writes its count into a file")]

use crate::harness::secure::{BOTH, Pair, rules};
use crate::harness::{Client, Config, Hop, LOOK, Server, until};
use crate::hostile::{FROM, TO};
use stats_alloc::INSTRUMENTED_SYSTEM;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const HOST: &str = "mx.test.example";
/// Sessions that are open at once.
const SESSIONS: usize = 200;
/// The most that one may hold.
const MOST: usize = 16 << 10;

/// The server of the test below, in its own process; without the words of a command line there is none.
#[test]
fn counted_server() {
    let words: Vec<_> = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    let Some(config) = words.last().map(Path::new) else { return };
    let (count, next) = (config.with_file_name("count"), config.with_file_name("next"));
    std::thread::spawn(move || {
        for number in 0u64.. {
            let stats = INSTRUMENTED_SYSTEM.stats();
            let held = stats.bytes_allocated - stats.bytes_deallocated;
            let written = std::fs::write(&next, format!("{number} {held}"));
            if written.and_then(|()| std::fs::rename(&next, &count)).is_err() {
                // The directory has gone, and so will this process.
                return;
            }
            std::thread::sleep(LOOK);
        }
    });
    let code = ringpost::cli::run(words.into_iter());
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
}

/// Bytes that the server holds: counted after this was called.
fn held(server: &Server) -> usize {
    let read = || {
        let text = std::fs::read_to_string(server.dir().path().join("count")).ok()?;
        let (number, held) = text.split_once(' ')?;
        Some((number.parse::<u64>().ok()?, held.parse().ok()?))
    };
    let (first, _) = until("a count", read);
    until("a newer count", || read().filter(|(number, _)| *number > first + 1)).1
}

#[test]
fn an_idle_session_under_tls_is_small() {
    let (hop, dir) = (Hop::start(), crate::harness::server::directory());
    let pair = Pair::make(dir.path(), "main", HOST);
    let mut config = Config::new(hop.address);
    config.tail =
        format!("[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\n[tls]\n{}", pair.lines());
    let this = std::env::current_exe().expect("this program");
    let test = ["--exact", "memory::counted_server", "--nocapture", "--"];
    config.wrapper = std::iter::once(this.to_str().expect("a path")).chain(test).map(Into::into).collect();
    let server = Server::start(&config);
    let rules = Arc::new(rules(BOTH));
    let open = |count: usize| -> Vec<Client> {
        let one = |_| {
            let mut client = Client::secured(server.smtp, &rules, HOST);
            client.envelope(FROM, &[TO]);
            client.say("RSET").expect("250 ");
            client
        };
        (0..count).map(one).collect()
    };
    // What is needed once is there after these, and so are buffers for as many again, if they have given
    // theirs back when they have been idle for a moment.
    let mut first = open(2 * SESSIONS);
    std::thread::sleep(Duration::from_secs(4));
    let before = held(&server);
    let mut clients = open(SESSIONS);
    // They are idle when they have been so for a moment (2 s), each.
    let each = std::cell::Cell::new(0);
    let small = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until("small sessions", || {
            each.set(held(&server).saturating_sub(before) / SESSIONS);
            (each.get() <= MOST).then_some(())
        });
    }));
    assert!(small.is_ok(), "{} bytes for each of {SESSIONS} sessions", each.get());
    println!("{} bytes for each of {SESSIONS} idle sessions", each.get());
    // They were there all the time.
    for client in first.iter_mut().chain(&mut clients) {
        client.say("NOOP").expect("250 ");
    }
}
