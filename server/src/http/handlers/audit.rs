//! `/audit*`.

use std::sync::Arc;

use casemate_core::identity::caller::Caller;
use casemate_core::{Error, Hsm};

use crate::http::endpoint::OperationalGuard;
use crate::http::find::Records;
use crate::http::reply::Reply;
use crate::http::serve::ReplyBody;

/// `GET /audit`: a single page is answered at once; more are streamed, and the reply is cut off if the HSM is locked.
pub async fn export(op: OperationalGuard, _: Caller, wanted: Records, (): ()) -> Result<Reply, Error> {
    let audit = wanted.hsm.audit.clone();
    let mut export = audit.export(wanted.from, wanted.to).await?;
    let first = audit.page(&mut export).await?.unwrap_or_default();
    if export.is_done() {
        return Ok(Reply::ok(first));
    }
    let weak = op.weak();
    drop(op);
    let (writer, body) = ReplyBody::stream();
    tokio::spawn(async move {
        let mut lines = Some(first);
        // A writer dropped before its end breaks the connection, so that a partial log is not taken for a complete one.
        while let Some(page) = lines {
            if writer.write(page).await.is_err() {
                return;
            }
            let Some(_op) = weak.upgrade() else { return };
            match audit.page(&mut export).await {
                Ok(next) => lines = next,
                Err(error) => {
                    tracing::warn!(target: "http", %error, "an export of the audit log was aborted");
                    return;
                }
            }
        }
        // If the client has disconnected, an error cannot be reported.
        let _ = writer.finish().await;
    });
    Ok(Reply::stream(body))
}

/// `GET /audit/key.pem`
pub async fn key(_: OperationalGuard, _: Caller, hsm: Arc<Hsm>, (): ()) -> Result<Reply, Error> {
    Ok(Reply::ok(hsm.audit.public_key_pem()?))
}
