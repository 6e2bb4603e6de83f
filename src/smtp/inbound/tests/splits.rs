//! However the input is cut into segments: the same replies, the same messages.

use super::*;
use proptest::prelude::*;

const DIALOGUES: [&str; 9] = [
    "EHLO a\r\nMAIL FROM:<a@b> SIZE=10\r\nRCPT TO:<c@d>\r\nRCPT TO:<no@d>\r\nDATA\r\nS: x\r\n\r\n\
     ..a\r\n.b\r\n.\r\nQUIT\r\n",
    "HELO a\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\nDATA\r\n.\r\nNOOP\r\nRSET\r\nVRFY x\r\n\
     QUIT\r\nNOOP\r\n",
    "EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 4\r\n.\r\n\rBDAT 3\r\n\nx\rBDAT 1 LAST\r\n\
     \nMAIL FROM:<a@b>\r\n",
    "EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2\r\nabBDAT 2\r\na\nBDAT 1 LAST\r\n.NOOP\r\nQUIT\r\n",
    "EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\na\n.\r\nMAIL FROM:<x@y>\r\n.\r\nQUIT\r\n",
    "EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r.\r\n.\r\r\n.\r\nRSET\r\nQUIT\r\n",
    "X\r\nEHLO\r\nEHLO a\r\nNOOP\nDATA\r\nMAIL FROM:<bad@b>\r\nRCPT TO:<c@d>\r\nQUIT\r\n",
    "EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nfull\r\n.\r\nGET / HTTP/1.1\r\nNOOP\r\n",
    "EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nReceived: a\r\nReceived: b\r\n\
     Received: c\r\nReceived: d\r\n\r\n.\r\nQUIT\r\n",
];

const WORDS: [&str; 20] = [
    "EHLO a\r\n",
    "MAIL FROM:<a@b>\r\n",
    "RCPT TO:<c@d>\r\n",
    "RCPT TO:<no@d>\r\n",
    "DATA\r\n",
    "BDAT 5\r\n",
    "BDAT 9 LAST\r\n",
    "BDAT -1\r\n",
    "RSET\r\n",
    "QUIT\r\n",
    "NOOP\r\n",
    "text\r\n",
    "x: y\r\n",
    "full",
    ".\r\n",
    "\r\n.\r\n",
    "\n",
    "\r",
    ".",
    "\0",
];

fn run(text: &[u8], cuts: &[usize], options: Options) -> (String, Vec<Stored>, bool, usize) {
    let mut s = Shell::new(Shell::loose(options));
    let mut from = 0;
    for to in cuts.iter().copied().chain([text.len()]) {
        s.feed(&text[from.min(to)..to]);
        from = to.max(from);
    }
    (String::from_utf8_lossy(&s.replies).into_owned(), s.stored, s.closed, s.body.len())
}

#[test]
fn split_at_every_byte() {
    for dialogue in DIALOGUES {
        for normalize in [false, true] {
            let mut options = Options::tiny();
            if normalize {
                options.message.bare_newline = crate::smtp::data::BareNewline::Normalize;
            }
            let text = dialogue.as_bytes();
            let whole = run(text, &[], options.clone());
            for cut in 1..text.len() {
                assert_eq!(run(text, &[cut], options.clone()), whole, "cut at {cut} of {dialogue:?}");
            }
            let every: Vec<usize> = (1..text.len()).collect();
            assert_eq!(run(text, &every, options.clone()), whole, "byte by byte: {dialogue:?}");
        }
    }
}

#[test]
fn the_dialogues_say_what_they_should() {
    let replies: Vec<String> = DIALOGUES.map(|d| codes(&run(d.as_bytes(), &[], Options::tiny()).0)).to_vec();
    assert_eq!(
        replies,
        [
            "250 250 250 550 354 250 221",
            "250 250 250 354 250 250 250 252 221",
            "250 250 250 250 250 250 250",
            "250 250 250 250 550 503 250 221",
            "250 250 250 354 550 221",
            "250 250 250 354 550 250 221",
            "500 501 250 500 503 421",
            "250 250 250 354 452 554",
            "250 250 250 354 554 221",
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn random_dialogues_in_random_segments(
        words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..40),
        cuts in prop::collection::vec(0usize..400, 0..6),
    ) {
        let text = words.concat();
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|&c| c <= text.len()).collect();
        cuts.sort_unstable();
        let whole = run(text.as_bytes(), &[], Options::tiny());
        prop_assert_eq!(run(text.as_bytes(), &cuts, Options::tiny()), whole);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), cut in 0usize..2000) {
        let cut = cut.min(bytes.len());
        run(&bytes, &[cut], Options::tiny());
    }
}
