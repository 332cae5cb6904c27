//! Attributes as an application gives them, copied out of its memory.

use cryptoki_sys::{CK_ATTRIBUTE_TYPE, CK_BBOOL, CK_FALSE, CK_TRUE, CK_ULONG, CKR_ATTRIBUTE_VALUE_INVALID};
use zeroize::Zeroizing;

use crate::rv::Rv;

/// The attributes of one call, in their order. Values may be secret: they are wiped when dropped and never printed.
#[derive(Default)]
pub struct Template(Vec<(CK_ATTRIBUTE_TYPE, Zeroizing<Vec<u8>>)>);

impl Template {
    /// A template of these attributes.
    pub fn new(attributes: Vec<(CK_ATTRIBUTE_TYPE, Zeroizing<Vec<u8>>)>) -> Self {
        Self(attributes)
    }

    /// The same with these attributes, which replace its own.
    pub(super) fn with(&self, attributes: Vec<(CK_ATTRIBUTE_TYPE, Zeroizing<Vec<u8>>)>) -> Self {
        let others = self.0.iter().filter(|(own, _)| !attributes.iter().any(|(given, _)| given == own)).cloned();
        Self(others.collect::<Vec<_>>().into_iter().chain(attributes).collect())
    }

    /// Whether there is no attribute.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The attributes in their order.
    pub fn iter(&self) -> impl Iterator<Item = (CK_ATTRIBUTE_TYPE, &[u8])> {
        self.0.iter().map(|(attribute, value)| (*attribute, value.as_slice()))
    }

    /// The value of `attribute`, if it is given. Of several, the first.
    pub fn bytes(&self, attribute: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
        self.iter().find(|(given, _)| *given == attribute).map(|(_, value)| value)
    }

    /// A `CK_BBOOL`.
    pub fn bool(&self, attribute: CK_ATTRIBUTE_TYPE) -> Result<Option<bool>, Rv> {
        const TRUE: &[CK_BBOOL] = &[CK_TRUE];
        const FALSE: &[CK_BBOOL] = &[CK_FALSE];
        match self.bytes(attribute) {
            None => Ok(None),
            Some(TRUE) => Ok(Some(true)),
            Some(FALSE) => Ok(Some(false)),
            Some(_) => Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)),
        }
    }

    /// A `CK_ULONG`.
    pub fn ulong(&self, attribute: CK_ATTRIBUTE_TYPE) -> Result<Option<CK_ULONG>, Rv> {
        self.bytes(attribute).map(ulong).transpose()
    }

    /// An array of `CK_ULONG`.
    pub fn ulongs(&self, attribute: CK_ATTRIBUTE_TYPE) -> Result<Option<Vec<CK_ULONG>>, Rv> {
        let Some(bytes) = self.bytes(attribute) else { return Ok(None) };
        bytes.chunks(size_of::<CK_ULONG>()).map(ulong).collect::<Result<_, _>>().map(Some)
    }

    /// A text in UTF-8. A NUL at its end, which some applications count, is left out.
    pub fn text(&self, attribute: CK_ATTRIBUTE_TYPE) -> Result<Option<&str>, Rv> {
        let Some(bytes) = self.bytes(attribute) else { return Ok(None) };
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        std::str::from_utf8(bytes).map(Some).map_err(|_| Rv(CKR_ATTRIBUTE_VALUE_INVALID))
    }
}

fn ulong(bytes: &[u8]) -> Result<CK_ULONG, Rv> {
    bytes.try_into().map(CK_ULONG::from_ne_bytes).map_err(|_| Rv(CKR_ATTRIBUTE_VALUE_INVALID))
}
