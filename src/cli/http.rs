//! One HTTP request over the admin socket, and its answer, as it comes.
//!
//! Just what the command line needs of RFC 9112: one request a connection, an answer with a length, in
//! chunks, or up to the end. Which request a command is, the server's own table says. An answer that breaks
//! off is an error, never a shorter answer.

use crate::admin::routes;
use crate::admin::wire::{Command, Line, Problem};
use std::io::{self, BufRead, BufReader, Read, Write};

/// Bytes of a line of the head, or of the size of a chunk.
const LINE_MAX: u64 = 16 << 10;
/// Lines of the head.
const HEAD_MAX: usize = 100;
/// Bytes of a description of what is wrong.
const PROBLEM_MAX: u64 = 64 << 10;

/// How far the body goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rest {
    /// So much is left of it.
    Length(u64),
    /// So much is left of this chunk; then the end of its line, and the next.
    Chunk(u64),
    /// The next chunk begins here; true: behind another.
    Between(bool),
    /// It was all.
    Nothing,
}

/// The body of an answer.
pub(super) struct Body<R> {
    input: BufReader<R>,
    rest: Rest,
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// A line without its end.
fn line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    input.take(LINE_MAX).read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\n") {
        Some(line) => Ok(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // RFC 9112 §7.1.
        if let Rest::Between(behind) = self.rest {
            if behind && !line(&mut self.input)?.is_empty() {
                return Err(bad("a chunk is longer than it says"));
            }
            let size = line(&mut self.input)?;
            let size = size.split(';').next().unwrap_or("").trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| bad("the size of a chunk is no number"))?;
            self.rest = if size == 0 { Rest::Nothing } else { Rest::Chunk(size) };
        }
        let (Rest::Length(left) | Rest::Chunk(left)) = self.rest else { return Ok(0) };
        if left == 0 || buf.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let n = self.input.read(&mut buf[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let left = left - n as u64;
        self.rest = match self.rest {
            Rest::Chunk(_) if left == 0 => Rest::Between(true),
            Rest::Chunk(_) => Rest::Chunk(left),
            _ => Rest::Length(left),
        };
        Ok(n)
    }
}

/// Asks `command` over `stream`: the body of the answer, or why there is none.
pub(super) fn ask<S: Read + Write>(mut stream: S, command: &Command) -> io::Result<Result<Body<S>, Problem>> {
    let sent = routes::request(command).map_err(io::Error::other)?;
    let mut text = format!("{} {} HTTP/1.1\r\nHost: localhost\r\n", sent.method, sent.target);
    text += "Accept: application/x-ndjson, application/problem+json, */*\r\nConnection: close\r\n";
    if !sent.body.is_empty() {
        text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", sent.body.len());
    }
    let mut text = (text + "\r\n").into_bytes();
    text.extend(sent.body);
    stream.write_all(&text)?;
    stream.flush()?;
    let mut input = BufReader::new(stream);
    let first = line(&mut input)?;
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    let status = status.ok_or_else(|| bad("this is no answer of HTTP"))?;
    let mut rest = Rest::Nothing;
    for n in 0.. {
        let field = line(&mut input)?;
        if field.is_empty() {
            break;
        }
        if n == HEAD_MAX {
            return Err(bad("the head of the answer has no end"));
        }
        let Some((name, value)) = field.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            rest = Rest::Length(value.trim().parse().map_err(|_| bad("the length is no number"))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.trim().eq_ignore_ascii_case("chunked") {
                return Err(bad("a coding that nobody has asked for"));
            }
            rest = Rest::Between(false);
        }
    }
    let body = Body { input, rest };
    if status == 200 {
        return Ok(Ok(body));
    }
    let mut text = Vec::new();
    body.take(PROBLEM_MAX).read_to_end(&mut text)?;
    Ok(Err(serde_json::from_slice(&text).map_err(io::Error::from)?))
}

/// Calls `each` with the lines of an answer.
pub(super) fn lines(body: impl Read, mut each: impl FnMut(Line) -> io::Result<()>) -> io::Result<()> {
    let mut input = BufReader::new(body);
    let mut text = Vec::new();
    loop {
        text.clear();
        if input.read_until(b'\n', &mut text)? == 0 {
            return Ok(());
        }
        each(serde_json::from_slice(&text)?)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The other end: takes all, and answers this.
    struct Peer(Vec<u8>, io::Cursor<Vec<u8>>);

    impl Read for Peer {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            // In small pieces, as a network may.
            let most = buf.len().min(3);
            self.1.read(&mut buf[..most])
        }
    }

    impl Write for Peer {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.extend(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn said(answer: &str) -> io::Result<Result<Vec<Line>, Problem>> {
        let peer = Peer(Vec::new(), io::Cursor::new(answer.replace('\n', "\r\n").into_bytes()));
        let body = match ask(peer, &Command::Undo { number: 7 })? {
            Ok(body) => body,
            Err(problem) => return Ok(Err(problem)),
        };
        let text = String::from_utf8_lossy(&body.input.get_ref().0).into_owned();
        assert!(text.starts_with("DELETE /v1/holds/7 HTTP/1.1\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        let mut all = Vec::new();
        lines(body, |line| {
            all.push(line);
            Ok(())
        })?;
        Ok(Ok(all))
    }

    #[test]
    fn answers_of_all_forms_and_none_that_breaks_off() {
        let head = "HTTP/1.1 200 OK\nDate: x\n";
        let (one, two) = ("{\"changed\":1}", "{\"changed\":2}");
        let good = Some(vec![Line::Changed(1), Line::Changed(2)]);
        let chunked = format!("{head}transfer-encoding: chunked\n\n");
        for (answer, want) in [
            (format!("{head}Content-Length: 28\n\n{one}\n{two}"), good.clone()),
            (format!("{chunked}1c;x=y\n{one}\n{two}\n0\n\n"), good.clone()),
            (format!("{chunked}5\n{}\nA\n{}\n\nd\n{two}\n0\n\n", &one[..5], &one[5..]), good),
            (format!("{chunked}0\n\n"), Some(vec![])),
            (format!("{head}Content-Length: 0\n\n"), Some(vec![])),
            (format!("{chunked}1c\n{one}\n{two}\n"), None),
            (format!("{chunked}f\n{one}\n"), None),
            (format!("{chunked}2\n{one}\n0\n\n"), None),
            (format!("{chunked}x\n"), None),
            (format!("{head}Content-Length: 99\n\n{one}"), None),
            (format!("{head}Transfer-Encoding: gzip\n\n"), None),
            ("SMTP 220\n".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(said(&answer).ok().map(|said| said.expect("no problem")), want, "{answer}");
        }
        let problem = serde_json::to_string(&Problem::new(65, "no such hold")).expect("JSON");
        let answer = format!("HTTP/1.1 404 Not Found\nContent-Length: {}\n\n{problem}", problem.len());
        let problem = said(&answer).expect("whole").expect_err("a problem");
        assert_eq!((problem.status, problem.exit_code, &*problem.detail), (404, 65, "no such hold"));
    }
}
