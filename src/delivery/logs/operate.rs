//! L4: requests of operators, for all logs of a core.
//!
//! A request about one message goes to its log, the others to all logs, in the order of their numbers.
//! Knows nothing of how a queue serves them. A log that is taken away meanwhile has nothing to say.

use super::Logs;
use crate::base::ids::{MessageId, QueueId};
use crate::queue::control::{ControlError, Cursor, Request, Response, Which};
use crate::queue::desk::Desk;
use crate::queue::pick::{Pick, Verb};
use crate::runtime::Runtime;

impl<R: Runtime> Logs<R> {
    /// Serves an operator's request, whichever of the logs it is about.
    pub async fn control(&self, request: &Request) -> Response {
        match request {
            Request::List { after, limit, in_doubt } => self.list(*after, *limit, *in_doubt).await,
            Request::Select { pick, verb, after } => self.select(pick, *verb, after.as_ref()).await,
            Request::ShowSome(_) => self.some(request).await,
            Request::Show(id) | Request::Why(id) | Request::Cat { id, .. } => self.one(*id, request).await,
            Request::Flush(which)
            | Request::Hold { which, .. }
            | Request::Release { which, .. }
            | Request::Delete { which, .. }
            | Request::Bounce { which, .. }
            | Request::Requeue { which, .. } => match which {
                Which::One(id) => self.one(*id, request).await,
                // Each takes what is its own.
                Which::Some(_) => self.all(request).await,
                Which::All | Which::Destination(_) => self.all(request).await,
            },
            // Each takes what is its own.
            Request::Reroute { .. } => self.all(request).await,
            Request::Rules(rules) => {
                // Logs that are adopted later have them too.
                self.0.rules.replace(rules.clone());
                self.all(request).await
            }
            Request::Stats => Response::Stats(self.desks().iter().map(Desk::stats).collect()),
            Request::CopyIndex(_) => self.copy(request).await,
        }
    }

    async fn some(&self, request: &Request) -> Response {
        let mut messages = Vec::new();
        for desk in self.desks() {
            match desk.control(request).await {
                Response::Page { messages: more, .. } => messages.extend(more),
                Response::Error(ControlError::Closed) if desk.is_spent() && !desk.is_dead() => {}
                other => return other,
            }
        }
        Response::Page { messages, next: None }
    }

    /// Log after log, as in [`Self::list`].
    async fn select(&self, pick: &Pick, verb: Verb, after: Option<&Cursor>) -> Response {
        let before = |log| after.is_some_and(|a| log < a.after.log);
        let mut desks = self.desks().into_iter().skip_while(|d| before(d.log()));
        let Some(desk) = desks.next() else {
            return Response::Selected { ids: Vec::new(), bytes: 0, looked: 0, unread: 0, next: None };
        };
        let after = after.filter(|a| a.after.log == desk.log()).cloned();
        match desk.control(&Request::Select { pick: Box::new(pick.clone()), verb, after }).await {
            Response::Selected { ids, bytes, looked, unread, next: None } => {
                let first = |log| QueueId { message: MessageId(0), log };
                let next = desks.next().map(|d| Cursor { after: first(d.log()), few: None });
                Response::Selected { ids, bytes, looked, unread, next }
            }
            other => other,
        }
    }

    async fn copy(&self, request: &Request) -> Response {
        let mut copies = Vec::new();
        for desk in self.desks() {
            match desk.control(request).await {
                Response::Copied(more) => copies.extend(more),
                Response::Error(ControlError::Closed) if desk.is_spent() && !desk.is_dead() => {}
                other => return other,
            }
        }
        Response::Copied(copies)
    }

    async fn one(&self, id: QueueId, request: &Request) -> Response {
        match self.desks().into_iter().find(|desk| desk.log() == id.log) {
            Some(desk) => desk.control(request).await,
            None if self.0.state.borrow().waiting.contains(&id.log) => Response::Error(ControlError::Opening),
            None => Response::Error(ControlError::NotFound),
        }
    }

    async fn all(&self, request: &Request) -> Response {
        let mut changed = 0;
        for desk in self.desks() {
            match desk.control(request).await {
                Response::Done(n) => changed += n,
                // Nothing is left in it: it has been taken away meanwhile.
                Response::Error(ControlError::Closed) if desk.is_spent() && !desk.is_dead() => {}
                other => return other,
            }
        }
        Response::Done(changed)
    }

    /// Log after log: after the last page of one comes the first of the next.
    async fn list(&self, after: Option<QueueId>, limit: usize, in_doubt: bool) -> Response {
        let mut desks = self.desks().into_iter().skip_while(|d| after.is_some_and(|a| d.log() < a.log));
        let Some(desk) = desks.next() else {
            return Response::Page { messages: Vec::new(), next: None };
        };
        let after = after.filter(|a| a.log == desk.log());
        match desk.control(&Request::List { after, limit, in_doubt }).await {
            Response::Page { messages, next: None } => {
                let next = desks.next().map(|d| QueueId { message: MessageId(0), log: d.log() });
                Response::Page { messages, next }
            }
            other => other,
        }
    }
}
