//! The stored digest of a user's passphrase.

/// How a passphrase digest was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HMAC-SHA256 with the salt as key: users restored from a NetHSM's backup, until the digest is hardened.
    HmacSha256,
    /// scrypt (RFC 7914) over the HMAC: see [`crate::crypto::kdf::user_digest`].
    Scrypt,
}

/// Digest of a user passphrase.
#[derive(Clone)]
pub struct Digest {
    /// How it was made.
    pub scheme: Scheme,
    /// Random, a new one for each passphrase.
    pub salt: [u8; 16],
    /// The digest, 32 bytes as the scheme gives them.
    pub hash: [u8; 32],
}
