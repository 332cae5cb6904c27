//! The clocks of this machine.

use std::time::{Duration, SystemTime};

use casemate_core::runtime::{BoxFuture, Clock};
use rustix::time::{ClockId, clock_gettime};

/// Wall clock, monotonic clock and timers of the operating system, the latter through tokio. The monotonic clock also runs
/// while the machine is suspended (`CLOCK_BOOTTIME`), so that nothing from before is taken for recent afterwards.
pub struct SystemClock {
    start: Duration,
}

fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    // Neither is ever negative.
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl SystemClock {
    /// A clock whose monotonic time is zero now.
    pub fn new() -> Self {
        Self { start: since_boot() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(clippy::disallowed_methods, reason = "here time enters the program")]
impl Clock for SystemClock {
    fn wall(&self) -> Duration {
        // A time before 1970 means that the clock was never set.
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    fn monotonic(&self) -> Duration {
        since_boot().saturating_sub(self.start)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        // Created inside the future because a tokio timer needs the runtime that polls it.
        Box::pin(async move { tokio::time::sleep(duration).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn time_passes_while_sleeping() {
        let clock = SystemClock::new();
        let before = clock.monotonic();
        clock.sleep(Duration::from_millis(5)).await;
        assert!(clock.monotonic() - before >= Duration::from_millis(5));
        // 2026-01-01, when this was written.
        assert!(clock.wall() > Duration::from_secs(1_767_225_600));
    }
}
