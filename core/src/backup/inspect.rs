//! Inspects a backup without an HSM: what it holds, whether it is complete, and whether its keys can be used.
//!
//! Trying the keys reads the file twice, because the salt of the unlock passphrase comes after them.

use casemate_api::{KeyType, Mechanism, Passphrase};

use crate::backup::format::{FormatError, Version};
use crate::backup::nethsm::{self, DeviceItem, EntryPath, NethsmStore, STORE_VERSION};
use crate::backup::read::{Entry, Item, Reader};
use crate::crypto::mech::{self, LoadedKey};
use crate::crypto::secret::DomainKey;
use crate::crypto::{kdf, seal};
use crate::device::slots::SLOT0_AAD;
use crate::error::Error;

/// Contents of a backup, in the order of the file.
pub enum Finding {
    /// The fields in front of the entries.
    Head {
        /// Version of the format, 0 or 1.
        version: u8,
        /// Id of the device that the backup is of; empty in version 0.
        device_id: String,
        /// Whether it was written by Casemate and ends with a list of its entries.
        listed: bool,
    },
    /// An entry.
    Entry {
        /// Its path.
        path: String,
        /// What kind of entry it is, for people.
        kind: &'static str,
        /// Length of its sealed value, in bytes.
        bytes: usize,
    },
    /// The proper end: the file is complete.
    End,
}

/// Lists the contents of a backup, given its passphrase.
pub struct Inspector {
    reader: Reader,
    passphrase: Passphrase,
    unlocked: bool,
    version: Version,
    device_id: String,
    locked_domain_key: Vec<u8>,
    config_key: Option<crate::crypto::secret::StoreKey>,
    unlock_salt: Option<[u8; 16]>,
}

impl Inspector {
    /// Begins an inspection. `passphrase` is the backup passphrase.
    pub fn new(passphrase: Passphrase) -> Self {
        Self {
            reader: Reader::default(),
            passphrase,
            unlocked: false,
            version: Version::V0,
            device_id: String::new(),
            locked_domain_key: Vec::new(),
            config_key: None,
            unlock_salt: None,
        }
    }

    /// Takes the next bytes. The first call takes 0.3 s, for the slow hash of the passphrase.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Finding>, FormatError> {
        self.reader.feed(bytes);
        self.findings()
    }

    /// The file has ended. `Err` if it is not whole.
    pub fn finish(&mut self) -> Result<Vec<Finding>, FormatError> {
        self.reader.finish();
        let findings = self.findings()?;
        if self.reader.at_end() { Ok(findings) } else { Err(FormatError::UnexpectedEnd) }
    }

    fn findings(&mut self) -> Result<Vec<Finding>, FormatError> {
        let mut findings = Vec::new();
        for item in items(&mut self.reader, &mut self.unlocked, &self.passphrase)? {
            findings.push(match item {
                Item::Head(head) => {
                    let finding = Finding::Head {
                        version: head.version.byte(),
                        device_id: head.device_id.clone(),
                        listed: head.ours,
                    };
                    self.version = head.version;
                    (self.device_id, self.locked_domain_key) = (head.device_id, head.locked_domain_key);
                    self.config_key = head.config_key;
                    finding
                }
                Item::Entry(Entry { path, value }) => {
                    let entry = EntryPath::of(self.version, &path);
                    if let EntryPath::Device { device, item: DeviceItem::UnlockSalt } = &entry
                        && *device == self.device_id
                    {
                        let salt = match &self.config_key {
                            None => Some(value.to_vec()),
                            Some(key) => {
                                seal::open(key.expose(), path.as_bytes(), &value).ok().map(|salt| salt.to_vec())
                            }
                        };
                        self.unlock_salt = salt.and_then(|salt| salt.try_into().ok());
                    }
                    Finding::Entry { kind: kind(&entry), bytes: value.len(), path }
                }
                Item::End => Finding::End,
            });
        }
        Ok(findings)
    }

    /// Begins a second reading of the same file that opens and tries everything in it. Takes 0.3 s. `Invalid` if the
    /// unlock passphrase is wrong or the file has no salt for it.
    pub fn verifier(self, unlock: &Passphrase) -> Result<Verifier, Error> {
        let salt =
            self.unlock_salt.ok_or_else(|| Error::invalid("The backup lacks the salt of its unlock passphrase."))?;
        let key = kdf::unlock_key(unlock.expose(), &salt);
        let wrong = |_| Error::invalid("The unlock passphrase does not open the Domain Key of the backup.");
        let domain = seal::open(key.expose(), SLOT0_AAD, &self.locked_domain_key).map_err(wrong)?;
        let domain = DomainKey::from_slice(&domain)
            .ok_or_else(|| Error::invalid("The Domain Key of the backup is malformed."))?;
        Ok(Verifier {
            reader: Reader::default(),
            passphrase: self.passphrase,
            unlocked: false,
            version: self.version,
            domain,
        })
    }
}

/// The result of opening and trying an entry.
pub enum Verdict {
    /// A key that passed its self test.
    Key {
        /// Its path.
        path: String,
        /// Its type.
        key_type: KeyType,
        /// The mechanisms that it lists.
        mechanisms: Vec<Mechanism>,
    },
    /// A user, a namespace or the version of a store, which is valid.
    Fine {
        /// Its path.
        path: String,
    },
    /// It cannot be opened, is malformed, or cannot be used.
    Bad {
        /// Its path.
        path: String,
        /// Why.
        why: String,
    },
}

/// Opens every user, namespace and key of a backup, and runs the self test of each key.
pub struct Verifier {
    reader: Reader,
    passphrase: Passphrase,
    unlocked: bool,
    version: Version,
    domain: DomainKey,
}

impl Verifier {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Verdict>, FormatError> {
        self.reader.feed(bytes);
        self.verdicts()
    }

    /// The file has ended. `Err` if it is not whole.
    pub fn finish(&mut self) -> Result<Vec<Verdict>, FormatError> {
        self.reader.finish();
        let verdicts = self.verdicts()?;
        if self.reader.at_end() { Ok(verdicts) } else { Err(FormatError::UnexpectedEnd) }
    }

    fn verdicts(&mut self) -> Result<Vec<Verdict>, FormatError> {
        let items = items(&mut self.reader, &mut self.unlocked, &self.passphrase)?;
        Ok(items.into_iter().filter_map(|item| self.verdict(item)).collect())
    }

    fn verdict(&self, item: Item) -> Option<Verdict> {
        let Item::Entry(Entry { path, value }) = item else { return None };
        let entry = EntryPath::of(self.version, &path);
        let store = match &entry {
            EntryPath::User(_) | EntryPath::StoreVersion(NethsmStore::Users) => NethsmStore::Users,
            EntryPath::Namespace(_) | EntryPath::StoreVersion(NethsmStore::Namespaces) => NethsmStore::Namespaces,
            EntryPath::Key(..) | EntryPath::StoreVersion(_) => NethsmStore::Keys,
            _ => return None,
        };
        let plain = nethsm::open(&store.key(&self.domain), &path, &value);
        let Ok(plain) = plain else { return Some(Verdict::Bad { path, why: "its seal does not hold".into() }) };
        let read = match &entry {
            EntryPath::User(_) => nethsm::read_user(&plain).map(|_| None),
            EntryPath::Namespace(id) => nethsm::read_namespace(&plain)
                .map(|name| (name != id.as_str()).then(|| "it names another namespace".to_owned())),
            EntryPath::Key(..) => match nethsm::read_key(&plain, Default::default()) {
                Err(why) => Err(why),
                Ok(full) => {
                    let (key_type, mechanisms) = (full.record.key_type(), full.record.mechanisms.list());
                    let used = LoadedKey::load(&full.record.material)
                        .map_err(Error::from)
                        .and_then(|loaded| mech::self_test(&loaded));
                    match used {
                        Ok(()) => return Some(Verdict::Key { path, key_type, mechanisms }),
                        Err(why) => Ok(Some(format!("it cannot be used: {why}"))),
                    }
                }
            },
            _ if plain.as_slice() == STORE_VERSION => Ok(None),
            _ => Ok(Some("it is of a newer version".to_owned())),
        };
        Some(match read {
            Ok(None) => Verdict::Fine { path },
            Ok(Some(why)) => Verdict::Bad { path, why },
            Err(why) => Verdict::Bad { path, why: why.to_string() },
        })
    }
}

/// The items that have arrived since the last call.
fn items(reader: &mut Reader, unlocked: &mut bool, passphrase: &Passphrase) -> Result<Vec<Item>, FormatError> {
    if !*unlocked && let Some((_, salt)) = reader.start()? {
        reader.unlock(kdf::backup_key(passphrase.expose(), &salt));
        *unlocked = true;
    }
    let mut items = Vec::new();
    while *unlocked && let Some(item) = reader.item()? {
        items.push(item);
    }
    Ok(items)
}

fn kind(entry: &EntryPath) -> &'static str {
    match entry {
        EntryPath::Initialized | EntryPath::StoreVersion(_) | EntryPath::ConfigVersion => "version",
        EntryPath::User(_) => "user",
        EntryPath::Namespace(_) => "namespace",
        EntryPath::Key(..) => "key",
        EntryPath::Shared => "configuration",
        EntryPath::Device { .. } => "device",
        EntryPath::Manifest => "list of entries",
        EntryPath::Other => "unknown",
    }
}
