//! Whether nodes go on without a majority: a setting that all members share, and that each keeps in memory (`rows/tables.rs`), as
//! it could not be read when it is needed.

use std::time::Duration;

use casemate_api::body::config::WithoutMajority as Setting;
use casemate_api::limits::STALE_S;

use crate::config::Config;
use crate::error::Error;
use crate::identity::caller::Caller;
use crate::identity::right::{self, By};
use crate::rows::path::RowPath;
use crate::rows::transaction::{Committed, Transaction};
use crate::rows::without_majority::WithoutMajority;
use crate::store::Revision;

impl Config<'_> {
    /// What nodes do without a majority.
    pub async fn without_majority(&self) -> Result<Setting, Error> {
        let row = self.tables.without_majority.read(&RowPath::without_majority(self.tables.generation)).await?;
        Ok(match row.map_or(0, |row| row.record.stale_max_s) {
            0 => Setting::Strict {},
            max_stale_seconds => Setting::Degraded { max_stale_seconds },
        })
    }

    /// Sets what nodes do without a majority. The other nodes know it when they are confirmed next.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a time that is out of bounds; [`Error::Precondition`] at a node that uses the etcd of others.
    pub async fn set_without_majority(&self, by: &Caller, setting: Setting) -> Result<(), Error> {
        let stale_max_s = match setting {
            Setting::Strict {} => 0,
            Setting::Degraded { max_stale_seconds } => max_stale_seconds,
        };
        if stale_max_s > 0 && self.tables.is_shared() && !self.tables.has_own_copy() {
            return Err(Error::Precondition(
                "This node has no etcd of its own and so nothing to go on with without a majority. Set this at a member that runs its etcd itself; nodes like this one stay strict.".into(),
            ));
        }
        if matches!(setting, Setting::Degraded { .. }) && !STALE_S.contains(&stale_max_s) {
            let reason = format!("maxStaleSeconds must be between {} and {}.", STALE_S.start(), STALE_S.end());
            return Err(Error::invalid_field("maxStaleSeconds", reason));
        }
        let path = RowPath::without_majority(self.tables.generation);
        let table = &self.tables.without_majority;
        let before = table.read(&path).await?.map(|row| row.revision);
        let row = table.sealed(&path, before.unwrap_or(Revision::default()), &WithoutMajority { stale_max_s })?;
        let transaction = Transaction::default().found(&path, before).put(row).reserved();
        match right::commit(self.tables, By::Caller(by), transaction).await? {
            Committed::Conflict(_) => Err(Error::Unavailable("It was changed meanwhile. Try again.".into())),
            Committed::At(_) => {
                let max = Duration::from_secs(stale_max_s.into());
                tracing::info!(target: "hsm", "without a majority nodes serve what they have for {max:?}");
                Ok(())
            }
        }
    }
}
