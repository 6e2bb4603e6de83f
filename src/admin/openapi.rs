//! L5: the OpenAPI 3.1 description of the HTTP interface, made of the table that the server reads requests
//! by.
//!
//! `docs/openapi.json` holds it; a test compares. Cannot fail.

use super::routes::{Answer, Kind, Param, Place, ROUTES, Route};
use super::schema::{self, named};
use serde_json::{Map, Value, json};

const ABOUT: &str = "The interface of operators. On the admin socket whoever can open it is believed: curl \
    --unix-socket /run/ringpost/admin.sock http://localhost/v1/state. Over TCP (admin.address) a token \
    must be shown. Every answer but raw ones comes as one JSON document, or, if Accept names \
    application/x-ndjson, as lines of JSON (schema Line) as things happen, with progress. Lists are \
    sent as they are read and never kept. A problem behind the beginning of a list stands at its end, \
    as problems.";

/// The text of the description.
#[must_use]
pub fn text() -> String {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = operation(route);
    }
    let description = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ringpost",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost" }],
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schema::all(),
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Over TCP only: what the file admin.token_file holds.",
            } },
        },
    });
    format!("{description:#}\n")
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.about,
        "responses": responses(route),
    });
    if !route.shell.is_empty() {
        operation["description"] = format!("As `ringpost {}`.", route.shell).into();
    }
    if !route.params.is_empty() {
        operation["parameters"] = route.params.iter().map(parameter).collect();
    }
    if let Some(body) = route.body {
        let content = json!({ "application/json": { "schema": named(body) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn parameter(param: &Param) -> Value {
    let schema = match param.kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Number => json!({ "type": "integer", "minimum": 0 }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Standing => json!({ "enum": ["active", "deferred", "hold"] }),
        Kind::Fields => json!({ "type": "array", "items": { "type": "string" } }),
    };
    json!({
        "name": param.name,
        "in": if param.place == Place::Path { "path" } else { "query" },
        "required": param.required,
        "description": param.about,
        "schema": schema,
    })
}

fn responses(route: &Route) -> Value {
    let document = |schema: Value| {
        json!({
            "application/json": { "schema": schema },
            "application/x-ndjson": { "schema": named("Line") },
        })
    };
    let content = match route.answer {
        Answer::One(name) => document(named(name)),
        Answer::Changed => document(named("Changed")),
        Answer::List(key, _, name) => document(json!({
            "type": "object",
            "properties": {
                key: { "type": "array", "items": named(name) },
                "matches": named("Matches"),
                "problems": { "type": "array", "items": named("Problem") },
            },
            "required": [key],
            "additionalProperties": false,
        })),
        Answer::Raw("application/json") => json!({ "application/json": { "schema": { "type": "object" } } }),
        Answer::Raw(kind) => json!({ kind: { "schema": { "type": "string" } } }),
        Answer::Lines => json!({ "application/x-ndjson": { "schema": named("Line") } }),
    };
    let mut responses = json!({ "200": { "description": "Done.", "content": content } });
    let refusals = [
        ("400", "Something in the request is wrong.", true),
        ("401", "Over TCP: the token is missing or wrong.", true),
        ("404", "There is nothing of that name or number.", !route.params.is_empty() || route.body.is_some()),
        ("410", "The stamp is used, too old, or of another verb.", route.command.0 == "change"),
        ("428", "A condition needs a preview, or unseen.", route.command.0 == "change"),
        ("503", "A core does not answer, or others are at it: try again.", true),
        ("default", "It did not work.", true),
    ];
    for (status, about, _) in refusals.into_iter().filter(|refusal| refusal.2) {
        let content = json!({ "application/problem+json": { "schema": named("Problem") } });
        responses[status] = json!({ "description": about, "content": content });
    }
    responses
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../docs/openapi.json");

    #[test]
    fn the_file_is_what_the_table_says() {
        if std::env::var_os("RINGPOST_WRITE_DOCS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
            #[allow(clippy::disallowed_methods)] // writes the file on request
            std::fs::write(path, text()).expect("written");
            return;
        }
        assert!(FILE == text(), "run RINGPOST_WRITE_DOCS=1 cargo test --lib openapi");
    }

    #[test]
    fn what_is_named_is_there() {
        let description: Value = serde_json::from_str(&text()).expect("JSON");
        let mut named = 0;
        let mut left = vec![&description];
        while let Some(value) = left.pop() {
            if let Some(at) = value["$ref"].as_str() {
                named += 1;
                assert!(description.pointer(&at[1..]).is_some(), "{at}");
            }
            left.extend(value.as_object().into_iter().flat_map(Map::values));
            left.extend(value.as_array().into_iter().flatten());
        }
        assert!(named > 50, "{named}");
        assert_eq!(
            description["paths"]
                .as_object()
                .map(|paths| paths.values().map(|p| p.as_object().map_or(0, Map::len)).sum()),
            Some(ROUTES.len())
        );
    }
}
