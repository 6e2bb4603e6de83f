//! Greylisting: who sends for the first time is to come again.

use crate::harness::{Client, Config, Hop, Server, until};
use crate::hostile::still_serves;

fn config(hop: &Hop, delay: &str) -> Config {
    Config::new(hop.address)
        .set("cores", "mta", "2")
        .set("relay", "networks", "[\"127.0.0.1\"]")
        .set("domains", "relay", "[\"cust.test\"]")
        .set("domains", "postmaster", "\"p@next.test\"")
        .set("access", "greylist", "true")
        .set("access", "greylist_delay", format!("\"{delay}\""))
}

/// What RCPT is answered to a client.
#[track_caller]
fn asked(server: &Server, from: [u8; 4], to: &str) -> String {
    let mut client = Client::from(from, server.smtp);
    client.reply().expect("220 ");
    client.say("EHLO x.test").expect("250-");
    client.say("MAIL FROM:<a@b.test>").expect("250 ");
    client.say(&format!("RCPT TO:<{to}>")).0
}

#[test]
fn who_comes_again_is_known_also_after_a_restart() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop, "1s"));
    let text = asked(&server, [127, 0, 2, 1], "r@cust.test");
    assert_eq!(text, "451 4.7.1 Greylisted, try again in 1 s\r\n");
    // What would be refused in any case is refused now.
    assert!(asked(&server, [127, 0, 2, 1], "r@else.test").starts_with("554 5.7.1 Relay"));
    // From a neighbour, after its time.
    until("it has come again", || {
        asked(&server, [127, 0, 2, 9], "R@cust.test").starts_with("250 ").then_some(())
    });
    assert!(asked(&server, [127, 0, 2, 1], "other@cust.test").starts_with("250 "), "the network is known");
    assert!(asked(&server, [127, 0, 3, 1], "r@cust.test").starts_with("451 "), "another is not");
    // So that the one before has waited for a second, which is what replies count in.
    until("a third has come again", || {
        asked(&server, [127, 0, 4, 1], "r@cust.test").starts_with("250 ").then_some(())
    });
    server.client().mail("a@b.test", &["r@cust.test"], b"Subject: x\r\n\r\n");
    hop.wait(1);
    assert_eq!(server.metric("ringpost_greylist_total", "result=\"came_again\""), 2.0);
    assert!(server.metric("ringpost_greylist_total", "result=\"deferred\"") >= 2.0);
    // Another delay makes nothing forgotten.
    let server = Server::start_in(server.stop(), &config(&hop, "1h"));
    assert!(asked(&server, [127, 0, 2, 1], "third@cust.test").starts_with("250 "));
    let text = asked(&server, [127, 0, 3, 1], "r@cust.test");
    let left: u64 = text.rsplit(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    assert!(left < 3600, "it has waited before: {text}");
    // A damaged file is a new beginning.
    let dir = server.stop();
    #[allow(clippy::disallowed_methods, reason = "damages a file")]
    std::fs::write(dir.path().join("data/greylist"), b"rubbish").expect("a file");
    let server = Server::start_in(dir, &config(&hop, "1h"));
    assert!(server.event("greylist").contains("is damaged"));
    assert!(asked(&server, [127, 0, 2, 1], "third@cust.test").starts_with("451 "));
    still_serves(&server, &hop);
}
