//! Reads a backup file as it arrives: frames, seals, and the manifest of files written by Casemate.
//!
//! NetHSM's format cannot detect that entries were removed, and its Backup Key is the same for all backups of a device,
//! so that entries of one could be moved to another. Files written by Casemate therefore end with an entry that counts
//! and hashes everything before it. Such a file is recognised by its configuration key, which nobody can make without
//! the passphrase; it is refused without that entry. Other files are read as NetHSM reads them.

use zeroize::Zeroizing;

use crate::backup::envelope::{Head, Manifest, Sealer, is_marked};
use crate::backup::format::{ENTRY_LABEL, Field, FormatError, Frame, Parser, Version, split_framed};
use crate::backup::nethsm::MANIFEST;
use crate::crypto::seal;
use crate::crypto::secret::{BackupKey, StoreKey};

/// An entry of a backup.
pub struct Entry {
    /// Its path in NetHSM's store.
    pub path: String,
    /// Its value, sealed as in that store.
    pub value: Zeroizing<Vec<u8>>,
}

/// The items of a file, in this order.
pub enum Item {
    /// The fields in front of the entries, once.
    Head(Head),
    /// An entry.
    Entry(Entry),
    /// The proper end: the file was complete.
    End,
}

/// Longest path of an entry, in bytes: two ids and the rest of the path.
const PATH_MAX_BYTES: usize = 512;

/// Reads a file. Feed it bytes, get the salt with [`Reader::start`], give it the key with [`Reader::unlock`], then take
/// items.
#[derive(Default)]
pub struct Reader {
    parser: Parser,
    start: Option<(Version, [u8; 16])>,
    key: Option<BackupKey>,
    sealer: Option<Sealer>,
    locked_domain_key: Vec<u8>,
    device_id: String,
    manifest: Option<Manifest>,
    /// The manifest of the file, once it was read; nothing may follow it.
    stated: Option<Vec<u8>>,
}

impl Reader {
    /// Takes the next bytes of the file. Call [`Reader::item`] until it returns `None` before feeding more.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.parser.feed(bytes);
    }

    /// Tells the reader that the file has ended.
    pub fn finish(&mut self) {
        self.parser.finish();
    }

    /// The version and the salt of the backup passphrase; `None` until enough bytes have arrived.
    pub fn start(&mut self) -> Result<Option<(Version, [u8; 16])>, FormatError> {
        if self.start.is_none()
            && let Some(Frame::Start { version, salt }) = self.parser.frame()?
        {
            self.start = Some((version, salt));
        }
        Ok(self.start)
    }

    /// Sets the Backup Key, derived from the passphrase and the salt.
    pub fn unlock(&mut self, key: BackupKey) {
        self.sealer = Some(Sealer::new(key.expose()));
        self.key = Some(key);
    }

    /// The next item. `None`: more bytes or the key are needed, or the end has been reached.
    pub fn item(&mut self) -> Result<Option<Item>, FormatError> {
        while let Some((version, salt)) = self.start()? {
            let Some(key) = &self.key else { return Ok(None) };
            let Some(frame) = self.parser.frame()? else { return Ok(None) };
            match frame {
                Frame::Start { .. } => return Err(FormatError::NotABackup),
                Frame::Field(field, sealed) => {
                    let plain = open(key, field.label(), &sealed)?;
                    let malformed = FormatError::Malformed(field.label());
                    match field {
                        Field::Version if plain.as_slice() != [version.byte()] => {
                            return Err(FormatError::InnerVersion);
                        }
                        Field::Version => {}
                        Field::DomainKey if plain.len() != LOCKED_DOMAIN_KEY_BYTES => return Err(malformed),
                        Field::DomainKey => {
                            self.locked_domain_key = plain.to_vec();
                            if version == Version::V0 {
                                return Ok(Some(Item::Head(self.head(version, salt, None, false))));
                            }
                        }
                        Field::DeviceId => {
                            let text = String::from_utf8(plain.to_vec()).ok();
                            let named = |id: &String| !id.is_empty() && id.len() <= 64 && !id.contains(['/', '\0']);
                            self.device_id = text.filter(named).ok_or(malformed)?;
                        }
                        Field::ConfigKey => {
                            let config = StoreKey::from_slice(&plain).ok_or(malformed)?;
                            let ours = is_marked(key, &config);
                            let head = self.head(version, salt, Some(config), ours);
                            self.manifest = ours.then(|| Manifest::of(&head));
                            return Ok(Some(Item::Head(head)));
                        }
                    }
                }
                Frame::Entry(sealed) => {
                    let plain = open(key, ENTRY_LABEL, &sealed)?;
                    // NetHSM and Casemate may have written files under the same key. An entry that Casemate sealed must
                    // not appear in a file without a manifest, because there nothing would detect it.
                    let label = ENTRY_LABEL.as_bytes();
                    let mixed = |sealer: &Sealer| self.manifest.is_none() && sealer.is_ours(label, &plain, &sealed);
                    if self.sealer.as_ref().is_some_and(mixed) {
                        return Err(FormatError::Manifest);
                    }
                    if let Some(entry) = self.entry(plain)? {
                        return Ok(Some(Item::Entry(entry)));
                    }
                }
                Frame::End => {
                    let expected = self.manifest.take().map(Manifest::finish);
                    if expected != self.stated.take() {
                        return Err(FormatError::Manifest);
                    }
                    return Ok(Some(Item::End));
                }
            }
        }
        Ok(None)
    }

    /// Whether the proper end has been read.
    pub fn at_end(&self) -> bool {
        self.parser.at_end()
    }

    fn head(&self, version: Version, salt: [u8; 16], config_key: Option<StoreKey>, ours: bool) -> Head {
        let (locked_domain_key, device_id) = (self.locked_domain_key.clone(), self.device_id.clone());
        Head { version, salt, locked_domain_key, device_id, config_key, ours }
    }

    /// Splits an entry into path and value. The manifest is kept and not returned.
    fn entry(&mut self, plain: Zeroizing<Vec<u8>>) -> Result<Option<Entry>, FormatError> {
        let (path, value) = split_framed(&plain).ok_or(FormatError::Malformed("entry"))?;
        let path = std::str::from_utf8(path)
            .ok()
            .filter(|path| path.starts_with('/') && path.len() <= PATH_MAX_BYTES && !path.contains('\0'));
        let path = path.ok_or(FormatError::Malformed("entry"))?;
        if self.stated.is_some() {
            return Err(FormatError::Manifest);
        }
        if let Some(manifest) = &mut self.manifest {
            if path == MANIFEST {
                self.stated = Some(value.to_vec());
                return Ok(None);
            }
            manifest.add(path, value);
        }
        Ok(Some(Entry { path: path.to_owned(), value: Zeroizing::new(value.to_vec()) }))
    }
}

/// Length of a Domain Key sealed under an Unlock Key, in bytes: nonce, key, tag.
pub(super) const LOCKED_DOMAIN_KEY_BYTES: usize = 60;

fn open(key: &BackupKey, label: &'static str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    seal::open(key.expose(), label.as_bytes(), sealed).map_err(|_| FormatError::Sealed(label))
}
