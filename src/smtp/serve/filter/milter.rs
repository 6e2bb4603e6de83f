//! L4: what a milter is told of a session and its transactions, with the macros that Postfix sends.
//!
//! The connection and HELO are told with the first MAIL, so that clients that never come so far cost
//! nothing; what a filter says to them is said to MAIL.

use super::line::Line;
use super::{Guard, Trouble};
use crate::base::time::Mono;
use crate::message::envelope::{BodyKind, Ret};
use crate::milter::{Answer, Step};
use crate::runtime::{Runtime, Stream};
use crate::smtp::serve::session::Talk;

/// Bytes that wait to be sent to a filter which does not answer each command.
const OUT_MAX: usize = 64 << 10;

impl<R: Runtime> Guard<R> {
    /// Tells of MAIL, and before it of what the filter has not heard yet.
    pub(super) async fn sender(&mut self, talk: &Talk<'_, R>) -> Answer {
        self.asks = false;
        if !self.is_for(talk) {
            return Answer::Continue;
        }
        if let Some(decided) = &self.decided {
            return decided.clone();
        }
        match self.tell_sender(talk).await {
            Ok(answer) => {
                self.asks = answer == Answer::Continue;
                if !self.asks {
                    self.filter.works();
                }
                answer
            }
            Err(trouble) => self.down(&trouble, talk),
        }
    }

    /// Tells of RCPT.
    pub(super) async fn recipient(&mut self, talk: &Talk<'_, R>) -> Answer {
        if let Some(lost) = &self.lost {
            return Answer::Refuse(lost.clone());
        }
        if !self.asks {
            return Answer::Continue;
        }
        match self.tell_recipient(talk).await {
            Ok(answer) => {
                self.asks = answer != Answer::Accept;
                answer
            }
            Err(trouble) => {
                let answer = self.down(&trouble, talk);
                // Recipients that it has let pass would get a message that it has never seen.
                if let Answer::Refuse(lost) = &answer {
                    self.lost = Some(lost.clone());
                }
                answer
            }
        }
    }

    async fn tell_sender(&mut self, talk: &Talk<'_, R>) -> Result<Answer, Trouble> {
        let mut told = self.tell_connection(talk).await?;
        if told == Answer::Continue {
            told = self.tell_helo(talk).await?;
        }
        if told != Answer::Continue {
            // Of a connection it is said once.
            self.decided = Some(told.clone());
            return Ok(told);
        }
        let envelope = talk.machine.envelope().view();
        let (sender, options) = (envelope.sender(), envelope.options());
        let mut parameters = Vec::new();
        if let Some(size) = talk.machine.declared_size() {
            parameters.push(format!("SIZE={size}").into_bytes());
        }
        if options.body == BodyKind::EightBitMime {
            parameters.push(b"BODY=8BITMIME".to_vec());
        }
        if options.smtputf8 {
            parameters.push(b"SMTPUTF8".to_vec());
        }
        if let Some(ret) = options.ret {
            parameters.push(if ret == Ret::Full { b"RET=FULL".to_vec() } else { b"RET=HDRS".to_vec() });
        }
        if !envelope.envid().is_empty() {
            parameters.push([b"ENVID=", envelope.envid()].concat());
        }
        let login = talk.login.name().unwrap_or_default().as_bytes();
        let mechanism = talk.login.mechanism().as_bytes();
        let macros = [("{mail_addr}", sender), ("{auth_authen}", login), ("{auth_type}", mechanism)];
        let line = self.line.as_mut().expect("just seen to");
        let asked = self.milter.mail(&macros, sender, &parameters, &mut line.out);
        self.answer(asked, talk).await
    }

    async fn tell_recipient(&mut self, talk: &Talk<'_, R>) -> Result<Answer, Trouble> {
        let Some(recipient) = talk.machine.envelope().last() else { return Ok(Answer::Continue) };
        let mut parameters = Vec::new();
        if !recipient.orcpt.is_empty() {
            parameters.push([b"ORCPT=", recipient.orcpt].concat());
        }
        let macros = [("{rcpt_addr}", recipient.address)];
        let line = self.line.as_mut().ok_or(Trouble::Gone)?;
        let asked = self.milter.rcpt(&macros, recipient.address, &parameters, &mut line.out);
        self.answer(asked, talk).await
    }

    /// Connects and negotiates, and tells of the client's connection, if that has not been done.
    async fn tell_connection(&mut self, talk: &Talk<'_, R>) -> Result<Answer, Trouble> {
        if self.line.is_some() {
            return Ok(Answer::Continue);
        }
        let options = &self.filter.options;
        let until = talk.ctx.rt.now().after(options.connect);
        let mut line = Line::open(&talk.ctx.rt, &options.place, until).await?;
        talk.ctx.metrics.filter_connections.increment(1);
        self.milter = crate::milter::Client::default();
        self.milter.negotiate(&mut line.out);
        self.line = Some(line);
        self.greeted = None;
        self.answer(true, talk).await?;
        let (peer, local) = (talk.peer, talk.handle.stream.local());
        let name = talk.machine.claim().and_then(|c| c.name.known()).map(|n| &n[..]);
        let (address, port) = (peer.ip().to_string(), peer.port().to_string());
        let (here, here_port) = (local.ip().to_canonical().to_string(), local.port().to_string());
        let shown = name.map_or_else(|| "unknown".into(), String::from_utf8_lossy);
        let both = format!("{shown} [{address}]");
        let macros: [(&str, &[u8]); 9] = [
            ("j", talk.ctx.options.hostname.as_bytes()),
            ("_", both.as_bytes()),
            ("v", concat!("ringpost ", env!("CARGO_PKG_VERSION")).as_bytes()),
            ("{daemon_name}", talk.door.service().as_bytes()),
            ("{daemon_addr}", here.as_bytes()),
            ("{daemon_port}", here_port.as_bytes()),
            ("{client_addr}", address.as_bytes()),
            ("{client_port}", port.as_bytes()),
            ("{client_name}", shown.as_bytes()),
        ];
        let line = self.line.as_mut().expect("just put there");
        let asked = self.milter.connect(&macros, name, (peer.ip(), peer.port()), &mut line.out);
        self.answer(asked, talk).await
    }

    /// Tells of HELO if the client has said another one since, or is under TLS now.
    async fn tell_helo(&mut self, talk: &Talk<'_, R>) -> Result<Answer, Trouble> {
        let security = talk.machine.security();
        let claimed = talk.machine.claim().and_then(|c| c.helo.known());
        let helo = claimed.map_or(talk.machine.helo(), |h| &h[..]);
        let now = (helo.to_vec(), security.is_some());
        if self.greeted.as_ref() == Some(&now) {
            return Ok(Answer::Continue);
        }
        let (version, cipher) = security.map_or(("", ""), |s| (s.version.text(), s.cipher));
        let bits = security.map_or(String::new(), |s| s.cipher_bits().to_string());
        // What a client only says of itself is no name.
        let certificate = security.and_then(|s| s.client.as_deref()).filter(|c| c.verified);
        let name = |name: Option<&String>| name.map_or(Vec::new(), |n| n.clone().into_bytes());
        let subject = name(certificate.and_then(|c| c.common_name.as_ref()));
        let issuer = name(certificate.and_then(|c| c.issuer.as_ref()));
        let macros: [(&str, &[u8]); 5] = [
            ("{tls_version}", version.as_bytes()),
            ("{cipher}", cipher.as_bytes()),
            ("{cipher_bits}", bits.as_bytes()),
            ("{cert_subject}", &subject),
            ("{cert_issuer}", &issuer),
        ];
        let line = self.line.as_mut().ok_or(Trouble::Gone)?;
        let asked = self.milter.helo(&macros, helo, &mut line.out);
        self.greeted = Some(now);
        self.answer(asked, talk).await
    }

    /// The answer to the last command, if there is to be one.
    pub(super) async fn answer(&mut self, asked: bool, talk: &Talk<'_, R>) -> Result<Answer, Trouble> {
        let until = talk.ctx.rt.now().after(self.filter.options.command);
        self.answer_until(asked, until).await
    }

    /// The same, until then.
    pub(super) async fn answer_until(&mut self, asked: bool, until: Mono) -> Result<Answer, Trouble> {
        let line = self.line.as_mut().ok_or(Trouble::Gone)?;
        if !asked {
            if line.out.len() >= OUT_MAX {
                line.send(until).await?;
            }
            return Ok(Answer::Continue);
        }
        loop {
            match self.milter.receive(line.input())? {
                (_, Step::NeedInput) => line.more(until).await?,
                (n, Step::Answer(answer)) => {
                    line.consume(n);
                    return Ok(answer);
                }
                (n, _) => line.consume(n),
            }
        }
    }
}
