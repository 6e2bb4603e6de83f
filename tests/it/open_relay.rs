//! Attack catalogue, row 21: every known way to make somebody else's server relay, tried from outside;
//! none may lead to mail for a domain that is not ours.

use crate::harness::{Client, Config, Hop, Server};
use crate::hostile::{FROM, still_serves};

fn config(hop: &Hop) -> Config {
    Config::new(hop.address)
        .set("relay", "networks", "[\"127.0.0.1\"]")
        .set("limits", "errors_soft", "0")
        .set("limits", "errors_hard", "0")
        .set("limits", "connections_per_minute", "0")
        .set("domains", "local", "[\"here.test\"]")
        .set("domains", "relay", "[\"customer.test\"]")
        .set("domains", "postmaster", "\"boss@customer.test\"")
}

fn stranger(server: &Server) -> Client {
    let mut client = Client::from([127, 0, 7, 1], server.smtp);
    client.reply().expect("220 ");
    client.say("EHLO stranger.test").expect("250-");
    client
}

/// Recipients that lead elsewhere, or would if somebody took them apart.
const TRICKS: &[&str] = &[
    // Plainly.
    "<x@else.test>",
    "<X@ELSE.TEST>",
    "<postmaster@else.test>",
    "<x@mx.test.example>",
    // The percent hack, at each of our names.
    "<x%else.test@here.test>",
    "<x%else.test@HERE.TEST>",
    "<x%else.test@customer.test>",
    "<x%else.test@mx.test.example>",
    "<x%else.test%here.test@customer.test>",
    "<postmaster%else.test@customer.test>",
    // Two at signs, quoted or not.
    "<x@else.test@here.test>",
    "<x@else.test@customer.test>",
    "<\"x@else.test\"@here.test>",
    "<\"x@else.test\"@customer.test>",
    "<\"x@else.test\"@mx.test.example>",
    "<\"x@else.test\">",
    "<x\\@else.test@customer.test>",
    "<\"x\\@else.test\"@customer.test>",
    // UUCP.
    "<else.test!x>",
    "<else.test!x@here.test>",
    "<else.test!x@customer.test>",
    "<here.test!else.test!x>",
    "<customer.test!x@else.test>",
    // Source routes are taken off: what remains is a foreign address.
    "<@here.test:x@else.test>",
    "<@customer.test:x@else.test>",
    "<@customer.test,@here.test:x@else.test>",
    "<@else.test:x@else.test>",
    "<@customer.test:x%else.test@customer.test>",
    "<@[127.0.0.1]:x@else.test>",
    // Address literals, ours and others'.
    "<x@[127.0.0.1]>",
    "<x@[IPv6:::1]>",
    "<x@[IPv6:::ffff:127.0.0.1]>",
    "<x@[192.0.2.1]>",
    "<x%else.test@[127.0.0.1]>",
    "<\"x@else.test\"@[127.0.0.1]>",
    "<x@127.0.0.1>",
    "<x@[]>",
    "<x@[else.test]>",
    // Dots, spaces, names that begin or end like ours.
    "<x@else.test.>",
    "<x@customer.test.>",
    "<x@.customer.test>",
    "<x@customer.test..>",
    "<x@customer.test.else.test>",
    "<x@elsecustomer.test>",
    "<x@sub.customer.test>",
    "<x@customer.test@>",
    "<x@customer.test ,x@else.test>",
    "<x@customer.test>,<x@else.test>",
    "<x@else.test\0@customer.test>",
    "<x@else.test,y@customer.test>",
    "< x@customer.test>",
    "<x@else.test><x@customer.test>",
    // No domain, no brackets, nothing.
    "<x>",
    "x@customer.test",
    "<>",
    "<@>",
    "<@customer.test>",
    "<@customer.test:>",
    "<x@>",
    "<%else.test@customer.test>",
];

#[test]
fn row_21_no_trick_relays() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    for sender in ["a@client.test", "a@here.test", "postmaster@mx.test.example", ""] {
        let mut client = stranger(&server);
        for trick in TRICKS {
            client.say(&format!("MAIL FROM:<{sender}>")).expect("250 2.1.0");
            let reply = client.say(&format!("RCPT TO:{trick}"));
            assert!((500..=554).contains(&reply.code()), "{trick}: {reply:?}");
            // A refused recipient leaves nothing behind.
            let reply = client.say("DATA");
            assert!(matches!(reply.code(), 503 | 554), "{trick}: {reply:?}");
            client.say("RSET").expect("250 2.0.0");
        }
    }
    still_serves(&server, &hop);
    assert_eq!(hop.mails().len(), 1);
}

/// The plain cases have the words that people look for.
#[test]
fn strangers_are_told_that_relaying_is_denied() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    let mut client = stranger(&server);
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    for denied in
        ["x@else.test", "x@[127.0.0.1]", "x@[192.0.2.1]", "x@mx.test.example", "x@sub.customer.test"]
    {
        client.say(&format!("RCPT TO:<{denied}>")).expect("554 5.7.1 Relay access denied");
    }
    for routed in ["x%else.test@customer.test", "\"x@else.test\"@customer.test", "else.test!x@customer.test"]
    {
        client.say(&format!("RCPT TO:<{routed}>")).expect("554 5.7.1 Relay access denied");
    }
    assert_eq!(server.metric("ringpost_rejections_total", "reason=\"relay\""), 8.0);
    // Ours are taken, in any case, and nothing else comes of them.
    for ours in ["x@customer.test", "x@CUSTOMER.Test", "postmaster", "postmaster@mx.test.example"] {
        client.say(&format!("RCPT TO:<{ours}>")).expect("250 2.1.5");
    }
    client.say("RCPT TO:<@else.test,@here.test:y@customer.test>").expect("250 2.1.5");
    client.data(b"S: ours\r\n\r\n.\r\n").id();
    let mail = hop.one();
    let domain = |to: &String| to.trim_end_matches('>').rsplit('@').next().unwrap().to_ascii_lowercase();
    assert!(mail.to.iter().all(|to| domain(to) == "customer.test"), "{:?}", mail.to);
}

/// Recipients in one pipelined group: those that are refused do not ride along with one that is taken.
#[test]
fn row_21_refused_recipients_do_not_ride_along() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    let mut client = stranger(&server);
    client.send(
        "MAIL FROM:<a@client.test>\r\nRCPT TO:<x@else.test>\r\nRCPT TO:<x@customer.test>\r\n\
         RCPT TO:<x%else.test@customer.test>\r\nRCPT TO:<@customer.test:x@else.test>\r\n",
    );
    for expected in ["250 2.1.0", "554 5.7.1", "250 2.1.5", "554 5.7.1", "554 5.7.1"] {
        client.reply().expect(expected);
    }
    client.data(b"To: x@else.test\r\nBcc: y@else.test\r\nResent-To: z@else.test\r\n\r\n.\r\n").id();
    assert_eq!(hop.one().to, ["<x@customer.test>"]);
    assert_eq!(hop.mails().len(), 1);
}
