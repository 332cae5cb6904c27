//! The state of the module in this process: whether it is initialised, with which slots, and in which process.
//!
//! A child after `fork` has a copy of the memory, which other threads of the parent may have been changing at that
//! moment. So nothing of it is used or dropped: in a child the module counts as not initialised until it is
//! initialised again, and what was copied is left as it is.

use std::mem;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwapOption, Guard};
use cryptoki_sys::*;

use crate::config;
use crate::log;
use crate::rv::Rv;
use crate::sessions::Sessions;
use crate::slots::Slot;

/// An initialised module. Calls that are under way keep it alive when it is finalised.
pub struct Module {
    /// The slots, by their numbers.
    pub slots: Vec<Arc<Slot>>,
    /// The sessions that are open.
    pub sessions: Sessions,
    process: u32,
    forks: u64,
    finalized: Mutex<bool>,
    changed: Condvar,
}

static MODULE: ArcSwapOption<Module> = ArcSwapOption::const_empty();

/// How many forks are between this process and the one that has loaded the module. The number of a process alone does not
/// tell: in a new PID namespace a child may have that of its parent.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Notes that this process is a child. It runs right after `fork`, so it does nothing but that.
pub fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// `C_Initialize`, its arguments aside.
pub fn initialize() -> Result<(), Rv> {
    let before = MODULE.load_full();
    if before.as_ref().is_some_and(|module| module.is_of_this_process()) {
        return Err(Rv(CKR_CRYPTOKI_ALREADY_INITIALIZED));
    }
    let module = Arc::new(Module::new()?);
    let found = Guard::into_inner(MODULE.compare_and_swap(&before, Some(module)));
    let replaced = same(found.as_ref(), before.as_ref());
    leave(found);
    leave(before);
    if replaced { Ok(()) } else { Err(Rv(CKR_CRYPTOKI_ALREADY_INITIALIZED)) }
}

/// `C_Finalize`. Calls that are under way end as if it had come after them; waiting ones return.
pub fn finalize() -> Result<(), Rv> {
    let module = current()?;
    let found = Guard::into_inner(MODULE.compare_and_swap(&module, None));
    if !same(found.as_ref(), Some(&module)) {
        return Err(Rv(CKR_CRYPTOKI_NOT_INITIALIZED));
    }
    *locked(&module.finalized) = true;
    module.changed.notify_all();
    module.sessions.close_everything(&module.slots);
    Ok(())
}

/// The module, if it is initialised in this process.
pub fn current() -> Result<Arc<Module>, Rv> {
    match MODULE.load_full() {
        Some(module) if module.is_of_this_process() => Ok(module),
        module => {
            leave(module);
            Err(Rv(CKR_CRYPTOKI_NOT_INITIALIZED))
        }
    }
}

/// Locks `mutex`. A panic of another thread while it held the lock does not spread: what it guards is replaced as a whole
/// or not at all.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Module {
    fn new() -> Result<Self, Rv> {
        let configuration = config::load().map_err(|why| {
            log::line(&why.to_string());
            Rv(CKR_FUNCTION_FAILED)
        })?;
        config::warnings(&configuration).iter().for_each(|warning| log::line(warning));
        let slots = (0..).zip(configuration.slots).map(|(id, slot)| Arc::new(Slot::new(id, slot)));
        Ok(Self {
            slots: slots.collect(),
            sessions: Sessions::default(),
            process: process::id(),
            forks: FORKS.load(Ordering::Relaxed),
            finalized: Mutex::new(false),
            changed: Condvar::new(),
        })
    }

    fn is_of_this_process(&self) -> bool {
        self.forks == FORKS.load(Ordering::Relaxed) && self.process == process::id()
    }

    /// The slot with this number.
    pub fn slot(&self, id: CK_SLOT_ID) -> Result<&Arc<Slot>, Rv> {
        let index = usize::try_from(id).map_err(|_| Rv(CKR_SLOT_ID_INVALID))?;
        self.slots.get(index).ok_or(Rv(CKR_SLOT_ID_INVALID))
    }

    /// `C_WaitForSlotEvent`: tokens neither come nor go, so the wait ends with the module.
    pub fn wait_for_slot_event(&self, block: bool) -> Rv {
        if !block {
            return Rv(CKR_NO_EVENT);
        }
        let mut finalized = locked(&self.finalized);
        while !*finalized {
            finalized = self.changed.wait(finalized).unwrap_or_else(PoisonError::into_inner);
        }
        Rv(CKR_CRYPTOKI_NOT_INITIALIZED)
    }
}

fn same(a: Option<&Arc<Module>>, b: Option<&Arc<Module>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

/// Lets go of a module; one of another process is left as it is.
fn leave(module: Option<Arc<Module>>) {
    if let Some(module) = module
        && !module.is_of_this_process()
    {
        mem::forget(module);
    }
}
