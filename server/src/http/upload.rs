//! A request body that its handler takes as it comes: a backup to restore, an update.
//!
//! It comes at its client's pace, which has the same lower bound as any body's, and has no upper bound of size: the
//! handler keeps none of it. Whoever takes it must not hold the Operational phase meanwhile, and must ask once more
//! whether the caller may ([`Upload::confirm`]) before it acts on what came.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use casemate_api::limits::{UPLOAD_LOOK_MS, UPLOAD_SILENCE_MS};
use casemate_api::sentences;
use casemate_core::Hsm;
use casemate_core::error::Error;
use casemate_core::identity::caller::Caller;
use casemate_core::identity::right::Held;
use casemate_core::runtime::Clock;
use hyper::body::{Bytes, Incoming};

use super::body::{self, BodyError, Pace};

/// A body on its way in.
pub struct Upload {
    body: Option<Incoming>,
    received: usize,
    looked: Option<Duration>,
    pace: Option<Pace>,
    content_type: Option<Vec<u8>>,
    hsm: Arc<Hsm>,
    clock: Arc<dyn Clock>,
    left_over: LeftOver,
}

/// Where an [`Upload`] leaves what was not read of it, so that its client still gets to the answer.
#[derive(Clone, Default)]
pub(super) struct LeftOver(Arc<Mutex<Option<Incoming>>>);

impl LeftOver {
    /// What was left.
    pub(super) fn take(&self) -> Option<Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Upload {
    pub(super) fn new(
        body: Option<Incoming>,
        content_type: Option<Vec<u8>>,
        hsm: Arc<Hsm>,
        clock: Arc<dyn Clock>,
        left_over: LeftOver,
    ) -> Self {
        Self { body, received: 0, looked: None, pace: None, content_type, hsm, clock, left_over }
    }

    /// The next piece; `None` at the end. `Invalid` if the client broke off or sends too slowly.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(incoming) = &mut self.body else { return Ok(None) };
        loop {
            let frame = body::next(&mut *incoming, self.received, &mut self.pace, &*self.clock);
            // What was sent fast must not earn hours of silence: a client that has gone without a word keeps others out.
            let silence = Duration::from_millis(UPLOAD_SILENCE_MS);
            let frame = tokio::time::timeout(silence, frame).await.unwrap_or(Err(BodyError::Slow));
            let data = match frame {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.into_data(),
                Err(BodyError::Slow) => return Err(Error::invalid("The body came too slowly.")),
                Err(BodyError::TooLarge | BodyError::Busy | BodyError::Gone) => {
                    return Err(Error::invalid("The body broke off."));
                }
            };
            // What is no data is trailers, which mean nothing here.
            if let Ok(data) = data {
                self.received = self.received.saturating_add(data.len());
                return Ok(Some(data));
            }
        }
    }

    /// The Content-Type as sent.
    pub fn content_type(&self) -> Option<&[u8]> {
        self.content_type.as_deref()
    }

    /// Makes sure that the caller may still do this, for much may have changed while the body came, and that they may until
    /// what this gives is dropped. [`Error::NotBelieved`] or [`Error::Precondition`] if not.
    pub async fn confirm(&mut self, caller: Option<&Caller>) -> Result<Held, Error> {
        let caller = caller.ok_or(Error::NotBelieved)?;
        let op = self.hsm.operational().ok_or(Error::Precondition(sentences::WRONG_STATE.into()))?;
        op.hold(caller).await
    }

    /// Now and then, whether the caller may still do this: a body may come for days, and keep others out.
    pub async fn look_again(&mut self, caller: Option<&Caller>) -> Result<(), Error> {
        let now = self.clock.monotonic();
        let last = *self.looked.get_or_insert(now);
        if now.saturating_sub(last) >= Duration::from_millis(UPLOAD_LOOK_MS) {
            self.looked = Some(now);
            drop(self.confirm(caller).await?);
        }
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        *self.left_over.0.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}
