//! A user's name and passphrase, as the header that carries them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use casemate_api::Passphrase;
use ureq::http::HeaderValue;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::wipe::WipedBytes;

pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) passphrase: Passphrase,
}

impl User {
    /// `Authorization` (RFC 7617). The value wipes itself when the request is gone.
    pub(crate) fn authorization(&self) -> Result<HeaderValue, Error> {
        let mut plain = WipedBytes::with_capacity(self.name.len() + 1 + self.passphrase.expose().len());
        plain.push(self.name.as_bytes());
        plain.push(b":");
        plain.push(self.passphrase.expose());
        let wrong = |_| Error::Settings("the credentials do not fit into a header".into());
        let mut value = Zeroizing::new(vec![0; BASIC.len() + plain.as_slice().len().div_ceil(3) * 4]);
        let (scheme, token) = value.split_at_mut(BASIC.len());
        scheme.copy_from_slice(BASIC);
        BASE64_STANDARD.encode_slice(plain.as_slice(), token).map_err(wrong)?;
        let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(value))
            .map_err(|_| Error::Settings("the credentials do not fit into a header".into()))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

const BASIC: &[u8] = b"Basic ";
