//! The service manager's watchdog: it hears from us as long as all cores go round.
//!
//! Runs on the control thread. A core that stands still ends the messages; the manager then ends the process
//! and starts it anew, and the journal has all that was acknowledged.

use super::core::Health;
use crate::runtime::notify::Notify;
use crate::runtime::uring;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often the manager hears from us at least, and at most.
const SELDOM: Duration = Duration::from_secs(10);
const OFTEN: Duration = Duration::from_millis(50);

/// Tells the manager that we live, until the process ends.
pub(super) async fn run(notify: Rc<Notify>, health: Vec<Arc<Health>>) {
    let Some(within) = notify.watchdog() else { return };
    let mut tick = tokio::time::interval((within / 4).clamp(OFTEN, SELDOM));
    loop {
        tick.tick().await;
        // The rest of the time is for the next look.
        if health.iter().all(|h| is_alive(h.beat_age(uring::mono_now()), within / 2)) {
            notify.alive();
        }
    }
}

/// A core without a beat is being started, or has ended.
fn is_alive(age: Option<Duration>, within: Duration) -> bool {
    age.is_none_or(|age| age <= within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Mono;
    use crate::server::core::State;

    #[test]
    fn a_core_that_stands_still_is_seen() {
        let (health, second) = (Health::default(), Duration::from_secs(1));
        let start = Mono(1);
        assert_eq!(health.beat_age(start), None);
        health.beat(start);
        assert_eq!(health.beat_age(start.after(second)), Some(second));
        assert!(is_alive(health.beat_age(start.after(second)), second));
        assert!(!is_alive(health.beat_age(start.after(second * 2)), second));
        health.set(State::Ended);
        assert!(is_alive(health.beat_age(start.after(second * 2)), second));
    }
}
