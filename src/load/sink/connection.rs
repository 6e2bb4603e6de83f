//! One connection of a sink: bytes between a socket and a [`Session`](super::session::Session).
//!
//! Owns reading, writing, played pauses and time-outs. All bytes of one read are worked off before
//! one write answers them. A broken connection drops its unfinished message.

use super::Shared;
use super::session::{Next, Session};
use crate::load::shell::{Guard, read_with, write_parts};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Serves `stream` to its end.
pub(super) async fn run(shared: Rc<Shared>, mut stream: TcpStream) {
    let _ = stream.set_nodelay(true); // a slower answer is no reason to refuse a connection
    shared.open.set(shared.open.get() + 1);
    if serve(&shared, &mut stream).await.is_err() {
        shared.counters.broken.add(1);
    }
    shared.open.set(shared.open.get() - 1);
}

async fn serve(shared: &Shared, stream: &mut TcpStream) -> io::Result<()> {
    let mut session = Session::new();
    let mut guard = Guard::new(shared.timeout, shared.stop.clone(), Duration::from_millis(100));
    // Replies not yet written, and input not yet worked off because of a pause.
    let (mut out, mut left) = (Vec::with_capacity(512), Vec::new());
    let mut next = {
        let mut world = shared.world.borrow_mut();
        session.greet(&shared.profile, &mut world.faults, &mut out)
    };
    loop {
        if let Next::Pause(time) = next {
            tokio::time::sleep(time).await;
        }
        if next != Next::Drop && !out.is_empty() {
            write_parts(stream, [&out, &[], &[]], &mut 0, &mut guard).await?;
            out.clear();
        }
        if matches!(next, Next::Close | Next::Drop) {
            return Ok(());
        }
        if !left.is_empty() {
            let input: Vec<u8> = std::mem::take(&mut left);
            next = feed(shared, &mut session, &input, &mut out, &mut left);
            continue;
        }
        let got = read_with(stream, &shared.scratch, &mut guard, |input| {
            (!input.is_empty()).then(|| feed(shared, &mut session, input, &mut out, &mut left))
        })
        .await?;
        match got {
            Some(n) => next = n,
            None => return Ok(()),
        }
    }
}

fn feed(shared: &Shared, session: &mut Session, input: &[u8], out: &mut Vec<u8>, left: &mut Vec<u8>) -> Next {
    let world = &mut *shared.world.borrow_mut();
    let (used, next) =
        session.feed(input, &shared.profile, &mut world.faults, &shared.counters, &mut world.taker, out);
    left.extend_from_slice(&input[used..]);
    next
}
