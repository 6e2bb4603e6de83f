//! L5: files that are read anew while the server runs: maps, users, certificates, keys that sign, the token
//! of operators.
//!
//! Runs on the control thread, which asks every two seconds, on SIGHUP, and when an operator wishes it.
//! What is wrong changes nothing: the old ones stay in use, and an alarm says so. Whoever has asked is told
//! what has been said.

use super::accounts::tell_problems;
use super::control::Cores;
use super::core::Note;
use crate::admin::control::Queues;
use crate::admin::lockout::Lockout;
use crate::admin::office::Said;
use crate::admin::token::Gate;
use crate::config::certificates::Keeper;
use crate::config::reload::Reloader;
use crate::config::signing;
use crate::config::users::{self, Watch};
use crate::events::Events;
use crate::runtime::uring;
use std::cell::RefCell;
use std::rc::Rc;
use tokio::sync::oneshot;

/// Somebody who wants to know what came of it.
pub type Asker = oneshot::Sender<Vec<Said>>;

/// The files.
pub struct Files {
    /// Maps.
    pub reloader: Reloader,
    /// The password file, and the secret that its users are kept with.
    pub users: Option<(Watch, [u8; 32])>,
    /// Who may not log in.
    pub lockout: Rc<Lockout>,
    /// Certificates.
    pub keeper: Option<Keeper>,
    /// Keys that sign.
    pub signing: Option<signing::Watch>,
    /// The token that opens the HTTP interface over TCP.
    pub gate: Option<Rc<Gate>>,
}

/// Says what happens: to the events, and to who has asked.
#[derive(Clone)]
struct Voice {
    events: Events,
    said: Rc<RefCell<Vec<Said>>>,
}

impl Voice {
    fn keep(&self, level: &'static str, event: &'static str, text: &str) {
        self.said.borrow_mut().push(Said { level, event, text: text.to_owned() });
    }

    fn info(&self, event: &'static str, text: &str) {
        self.keep("info", event, text);
        self.events.info(event, text);
    }

    fn warn(&self, event: &'static str, text: &str) {
        self.keep("warning", event, text);
        self.events.warn(event, text);
    }

    fn alarm(&self, event: &'static str, text: &str) {
        self.keep("alarm", event, text);
        self.events.alarm(event, text);
    }
}

/// See the module.
pub(super) struct Reload {
    files: Files,
    cores: Rc<Cores>,
    events: Events,
}

impl Reload {
    pub(super) fn new(files: Files, cores: Rc<Cores>, events: Events) -> Reload {
        Reload { files, cores, events }
    }

    /// Reads what has changed.
    pub(super) fn look(&mut self, asker: Option<Asker>) {
        let voice = Voice { events: self.events.clone(), said: Rc::default() };
        self.look_at_maps(&voice);
        self.look_at_certificates(&voice);
        self.look_at_keys(&voice);
        self.look_at_token(&voice);
        self.look_at_users(voice, asker);
    }

    fn look_at_keys(&mut self, voice: &Voice) {
        match self.files.signing.as_mut().and_then(signing::Watch::poll) {
            None => {}
            Some(Ok(problems)) => {
                for problem in &problems.0 {
                    voice.warn("dkim", &problem.to_string());
                }
                voice.info("dkim", "new keys sign from now on");
            }
            Some(Err(problems)) => {
                voice.alarm("dkim", &format!("the keys are wrong, the old ones stay in use: {problems}"));
            }
        }
    }

    fn look_at_token(&self, voice: &Voice) {
        match self.files.gate.as_ref().and_then(|gate| gate.poll()) {
            None => {}
            Some(Ok(())) => voice.info("admin", "a new token is in use, the old one is not good any more"),
            Some(Err(text)) => {
                voice.alarm("admin", &format!("the token file is wrong, the old token stays in use: {text}"));
            }
        }
    }

    fn look_at_certificates(&mut self, voice: &Voice) {
        let Some(keeper) = &mut self.files.keeper else { return };
        match keeper.poll(uring::wall_now()) {
            None => {}
            Some(Ok(news)) => {
                for problem in &news.problems.0 {
                    voice.warn("certificate", &problem.to_string());
                }
                if news.replaced {
                    voice.info("certificate", "new certificates are in use");
                }
            }
            Some(Err(problems)) => {
                let text = format!("the certificates are wrong, the old ones stay in use: {problems}");
                voice.alarm("certificate", &text);
            }
        }
    }

    fn look_at_maps(&mut self, voice: &Voice) {
        match self.files.reloader.poll() {
            None => {}
            Some(Ok((router, problems))) => {
                for problem in &problems.0 {
                    voice.warn("configuration", &problem.to_string());
                }
                for core in 0..self.cores.count() {
                    if !self.cores.tell(core, Note::Router(router.clone())) {
                        voice.warn("reload", &format!("core {core} is too busy to take new maps"));
                    }
                }
                voice.info("reload", "new maps are in use");
            }
            Some(Err(problems)) => {
                voice.alarm("reload", &format!("the maps are wrong, the old ones stay in use: {problems}"));
            }
        }
    }

    /// Reads the password file anew if it has changed, on a thread of its own: it may be long. The asker is
    /// answered when that is done, too.
    fn look_at_users(&mut self, voice: Voice, asker: Option<Asker>) {
        let answer = move |voice: &Voice| {
            if let Some(asker) = asker {
                // Whoever has gone away need not know.
                let _ = asker.send(voice.said.take());
            }
        };
        let Some((watch, secret)) = &mut self.files.users else { return answer(&voice) };
        if !watch.changed() {
            return answer(&voice);
        }
        let (path, secret) = (watch.path().to_owned(), *secret);
        let (cores, lockout) = (self.cores.clone(), self.files.lockout.clone());
        tokio::task::spawn_local(async move {
            let loaded = tokio::task::spawn_blocking(move || users::load(&path, secret)).await;
            match loaded {
                Err(_) => voice.alarm("users", "reading the users has failed"),
                Ok(Ok((users, _))) if users.count() == 0 => {
                    voice.alarm("users", "the password file is empty now: the old users stay in use");
                }
                Ok(Ok((users, problems))) => {
                    tell_problems(&problems, &voice.events);
                    lockout.adopt(users.clone());
                    for core in 0..cores.all() {
                        if !cores.tell(core, Note::Users(users.clone())) {
                            voice.warn("reload", &format!("core {core} is too busy to take new users"));
                        }
                    }
                    voice.info("reload", &format!("{} users are in use", users.count()));
                }
                Ok(Err(problems)) => {
                    let text = format!("the password file is wrong, the old users stay in use: {problems}");
                    voice.alarm("users", &text);
                }
            }
            answer(&voice);
        });
    }
}
