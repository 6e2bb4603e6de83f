//! What each command does to a session; order, limits, errors.

use super::{Asking, AuthMode, Hello, Question, Session, State, Step, forward, lmtp};
use crate::base::scan;
use crate::base::time::Mono;
use crate::smtp::command::{self, BadCommand, Command, Mail, Rcpt};
use crate::smtp::extension;
use crate::smtp::reply::Reply;

impl Session {
    /// At the start of a command line.
    pub(super) fn command(&mut self, now: Mono, rest: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        if self.shutting_down {
            return (0, Some(self.close(Reply::SHUTTING_DOWN, out)));
        }
        if let Some(until) = self.paused_until.filter(|&until| now < until) {
            return (0, Some(Step::Pause(until)));
        }
        self.paused_until = None;
        let line_max = self.line_max(rest);
        let Some(lf) = scan::line_feed(&rest[..rest.len().min(line_max)]) else {
            if rest.len() < line_max {
                return (0, Some(Step::NeedInput));
            }
            let is_auth = line_max > self.options.line_max;
            let reply = if is_auth { Reply::AUTH_LINE_TOO_LONG } else { Reply::LINE_TOO_LONG };
            self.state = State::LongLine(reply);
            return (0, None);
        };
        // One client never gets more than its turn, and never more replies than it has read.
        if self.counts.burst >= self.options.burst || out.len() >= self.options.replies_max {
            return (0, Some(Step::Yield));
        }
        self.counts.burst += 1;
        self.since = now;
        // RFC 5321 §2.3.8: lines end in CRLF and in nothing else.
        let step = match rest[..lf].strip_suffix(b"\r") {
            Some(line) => self.line(now, line, rest.len() > lf + 1, out),
            None => self.error(now, Reply::BARE_LINE_FEED, out),
        };
        (lf + 1, step)
    }

    /// Swallows a line that is too long, with constant memory.
    pub(super) fn long_line(
        &mut self,
        now: Mono,
        reply: Reply,
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Option<Step>) {
        match scan::crlf(rest) {
            Some(cr) => {
                self.since = now;
                self.state = State::Command;
                (cr + 2, self.error(now, reply, out))
            }
            None => (rest.len() - usize::from(rest.last() == Some(&b'\r')), Some(Step::NeedInput)),
        }
    }

    /// Obeys one line. `more`: other bytes already stand behind it.
    fn line(&mut self, now: Mono, line: &[u8], more: bool, out: &mut Vec<u8>) -> Option<Step> {
        let command = match command::parse(line) {
            Ok(command) => command,
            Err(bad) => return self.bad_command(now, bad, out),
        };
        // RFC 2920 §3.1: the replies to these must be awaited. Who does not, guesses: an attack
        // that runs through a confused intermediary, or a program that mistakes data for commands.
        let awaits =
            matches!(command, Command::Ehlo(_) | Command::Helo(_) | Command::Lhlo(_) | Command::Data);
        if more && awaits && self.options.refuse_bad_pipelining {
            return Some(self.close(Reply::BAD_PIPELINING, out));
        }
        if let Some(refusal) = self.needs_tls(&command).or_else(|| self.needs_auth(&command)) {
            return self.error(now, refusal, out);
        }
        match command {
            Command::Mail(mail) => self.mail(now, &mail, out),
            Command::Rcpt(rcpt) => self.rcpt(now, &rcpt, out),
            Command::Data => self.begin_data(now, out),
            Command::Bdat { len, last } => self.begin_chunk(now, len, last, out),
            Command::Ehlo(_) | Command::Helo(_) if self.is_lmtp => self.error(now, Reply::NOT_SMTP, out),
            Command::Ehlo(name) => self.hello(Hello::Ehlo, name, out),
            Command::Helo(name) => self.hello(Hello::Helo, name, out),
            Command::Lhlo(name) => self.lhlo(now, name, out),
            Command::Rset => self.rset(out),
            Command::Noop => self.junk(Reply::OK, out),
            Command::Vrfy(_) => self.junk(Reply::CANNOT_VERIFY, out),
            Command::Help => self.junk(Reply::HELP, out),
            Command::Quit => Some(self.close(Reply::BYE, out)),
            Command::Expn(_) => self.error(now, Reply::NOT_IMPLEMENTED, out),
            Command::StartTls => self.start_tls(now, out),
            Command::Auth { mechanism, initial } => self.begin_auth(now, mechanism, initial, out),
            Command::Xclient(argument) => self.xclient(now, argument, out),
            Command::Xforward(argument) => self.xforward(now, argument, out),
        }
    }

    fn bad_command(&mut self, now: Mono, bad: BadCommand, out: &mut Vec<u8>) -> Option<Step> {
        match bad {
            // What follows would be taken for commands.
            BadCommand::Http | BadCommand::ChunkSize => Some(self.close(bad.reply(), out)),
            BadCommand::Unknown if self.hello == Hello::None => {
                self.counts.unknown += 1;
                bad.reply().put(out);
                if self.counts.unknown >= self.options.unknown_max {
                    return Some(self.close(Reply::TOO_MANY_ERRORS, out));
                }
                self.count_error(now, out);
                None
            }
            BadCommand::Unknown | BadCommand::Refused(_) => self.error(now, bad.reply(), out),
        }
    }

    /// EHLO and HELO begin anew (RFC 5321 §4.1.4).
    pub(super) fn hello(&mut self, hello: Hello, name: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        if self.hello != Hello::None
            && let Some(close) = self.count_junk(out)
        {
            return Some(close);
        }
        self.hello = hello;
        self.helo.clear();
        self.helo.extend_from_slice(name);
        match hello {
            Hello::Ehlo => {
                let more = if self.forwarder { &[forward::XCLIENT, forward::XFORWARD][..] } else { &[] };
                let mut offer = self.options.offer();
                if self.auth.mode != AuthMode::Off {
                    offer.auth = self.auth.offer.now.clone();
                }
                offer.starttls = self.offers_tls();
                if self.is_lmtp {
                    lmtp::narrow(&mut offer);
                }
                extension::put_ehlo(out, &self.options.hostname, &offer, more);
            }
            Hello::Helo | Hello::None => extension::put_helo(out, &self.options.hostname),
        }
        self.reset().then_some(Step::Abandoned)
    }

    fn rset(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        if let Some(close) = self.count_junk(out) {
            return Some(close);
        }
        Reply::OK.put(out);
        self.reset().then_some(Step::Abandoned)
    }

    fn mail(&mut self, now: Mono, mail: &Mail<'_>, out: &mut Vec<u8>) -> Option<Step> {
        if self.hello == Hello::None {
            return self.error(now, Reply::NEED_HELO, out);
        }
        if self.transfer.is_some() {
            return self.error(now, Reply::WITHIN_CHUNKS, out);
        }
        if self.transaction.is_some() {
            return self.error(now, Reply::NESTED_MAIL, out);
        }
        if self.counts.transactions >= self.options.transactions_max {
            return Some(self.close(Reply::TOO_MANY_MESSAGES, out));
        }
        self.counts.transactions += 1;
        if self.is_lmtp && lmtp::asks_for_reports(mail) {
            return self.error(now, Reply::UNKNOWN_PARAMETER, out);
        }
        // RFC 1870 §6.1
        let limit = self.options.message.size;
        if limit != 0 && mail.size.is_some_and(|size| size > limit) {
            return self.error(now, Reply::TOO_BIG, out);
        }
        self.smtputf8 = mail.options.smtputf8;
        self.declared_size = mail.size;
        self.envelope.begin(mail.sender.bytes(), mail.options, mail.envid);
        self.ask(now, Question::Sender)
    }

    fn rcpt(&mut self, now: Mono, rcpt: &Rcpt<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let Some(transaction) = &mut self.transaction else {
            return self.error(now, Reply::NEED_MAIL, out);
        };
        if self.transfer.is_some() {
            return self.error(now, Reply::WITHIN_CHUNKS, out);
        }
        if self.is_lmtp && lmtp::asks_for_reports_of(rcpt) {
            transaction.refused_any = true;
            return self.error(now, Reply::UNKNOWN_PARAMETER, out);
        }
        // RFC 6531 §3.5
        let international = rcpt.recipient.is_international() || !rcpt.orcpt.is_ascii();
        if international && !self.smtputf8 {
            transaction.refused_any = true;
            return self.error(now, Reply::NEEDS_SMTPUTF8, out);
        }
        let full = self.envelope.bytes().len() >= self.options.envelope_max;
        if full || self.envelope.count() >= self.options.recipients_max {
            transaction.overshoot = transaction.overshoot.saturating_add(1);
            if transaction.overshoot > self.options.recipients_overshoot {
                return self.error(now, Reply::TOO_MANY_RECIPIENTS, out);
            }
            Reply::TOO_MANY_RECIPIENTS.put(out);
            return None;
        }
        self.envelope.push(rcpt.recipient.bytes(), rcpt.notify, rcpt.orcpt);
        self.ask(now, Question::Recipient)
    }

    pub(super) fn ask(&mut self, now: Mono, question: Question) -> Option<Step> {
        self.state = State::Asking(Asking { question, since: now });
        Some(Step::Ask(question))
    }

    /// A command that succeeds but brings no mail.
    pub(super) fn junk(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        let close = self.count_junk(out);
        if close.is_none() {
            reply.put(out);
        }
        close
    }

    pub(super) fn count_junk(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        self.counts.junk += 1;
        (self.counts.junk > self.options.junk_max).then(|| self.close(Reply::TOO_MANY_COMMANDS, out))
    }

    /// Refuses a command.
    pub(super) fn error(&mut self, now: Mono, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        reply.put(out);
        self.count_error(now, out);
        None
    }

    /// Counts an error: above the soft limit the peer waits, at the hard limit it must go.
    pub(super) fn count_error(&mut self, now: Mono, out: &mut Vec<u8>) {
        self.counts.errors += 1;
        if self.counts.errors >= self.options.errors_hard {
            self.close(Reply::TOO_MANY_ERRORS, out);
        } else if self.counts.errors > self.options.errors_soft {
            self.paused_until = Some(now.after(self.options.error_delay));
        }
    }
}
