//! Brakes: an account in wrong hands is held within its limits; others do not notice.

use crate::harness::{Client, Config, Hop, Server, until};
use crate::hostile::still_serves;
use serde_json::Value;

/// A port for users, whose logins a proxy names; with these `[[brake]]`.
fn start(hop: &Hop, brakes: &str) -> Server {
    Server::start(&config(hop, brakes))
}

fn config(hop: &Hop, brakes: &str) -> Config {
    let mut config = Config::new(hop.address)
        .set("cores", "mta", "2")
        .set("domains", "local", "[\"here.test\"]")
        .set("domains", "postmaster", "\"p@next.test\"")
        .set("limits", "errors_hard", "0")
        .set("limits", "errors_soft", "0")
        .set("limits", "messages_per_session", "0")
        .set("relay", "networks", "[\"127.0.0.1\"]");
    config.tail = format!(
        "[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\n\
         xclient_from = [\"127.0.0.9\"]\n{brakes}"
    );
    config
}

/// A client that has logged in as `login`.
#[track_caller]
fn user(server: &Server, login: &str) -> Client {
    let mut client = Client::from([127, 0, 0, 9], server.smtp);
    client.reply().expect("220 ");
    client.say("EHLO proxy.test").expect("250-");
    client.say(&format!("XCLIENT ADDR=198.51.100.7 LOGIN={login}")).expect("220 ");
    client.say("EHLO laptop.home").expect("250-");
    client
}

fn held(server: &Server) -> Vec<Value> {
    server.queue(&["list"]).into_iter().filter(|m| m["queue_name"] == "hold").collect()
}

#[test]
fn a_hacked_account_is_held_and_others_are_not() {
    let hop = Hop::start();
    let brakes = "[[brake]]\nmessages = \"20/h\"\naction = \"hold\"\n";
    let server = start(&hop, brakes);
    // Over two connections, thus perhaps two cores: the limit is one.
    let mut both = [user(&server, "ann"), user(&server, "ANN")];
    for n in 0..100 {
        both[n % 2].mail("ann@a.test", &[&format!("victim{n}@b.test")], b"Subject: buy\r\n\r\n");
    }
    let mut bob = user(&server, "bob");
    for n in 0..10 {
        bob.mail("bob@a.test", &[&format!("friend{n}@c.test")], b"Subject: hello\r\n\r\n");
    }
    hop.wait(30);
    let all = held(&server);
    // Cores that ask at the same moment may each get one more.
    assert!((78..=80).contains(&all.len()), "{}", all.len());
    assert_eq!(server.metric("ringpost_braked_total", "action=\"hold\""), all.len() as f64);
    assert_eq!(
        server.event_with("brake", "ann"),
        "too many messages of login ann: its mail is held in the queue"
    );
    assert_eq!(server.lines().iter().filter(|l| l.contains("\"brake\"")).count(), 1, "once a minute");
    let id = all[0]["queue_id"].as_str().expect("an id").to_owned();
    let why = String::from_utf8(server.run(&["why", &id]).stdout).expect("text");
    assert!(why.contains("brake: too many messages of login ann"), "{why}");
    // It stays so over a crash, and is released by an operator only.
    let server = Server::start_in(server.kill(), &config(&hop, brakes));
    until("all of the queue", || (held(&server).len() == all.len()).then_some(()));
    server.queue(&["flush", "--all"]);
    let (sent, before) = (hop.mails().len(), all.len());
    server.queue(&["release", &id]);
    hop.wait(sent + 1);
    assert_eq!(held(&server).len(), before - 1);
    still_serves(&server, &hop);
}

#[test]
fn who_sends_to_addresses_that_do_not_exist_is_stopped() {
    let hop = Hop::start();
    let rule = "[[brake]]\nfailed_percent = 30\nfailed_least = 10\nfailed_window = \"1d\"\n";
    let server = start(&hop, rule);
    let mut ann = user(&server, "ann");
    ann.say("MAIL FROM:<ann@a.test>").expect("250 2.1.0");
    // Here nobody has a mailbox.
    for n in 0..10 {
        ann.say(&format!("RCPT TO:<x{n}@here.test>")).expect("550 5.1.1");
    }
    ann.say("RCPT TO:<y@b.test>").expect("450 4.7.1 Too much mail");
    ann.say("RSET").expect("250 ");
    ann.say("MAIL FROM:<ann@a.test>").expect("450 4.7.1 Too much mail");
    assert!(server.event("brake").starts_with("too many failed recipients of login ann"));
    // What next hops refuse counts, too.
    hop.refuse("RCPT TO:<bad", "550 5.1.1 no such user");
    let mut bob = user(&server, "bob");
    for n in 0..10 {
        bob.mail("", &[&format!("bad{n}@b.test")], b"Subject: x\r\n\r\n");
    }
    until("bob braked", || {
        let reply = bob.say("MAIL FROM:<bob@a.test>");
        bob.say("RSET").expect("250 ");
        (reply.code() == 450).then_some(())
    });
    user(&server, "carl").mail("carl@a.test", &["z@b.test"], b"Subject: x\r\n\r\n");
    server.drained();
    still_serves(&server, &hop);
}

#[test]
fn a_share_of_the_queue_frees_itself() {
    let hop = Hop::start();
    hop.refuse("MAIL", "451 4.3.0 later");
    let server = start(&hop, "[[brake]]\nwaiting = 3\n");
    let mut ann = user(&server, "ann");
    for _ in 0..3 {
        ann.mail("ann@a.test", &["x@b.test"], b"Subject: x\r\n\r\n");
    }
    ann.say("MAIL FROM:<ann@a.test>").expect("450 4.7.1");
    user(&server, "bob").mail("bob@a.test", &["x@b.test"], b"Subject: x\r\n\r\n");
    // What is in the journal counts after a restart.
    let mut again = config(&hop, "[[brake]]\nwaiting = 3\n");
    again = again.set("cores", "mta", "1");
    let server = Server::start_in(server.stop(), &again);
    until("all of the queue", || (server.queue(&["list"]).len() == 4).then_some(()));
    let mut ann = user(&server, "ann");
    ann.say("MAIL FROM:<ann@a.test>").expect("450 4.7.1");
    hop.accept();
    server.flushed();
    ann.mail("ann@a.test", &["x@b.test"], b"Subject: x\r\n\r\n");
    hop.wait(5);
}

#[test]
fn recipients_bytes_and_domains() {
    let hop = Hop::start();
    let server = start(
        &hop,
        "[[brake]]\nby = \"address\"\nrecipients = \"5/h\"\n\
         [[brake]]\nby = \"login\"\nbytes = \"100KiB/h\"\naction = \"reject\"\n\
         [[brake]]\nby = \"sender-domain\"\nmessages = \"3/h\"\naction = \"reject\"\n",
    );
    let mut ann = user(&server, "ann");
    ann.envelope("a@one.test", &["1@b.test", "2@b.test", "3@b.test", "4@b.test", "5@b.test"]);
    ann.say("RCPT TO:<6@b.test>").expect("450 4.7.1 Too much mail");
    ann.data(b"Subject: x\r\n\r\n.\r\n").expect("250 ");
    // Clients that may relay are not counted by address.
    let mut relay = server.client();
    for n in 0..20 {
        relay.mail(&format!("a@d{n}.test"), &["x@b.test"], b"Subject: x\r\n\r\n");
    }
    for _ in 0..3 {
        relay.mail("a@two.test", &["x@b.test"], b"Subject: x\r\n\r\n");
    }
    relay.say("MAIL FROM:<b@Two.test>").expect("550 5.7.1 Too much mail");
    relay.mail("", &["x@b.test"], b"Subject: x\r\n\r\n");
    hop.wait(25);
    // Bytes are known at the end of the message.
    let mut bob = Client::from([127, 0, 0, 9], server.smtp);
    bob.reply().expect("220 ");
    bob.say("XCLIENT ADDR=198.51.100.99 LOGIN=bob").expect("220 ");
    bob.say("EHLO laptop.home").expect("250-");
    let body = [&b"Subject: x\r\n\r\n"[..], &b"0123456789abcdef0123456789abcd\r\n".repeat(2000)].concat();
    bob.mail("b@three.test", &["x@b.test"], &body);
    bob.envelope("b@three.test", &["x@b.test"]);
    bob.data(crate::harness::client::stuffed(&body)).expect("550 5.7.1 Too much mail");
    bob.mail("b@three.test", &["x@b.test"], b"Subject: short\r\n\r\n");
    hop.wait(27);
    assert_eq!(server.metric("ringpost_braked_total", "action=\"reject\""), 2.0);
    assert_eq!(server.metric("ringpost_braked_total", "action=\"tempfail\""), 1.0);
}
