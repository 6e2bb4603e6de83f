//! What of a message its bounce returns.

use super::*;
use crate::message::envelope::Ret;

/// Sends a message with a body of `len` bytes that is refused; gives the bounce.
async fn refused(r: &Run, desk: &Desk<Rig>, ret: Option<Ret>, len: usize) -> String {
    r.b.got.borrow_mut().clear();
    let mut e = Envelope::default();
    e.begin(b"me@from.example", SenderOptions { ret, ..SenderOptions::default() }, b"");
    e.push(b"x@a.example", Notify::DEFAULT, b"");
    let lines = "a line of the body\r\n".repeat(len / 20);
    send_as(desk, &e, &format!("Subject: returned\r\n\r\n{lines}")).await.expect("accepted");
    assert!(r.empty(desk, 60 * SECOND).await);
    let got = texts(&r.b);
    assert_eq!(got.len(), 1);
    assert!(got[0].data.contains("Subject: returned"), "the header is always returned");
    got[0].data.clone()
}

/// Bytes of the body in a bounce.
fn returned(bounce: &str) -> usize {
    assert_eq!(bounce.contains("Content-Type: message/rfc822\n"), bounce.contains("a line of the body"));
    assert_ne!(bounce.contains("Content-Type: message/rfc822\n"), bounce.contains("text/rfc822-headers"));
    20 * bounce.matches("a line of the body").count()
}

#[test]
fn the_message_up_to_the_limit_else_its_header() {
    let world = Rc::new(World::default());
    let limit = |r: &mut Run| r.options.bounce_size = 3000;
    run(&world, limit, async |r| {
        let (desk, _) = r.open().await;
        *r.a.rcpt.borrow_mut() = Box::new(|_| "550 5.1.1 No such user".into());
        assert_eq!(returned(&refused(r, &desk, None, 2000).await), 2000);
        assert_eq!(returned(&refused(r, &desk, Some(Ret::Full), 2000).await), 2000);
        assert_eq!(returned(&refused(r, &desk, Some(Ret::Headers), 2000).await), 0);
        assert_eq!(
            returned(&refused(r, &desk, Some(Ret::Full), 3000).await),
            0,
            "with its header it is more"
        );
    });
}

#[test]
fn a_limit_above_what_a_record_holds() {
    let world = Rc::new(World::default());
    let limit = |r: &mut Run| r.options.bounce_size = 1 << 20;
    run(&world, limit, async |r| {
        let (desk, _) = r.open().await;
        *r.a.rcpt.borrow_mut() = Box::new(|_| "550 5.1.1 No such user".into());
        let most = r.storage.payload_max();
        assert_eq!(returned(&refused(r, &desk, None, most / 2).await), most / 2 / 20 * 20);
        assert_eq!(returned(&refused(r, &desk, None, most - 1000).await), 0);
    });
}
