//! How often and how many: connections of an address and of a network, on all cores together.

use crate::harness::{Client, Config, Hop, Server, until};
use crate::hostile::still_serves;

fn config(hop: &Hop) -> Config {
    Config::new(hop.address).set("cores", "mta", "2").set("relay", "networks", "[\"127.0.0.1\"]")
}

/// So many of `tries` connections were let in; the others were told so and closed.
#[track_caller]
fn let_in(server: &Server, from: [u8; 4], tries: usize) -> usize {
    let mut taken = 0;
    for _ in 0..tries {
        let mut client = Client::from(from, server.smtp);
        match client.reply() {
            r if r.code() == 220 => {
                taken += 1;
                client.say("QUIT").expect("221 ");
            }
            r => {
                r.expect("421 4.7.0 Connecting too often");
                client.expect_end();
            }
        }
    }
    taken
}

#[test]
fn connections_a_minute() {
    let hop = Hop::start();
    let config = config(&hop).set("limits", "connections_per_minute", "20").set(
        "limits",
        "connections_per_minute_per_network",
        "50",
    );
    let server = Server::start(&config);
    // One comes back every three seconds, the rest only after their time.
    let first = let_in(&server, [127, 0, 2, 1], 60);
    assert!((20..=30).contains(&first), "{first}");
    let second = let_in(&server, [127, 0, 2, 2], 20);
    assert_eq!(second, 20, "others of the network have a rate of their own");
    // Together with the network's: what is refused by it is not taken from others.
    let third = let_in(&server, [127, 0, 2, 3], 40);
    assert!((1..=20).contains(&third) && first + second + third <= 70, "{first} {second} {third}");
    assert_eq!(let_in(&server, [127, 0, 3, 1], 20), 20, "another network");
    let refused = server.metric("ringpost_smtp_refused_total", "reason=\"rate\"");
    assert_eq!(refused, (140 - first - second - third - 20) as f64);
    // Clients that may relay are exempt.
    for _ in 0..100 {
        Client::connect(server.smtp).say("QUIT").expect("221 ");
    }
    still_serves(&server, &hop);
}

#[test]
fn sessions_of_a_network() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop).set("limits", "sessions_per_network", "12"));
    let mut open = Vec::new();
    for n in 0..20 {
        let mut client = Client::from([127, 0, 2, n + 1], server.smtp);
        match client.reply() {
            r if r.code() == 220 => open.push(client),
            r => {
                r.expect("421 4.7.0 Too many connections");
                client.expect_end();
            }
        }
    }
    assert_eq!(open.len(), 12);
    assert_eq!(server.metric("ringpost_smtp_refused_total", "reason=\"network\""), 8.0);
    Client::from([127, 0, 3, 1], server.smtp).reply().expect("220 ");
    drop(open);
    until("places given back", || {
        (Client::from([127, 0, 2, 99], server.smtp).reply().code() == 220).then_some(())
    });
    still_serves(&server, &hop);
}
