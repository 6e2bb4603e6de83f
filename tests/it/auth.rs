//! AUTH, end to end over real sockets: who may relay, every mechanism, every AUTH row of the attack
//! catalogue, users that change, passwords that leak nowhere.
#![allow(clippy::disallowed_methods, reason = "tests write password files")]

use crate::harness::secure::{BOTH, Pair, rules};
use crate::harness::server::PROGRAM;
use crate::harness::{Client, Config, Hop, Server, until};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringpost::auth::sasl::Hash;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

/// The password of all; nothing that the server writes may hold it.
const SECRET: &str = "Correct.Horse.Battery";
const TO: &str = "rcpt@elsewhere.example";

fn encode(text: impl AsRef<[u8]>) -> String {
    STANDARD.encode(text)
}

fn plain(login: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", encode(format!("\0{login}\0{password}")))
}

/// A server whose users are in `users`, and which nobody may use without AUTH.
fn config(hop: SocketAddr, users: &Path, mode: &str) -> Config {
    let mut config = Config::new(hop)
        .set("relay", "networks", "[]")
        .set("auth", "users", format!("{:?}", users.display().to_string()))
        .set("auth", "allow_plaintext", "true")
        .set("limits", "auth_failures", "20")
        .set("limits", "login_failures", "0")
        .set("limits", "login_failures_per_login", "0")
        .set("limits", "login_delay", "\"0s\"");
    config.tail =
        format!("[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\nauth = \"{mode}\"\n");
    config
}

/// Runs `ringpost user` on this file, with a line of input.
fn user(file: &Path, words: &[&str], input: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("user").args(words).arg("--file").arg(file);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    // It may have refused its arguments already.
    let _ = child.stdin.take().expect("piped").write_all(format!("{input}\n").as_bytes());
    child.wait_with_output().expect("a child")
}

#[track_caller]
fn add(file: &Path, login: &str, more: &[&str]) {
    let out = user(file, &[&["add", login, "--password-stdin"], more].concat(), SECRET);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

struct World {
    hop: Hop,
    server: Server,
    dir: tempfile::TempDir,
}

impl World {
    /// A server with these users, each in its scheme.
    #[track_caller]
    fn new(mode: &str, users: &[(&str, &str)], change: impl Fn(Config) -> Config) -> World {
        let (hop, dir) = (Hop::start(), crate::harness::server::directory());
        let file = dir.path().join("users");
        std::fs::write(&file, "# users\n").expect("a file");
        users.iter().for_each(|(login, scheme)| add(&file, login, &["--scheme", scheme]));
        let server = Server::start(&change(config(hop.address, &file, mode)));
        World { hop, server, dir }
    }

    fn users(&self) -> std::path::PathBuf {
        self.dir.path().join("users")
    }

    /// Stops the server; no line of it holds a password, in any form.
    #[track_caller]
    fn end(self, sent: &[&str]) {
        let metrics = self.server.page("/metrics").1;
        let text = self.server.lines().join("\n") + &metrics;
        for secret in sent.iter().copied().chain([SECRET]) {
            assert!(!text.contains(secret), "the server wrote {secret:?}:\n{text}");
        }
        self.server.stop();
    }
}

fn id(config: Config) -> Config {
    config
}

/// What a client of SCRAM says last, and what it must hear.
fn scram(hash: Hash, bare: &str, server_first: &str, password: &str) -> (String, String) {
    bound(hash, ("n,,", b""), bare, server_first, password)
}

/// The same with this header and data of a channel binding.
fn bound(
    hash: Hash,
    (gs2, binding): (&str, &[u8]),
    bare: &str,
    server_first: &str,
    password: &str,
) -> (String, String) {
    let mut fields = server_first.split(',');
    let mut field = |name: &str| fields.next().unwrap().strip_prefix(name).unwrap().to_owned();
    let (nonce, salt, iterations) = (field("r="), field("s="), field("i=").parse().unwrap());
    let last = format!("c={},r={nonce}", encode([gs2.as_bytes(), binding].concat()));
    let transcript = format!("{bare},{server_first},{last}");
    let salted = hash.stretch(password.as_bytes(), &STANDARD.decode(salt).unwrap(), iterations);
    let client_key = hash.mac(&salted, b"Client Key");
    let signature = hash.mac(&hash.digest(&client_key), transcript.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(k, s)| k ^ s).collect();
    let server = hash.mac(&hash.mac(&salted, b"Server Key"), transcript.as_bytes());
    (format!("{last},p={}", encode(proof)), format!("v={}", encode(server)))
}

/// The challenge of a 334, decoded.
#[track_caller]
fn challenge(reply: &str) -> String {
    let text = reply.strip_prefix("334 ").unwrap_or_else(|| panic!("no challenge: {reply:?}")).trim_end();
    String::from_utf8(STANDARD.decode(text).expect("base64")).expect("text")
}

#[test]
fn relay_is_refused_before_and_allowed_after() {
    let world = World::new("offered", &[("ann@example.net", "SCRAM-SHA-256")], id);
    let mut client = world.server.client();
    client.say("MAIL FROM:<ann@example.net>").expect("250 2.1.0");
    client.say(&format!("RCPT TO:<{TO}>")).expect("554 5.7.1 Relay access denied");
    client.say("RSET").expect("250");
    client.say(&plain("Ann@Example.net", SECRET)).expect("235 2.7.0");
    let id = client.mail("ann@example.net", &[TO], b"Subject: x\r\n\r\nx\r\n");
    let mail = &world.hop.wait(1)[0];
    assert!(mail.split().0.contains(" with ESMTPA id "), "{}", mail.split().0);
    assert!(!mail.text().contains("ann@example.net\""), "the login is not told to others");
    let text = world.server.event_with("submitted", &id);
    assert!(text.contains("client=127.0.0.1 login=\"ann@example.net\""), "{text}");
    world.server.event_with("login", "mechanism=PLAIN");
    assert_eq!(world.server.metric("ringpost_auth_success_total", "mechanism=\"PLAIN\""), 1.0);
    // Another session is nobody.
    let mut other = world.server.client();
    other.say("MAIL FROM:<ann@example.net>").expect("250");
    other.say(&format!("RCPT TO:<{TO}>")).expect("554 5.7.1");
    world.end(&[&encode(format!("\0Ann@Example.net\0{SECRET}"))]);
}

#[test]
fn required_is_required() {
    let world = World::new("required", &[("ann", "SCRAM-SHA-256")], id);
    let mut client = world.server.client();
    for line in ["MAIL FROM:<a@b.example>", "VRFY ann"] {
        client.say(line).expect("530 5.7.0 Authentication required");
    }
    client.say(&plain("ann", SECRET)).expect("235");
    client.mail("a@b.example", &[TO], b"Subject: x\r\n\r\nx\r\n");
    // The load generator logs in, too; without it nothing is taken.
    let password = world.dir.path().join("password");
    std::fs::write(&password, SECRET).expect("a file");
    let load = |more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["load", "smtp", "--messages", "3", "--to", &world.server.smtp.to_string()]);
        command.args(more).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("the program runs")
    };
    let file = password.display().to_string();
    assert!(load(&["--auth", "ann", "--password-file", &file]).success());
    assert!(!load(&[]).success());
    assert_eq!(world.hop.wait(4).len(), 4);
    world.end(&[]);
}

#[test]
fn every_mechanism() {
    let world = World::new("offered", &[("ann", "PLAIN"), ("bob", "PLAIN")], |c| {
        let all = "[\"PLAIN\", \"LOGIN\", \"CRAM-MD5\", \"SCRAM-SHA-1\", \"SCRAM-SHA-256\", \"EXTERNAL\", \
                   \"SCRAM-SHA-256-PLUS\"]";
        c.set("auth", "mechanisms", all)
    });
    let mut client = Client::connect(world.server.smtp);
    let ehlo = client.say("EHLO client.test");
    assert!(ehlo.0.contains("AUTH SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN\r\n"), "{ehlo:?}");
    client.say("AUTH PLAIN").expect("334 \r\n");
    client.say(&encode(format!("ann\0ann\0{SECRET}"))).expect("235");
    let mut client = world.server.client();
    client.say("AUTH LOGIN").expect("334 VXNlcm5hbWU6\r\n");
    client.say(&encode("ann")).expect("334 UGFzc3dvcmQ6\r\n");
    client.say(&encode(SECRET)).expect("235");
    let mut client = world.server.client();
    client.say(&format!("AUTH LOGIN {}", encode("ann"))).expect("334 UGFzc3dvcmQ6\r\n");
    client.say(&encode(SECRET)).expect("235");
    for (name, hash) in [("SCRAM-SHA-256", Hash::Sha256), ("SCRAM-SHA-1", Hash::Sha1)] {
        let mut client = world.server.client();
        let bare = "n=bob,r=abcdef";
        let first = challenge(&client.say(&format!("AUTH {name} {}", encode(format!("n,,{bare}")))).0);
        let (last, end) = scram(hash, bare, &first, SECRET);
        assert_eq!(challenge(&client.say(&encode(last)).0), end);
        client.say("").expect("235 2.7.0");
    }
    let mut client = world.server.client();
    client.say("AUTH CRAM-MD5 =").expect("501");
    let asked = challenge(&client.say("AUTH CRAM-MD5").0);
    assert!(asked.starts_with('<') && asked.ends_with("@mx.test.example>"), "{asked}");
    client.say(&encode(format!("bob {}", "0".repeat(32)))).expect("535 5.7.8");
    for name in ["EXTERNAL", "SCRAM-SHA-256-PLUS", "GSSAPI"] {
        client.say(&format!("AUTH {name}")).expect("504 5.5.4");
    }
    world.end(&[&encode(format!("ann\0ann\0{SECRET}")), &encode(SECRET)]);
}

/// In clear text nothing is offered and nothing is taken, unless it is allowed.
#[test]
fn no_password_in_clear_text() {
    let world =
        World::new("required", &[("ann", "SCRAM-SHA-256")], |c| c.set("auth", "allow_plaintext", "false"));
    let mut client = Client::connect(world.server.smtp);
    assert!(!client.say("EHLO client.test").0.contains("AUTH"));
    client.say(&plain("ann", SECRET)).expect("538 5.7.11");
    client.say("AUTH SCRAM-SHA-256").expect("538 5.7.11");
    client.say("MAIL FROM:<a@b.example>").expect("530 5.7.0");
    world.end(&[]);
}

/// Under TLS passwords are taken, and SCRAM is bound to the connection.
#[test]
fn under_tls() {
    let (hop, dir) = (Hop::start(), crate::harness::server::directory());
    let file = dir.path().join("users");
    add(&file, "ann", &[]);
    let pair = Pair::make(dir.path(), "main", "mx.test.example");
    let named = "[\"SCRAM-SHA-256-PLUS\", \"SCRAM-SHA-256\", \"PLAIN\", \"LOGIN\", \"EXTERNAL\"]";
    let mut settings = config(hop.address, &file, "required").set("auth", "allow_plaintext", "false").set(
        "auth",
        "mechanisms",
        named,
    );
    settings.tail += &format!("[tls]\n{}", pair.lines());
    let server = Server::start(&settings);
    let rules = Arc::new(rules(BOTH));
    let connect = || Client::secured(server.smtp, &rules, "mx.test.example");
    let mut client = connect();
    let ehlo = client.say("EHLO client.test");
    assert!(ehlo.0.contains("AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n"), "{ehlo:?}");
    client.say(&plain("ann", SECRET)).expect("235");
    client.mail("a@b.example", &[TO], b"Subject: x\r\n\r\nx\r\n");
    assert!(hop.wait(1)[0].split().0.contains(" with ESMTPSA id "));
    let run = |mechanism: &str, gs2: &str, binding: &dyn Fn(&Client) -> Vec<u8>| {
        let mut client = connect();
        let bare = "n=ann,r=abcdef";
        let reply = client.say(&format!("AUTH {mechanism} {}", encode(format!("{gs2}{bare}"))));
        if reply.code() != 334 {
            return reply.code();
        }
        let (last, end) = bound(Hash::Sha256, (gs2, &binding(&client)), bare, &challenge(&reply.0), SECRET);
        let reply = client.say(&encode(last));
        if reply.code() != 334 {
            return reply.code();
        }
        assert_eq!(challenge(&reply.0), end);
        client.say("").code()
    };
    let exporter = |c: &Client| c.exporter().to_vec();
    // The keys of rcgen are ECDSA with SHA-256: so is the digest of the certificate.
    let end_point = |c: &Client| Hash::Sha256.digest(&c.shown());
    let (plus, without) = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256");
    assert_eq!(run(plus, "p=tls-exporter,,", &exporter), 235);
    assert_eq!(run(plus, "p=tls-server-end-point,,", &end_point), 235);
    assert_eq!(run(plus, "p=tls-exporter,,", &|_| vec![0; 32]), 535, "another connection");
    assert_eq!(run(plus, "p=tls-unique,,", &exporter), 535);
    assert_eq!(run(without, "n,,", &|_| Vec::new()), 235);
    assert_eq!(run(without, "y,,", &|_| Vec::new()), 535, "somebody has hidden the offer");
    // What was proved in clear text would be forgotten; here nothing can be.
    let mut clear = server.client();
    clear.say(&plain("ann", SECRET)).expect("538 5.7.11");
    clear.say("AUTH EXTERNAL =").expect("504");
    assert!(!server.lines().join("").contains(SECRET));
    server.stop();
}

/// A hash that cannot serve SCRAM takes it out of the offer.
#[test]
fn only_what_all_users_can_is_offered() {
    let world = World::new("offered", &[("ann", "SCRAM-SHA-256"), ("bob", "BLF-CRYPT")], id);
    let mut client = Client::connect(world.server.smtp);
    assert!(client.say("EHLO client.test").0.contains("250-AUTH PLAIN LOGIN\r\n"));
    client.say("AUTH SCRAM-SHA-256").expect("504");
    client.say(&plain("bob", SECRET)).expect("235");
    let check = world.server.run(&["check"]);
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && text.contains("SCRAM-SHA-256 is not offered"), "{text}");
    world.end(&[]);
}

/// Unknown logins look like known ones, each time and after a restart.
#[test]
fn unknown_users_cannot_be_told_from_known_ones() {
    let world = World::new("offered", &[("ann", "SCRAM-SHA-256")], id);
    let ask = |server: &Server, login: &str| {
        let mut client = server.client();
        let bare = format!("n={login},r=abcdef");
        let first = challenge(&client.say(&format!("AUTH SCRAM-SHA-256 {}", encode(format!("n,,{bare}")))).0);
        let (last, _) = scram(Hash::Sha256, &bare, &first, "wrong");
        client.say(&encode(last)).expect("535 5.7.8 Authentication credentials invalid");
        first.split_once(',').unwrap().1.to_owned()
    };
    let (known, unknown) = (ask(&world.server, "ann"), ask(&world.server, "eve"));
    assert_eq!((known.len(), known.split(',').nth(1)), (unknown.len(), unknown.split(',').nth(1)));
    assert_ne!(unknown, ask(&world.server, "mallory"));
    let mut client = world.server.client();
    for login in ["ann", "eve"] {
        client.say(&plain(login, "wrong")).expect("535 5.7.8 Authentication credentials invalid");
    }
    assert_eq!(world.server.metric("ringpost_auth_hashes_total", ""), 2.0, "the same work for both");
    let config = config(world.hop.address, &world.users(), "offered");
    let server = Server::start_in(world.server.stop(), &config);
    assert_eq!((ask(&server, "eve"), ask(&server, "ann")), (unknown, known));
    server.stop();
}

/// Attack catalogue, row 11: what is not base64, too long, cancelled; it hurts nobody else.
#[test]
fn row_11_auth_blobs() {
    let world = World::new("offered", &[("ann", "SCRAM-SHA-256")], |c| {
        c.set("limits", "errors_soft", "100").set("limits", "errors_hard", "200")
    });
    let mut other = world.server.client();
    let mut client = world.server.client();
    for bad in ["A", "AA", "AAA", "AB==", "A===", "====", "AA==AA==", "A A=", "A-_=", "*=", "=A"] {
        client.say(&format!("AUTH PLAIN {bad}")).expect("501 5.5.2");
        client.say("AUTH PLAIN").expect("334");
        client.say(bad).expect("501 5.5.2");
    }
    for (message, reply) in [
        ("", "501 5.5.2"),
        ("ann", "501 5.5.2"),
        ("\0ann\0", "501 5.5.2"),
        ("\0\0x", "501 5.5.2"),
        ("\0ann\0x\0y", "501 5.5.2"),
        ("\0\0\0\0", "501 5.5.2"),
        ("root\0ann\0x", "535 5.7.8"),
        ("\0ann\0x\r\nMAIL FROM:<>", "535 5.7.8"),
        ("\0a\r\nlevel=info login=\"ann\0x", "535 5.7.8"),
    ] {
        client.say("AUTH PLAIN").expect("334");
        client.say(&encode(message)).expect(reply);
    }
    client.say("AUTH PLAIN").expect("334");
    client.say("*").expect("501 5.7.0 Authentication cancelled");
    // 12,288 octets with CRLF are taken, more are not.
    let long = encode(vec![b'x'; 12_285 / 4 * 3]);
    client.say("AUTH PLAIN").expect("334");
    client.say(&long).expect("501 5.5.2 The response");
    client.say("AUTH PLAIN").expect("334");
    client.say(&format!("{long}AAAA")).expect("500 5.5.6");
    client.say(&format!("AUTH PLAIN {long}")).expect("500 5.5.6");
    client.say("AUTH LOGIN").expect("334");
    client.send("A".repeat(1 << 20));
    client.say("").expect("500 5.5.6");
    client.say("NOOP").expect("250");
    client.say("MAIL FROM:<a@b.example>").expect("250");
    client.say(&plain("ann", SECRET)).expect("503 5.5.1");
    client.say("RSET").expect("250");
    other.say(&plain("ann", SECRET)).expect("235");
    client.say(&plain("ann", SECRET)).expect("235");
    client.say(&plain("ann", SECRET)).expect("503 5.5.1");
    assert_eq!(world.server.metric("ringpost_session_panics_total", ""), 0.0);
    let failed = world.server.lines().into_iter().filter(|l| l.contains("login_failed"));
    assert!(failed.into_iter().all(|l| serde_json::from_str::<serde_json::Value>(&l).is_ok()));
    world.end(&[]);
}

#[test]
fn guessing_ends_the_session() {
    let world = World::new("offered", &[("ann", "SSHA512")], |c| c.set("limits", "auth_failures", "2"));
    let mut client = world.server.client();
    client.say(&plain("ann", "wrong1")).expect("535");
    client.say(&plain("ann", "wrong2")).expect("535");
    client.reply().expect("421 4.7.0");
    assert!(client.try_reply().is_none());
    world.server.event_with("login_failed", "service=smtp mechanism=PLAIN result=failed login=\"ann\"");
    world.end(&["wrong1", "wrong2", &encode("\0ann\0wrong1")]);
}

/// Users that come, go and change are seen without a restart; a broken file changes nothing.
#[test]
fn the_file_is_read_again() {
    let world = World::new("offered", &[("ann", "SCRAM-SHA-256")], id);
    let login = |name: &str, password: &str| world.server.client().say(&plain(name, password)).code();
    assert_eq!((login("ann", SECRET), login("bob", SECRET)), (235, 535));
    assert_eq!(login("ann", SECRET), 235);
    assert_eq!(world.server.metric("ringpost_auth_cache_hits_total", ""), 1.0);
    add(&world.users(), "bob", &[]);
    until("bob may come in", || (login("bob", SECRET) == 235).then_some(()));
    assert!(user(&world.users(), &["passwd", "ann", "--password-stdin"], "Another.Horse").status.success());
    until("the new password", || (login("ann", "Another.Horse") == 235).then_some(()));
    assert_eq!(login("ann", SECRET), 535, "what was kept of the old one is worth nothing");
    let good = std::fs::read_to_string(world.users()).expect("a file");
    std::fs::write(world.users(), format!("{good}eve:not a hash\n")).expect("a file");
    let alarm = world.server.event_with("users", "\"eve\"");
    assert!(!alarm.contains("not a hash"), "{alarm}");
    for broken in ["", "ann:broken\n"] {
        std::fs::write(world.users(), broken).expect("a file");
        world.server.event_with("users", "the old users stay in use");
        assert_eq!(login("ann", "Another.Horse"), 235);
    }
    std::fs::write(world.users(), good).expect("a file");
    assert!(user(&world.users(), &["remove", "bob"], "").status.success());
    until("bob is gone", || (login("bob", SECRET) == 535).then_some(()));
    world.end(&["Another.Horse"]);
}

#[test]
fn sessions_of_one_user_are_limited() {
    let world = World::new("offered", &[("ann", "SSHA512"), ("bob", "SSHA512")], |c| {
        c.set("limits", "sessions_per_user", "2")
    });
    let (mut a, mut b) = (world.server.client(), world.server.client());
    a.say(&plain("ann", SECRET)).expect("235");
    b.say(&plain("ann", SECRET)).expect("235");
    let mut c = world.server.client();
    c.say(&plain("ann", SECRET)).expect("454 4.7.0 Too many sessions of this user");
    c.say("MAIL FROM:<a@b.example>").expect("250");
    c.say(&format!("RCPT TO:<{TO}>")).expect("554 5.7.1");
    c.say("RSET").expect("250");
    c.say(&plain("bob", SECRET)).expect("235");
    drop(a);
    until("a place", || (world.server.client().say(&plain("ann", SECRET)).code() == 235).then_some(()));
    world.end(&[]);
}

/// More wrong passwords at once than may wait: some are told 454 without a hash, mail goes on, and
/// who is known needs no hash.
#[test]
fn a_flood_of_passwords_is_bounded() {
    let world = World::new("offered", &[("ann", "ARGON2ID")], |c| {
        c.set("auth", "hash_waiting", "2").set("auth", "hash_threads", "1")
    });
    world.server.client().say(&plain("ann", SECRET)).expect("235");
    let mut flood: Vec<Client> = (0..40).map(|_| world.server.client()).collect();
    for (n, client) in flood.iter_mut().enumerate() {
        client.send(format!("{}\r\n", plain("ann", &format!("guess{n}"))));
    }
    world.server.client().say(&plain("ann", SECRET)).expect("235");
    let codes: Vec<u16> = flood.iter_mut().map(|c| c.reply().code()).collect();
    assert!(codes.iter().all(|c| [454, 535].contains(c)), "{codes:?}");
    let busy = codes.iter().filter(|c| **c == 454).count();
    assert!((1..40).contains(&busy), "{codes:?}");
    assert_eq!(world.server.metric("ringpost_auth_overflow_total", ""), busy as f64);
    until("an empty queue", || (world.server.metric("ringpost_auth_waiting", "") == 0.0).then_some(()));
    flood[0].say(&plain("ann", SECRET)).expect("235");
    world.end(&["guess0", "guess39"]);
}

#[test]
fn the_command_keeps_the_file() {
    let dir = crate::harness::server::directory();
    let file = dir.path().join("users");
    add(&file, "Ann@Example.net", &[]);
    let code = |words: &[&str], input: &str| user(&file, words, input).status.code();
    let verify = ["verify", "ann@example.net", "--password-stdin"];
    assert_eq!((code(&verify, SECRET), code(&verify, "wrong")), (Some(0), Some(77)));
    assert_eq!(code(&["verify", "eve", "--password-stdin"], "x"), Some(67));
    assert_eq!(code(&["add", "ann@example.net", "--password-stdin"], "x"), Some(65), "it is there");
    assert_eq!(code(&["add", "a:b", "--password-stdin"], "x"), Some(64));
    assert_eq!(code(&["add", "bob", "--password-stdin"], ""), Some(65), "no password");
    assert_eq!(code(&["passwd", "eve", "--password-stdin"], "x"), Some(67));
    assert_eq!(code(&["add", "bob", "--password-stdin", "--scheme", "rot13"], "x"), Some(64));
    add(&file, "bob", &["--scheme", "argon2id"]);
    let listed = user(&file, &["list", "--json"], "");
    let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .map(|l| serde_json::from_str(l).expect("a line of JSON"))
        .collect();
    assert_eq!(
        (lines[0]["login"].as_str(), lines[0]["scheme"].as_str()),
        (Some("ann@example.net"), Some("SCRAM-SHA-256"))
    );
    assert_eq!(lines[1]["mechanisms"], serde_json::json!(["PLAIN", "LOGIN"]));
    let text = std::fs::read_to_string(&file).expect("a file");
    assert!(!text.contains(SECRET) && text.starts_with("ann@example.net:{SCRAM-SHA-256}10000,"), "{text}");
    assert_eq!((code(&["remove", "bob"], ""), code(&["remove", "bob"], "")), (Some(0), Some(67)));
    assert_eq!(user(&dir.path().join("none"), &["list"], "").status.code(), Some(66));
}

#[test]
fn a_broken_file_stops_the_start() {
    let dir = crate::harness::server::directory();
    let file = dir.path().join("users");
    let text = |dir: &Path| config("127.0.0.1:9".parse().unwrap(), &file, "offered").text(dir);
    let (code, said, _) = crate::harness::server::run_once(&["serve"], &text(dir.path()));
    assert_eq!(code, Some(78), "{said}");
    std::fs::write(&file, "ann:secretword\n").expect("a file");
    let (code, said, _) = crate::harness::server::run_once(&["check"], &text(dir.path()));
    assert!(
        code == Some(78) && said.contains("line 1: user \"ann\"") && !said.contains("secretword"),
        "{said}"
    );
}
