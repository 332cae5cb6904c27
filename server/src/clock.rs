//! The clocks of this machine.

use std::time::{Duration, Instant, SystemTime};

use casemate_core::runtime::{BoxFuture, Clock};

/// Wall clock, monotonic clock and timers of the operating system, the latter through tokio.
pub struct SystemClock {
    start: Instant,
}

#[expect(clippy::disallowed_methods, reason = "here time enters the program")]
impl SystemClock {
    /// A clock whose monotonic time is zero now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
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
        self.start.elapsed()
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
