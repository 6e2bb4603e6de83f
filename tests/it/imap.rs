//! IMAP over real sockets, with the real program: logins with and without TLS, mail from SMTP in a session
//! that idles, messages in and out, POP3 beside it, sessions that move between cores, kills and stops.

#![allow(clippy::disallowed_methods, reason = "tests write files of users")]

use crate::harness::secure::{BOTH, Pair, TLS12, TLS13, rules};
use crate::harness::{Client, Config, Hop, Server, server, until};
use base64::Engine;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

const FROM: &str = "sender@client.test";
/// The password of all users.
const SECRET: &str = "Correct.Horse.Battery";
const USERS: [&str; 5] = ["ann", "bob", "carl", "dora", "eve@here.test"];

/// A server with mailboxes: SMTP, POP3, IMAP, and IMAP under TLS.
struct Site {
    dir: Arc<tempfile::TempDir>,
    config: Config,
    _hop: Hop,
}

/// Where it listens.
struct At {
    server: Server,
    pop3: SocketAddr,
    imap: SocketAddr,
    imaps: SocketAddr,
}

/// Where nobody listens now.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port")
}

impl Site {
    fn new() -> Site {
        let hop = Hop::start();
        let dir = Arc::new(server::directory());
        let users = dir.path().join("users");
        let lines: String = USERS.iter().map(|user| format!("{user}:{{PLAIN}}{SECRET}\n")).collect();
        std::fs::write(&users, lines).expect("a file");
        let pair = Pair::make(dir.path(), "own", "mx.test.example");
        let mut config = Config::new(hop.address)
            .set("domains", "local", "[\"here.test\"]")
            .set("domains", "postmaster", "\"ann@here.test\"")
            .set("auth", "users", format!("\"{}\"", users.display()))
            .set("cores", "access", "2")
            .set("cores", "shards", "3");
        config.tail = format!("[tls]\n{}", pair.lines());
        for protocol in ["smtp", "pop3", "imap", "imaps"] {
            let at = free();
            config.tail += &format!("[[listener]]\nprotocol = \"{protocol}\"\naddress = \"{at}\"\n");
        }
        Site { dir, config, _hop: hop }
    }

    /// Passwords may come in clear text.
    fn plain() -> Site {
        let site = Site::new();
        Site { config: site.config.clone().set("auth", "allow_plaintext", "true"), ..site }
    }

    #[track_caller]
    fn start(&self) -> At {
        let server = Server::start_in(self.dir.clone(), &self.config);
        let text = server.event("started");
        let list = text.split_once("mailboxes on [").expect("access listeners").1;
        let list = list.split_once(']').expect("the end of a list").0;
        let at: Vec<SocketAddr> = list.split(", ").map(|a| a.parse().expect("an address")).collect();
        let [pop3, imap, imaps] = at[..] else { panic!("three listeners in {text}") };
        At { server, pop3, imap, imaps }
    }
}

impl At {
    /// A session of `user` that has logged in without TLS.
    #[track_caller]
    fn user(&self, user: &str) -> Imap {
        let mut imap = Imap::connect(self.imap);
        imap.ok(&format!("LOGIN {user} {SECRET}"));
        imap
    }

    #[track_caller]
    fn mail(&self, to: &str, text: &str) {
        self.server.client().mail(FROM, &[to], body(text).as_bytes());
    }
}

fn body(text: &str) -> String {
    format!("From: {FROM}\r\nSubject: {text}\r\n\r\n{text}\r\n")
}

/// An IMAP client that counts its tags.
struct Imap {
    client: Client,
    tag: u32,
}

impl Imap {
    #[track_caller]
    fn greeted(mut client: Client) -> Imap {
        let line = client.line().expect("a greeting");
        assert!(line.starts_with("* OK [CAPABILITY IMAP4rev1 "), "{line}");
        Imap { client, tag: 0 }
    }

    #[track_caller]
    fn connect(at: SocketAddr) -> Imap {
        Imap::greeted(Client::raw(at))
    }

    #[track_caller]
    fn line(&mut self) -> String {
        self.client.line().expect("a line, but the connection has ended")
    }

    /// Sends a command; lines to its end, that one included.
    #[track_caller]
    fn say(&mut self, command: &str) -> String {
        self.tag += 1;
        self.client.send(format!("A{} {command}\r\n", self.tag));
        self.rest()
    }

    /// Lines to the end of the last command.
    #[track_caller]
    fn rest(&mut self) -> String {
        let (mut text, end) = (String::new(), format!("A{} ", self.tag));
        loop {
            let line = self.line();
            text += &line;
            if line.starts_with(&end) {
                return text;
            }
        }
    }

    /// The same, and it is done.
    #[track_caller]
    fn ok(&mut self, command: &str) -> String {
        let said = self.say(command);
        let end = format!("A{} OK ", self.tag);
        assert!(said.lines().last().is_some_and(|l| l.starts_with(&end)), "{command}: {said}");
        said
    }

    /// The same, and it is refused with this.
    #[track_caller]
    fn no(&mut self, command: &str, why: &str) {
        let said = self.say(command);
        assert!(said.contains(&format!("A{} NO {why}", self.tag)), "{command}: {said}");
    }

    /// Appends with a literal that does not wait.
    #[track_caller]
    fn append(&mut self, mailbox: &str, flags: &str, message: &str) -> String {
        self.ok(&format!("APPEND {mailbox} ({flags}) {{{}+}}\r\n{message}", message.len()))
    }

    /// The content of message `seq`.
    #[track_caller]
    fn content(&mut self, seq: u32) -> String {
        let said = self.ok(&format!("FETCH {seq} BODY.PEEK[]"));
        let (head, rest) = said.split_once("}\r\n").unwrap_or_else(|| panic!("a literal in {said}"));
        let len: usize = head.rsplit('{').next().and_then(|n| n.parse().ok()).expect("a length");
        rest[..len].to_owned()
    }

    #[track_caller]
    fn idle(&mut self) {
        self.tag += 1;
        self.client.send(format!("A{} IDLE\r\n", self.tag));
        assert!(self.line().starts_with("+ "));
    }

    #[track_caller]
    fn done(&mut self) {
        self.client.send("DONE\r\n");
        assert!(self.rest().contains(" OK IDLE"));
    }
}

#[test]
fn logins_need_tls_and_both_ways_to_it_work() {
    let site = Site::new();
    let at = site.start();
    let response = base64::engine::general_purpose::STANDARD.encode(format!("\0ann\0{SECRET}"));
    for versions in [TLS12, TLS13] {
        let rules = Arc::new(rules(versions));
        let mut imap = Imap::connect(at.imap);
        let said = imap.ok("CAPABILITY");
        assert!(said.contains(" STARTTLS") && said.contains(" LOGINDISABLED"), "{said}");
        assert!(!said.contains("AUTH=PLAIN"), "{said}");
        imap.no(&format!("LOGIN ann {SECRET}"), "[PRIVACYREQUIRED]");
        imap.ok("STARTTLS");
        imap.client.handshake(&rules, "mx.test.example").expect("a handshake");
        let said = imap.ok("CAPABILITY");
        assert!(said.contains(" AUTH=PLAIN") && !said.contains("STARTTLS"), "{said}");
        imap.no("LOGIN ann nonsense", "[AUTHENTICATIONFAILED]");
        imap.no(&format!("LOGIN nobody {SECRET}"), "[AUTHENTICATIONFAILED]");
        let said = imap.ok(&format!("AUTHENTICATE PLAIN {response}"));
        assert!(said.contains("OK [CAPABILITY IMAP4rev1 ") && !said.contains("AUTH="), "{said}");
        imap.ok("SELECT INBOX");
        assert!(imap.ok("LOGOUT").contains("* BYE"));

        let mut client = Client::raw(at.imaps);
        client.handshake(&rules, "mx.test.example").expect("a handshake");
        let mut imap = Imap::greeted(client);
        imap.tag += 1;
        imap.client.send("A1 AUTHENTICATE PLAIN\r\n");
        assert_eq!(imap.line(), "+ \r\n");
        imap.client.send(format!("{response}\r\n"));
        assert!(imap.rest().starts_with("A1 OK [CAPABILITY "));
        assert!(imap.ok("STATUS INBOX (MESSAGES)").contains("* STATUS INBOX (MESSAGES 0)"));
    }
    // What was said in clear text before the handshake is not heard (RFC 2595 §4).
    let mut imap = Imap::connect(at.imap);
    imap.client.send("A1 STARTTLS\r\nA2 NOOP\r\n");
    imap.tag = 2;
    assert!(imap.line().starts_with("A1 OK"));
    imap.client.handshake(&Arc::new(rules(BOTH)), "mx.test.example").expect("a handshake");
    assert_eq!(imap.ok("NOOP"), "A3 OK NOOP completed\r\n");
    assert!(!at.server.lines().iter().any(|l| l.contains(SECRET)));
}

#[test]
fn mail_comes_while_idle_and_is_read_flagged_and_moved() {
    let site = Site::plain();
    let at = site.start();
    // All users: whatever core accepts the connection, some of them move.
    for user in USERS {
        let address = if user.contains('@') { user.to_owned() } else { format!("{user}@here.test") };
        let (mut one, mut other) = (at.user(user), at.user(user));
        assert!(one.ok("SELECT INBOX").contains("* 0 EXISTS"));
        other.ok("EXAMINE INBOX");
        one.idle();
        other.idle();
        at.mail(&address, "hello");
        for imap in [&mut one, &mut other] {
            assert_eq!(imap.line(), "* 1 EXISTS\r\n");
        }
        // It is recent for the session that may change things, perhaps for the other one, too.
        assert_eq!(one.line(), "* 1 RECENT\r\n");
        one.done();
        let said = one.ok("FETCH 1 (UID FLAGS ENVELOPE BODYSTRUCTURE)");
        assert!(said.contains("UID 1") && said.contains("\"hello\" ((NIL NIL \"sender\" \"client.test\"))"));
        let content = one.content(1);
        assert!(content.starts_with(&format!("Return-Path: <{FROM}>\r\n")), "{content}");
        assert!(content.ends_with(&body("hello")), "{content}");
        one.ok("STORE 1 +FLAGS (\\Flagged $Work)");
        let mut told = other.line();
        if told == "* 1 RECENT\r\n" {
            told = other.line();
        }
        assert!(told.starts_with("* FLAGS ") || told.contains("FLAGS (\\Flagged"), "{told}");
        one.ok("CREATE Projects");
        let said = one.ok("UID MOVE 1 Projects");
        assert!(said.contains("* 1 EXPUNGE"), "{said}");
        until("the expunge", || (other.line() == "* 1 EXPUNGE\r\n").then_some(()));
        other.done();
        assert!(other.ok("SELECT Projects").contains("* 1 EXISTS"));
        let said = other.ok("FETCH 1 FLAGS");
        assert!(said.contains("\\Flagged") && said.contains("$Work"), "{said}");
    }
    let moves = |way: &str| at.server.metric("ringpost_imap_moves_total", way);
    until("sessions to have arrived", || (moves("\"in\"") == moves("\"out\"")).then_some(()));
    assert_eq!(at.server.metric("ringpost_imap_connections_total", ""), 2.0 * USERS.len() as f64);
    assert_eq!(at.server.metric("ringpost_imap_notify_seconds_count", ""), 2.0 * USERS.len() as f64);
}

#[test]
fn what_is_appended_comes_back_also_after_a_kill() {
    let site = Site::plain();
    let at = site.start();
    let mut imap = at.user("bob");
    let line = "0123456789.".repeat(7) + "\r\n";
    let large = body(&line.repeat((5 << 20) / line.len()));
    // A literal that waits to be asked for.
    imap.tag += 1;
    imap.client.send(format!("A2 APPEND INBOX (\\Seen) {{{}}}\r\n", body("first").len()));
    imap.tag = 2;
    assert!(imap.line().starts_with("+ "));
    imap.client.send(format!("{}\r\n", body("first")));
    let said = imap.rest();
    assert!(said.starts_with("A2 OK [APPENDUID ") && said.contains(" 1] "), "{said}");
    imap.append("INBOX", "", &large);
    imap.no("APPEND Nowhere {3+}\r\na\r\n", "[TRYCREATE]");
    // Both in one command.
    let (a, b) = (body("a"), body("b"));
    let two = format!("APPEND INBOX {{{}+}}\r\n{a} (\\Answered) {{{}+}}\r\n{b}", a.len(), b.len());
    assert!(imap.ok(&two).contains(" 3:4] "));
    // More together than waits for the disk at any time, none of them large.
    let medium = body(&line.repeat(60_000 / line.len()));
    let literal = format!(" {{{}+}}\r\n{medium}", medium.len());
    assert!(imap.ok(&format!("APPEND Archive{}", literal.repeat(95))).contains(" 1:95] "));
    at.server.kill();
    let at = site.start();
    let mut imap = at.user("bob");
    // Nobody has been told of them.
    assert!(imap.ok("SELECT INBOX").contains("* 4 EXISTS\r\n* 4 RECENT\r\n"));
    assert_eq!(imap.content(1), body("first"));
    assert!(imap.content(2) == large, "not what was appended");
    let said = imap.ok("FETCH 1:* FLAGS");
    let has = |fetch: &str| said.contains(fetch);
    assert!(has("* 1 FETCH (FLAGS (\\Seen \\Recent))") && has("* 4 FETCH (FLAGS (\\Answered \\Recent))"));
    assert!(imap.ok("SEARCH SUBJECT first").contains("* SEARCH 1\r\n"));
    assert!(imap.ok("SELECT Archive").contains("* 95 EXISTS"));
    assert!(imap.content(1) == medium && imap.content(95) == medium, "not what was appended");
}

#[test]
fn a_reader_that_stops_reading_holds_nobody_up() {
    let site = Site::plain();
    let at = site.start();
    let mut slow = at.user("carl");
    let line = "abcdefghij".repeat(7) + "\r\n";
    let large = body(&line.repeat((12 << 20) / line.len()));
    slow.append("INBOX", "", &large);
    slow.ok("SELECT INBOX");
    slow.tag += 1;
    slow.client.send(format!("A{} FETCH 1 BODY[]\r\n", slow.tag));
    // The others of that core, which is everybody's whom one of the two has.
    for user in USERS {
        let mut imap = at.user(user);
        imap.append("INBOX", "", &body("quick"));
        imap.ok("SELECT INBOX");
        imap.ok("STORE * +FLAGS (\\Deleted)");
        assert!(imap.ok("EXPUNGE").contains(" EXPUNGE\r\n"));
    }
    let said = slow.rest();
    assert!(said.contains(&large), "{} bytes came", said.len());
}

#[test]
fn a_session_is_compressed_in_clear_text_and_within_tls() {
    let site = Site::plain();
    let at = site.start();
    let large = body(&"0123456789.\r\n".repeat((3 << 20) / 13));
    for secure in [false, true] {
        let mut client = Client::raw(if secure { at.imaps } else { at.imap });
        if secure {
            client.handshake(&Arc::new(rules(BOTH)), "mx.test.example").expect("a handshake");
        }
        let mut imap = Imap::greeted(client);
        assert!(!imap.ok("CAPABILITY").contains("COMPRESS"));
        let user = if secure { "ann" } else { "carl" };
        assert!(imap.ok(&format!("LOGIN {user} {SECRET}")).contains(" COMPRESS=DEFLATE]"));
        imap.ok("COMPRESS DEFLATE");
        imap.client.compress();
        assert!(!imap.ok("CAPABILITY").contains("COMPRESS"));
        imap.no("COMPRESS DEFLATE", "[COMPRESSIONACTIVE]");
        imap.append("INBOX", "\\Seen", &large);
        for n in 0..20 {
            imap.append("INBOX", "", &body(&format!("message {n}")));
        }
        imap.ok("SELECT INBOX");
        let sent = imap.client.squeeze.as_ref().map(|s| (s.0.total_in(), s.0.total_out()));
        assert!(sent.is_some_and(|(plain, wire)| wire * 4 < plain), "{sent:?}");
        assert!(imap.content(1) == large, "not what was appended");
        let got = imap.client.squeeze.as_ref().map(|s| (s.1.total_in(), s.1.total_out()));
        assert!(got.is_some_and(|(wire, plain)| wire * 4 < plain), "{got:?}");
        assert_eq!(imap.ok("FETCH 2:* (ENVELOPE BODY.PEEK[])").matches(" FETCH (").count(), 20);
        // Commands that come together, an idle one, another user at perhaps another core.
        imap.client.send("B1 NOOP\r\nB2 NOOP\r\n");
        assert_eq!(
            (imap.line(), imap.line()),
            ("B1 OK NOOP completed\r\n".into(), "B2 OK NOOP completed\r\n".into())
        );
        imap.idle();
        at.mail(&format!("{user}@here.test"), "hello");
        assert_eq!(imap.line(), "* 22 EXISTS\r\n");
        imap.done();
        for user in USERS {
            imap.ok("UNAUTHENTICATE");
            imap.ok(&format!("LOGIN {user} {SECRET}"));
            imap.ok("SELECT INBOX");
        }
        assert!(imap.ok("LOGOUT").contains("* BYE"));
        imap.client.expect_end();
    }
    // What is no deflated data ends the session.
    let mut imap = at.user("bob");
    imap.ok("COMPRESS DEFLATE");
    imap.client.send("A3 NOOP\r\n");
    imap.client.expect_end();
}

#[test]
fn pop3_and_imap_see_the_same_mailbox() {
    let site = Site::plain();
    let at = site.start();
    for text in ["one", "two", "three"] {
        at.mail("dora@here.test", text);
    }
    at.server.drained();
    let mut imap = at.user("dora");
    assert!(imap.ok("SELECT INBOX").contains("* 3 EXISTS"));
    let mut pop3 = Client::raw(at.pop3);
    let mut say = |line: &str| {
        if !line.is_empty() {
            pop3.send(format!("{line}\r\n"));
        }
        pop3.line().expect("a reply")
    };
    say("");
    for line in ["USER dora", &format!("PASS {SECRET}"), "DELE 2"] {
        let reply = say(line);
        assert!(reply.starts_with("+OK"), "{line}: {reply}");
    }
    assert!(say("STAT").starts_with("+OK 2 "));
    // Not before QUIT (RFC 1939 §6).
    assert_eq!(imap.ok("NOOP").lines().count(), 1);
    imap.idle();
    assert!(say("QUIT").starts_with("+OK"));
    assert_eq!(imap.line(), "* 2 EXPUNGE\r\n");
    imap.done();
    assert!(imap.content(2).ends_with(&body("three")));
    imap.ok("STORE 1 +FLAGS.SILENT (\\Deleted)");
    imap.ok("CLOSE");
    let mut pop3 = Client::raw(at.pop3);
    pop3.line();
    for line in ["USER dora", &format!("PASS {SECRET}"), "STAT"] {
        pop3.send(format!("{line}\r\n"));
        let reply = pop3.line().expect("a reply");
        assert!(reply.starts_with(if line == "STAT" { "+OK 1 " } else { "+OK" }), "{line}: {reply}");
    }
}

#[test]
fn a_stop_says_goodbye_to_who_waits() {
    let site = Site::plain();
    let at = site.start();
    let mut sessions: Vec<Imap> = USERS.map(|user| at.user(user)).into();
    for imap in &mut sessions {
        imap.ok("SELECT INBOX");
    }
    sessions[0].idle();
    at.server.signal("TERM");
    for imap in &mut sessions {
        assert!(imap.line().starts_with("* BYE "), "a last word");
        assert_eq!(imap.client.line(), None);
    }
    let mut server = at.server;
    assert_eq!(server.exit(), Some(0));
}
