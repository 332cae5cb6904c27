//! The backup passphrase. It is not stored; a sealed row holds the Backup Key derived from it, and its salt.

use crate::rows::backup_secret::BackupSecret;
use std::sync::Arc;

use casemate_api::Passphrase;

use crate::backup::Backups;
use crate::crypto::kdf;
use crate::crypto::secret::{BackupKey, SecretBytes};
use crate::device::limiter::Guess;
use crate::error::Error;
use crate::identity::caller::Caller;
use crate::identity::right;
use crate::identity::right::By;
use crate::identity::users;
use crate::platform::Platform;
use crate::rows::path::RowPath;
use crate::rows::table::Row;
use crate::rows::transaction::{Committed, Transaction};
use crate::runtime::party::Party;
use crate::runtime::pool::{Work, run_on};
use crate::store::Revision;

/// Runs the slow hash of a backup passphrase on the pool: about 0.3 s of one core.
pub(crate) async fn backup_key(
    platform: &Platform,
    party: Party,
    passphrase: &Passphrase,
    salt: [u8; 16],
) -> Result<BackupKey, Error> {
    let passphrase = SecretBytes::from_slice(passphrase.expose());
    run_on(&*platform.pool, Work::Kdf, party, move || kdf::backup_key(passphrase.expose(), &salt)).await
}

impl Backups<'_> {
    /// The Backup Key and salt as they are stored now; `None` if no backup passphrase was set.
    pub(crate) async fn secret(&self) -> Result<Option<Row<BackupSecret>>, Error> {
        self.ring.tables.backup_secrets.read(&RowPath::backup_secret(self.ring.tables.generation)).await
    }

    /// The same from the cache, which may be a second old: for each piece of a backup that has begun.
    pub(crate) async fn cached_secret(&self) -> Result<Option<Arc<Row<BackupSecret>>>, Error> {
        self.ring.tables.backup_secrets.get(&RowPath::backup_secret(self.ring.tables.generation)).await
    }

    /// Sets the backup passphrase. `current` must be the present one, or empty if none is set; `Forbidden` otherwise.
    /// `TooMany` if `by` gave a wrong one less than a second ago.
    pub async fn change_passphrase(&self, by: &Caller, new: &Passphrase, current: &Passphrase) -> Result<(), Error> {
        users::check_length("passphrase", new)?;
        let party = by.scope()?.party();
        let guess = self.ring.device.admit(Guess::CurrentBackup(&by.id))?;
        let table = &self.ring.tables.backup_secrets;
        let path = RowPath::backup_secret(self.ring.tables.generation);
        let wrong = || Error::Forbidden(Some("backup passphrase is incorrect.".into()));
        let transaction = match table.read(&path).await? {
            None if current.expose().is_empty() => Transaction::default().absent(&path),
            None => {
                guess.wrong();
                return Err(wrong());
            }
            Some(row) => {
                let key = backup_key(&self.ring.device.platform, party, current, row.record.salt).await?;
                if !key.ct_eq(&row.record.key) {
                    guess.wrong();
                    return Err(wrong());
                }
                Transaction::default().at(&path, row.revision)
            }
        };
        guess.right();
        let mut salt = [0; 16];
        self.ring.device.platform.rng.fill(&mut salt);
        let record = BackupSecret { salt, key: backup_key(&self.ring.device.platform, party, new, salt).await? };
        let transaction = transaction.put(table.sealed(&path, Revision::default(), &record)?).reserved();
        match right::commit(self.ring.tables, By::Caller(by), transaction).await? {
            Committed::At(_) => {
                tracing::info!(target: "hsm", "the backup passphrase was changed");
                Ok(())
            }
            Committed::Conflict(_) => {
                Err(Error::Unavailable("The backup passphrase was changed meanwhile. Try again.".into()))
            }
        }
    }
}
