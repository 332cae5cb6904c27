//! The backup passphrase. It is not kept; what is kept, sealed like every row, is the key it stands for and its salt.

use crate::rows::backup_secret::BackupSecret;
use std::sync::Arc;

use casemate_api::Passphrase;

use crate::crypto::kdf;
use crate::crypto::secret::{BackupKey, SecretBytes};
use crate::error::Error;
use crate::hsm::phase::Operational;
use crate::identity::caller::Caller;
use crate::identity::limiter::Guess;
use crate::identity::right::By;
use crate::identity::users;
use crate::platform::Platform;
use crate::rows::path::{Generation, SharedPath};
use crate::rows::table::Row;
use crate::rows::transaction::{Committed, Draft};
use crate::runtime::party::Party;
use crate::runtime::pool::{Work, run_on};
use crate::store::Revision;

/// The row of the backup passphrase.
pub(super) fn path(generation: Generation) -> SharedPath {
    SharedPath::setting(generation, "backup passphrase")
}

/// Runs the slow hash of a backup passphrase on the pool: about 0.3 s of one core.
pub(super) async fn backup_key(
    platform: &Platform,
    party: Party,
    passphrase: &Passphrase,
    salt: [u8; 16],
) -> Result<BackupKey, Error> {
    let passphrase = SecretBytes::from_slice(passphrase.expose());
    run_on(&*platform.pool, Work::Kdf, party, move || kdf::backup_key(passphrase.expose(), &salt)).await
}

impl Operational {
    /// What stands for the backup passphrase, if one was set.
    pub(crate) async fn backup_secret(&self) -> Result<Option<Arc<Row<BackupSecret>>>, Error> {
        self.backup_secrets.get(&path(self.shared.generation)).await
    }

    /// Sets the backup passphrase. `Forbidden` if `current` is not the one that holds now; while none does, that is the
    /// empty one. `TooMany` if `by` gave a wrong one less than a second ago.
    pub async fn change_backup_passphrase(
        &self,
        by: &Caller,
        new: &Passphrase,
        current: &Passphrase,
    ) -> Result<(), Error> {
        users::check_length("passphrase", new)?;
        let party = by.scope()?.party();
        let guess = self.admit(Guess::CurrentBackup(&by.id))?;
        let path = path(self.shared.generation);
        let wrong = || Error::Forbidden(Some("backup passphrase is incorrect.".into()));
        let draft = match self.backup_secrets.read(&path).await? {
            None if current.expose().is_empty() => Draft::default().absent(&path),
            None => {
                guess.wrong();
                return Err(wrong());
            }
            Some(row) => {
                let key = backup_key(&self.platform, party, current, row.record.salt).await?;
                if !key.ct_eq(&row.record.key) {
                    guess.wrong();
                    return Err(wrong());
                }
                Draft::default().at(&path, row.revision)
            }
        };
        guess.right();
        let mut salt = [0; 16];
        self.platform.rng.fill(&mut salt);
        let record = BackupSecret { salt, key: backup_key(&self.platform, party, new, salt).await? };
        let draft = draft.put(self.backup_secrets.sealed(&path, Revision::default(), &record)?).reserved();
        match self.commit(By::Caller(by), draft).await? {
            Committed::At(_) => {
                self.backup_secrets.changed(&path);
                tracing::info!(target: "hsm", "the backup passphrase was changed");
                Ok(())
            }
            Committed::Conflict(_) => {
                Err(Error::Unavailable("The backup passphrase was changed meanwhile. Try again.".into()))
            }
        }
    }
}
