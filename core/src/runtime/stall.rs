//! Work that would stall a thread which serves requests, and a witness that none of it runs there.
//!
//! Such work says where it begins. A product built without the feature `sim` takes no notice; in tests what begins on a serving
//! thread is written down, so that they can count it instead of measuring time.

/// Says that this thread serves requests from now on.
pub fn serving() {
    #[cfg(any(test, feature = "sim"))]
    witness::SERVING.set(true);
}

/// Says that `what`, which would stall a serving thread, begins here.
#[cfg_attr(not(any(test, feature = "sim")), expect(unused_variables, reason = "only the witness listens"))]
pub fn begins(what: &'static str) {
    #[cfg(any(test, feature = "sim"))]
    witness::note(what);
}

#[cfg(any(test, feature = "sim"))]
pub use witness::{Begun, begun, begun_here};

#[cfg(any(test, feature = "sim"))]
mod witness {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};

    thread_local! {
        pub(super) static SERVING: Cell<bool> = const { Cell::new(false) };
        static HERE: RefCell<BTreeMap<&'static str, usize>> = const { RefCell::new(BTreeMap::new()) };
    }

    static BEGUN: Mutex<BTreeMap<&'static str, Begun>> = Mutex::new(BTreeMap::new());

    /// How often something has begun in this process.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Begun {
        /// On threads that serve requests.
        pub serving: usize,
        /// On others.
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

    /// What has begun in this process.
    pub fn begun() -> BTreeMap<&'static str, Begun> {
        BEGUN.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often `what` has begun on this thread.
    pub fn begun_here(what: &str) -> usize {
        HERE.with_borrow(|here| here.get(what).copied().unwrap_or(0))
    }
}
