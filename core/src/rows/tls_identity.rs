//! The TLS key and chain of this device, as stored.

use zeroize::Zeroizing;

use crate::rows::encoding::{BadRecord, Reader, Writer};

/// The TLS key and certificate chain of this device.
pub struct TlsIdentity {
    /// PKCS#8 private key (RFC 5958), DER.
    pub private_key: Zeroizing<Vec<u8>>,
    /// Certificates, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
}

impl TlsIdentity {
    /// The stored form.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let count = u32::try_from(self.chain.len()).unwrap_or(u32::MAX);
        let head = Writer::new(1).bytes(&self.private_key).u32(count);
        self.chain.iter().fold(head, |writer, certificate| writer.bytes(certificate)).finish()
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let private_key = Zeroizing::new(reader.bytes()?.to_vec());
        let count = reader.u32()?;
        let chain = (0..count).map(|_| reader.bytes().map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { private_key, chain })
    }
}
