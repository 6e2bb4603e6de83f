//! The HTTP interface of operators as a client sees it, and a check of answers by the schemas that describe
//! them.
#![allow(clippy::disallowed_methods, reason = "a client in a test has sockets of its own")]

use super::{PATIENCE, Server};
use serde_json::{Map, Value};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

/// An answer.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}{}", self.head, self.body))
    }

    /// The body as lines of JSON.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        self.body.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }
}

/// Asks on the admin socket of `server`; `more`: further lines of the head, with their ends.
#[track_caller]
pub fn ask(server: &Server, method: &str, target: &str, more: &str, body: &str) -> Answer {
    let stream = UnixStream::connect(server.dir().path().join("admin")).expect("the socket is there");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    over(stream, method, target, more, body)
}

/// Asks over TCP.
#[track_caller]
pub fn ask_tcp(at: SocketAddr, method: &str, target: &str, more: &str, body: &str) -> Answer {
    let stream = TcpStream::connect_timeout(&at, PATIENCE).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    over(stream, method, target, more, body)
}

#[track_caller]
fn over(mut stream: impl Read + Write, method: &str, target: &str, more: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n");
    // A server that has read enough may close before it has read all.
    let _ = stream.write_all(&[head.as_bytes(), body.as_bytes()].concat());
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let all = String::from_utf8_lossy(&all).into_owned();
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {all:?}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { whole(body) } else { body.to_owned() };
    Answer { status, head: head.to_owned(), body }
}

/// What is in the chunks; panics if the last is missing.
#[track_caller]
fn whole(mut rest: &str) -> String {
    let mut out = String::new();
    loop {
        let (size, behind) = rest.split_once("\r\n").expect("the size of a chunk");
        let size = usize::from_str_radix(size, 16).expect("a number");
        if size == 0 {
            return out;
        }
        out += &behind[..size];
        rest = behind[size..].strip_prefix("\r\n").expect("the end of a chunk");
    }
}

/// What in `value` is not as `schema` of `description` says.
pub fn misfits(description: &Value, schema: &Value, value: &Value) -> Vec<String> {
    if let Some(at) = schema["$ref"].as_str() {
        let named = description.pointer(&at[1..]).unwrap_or_else(|| panic!("no {at}"));
        return misfits(description, named, value);
    }
    let wrong = |what: String| vec![format!("{what}: {value}")];
    if let Some(all) = schema["oneOf"].as_array() {
        let fitting = all.iter().filter(|one| misfits(description, one, value).is_empty()).count();
        return if fitting == 1 { Vec::new() } else { wrong(format!("{fitting} of oneOf fit")) };
    }
    if let Some(all) = schema["enum"].as_array() {
        return if all.contains(value) { Vec::new() } else { wrong("not in enum".into()) };
    }
    if schema.get("const").is_some_and(|only| only != value) {
        return wrong("not the constant".into());
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allows = |one: &Value| one == kind || one == "number" && kind == "integer";
    let allowed = match &schema["type"] {
        Value::Null => true,
        Value::Array(all) => all.iter().any(allows),
        one => allows(one),
    };
    if !allowed {
        return wrong(format!("not of type {}", schema["type"]));
    }
    match value {
        Value::Array(all) => all.iter().flat_map(|v| misfits(description, &schema["items"], v)).collect(),
        Value::Object(fields) if schema["properties"].is_object() => of_object(description, schema, fields),
        _ => Vec::new(),
    }
}

fn of_object(description: &Value, schema: &Value, fields: &Map<String, Value>) -> Vec<String> {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut found: Vec<_> = required
        .filter(|name| !fields.contains_key(*name))
        .map(|name| format!("{name} is missing"))
        .collect();
    for (name, value) in fields {
        match schema["properties"].get(name) {
            Some(schema) => found.extend(misfits(description, schema, value)),
            None if schema["additionalProperties"] == false => found.push(format!("{name} is not described")),
            None => {}
        }
    }
    found
}
