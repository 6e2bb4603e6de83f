//! L2: Rspamd's own protocol (`POST /checkv2`), as a client: one request with a message, one answer in JSON.
//!
//! Knows no connection and no time. Values cannot break out of their lines. An answer that is too long, or in
//! another form, is a [`Fault`]; what is not known in one is passed over, as Rspamd's manual demands.

use serde_json::Value;

/// Bytes of an answer at most, its head included.
pub const ANSWER_MAX: usize = 1 << 20;

/// What is wrong with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is longer than [`ANSWER_MAX`].
    Length,
    /// It is no HTTP, or has a coding that was not asked for.
    Http,
    /// Its status is not 200.
    Status,
    /// It is not the JSON of a verdict.
    Json,
}

impl Fault {
    /// In words, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Fault::Length => "an answer that is too long",
            Fault::Http => "an answer that is not HTTP as it was asked for",
            Fault::Status => "another status than 200",
            Fault::Json => "an answer that is no verdict",
        }
    }
}

/// What becomes of the message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing against it.
    Pass,
    /// It is marked as spam.
    Mark,
    /// It gets this subject.
    Subject(String),
    /// Refused for good, with this text (may be empty).
    Reject(String),
    /// Refused for now, with this text (may be empty).
    Defer(String),
    /// To be held.
    Hold,
    /// To be taken and thrown away.
    Discard,
}

/// A field to be put into the header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Its place, 0 being the top; none: at the end.
    pub place: Option<u32>,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What becomes of the message.
    pub action: Action,
    /// Fields to be removed: name and number, from 1 on; 0 stands for all, -1 for the last.
    pub remove: Vec<(String, i64)>,
    /// Fields to be added.
    pub add: Vec<Field>,
}

/// Appends the head of a request; `len` bytes of message follow.
pub fn put_request(out: &mut Vec<u8>, attributes: &[(&str, &[u8])], len: u64) {
    out.extend_from_slice(b"POST /checkv2 HTTP/1.1\r\nHost: rspamd\r\nConnection: close\r\n");
    out.extend_from_slice(format!("Content-Length: {len}\r\n").as_bytes());
    for (name, value) in attributes.iter().filter(|(_, value)| !value.is_empty()) {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend(value.iter().map(|b| if b.is_ascii_control() { b'?' } else { *b }));
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Reads the answer from what has come in; `None`: not all of it is there.
pub fn read_answer(input: &[u8]) -> Result<Option<Verdict>, Fault> {
    let Some(end) = memchr::memmem::find(input, b"\r\n\r\n") else {
        let begins = input.iter().zip(b"HTTP/1.").all(|(a, b)| a == b);
        return match (begins, input.len() > ANSWER_MAX) {
            (false, _) => Err(Fault::Http),
            (true, true) => Err(Fault::Length),
            (true, false) => Ok(None),
        };
    };
    let head = std::str::from_utf8(&input[..end]).map_err(|_| Fault::Http)?;
    let mut lines = head.split("\r\n");
    let mut status = lines.next().unwrap_or("").split(' ');
    if !status.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(Fault::Http);
    }
    if status.next() != Some("200") {
        return Err(Fault::Status);
    }
    let mut len = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            len = value.trim().parse::<usize>().ok();
        }
    }
    let len = len.ok_or(Fault::Http)?;
    if len > ANSWER_MAX - end.min(ANSWER_MAX) {
        return Err(Fault::Length);
    }
    match input[end + 4..].get(..len) {
        None => Ok(None),
        Some(json) => {
            serde_json::from_slice(json).ok().and_then(|v| verdict(&v)).map(Some).ok_or(Fault::Json)
        }
    }
}

fn verdict(answer: &Value) -> Option<Verdict> {
    let text = |key: &str| answer["messages"][key].as_str().unwrap_or_default().to_owned();
    let action = match answer["action"].as_str()? {
        "reject" => Action::Reject(text("smtp_message")),
        "soft reject" => Action::Defer(text("smtp_message")),
        "rewrite subject" => match answer["subject"].as_str() {
            Some(subject) => Action::Subject(subject.to_owned()),
            None => Action::Mark,
        },
        "add header" => Action::Mark,
        "quarantine" => Action::Hold,
        "discard" => Action::Discard,
        // What an operator has named, and greylisting, which says "soft reject" when it means it.
        _ => Action::Pass,
    };
    let mut verdict = Verdict { action, remove: Vec::new(), add: Vec::new() };
    let each = |value: &Value| match value {
        Value::Array(all) => all.clone(),
        one => vec![one.clone()],
    };
    if let Some(fields) = answer["milter"]["remove_headers"].as_object() {
        for (name, numbers) in fields {
            verdict.remove.extend(each(numbers).iter().filter_map(Value::as_i64).map(|n| (name.clone(), n)));
        }
    }
    if let Some(fields) = answer["milter"]["add_headers"].as_object() {
        for (name, values) in fields {
            verdict.add.extend(each(values).iter().filter_map(|value| field(name, value)));
        }
    }
    for value in each(&answer["dkim-signature"]).iter().filter_map(Value::as_str) {
        let (name, value) = ("DKIM-Signature".to_owned(), value.to_owned());
        verdict.add.push(Field { name, value, place: Some(1) });
    }
    Some(verdict)
}

fn field(name: &str, value: &Value) -> Option<Field> {
    let (text, place) = match value {
        Value::String(text) => (text.as_str(), None),
        object => (object["value"].as_str()?, object["order"].as_u64()),
    };
    let place = place.and_then(|n| u32::try_from(n).ok());
    Some(Field { name: name.to_owned(), value: text.to_owned(), place })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(json: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: {}\r\n\r\n{json}", json.len()).into_bytes()
    }

    fn read(json: &str) -> Result<Verdict, Fault> {
        let all = http(json);
        for end in 0..all.len() {
            assert_eq!(read_answer(&all[..end]), Ok(None), "{end}");
        }
        read_answer(&all).map(|found| found.expect("it is whole"))
    }

    #[test]
    fn requests() {
        let mut out = Vec::new();
        put_request(&mut out, &[("From", b"a@b\r\nX: y"), ("User", b"")], 3);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("POST /checkv2 HTTP/1.1\r\n") && text.ends_with("\r\nFrom: a@b??X: y\r\n\r\n")
        );
        assert!(text.contains("\r\nContent-Length: 3\r\n") && !text.contains("User"), "{text}");
    }

    #[test]
    fn actions() {
        for (json, action) in [
            (r#"{"action":"no action","score":1.0}"#, Action::Pass),
            (r#"{"action":"greylist"}"#, Action::Pass),
            (r#"{"action":"add header"}"#, Action::Mark),
            (r#"{"action":"rewrite subject","subject":"[SPAM] x"}"#, Action::Subject("[SPAM] x".into())),
            (r#"{"action":"rewrite subject"}"#, Action::Mark),
            (r#"{"action":"reject","messages":{"smtp_message":"no"}}"#, Action::Reject("no".into())),
            (r#"{"action":"soft reject"}"#, Action::Defer(String::new())),
            (r#"{"action":"quarantine"}"#, Action::Hold),
            (r#"{"action":"discard"}"#, Action::Discard),
        ] {
            assert_eq!(read(json).unwrap().action, action, "{json}");
        }
    }

    #[test]
    fn fields() {
        let json = r#"{"action":"no action","dkim-signature":"v=1","milter":{
            "remove_headers":{"X-A":0,"X-B":[1,-1]},
            "add_headers":{"X-C":"c","X-D":[{"value":"d","order":0},{"value":"e"},7]}}}"#;
        let found = read(json).unwrap();
        let removed = [("X-A", 0), ("X-B", 1), ("X-B", -1)].map(|(n, i)| (n.to_owned(), i));
        assert_eq!(found.remove, removed);
        let added = [
            ("X-C", "c", None),
            ("X-D", "d", Some(0)),
            ("X-D", "e", None),
            ("DKIM-Signature", "v=1", Some(1)),
        ];
        let field = |(n, v, place): (&str, &str, _)| Field { name: n.into(), value: v.into(), place };
        assert_eq!(found.add, added.map(field));
    }

    #[test]
    fn what_is_no_answer() {
        for (input, fault) in [
            (&b"220 mail"[..], Fault::Http),
            (b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n", Fault::Status),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", Fault::Http),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", Fault::Length),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Fault::Json),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", Fault::Json),
            (b"HTTP/1.1 200 \xff\r\n\r\n", Fault::Http),
        ] {
            assert_eq!(read_answer(input), Err(fault), "{}", input.escape_ascii());
        }
        let endless = [&b"HTTP/1.1 200 OK\r\n"[..], &vec![b'x'; ANSWER_MAX]].concat();
        assert_eq!(read_answer(&endless), Err(Fault::Length));
        let deep = "[".repeat(100_000);
        assert_eq!(read_answer(&http(&deep)), Err(Fault::Json));
    }
}
