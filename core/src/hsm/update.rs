//! Update images in NetHSM's format. They are read as a stream and verified at the end.
//!
//! An image is `_NETHSM_UPDATE_` and a zero byte; three fields, each with its length in front (3 bytes, big-endian):
//! signature, release notes, version `major.minor`; the number of 512-byte blocks (4 bytes, big-endian); and the blocks. The
//! signature is RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 §8.2) over everything after it. Nothing of an image may be used
//! before [`Intake::finish`] has verified it.

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use casemate_api::limits::{UPDATE_HEAD_MAX_BYTES, UPDATE_IMAGE_MAX_BYTES};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

use crate::error::Error;

const MAGIC: &[u8] = b"_NETHSM_UPDATE_\0";
const BLOCK_BYTES: u64 = 512;

/// The public key that signs updates.
pub struct UpdateKey(ParsedPublicKey);

impl UpdateKey {
    /// Reads a PEM `PUBLIC KEY` (RFC 7468 §13) of RSA, 2048 to 8192 bits. `Err` is the second half of a sentence about the
    /// file.
    pub fn from_pem(pem: &[u8]) -> Result<Self, &'static str> {
        let der =
            SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| "there is no PEM block `PUBLIC KEY` in it")?;
        let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der.as_ref());
        key.map(Self).map_err(|_| "its key is not RSA of 2048 to 8192 bits")
    }
}

/// A version `major.minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// An image with a smaller major version than the running software is refused.
    pub major: u32,
    /// Not compared.
    pub minor: u32,
}

impl Version {
    /// Parses two decimal numbers with a dot between them.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: number(major)?, minor: number(minor)? })
    }
}

/// Version and notes of an image that was verified.
#[derive(Debug, PartialEq, Eq)]
pub struct Release {
    /// Its version.
    pub version: Version,
    /// Its release notes.
    pub notes: String,
}

/// An image that is being received.
pub struct Intake {
    state: State,
}

enum State {
    /// Magic, three fields and the number of blocks, as far as they were received.
    Head(Vec<u8>),
    Blocks {
        release: Release,
        signature: Vec<u8>,
        signed: Box<Context>,
        left: u64,
    },
}

impl Default for Intake {
    fn default() -> Self {
        Self { state: State::Head(Vec::new()) }
    }
}

impl Intake {
    /// Takes the next bytes of the file, and returns those that belong to the blocks. They are not verified yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the file is malformed or longer than its head tells.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut image = bytes.to_vec();
        if let State::Head(head) = &mut self.state {
            head.extend_from_slice(bytes);
            match parse(head)? {
                None if head.len() > UPDATE_HEAD_MAX_BYTES => return Err(Error::invalid("Unexpected end of data")),
                None => return Ok(Vec::new()),
                Some((state, rest)) => {
                    image = rest;
                    self.state = state;
                }
            }
        }
        if let State::Blocks { signed, left, .. } = &mut self.state {
            *left = left.checked_sub(image.len() as u64).ok_or_else(incomplete)?;
            signed.update(&image);
        }
        Ok(image)
    }

    /// Bytes of the blocks that are still missing. `None` until the head is complete.
    pub fn left(&self) -> Option<u64> {
        match &self.state {
            State::Head(_) => None,
            State::Blocks { left, .. } => Some(*left),
        }
    }

    /// Verifies the image: it must be complete, signed by `key`, and not of an older major version than `current`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is incomplete or its signature is wrong; [`Error::Exists`] if it is of an older major version.
    pub fn finish(self, key: &UpdateKey, current: Version) -> Result<Release, Error> {
        let State::Blocks { release, signature, signed, left } = self.state else {
            return Err(Error::invalid("Unexpected end of data"));
        };
        if left > 0 {
            return Err(incomplete());
        }
        key.0
            .verify_digest_sig(&signed.finish(), &signature)
            .map_err(|_| Error::invalid("Signature check of update image failed."))?;
        if release.version.major < current.major {
            return Err(Error::Exists("Software version downgrade not allowed.".into()));
        }
        Ok(release)
    }
}

fn incomplete() -> Error {
    Error::invalid("unexpected end of data")
}

/// Reads the head, and returns the bytes after it, too. `None`: the head is not complete yet.
fn parse(head: &[u8]) -> Result<Option<(State, Vec<u8>)>, Error> {
    let known = head.len().min(MAGIC.len());
    if head.get(..known) != MAGIC.get(..known) {
        return Err(Error::invalid("Invalid update file"));
    }
    let mut rest = Fields(head.get(MAGIC.len()..).unwrap_or_default());
    let Some(signature) = rest.field() else { return Ok(None) };
    let behind_signature = rest.0;
    let (Some(notes), Some(version), Some(blocks)) = (rest.field(), rest.field(), rest.take(4)) else {
        return Ok(None);
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
    let notes = text(notes).map_err(|_| Error::invalid("The release notes of the update are not UTF-8."))?;
    let version = text(version).ok().and_then(|version| Version::parse(&version));
    let version =
        version.ok_or_else(|| Error::invalid("The version of the update is not of the form `major.minor`."))?;
    let left = blocks.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)) * BLOCK_BYTES;
    if left > UPDATE_IMAGE_MAX_BYTES {
        return Err(Error::invalid(format!("The update is larger than {UPDATE_IMAGE_MAX_BYTES} bytes.")));
    }
    let mut signed = Box::new(Context::new(&SHA256));
    signed.update(behind_signature.get(..behind_signature.len() - rest.0.len()).unwrap_or_default());
    let state = State::Blocks { release: Release { version, notes }, signature: signature.to_vec(), signed, left };
    Ok(Some((state, rest.0.to_vec())))
}

/// Reads fields in order, as far as they were received.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<&'a [u8]> {
        let length = self.take(3)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::hash::MessageDigest;
    use openssl::pkey::{PKey, Private};
    use openssl::sign::Signer;
    use proptest::prelude::*;
    use std::sync::OnceLock;

    const CURRENT: Version = Version { major: 3, minor: 1 };

    fn vendor() -> &'static PKey<Private> {
        static KEY: OnceLock<PKey<Private>> = OnceLock::new();
        KEY.get_or_init(|| PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap())
    }

    fn trusted() -> UpdateKey {
        UpdateKey::from_pem(&vendor().public_key_to_pem().unwrap()).unwrap()
    }

    fn field(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[1..], bytes].concat()
    }

    /// An image of `blocks` blocks, signed by the vendor.
    fn image(version: &str, blocks: usize) -> Vec<u8> {
        let mut signed = [field("What is new: ü".as_bytes()), field(version.as_bytes())].concat();
        signed.extend(u32::try_from(blocks).unwrap().to_be_bytes());
        signed.extend((0..512 * blocks).map(|at| u8::try_from(at % 251).unwrap()));
        let mut signer = Signer::new(MessageDigest::sha256(), vendor()).unwrap();
        let signature = signer.sign_oneshot_to_vec(&signed).unwrap();
        [MAGIC.to_vec(), field(&signature), signed].concat()
    }

    fn take(bytes: &[u8], piece: usize) -> Result<(Release, Vec<u8>), String> {
        let mut intake = Intake::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(piece) {
            out.extend(intake.feed(piece).map_err(|error| error.to_string())?);
        }
        let release = intake.finish(&trusted(), CURRENT).map_err(|error| error.to_string())?;
        Ok((release, out))
    }

    #[test]
    fn a_signed_image_is_read_whole_however_it_is_split() {
        let file = image("3.0", 3);
        for piece in [1, 7, 512, file.len()] {
            let (release, blocks) = take(&file, piece).unwrap();
            assert_eq!(release, Release { version: Version { major: 3, minor: 0 }, notes: "What is new: ü".into() });
            assert_eq!(blocks, file[file.len() - 3 * 512..]);
        }
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let file = image("3.1", 1);
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(take(&changed, 4096).is_err(), "byte {at}");
        }
        for at in 0..file.len() {
            assert!(take(&file[..at], 4096).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn each_fault_has_its_own_message() {
        let good = image("3.1", 1);
        let refused = |bytes: &[u8]| take(bytes, 100).unwrap_err();
        assert_eq!(refused(b"something else"), "Invalid update file");
        assert_eq!(refused(&good[..20]), "Unexpected end of data");
        assert_eq!(refused(&good[..good.len() - 1]), "unexpected end of data");
        assert_eq!(refused(&[&good[..], b"x"].concat()), "unexpected end of data");
        for version in ["3", "3.x", "3.1.2", "-3.1", "+3.1", "", "3.", "99999999999.1"] {
            assert_eq!(refused(&image(version, 1)), "The version of the update is not of the form `major.minor`.");
        }
        assert_eq!(refused(&image("2.9", 1)), "Software version downgrade not allowed.");
        let last = good.len() - 1;
        let mut changed = good;
        changed[last] ^= 1;
        assert_eq!(refused(&changed), "Signature check of update image failed.");
    }

    #[test]
    fn a_head_that_never_ends_is_given_up() {
        let mut intake = Intake::default();
        intake.feed(MAGIC).unwrap();
        let endless = [0xff; 1 << 16];
        let fed = (0..1_000).find_map(|_| intake.feed(&endless).err());
        assert_eq!(fed.unwrap().to_string(), "Unexpected end of data");
    }

    #[test]
    fn only_rsa_keys_are_trusted() {
        let ed25519 = PKey::generate_ed25519().unwrap().public_key_to_pem().unwrap();
        assert!(UpdateKey::from_pem(&ed25519).is_err());
        assert!(UpdateKey::from_pem(b"nothing").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(tail in any::<Vec<u8>>()) {
            let _ = take(&[MAGIC, &tail].concat(), 13);
        }
    }
}
