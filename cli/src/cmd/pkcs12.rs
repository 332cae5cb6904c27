//! Keys and certificates in PKCS#12 files (RFC 7292), as `openssl pkcs12 -export` and Windows write them.
//!
//! The library that reads them does not wipe its memory, which goes with the process soon after.

use std::path::{Path, PathBuf};

use clap::Args;
use p12_keystore::error::Error;
use p12_keystore::{CertificateBag, Pkcs12Archive};
use x509_cert::der::pem::{LineEnding, encode_string};
use zeroize::Zeroizing;

use super::bytes::read;
use crate::exit::{Failure, local};
use crate::prompt;

/// Arguments of `key import` about PKCS#12.
#[derive(Args)]
pub(crate) struct Pkcs12 {
    /// Private key, and its certificate if there is one, in PKCS#12; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pem", "parts", "key_type"])]
    pub(super) pkcs12: Option<PathBuf>,
    /// File with the password of the PKCS#12 file
    #[arg(long, value_name = "FILE", requires = "pkcs12")]
    pub(super) pkcs12_password_file: Option<PathBuf>,
    /// Do not import the certificate of the PKCS#12 file
    #[arg(long, requires = "pkcs12")]
    pub(super) no_certificate: bool,
}

/// Key and certificate from a file.
pub(super) struct Content {
    /// Private key in PEM.
    pub(super) key: Zeroizing<String>,
    /// The certificate of this key in PEM.
    pub(super) certificate: Option<String>,
}

impl Pkcs12 {
    /// Reads the only key of `path`, and its certificate.
    pub(super) fn open(&self, path: &Path) -> Result<Content, Failure> {
        let name = path.display();
        let bytes = read(path)?;
        let password = prompt::current(
            &format!("Password of {name}"),
            self.pkcs12_password_file.as_deref(),
            "--pkcs12-password-file",
        )?;
        let password = str::from_utf8(password.expose()).unwrap_or_default();
        let archive = Pkcs12Archive::from_pkcs12(&bytes, password).map_err(|why| wrong(path, &why))?;
        let key = match archive.keys.as_slice() {
            [key] => key,
            [] => return Err(Failure::Usage(format!("{name} has no private key."))),
            keys => {
                let keys = keys.len();
                return Err(Failure::Usage(format!("{name} has {keys} private keys: create a file for each.")));
            }
        };
        let its_own = |bag: &&CertificateBag| {
            key.local_key_id.as_ref().is_some_and(|id| bag.local_key_id.as_deref() == Some(id.as_ref()))
        };
        let certificate = match (archive.certs.iter().find(its_own), archive.certs.as_slice()) {
            (Some(bag), _) => Some(bag),
            // A single certificate belongs to the key, unless their ids differ.
            (None, [bag]) if key.local_key_id.is_none() || bag.local_key_id.is_none() => Some(bag),
            (None, []) => None,
            (None, _) if self.no_certificate => None,
            (None, _) => {
                let text = format!("{name} does not tell which certificate belongs to the key: use --no-certificate.");
                return Err(Failure::Usage(text));
            }
        };
        let pem = |label, der| encode_string(label, LineEnding::LF, der).map_err(local(format_args!("{name} in PEM")));
        Ok(Content {
            key: Zeroizing::new(pem("PRIVATE KEY", key.key.as_der())?),
            certificate: match certificate.filter(|_| !self.no_certificate) {
                Some(bag) => Some(pem("CERTIFICATE", bag.cert.as_der())?),
                None => None,
            },
        })
    }
}

fn wrong(path: &Path, why: &Error) -> Failure {
    let name = path.display();
    match why {
        Error::MacError(_) => Failure::Usage(format!("{name} cannot be opened with this password. Check it.")),
        Error::UnsupportedMacAlgorithm | Error::UnsupportedEncryptionScheme => {
            Failure::Usage(format!("{name} is encrypted in a way that is not supported: convert it with openssl."))
        }
        // Other errors may quote the content, which is secret.
        _ => Failure::Usage(format!("{name} is not a PKCS#12 file, or is damaged.")),
    }
}
