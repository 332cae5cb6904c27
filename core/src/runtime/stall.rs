//! Counts, in tests, long work that runs on a thread which serves requests.
//!
//! Long work reports where it begins. Without the feature `sim` that does nothing. In tests it is counted per kind of thread, so
//! that they need not measure time.

/// Marks this thread as one that serves requests.
pub fn serving() {
    #[cfg(any(test, feature = "sim"))]
    counting::SERVING.set(true);
}

/// Reports that the long work `what` begins on this thread.
#[cfg_attr(not(any(test, feature = "sim")), expect(unused_variables, reason = "only tests count"))]
pub fn begins(what: &'static str) {
    #[cfg(any(test, feature = "sim"))]
    counting::note(what);
}

#[cfg(any(test, feature = "sim"))]
pub use counting::{Begun, begun, begun_here};

#[cfg(any(test, feature = "sim"))]
mod counting {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};

    thread_local! {
        pub(super) static SERVING: Cell<bool> = const { Cell::new(false) };
        static HERE: RefCell<BTreeMap<&'static str, usize>> = const { RefCell::new(BTreeMap::new()) };
    }

    static BEGUN: Mutex<BTreeMap<&'static str, Begun>> = Mutex::new(BTreeMap::new());

    /// How often one kind of work has begun in this process.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Begun {
        /// On threads that serve requests.
        pub serving: usize,
        /// On other threads.
        pub elsewhere: usize,
    }

    pub(super) fn note(what: &'static str) {
        HERE.with_borrow_mut(|here| *here.entry(what).or_default() += 1);
        let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = begun.entry(what).or_default();
        match SERVING.get() {
            true => begun.serving += 1,
            false => begun.elsewhere += 1,
        }
    }

    /// All work that has begun in this process, by name.
    pub fn begun() -> BTreeMap<&'static str, Begun> {
        BEGUN.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often `what` has begun on this thread.
    pub fn begun_here(what: &str) -> usize {
        HERE.with_borrow(|here| here.get(what).copied().unwrap_or(0))
    }
}
