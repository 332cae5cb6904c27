//! The middle and the ends of what was measured.

use std::time::Duration;

/// What was measured several times, sorted.
pub(crate) struct Sorted<T>(Vec<T>);

impl Sorted<Duration> {
    pub(crate) fn of(mut values: Vec<Duration>) -> Self {
        values.sort_unstable();
        Self(values)
    }
}

impl Sorted<f64> {
    pub(crate) fn of_numbers(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

impl<T: Copy> Sorted<T> {
    /// The value that this share of all values does not exceed.
    pub(crate) fn at(&self, share: f64) -> T {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    pub(crate) fn least(&self) -> T {
        self.at(0.0)
    }

    pub(crate) fn median(&self) -> T {
        self.at(0.5)
    }

    pub(crate) fn most(&self) -> T {
        self.at(1.0)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Milliseconds with one digit behind the point.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
