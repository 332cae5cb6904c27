//! How the passphrase of a user is stored.

/// How a passphrase digest was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HMAC-SHA256(salt, passphrase): users brought by a NetHSM backup, until their next passphrase.
    HmacSha256,
    /// scrypt over that.
    Scrypt,
}

/// Digest of a user passphrase.
#[derive(Clone)]
pub struct Digest {
    /// How it was made.
    pub scheme: Scheme,
    /// Random, per passphrase.
    pub salt: [u8; 16],
    /// The digest itself.
    pub hash: [u8; 32],
}
