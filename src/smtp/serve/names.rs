//! L4: names of clients, found out by their addresses (PTR) and believed only if they lead back there:
//! bounded in number and time, and only where an access map has a name that could be meant.
//!
//! Trouble with name servers is told apart from "it has no name". Knows no session and no map; what is known
//! is kept by the name servers' client, for as long as DNS says.

use crate::metrics;
use crate::route::dns::{self, Lookup, within};
use crate::runtime::Runtime;
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// How long it may take.
const TIME: Duration = Duration::from_secs(10);
/// Clients asked about at a time; others count as not known.
const AT_A_TIME: usize = 512;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Named {
    /// Its names; there may be none.
    So(Rc<[Box<str>]>),
    /// Nobody could say, or not in time.
    NotKnown,
}

/// Who is asked, by one core.
pub struct Names<R: Runtime> {
    rt: R,
    lookup: Rc<dyn Lookup>,
    metrics: metrics::Core,
    under_way: Cell<usize>,
}

impl<R: Runtime> Names<R> {
    /// Asks `lookup`.
    #[must_use]
    pub fn new(rt: R, lookup: Rc<dyn Lookup>, metrics: metrics::Core) -> Self {
        Names { rt, lookup, metrics, under_way: Cell::new(0) }
    }

    /// The names of `address`.
    pub async fn of(&self, address: IpAddr) -> Named {
        let m = &self.metrics;
        if self.under_way.get() >= AT_A_TIME {
            m.client_names_failed.increment(1);
            return Named::NotKnown;
        }
        self.under_way.set(self.under_way.get() + 1);
        let _end = End(&self.under_way);
        let until = self.rt.now().after(TIME);
        match within(&self.rt, until, dns::confirmed(&*self.lookup, address)).await {
            Some(Ok((names, _))) => {
                let counter = if names.is_empty() { &m.client_names_none } else { &m.client_names_found };
                counter.increment(1);
                Named::So(names.into())
            }
            Some(Err(_)) | None => {
                m.client_names_failed.increment(1);
                Named::NotKnown
            }
        }
    }
}

/// The end of a look-up, however it ends.
struct End<'a>(&'a Cell<usize>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
