//! The runtime against the real kernel, on loopback and a temporary directory.

#![allow(clippy::disallowed_methods)]

use super::*;
use crate::base::aligned::{AlignedBuf, PAGE, SharedBytes};
use crate::runtime::uring::net::{Listener, Stream};
use crate::runtime::{
    Clock, Disk, Entropy, File as _, Listener as _, Net, OpenAs, Part, Runtime, Stream as _, in_child, shared,
};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Runs `test` on a ring of its own; it fails after 20 s.
fn on_ring<F: Future<Output = ()>>(test: impl FnOnce(Uring) -> F) {
    let main = async |uring| {
        tokio::time::timeout(Duration::from_secs(20), test(uring)).await.expect("in time");
    };
    run(&Options::small(), main).expect("a ring");
}

fn listen(uring: &Uring) -> Listener {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    uring.listener(socket.into()).unwrap()
}

fn soon(uring: &Uring, ms: u64) -> Mono {
    uring.now().after(Duration::from_millis(ms))
}

/// Both ends of a connection.
async fn pair(uring: &Uring) -> (Stream, Stream) {
    let listener = listen(uring);
    let near = uring.connect(listener.local(), None, soon(uring, 5000)).await.unwrap();
    let (far, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, near.local());
    assert_eq!(far.local(), listener.local());
    (near, far)
}

/// Both ends of a connection whose buffers are as small as they get.
async fn narrow_pair(uring: &Uring) -> (Stream, Stream) {
    let (near, far) = pair(uring).await;
    socket2::SockRef::from(near.socket.owned()).set_send_buffer_size(1).unwrap();
    socket2::SockRef::from(far.socket.owned()).set_recv_buffer_size(32 << 10).unwrap();
    (near, far)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8 ^ (n >> 8) as u8).collect()
}

async fn recv_exactly(stream: &Stream, len: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(len);
    while all.len() < len {
        let (n, back) = stream.recv(all).await;
        assert_ne!(n.unwrap(), 0, "the peer finished early");
        all = back;
    }
    all
}

#[test]
fn echo_with_linked_send_and_receive() {
    on_ring(async |uring| {
        let (near, far) = pair(&uring).await;
        uring.spawn(async move {
            let mut buf = Vec::with_capacity(1024);
            loop {
                let (n, got) = far.recv(buf).await;
                if n.unwrap() == 0 {
                    return;
                }
                let (res, mut back) = far.send(got).await;
                res.unwrap();
                back.clear();
                buf = back;
            }
        });
        for round in 0..200u32 {
            let out = format!("line {round}\r\n").into_bytes();
            let (n, sent, got) = near.send_recv(out.clone(), Vec::with_capacity(64)).await;
            assert_eq!(n.unwrap(), out.len());
            assert!(got == out && sent.is_empty());
        }
        let parts = vec![
            Part::Static(b"one "),
            Part::Owned(b"two ".to_vec()),
            Part::Shared(SharedBytes::copy_of(b"three")),
        ];
        let (n, parts, got) = near.send_parts_recv(parts, Vec::with_capacity(64)).await;
        assert_eq!((n.unwrap(), &got[..], parts.len()), (13, &b"one two three"[..], 3));
        let (n, _, got) = near.send_parts_recv(vec![Part::Static(b"x")], b"kept".to_vec()).await;
        assert_eq!(n.unwrap_err().kind(), io::ErrorKind::InvalidInput, "no room");
        assert_eq!(got, b"kept");
        assert!(socket2::SockRef::from(near.socket.owned()).tcp_nodelay().unwrap());
    });
}

/// Sends through narrow buffers while the operations are cancelled again and again (as when a
/// deadline passes and a new one is set at once): every byte arrives once, in order.
fn sent_once(how: impl AsyncFn(&Stream, &[u8]) -> Vec<u8> + Copy + 'static) {
    on_ring(async move |uring| {
        let data = pattern(1_500_000);
        let (near, far) = narrow_pair(&uring).await;
        let (len, expected) = (data.len(), data.clone());
        let canceller = (uring.clone(), near.socket.clone());
        uring.spawn(async move {
            let (uring, socket) = canceller;
            while Rc::strong_count(&socket) > 1 {
                ops::cancel(socket.clone());
                uring.sleep_until(soon(&uring, 3)).await;
            }
        });
        let reader = tokio_uring::spawn(async move {
            let mut all = Vec::with_capacity(len);
            while all.len() < len {
                let (n, got) = far.recv(Vec::with_capacity(4000)).await;
                assert_ne!(n.unwrap(), 0);
                all.extend_from_slice(&got);
                if all.len() % 7 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            far.send(b"thanks".to_vec()).await.0.unwrap();
            all
        });
        let answer = how(&near, &data).await;
        assert!(reader.await.unwrap() == expected, "bytes lost, doubled or out of order");
        assert_eq!(answer, b"thanks");
    });
}

#[test]
fn short_linked_sends_go_on() {
    sent_once(async |near, data| {
        let (n, out, got) = near.send_recv(data.to_vec(), Vec::with_capacity(6)).await;
        assert_eq!((n.unwrap(), out.len()), (6, 0));
        got
    });
}

#[test]
fn short_gathered_sends_go_on() {
    sent_once(async |near, data| {
        let parts = data.chunks(97).map(|c| Part::Owned(c.to_vec())).collect();
        let (n, parts, got) = near.send_parts_recv(parts, Vec::with_capacity(6)).await;
        assert_eq!(n.unwrap(), 6);
        assert_eq!(parts.iter().map(|p| p.bytes().len()).sum::<usize>(), data.len());
        got
    });
}

#[test]
fn short_plain_sends_go_on() {
    sent_once(async |near, data| {
        near.send(data[..100_000].to_vec()).await.0.unwrap();
        let parts = data[100_000..].chunks(50).map(|c| Part::Owned(c.to_vec())).collect();
        near.send_parts(parts).await.0.unwrap();
        recv_exactly(near, 6).await
    });
}

#[test]
fn a_deadline_ends_operations_and_the_stream_stays_usable() {
    on_ring(async |uring| {
        let (near, far) = pair(&uring).await;
        let timed_out = |e: io::Error| assert_eq!(e.kind(), io::ErrorKind::TimedOut);
        let started = Instant::now();
        near.set_deadline(Some(soon(&uring, 100)));
        let (res, buf) = near.recv(Vec::with_capacity(10)).await;
        timed_out(res.unwrap_err());
        assert!(started.elapsed() >= Duration::from_millis(100));
        assert!(started.elapsed() < Duration::from_millis(1100));
        timed_out(near.recv(buf).await.0.unwrap_err());
        timed_out(near.send(b"late".to_vec()).await.0.unwrap_err());
        timed_out(near.readable().await.unwrap_err());

        near.set_deadline(Some(soon(&uring, 60_000)));
        far.send(b"hello".to_vec()).await.0.unwrap();
        near.readable().await.unwrap();
        assert_eq!(recv_exactly(&near, 5).await, b"hello", "nothing was swallowed");

        near.set_deadline(Some(soon(&uring, 50)));
        timed_out(near.readable().await.unwrap_err());
        near.set_deadline(None);
        near.set_deadline(Some(soon(&uring, 50)));
        let (n, out, buf) = near.send_recv(b"ping".to_vec(), Vec::with_capacity(10)).await;
        timed_out(n.unwrap_err());
        assert!(out.is_empty(), "it was sent; only the answer did not come");
        assert_eq!(recv_exactly(&far, 4).await, b"ping");
        near.set_deadline(None);
        far.send(b"pong".to_vec()).await.0.unwrap();
        assert_eq!(near.recv(buf).await.1, b"pong");
        assert_eq!(near.socket.running(), 0);
    });
}

#[test]
fn a_deadline_ends_a_send_to_a_peer_that_does_not_read() {
    on_ring(async |uring| {
        for gathered in [false, true] {
            let (near, _far) = narrow_pair(&uring).await;
            near.set_deadline(Some(soon(&uring, 100)));
            let out = pattern(3_000_000);
            let res = if gathered {
                let parts = vec![Part::Owned(out)];
                near.send_parts_recv(parts, Vec::with_capacity(10)).await.0
            } else {
                let (res, out, _) = near.send_recv(out, Vec::with_capacity(10)).await;
                assert!(!out.is_empty(), "it was not all sent");
                res
            };
            assert_eq!(res.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(near.socket.running(), 0);
        }
    });
}

#[test]
fn shutdown_and_drop_end_operations() {
    on_ring(async |uring| {
        let (near, far) = pair(&uring).await;
        let near = Rc::new(near);
        let other = near.clone();
        let clock = uring.clone();
        uring.spawn(async move {
            clock.sleep_until(soon(&clock, 30)).await;
            other.shutdown();
        });
        assert_eq!(near.recv(Vec::with_capacity(10)).await.0.unwrap(), 0);
        assert_eq!(far.recv(Vec::with_capacity(10)).await.0.unwrap(), 0);

        let (near, far) = pair(&uring).await;
        near.send(b"last words".to_vec()).await.0.unwrap();
        near.finish();
        assert_eq!(recv_exactly(&far, 10).await, b"last words");
        assert_eq!(far.recv(Vec::with_capacity(10)).await.0.unwrap(), 0);
        far.send(b"bye".to_vec()).await.0.unwrap();
        let moved = uring.adopt(near.duplicate().unwrap()).unwrap();
        drop(near);
        assert_eq!(recv_exactly(&moved, 3).await, b"bye");

        // A receive whose future is dropped keeps its buffer and descriptor until it ends, and the
        // dropped stream ends it.
        let (near, far) = pair(&uring).await;
        let fd = Rc::downgrade(&near.socket);
        let read = near.recv(Vec::with_capacity(10));
        assert!(tokio::time::timeout(Duration::from_millis(20), read).await.is_err());
        assert_eq!(near.socket.running(), 1);
        drop(near);
        assert_eq!(far.recv(Vec::with_capacity(10)).await.0.unwrap(), 0);
        uring.sleep_until(soon(&uring, 20)).await;
        assert!(fd.upgrade().is_none(), "closed");
    });
}

#[test]
fn connecting_ends_at_its_deadline() {
    on_ring(async |uring| {
        // A full queue of a listener that does not accept lets connections wait.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let to = socket.local_addr().unwrap().as_socket().unwrap();
        let mut kept = Vec::new();
        let error = loop {
            match uring.connect(to, None, soon(&uring, 200)).await {
                Ok(stream) => kept.push(stream),
                Err(e) => break e,
            }
            assert!(kept.len() < 10);
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(socket);
        let refused = uring.connect(to, None, soon(&uring, 5000)).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listener = listen(&uring);
        let source = "127.0.0.9".parse().unwrap();
        let near = uring.connect(listener.local(), Some(source), soon(&uring, 5000)).await.unwrap();
        assert_eq!(near.local().ip(), source);
        assert_eq!(listener.accept().await.unwrap().1.ip(), source);
    });
}

#[test]
fn a_socket_in_the_file_system_is_a_connection_like_others() {
    on_ring(async |uring| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let missing = uring.connect_path(&path, soon(&uring, 5000)).await.err().unwrap();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let near = uring.connect_path(&path, soon(&uring, 5000)).await.unwrap();
        let far = uring.adopt(listener.accept().unwrap().0.into()).unwrap();
        let (sent, buf) = near.send(b"hello".to_vec()).await;
        sent.unwrap();
        let (heard, buf) = far.recv(Vec::with_capacity(buf.len())).await;
        assert_eq!((heard.unwrap(), &buf[..]), (5, &b"hello"[..]));
        assert!(near.local().ip().is_unspecified());
        drop(listener);
        let refused = uring.connect_path(&path, soon(&uring, 5000)).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let long = std::path::PathBuf::from(format!("/{}", "x".repeat(200)));
        assert!(uring.connect_path(&long, soon(&uring, 5000)).await.is_err());
    });
}

#[test]
fn closing_a_listener_ends_accept() {
    on_ring(async |uring| {
        let listener = Rc::new(listen(&uring));
        let other = listener.clone();
        let clock = uring.clone();
        uring.spawn(async move {
            clock.sleep_until(soon(&clock, 30)).await;
            other.close();
        });
        for _ in 0..2 {
            let error = listener.accept().await.err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        }
        assert!(uring.connect(listener.local(), None, soon(&uring, 5000)).await.is_err());
    });
}

#[test]
fn accepting_that_cannot_work_does_not_spin() {
    on_ring(async |uring| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let listener = uring.listener(socket.into()).unwrap();
        let started = Instant::now();
        assert!(listener.accept().await.is_err());
        assert!(started.elapsed() >= Duration::from_millis(100));
    });
}

#[test]
fn a_panic_ends_one_task_and_is_counted() {
    on_ring(async |uring| {
        let seen = Rc::new(Cell::new(0));
        let count = seen.clone();
        uring.on_panic(move || count.set(count.get() + 1));
        let (near, far) = pair(&uring).await;
        let clock = uring.clone();
        uring.spawn(async move {
            let _held = far;
            clock.sleep_until(soon(&clock, 1)).await;
            panic!("on purpose, in a test");
        });
        assert_eq!(near.recv(Vec::with_capacity(1)).await.0.unwrap(), 0, "its session closed");
        uring.sleep_until(soon(&uring, 5)).await;
        assert_eq!((seen.get(), uring.stats().panics()), (1, 1));
    });
}

#[test]
fn chance_and_time() {
    on_ring(async |uring| {
        let (a, b) = (uring.random(), uring.random());
        let mut c = [0; 300];
        uring.fill(&mut c);
        assert!(a != b && c[..] != [0; 300]);
        let before = uring.now();
        uring.sleep_until(soon(&uring, 10)).await;
        assert!(uring.now().since(before) >= Duration::from_millis(10));
        assert!(uring.wall().seconds() > 1_700_000_000);
    });
}

fn page_of(byte: u8) -> SharedBytes {
    let mut buf = AlignedBuf::with_capacity(PAGE);
    buf.put(&[byte; PAGE]);
    shared(buf)
}

#[test]
fn segments_are_zero_filled_and_written_directly() {
    let disk = tempfile::tempdir().unwrap();
    check_segments(&disk);
}

#[test]
fn segments_work_where_direct_io_may_be_refused() {
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else { return };
    check_segments(&memory);
}

fn check_segments(dir: &tempfile::TempDir) {
    for write in [WriteMethod::DirectDsync, WriteMethod::DirectThenSync, WriteMethod::BufferedThenSync] {
        let path = dir.path().join(format!("a/b/{write:?}"));
        let main = async |uring: Uring| {
            uring.create_dir(path.parent().unwrap()).await.unwrap();
            uring.create_dir(path.parent().unwrap()).await.unwrap();
            let len = 3 * (1 << 20) + PAGE as u64;
            uring.create_zeroed(&path, len).await.unwrap();
            let again = uring.create_zeroed(&path, len).await.unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);

            let file = uring.open(&path, OpenAs::Segment).await.unwrap();
            assert_eq!(file.len().unwrap(), len);
            file.write_at(page_of(7), 2 * PAGE as u64).await.unwrap();
            let beyond = (i64::MAX as u64).next_multiple_of(PAGE as u64) - PAGE as u64;
            assert!(file.write_at(page_of(7), beyond).await.is_err());
            let (res, buf) = file.read_at(AlignedBuf::with_capacity(4 * PAGE), 0).await;
            res.unwrap();
            assert!(buf.bytes()[..2 * PAGE].iter().all(|&b| b == 0));
            assert!(buf.bytes()[2 * PAGE..3 * PAGE].iter().all(|&b| b == 7));
            let (res, buf) = file.read_at(buf, len - PAGE as u64).await;
            res.unwrap();
            assert_eq!(buf.len(), PAGE, "the end of the file");
            let names: Vec<_> = uring.list(path.parent().unwrap()).await.unwrap();
            assert!(names.contains(&(format!("{write:?}"), len)));
            assert!(names.iter().all(|(name, _)| !name.ends_with(disk::PARTIAL)));
            assert!(uring.free_bytes(&path).await.unwrap() > 0);
            file.method()
        };
        let method = run(&Options { write, ..Options::small() }, main).unwrap();
        assert!(method == Some(write) || method == Some(WriteMethod::BufferedThenSync));
    }
}

#[test]
fn side_files_and_locks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("side");
    on_ring(async |uring| {
        let file = uring.open(&path, OpenAs::NewSide).await.unwrap();
        assert!(uring.open(&path, OpenAs::NewSide).await.is_err(), "it exists");
        assert_eq!(file.method(), None);
        file.write_at(SharedBytes::copy_of(b"hello "), 0).await.unwrap();
        file.write_at(SharedBytes::copy_of(b"world"), 6).await.unwrap();
        file.sync().await.unwrap();
        uring.sync_dir(dir.path()).await.unwrap();

        let reader = uring.open(&path, OpenAs::Read).await.unwrap();
        let (res, buf) = reader.read_at(AlignedBuf::with_capacity(1), 3).await;
        res.unwrap();
        assert_eq!(buf.bytes(), b"lo world");
        assert!(file.try_lock().unwrap());
        assert!(!reader.try_lock().unwrap(), "another description holds it");
        drop(file);
        assert!(reader.try_lock().unwrap());

        uring.remove(&path).await.unwrap();
        assert!(uring.list(dir.path()).await.unwrap().is_empty());
        assert_eq!(uring.remove(&path).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    });
}

#[test]
fn archive_segments_are_written_once_and_read_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    check_archive(&dir);
    if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
        check_archive(&memory);
    }
}

fn check_archive(dir: &tempfile::TempDir) {
    let path = dir.path().join("00000001.archive");
    on_ring(async |uring| {
        assert!(uring.open(&path, OpenAs::Archive).await.is_err(), "there is none");
        let file = uring.open(&path, OpenAs::NewArchive).await.unwrap();
        assert!(uring.open(&path, OpenAs::NewArchive).await.is_err(), "it exists");
        assert_eq!((file.method(), file.len().unwrap()), (None, 0));
        for n in 0..3 {
            file.write_at(page_of(n), u64::from(n) * PAGE as u64).await.unwrap();
        }
        file.sync().await.unwrap();
        assert!(file.try_lock().unwrap());
        let reader = uring.open(&path, OpenAs::Archive).await.unwrap();
        assert_eq!(reader.len().unwrap(), 3 * PAGE as u64);
        assert!(!reader.try_lock().unwrap());
        let (res, buf) = reader.read_at(AlignedBuf::with_capacity(4 * PAGE), PAGE as u64).await;
        res.unwrap();
        assert_eq!((buf.len(), buf.bytes()[0], buf.bytes()[PAGE]), (2 * PAGE, 1, 2));
        assert!(reader.write_at(page_of(9), 0).await.is_err(), "to read only");
        drop(file);
        assert!(reader.try_lock().unwrap());
        uring.remove(&path).await.unwrap();
    });
}

#[test]
fn a_write_error_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("read-only");
    std::fs::write(&path, [1; PAGE]).unwrap();
    on_ring(async |uring| {
        let file = uring.open(&path, OpenAs::Read).await.unwrap();
        assert!(file.write_at(page_of(2), 0).await.is_err());
        let sealed = std::fs::File::open(&path).unwrap();
        let mut first = [0];
        sealed.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, [1]);
    });
}

#[test]
fn adopted_sockets_are_made_blocking() {
    on_ring(async |uring| {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        let (a, b) = (uring.adopt(OwnedFd::from(a)).unwrap(), uring.adopt(OwnedFd::from(b)).unwrap());
        uring.spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            b.send(b"x".to_vec()).await.0.unwrap();
        });
        assert_eq!(recv_exactly(&a, 1).await, b"x");
    });
}

#[test]
fn more_completions_than_the_queue_holds() {
    let options = Options { completions: 256, ..Options::small() };
    let main = async |uring: Uring| {
        let (near, far) = pair(&uring).await;
        let near = Rc::new(near);
        let done = Rc::new(Cell::new(0));
        for _ in 0..2000 {
            let (near, done) = (near.clone(), done.clone());
            uring.spawn(async move {
                near.readable().await.unwrap();
                done.set(done.get() + 1);
            });
        }
        while near.socket.running() < 2000 {
            uring.sleep_until(soon(&uring, 1)).await;
        }
        assert_eq!(done.get(), 0);
        far.send(b"x".to_vec()).await.0.unwrap();
        while done.get() < 2000 {
            uring.sleep_until(soon(&uring, 1)).await;
        }
    };
    let main = async |uring| tokio::time::timeout(Duration::from_secs(20), main(uring)).await;
    run(&options, main).unwrap().expect("in time");
}

#[test]
fn many_deadlines_at_once() {
    on_ring(async |uring| {
        let ended = Rc::new(Cell::new(0));
        for _ in 0..400 {
            let (a, _) = std::os::unix::net::UnixStream::pair().unwrap();
            let (stream, ended) = (uring.adopt(a.into()).unwrap(), ended.clone());
            stream.set_deadline(Some(soon(&uring, 100)));
            uring.spawn(async move {
                // The peer is gone: this ends at once and leaves the deadline in the wheel.
                assert_eq!(stream.recv(Vec::with_capacity(1)).await.0.unwrap(), 0);
                ended.set(ended.get() + 1);
            });
        }
        let (near, _far) = pair(&uring).await;
        let near = Rc::new(near);
        near.set_deadline(Some(soon(&uring, 100)));
        for _ in 0..1000 {
            let (near, ended) = (near.clone(), ended.clone());
            uring.spawn(async move {
                assert_eq!(near.readable().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
                ended.set(ended.get() + 1);
            });
        }
        while ended.get() < 1400 {
            uring.sleep_until(soon(&uring, 10)).await;
        }
    });
}

/// In a process of its own, for the limit is one of the process.
#[test]
fn accepting_rests_while_descriptors_are_short() {
    if !in_child("runtime::uring::tests::accepting_rests_while_descriptors_are_short") {
        return;
    }
    on_ring(async |uring| {
        let listener = listen(&uring);
        let _near = uring.connect(listener.local(), None, soon(&uring, 5000)).await.unwrap();
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the limit is a local value.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
        let set = move |rlim_cur| {
            let limit = libc::rlimit { rlim_cur, rlim_max: limit.rlim_max };
            // SAFETY: the limit is a local value.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
        };
        set(3);
        let (clock, old, started) = (uring.clone(), limit.rlim_cur, Instant::now());
        uring.spawn(async move {
            clock.sleep_until(soon(&clock, 350)).await;
            set(old);
        });
        listener.accept().await.unwrap();
        let pauses = u128::from(uring.stats().accept_pauses());
        assert!(2 <= pauses && pauses <= 1 + started.elapsed().as_millis() / 100, "{pauses}");
    });
}

/// A session holds one of these while it waits.
#[test]
fn futures_stay_small() {
    on_ring(async |uring| {
        let (near, _far) = pair(&uring).await;
        assert!(size_of_val(&near.readable()) <= 128);
        assert!(size_of_val(&near.send_recv(vec![], vec![])) <= 512);
        assert!(size_of_val(&near.send_parts_recv(vec![], vec![])) <= 512);
        assert!(size_of::<Stream>() + size_of_val(&*near.socket) <= 256);
    });
}

/// The deadline passes somewhere within a linked pair, at each of its steps in turn.
#[test]
fn deadlines_end_busy_connections_too() {
    on_ring(async |uring| {
        let ended = Rc::new(Cell::new(0));
        for n in 0..60 {
            let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
            let (near, far) = (uring.adopt(near.into()).unwrap(), uring.adopt(far.into()).unwrap());
            uring.spawn(async move {
                let mut buf = Vec::with_capacity(64);
                while let (Ok(1..), got) = far.recv(buf).await {
                    buf = far.send(got).await.1;
                    buf.clear();
                }
            });
            let (clock, ended) = (uring.clone(), ended.clone());
            uring.spawn(async move {
                for round in 0..3 {
                    near.set_deadline(Some(soon(&clock, 30 + n + 50 * round)));
                    let (mut out, mut buf) = (Vec::with_capacity(16), Vec::with_capacity(64));
                    let started = clock.now();
                    let error = loop {
                        out.resize(16, n as u8);
                        let (n, sent, got) = near.send_recv(out, buf).await;
                        (out, buf) = (sent, got);
                        buf.clear();
                        if let Err(e) = n {
                            break e;
                        }
                    };
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    assert!(clock.now().since(started) < Duration::from_secs(3));
                }
                ended.set(ended.get() + 1);
            });
        }
        while ended.get() < 60 {
            assert_eq!(uring.stats().panics(), 0);
            uring.sleep_until(soon(&uring, 10)).await;
        }
    });
}
