//! ECDSA on the Brainpool curves (RFC 5639) for `rustls-webpki`, which does not support them.

use aws_lc_rs::digest;
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};

use crate::crypto::mech::ffi;
use crate::crypto::mech::ffi::Curve;

/// ECDSA on one curve with one hash.
struct Ecdsa {
    curve: Curve,
    hash: &'static digest::Algorithm,
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
}

impl std::fmt::Debug for Ecdsa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Brainpool ECDSA")
    }
}

impl SignatureVerificationAlgorithm for Ecdsa {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let digest = digest::digest(self.hash, message);
        let verified = ffi::verify_ecdsa(self.curve, public_key, digest.as_ref(), signature);
        verified.map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

/// id-ecPublicKey with the curve (RFC 5480 §2.1.1, RFC 5639 §4.1), the content of the AlgorithmIdentifier without tag
/// and length.
const P256: AlgorithmIdentifier = AlgorithmIdentifier::from_slice(
    b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x07",
);
const P384: AlgorithmIdentifier = AlgorithmIdentifier::from_slice(
    b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x0b",
);
const P512: AlgorithmIdentifier = AlgorithmIdentifier::from_slice(
    b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x0d",
);

const fn on(curve: Curve, key: AlgorithmIdentifier) -> [Ecdsa; 3] {
    [
        Ecdsa { curve, hash: &digest::SHA256, key, signature: alg_id::ECDSA_SHA256 },
        Ecdsa { curve, hash: &digest::SHA384, key, signature: alg_id::ECDSA_SHA384 },
        Ecdsa { curve, hash: &digest::SHA512, key, signature: alg_id::ECDSA_SHA512 },
    ]
}

static ON_CURVES: [[Ecdsa; 3]; 3] =
    [on(Curve::BrainpoolP256, P256), on(Curve::BrainpoolP384, P384), on(Curve::BrainpoolP512, P512)];

/// Every Brainpool curve with every hash.
pub(super) fn algorithms() -> impl Iterator<Item = &'static dyn SignatureVerificationAlgorithm> {
    ON_CURVES.iter().flatten().map(|algorithm| algorithm as &dyn SignatureVerificationAlgorithm)
}
