//! The way to all mailboxes from one thread: bounded rings to the access cores, or straight to a shard
//! that is the thread's own.
//!
//! Each pair of threads has two rings. Who asks never has more questions out than the rings hold, so that
//! an answer always fits: beyond that it waits for its turn, without spinning. A question whose asker has
//! gone is answered all the same, and the answer dropped. If the other thread ends, all that waits for it
//! is told so.

use crate::access::moving;
use crate::delivery::post::{Later, Outcomes, Parcel, Post, Resident, Unable};
use crate::delivery::shards::Shards;
use crate::mailbox::api::Refusal;
use crate::mailbox::spread;
use crate::mailbox::store::Store;
use crate::mailbox::types::{AccountId, DeliveryId};
use crate::pop3::serve::Home;
use crate::queue::bell::Crowd;
use crate::runtime::cross::{self, Receiver, RingReceiver, SendError, Sender};
use crate::runtime::uring::Uring;
use crate::runtime::{Clock, Runtime};
use crate::server::residents::Residents;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Questions that one thread has out at another at most.
const OUT_MAX: usize = 256;
/// How often a session that moves looks whether there is room for it.
const LOOK: Duration = Duration::from_millis(1);
/// How long RCPT waits for a shard.
const PATIENCE: Duration = Duration::from_secs(20);

/// A session on its way to the core that owns its mailbox.
pub enum Traveller {
    /// Of POP3.
    Pop3(Box<moving::Parcel<OwnedFd, crate::pop3::inbound::Luggage>>),
    /// Of IMAP.
    Imap(Box<moving::Parcel<OwnedFd, crate::imap::session::Luggage>>),
}

/// A question.
pub enum Ask {
    /// Does the account take so many bytes?
    Willing {
        /// Names the question.
        ticket: u64,
        /// The account's.
        shard: u16,
        /// The account.
        account: Box<str>,
        /// Bytes; 0: not known.
        size: u64,
    },
    /// Here is mail.
    Deliver {
        /// Names the question.
        ticket: u64,
        /// Of all addressees.
        shard: u16,
        /// The mail.
        parcel: Box<Parcel>,
    },
    /// No question: a session that moves there.
    Session(Traveller),
    /// No question: these will not come again.
    Settled {
        /// Of all.
        shard: u16,
        /// Hand-overs.
        ids: Vec<DeliveryId>,
    },
}

/// The answer to the question `ticket`.
pub struct Said {
    ticket: u64,
    answer: Answer,
}

enum Answer {
    Willing(Result<(), Refusal>),
    Delivered(Outcomes),
}

/// The end of who asks.
pub struct Near {
    asks: Sender<Ask>,
    said: Receiver<Said>,
}

/// The end of who answers.
pub struct Far {
    asks: Receiver<Ask>,
    said: Sender<Said>,
}

/// Both ends of a pair of rings.
///
/// # Errors
/// Descriptors are short.
pub fn pair() -> io::Result<(Near, Far)> {
    // Twice: what is only told has room of its own.
    let (ask, asks) = cross::channel(2 * OUT_MAX)?;
    let (say, said) = cross::channel(OUT_MAX)?;
    Ok((Near { asks: ask, said }, Far { asks, said: say }))
}

/// What is known of one access core.
struct Wire {
    asks: Sender<Ask>,
    /// Who waits for what.
    waiting: BTreeMap<u64, Slot>,
    last: u64,
    /// Questions that have no answer yet.
    out: usize,
    /// Who waits to ask.
    crowd: Crowd,
    closed: bool,
}

#[derive(Default)]
struct Slot {
    answer: Option<Answer>,
    waker: Option<Waker>,
}

struct Inner {
    rt: Uring,
    /// How many there are.
    shards: u16,
    residents: Rc<Residents>,
    own: Option<Shards<Uring>>,
    /// One for each access core; none to oneself.
    wires: Vec<Option<RefCell<Wire>>>,
}

/// See the module. A handle; clones are the same.
#[derive(Clone)]
pub struct Wires(Rc<Inner>);

impl Wires {
    /// The way from this thread. `lines`: one for each access core, none to oneself, whose shards `own` are.
    pub fn new(
        rt: &Uring,
        shards: u16,
        residents: Rc<Residents>,
        own: Option<Shards<Uring>>,
        lines: Vec<Option<Near>>,
    ) -> Self {
        let (mut wires, mut answers) = (Vec::new(), Vec::new());
        for near in lines {
            let (asks, said) = near.map(|n| (n.asks, n.said)).unzip();
            wires.push(asks.map(|asks| {
                let (waiting, crowd) = (BTreeMap::new(), Crowd::default());
                RefCell::new(Wire { asks, waiting, last: 0, out: 0, crowd, closed: false })
            }));
            answers.push(said);
        }
        let all = Wires(Rc::new(Inner { rt: rt.clone(), shards, residents, own, wires }));
        for (core, said) in answers.into_iter().enumerate() {
            if let Some(said) = said {
                rt.spawn_critical(all.clone().listen(core, said.on_ring()));
            }
        }
        all
    }

    /// Whose mailboxes there are.
    pub fn residents(&self) -> &Rc<Residents> {
        &self.0.residents
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.0.shards
    }

    fn wire(&self, core: usize) -> &RefCell<Wire> {
        self.0.wires[core].as_ref().expect("nobody asks itself")
    }

    async fn listen(self, core: usize, mut said: RingReceiver<Said>) {
        while let Some(Said { ticket, answer }) = said.recv().await {
            let mut wire = self.wire(core).borrow_mut();
            wire.out -= 1;
            wire.crowd.wake_all();
            // Who asked may have gone.
            if let Some(slot) = wire.waiting.get_mut(&ticket) {
                slot.answer = Some(answer);
                slot.waker.take().into_iter().for_each(Waker::wake);
            }
        }
        let mut wire = self.wire(core).borrow_mut();
        wire.closed = true;
        wire.crowd.wake_all();
        wire.waiting.values_mut().filter_map(|slot| slot.waker.take()).for_each(Waker::wake);
    }

    /// Asks a core, and waits for the answer; `None`: it has ended.
    async fn ask(&self, core: usize, make: impl FnOnce(u64) -> Ask) -> Option<Answer> {
        let wire = self.wire(core);
        poll_fn(|cx| {
            let mut wire = wire.borrow_mut();
            if wire.closed || wire.out < OUT_MAX {
                return Poll::Ready(());
            }
            wire.crowd.join(cx);
            Poll::Pending
        })
        .await;
        let ticket = {
            let mut wire = wire.borrow_mut();
            wire.last += 1;
            let ticket = wire.last;
            match wire.asks.try_send(make(ticket)) {
                Ok(()) => {}
                Err(SendError::Full(_)) => unreachable!("no more are out than fit"),
                Err(SendError::Closed(_)) => wire.closed = true,
            }
            if wire.closed {
                return None;
            }
            wire.out += 1;
            wire.waiting.insert(ticket, Slot::default());
            ticket
        };
        let question = Question { wire, ticket };
        poll_fn(|cx| question.poll(cx)).await
    }

    /// The shard of an account: the store, if it is this thread's; else the access core that owns it.
    ///
    /// # Errors
    /// The shard is this thread's, and cannot be read.
    pub fn home(&self, account: &str) -> Result<Home<Store<Uring>>, Refusal> {
        let shard = self.shard(account);
        match self.own(shard) {
            Ok(own) => Ok(Home::Here(own.store(shard)?.clone())),
            Err(core) => Ok(Home::There(core as u16)),
        }
    }

    /// The account of this name in its shard, which is this thread's; made if it is not there yet.
    pub async fn account(&self, account: &str) -> Result<AccountId, Refusal> {
        let shard = self.shard(account);
        let own = self.own(shard).map_err(|_| Refusal::NoAccount)?;
        own.account(shard, account).await
    }

    /// Hands a session to an access core, as soon as there is room for it; gives it back if that has ended.
    pub async fn hand_over(&self, core: u16, mut traveller: Traveller) -> Result<(), Traveller> {
        loop {
            {
                let mut wire = self.wire(core.into()).borrow_mut();
                if wire.closed {
                    return Err(traveller);
                }
                // Questions come first: their room is never taken.
                if wire.asks.room() > OUT_MAX {
                    match wire.asks.try_send(Ask::Session(traveller)) {
                        Ok(()) => return Ok(()),
                        Err(SendError::Closed(Ask::Session(back))) => return Err(back),
                        Err(SendError::Full(Ask::Session(back))) => traveller = back,
                        Err(_) => unreachable!("what comes back is what was sent"),
                    }
                }
            }
            self.0.rt.sleep_until(self.0.rt.now().after(LOOK)).await;
        }
    }

    fn own(&self, shard: u16) -> Result<&Shards<Uring>, usize> {
        let core = spread::owner(shard, self.0.wires.len());
        match (&self.0.own, &self.0.wires[core]) {
            (Some(own), None) => Ok(own),
            _ => Err(core),
        }
    }

    async fn ask_willing(&self, account: &str, size: u64) -> Result<(), Refusal> {
        let shard = self.shard(account);
        let core = match self.own(shard) {
            Ok(own) => return own.willing(shard, account, size).await,
            Err(core) => core,
        };
        let make = |ticket| Ask::Willing { ticket, shard, account: account.into(), size };
        match self.ask(core, make).await {
            Some(Answer::Willing(answer)) => answer,
            Some(Answer::Delivered(_)) | None => Err(Refusal::Closed),
        }
    }
}

/// A question that has been asked; forgotten when it is dropped.
struct Question<'a> {
    wire: &'a RefCell<Wire>,
    ticket: u64,
}

impl Question<'_> {
    fn poll(&self, cx: &Context<'_>) -> Poll<Option<Answer>> {
        let mut wire = self.wire.borrow_mut();
        let closed = wire.closed;
        let slot = wire.waiting.get_mut(&self.ticket).expect("there until it is dropped");
        match slot.answer.take() {
            Some(answer) => Poll::Ready(Some(answer)),
            None if closed => Poll::Ready(None),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.wire.borrow_mut().waiting.remove(&self.ticket);
    }
}

impl Post for Wires {
    fn resident(&self, address: &[u8]) -> Option<Resident> {
        self.0.residents.find(address)
    }

    fn shard(&self, account: &str) -> u16 {
        spread::shard_of(account, self.0.shards)
    }

    fn willing<'a>(&'a self, account: &'a str, size: u64) -> Later<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let rt = &self.0.rt;
            let mut sleep = pin!(rt.sleep_until(rt.now().after(PATIENCE)));
            let mut ask = pin!(self.ask_willing(account, size));
            poll_fn(|cx| match ask.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(answer),
                Poll::Pending => sleep.as_mut().poll(cx).map(|()| Err(Refusal::Busy)),
            })
            .await
        })
    }

    fn deliver(&self, parcel: Parcel) -> Later<'_, Outcomes> {
        Box::pin(async move {
            let count = parcel.to.len();
            let Some(first) = parcel.to.first() else { return Vec::new() };
            let shard = self.shard(&first.resident.account);
            let core = match self.own(shard) {
                Ok(own) => return own.take(shard, parcel).await,
                Err(core) => core,
            };
            let make = |ticket| Ask::Deliver { ticket, shard, parcel: Box::new(parcel) };
            match self.ask(core, make).await {
                Some(Answer::Delivered(outcomes)) => outcomes,
                Some(Answer::Willing(_)) | None => nobody(count),
            }
        })
    }

    fn settled(&self, shard: u16, ids: Vec<DeliveryId>) {
        match self.own(shard) {
            Ok(own) => own.settled(shard, &ids),
            Err(core) => {
                let mut wire = self.wire(core).borrow_mut();
                // Only a hint: questions come first.
                if wire.asks.room() > OUT_MAX {
                    let _ = wire.asks.try_send(Ask::Settled { shard, ids });
                }
            }
        }
    }
}

fn nobody(count: usize) -> Outcomes {
    (0..count).map(|_| Err(Unable::Refused(Refusal::Closed))).collect()
}

/// Answers one thread's questions until it has gone; `adopt` gets the sessions that come.
pub async fn serve(rt: Uring, shards: Shards<Uring>, far: Far, adopt: impl Fn(Traveller)) {
    let said = Rc::new(RefCell::new(far.said));
    let mut asks = far.asks.on_ring();
    while let Some(ask) = asks.recv().await {
        let (shards, said) = (shards.clone(), said.clone());
        match ask {
            Ask::Settled { shard, ids } => shards.settled(shard, &ids),
            Ask::Session(traveller) => adopt(traveller),
            Ask::Willing { ticket, shard, account, size } => rt.spawn(async move {
                let reply = Reply { said, ticket, otherwise: Cell::new(Some(Otherwise::Willing)) };
                reply.say(Answer::Willing(shards.willing(shard, &account, size).await));
            }),
            Ask::Deliver { ticket, shard, parcel } => rt.spawn(async move {
                let otherwise = Cell::new(Some(Otherwise::Delivered(parcel.to.len())));
                let reply = Reply { said, ticket, otherwise };
                reply.say(Answer::Delivered(shards.take(shard, *parcel).await));
            }),
        }
    }
}

/// What is answered if nothing else is.
enum Otherwise {
    Willing,
    Delivered(usize),
}

/// An answer that is owed: also if something panics on the way to it.
struct Reply {
    said: Rc<RefCell<Sender<Said>>>,
    ticket: u64,
    otherwise: Cell<Option<Otherwise>>,
}

impl Reply {
    fn say(&self, answer: Answer) {
        self.otherwise.set(None);
        // It always fits; who asked may have ended.
        let _ = self.said.borrow_mut().try_send(Said { ticket: self.ticket, answer });
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        match self.otherwise.take() {
            None => {}
            Some(Otherwise::Willing) => self.say(Answer::Willing(Err(Refusal::Closed))),
            Some(Otherwise::Delivered(count)) => self.say(Answer::Delivered(nobody(count))),
        }
    }
}
