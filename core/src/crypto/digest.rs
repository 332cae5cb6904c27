//! SHA-256 (FIPS 180-4) of public data: ETags, certificate fingerprints.

use aws_lc_rs::digest::{Context, SHA256};

/// The digest of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    sha256_of([bytes])
}

/// The digest of the concatenated `parts`.
pub fn sha256_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    parts.into_iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn sha256_matches_the_example_of_fips_180() {
        assert_eq!(super::sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(super::sha256_of([&b"a"[..], b"", b"bc"]), super::sha256(b"abc"));
    }
}
