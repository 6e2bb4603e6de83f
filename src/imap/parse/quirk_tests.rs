//! What real clients send: each line is of the form of one of them, or of a habit that many share.

use super::*;

fn ok(text: &str) -> Verb<'_> {
    parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text:?}: {e}")).verb
}

/// Thunderbird: chunked bodies, CHANGEDSINCE, names with a delimiter at their end.
#[test]
fn thunderbird() {
    let Verb::Fetch(f) = ok("7 UID fetch 1:* (FLAGS) (CHANGEDSINCE 4711)") else { panic!("FETCH") };
    assert_eq!((f.uid, f.changed_since), (true, Some(4711)));
    ok("8 UID fetch 5 (UID RFC822.SIZE BODY.PEEK[]<8192.16384>)");
    ok("9 UID fetch 1:5 (UID RFC822.SIZE FLAGS BODY.PEEK[HEADER.FIELDS (From To Cc Bcc Subject Date \
        Message-ID \
        Priority X-Priority References Newsgroups In-Reply-To Content-Type Reply-To)])");
    let Verb::Create(c) = ok("10 create \"Work/Sub/\"") else { panic!("CREATE") };
    assert_eq!(&*c.mailbox.bytes(), b"Work/Sub/");
    ok("11 list (subscribed) \"\" \"*\" return (special-use)");
    ok("12 lsub \"\" \"*\"");
    ok("13 UID STORE 12 +Flags (\\Seen NonJunk $label1)");
    ok("14 ENABLE UTF8=ACCEPT");
    ok("15 getquotaroot \"INBOX\"");
    ok("16 append \"Sent\" (\\Seen) \"26-Nov-2026 10:00:00 +0100\" {310+}\r\n");
    ok("17 ID (\"name\" \"Thunderbird\" \"version\" \"140.0\")");
    ok("18 select \"INBOX\" (CONDSTORE)");
    ok("19 xlist \"\" \"*\"".replace("xlist", "LIST").as_str());
}

/// Thunderbird for Android and K-9: SASL-IR with OAUTHBEARER, UID SEARCH of ranges, PEEK of parts.
#[test]
fn k9() {
    ok("1 AUTHENTICATE XOAUTH2 dXNlcj1mb28BYXV0aD1CZWFyZXIgYmFyAQE=");
    ok("2 AUTHENTICATE PLAIN");
    ok("3 UID SEARCH 1:25 NOT DELETED");
    ok("4 UID FETCH 3 (UID BODY.PEEK[HEADER.FIELDS (date subject from content-type to cc reply-to \
        message-id)])");
    ok("5 UID FETCH 3 (BODY.PEEK[1.2]<0.5120>)");
    ok("6 LIST \"\" \"*\" RETURN (SPECIAL-USE)");
    ok("7 UID MOVE 3 \"Trash\"");
    ok("8 CREATE \"Archive\" (USE (\\Archive))");
}

/// Apple Mail and iOS: LIST-STATUS, pipelined, lower-case tags with dots, ESEARCH.
#[test]
fn apple() {
    ok("1.58 LIST \"\" \"*\" RETURN (STATUS (MESSAGES UIDNEXT UIDVALIDITY HIGHESTMODSEQ UNSEEN) \
        SPECIAL-USE)");
    ok("2.58 UID SEARCH RETURN (ALL) 1:* NOT DELETED");
    ok("3.58 UID FETCH 1:10 (INTERNALDATE UID RFC822.SIZE FLAGS MODSEQ BODY.PEEK[HEADER.FIELDS (date \
        subject)])");
    ok("4.58 ID (\"name\" \"Mac OS X Mail\" \"version\" \"16.0 (3774)\" \"os\" \"Mac OS X\" \"vendor\" \
        \"Apple Inc.\")");
    ok("5.58 STATUS \"INBOX\" (MESSAGES UIDNEXT UIDVALIDITY APPENDLIMIT)");
    ok("6.58 COMPRESS DEFLATE");
    ok("7.58 AUTHENTICATE PLAIN AGZyZWQAc2VjcmV0");
}

/// Outlook: an initial response with LOGIN; spaces where none belong.
#[test]
fn outlook() {
    let Verb::Authenticate(a) = ok("5zex AUTHENTICATE LOGIN ZnJlZA==") else { panic!("AUTHENTICATE") };
    assert!(a.mechanism == b"LOGIN" && a.initial.is_some());
    ok("hvn8 LOGIN \"user@example.com\" \"p&ss\\\\word\"");
    ok("1r7a UID FETCH 1:* (UID FLAGS)");
    ok("9nuu UID FETCH 12 (BODY.PEEK[] UID RFC822.SIZE FLAGS INTERNALDATE ENVELOPE)");
    ok("pa0b UID STORE 7 +FLAGS.SILENT (\\Deleted \\Seen)");
    ok("i4rk CLOSE ");
    ok("bc2g STATUS \"Sent Items\" (UNSEEN MESSAGES RECENT UIDNEXT UIDVALIDITY) ");
}

/// mutt and neomutt: QRESYNC, pipelined, flags with a space before the parenthesis.
#[test]
fn mutt() {
    ok("a0003 SELECT \"INBOX\" (QRESYNC (1700000000 42 1:5000))");
    ok("a0004 FETCH 1:50 (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (DATE FROM SENDER \
        SUBJECT TO CC \
        MESSAGE-ID REFERENCES CONTENT-TYPE CONTENT-DESCRIPTION IN-REPLY-TO REPLY-TO LINES LIST-POST \
        X-LABEL)])");
    ok("a0005 STORE 3 +FLAGS (\\Seen )");
    ok("a0006 ID (\"name\" \"NeoMutt\" \"version\" \"20240425\")");
    ok("a0007 LOGIN \"fred\" \"x\"");
}

/// mbsync and the others that synchronize: UIDs, literals that do not wait, searches for one header.
#[test]
fn synchronizers() {
    ok("5 UID FETCH 1:1 (UID BODY.PEEK[HEADER.FIELDS (X-TUID)])");
    ok("6 APPEND \"Box\" (\\Seen \\Recent) {1000+}\r\n");
    ok("7 UID SEARCH HEADER X-TUID abcdef123456");
    ok("8 UID STORE 5 +FLAGS.SILENT (\\Deleted)");
    ok("FBHH4 UID FETCH 7 (BODY.PEEK[])");
    ok("A0004 SEARCH UNSEEN NOT DELETED");
    ok("A0005 FETCH 1:3 RFC822.SIZE");
    ok("A0006 FETCH 1 RFC822.HEADER");
    ok("A0007 FETCH 1 BODY.PEEK[TEXT]");
    ok("A0008 STORE 1 +FLAGS (\\Seen)");
}

/// Roundcube and SOGo: SORT, THREAD, many UIDs, very long lines.
#[test]
fn web_mail() {
    ok("A0006 UID SORT (DATE) US-ASCII ALL UNDELETED");
    ok("A0007 UID SORT RETURN (ALL)"
        .split(" RETURN")
        .next()
        .map(|s| format!("{s} (ARRIVAL) UTF-8 ALL"))
        .unwrap()
        .as_str());
    ok("A0008 UID THREAD REFS".replace("REFS", "REFERENCES US-ASCII ALL UNDELETED").as_str());
    ok("A0009 LIST (SUBSCRIBED) \"\" \"*\" RETURN (STATUS (MESSAGES UNSEEN))");
    ok("A0010 UID SEARCH RETURN (ALL COUNT) UNSEEN UNDELETED");
    ok("A0011 UID FETCH 9 (UID BODY.PEEK[1.MIME] BODY.PEEK[1.2.MIME] BODYSTRUCTURE)");
    ok("A0012 UID FETCH 9 (BINARY.PEEK[2])");
    ok("A0013 GETQUOTAROOT INBOX");
    let uids: Vec<String> = (0..250_000).map(|n| (n * 2 + 1).to_string()).collect();
    let long = format!("8 uid fetch {} (UID FLAGS)", uids.join(","));
    let Verb::Fetch(f) = ok(&long) else { panic!("FETCH") };
    let Messages::Set(set) = f.messages else { panic!("a set") };
    assert_eq!(set.ranges().len(), 250_000);
}

/// imapflow and others on Node: everything new at once.
#[test]
fn imapflow() {
    ok("3 ENABLE CONDSTORE UTF8=ACCEPT IMAP4rev2");
    ok("4 ENABLE CONDSTORE QRESYNC");
    ok("5 UID FETCH 1:* (UID FLAGS MODSEQ EMAILID THREADID INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE)");
    ok("6 LIST \"\" \"*\" RETURN (SUBSCRIBED SPECIAL-USE STATUS (MESSAGES UIDNEXT UNSEEN))");
    ok("7 UID SEARCH OLDER 3600 OR EMAILID M1 THREADID T1");
    ok("8 SELECT INBOX (QRESYNC (1700000000 42))");
    ok("9 UID FETCH 5 (BINARY.PEEK[1]<0.65536>)");
    ok("10 UID FETCH 1:* (FLAGS) (CHANGEDSINCE 9 VANISHED)");
}

/// Names in UTF-8 within quotes, as clients send them after UTF8=ACCEPT and some of them always.
#[test]
fn utf8_in_quotes() {
    let Verb::Select(s) = ok("a SELECT \"Entw\u{fc}rfe\"") else { panic!("SELECT") };
    assert_eq!(&*s.mailbox.bytes(), "Entw\u{fc}rfe".as_bytes());
    ok("a LOGIN \"j\u{fc}rgen\" \"\u{df}\"");
    ok("a SEARCH SUBJECT \"gr\u{fc}\u{df}e\"");
}

/// IDLE ends with DONE, in any case and with white space behind it; commands may follow at once.
#[test]
fn the_end_of_idle() {
    use crate::imap::line::{Frame, Framer, Limits};
    let wire = b"1 IDLE\r\nDONE\r\n2 NOOP\r\n";
    let mut framer = Framer::new(Limits::AFTER_LOGIN);
    assert_eq!(framer.next(wire), Frame::Command { text: 6, used: 8 });
    assert_eq!(framer.plain(&wire[8..], 100), Frame::Command { text: 4, used: 6 });
    assert!(session::is_done(&wire[8..12]));
    assert_eq!(framer.next(&wire[14..]), Frame::Command { text: 6, used: 8 });
}
