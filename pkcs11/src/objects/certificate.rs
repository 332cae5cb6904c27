//! A certificate, and what its object shows of it (PKCS#11 3.2 §4.6, RFC 5280).

use x509_cert::der::pem::{self, LineEnding};
use x509_cert::der::{Decode, Encode};

use crate::config::CertificateFormat;

/// A certificate in DER and its parts, each in DER.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) der: Vec<u8>,
    pub(super) subject: Vec<u8>,
    pub(super) issuer: Vec<u8>,
    pub(super) serial_number: Vec<u8>,
    pub(super) public_key_info: Vec<u8>,
    /// `CK_DATE`: YYYYMMDD.
    pub(super) start_date: [u8; 8],
    pub(super) end_date: [u8; 8],
}

const LABEL: &str = "CERTIFICATE";
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

impl Certificate {
    /// Reads DER or PEM; of several in PEM, the first, which is that of the key. None: it is no certificate.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        match find(bytes, BEGIN) {
            Some(start) if !bytes.starts_with(&[0x30]) => {
                let from = bytes.get(start..)?;
                let block = from.get(..find(from, END)? + END.len())?;
                Self::of_der(pem::decode_vec(block).ok().filter(|(label, _)| *label == LABEL)?.1)
            }
            _ => Self::of_der(bytes.to_vec()),
        }
    }

    fn of_der(der: Vec<u8>) -> Option<Self> {
        let parsed = x509_cert::Certificate::from_der(&der).ok()?;
        let parsed = parsed.tbs_certificate();
        Some(Self {
            subject: parsed.subject().to_der().ok()?,
            issuer: parsed.issuer().to_der().ok()?,
            serial_number: parsed.serial_number().to_der().ok()?,
            public_key_info: parsed.subject_public_key_info().to_der().ok()?,
            start_date: date(parsed.validity().not_before)?,
            end_date: date(parsed.validity().not_after)?,
            der,
        })
    }

    /// The form in which it is stored.
    pub(super) fn stored(&self, format: CertificateFormat) -> Option<Vec<u8>> {
        match format {
            CertificateFormat::Der => Some(self.der.clone()),
            CertificateFormat::Pem => pem::encode_string(LABEL, LineEnding::LF, &self.der).ok().map(String::into_bytes),
        }
    }
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

fn date(time: x509_cert::time::Time) -> Option<[u8; 8]> {
    let time = time.to_date_time();
    format!("{:04}{:02}{:02}", time.year(), time.month(), time.day()).into_bytes().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued() -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed(["web.example".to_owned()]).unwrap()
    }

    #[test]
    fn certificates_are_read_in_both_forms_and_stored_in_either() {
        let (one, other) = (issued().cert, issued().cert);
        let of_der = Certificate::read(one.der()).unwrap();
        let chain = format!("subject=x\n{}\n{}", one.pem(), other.pem());
        assert_eq!(Certificate::read(chain.as_bytes()).as_ref(), Some(&of_der));
        assert_eq!(Certificate::read(one.pem().replace('\n', "\r\n").as_bytes()).as_ref(), Some(&of_der));
        assert_eq!(of_der.stored(CertificateFormat::Der).unwrap(), one.der().as_ref());
        let pem = of_der.stored(CertificateFormat::Pem).unwrap();
        assert!(pem.starts_with(BEGIN));
        assert_eq!(Certificate::read(&pem).as_ref(), Some(&of_der));
        assert_eq!(of_der.subject, of_der.issuer);
        assert_eq!((of_der.start_date, of_der.end_date), (*b"19750101", *b"40960101"), "the defaults of rcgen");
    }

    #[test]
    fn other_bytes_are_no_certificate() {
        let der = issued().cert.der().to_vec();
        for bytes in [&b""[..], b"hello", b"0", BEGIN, &der[1..], &der[..der.len() - 1]] {
            assert_eq!(Certificate::read(bytes), None);
        }
    }
}
