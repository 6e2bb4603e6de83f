//! L5: the forms of what the HTTP interface takes and gives, as JSON Schema (2020-12, as OpenAPI 3.1 has
//! it).
//!
//! Written beside the types that they describe, in the words of these; a test compares real answers with
//! them.

use serde_json::{Map, Value, json};

fn text(about: &str) -> Value {
    json!({ "type": "string", "description": about })
}

fn number(about: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": about })
}

fn flag(about: &str) -> Value {
    json!({ "type": "boolean", "description": about })
}

fn list(of: Value, about: &str) -> Value {
    json!({ "type": "array", "items": of, "description": about })
}

fn or_null(mut schema: Value) -> Value {
    schema["type"] = json!([schema["type"], "null"]);
    schema
}

/// A reference to one of [`all`].
pub(super) fn named(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An object of these fields; those whose names end in `?` may be missing.
fn object(about: &str, fields: &[(&str, Value)]) -> Value {
    let name = |field: &str| field.trim_end_matches('?').to_owned();
    let properties: Map<_, _> = fields.iter().map(|(field, schema)| (name(field), schema.clone())).collect();
    let required: Vec<_> = fields.iter().map(|f| f.0).filter(|f| !f.ends_with('?')).collect();
    json!({
        "type": "object",
        "description": about,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// All of them, by name.
pub(super) fn all() -> Map<String, Value> {
    let parts =
        [asked(), of_messages(), of_queues(), of_orders(), of_people(), top(), of_server(), of_answers()];
    parts.into_iter().flatten().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

type Schemas = Vec<(&'static str, Value)>;

fn pick() -> Value {
    let pair = json!({ "type": "array", "items": { "type": "string" }, "minItems": 2, "maxItems": 2 });
    object(
        "Conditions; all must hold. Patterns know * and ?, case does not matter.",
        &[
            ("sender?", text("Pattern over the sender; empty: the null sender.")),
            ("recipient?", text("Pattern over a recipient that is not done.")),
            ("domain?", text("Pattern over the domain of a recipient that is not done.")),
            ("site?", text("Pattern over the site of a recipient that is not done.")),
            ("destination?", text("Pattern over the destination of a recipient that is not done.")),
            ("older?", number("Seconds since it came, at least.")),
            ("younger?", number("Seconds since it came, less than.")),
            ("larger?", number("Bytes, more than.")),
            ("smaller?", number("Bytes, less than.")),
            ("state?", json!({ "enum": ["active", "deferred", "hold"] })),
            ("user?", text("Pattern over the login under which it was sent.")),
            ("rerouted?", text("Pattern over the next hop that an operator has given it by a reroute.")),
            ("headers?", list(pair, "Names of header fields, each with a pattern over its value.")),
        ],
    )
}

fn asked() -> Schemas {
    let seconds = || number("Seconds after which it ends by itself; without: not before it is taken back.");
    let ids = list(json!({ "type": "string" }), "Queue ids.");
    let which = json!({ "oneOf": [
        { "const": "all" },
        object("These.", &[("ids", ids)]),
        object("Those with recipients waiting for a destination.", &[("destination", text("Its name."))]),
        object("Those of which all conditions hold.", &[("pick", named("Pick"))]),
    ] });
    let change = object(
        "Either which, or stamp. What a condition means is changed by its stamp, or unseen.",
        &[
            ("which?", named("Which")),
            (
                "reason?",
                text("Why; kept with each message, and told to senders of what is given up; 400 bytes."),
            ),
            ("seconds?", seconds()),
            ("to?", text("Of a reroute: the next hop as in the configuration, mx, or default.")),
            ("preview?", flag("Say how many they are, change nothing, and give a stamp.")),
            ("unseen?", flag("Change what a condition means without a preview.")),
            (
                "stamp?",
                text("Of a preview: exactly what it has counted is changed. Good once, for ten minutes."),
            ),
        ],
    );
    let reason = || text("Why; for people; 500 bytes.");
    vec![
        ("Pick", pick()),
        ("Which", which),
        ("Change", change),
        (
            "Suspend",
            object(
                "What is not sent to.",
                &[
                    ("what", text("A destination, a site or a domain; * or the end of a name after *.")),
                    ("reason?", reason()),
                    ("seconds?", seconds()),
                ],
            ),
        ),
        ("Resume", object("Which suspension.", &[("which", text("Its number, or its what."))])),
        ("Kick", object("Whose sessions.", &[("whom", text("A login, or an address."))])),
        ("Disable", object("Who.", &[("login", text("The login.")), ("reason?", reason())])),
        ("Enable", object("Who.", &[("login", text("The login."))])),
        ("Drain", object("Which way.", &[("on", flag("No new mail is taken; false: it is again."))])),
        (
            "Backup",
            object(
                "Where to.",
                &[("dir", text("Directory on the server, absolute, empty, that its user may write to."))],
            ),
        ),
        (
            "CopyIndex",
            object(
                "Where to.",
                &[("dir", text("Directory on the server, absolute, that its user may write to."))],
            ),
        ),
    ]
}

fn of_messages() -> Schemas {
    let arrival = || number("Seconds since 1970.");
    let size = || number("Bytes of trace headers and body.");
    let sender = || text("The sender; empty for the null sender.");
    let attempts = || number("Attempts that ended without success.");
    let destination = || text("Where it is to go.");
    let recipient = object(
        "A recipient that is not done.",
        &[
            ("address", text("Its address.")),
            ("delay_reason?", text("Why it waits.")),
            ("destination", destination()),
            ("attempts", attempts()),
            ("due_in_ms?", number("Milliseconds until the next attempt, if it waits for one.")),
            ("in_doubt", flag("May have been in flight when the last run ended.")),
        ],
    );
    let message = object(
        "A message, with the field names of postqueue -j.",
        &[
            ("queue_name", json!({ "enum": ["active", "deferred", "hold"] })),
            ("queue_id", text("Its id.")),
            ("arrival_time", arrival()),
            ("message_size", size()),
            ("forced_expire", flag("Always false.")),
            ("sender", sender()),
            ("recipients", list(recipient, "Those that are not done.")),
            ("unreadable?", flag("Sender and recipients cannot be read from the disk at present.")),
        ],
    );
    let tried = object(
        "An attempt that ended without success.",
        &[
            ("attempt", number("Its number, from 1.")),
            ("reply", text("What was said.")),
            ("server", text("Who has said it; empty: unknown, or nobody.")),
            ("next", text("When the next one was to be at the earliest; empty: not known.")),
        ],
    );
    let states = ["ready", "sending", "deferred", "paused", "limited", "suspended", "held", "failed"];
    let waiting = object(
        "A recipient that is not done.",
        &[
            ("address", text("Its address.")),
            ("state", json!({ "enum": states })),
            ("waits_for", text("What must happen before it goes on; for people.")),
            ("destination", destination()),
            ("site", text("The site of that.")),
            ("ahead?", number("Messages before it.")),
            ("attempts", attempts()),
            ("last_reply?", text("What was said of the last one.")),
            ("tried", list(tried, "The first attempt and the latest.")),
            ("missing", number("Attempts of which nothing is known any more.")),
        ],
    );
    let why = object(
        "Why a message is still here.",
        &[
            ("queue_id", text("Its id.")),
            ("arrival_time", arrival()),
            ("sender", sender()),
            ("message_size", size()),
            ("recipients", list(waiting, "Those that are not done.")),
        ],
    );
    vec![("Message", message), ("Why", why)]
}

fn of_queues() -> Schemas {
    let destination = object(
        "A site or next hop.",
        &[
            ("name", text("Its name.")),
            ("ready", number("Messages in its list.")),
            ("connections", number("Connections open or being opened.")),
            ("failures", number("Failures in a row.")),
            ("paused_ms", or_null(number("Milliseconds until it is tried again, if it is left alone."))),
            ("reason?", text("Why.")),
        ],
    );
    let disk = [
        ("log", number("Number of its log.")),
        ("bytes", number("Bytes of trace headers and bodies.")),
        ("parked", number("Messages in archive and index, not in the journal.")),
        ("archive_bytes", number("Bytes of the archive.")),
        ("archive_live_bytes", number("Bytes of it that are still needed.")),
        ("index_bytes", number("Bytes of the index.")),
        ("loading", flag("The index is still being read after the start.")),
        ("journal_segments", number("Journal segments in use.")),
        ("journal_live_bytes", number("Bytes of records that are still needed.")),
        ("journal_bytes", number("Bytes of the journal.")),
        ("poisoned", flag("After a write error: nothing is accepted until a restart.")),
    ];
    let counts = [
        ("messages", number("All messages.")),
        ("active", number("Ready or in flight.")),
        ("deferred", number("Waiting for a retry.")),
        ("held", number("Held.")),
        ("oldest_ms", or_null(number("Arrival of the oldest, milliseconds since 1970."))),
        ("destinations", list(destination, "With messages, connections or failures; and suspended ones.")),
    ];
    vec![
        ("Storage", object("What a log has on the disk.", &disk)),
        ("Stats", object("Counts of a queue.", &[&disk[..], &counts].concat())),
        (
            "CopiedShard",
            object("A copy of a shard.", &[("shard", number("Number.")), ("bytes", number("So many."))]),
        ),
        ("Copied", object("A copy of an index.", &[("log", number("Number.")), ("path", text("The file."))])),
    ]
}

fn of_orders() -> Schemas {
    let by = || text("Who; for people.");
    let since = || number("When, milliseconds since 1970.");
    let until = || number("When it ends by itself, milliseconds since 1970.");
    vec![
        (
            "Rule",
            object(
                "A suspension.",
                &[
                    ("number", number("Names it.")),
                    ("what", text("What is not sent to.")),
                    ("reason", text("Why.")),
                    ("by", by()),
                    ("since", since()),
                    ("until?", until()),
                    ("problems?", list(named("Problem"), "Cores that have not answered.")),
                ],
            ),
        ),
        (
            "Hold",
            object(
                "What was held by a condition.",
                &[
                    ("number", number("Names it.")),
                    ("what", text("What was meant.")),
                    ("messages", number("How many that were.")),
                    ("reason", text("Why.")),
                    ("by", by()),
                    ("since", since()),
                    ("until?", until()),
                ],
            ),
        ),
    ]
}

fn of_people() -> Schemas {
    vec![
        (
            "Session",
            object(
                "A session that is open.",
                &[
                    ("service", text("The protocol.")),
                    ("peer", text("Address and port of the client.")),
                    ("user", text("Its login; empty: nobody has logged in.")),
                    ("seconds", number("How long it has been open.")),
                    ("state", json!({ "enum": ["idle", "busy"] })),
                    ("core", number("The core that it is on.")),
                ],
            ),
        ),
        (
            "Locked",
            object(
                "A user who may not log in.",
                &[
                    ("login", text("The login.")),
                    ("reason", text("Why.")),
                    ("by", text("Who says so.")),
                    ("since", number("Milliseconds since 1970.")),
                ],
            ),
        ),
        (
            "Traced",
            object(
                "A line that has passed.",
                &[
                    ("time", text("RFC 3339.")),
                    ("way", json!({ "enum": ["in", "out"] })),
                    ("peer", text("Address of the peer.")),
                    ("client", flag("The client has said it; else the server.")),
                    ("text", text("What.")),
                ],
            ),
        ),
    ]
}

fn top() -> Schemas {
    let rate = || json!({ "type": "number", "description": "A second." });
    let core = object(
        "A core.",
        &[
            ("core", text("Its number.")),
            ("role", or_null(text("mta or access."))),
            ("state", or_null(text("As in ringpost_core_state."))),
            ("cpu_percent", json!({ "type": "number" })),
            ("sessions", number("Open ones.")),
        ],
    );
    let rates = ["in", "in_bytes", "delivered", "deferred", "bounced", "rejected", "commits"];
    let sessions = ["smtp", "pop3", "imap", "out"];
    let queue = ["messages", "active", "deferred", "held", "bytes", "oldest_seconds"];
    let of = |names: &[&'static str], schema: Value| {
        let fields: Vec<_> = names.iter().map(|name| (*name, schema.clone())).collect();
        object("By name.", &fields)
    };
    let destination = object(
        "A destination.",
        &[
            ("name", text("Its name.")),
            ("ready", number("Messages in its list.")),
            ("connections", number("Open ones.")),
            ("failures", number("In a row.")),
            ("reason", text("Why it is left alone; may be empty.")),
        ],
    );
    vec![(
        "Top",
        object(
            "A frame of ringpost top.",
            &[
                ("cores", list(core, "All.")),
                ("rates", of(&rates, rate())),
                ("sessions", of(&sessions, number("Open ones."))),
                ("queue", of(&queue, number("Of all queues."))),
                ("destinations", list(destination, "The largest.")),
            ],
        ),
    )]
}

fn of_server() -> Schemas {
    let said = object(
        "What was said of a file.",
        &[
            ("level", json!({ "enum": ["info", "warning", "alarm"] })),
            ("event", text("Name of the event.")),
            ("text", text("What.")),
        ],
    );
    vec![
        (
            "State",
            object(
                "How the server is.",
                &[
                    ("version", text("Of the program.")),
                    ("ready", flag("New mail is taken.")),
                    ("reason", text("Why not; empty if it is.")),
                    ("draining", flag("An operator is emptying it.")),
                    ("cores", number("Of all kinds.")),
                    ("mail_cores", number("Those that have a queue.")),
                    ("messages", number("In all queues.")),
                    ("active", number("Ready or in flight.")),
                    ("deferred", number("Waiting for a retry.")),
                    ("held", number("Held.")),
                    ("bytes", number("Bytes of trace headers and bodies.")),
                    ("oldest_ms", or_null(number("Arrival of the oldest, milliseconds since 1970."))),
                ],
            ),
        ),
        (
            "Reloaded",
            object(
                "What came of reading files anew.",
                &[
                    ("good", flag("Nothing is wrong with what has changed; else the old ones stay in use.")),
                    ("said", list(said, "Nothing: no file has changed.")),
                ],
            ),
        ),
    ]
}

fn of_answers() -> Schemas {
    let matches = object(
        "So many messages are meant.",
        &[
            ("messages", number("How many.")),
            ("bytes", number("Bytes of trace headers and bodies.")),
            ("unread", number("Messages that could not be read to decide: they are not among them.")),
            ("stamp?", text("Of a preview.")),
        ],
    );
    let problem = object(
        "RFC 9457; exit_code is that of the command line.",
        &[
            ("type", text("about:blank")),
            ("title", text("The words of the status.")),
            ("status", number("The status of HTTP.")),
            ("detail", text("What is wrong this time.")),
            ("exit_code", number("After sysexits.h.")),
        ],
    );
    let changed = object(
        "What was changed, or would be.",
        &[
            ("changed?", number("So many, and what must last is on stable storage.")),
            ("matches?", named("Matches")),
            ("hold?", named("Hold")),
            ("problems?", list(named("Problem"), "What did not work.")),
        ],
    );
    let progress = object(
        "So far it has come.",
        &[
            ("what", text("What is being done.")),
            ("done", number("So much of it.")),
            ("of", number("Of so much, about.")),
        ],
    );
    let lines = [
        ("message", named("Message")),
        ("stats", named("Stats")),
        ("why", named("Why")),
        ("rule", named("Rule")),
        ("copied", named("Copied")),
        ("matches", named("Matches")),
        ("progress", named("Progress")),
        ("hold", named("Hold")),
        ("session", named("Session")),
        ("traced", named("Traced")),
        ("locked", named("Locked")),
        ("state", named("State")),
        ("top", named("Top")),
        ("storage", named("Storage")),
        ("reloaded", named("Reloaded")),
        ("changed", number("So many.")),
        ("problem", named("Problem")),
    ];
    let lines: Vec<_> = lines.into_iter().map(|line| object("A line.", &[line])).collect();
    vec![
        ("Matches", matches),
        ("Problem", problem),
        ("Changed", changed),
        ("Progress", progress),
        ("Line", json!({ "oneOf": lines })),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::wire::{self, Line};
    use crate::queue::control::{DestinationStats, Stats};
    use crate::queue::pick::Pick;

    /// The names of all fields, as the schema has them.
    fn fields(name: &str) -> Vec<String> {
        let mut names: Vec<_> =
            all()[name]["properties"].as_object().expect("an object").keys().cloned().collect();
        names.sort();
        names
    }

    fn keys(value: &impl serde::Serialize) -> Vec<String> {
        let value = serde_json::to_value(value).expect("JSON");
        let mut keys: Vec<_> = value.as_object().expect("an object").keys().cloned().collect();
        keys.sort();
        keys
    }

    #[test]
    fn fields_are_those_of_the_types() {
        assert_eq!(fields("Stats"), keys(&Stats::default()));
        assert_eq!(fields("Problem"), keys(&wire::Problem::new(65, "x")));
        let some = || Some("x".to_owned());
        let pick = Pick {
            sender: some(),
            recipient: some(),
            domain: some(),
            site: some(),
            destination: some(),
            older: Some(1),
            younger: Some(1),
            larger: Some(1),
            smaller: Some(1),
            state: Some(crate::queue::pick::Standing::Hold),
            user: some(),
            rerouted: some(),
            headers: vec![("a".into(), "b".into())],
        };
        assert_eq!(fields("Pick"), keys(&pick));
        let one = DestinationStats {
            name: "x".into(),
            ready: 0,
            connections: 0,
            failures: 0,
            paused_ms: None,
            reason: "x".into(),
        };
        let of_stats = &all()["Stats"]["properties"]["destinations"]["items"]["properties"];
        assert_eq!(keys(of_stats), keys(&one));
        let mut change = wire::Change::of(crate::queue::pick::Verb::Hold, wire::Which::All);
        (change.reason, change.seconds, change.to, change.stamp) = ("x".into(), Some(1), some(), some());
        (change.preview, change.unseen) = (true, true);
        let mut of_change = keys(&change);
        of_change.retain(|key| key != "verb");
        assert_eq!(fields("Change"), of_change);
        let matches = Line::Matches { messages: 1, bytes: 1, unread: 1, stamp: some() };
        let matches = serde_json::to_value(&matches).expect("JSON");
        assert_eq!(fields("Matches"), keys(&matches["matches"]));
    }
}
