//! `/system/backup` and `/system/restore`.

use std::sync::Arc;
use std::time::Duration;

use casemate_api::body::system::RestoreRequest;
use casemate_api::limits::{BACKUP_STALL_MS, REPLY_PACE_BYTES_PER_S, RESTORE_ARGUMENTS_MAX_BYTES};
use casemate_api::sentences;
use casemate_core::hsm::restore::{Restore, RestoreArguments, Restored};
use casemate_core::identity::caller::Caller;
use casemate_core::{Error, Hsm};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::http::endpoint::OperationalGuard;
use crate::http::json;
use crate::http::multipart::{Part, Parts};
use crate::http::reply::Reply;
use crate::http::serve::ReplyBody;
use crate::http::upload::Upload;

/// `POST /system/backup`: streamed piece by piece, holding the phase only while a piece is made, so that a slow client
/// cannot keep the HSM from locking.
pub async fn backup(op: OperationalGuard, caller: Caller, (): (), (): ()) -> Result<Reply, Error> {
    let mut backup = op.backups().begin().await?;
    let weak = op.weak();
    drop(op);
    let (writer, body) = ReplyBody::stream();
    tokio::spawn(async move {
        // A writer dropped before its end breaks the connection, so that a partial backup is not taken for a complete
        // one.
        loop {
            let Some(op) = weak.upgrade() else {
                tracing::warn!(target: "hsm.backup", "a backup was aborted: the HSM is no longer Operational");
                return;
            };
            // A backup may take an hour; a user deleted in that time must not get the rest.
            if let Err(error) = op.hold(&caller).await.map(drop) {
                tracing::warn!(target: "hsm.backup", %error, "a backup was aborted");
                return;
            }
            let piece = match backup.next_piece(op.backups()).await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(target: "hsm.backup", %error, "a backup was aborted");
                    return;
                }
            };
            drop(op);
            let at_least_pace =
                Duration::from_millis((piece.len() as u64).saturating_mul(1_000) / REPLY_PACE_BYTES_PER_S);
            let stall = Duration::from_millis(BACKUP_STALL_MS) + at_least_pace;
            if !matches!(tokio::time::timeout(stall, writer.write(piece)).await, Ok(Ok(()))) {
                tracing::warn!(target: "hsm.backup", "a backup was aborted: its client has disconnected or reads too slowly");
                return;
            }
        }
        // Its snapshot of the store ends here, however long the client takes for the last pieces.
        drop(backup);
        // If the client has disconnected, an error cannot be reported.
        let _ = tokio::time::timeout(Duration::from_millis(BACKUP_STALL_MS), writer.finish()).await;
    });
    Ok(Reply::stream(body))
}

/// `POST /system/restore`: two parts, arguments and file, identified by name, otherwise by order.
pub async fn restore(hsm: Arc<Hsm>, caller: Option<Caller>, (): (), upload: Upload) -> Result<Reply, Error> {
    let mut restore = hsm.begin_restore(caller)?;
    let content_type = upload.content_type().map(<[u8]>::to_vec);
    let upload = Arc::new(Mutex::new(upload));
    let pull = move || -> casemate_core::runtime::BoxFuture<'static, _> {
        let upload = upload.clone();
        Box::pin(async move { upload.lock().await.next().await })
    };
    let mut parts = Parts::new(content_type.as_deref(), Box::new(pull))?;
    let first = parts.next().await?.ok_or_else(|| Error::invalid("Body cannot be empty."))?;
    if first.name() == Some("backup_file") {
        return Err(Error::invalid_field("arguments", "The part 'arguments' must come before the part 'backup_file'."));
    }
    let arguments: RestoreRequest = json::parse(&arguments(first).await?)?;
    restore.arguments(RestoreArguments::new(arguments.backup_passphrase, arguments.system_time.as_deref())?);
    let file =
        parts.next().await?.ok_or_else(|| Error::invalid_field("backup_file", "Backup data cannot be empty."))?;
    let received = async {
        Box::pin(receive(&mut restore, file, &mut parts)).await?;
        Box::pin(restore.finish()).await
    };
    let result = received.await;
    if let Err(error) = &result {
        tracing::warn!(target: "hsm.backup", %error, "a restore failed");
        restore.abandon().await;
    }
    result.map(|restored| {
        let note = (restored == Restored::CanBeUndone).then_some(sentences::RESTORE_CAN_BE_UNDONE);
        Reply::no_content().noting(note)
    })
}

async fn arguments(mut part: Part) -> Result<Zeroizing<Vec<u8>>, Error> {
    // Allocated once, because a vector that grows leaves its old bytes behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(RESTORE_ARGUMENTS_MAX_BYTES));
    while let Some(chunk) = part.chunk().await? {
        if bytes.len() + chunk.len() > RESTORE_ARGUMENTS_MAX_BYTES {
            return Err(Error::invalid_field("arguments", "Meta data is too large."));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn receive(restore: &mut Restore, mut file: Part, parts: &mut Parts) -> Result<(), Error> {
    while let Some(chunk) = file.chunk().await? {
        restore.feed(&chunk).await?;
    }
    drop(file);
    match parts.next().await? {
        None => Ok(()),
        Some(_) => Err(Error::invalid("The body must have exactly two parts: arguments and backup file.")),
    }
}
