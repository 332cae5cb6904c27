//! A certificate of a key, as stored.

use crate::rows::path::{Generation, RowPath, RowPrefix};
use crate::rows::path::{KeyRef, NamespaceNumber};
use crate::rows::record::TableId;
use zeroize::Zeroizing;

use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::record::Record;

/// Bytes that a client stored with a key, usually a certificate. They are not interpreted.
pub struct CertificateRecord(pub Vec<u8>);

impl Record for CertificateRecord {
    const TABLE: TableId = TableId::Certificates;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        Writer::new(1).raw(&self.0).finish()
    }
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        match Reader::open(bytes)? {
            (1, mut reader) => Ok(Self(reader.rest().to_vec())),
            _ => Err(BadRecord("its format is of a newer version")),
        }
    }
    fn weight(&self) -> u64 {
        self.0.len() as u64
    }
}

impl RowPath<CertificateRecord> {
    /// The certificate of a key.
    pub fn certificate(generation: Generation, key: KeyRef) -> Self {
        Self::new(generation, &[&key.namespace.to_be_bytes(), &key.uid])
    }
}

impl RowPrefix<CertificateRecord> {
    /// The certificates of one namespace.
    pub fn certificates(generation: Generation, namespace: NamespaceNumber) -> Self {
        Self::new(generation, &[&namespace.to_be_bytes()])
    }
}
