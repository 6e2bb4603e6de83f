//! L2: the policy delegation protocol of Postfix (its SMTPD_POLICY_README), as a client: one question, one
//! answer.
//!
//! A question is lines of `name=value`, an empty line ends it; so does the answer, which has one line
//! `action=...`. Knows no connection and no time. Values cannot break out of their lines. An answer that is
//! too long, or in another form, is a [`Fault`].

/// Bytes of an answer at most.
pub const ANSWER_MAX: usize = 16 << 10;

/// What is wrong with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is longer than [`ANSWER_MAX`].
    Length,
    /// It has no action, or is not in lines of `name=value`.
    Form,
    /// An action that we cannot do.
    Action,
}

impl Fault {
    /// In words, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Fault::Length => "an answer that is too long",
            Fault::Form => "an answer without an action",
            Fault::Action => "an action that is not supported",
        }
    }
}

/// What is to be done with a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action<'a> {
    /// DUNNO and OK: nothing against it; the other rules are asked.
    Pass,
    /// Refused with a reply that begins with its code.
    Code(&'a [u8]),
    /// Refused for good, with this text (may be empty).
    Reject(&'a [u8]),
    /// Refused for now, with this text (may be empty).
    Defer(&'a [u8]),
    /// The message is to be held, for this reason.
    Hold(&'a [u8]),
    /// The message is to be taken and thrown away.
    Discard,
    /// This field is to be put in front of the message: name, value.
    Prepend(&'a [u8], &'a [u8]),
}

/// Appends a question.
pub fn put_question(out: &mut Vec<u8>, attributes: &[(&str, &[u8])]) {
    for (name, value) in attributes {
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        out.extend(value.iter().map(|b| if matches!(b, b'\n' | b'\r' | 0) { b'?' } else { *b }));
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// Reads an answer from what has come in; `None`: not all of it is there. Also gives its length.
pub fn read_answer(input: &[u8]) -> Result<Option<(usize, Action<'_>)>, Fault> {
    let mut action = None;
    let mut at = 0;
    while let Some(end) = memchr::memchr(b'\n', &input[at..]) {
        let line = &input[at..at + end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        at += end + 1;
        if at > ANSWER_MAX {
            return Err(Fault::Length);
        }
        if line.is_empty() {
            let action = action.ok_or(Fault::Form)?;
            return Ok(Some((at, read_action(action)?)));
        }
        let equals = memchr::memchr(b'=', line).ok_or(Fault::Form)?;
        if line[..equals].eq_ignore_ascii_case(b"action") {
            action = Some(&line[equals + 1..]);
        }
    }
    if input.len() > ANSWER_MAX { Err(Fault::Length) } else { Ok(None) }
}

fn read_action(text: &[u8]) -> Result<Action<'_>, Fault> {
    let text = text.trim_ascii();
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    let (word, rest) = (&text[..end], text[end..].trim_ascii());
    if let [b'4' | b'5', b'0'..=b'9', b'0'..=b'9'] = word {
        return Ok(Action::Code(text));
    }
    Ok(match &word.to_ascii_uppercase()[..] {
        b"DUNNO" | b"OK" => Action::Pass,
        b"REJECT" => Action::Reject(rest),
        b"DEFER" | b"DEFER_IF_PERMIT" | b"DEFER_IF_REJECT" => Action::Defer(rest),
        b"HOLD" => Action::Hold(rest),
        b"DISCARD" => Action::Discard,
        b"PREPEND" => {
            let colon = memchr::memchr(b':', rest).filter(|at| *at > 0).ok_or(Fault::Form)?;
            Action::Prepend(&rest[..colon], rest[colon + 1..].trim_ascii_start())
        }
        _ => return Err(Fault::Action),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_keep_their_lines() {
        let mut out = Vec::new();
        put_question(&mut out, &[("request", b"smtpd_access_policy"), ("sender", b"a\nrecipient=b\r@x")]);
        assert_eq!(out, b"request=smtpd_access_policy\nsender=a?recipient=b?@x\n\n");
    }

    #[test]
    fn answers() {
        let read = |action: &'static str| {
            let text: &'static [u8] = format!("action={action}\n\n").leak().as_bytes();
            read_answer(text).map(|found| found.expect("it is whole").1)
        };
        assert_eq!(read("DUNNO"), Ok(Action::Pass));
        assert_eq!(read(" ok  whatever"), Ok(Action::Pass));
        assert_eq!(read("550 5.7.1 no"), Ok(Action::Code(b"550 5.7.1 no")));
        assert_eq!(read("451"), Ok(Action::Code(b"451")));
        assert_eq!(read("reject"), Ok(Action::Reject(b"")));
        assert_eq!(read("REJECT go away"), Ok(Action::Reject(b"go away")));
        assert_eq!(read("defer_if_permit later"), Ok(Action::Defer(b"later")));
        assert_eq!(read("HOLD odd"), Ok(Action::Hold(b"odd")));
        assert_eq!(read("DISCARD"), Ok(Action::Discard));
        assert_eq!(read("PREPEND X-A: b c"), Ok(Action::Prepend(b"X-A", b"b c")));
        assert_eq!(read("PREPEND nothing"), Err(Fault::Form));
        assert_eq!(read("FILTER smtp:x"), Err(Fault::Action));
        assert_eq!(read("250 fine"), Err(Fault::Action));
    }

    #[test]
    fn answers_in_pieces_and_without_sense() {
        let whole = b"x=y\r\naction=DUNNO\r\n\r\nmore";
        for end in 0..21 {
            assert_eq!(read_answer(&whole[..end]), Ok(None), "{end}");
        }
        assert_eq!(read_answer(whole), Ok(Some((21, Action::Pass))));
        assert_eq!(read_answer(b"\n"), Err(Fault::Form));
        assert_eq!(read_answer(b"a=b\n\n"), Err(Fault::Form));
        assert_eq!(read_answer(b"HTTP/1.1 400\n"), Err(Fault::Form));
        assert_eq!(read_answer(&vec![b'x'; ANSWER_MAX + 1]), Err(Fault::Length));
        assert_eq!(read_answer(&b"a=b\n".repeat(ANSWER_MAX)), Err(Fault::Length));
    }
}
