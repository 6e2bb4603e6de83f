//! Tests of the net double: order, ends, deadlines, breaks and broken contracts.

use super::*;
use std::time::Duration;

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn address() -> SocketAddr {
    "10.0.0.2:25".parse().expect("an address")
}

fn run<T: 'static>(seed: u64, test: impl AsyncFnOnce(World, SimNet) -> T + 'static) -> (T, Vec<String>) {
    let world = World::new(seed, false);
    let (w, net) = (world.clone(), SimNet::new(&world));
    let value = world.block_on(async move { test(w, net).await }).expect("ends");
    let violations = world.violations();
    world.end();
    (value, violations)
}

fn soon(world: &World, seconds: u64) -> Mono {
    Mono(world.now()).after(Duration::from_secs(seconds))
}

async fn pair(world: &World, net: &SimNet) -> (SimStream, SimStream) {
    let listener = net.listen(address());
    let here = net.connect(A, address(), soon(world, 60)).await.expect("somebody listens");
    let (there, from) = listener.accept().await.expect("one waits");
    assert_eq!((from, there.peer(), there.local()), (here.local(), from, address()));
    (here, there)
}

#[test]
fn bytes_arrive_in_order_however_they_are_split() {
    for seed in 0..60 {
        let (_, violations) = run(seed, async move |world, net| {
            let tiny = seed % 2 == 0;
            net.set_faults(NetFaults { tiny, slow: 200, ..NetFaults::default() });
            let (here, there) = pair(&world, &net).await;
            let sent: Vec<u8> = (0..20_000u32).map(|i| (i * 7 % 251) as u8).collect();
            let copy = sent.clone();
            world.spawn(1, async move {
                let parts = vec![Part::Owned(copy[..9_000].to_vec()), Part::Owned(copy[9_000..].to_vec())];
                here.send_parts(parts).await.0.expect("sent");
                here.finish();
                let (n, _) = here.recv(Vec::with_capacity(10)).await;
                assert_eq!(n.expect("the other side answers after our end"), 1);
            });
            let mut got = Vec::new();
            loop {
                let (n, buf) = there.recv(Vec::with_capacity(1500)).await;
                got.extend_from_slice(&buf);
                if n.expect("received") == 0 {
                    break;
                }
            }
            assert_eq!(got, sent);
            there.send(b"k".to_vec()).await.0.expect("sent");
            world.pause(10 * SEC).await;
        });
        assert_eq!(violations, Vec::<String>::new());
    }
}

#[test]
fn deadlines_end_operations_and_the_stream_goes_on() {
    let (_, violations) = run(1, async |world, net| {
        let (here, there) = pair(&world, &net).await;
        there.set_deadline(Some(soon(&world, 5)));
        let start = world.now();
        let (n, _) = there.recv(Vec::with_capacity(10)).await;
        assert_eq!(n.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((5 * SEC..6 * SEC + 10 * MS).contains(&(world.now() - start)));
        assert_eq!(there.readable().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        there.set_deadline(Some(soon(&world, 5)));
        here.send(b"x".to_vec()).await.0.unwrap();
        there.readable().await.unwrap();
        assert_eq!(there.recv(Vec::with_capacity(10)).await.1, b"x");
        let unread = vec![0; 1 << 20];
        here.set_deadline(Some(soon(&world, 3)));
        assert_eq!(here.send(unread).await.0.unwrap_err().kind(), io::ErrorKind::TimedOut);
        there.shutdown();
        assert_eq!(there.recv(Vec::with_capacity(10)).await.0.unwrap(), 0);
        assert_eq!(there.send(b"x".to_vec()).await.0.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    });
    assert_eq!(violations, Vec::<String>::new());
}

#[test]
fn closing_with_unread_bytes_resets_and_death_of_a_node_is_seen() {
    run(2, async |world, net| {
        let (here, there) = pair(&world, &net).await;
        here.send(b"unread".to_vec()).await.0.unwrap();
        world.pause(SEC).await;
        drop(there);
        let (n, _) = here.recv(Vec::with_capacity(10)).await;
        assert_eq!(n.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        for how in [Death::Process, Death::Power] {
            let (here, there) = pair(&world, &net).await;
            world.spawn(9, async move {
                let _ = there.recv(Vec::with_capacity(10)).await;
            });
            world.pause(SEC).await;
            world.kill(9, how);
            let start = world.now();
            let (n, _) = here.recv(Vec::with_capacity(10)).await;
            let prompt = world.now() - start < SEC;
            assert_eq!((n.is_ok(), prompt), (how == Death::Process, how == Death::Process));
        }
    });
}

#[test]
fn connecting_fails_in_each_way() {
    run(3, async |world, net| {
        let kind = async |to: SocketAddr| net.connect(A, to, soon(&world, 30)).await.err().map(|e| e.kind());
        assert_eq!(kind(address()).await, Some(io::ErrorKind::ConnectionRefused));
        let listener = net.listen(address());
        assert_eq!(kind(address()).await, None);
        net.set_dark(address().ip(), true);
        assert_eq!(kind(address()).await, Some(io::ErrorKind::TimedOut));
        net.set_dark(address().ip(), false);
        net.set_faults(NetFaults { blackhole: 10_000, ..NetFaults::default() });
        assert_eq!(kind(address()).await, Some(io::ErrorKind::TimedOut));
        net.set_faults(NetFaults { refuse: 10_000, ..NetFaults::default() });
        assert_eq!(kind(address()).await, Some(io::ErrorKind::ConnectionRefused));
        listener.close();
        assert_eq!(listener.accept().await.err().map(|e| e.kind()), Some(io::ErrorKind::NotConnected));
    });
}

#[test]
fn resets_and_stalls_happen_and_broken_contracts_show() {
    let mut ends = BTreeSet::new();
    for seed in 0..20 {
        let (kind, violations) = run(seed, async move |world, net| {
            let reset = if seed % 2 == 0 { 10_000 } else { 0 };
            net.set_faults(NetFaults { reset, stall: 10_000 - reset, ..NetFaults::default() });
            let (here, there) = pair(&world, &net).await;
            there.set_deadline(Some(soon(&world, 300)));
            world.spawn(1, async move {
                while here.send(vec![1]).await.0.is_ok() && here.recv(Vec::with_capacity(1)).await.0.is_ok() {
                }
            });
            loop {
                let (got, _) = there.recv(Vec::with_capacity(8)).await;
                match got {
                    Ok(0) => return io::ErrorKind::UnexpectedEof,
                    Ok(_) => world.pause(SEC).await,
                    Err(e) => return e.kind(),
                }
                if let Err(e) = there.send(vec![2]).await.0 {
                    return e.kind();
                }
            }
        });
        assert_eq!(violations, Vec::<String>::new());
        ends.insert(format!("{kind:?}"));
    }
    assert!(ends.contains("ConnectionReset") && ends.contains("TimedOut"), "{ends:?}");
    let (_, violations) = run(5, async |world, net| {
        let (here, _there) = pair(&world, &net).await;
        let here = Rc::new(here);
        let other = here.clone();
        world.spawn(1, async move {
            let _ = other.recv(Vec::with_capacity(1)).await;
        });
        world.pause(MS).await;
        here.set_deadline(Some(soon(&world, 1)));
        let _ = here.recv(Vec::new()).await;
    });
    assert!(violations.iter().any(|v| v.contains("two operations")), "{violations:?}");
    assert!(violations.iter().any(|v| v.contains("full buffer")), "{violations:?}");
}
