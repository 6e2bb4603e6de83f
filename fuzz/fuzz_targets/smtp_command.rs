//! Any command line: no panic, and what is accepted has the promised form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::message::address::Address;
use ringpost::message::domain;
use ringpost::smtp::command::{Command, parse};
use ringpost::smtp::parameter::{decode_xtext, is_xtext};

fuzz_target!(|line: &[u8]| {
    match parse(line) {
        Ok(Command::Mail(mail)) => {
            address(mail.sender);
            assert!(mail.sender.is_null() || !mail.sender.domain().is_empty());
            assert!(mail.options.smtputf8 || !mail.sender.is_international());
            printable(mail.envid);
        }
        Ok(Command::Rcpt(rcpt)) => {
            address(rcpt.recipient);
            assert!(!rcpt.recipient.is_null());
            if rcpt.orcpt.is_ascii() {
                printable(rcpt.orcpt);
            }
        }
        Ok(Command::Ehlo(name) | Command::Helo(name)) => assert!(domain::is_helo(name)),
        Ok(_) => {}
        Err(bad) => assert!(bad.reply().code() >= 500),
    }
});

fn address(a: Address<'_>) {
    assert_eq!(Address::stored(a.bytes()), a, "the stored form is read the same way");
    assert!(!a.bytes().iter().any(|&b| b < 32 || b == 127));
    assert!(a.domain().is_empty() || domain::is_domain(a.domain()));
    assert!(std::str::from_utf8(a.bytes()).is_ok());
}

fn printable(text: &[u8]) {
    assert!(text.iter().all(|b| matches!(b, 33..=126)));
    let mut decoded = Vec::new();
    decode_xtext(text, &mut decoded);
    assert!(!is_xtext(text) || decoded.iter().all(|b| matches!(b, 32..=126)));
}
