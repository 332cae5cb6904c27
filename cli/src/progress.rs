//! How far something is, on standard error and for people only: nothing with `--json`, and bars only on a terminal.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::profile::Context;
use crate::render::clean;

/// A bar of bytes. Dropped, it goes.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Of an upload or download; a length that is not known shows bytes and speed only.
    pub(crate) fn new(context: &Context, length: Option<u64>) -> Self {
        // It hides itself where standard error is no terminal.
        let target = if context.out.json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(length, target);
        let template = match length {
            Some(_) => "[{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            None => "{bytes}, {bytes_per_sec}",
        };
        // Without its style a bar is less pretty, but no worse.
        Self(ProgressStyle::with_template(template).map(|style| bar.clone().with_style(style)).unwrap_or(bar))
    }

    /// So many bytes are through.
    pub(crate) fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// One line about what goes on.
pub(crate) fn say(context: &Context, text: &str) {
    if !context.out.json {
        // Without standard error there is nobody to tell.
        let _ = writeln!(io::stderr().lock(), "{}", clean(text));
    }
}
