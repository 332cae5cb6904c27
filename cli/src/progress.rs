//! Progress on standard error, for people: nothing with `--json`, and bars only on a terminal.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::profile::Context;
use crate::render::clean;

/// A progress bar of bytes. It disappears when it is dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar of an upload or download; without `length` it shows bytes and speed only.
    pub(crate) fn new(context: &Context, length: Option<u64>) -> Self {
        // It is hidden if standard error is not a terminal.
        let target = if context.out.json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(length, target);
        let template = match length {
            Some(_) => "[{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            None => "{bytes}, {bytes_per_sec}",
        };
        // The template is valid; with an invalid one the bar would have its default style.
        Self(ProgressStyle::with_template(template).map(|style| bar.clone().with_style(style)).unwrap_or(bar))
    }

    /// Sets the number of bytes transferred.
    pub(crate) fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Prints one line about what is going on.
pub(crate) fn notice(context: &Context, text: &str) {
    if !context.out.json {
        // Without standard error nobody reads it.
        let _ = writeln!(io::stderr().lock(), "{}", clean(text));
    }
}
