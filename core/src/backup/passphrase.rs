//! The backup passphrase. It is not kept; what is kept, sealed like every row, is the key it stands for and its salt.

use std::sync::Arc;

use casemate_api::Passphrase;
use zeroize::Zeroizing;

use crate::caller::Caller;
use crate::error::Error;
use crate::kdf;
use crate::limiter::Guess;
use crate::party::Party;
use crate::path::{Generation, SharedPath};
use crate::phase::Operational;
use crate::platform::{Platform, Work, run_on};
use crate::record::{BadRecord, Reader, Writer};
use crate::right::By;
use crate::secret::{BackupKey, SecretBytes};
use crate::shared::{Committed, Draft};
use crate::store::Revision;
use crate::table::{Record, Row};
use crate::users;

/// What stands for the backup passphrase.
pub struct BackupSecret {
    /// Random, per passphrase; in clear at the head of each backup.
    pub salt: [u8; 16],
    /// Seals backups.
    pub key: BackupKey,
}

impl Record for BackupSecret {
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        Writer::new(1).raw(&self.salt).raw(self.key.expose()).finish()
    }
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let (salt, key) = (reader.array()?, BackupKey::new(reader.array()?));
        reader.end()?;
        Ok(Self { salt, key })
    }
    fn weight(&self) -> u64 {
        96
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_of_version_1_does_not_change() {
        let record = BackupSecret { salt: [0x11; 16], key: BackupKey::new([0x22; 32]) };
        let hex = base16ct::lower::encode_string(&record.encode());
        assert_eq!(hex, include_str!("../../testdata/formats/backup-passphrase-v1.hex").trim());
        let read = BackupSecret::decode(&record.encode()).unwrap();
        assert!(read.salt == record.salt && read.key.ct_eq(&record.key));
        assert!(BackupSecret::decode(&record.encode()[..48]).is_err());
    }
}
