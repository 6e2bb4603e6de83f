//! L4: a message goes to Rspamd in its own protocol: one connection, one request, one answer.

use super::draft::Draft;
use super::line::Line;
use super::message::Changes;
use super::{Guard, Trouble};
use crate::base::ids::QueueId;
use crate::base::time::Mono;
use crate::intake::Intake;
use crate::milter::{Answer, Change, Fault, Header, Step};
use crate::policy::rspamd::{Action, Verdict, put_request, read_answer};
use crate::runtime::Runtime;
use crate::smtp::rejection::Rejection;
use crate::smtp::serve::session::Talk;

/// Bytes that are sent at once.
const PIECE: usize = 64 << 10;

impl<R: Runtime> Guard<R> {
    /// Shows the message; the answer, and what is to be changed.
    pub(super) async fn ask_rspamd(
        &self,
        talk: &Talk<'_, R>,
        (intake, id): (&Intake<R>, QueueId),
        draft: &Draft,
        until: Mono,
    ) -> Result<(Answer, Changes), Trouble> {
        let options = &self.filter.options;
        let soon = until.min(talk.ctx.rt.now().after(options.connect));
        let mut line = Line::<R>::open(&talk.ctx.rt, &options.place, soon).await?;
        talk.ctx.metrics.filter_connections.increment(1);
        put(&mut line.out, talk, id, draft);
        draft.header.put_seen(&mut line.out);
        line.out.extend_from_slice(b"\r\n");
        let mut pieces = draft.body(talk, intake).await?;
        while let Some(piece) = pieces.next().await? {
            for part in piece.chunks(PIECE) {
                line.out.extend_from_slice(part);
                if line.out.len() >= PIECE {
                    line.send(until).await?;
                }
            }
        }
        let verdict = loop {
            if let Some(verdict) = read_answer(line.input())? {
                break verdict;
            }
            line.more(until).await?;
        };
        let changes = changes(&verdict, &draft.header)?;
        Ok((answer(verdict.action), changes))
    }
}

/// The head of the request.
fn put<R: Runtime>(out: &mut Vec<u8>, talk: &Talk<'_, R>, id: QueueId, draft: &Draft) {
    let envelope = draft.envelope.as_ref().unwrap_or(talk.machine.envelope()).view();
    let claim = talk.machine.claim();
    let name = claim.and_then(|c| c.name.known()).map_or(&b""[..], |n| &n[..]);
    let helo = claim.and_then(|c| c.helo.known()).map_or(talk.machine.helo(), |h| &h[..]);
    let (address, id) = (talk.peer.ip().to_string(), id.text());
    let security = talk.machine.security();
    let (version, cipher) = security.map_or(("", ""), |s| (s.version.text(), s.cipher));
    let mut attributes: Vec<(&str, &[u8])> = vec![
        ("IP", address.as_bytes()),
        ("Helo", helo),
        ("Hostname", name),
        ("From", if envelope.sender().is_empty() { b"<>" } else { envelope.sender() }),
        ("Queue-Id", &id[..]),
        ("User", talk.login.name().unwrap_or_default().as_bytes()),
        ("MTA-Name", talk.ctx.options.hostname.as_bytes()),
        ("TLS-Version", version.as_bytes()),
        ("TLS-Cipher", cipher.as_bytes()),
    ];
    attributes.extend(envelope.recipients().map(|r| ("Rcpt", r.address)));
    put_request(out, &attributes, draft.seen_len());
}

fn answer(action: Action) -> Answer {
    let refuse = |code, text: &str, usual: &str| {
        let text = if text.is_empty() { usual } else { text };
        // A text may begin with an enhanced code; it is one line.
        let whole = format!("{code} {}", text.replace(['\r', '\n'], " "));
        let said = Rejection::parse(whole.as_bytes());
        Answer::Refuse(said.unwrap_or(Rejection::new(code, (7, 1), usual.as_bytes())))
    };
    match action {
        Action::Pass | Action::Mark | Action::Subject(_) | Action::Hold => Answer::Continue,
        Action::Reject(text) => refuse(550, &text, "Refused as spam"),
        Action::Defer(text) => refuse(451, &text, "Try again later"),
        Action::Discard => Answer::Discard,
    }
}

/// What is to be changed: fields are removed first, then others are added.
fn changes(verdict: &Verdict, header: &Header) -> Result<Changes, Fault> {
    let mut changes = Changes::default();
    for (name, number) in &verdict.remove {
        let count = header.seen().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).count() as i64;
        let numbers = match number {
            0 => 1..=count,
            1.. => *number..=*number,
            _ => count + 1 + number..=count + 1 + number,
        };
        for n in numbers.filter(|n| (1..=count).contains(n)) {
            let set = Change::Set(n as u32, name.as_bytes().into(), Box::default());
            changes.note(Step::Header(set))?;
        }
    }
    let add = |name: &str, value: &str| Change::Add(name.as_bytes().into(), value.as_bytes().into());
    for f in &verdict.add {
        let change = match f.place {
            Some(place) => Change::Insert(place, f.name.as_bytes().into(), f.value.as_bytes().into()),
            None => add(&f.name, &f.value),
        };
        changes.note(Step::Header(change))?;
    }
    match &verdict.action {
        Action::Mark => changes.note(Step::Header(add("X-Spam", "Yes")))?,
        Action::Subject(text) => {
            let set = Change::Set(1, b"Subject"[..].into(), text.as_bytes().into());
            changes.note(Step::Header(set))?;
        }
        Action::Hold => changes.note(Step::Quarantine(b"quarantine"))?,
        Action::Pass | Action::Reject(_) | Action::Defer(_) | Action::Discard => {}
    }
    Ok(changes)
}
