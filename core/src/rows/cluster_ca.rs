//! The CA that signs the TLS certificates of a cluster, as stored.

use crate::rows::path::{Generation, RowPath};
use crate::rows::record::TableId;
use zeroize::Zeroizing;

use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::record::Record;

/// The certificate of the CA that signs the TLS certificates of a cluster.
pub struct ClusterCa(
    /// DER.
    pub Vec<u8>,
);

impl Record for ClusterCa {
    const TABLE: TableId = TableId::ClusterCas;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        Writer::new(1).bytes(&self.0).finish()
    }
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let certificate = reader.bytes()?.to_vec();
        reader.end()?;
        Ok(Self(certificate))
    }
    fn weight(&self) -> u64 {
        self.0.len() as u64
    }
}

impl RowPath<ClusterCa> {
    /// The row of the cluster CA.
    pub fn cluster_ca(generation: Generation) -> Self {
        Self::new(generation, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_of_version_1_does_not_change() {
        let record = ClusterCa(vec![0xaa, 0xbb]);
        let hex = base16ct::lower::encode_string(&record.encode());
        assert_eq!(hex, include_str!("../../testdata/formats/cluster-ca-v1.hex").trim());
        assert_eq!(ClusterCa::decode(&record.encode()).unwrap().0, record.0);
        assert!(ClusterCa::decode(&[2, 0, 0, 0, 0]).is_err() && ClusterCa::decode(&[1, 0, 0, 0, 0, 0]).is_err());
    }
}
