//! A set-up in a file: `file` reads the desired state, `actual` the state of the HSM, `plan` compares them, and
//! `execute` carries the plan out. `docs/apply.md` describes the file.

pub(crate) mod actual;
pub(crate) mod desired;
pub(crate) mod execute;
pub(crate) mod file;
pub(crate) mod plan;
pub(crate) mod sessions;
pub(crate) mod show;
pub(crate) mod step;

#[cfg(test)]
mod tests;
