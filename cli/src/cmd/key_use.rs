//! `sign`, `decrypt`, `encrypt`: the use of keys, on files or standard input.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Algorithm, Context as Hasher, SHA1_FOR_LEGACY_USE_ONLY, SHA224, SHA256, SHA384, SHA512};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::body::keys;
use casemate_api::mechanisms::{self, Hash, Input, MechanismSpec, Mode, TABLE};
use casemate_api::{DecryptMode, EncryptMode, KeyId, SignMode};
use casemate_client::Session;
use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use super::args::api_value;
use super::bytes::{Format, open, read, show};
use crate::exit::{Failure, local};
use crate::profile::Context;

/// Arguments of `sign`.
#[derive(Args)]
pub(crate) struct Sign {
    /// The key
    #[arg(value_parser = KeyId::parse)]
    key: KeyId,
    /// File to sign; - is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// PKCS1, PSS_SHA1 to PSS_SHA512, PSS_MD5, EdDSA, ECDSA or BIP340; not needed if the key has one mode only
    #[arg(long, short, value_parser = api_value::<SignMode>)]
    mode: Option<SignMode>,
    /// Hash of PKCS1 signatures; the other modes imply theirs
    #[arg(long, value_enum)]
    hash: Option<HashName>,
    /// The file contains what the mode signs: a digest, or for PKCS1 a DigestInfo
    #[arg(long, conflicts_with = "hash")]
    prehashed: bool,
    /// How to print the signature; ECDSA signatures are DER
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Hashes of PKCS1 signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HashName {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl From<HashName> for Hash {
    fn from(name: HashName) -> Self {
        match name {
            HashName::Sha1 => Hash::Sha1,
            HashName::Sha224 => Hash::Sha224,
            HashName::Sha256 => Hash::Sha256,
            HashName::Sha384 => Hash::Sha384,
            HashName::Sha512 => Hash::Sha512,
        }
    }
}

impl Sign {
    /// Hashes the file here, and has the HSM sign.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = context.session()?;
        let mode = match self.mode {
            Some(mode) => mode,
            None => only_mode(&session, &self.key, "sign", |mode| match mode {
                Mode::Sign(mode) => Some(mode),
                Mode::Decrypt(_) | Mode::Encrypt(_) => None,
            })?,
        };
        if self.hash.is_some() && mode != SignMode::PKCS1 {
            return Err(Failure::Usage("--hash is for the mode PKCS1; the other modes imply their hash.".into()));
        }
        let message = if self.prehashed { read(&self.file)? } else { self.message(&session, mode)? };
        let message = BASE64_STANDARD.encode(&*message);
        let reply = session.keys().sign(&self.key, &keys::Sign { mode, message })?;
        let signature =
            BASE64_STANDARD.decode(&reply.signature).map_err(local("The HSM's answer is not valid base64"))?;
        show(context, "signature", &signature, self.format)
    }

    /// The input of the mode for this file.
    fn message(&self, session: &Session, mode: SignMode) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let hash = match mode {
            SignMode::EdDSA | SignMode::BIP340 => return read(&self.file),
            SignMode::PKCS1 => self.hash.map_or(Hash::Sha256, Hash::from),
            SignMode::PSS_MD5 => Hash::Md5,
            SignMode::PSS_SHA1 => Hash::Sha1,
            SignMode::PSS_SHA224 => Hash::Sha224,
            SignMode::PSS_SHA256 => Hash::Sha256,
            SignMode::PSS_SHA384 => Hash::Sha384,
            SignMode::PSS_SHA512 => Hash::Sha512,
            // It depends on the curve, so the key is read.
            SignMode::ECDSA => {
                let key = session.keys().read(&self.key)?.key_type;
                match mechanisms::find(key, Mode::Sign(SignMode::ECDSA)).map(|row| row.input) {
                    Some(Input::Digest(32)) => Hash::Sha256,
                    Some(Input::Digest(48)) => Hash::Sha384,
                    Some(Input::Digest(64)) => Hash::Sha512,
                    _ => {
                        let (id, key) = (&self.key, key.as_str());
                        return Err(Failure::Usage(format!(
                            "The key {id} has the type {key}, which does not support ECDSA."
                        )));
                    }
                }
            }
        };
        let digest = digest(&self.file, hash)?;
        let prefix = if mode == SignMode::PKCS1 { digest_info(hash) } else { &[] };
        Ok(Zeroizing::new([prefix, digest.as_slice()].concat()))
    }
}

/// The mode of a key that has only one of its kind.
fn only_mode<M: Copy + Debug>(
    session: &Session,
    id: &KeyId,
    what: &str,
    of_kind: impl Fn(Mode) -> Option<M>,
) -> Result<M, Failure> {
    let key = session.keys().read(id)?;
    let can = |row: &&MechanismSpec| row.key == key.key_type && key.mechanisms.contains(&row.mechanism);
    let modes: Vec<M> = TABLE.iter().filter(can).filter_map(|row| of_kind(row.mode)).collect();
    match modes.as_slice() {
        [mode] => Ok(*mode),
        [] => Err(Failure::Usage(format!("The key {id} cannot {what}: none of its mechanisms allows that."))),
        several => {
            let several: Vec<_> = several.iter().map(|mode| format!("{mode:?}")).collect();
            Err(Failure::Usage(format!(
                "The key {id} has several modes: choose one with --mode {}.",
                several.join(" or ")
            )))
        }
    }
}

/// Hashes a file of any size.
fn digest(path: &Path, hash: Hash) -> Result<Vec<u8>, Failure> {
    let algorithm: &'static Algorithm = match hash {
        Hash::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha224 => &SHA224,
        Hash::Sha256 => &SHA256,
        Hash::Sha384 => &SHA384,
        Hash::Sha512 => &SHA512,
        Hash::Md5 => {
            return Err(Failure::Usage(
                "MD5 is broken and not supported here: hash the file yourself and use --prehashed.".into(),
            ));
        }
    };
    let mut hasher = Hasher::new(algorithm);
    let mut from = open(path)?;
    let mut buffer = Zeroizing::new(vec![0; 64 << 10]);
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish().as_ref().to_vec()),
            Ok(read) => read,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
            Err(why) => return Err(local(format_args!("{} cannot be read", path.display()))(why)),
        };
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
}

/// The prefix of the digest in a DigestInfo (RFC 8017 §9.2, note 1).
fn digest_info(hash: Hash) -> &'static [u8] {
    match hash {
        Hash::Md5 => b"\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x05\x00\x04\x10",
        Hash::Sha1 => b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14",
        Hash::Sha224 => b"\x30\x2d\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x04\x05\x00\x04\x1c",
        Hash::Sha256 => b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
        Hash::Sha384 => b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30",
        Hash::Sha512 => b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40",
    }
}

/// Arguments of `decrypt`.
#[derive(Args)]
pub(crate) struct Decrypt {
    /// The key
    #[arg(value_parser = KeyId::parse)]
    key: KeyId,
    /// File to decrypt; - is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// RAW, PKCS1, OAEP_MD5, OAEP_SHA1 to OAEP_SHA512 or AES_CBC; not needed if the key has one mode only
    #[arg(long, short, value_parser = api_value::<DecryptMode>)]
    mode: Option<DecryptMode>,
    /// Initialisation vector of AES_CBC in base64
    #[arg(long, value_name = "BASE64")]
    iv: Option<String>,
    /// The file is base64
    #[arg(long)]
    base64: bool,
    /// How to print the plaintext
    #[arg(long, value_enum, default_value = "raw")]
    format: Format,
}

impl Decrypt {
    /// Decrypts.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = context.session()?;
        let bytes = read(&self.file)?;
        let encrypted = if self.base64 {
            let text = str::from_utf8(&bytes).map_err(local("The file is not valid base64"))?;
            text.split_ascii_whitespace().collect()
        } else {
            BASE64_STANDARD.encode(&*bytes)
        };
        let mode = match self.mode {
            Some(mode) => mode,
            None => only_mode(&session, &self.key, "decrypt", |mode| match mode {
                Mode::Decrypt(mode) => Some(mode),
                Mode::Sign(_) | Mode::Encrypt(_) => None,
            })?,
        };
        let reply = session.keys().decrypt(&self.key, &keys::Decrypt { mode, encrypted, iv: self.iv })?;
        let plain = BASE64_STANDARD.decode(reply.decrypted.as_bytes());
        let plain = Zeroizing::new(plain.map_err(local("The HSM's answer is not valid base64"))?);
        show(context, "decrypted", &plain, self.format)
    }
}

/// Arguments of `encrypt`.
#[derive(Args)]
pub(crate) struct Encrypt {
    /// The key
    #[arg(value_parser = KeyId::parse)]
    key: KeyId,
    /// File to encrypt, whose length is a multiple of 16 bytes; - is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// AES_CBC
    #[arg(long, short, value_parser = api_value::<EncryptMode>, default_value = "AES_CBC")]
    mode: EncryptMode,
    /// Initialisation vector in base64; by default the HSM chooses one
    #[arg(long, value_name = "BASE64")]
    iv: Option<String>,
}

impl Encrypt {
    /// Encrypts, and prints the ciphertext and the initialisation vector, both of which are needed to decrypt.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = context.session()?;
        let message = Zeroizing::new(BASE64_STANDARD.encode(&*read(&self.file)?));
        let reply = session.keys().encrypt(&self.key, &keys::Encrypt { mode: self.mode, message, iv: self.iv })?;
        // Not as a table, which would wrap long ciphertexts.
        context.out.lines(&reply, [format!("encrypted {}", reply.encrypted), format!("iv {}", reply.iv)])
    }
}
