//! L4: policy servers in the protocol of Postfix: one question for each recipient, over a connection that
//! stays for the session.

use super::line::Line;
use super::{Guard, Guards, Trouble};
use crate::milter::{Answer, Change, Header};
use crate::policy::delegation::{Action, put_question, read_answer};
use crate::runtime::{Runtime, Stream};
use crate::smtp::rejection::Rejection;
use crate::smtp::serve::session::Talk;

/// What is done with a recipient, and the message.
enum Verdict {
    Answer(Answer),
    Hold(Vec<u8>),
    Prepend(Change),
}

impl<R: Runtime> Talk<'_, R> {
    /// Asks the policy server in place `at` about the recipient that came last.
    pub(super) async fn ask_policy(&self, guards: &mut Guards<R>, at: usize) -> Answer {
        let instance = guards.instance;
        let guard = &mut guards.each[at];
        if !guard.is_for(self) {
            return Answer::Continue;
        }
        match guard.ask(self, instance).await {
            Ok(verdict) => {
                guard.filter.works();
                match verdict {
                    Verdict::Answer(answer) => return answer,
                    Verdict::Hold(reason) => {
                        let by = guard.filter.options.name.as_bytes();
                        guards.hold = Some([by, b": ", &reason].concat());
                    }
                    // The same for each recipient is meant once.
                    Verdict::Prepend(field) if !guards.prepend.contains(&field) => {
                        guards.prepend.push(field);
                    }
                    Verdict::Prepend(_) => {}
                }
                Answer::Continue
            }
            Err(trouble) => guard.down(&trouble, self),
        }
    }
}

impl<R: Runtime> Guard<R> {
    async fn ask(&mut self, talk: &Talk<'_, R>, instance: u64) -> Result<Verdict, Trouble> {
        let options = &self.filter.options;
        let now = talk.ctx.rt.now();
        let mut question = Vec::new();
        put(&mut question, talk, instance);
        let is_new = self.line.is_none();
        if is_new {
            let line = Line::open(&talk.ctx.rt, &options.place, now.after(options.connect)).await?;
            talk.ctx.metrics.filter_connections.increment(1);
            self.line = Some(line);
        }
        let until = talk.ctx.rt.now().after(options.command);
        let line = self.line.as_mut().ok_or(Trouble::Gone)?;
        line.out.extend_from_slice(&question);
        loop {
            if let Some((used, action)) = read_answer(line.input())? {
                let verdict = verdict(action)?;
                line.consume(used);
                return Ok(verdict);
            }
            match line.more(until).await {
                // It may have closed a connection that was idle for long.
                Err(Trouble::Gone) if !is_new && line.input().is_empty() => break,
                result => result?,
            }
        }
        self.line = None;
        Box::pin(self.ask(talk, instance)).await
    }
}

fn verdict(action: Action<'_>) -> Result<Verdict, Trouble> {
    let or = |text: &[u8], usual: &'static [u8]| if text.is_empty() { usual.to_vec() } else { text.to_vec() };
    let refuse = |code, text: Vec<u8>| {
        // A text may begin with an enhanced code.
        let whole = [format!("{code} ").as_bytes(), &text].concat();
        let said = Rejection::parse(&whole).unwrap_or(Rejection::new(code, (7, 1), &text));
        Verdict::Answer(Answer::Refuse(said))
    };
    Ok(match action {
        Action::Pass => Verdict::Answer(Answer::Continue),
        Action::Discard => Verdict::Answer(Answer::Discard),
        Action::Code(reply) => {
            let said = Rejection::parse(reply).ok_or(Trouble::Fault("a reply code that is none"))?;
            Verdict::Answer(Answer::Refuse(said))
        }
        Action::Reject(text) => refuse(554, or(text, b"Refused by local policy")),
        Action::Defer(text) => refuse(450, or(text, b"Try again later")),
        Action::Hold(reason) => Verdict::Hold(or(reason, b"held")),
        Action::Prepend(name, value) => {
            let field = Change::Insert(0, name.into(), value.into());
            Header::new(b"", b"").change(&field, false)?;
            Verdict::Prepend(field)
        }
    })
}

/// The attributes of Postfix 3 that we know.
fn put<R: Runtime>(out: &mut Vec<u8>, talk: &Talk<'_, R>, instance: u64) {
    let envelope = talk.machine.envelope();
    let recipient = envelope.last().map_or(&b""[..], |r| r.address);
    let (peer, local) = (talk.peer, talk.handle.stream.local());
    let claim = talk.machine.claim();
    let name = claim.and_then(|c| c.name.known()).map_or(&b"unknown"[..], |n| &n[..]);
    let helo = claim.and_then(|c| c.helo.known()).map_or(talk.machine.helo(), |h| &h[..]);
    let (address, port) = (peer.ip().to_string(), peer.port().to_string());
    let (here, here_port) = (local.ip().to_canonical().to_string(), local.port().to_string());
    let size = talk.machine.declared_size().unwrap_or(0).to_string();
    let instance = format!("{instance:016x}");
    let security = talk.machine.security();
    let (version, cipher) = security.map_or(("", ""), |s| (s.version.text(), s.cipher));
    let login = talk.login.name().unwrap_or_default();
    let protocol = if talk.machine.protocol().text() == "SMTP" { "SMTP" } else { "ESMTP" };
    put_question(
        out,
        &[
            ("request", b"smtpd_access_policy"),
            ("protocol_state", b"RCPT"),
            ("protocol_name", protocol.as_bytes()),
            ("client_address", address.as_bytes()),
            ("client_name", name),
            ("client_port", port.as_bytes()),
            ("reverse_client_name", name),
            ("server_address", here.as_bytes()),
            ("server_port", here_port.as_bytes()),
            ("helo_name", helo),
            ("sender", envelope.view().sender()),
            ("recipient", recipient),
            ("recipient_count", b"0"),
            ("queue_id", b""),
            ("instance", instance.as_bytes()),
            ("size", size.as_bytes()),
            ("sasl_method", talk.login.mechanism().as_bytes()),
            ("sasl_username", login.as_bytes()),
            ("sasl_sender", b""),
            ("encryption_protocol", version.as_bytes()),
            ("encryption_cipher", cipher.as_bytes()),
            ("stress", b""),
        ],
    );
}
