//! L5: sessions and users as operators see them: who is here, who is sent away, who may not come again.
//!
//! All cores are asked, page by page. Runs on the control thread. A core that does not answer in time is
//! reported; the others are asked nevertheless.

use super::control::{Conversation, Queues, code_of};
use super::wire::Line;
use crate::access::roll::{Answer, Question, Whom};
use crate::auth::prepare;
use crate::events::trace::Way;
use crate::queue::control::{Request, Which};
use crate::runtime::uring::wall_now;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// How long a core may take for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How often cores are asked what has passed.
const FETCH: Duration = Duration::from_millis(200);
/// How long a peer is watched at most.
const WATCH_MAX: u64 = 86_400;
/// Sessions may be on their way from one core to another.
const AGAIN: Duration = Duration::from_millis(500);

impl<Q: Queues> Conversation<'_, Q> {
    async fn roll(&self, core: usize, question: Question) -> Option<Answer> {
        tokio::time::timeout(ANSWER, self.queues.ask_roll(core, question)).await.ok().flatten()
    }

    async fn silent(&mut self, core: usize) -> io::Result<()> {
        self.out.error(&format!("core {core} does not answer"), 75).await
    }

    /// All sessions.
    pub(super) async fn people(&mut self) -> io::Result<()> {
        for core in 0..self.queues.cores() {
            let mut from = Some((0, 0));
            while let Some(place) = from {
                let Some(Answer::Who(some, next)) = self.roll(core, Question::Who(place)).await else {
                    self.silent(core).await?;
                    break;
                };
                for session in some {
                    let mut value = serde_json::to_value(session).map_err(io::Error::other)?;
                    value["core"] = core.into();
                    self.out.line(Line::Session(value)).await?;
                }
                from = next;
            }
        }
        Ok(())
    }

    /// Ends the sessions of a user, or from an address.
    pub(super) async fn kick(&mut self, whom: &str) -> io::Result<()> {
        let by_address = whom.parse::<IpAddr>().ok().map(|a| Whom::Address(a.to_canonical()));
        let by_login = || Whom::User(prepare::login(whom).unwrap_or_else(|| whom.to_owned()));
        let count = self.expel(&by_address.unwrap_or_else(by_login)).await?;
        self.office.tell(&self.who, "kick", count, whom, "");
        self.out.line(Line::Changed(count)).await
    }

    async fn expel(&mut self, whom: &Whom) -> io::Result<u64> {
        let mut count = 0;
        for core in 0..self.queues.cores() {
            let mut from = Some((0, 0));
            while let Some(place) = from {
                let question = Question::Expel(whom.clone(), place);
                let Some(Answer::Expelled(n, next)) = self.roll(core, question).await else {
                    self.silent(core).await?;
                    break;
                };
                count += n;
                from = next;
            }
        }
        Ok(count)
    }

    /// Stops taking mail, and tries what waits now; or takes it again.
    pub(super) async fn drain(&mut self, on: bool) -> io::Result<()> {
        self.queues.set_draining(on);
        for core in 0..self.queues.cores() {
            if self.roll(core, Question::Drain(on)).await.is_none() {
                self.silent(core).await?;
            }
        }
        self.office.tell(&self.who, "drain", u64::from(on), "new mail", "");
        if on {
            for queue in 0..self.queues.count() {
                // What cannot be tried now is tried when it is due.
                let _ = self.ask(queue, Request::Flush(Which::All)).await;
            }
        }
        self.out.line(Line::Changed(u64::from(on))).await
    }

    /// Tells what passes between us and a peer.
    pub(super) async fn trace(&mut self, outwards: bool, peer: &str, seconds: u64) -> io::Result<()> {
        let number = self.office.next_number();
        let way = if outwards { Way::Out } else { Way::In };
        self.office.tell(&self.who, "trace", 1, peer, "");
        let until = Instant::now() + Duration::from_secs(seconds.min(WATCH_MAX));
        while Instant::now() < until {
            let mut lost = 0;
            for core in 0..self.queues.cores() {
                let question = Question::Trace(number, way, peer.to_owned());
                let Some(Answer::Traced(lines, dropped)) = self.roll(core, question).await else { continue };
                lost += dropped;
                for line in lines {
                    let value = serde_json::to_value(line).map_err(io::Error::other)?;
                    self.out.line(Line::Traced(value)).await?;
                }
            }
            // Also so that it is noticed if nobody listens any more.
            self.out.line(Line::Progress { what: "lost".into(), done: lost, of: lost }).await?;
            tokio::time::sleep(FETCH).await;
        }
        Ok(())
    }

    /// A user may not log in any more, and what is logged in ends.
    pub(super) async fn disable(&mut self, login: &str, reason: &str) -> io::Result<()> {
        let login = match self.office.lockout.disable(login, reason, &self.who, wall_now()) {
            Ok(login) => login,
            Err(e) => {
                let code = if e.kind() == io::ErrorKind::NotFound { 67 } else { code_of(&e) };
                return self.out.error(&e.to_string(), code).await;
            }
        };
        let whom = Whom::User(login.clone());
        let mut count = self.expel(&whom).await?;
        tokio::time::sleep(AGAIN).await;
        count += self.expel(&whom).await?;
        self.office.tell(&self.who, "disable", count, &login, reason);
        self.out.line(Line::Changed(count)).await
    }

    /// A user may log in again.
    pub(super) async fn enable(&mut self, login: &str) -> io::Result<()> {
        match self.office.lockout.enable(login) {
            Ok(true) => {
                self.office.tell(&self.who, "enable", 1, login, "");
                self.out.line(Line::Changed(1)).await
            }
            Ok(false) => self.out.error(&format!("{login:?} is not disabled"), 67).await,
            Err(e) => self.out.error(&e.to_string(), 73).await,
        }
    }

    /// Who may not log in.
    pub(super) async fn disabled(&mut self) -> io::Result<()> {
        for (login, lock) in self.office.lockout.all() {
            let mut value = serde_json::to_value(lock).map_err(io::Error::other)?;
            value["login"] = login.into();
            self.out.line(Line::Locked(value)).await?;
        }
        Ok(())
    }
}
