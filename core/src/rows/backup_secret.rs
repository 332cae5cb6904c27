//! The key derived from the backup passphrase, as stored. The passphrase itself is not stored.

use crate::rows::path::{Generation, RowPath};
use crate::rows::record::TableId;
use zeroize::Zeroizing;

use crate::crypto::secret::BackupKey;
use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::record::Record;

/// The key derived from the backup passphrase, and its salt.
pub struct BackupSecret {
    /// Random for each passphrase; stands in clear at the head of each backup.
    pub salt: [u8; 16],
    /// Seals backups.
    pub key: BackupKey,
}

impl Record for BackupSecret {
    const TABLE: TableId = TableId::BackupSecrets;

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

impl RowPath<BackupSecret> {
    /// The row of the backup passphrase.
    pub fn backup_secret(generation: Generation) -> Self {
        Self::new(generation, &[])
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
