//! A set-up in a file: `file` says what shall be, `have` what is, `plan` what has to be done, and `carry_out` does it.
//! `docs/apply.md` describes the file.

pub(crate) mod carry_out;
pub(crate) mod file;
pub(crate) mod have;
pub(crate) mod plan;
pub(crate) mod sessions;
pub(crate) mod show;
pub(crate) mod step;
pub(crate) mod want;

#[cfg(test)]
mod tests;
