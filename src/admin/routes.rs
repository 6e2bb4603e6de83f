//! L5: the HTTP interface as a table: which request means which [`Command`].
//!
//! The server reads requests by it, the command line writes them by it, and the OpenAPI description
//! ([`super::openapi`]) is made of it. A command's fields travel in path and query as the table says, all
//! others in the body, a JSON object. What the table does not name is refused.

use super::wire::{Command, Problem};
use serde_json::{Map, Value};

/// Where a parameter stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the path.
    Path,
    /// In the query.
    Query,
}

/// What a parameter is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number, not negative.
    Number,
    /// `true` or `false`.
    Flag,
    /// `active`, `deferred` or `hold`.
    Standing,
    /// `NAME=PATTERN`, any number of them.
    Fields,
}

/// A parameter.
#[derive(Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// Where.
    pub place: Place,
    /// What.
    pub kind: Kind,
    /// The field of the command; behind a dot that of a field.
    pub field: &'static str,
    /// Without it there is no answer.
    pub required: bool,
    /// For people.
    pub about: &'static str,
}

/// What is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// One object: the name of its schema.
    One(&'static str),
    /// A list: its name in the document, the tag of its lines, and the schema of each.
    List(&'static str, &'static str, &'static str),
    /// What was changed, or would be.
    Changed,
    /// Bytes of this type.
    Raw(&'static str),
    /// Lines only, as things happen.
    Lines,
}

/// A request that is understood.
#[derive(Debug)]
pub struct Route {
    /// GET, POST or DELETE.
    pub method: &'static str,
    /// Path; parameters in braces.
    pub path: &'static str,
    /// Name of the operation.
    pub name: &'static str,
    /// Tag of the command, and its `verb` if it has one.
    pub command: (&'static str, &'static str),
    /// Parameters in path and query.
    pub params: &'static [Param],
    /// Schema of the body, if there is one.
    pub body: Option<&'static str>,
    /// What is answered.
    pub answer: Answer,
    /// The command line that does the same.
    pub shell: &'static str,
    /// What it does; for people.
    pub about: &'static str,
}

const fn param(name: &'static str, kind: Kind, field: &'static str, about: &'static str) -> Param {
    Param { name, place: Place::Query, kind, field, required: false, about }
}

const fn in_path(name: &'static str, kind: Kind, about: &'static str) -> Param {
    Param { name, place: Place::Path, kind, field: name, required: true, about }
}

const ID: &[Param] = &[in_path("id", Kind::Text, "Queue id.")];
const NUMBER: &[Param] = &[in_path("number", Kind::Number, "Number of the hold.")];
/// The conditions of a list, and what else is asked of it.
const PICK: &[Param] = &[
    param("sender", Kind::Text, "pick.sender", "Pattern over the sender; empty: the null sender."),
    param("recipient", Kind::Text, "pick.recipient", "Pattern over a recipient that is not done."),
    param("domain", Kind::Text, "pick.domain", "Pattern over the domain of a recipient that is not done."),
    param("site", Kind::Text, "pick.site", "Pattern over the site of a recipient that is not done."),
    param("destination", Kind::Text, "pick.destination", "Pattern over the destination of a recipient."),
    param("older", Kind::Number, "pick.older", "Seconds since it came, at least."),
    param("younger", Kind::Number, "pick.younger", "Seconds since it came, less than."),
    param("larger", Kind::Number, "pick.larger", "Bytes, more than."),
    param("smaller", Kind::Number, "pick.smaller", "Bytes, less than."),
    param("state", Kind::Standing, "pick.state", "Where it stands."),
    param("user", Kind::Text, "pick.user", "Pattern over the login under which it was sent."),
    param(
        "rerouted",
        Kind::Text,
        "pick.rerouted",
        "Pattern over the next hop that an operator has given it.",
    ),
    param("header", Kind::Fields, "pick.headers", "NAME=PATTERN over a header field; may be repeated."),
    param("in_doubt", Kind::Flag, "in_doubt", "Only what may have been in flight when the last run ended."),
    param("count", Kind::Flag, "count", "Only how many they are: matches, and no messages."),
];
const TRACE: &[Param] = &[
    param("outwards", Kind::Flag, "outwards", "Connections that we have made; else those of the peer."),
    Param { required: true, ..param("peer", Kind::Text, "peer", "Address, or end of a host's name, or *.") },
    Param { required: true, ..param("seconds", Kind::Number, "seconds", "For so long; at most a day.") },
];
const TOP: &[Param] =
    &[param("seconds", Kind::Number, "seconds", "Time over which rates are counted: 1 to 60.")];

macro_rules! routes {
    ($($method:literal $path:literal $name:literal $command:expr, $params:expr, $body:expr, $answer:expr,
        $shell:literal, $about:literal;)*) => {
        /// Every request that is understood.
        pub const ROUTES: &[Route] = &[$(Route {
            method: $method, path: $path, name: $name, command: $command, params: $params, body: $body,
            answer: $answer, shell: $shell, about: $about,
        },)*];
    };
}

routes! {
    "GET" "/v1/queue" "list" ("list", ""), PICK, None, Answer::List("messages", "message", "Message"),
        "queue list", "Messages, oldest first within each core's queue, of which all conditions hold.";
    "GET" "/v1/queue/{id}" "show" ("show", ""), ID, None, Answer::One("Message"),
        "queue show", "What is known of a message.";
    "GET" "/v1/queue/{id}/why" "why" ("why", ""), ID, None, Answer::One("Why"),
        "why", "What each recipient waits for, and what has been tried.";
    "GET" "/v1/queue/{id}/content" "content" ("cat", ""), ID, None, Answer::Raw("message/rfc822"),
        "queue cat", "Trace headers and body.";
    "POST" "/v1/queue/hold" "hold" ("change", "hold"), &[], Some("Change"), Answer::Changed,
        "queue hold", "Makes no attempts until released.";
    "POST" "/v1/queue/release" "release" ("change", "release"), &[], Some("Change"), Answer::Changed,
        "queue release", "Lets held messages go.";
    "POST" "/v1/queue/flush" "flush" ("change", "flush"), &[], Some("Change"), Answer::Changed,
        "queue flush", "Makes what waits due now; limits of destinations hold.";
    "POST" "/v1/queue/requeue" "requeue" ("change", "requeue"), &[], Some("Change"), Answer::Changed,
        "queue requeue", "Routes what waits anew, forgets its attempts, and tries it now.";
    "POST" "/v1/queue/reroute" "reroute" ("change", "reroute"), &[], Some("Change"), Answer::Changed,
        "queue reroute", "Sends what waits by another next hop, and tries it now.";
    "POST" "/v1/queue/bounce" "bounce" ("change", "bounce"), &[], Some("Change"), Answer::Changed,
        "queue bounce", "Gives messages up; their senders are told the reason.";
    "POST" "/v1/queue/delete" "delete" ("change", "delete"), &[], Some("Change"), Answer::Changed,
        "queue delete", "Removes messages; nobody is told.";
    "GET" "/v1/holds" "holds" ("holds", ""), &[], None, Answer::List("holds", "hold", "Hold"),
        "queue holds", "Holds that can be taken back.";
    "DELETE" "/v1/holds/{number}" "undo" ("undo", ""), NUMBER, None, Answer::Changed,
        "queue undo", "Takes a hold back: what it has held and is still held goes.";
    "GET" "/v1/destinations/suspended" "suspended" ("rules", ""), &[], None,
        Answer::List("rules", "rule", "Rule"), "suspend --list", "Suspensions that hold.";
    "POST" "/v1/destinations/suspend" "suspend" ("suspend", ""), &[], Some("Suspend"), Answer::One("Rule"),
        "suspend", "Sends nothing to destinations until they are resumed; their mail keeps its place.";
    "POST" "/v1/destinations/resume" "resume" ("resume", ""), &[], Some("Resume"), Answer::Changed,
        "resume", "Ends suspensions.";
    "GET" "/v1/sessions" "sessions" ("who", ""), &[], None, Answer::List("sessions", "session", "Session"),
        "who", "The sessions that are open, on all cores.";
    "POST" "/v1/sessions/kick" "kick" ("kick", ""), &[], Some("Kick"), Answer::Changed,
        "kick", "Ends the sessions of a user, or from an address.";
    "GET" "/v1/users/disabled" "disabled" ("disabled", ""), &[], None,
        Answer::List("users", "locked", "Locked"), "user disabled", "Who may not log in.";
    "POST" "/v1/users/disable" "disable" ("disable", ""), &[], Some("Disable"), Answer::Changed,
        "user disable", "Keeps a user from logging in, and ends the sessions; answers how many these were.";
    "POST" "/v1/users/enable" "enable" ("enable", ""), &[], Some("Enable"), Answer::Changed,
        "user enable", "Lets a user log in again.";
    "POST" "/v1/drain" "drain" ("drain", ""), &[], Some("Drain"), Answer::Changed,
        "drain", "Takes no new mail and tries what waits; or takes it again.";
    "GET" "/v1/trace" "trace" ("trace", ""), TRACE, None, Answer::Lines,
        "trace", "The lines of SMTP and LMTP that pass between the server and a peer, as they pass.";
    "GET" "/v1/state" "state" ("state", ""), &[], None, Answer::One("State"),
        "queue stats", "Whether mail is taken, and how much there is.";
    "GET" "/v1/top" "top" ("top", ""), TOP, None, Answer::One("Top"),
        "top --json", "Cores, rates, sessions, queue, and the destinations with the most mail.";
    "GET" "/v1/stats" "stats" ("stats", ""), &[], None, Answer::List("queues", "stats", "Stats"),
        "queue stats", "Counts of each queue and its destinations.";
    "GET" "/v1/metrics" "metrics" ("metrics", ""), &[], None,
        Answer::Raw("text/plain; version=0.0.4; charset=utf-8"), "", "What /metrics has.";
    "GET" "/v1/storage" "storage" ("storage", ""), &[], None,
        Answer::List("logs", "storage", "Storage"), "queue stats", "What each log has on the disk.";
    "POST" "/v1/storage/copy-index" "copy-index" ("copy_index", ""), &[], Some("CopyIndex"),
        Answer::List("copies", "copied", "Copied"), "storage copy-index", "Copies the index of each log.";
    "POST" "/v1/mailboxes/backup" "backup" ("backup_mailboxes", ""), &[], Some("Backup"),
        Answer::List("copies", "copied", "CopiedShard"), "mailbox backup",
        "Copies the files of each mailbox shard, as of one moment, while it serves.";
    "POST" "/v1/config/reload" "reload" ("reload", ""), &[], None, Answer::One("Reloaded"),
        "config reload", "Reads maps, users, keys and certificates anew, as SIGHUP does.";
    "GET" "/v1/openapi.json" "description" ("description", ""), &[], None, Answer::Raw("application/json"),
        "api", "This description.";
}

/// A request as it is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// GET, POST or DELETE.
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// JSON, or nothing.
    pub body: Vec<u8>,
}

/// How `command` is asked for.
///
/// # Errors
/// The table has no place for it: a bug.
pub fn request(command: &Command) -> Result<Sent, String> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(command) else {
        return Err("a command is an object".into());
    };
    let word =
        |fields: &Map<String, Value>, key| fields.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let of = (word(&fields, "command"), word(&fields, "verb"));
    let fits = |r: &&Route| r.command.0 == of.0 && (r.command.1.is_empty() || r.command.1 == of.1);
    let route = ROUTES.iter().find(fits).ok_or_else(|| format!("no way to ask for {}", of.0))?;
    fields.remove("command");
    if !route.command.1.is_empty() {
        fields.remove("verb");
    }
    let (mut target, mut query) = (route.path.to_owned(), Vec::new());
    for param in route.params {
        let Some(value) = take(&mut fields, param.field) else { continue };
        match (param.place, &value) {
            (Place::Path, value) => {
                target = target.replace(&format!("{{{}}}", param.name), &encode(&plain(value)));
            }
            (Place::Query, Value::Array(pairs)) => {
                for pair in pairs {
                    let text = format!("{}={}", plain(&pair[0]), plain(&pair[1]));
                    query.push(format!("{}={}", param.name, encode(&text)));
                }
            }
            (Place::Query, value) => query.push(format!("{}={}", param.name, encode(&plain(value)))),
        }
    }
    if !query.is_empty() {
        target = format!("{target}?{}", query.join("&"));
    }
    fields.retain(|_, value| value.as_object().is_none_or(|inner| !inner.is_empty()));
    let body = match (route.body, fields.is_empty()) {
        (None, true) => Vec::new(),
        (None, false) => return Err(format!("no place in {} for {:?}", route.path, fields.keys())),
        (Some(_), _) => Value::Object(fields).to_string().into_bytes(),
    };
    Ok(Sent { method: route.method, target, body })
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn take(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    match name.split_once('.') {
        None => fields.remove(name),
        Some((outer, inner)) => fields.get_mut(outer)?.as_object_mut()?.remove(inner),
    }
}

/// What a request means.
///
/// # Errors
/// Nothing: it is not in the table, or something in it is wrong.
pub fn command(
    method: &str,
    path: &str,
    query: &str,
    body: &[u8],
) -> Result<(&'static Route, Command), Problem> {
    let bad = |detail: String| Problem::new(64, detail);
    let mut others = Vec::new();
    let mut found = None;
    for route in ROUTES {
        let Some(values) = matched(route.path, path) else { continue };
        // A word of the table is meant before any value in its place.
        match route.method == method {
            true if found.is_none() || values.is_empty() => found = Some((route, values)),
            true => {}
            false => others.push(route.method),
        }
    }
    let Some((route, values)) = found else {
        return Err(match others.is_empty() {
            true => Problem::with(404, 64, "there is nothing of this name: see /v1/openapi.json"),
            false => Problem::with(405, 64, format!("this takes {}", others.join(", "))),
        });
    };
    let mut fields = match (route.body, body.iter().all(u8::is_ascii_whitespace)) {
        (None, true) | (Some(_), true) => Map::new(),
        (None, false) => return Err(bad("this takes no body".into())),
        (Some(_), false) => {
            serde_json::from_slice(body).map_err(|e| bad(format!("the body is no object of JSON: {e}")))?
        }
    };
    if let Some(name) = ["command", "verb"].iter().find(|name| fields.contains_key(**name)) {
        return Err(bad(format!("unknown field `{name}`")));
    }
    for (param, value) in route.params.iter().filter(|p| p.place == Place::Path).zip(values) {
        put(&mut fields, param, &value).map_err(bad)?;
    }
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (Some(name), Some(value)) = (decode(name), decode(value)) else {
            return Err(bad("the query is not well written".into()));
        };
        let Some(param) = route.params.iter().find(|p| p.place == Place::Query && p.name == name) else {
            return Err(bad(format!("unknown parameter {name:?}")));
        };
        put(&mut fields, param, &value).map_err(bad)?;
    }
    fields.insert("command".into(), route.command.0.into());
    if !route.command.1.is_empty() {
        fields.insert("verb".into(), route.command.1.into());
    }
    let command = serde_json::from_value(Value::Object(fields)).map_err(|e| bad(e.to_string()))?;
    Ok((route, command))
}

/// The values of the parameters in `path`, if it is of this form.
fn matched(form: &str, path: &str) -> Option<Vec<String>> {
    let (mut forms, mut parts) = (form.split('/'), path.split('/'));
    let mut values = Vec::new();
    loop {
        match (forms.next(), parts.next()) {
            (None, None) => return Some(values),
            (Some(form), Some(part)) if form.starts_with('{') => {
                values.push(decode(part).filter(|value| !value.is_empty())?);
            }
            (Some(form), Some(part)) if form == part => {}
            _ => return None,
        }
    }
}

fn put(fields: &mut Map<String, Value>, param: &Param, text: &str) -> Result<(), String> {
    let name = param.name;
    let value = match param.kind {
        Kind::Text | Kind::Standing => text.into(),
        Kind::Number => text.parse::<u64>().map_err(|_| format!("{name} is no whole number"))?.into(),
        Kind::Flag => text.parse::<bool>().map_err(|_| format!("{name} is true or false"))?.into(),
        Kind::Fields => {
            let (field, pattern) = text.split_once('=').ok_or_else(|| format!("{name} is NAME=PATTERN"))?;
            Value::from(vec![field, pattern])
        }
    };
    let (outer, inner) = param.field.split_once('.').map_or((None, param.field), |(o, i)| (Some(o), i));
    let at = match outer {
        None => fields,
        Some(outer) => {
            let place = fields.entry(outer).or_insert_with(|| Value::Object(Map::new()));
            place.as_object_mut().ok_or_else(|| format!("{outer} is an object"))?
        }
    };
    match (param.kind, at.get_mut(inner)) {
        (Kind::Fields, Some(Value::Array(all))) => all.push(value),
        (Kind::Fields, _) => {
            at.insert(inner.into(), vec![value].into());
        }
        (_, Some(_)) => return Err(format!("{name} is there twice")),
        (_, None) => {
            at.insert(inner.into(), value);
        }
    }
    Ok(())
}

/// RFC 3986 §2.1, §2.3.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(b.into()),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// RFC 3986 §2.1; a plus sign is one.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
