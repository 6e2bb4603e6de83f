//! L5: pieces of an answer become the body of an HTTP response.
//!
//! Owns the forms: one JSON document, or lines of JSON (`application/x-ndjson`) as things happen; raw bytes.
//! Pure: pieces in, bytes out; a list is never kept, only what goes behind it. What went wrong before there
//! was anything else decides the status; what goes wrong later stands in the document.

use super::routes::Answer;
use super::wire::{Line, Problem};
use serde_json::{Map, Value};

/// Problems kept for the end of a document; more are counted with the last.
const PROBLEMS_MAX: usize = 100;

/// A piece of an answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Piece {
    /// A fact.
    Line(Box<Line>),
    /// Raw bytes.
    Bytes(Vec<u8>),
    /// That was all. Without it the answer is not whole.
    End,
}

/// What to do next.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Nothing to send yet.
    Wait,
    /// Send this; more follows.
    Send(Vec<u8>),
    /// Send this; it was all.
    Last(Vec<u8>),
    /// There is nothing but this problem; or, behind raw bytes, they are not whole because of it.
    Failed(Box<Problem>),
}

/// Makes a body of pieces.
pub struct Render {
    answer: Answer,
    /// Lines are wanted instead of a document.
    lines: bool,
    begun: bool,
    fields: Map<String, Value>,
    problems: Vec<Problem>,
}

impl Render {
    /// Of what a route answers; `lines`: as lines.
    #[must_use]
    pub fn new(answer: Answer, lines: bool) -> Render {
        let lines = answer == Answer::Lines || lines && !matches!(answer, Answer::Raw(_));
        Render { answer, lines, begun: false, fields: Map::new(), problems: Vec::new() }
    }

    /// The type of the body.
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        match self.answer {
            Answer::Raw(kind) => kind,
            _ if self.lines => "application/x-ndjson",
            _ => "application/json",
        }
    }

    /// The next piece.
    pub fn push(&mut self, piece: Piece) -> Step {
        match piece {
            Piece::Line(line) => match *line {
                Line::Problem(problem) => self.problem(problem),
                line => self.line(line),
            },
            Piece::Bytes(bytes) => {
                self.begun = true;
                Step::Send(bytes)
            }
            Piece::End => self.end(),
        }
    }

    fn problem(&mut self, problem: Problem) -> Step {
        if self.lines && self.begun {
            return Step::Send(text(&Line::Problem(problem)));
        }
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
        Step::Wait
    }

    fn line(&mut self, line: Line) -> Step {
        if self.lines {
            let mut out = Vec::new();
            if !std::mem::replace(&mut self.begun, true) {
                for problem in self.problems.drain(..) {
                    out.extend(text(&Line::Problem(problem)));
                }
            }
            out.extend(text(&line));
            return Step::Send(out);
        }
        let Ok(Value::Object(tagged)) = serde_json::to_value(&line) else { return Step::Wait };
        let Some((tag, value)) = tagged.into_iter().next() else { return Step::Wait };
        match self.answer {
            Answer::List(key, of, _) if of == tag => {
                let begin = match std::mem::replace(&mut self.begun, true) {
                    false => format!("{{{}:[", Value::from(key)),
                    true => ",".into(),
                };
                return Step::Send(format!("{begin}\n{value}").into_bytes());
            }
            // A document has no use for how far it has come.
            _ if tag == "progress" => {}
            Answer::One(_) => {
                if let Value::Object(value) = value {
                    self.fields = value;
                }
            }
            _ => {
                self.fields.insert(tag, value);
            }
        }
        Step::Wait
    }

    fn end(&mut self) -> Step {
        let changed = self.fields.get("changed").and_then(Value::as_u64).unwrap_or(0) > 0;
        let nothing = match self.answer {
            _ if self.lines => true,
            // Half a message must not look like a whole one.
            Answer::Raw(_) => {
                if let Some(problem) = self.problems.pop() {
                    return Step::Failed(Box::new(problem));
                }
                return Step::Last(Vec::new());
            }
            Answer::Changed => !changed && !self.fields.contains_key("matches"),
            _ => self.fields.is_empty(),
        };
        if !self.begun
            && nothing
            && let Some(problem) = self.problems.pop()
        {
            return Step::Failed(Box::new(problem));
        }
        if self.lines {
            return Step::Last(Vec::new());
        }
        let mut tail = std::mem::take(&mut self.fields);
        if !self.problems.is_empty() {
            tail.insert("problems".into(), serde_json::to_value(&self.problems).unwrap_or_default());
        }
        let Answer::List(key, ..) = self.answer else {
            return Step::Last(format!("{}\n", Value::Object(tail)).into_bytes());
        };
        let mut out = if self.begun { "\n]".to_owned() } else { format!("{{{}:[]", Value::from(key)) };
        for (key, value) in tail {
            out += &format!(",\n{}:{value}", Value::from(key));
        }
        Step::Last((out + "}\n").into_bytes())
    }
}

/// A line with its end.
fn text(line: &Line) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIST: Answer = Answer::List("holds", "hold", "Hold");

    fn line(line: Line) -> Piece {
        Piece::Line(Box::new(line))
    }

    fn wrong(code: u8) -> Piece {
        line(Line::Problem(Problem::new(code, "no")))
    }

    /// The body, or the status.
    fn all(answer: Answer, lines: bool, pieces: Vec<Piece>) -> Result<String, u16> {
        let mut render = Render::new(answer, lines);
        let mut out = Vec::new();
        for piece in pieces.into_iter().chain([Piece::End]) {
            match render.push(piece) {
                Step::Wait => {}
                Step::Send(bytes) | Step::Last(bytes) => out.extend(bytes),
                Step::Failed(problem) => return Err(problem.status),
            }
        }
        Ok(String::from_utf8(out).expect("text"))
    }

    fn document(answer: Answer, pieces: Vec<Piece>) -> Value {
        let text = all(answer, false, pieces).expect("no problem");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    #[test]
    fn documents() {
        let hold = |n: u32| line(Line::Hold(json!({ "number": n })));
        let far = || line(Line::Progress { what: "x".into(), done: 1, of: 2 });
        assert_eq!(document(LIST, vec![]), json!({"holds": []}));
        let two = document(LIST, vec![far(), hold(1), hold(2), wrong(75)]);
        assert_eq!(two["holds"], json!([{"number": 1}, {"number": 2}]));
        assert_eq!((&two["problems"][0]["status"], &two["problems"][1]), (&json!(503), &Value::Null));
        assert_eq!(all(LIST, false, vec![wrong(75)]), Err(503));
        let why = || line(Line::Why(json!({"a": 1})));
        assert_eq!(document(Answer::One("Why"), vec![why()]), json!({"a": 1}));
        assert_eq!(all(Answer::One("Why"), false, vec![wrong(65)]), Err(404));
        let matches = || line(Line::Matches { messages: 3, bytes: 9, unread: 0, stamp: None });
        let done = |n| line(Line::Changed(n));
        let got = document(Answer::Changed, vec![matches(), far(), done(3)]);
        assert_eq!(got, json!({"matches": {"messages": 3, "bytes": 9, "unread": 0}, "changed": 3}));
        // One of two ids is not there: the other is changed all the same.
        assert_eq!(document(Answer::Changed, vec![wrong(65), done(1)])["problems"][0]["status"], 404);
        assert_eq!(all(Answer::Changed, false, vec![wrong(65), done(0)]), Err(404));
        assert_eq!(document(Answer::Changed, vec![done(0)]), json!({"changed": 0}));
    }

    #[test]
    fn lines_and_bytes() {
        let far = || line(Line::Progress { what: "x".into(), done: 1, of: 2 });
        let got = all(Answer::Changed, true, vec![wrong(65), far(), line(Line::Changed(1)), wrong(75)]);
        let lines: Vec<Value> =
            got.expect("lines").lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!((&lines[0]["problem"]["status"], &lines[2]["changed"]), (&json!(404), &json!(1)));
        assert_eq!(all(LIST, true, vec![wrong(75)]), Err(503));
        assert_eq!(all(LIST, true, vec![]).as_deref(), Ok(""));
        let raw = Answer::Raw("a/b");
        let bytes = |b: &str| Piece::Bytes(b.as_bytes().to_vec());
        assert_eq!(all(raw, true, vec![bytes("x"), bytes("y")]).as_deref(), Ok("xy"));
        assert_eq!(all(raw, false, vec![wrong(65)]), Err(404));
        assert_eq!(all(raw, false, vec![bytes("x"), wrong(75)]), Err(503), "it breaks off");
        assert_eq!(Render::new(Answer::Lines, false).content_type(), "application/x-ndjson");
    }
}
