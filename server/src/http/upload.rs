//! A request body that its handler reads as it arrives: a backup to restore, a software update.
//!
//! It must arrive at the same minimum pace as any body, and has no size limit: the handler keeps none of it in memory.
//! A handler must not hold the Operational phase while it reads, and must check again whether the caller has the right
//! ([`Upload::confirm`]) before it acts on the contents.

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

/// A body that is being received.
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

/// Where an [`Upload`] leaves its unread rest, so that the client still gets the answer.
#[derive(Clone, Default)]
pub(super) struct LeftOver(Arc<Mutex<Option<Incoming>>>);

impl LeftOver {
    /// Takes the unread rest.
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

    /// The next piece; `None` at the end. `Invalid` if the client disconnects or sends too slowly.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(incoming) = &mut self.body else { return Ok(None) };
        loop {
            let frame = body::next(&mut *incoming, self.received, &mut self.pace, &*self.clock);
            // Bytes sent fast must not earn hours of silence: a client that has silently disappeared would block other
            // uploads.
            let silence = Duration::from_millis(UPLOAD_SILENCE_MS);
            let frame = tokio::time::timeout(silence, frame).await.unwrap_or(Err(BodyError::Slow));
            let data = match frame {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.into_data(),
                Err(BodyError::Slow) => return Err(Error::invalid("The body came too slowly.")),
                Err(BodyError::TooLarge | BodyError::Busy | BodyError::Gone) => {
                    return Err(Error::invalid("The body was cut off."));
                }
            };
            // Frames without data are trailers, which are ignored.
            if let Ok(data) = data {
                self.received = self.received.saturating_add(data.len());
                return Ok(Some(data));
            }
        }
    }

    /// The Content-Type header.
    pub fn content_type(&self) -> Option<&[u8]> {
        self.content_type.as_deref()
    }

    /// Checks that the caller still has the right, as much may have changed during the upload, and keeps it so until
    /// the result is dropped. Otherwise [`Error::Unauthenticated`] or [`Error::Precondition`].
    pub async fn confirm(&mut self, caller: Option<&Caller>) -> Result<Held, Error> {
        let caller = caller.ok_or(Error::Unauthenticated)?;
        let op = self.hsm.operational().ok_or(Error::Precondition(sentences::WRONG_STATE.into()))?;
        op.hold(caller).await
    }

    /// Checks from time to time whether the caller still has the right: an upload may take days, and blocks others.
    pub async fn recheck(&mut self, caller: Option<&Caller>) -> Result<(), Error> {
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
