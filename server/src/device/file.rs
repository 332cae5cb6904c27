//! The Device Key in a file, for machines without a TPM. Anyone who can read the file and the local store can unseal
//! the store, so the file must be readable by its owner alone; any other mode is refused.
//!
//! The file is one line: `casemate-device-key-1`, a space, and the key as 64 hexadecimal digits.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use casemate_core::crypto::secret::DeviceKey;
use casemate_core::platform::{DeviceKeeper, DeviceKeyError};
use casemate_core::runtime::Rng;
use zeroize::Zeroizing;

use crate::durable::{self, NOFOLLOW};

/// Keeps the Device Key in a file of mode 0600.
pub struct FileDevice {
    path: PathBuf,
    rng: Arc<dyn Rng>,
    /// Serialises calls, so that two keys are never created.
    turn: Mutex<()>,
}

impl FileDevice {
    /// Keeps the key in the file `path`, which is created when the key is first needed.
    pub fn new(path: PathBuf, rng: Arc<dyn Rng>) -> Self {
        Self { path, rng, turn: Mutex::new(()) }
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.custom_flags(NOFOLLOW);
        options
    }

    /// Where the key is kept, for errors.
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn unreadable(&self, error: io::Error) -> DeviceKeyError {
        DeviceKeyError::Unreadable { place: self.place(), cause: error.into() }
    }

    fn read(&self, file: File) -> Result<DeviceKey, DeviceKeyError> {
        let about = file.metadata().map_err(|error| self.unreadable(error))?;
        if !about.is_file() {
            return Err(DeviceKeyError::NotARegularFile { place: self.place() });
        }
        if about.uid() != rustix::process::geteuid().as_raw() {
            return Err(DeviceKeyError::OwnedByAnother { place: self.place(), uid: about.uid() });
        }
        if about.permissions().mode() & 0o077 != 0 {
            return Err(DeviceKeyError::OpenToOthers { place: self.place() });
        }
        let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES + 1));
        let more = FILE_BYTES as u64 + 1;
        file.take(more).read_to_end(&mut text).map_err(|error| self.unreadable(error))?;
        parse(&text).ok_or_else(|| DeviceKeyError::Malformed { place: self.place() })
    }

    /// Creates a key and its file. The file gets its name only after it is complete and synced.
    fn create(&self) -> io::Result<DeviceKey> {
        let key = DeviceKey::random(&*self.rng);
        let draft = durable::draft_of(&self.path);
        remove_if_there(&draft)?;
        let mut file = self.options().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&render(&key))?;
        file.sync_all()?;
        durable::publish(&draft, &self.path)?;
        Ok(key)
    }

    fn erase(&self) -> io::Result<()> {
        remove_if_there(&durable::draft_of(&self.path))?;
        if let Err(error) = self.overwrite() {
            // Removing without overwriting is better than leaving the device as it was.
            tracing::warn!(file = %self.path.display(), %error, "the Device Key is removed without being overwritten");
        }
        remove_if_there(&self.path)?;
        durable::sync_folder_of(&self.path)
    }

    /// Overwrites the file with random bytes, if it exists.
    fn overwrite(&self) -> io::Result<()> {
        let about = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            about => about?,
        };
        if !about.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if about.uid() == rustix::process::geteuid().as_raw() {
            fs::set_permissions(&self.path, fs::Permissions::from_mode(0o600))?;
        }
        let mut noise = vec![0; FILE_BYTES.max(usize::try_from(about.len()).unwrap_or(0).min(ERASE_MAX_BYTES))];
        self.rng.fill(&mut noise);
        let mut file = self.options().write(true).open(&self.path)?;
        file.write_all(&noise)?;
        file.sync_all()
    }
}

impl DeviceKeeper for FileDevice {
    fn load(&self) -> Result<DeviceKey, DeviceKeyError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        match self.options().read(true).open(&self.path) {
            Ok(file) => self.read(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.create().map_err(|error| DeviceKeyError::NotCreated { place: self.place(), cause: error.into() })
            }
            Err(error) => Err(self.unreadable(error)),
        }
    }

    /// Overwrites the file if possible, then removes it. An SSD may write elsewhere and keep the old bytes; only disk
    /// encryption or a TPM helps against that.
    fn destroy(&self) -> Result<(), DeviceKeyError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.erase().map_err(|error| DeviceKeyError::NotDestroyed { place: self.place(), cause: error.into() })
    }
}

fn remove_if_there(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn render(key: &DeviceKey) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES));
    text.extend_from_slice(TAG);
    for byte in key.expose() {
        text.extend([byte >> 4, byte & 15].map(digit));
    }
    text.push(b'\n');
    text
}

fn parse(text: &[u8]) -> Option<DeviceKey> {
    let digits = text.strip_prefix(TAG)?.strip_suffix(b"\n")?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let mut key = Zeroizing::new(Vec::with_capacity(KEY_BYTES));
    for [high, low] in pairs {
        key.push(value(*high)? << 4 | value(*low)?);
    }
    if !rest.is_empty() {
        return None;
    }
    DeviceKey::from_slice(&key)
}

fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

const TAG: &[u8] = b"casemate-device-key-1 ";
const KEY_BYTES: usize = 32;
const FILE_BYTES: usize = TAG.len() + 2 * KEY_BYTES + 1;
/// If the file is not a key, at most this many bytes are overwritten.
const ERASE_MAX_BYTES: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use casemate_core::sim::SimRng;

    use super::*;
    use crate::scratch::Scratch;

    fn device(folder: &Scratch) -> FileDevice {
        FileDevice::new(folder.path("device-key"), Arc::new(SimRng::new(1)))
    }

    #[test]
    fn the_key_stays_until_it_is_destroyed() {
        let folder = Scratch::new();
        let first = device(&folder);
        let key = first.load().unwrap();
        assert!(key.ct_eq(&device(&folder).load().unwrap()));
        let mode = fs::metadata(&first.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(&first.path).unwrap();
        assert_eq!(text.len(), 22 + 64 + 1);
        assert!(text.starts_with("casemate-device-key-1 ") && text.ends_with('\n'));
        // A hard link to the file shows what was written before the file was removed.
        let other = folder.path("other-name");
        fs::hard_link(&first.path, &other).unwrap();
        first.destroy().unwrap();
        assert!(!first.path.exists());
        let left = fs::read(&other).unwrap();
        assert!(left.len() == text.len() && !left.starts_with(TAG) && left[22..] != text.as_bytes()[22..]);
        assert!(!key.ct_eq(&first.load().unwrap()), "a new key");
        first.destroy().unwrap();
        first.destroy().unwrap();
    }

    #[test]
    fn a_file_that_is_not_as_it_should_be_is_refused_and_left_alone() {
        let folder = Scratch::new();
        let device = device(&folder);
        device.load().unwrap();
        let good = fs::read(&device.path).unwrap();
        let refused = |what: &str| {
            let error = device.load().err().unwrap().to_string();
            assert!(error.contains(what), "{error}");
        };
        let longer = [good.as_slice(), b"\n"].concat();
        let upper = good.to_ascii_uppercase();
        let shorter = [&good[..good.len() - 3], b"\n"].concat();
        for bad in [&b""[..], b"casemate-device-key-2 ", &good[..good.len() - 1], &longer, &upper, &shorter] {
            fs::write(&device.path, bad).unwrap();
            refused("is malformed");
            assert_eq!(fs::read(&device.path).unwrap(), bad);
        }
        fs::write(&device.path, &good).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&device.path, fs::Permissions::from_mode(mode)).unwrap();
            refused("can be read or written by other users");
        }
        fs::set_permissions(&device.path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(device.load().is_ok());
        // Only root can change the owner of a file.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&device.path, Some(12345), None).unwrap();
            refused("belongs to another user (uid 12345)");
        }
        fs::remove_file(&device.path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &device.path).unwrap();
        refused("cannot be read");
        fs::remove_file(&device.path).unwrap();
        fs::create_dir(&device.path).unwrap();
        refused("is not a regular file");
    }

    #[test]
    fn a_malformed_key_can_be_destroyed() {
        let folder = Scratch::new();
        let device = device(&folder);
        fs::write(&device.path, "what is this").unwrap();
        assert!(device.load().is_err());
        device.destroy().unwrap();
        assert!(device.load().is_ok());
    }

    #[test]
    fn a_key_that_cannot_be_overwritten_is_still_removed() {
        let folder = Scratch::new();
        let device = device(&folder);
        device.load().unwrap();
        let other = folder.path("other-name");
        fs::hard_link(&device.path, &other).unwrap();
        fs::set_permissions(&device.path, fs::Permissions::from_mode(0o400)).unwrap();
        device.destroy().unwrap();
        assert!(!fs::read(&other).unwrap().starts_with(TAG), "read-only, but ours");

        fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, &device.path).unwrap();
        device.destroy().unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"precious");
        assert!(fs::symlink_metadata(&device.path).is_err());

        fs::create_dir(&device.path).unwrap();
        assert!(device.destroy().unwrap_err().to_string().contains("cannot be destroyed"));
    }

    #[test]
    fn a_draft_left_by_a_crash_is_replaced() {
        let folder = Scratch::new();
        let device = device(&folder);
        fs::write(durable::draft_of(&device.path), TAG).unwrap();
        device.load().unwrap();
        assert!(!durable::draft_of(&device.path).exists());
    }
}
