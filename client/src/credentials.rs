//! A user's name and passphrase, and the header that carries them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use casemate_api::Passphrase;
use ureq::http::HeaderValue;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::wipe::WipedBytes;

/// Credentials of one user.
pub(crate) struct Credentials {
    /// The name, with its namespace.
    pub(crate) user: String,
    pub(crate) passphrase: Passphrase,
}

impl Credentials {
    /// The value of `Authorization` (RFC 7617). It is wiped when the request is dropped.
    pub(crate) fn authorization(&self) -> Result<HeaderValue, Error> {
        let mut plain = WipedBytes::with_capacity(self.user.len() + 1 + self.passphrase.expose().len());
        plain.push(self.user.as_bytes());
        plain.push(b":");
        plain.push(self.passphrase.expose());
        let too_long = || Error::Settings("the credentials do not fit into a header".into());
        let mut value = Zeroizing::new(vec![0; BASIC.len() + plain.as_slice().len().div_ceil(3) * 4]);
        let (scheme, token) = value.split_at_mut(BASIC.len());
        scheme.copy_from_slice(BASIC);
        BASE64_STANDARD.encode_slice(plain.as_slice(), token).map_err(|_| too_long())?;
        let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(value)).map_err(|_| too_long())?;
        header.set_sensitive(true);
        Ok(header)
    }
}

const BASIC: &[u8] = b"Basic ";
