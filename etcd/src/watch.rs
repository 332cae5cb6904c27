//! A watch: what changes, and up to which revision that is known.

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::address::Address;
use crate::connection::{Expected, Method, Node, interrupted};
use crate::error::Error;
use crate::proto::watch_request::RequestUnion;
use crate::proto::{Event, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// Rows were written or removed, in the order of their revisions. Rows that one transaction changed have one revision.
    Changes {
        /// The changes; previous values are not in them.
        events: Vec<Event>,
        /// Everything up to this revision has been told. `None`: more of the same comes in the next notice.
        until: Option<i64>,
    },
    /// Nothing more has changed up to this revision: everything up to it has been told.
    Progress(i64),
}

/// A running watch. It ends when it is dropped.
pub struct Watch {
    requests: mpsc::Sender<WatchRequest>,
    replies: Streaming<WatchResponse>,
    endpoint: Address,
}

impl Watch {
    pub(crate) async fn create(
        node: &Node,
        expected: &Expected,
        method: Method,
        create: WatchCreateRequest,
        until: (Instant, Instant),
    ) -> Result<Self, Error> {
        let (requests, queue) = mpsc::channel(REQUESTS_WAITING_MAX);
        let first = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.try_send(first).map_err(|_| closed())?;
        let replies = node.stream(expected, method, ReceiverStream::new(queue), until).await?;
        let mut watch = Self { requests, replies, endpoint: node.address.clone() };
        let reply = timeout_at(until.1, watch.reply()).await;
        let reply = reply.unwrap_or_else(|_| Err(Error::Unknown("the watch was not confirmed in time".into())))?;
        if reply.created { Ok(watch) } else { Err(Error::Other("the watch was not confirmed".into())) }
    }

    /// The next notice. After an error the watch is over: `Compacted`, `NoLeader`, `Refused`, or `Unknown` for a connection
    /// that has failed. It waits for ever if nothing changes and nobody asks for progress.
    pub async fn next(&mut self) -> Result<Notice, Error> {
        loop {
            let reply = self.reply().await?;
            let revision = reply.header.map(|header| header.revision);
            if !reply.events.is_empty() {
                // The revision in the header is that of the member, which may be ahead of what it has told, so it counts
                // only in notices of progress.
                let last = reply.events.iter().rev().find_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
                return Ok(Notice::Changes { events: reply.events, until: last.filter(|_| !reply.fragment) });
            }
            if let Some(revision) = revision.filter(|_| !reply.created) {
                return Ok(Notice::Progress(revision));
            }
        }
    }

    /// Asks for a [`Notice::Progress`]. It comes once the member has told everything before; if the watch still catches up,
    /// it may not come, so ask again.
    pub fn request_progress(&self) -> Result<(), Error> {
        let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
        match self.requests.try_send(WatchRequest { request_union: Some(request) }) {
            // So many have not even been sent yet: one more would not be answered earlier.
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(closed()),
        }
    }

    /// The endpoint that it runs on.
    pub fn endpoint(&self) -> &Address {
        &self.endpoint
    }

    async fn reply(&mut self) -> Result<WatchResponse, Error> {
        let reply = self.replies.message().await.map_err(|status| interrupted(&status))?.ok_or_else(closed)?;
        if reply.compact_revision > 0 {
            return Err(Error::Compacted);
        }
        if reply.canceled {
            let reason = reply.cancel_reason;
            return Err(Error::spoken(&reason).unwrap_or(Error::Unknown(format!("the watch was cancelled: {reason}"))));
        }
        Ok(reply)
    }
}

/// Requests of one watch that may wait to be sent.
const REQUESTS_WAITING_MAX: usize = 4;

fn closed() -> Error {
    Error::Unknown("the watch has ended".into())
}
