//! L4: what a session tells an operator who watches its peer.
//!
//! Commands are handed over as the machine takes them, replies as they are about to be sent. Bodies are left
//! out. Asked for only while somebody watches.

use super::session::Talk;
use crate::events::trace::Way;
use crate::runtime::Runtime;
use crate::smtp::inbound::Step;

impl<R: Runtime> Talk<'_, R> {
    /// The machine has taken what lies between `shown` and `at`, and says `step`. `in_message`: it was within
    /// a message before.
    pub(super) fn trace_input(&self, in_message: bool, step: &Step) {
        if in_message {
            return;
        }
        let taken = &self.buf[self.shown..self.at];
        let commands = match step {
            Step::Body(run) => &taken[..run.start.min(taken.len())],
            _ => taken,
        };
        self.tell_watcher(true, commands);
    }

    /// These replies are about to be sent.
    pub(super) fn trace_replies(&self) {
        self.tell_watcher(false, &self.out);
    }

    fn tell_watcher(&self, client: bool, said: &[u8]) {
        let tracer = self.ctx.tracer();
        tracer.told(Way::In, (Some(self.peer.ip()), ""), client, said, self.ctx.rt.wall());
    }
}
