//! Encoding of records: a version byte, then the fields in order. Formats are append-only, and every version has a golden
//! file in `testdata/formats`.

use zeroize::Zeroizing;

/// A stored record is damaged or was written by a newer version. The text is the reason, such as `it is too short`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored record cannot be read: {0}")]
pub struct BadRecord(pub &'static str);

/// Writes fields in order. The buffer is wiped when dropped, because some fields are secret.
#[derive(Default)]
pub struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// Starts a record of format version `version`.
    pub fn new(version: u8) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(256));
        bytes.push(version);
        Self(bytes)
    }

    /// One byte.
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Four bytes, big-endian.
    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Eight bytes, big-endian.
    pub fn u64(self, value: u64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Bytes of a fixed length, without a length in front.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes with their length in front (four bytes, big-endian).
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // Values are bounded far below 4 GiB before they get here.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.u32(length).raw(bytes)
    }

    /// The finished record.
    pub fn finish(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// Reads fields in order.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts reading a record and returns its format version.
    pub fn open(bytes: &'a [u8]) -> Result<(u8, Self), BadRecord> {
        let mut reader = Self(bytes);
        let version = reader.u8()?;
        Ok((version, reader))
    }

    /// The next `length` bytes.
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], BadRecord> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(BadRecord("it is too short"))?;
        self.0 = tail;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        <[u8; N]>::try_from(self.raw(N)?).map_err(|_| BadRecord("it is too short"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, BadRecord> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> Result<u32, BadRecord> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self) -> Result<u64, BadRecord> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Bytes with their length in front.
    pub fn bytes(&mut self) -> Result<&'a [u8], BadRecord> {
        let length = self.u32()?;
        self.raw(usize::try_from(length).map_err(|_| BadRecord("it is too long"))?)
    }

    /// UTF-8 text with its length in front.
    pub fn text(&mut self) -> Result<String, BadRecord> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| BadRecord("a text in it is not UTF-8"))
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Checks that nothing is left.
    pub fn end(self) -> Result<(), BadRecord> {
        if self.0.is_empty() { Ok(()) } else { Err(BadRecord("it is too long")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_order_and_nothing_may_be_left() {
        let bytes = Writer::new(3).u8(7).u32(8).u64(9).bytes(b"ab").raw(b"c").finish();
        let (version, mut reader) = Reader::open(&bytes).unwrap();
        assert_eq!((version, reader.u8(), reader.u32(), reader.u64()), (3, Ok(7), Ok(8), Ok(9)));
        assert_eq!(reader.text().unwrap(), "ab");
        assert_eq!(reader.raw(1).unwrap(), b"c");
        assert!(reader.end().is_ok());
        let (_, mut short) = Reader::open(&bytes[..3]).unwrap();
        assert!(short.u64().is_err());
    }
}
