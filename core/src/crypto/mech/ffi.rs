//! The AWS-LC calls that its safe Rust API lacks, each behind an owned pointer. The only `unsafe` code of this crate.
//!
//! Every wrapper owns exactly one C object and frees it once; AWS-LC wipes all memory it frees. Thread safety follows
//! AWS-LC's own rule (`rsa.h`, `ec_key.h`): functions that do not change a key may run concurrently. No wrapper changes
//! a key once it is built. Callers check lengths and meaning; this module only ensures that C reads and writes inside
//! the buffers it gets.
#![expect(unsafe_code, reason = "calls into AWS-LC")]

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use aws_lc_sys as c;
use casemate_api::mechanisms::Hash;
use zeroize::Zeroizing;

use super::error::Failed;
use super::rsa_numbers::Numbers;

/// Turns a C status into a result: 1 is success. On failure also clears the thread's error queue, which nobody reads.
fn done(status: c_int) -> Result<(), Failed> {
    if status == 1 {
        return Ok(());
    }
    // SAFETY: touches only the calling thread's error queue.
    unsafe { c::ERR_clear_error() };
    Err(Failed)
}

/// An owned C object, freed on drop.
macro_rules! owned {
    ($name:ident, $type:ty, $free:path) => {
        struct $name(NonNull<$type>);
        impl $name {
            /// Takes ownership of what a C constructor returned; null means that it failed.
            fn own(pointer: *mut $type) -> Result<Self, Failed> {
                match NonNull::new(pointer) {
                    Some(pointer) => Ok(Self(pointer)),
                    None => done(0).and(Err(Failed)),
                }
            }
            fn get(&self) -> *mut $type {
                self.0.as_ptr()
            }
        }
        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the pointer came from the matching constructor and is freed only here.
                unsafe { $free(self.get()) }
            }
        }
    };
}

owned!(Bn, c::BIGNUM, c::BN_clear_free);
owned!(BnCtx, c::BN_CTX, c::BN_CTX_free);
owned!(RsaPtr, c::RSA, c::RSA_free);
owned!(Pkey, c::EVP_PKEY, c::EVP_PKEY_free);
owned!(PkeyCtx, c::EVP_PKEY_CTX, c::EVP_PKEY_CTX_free);
owned!(EcPtr, c::EC_KEY, c::EC_KEY_free);
owned!(Point, c::EC_POINT, c::EC_POINT_free);

impl Bn {
    fn new() -> Result<Self, Failed> {
        // SAFETY: no arguments.
        Self::own(unsafe { c::BN_new() })
    }

    fn from_be(bytes: &[u8]) -> Result<Self, Failed> {
        // SAFETY: reads `len` bytes of a live slice; null asks for a new number.
        Self::own(unsafe { c::BN_bin2bn(bytes.as_ptr(), bytes.len(), ptr::null_mut()) })
    }

    fn from_word(word: u64) -> Result<Self, Failed> {
        Self::from_be(&word.to_be_bytes())
    }

    fn to_be(&self) -> Result<Zeroizing<Vec<u8>>, Failed> {
        // SAFETY: `self` is a live number.
        let len = unsafe { c::BN_num_bytes(self.get()) } as usize;
        let mut bytes = Zeroizing::new(vec![0; len]);
        // SAFETY: writes exactly `len` bytes into a buffer of `len` bytes.
        done(unsafe { c::BN_bn2bin_padded(bytes.as_mut_ptr(), len, self.get()) })?;
        Ok(bytes)
    }
}

impl BnCtx {
    fn new() -> Result<Self, Failed> {
        // SAFETY: no arguments.
        Self::own(unsafe { c::BN_CTX_new() })
    }
}

/// Whether `candidate` (big-endian) is prime; the answer is wrong with a probability below 2⁻⁶⁴ even for adversarial
/// input (32 rounds of Miller–Rabin). Takes 20 ms for 1024 bits, seconds for 4096.
pub(crate) fn is_prime(candidate: &[u8]) -> Result<bool, Failed> {
    const ROUNDS: c_int = 32;
    let (candidate, ctx) = (Bn::from_be(candidate)?, BnCtx::new()?);
    let mut prime: c_int = 0;
    // SAFETY: all pointers are live for the call; null asks for no progress callback.
    done(unsafe { c::BN_primality_test(&mut prime, candidate.get(), ROUNDS, ctx.get(), 1, ptr::null_mut()) })?;
    Ok(prime == 1)
}

/// A fresh random prime of exactly `bits` bits with its two highest bits set, big-endian.
pub(crate) fn random_prime(bits: usize) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let prime = Bn::new()?;
    let bits = c_int::try_from(bits).map_err(|_| Failed)?;
    // SAFETY: writes into a live number; nulls ask for no congruence and no progress callback.
    done(unsafe { c::BN_generate_prime_ex(prime.get(), bits, 0, ptr::null(), ptr::null(), ptr::null_mut()) })?;
    prime.to_be()
}

/// The two primes of a fresh RSA key (FIPS 186-5 A.1.3). `bits` must be a multiple of 128: AWS-LC rounds others down.
pub(crate) fn random_rsa_primes(bits: usize, e: u64) -> Result<[Zeroizing<Vec<u8>>; 2], Failed> {
    let bits = c_int::try_from(bits).map_err(|_| Failed)?;
    let e = Bn::from_word(e)?;
    // SAFETY: no arguments.
    let rsa = RsaPtr::own(unsafe { c::RSA_new() })?;
    // SAFETY: writes into a live, empty key; null asks for no progress callback.
    done(unsafe { c::RSA_generate_key_ex(rsa.get(), bits, e.get(), ptr::null_mut()) })?;
    let copy = |number: *const c::BIGNUM| {
        // SAFETY: `number` belongs to `rsa`, which lives; the copy is ours. BN_dup refuses null.
        Bn::own(unsafe { c::BN_dup(number) })?.to_be()
    };
    // SAFETY: reads a live key; the numbers stay the key's own.
    let (p, q) = unsafe { (c::RSA_get0_p(rsa.get()), c::RSA_get0_q(rsa.get())) };
    Ok([copy(p)?, copy(q)?])
}

fn md(hash: Hash) -> *const c::EVP_MD {
    // SAFETY: each returns a pointer to a static table.
    unsafe {
        match hash {
            Hash::Md5 => c::EVP_md5(),
            Hash::Sha1 => c::EVP_sha1(),
            Hash::Sha224 => c::EVP_sha224(),
            Hash::Sha256 => c::EVP_sha256(),
            Hash::Sha384 => c::EVP_sha384(),
            Hash::Sha512 => c::EVP_sha512(),
        }
    }
}

/// How the result of an RSA decryption is padded.
#[derive(Clone, Copy)]
pub(crate) enum Padding {
    /// No padding.
    None,
    /// PKCS#1 v1.5, type 2 (RFC 8017 §7.2).
    Pkcs1,
}

impl Padding {
    fn raw(self) -> c_int {
        match self {
            Padding::None => c::RSA_NO_PADDING,
            Padding::Pkcs1 => c::RSA_PKCS1_PADDING,
        }
    }
}

/// An RSA private key with all CRT values, ready to use. Every private operation is blinded and its result checked with
/// the public exponent before it is returned.
pub(crate) struct RsaKey {
    rsa: RsaPtr,
    modulus_bytes: usize,
}

// SAFETY: the key is never changed after `new`; AWS-LC declares signing and decryption with one RSA object safe from
// several threads (its caches of blindings and Montgomery values are under its own lock).
unsafe impl Send for RsaKey {}
// SAFETY: as above.
unsafe impl Sync for RsaKey {}

impl RsaKey {
    /// Builds the key; AWS-LC checks that all numbers agree. It refuses moduli above 16384 bits and public exponents
    /// above 33 bits.
    pub(crate) fn new(numbers: &Numbers) -> Result<Self, Failed> {
        let (n, e, d) = (Bn::from_be(&numbers.n)?, Bn::from_word(numbers.e)?, Bn::from_be(&numbers.d)?);
        let (p, q) = (Bn::from_be(&numbers.p)?, Bn::from_be(&numbers.q)?);
        let (dp, dq, qinv) = (Bn::from_be(&numbers.dp)?, Bn::from_be(&numbers.dq)?, Bn::from_be(&numbers.qinv)?);
        // SAFETY: all numbers are live for the call, which copies them.
        let rsa = RsaPtr::own(unsafe {
            c::RSA_new_private_key(n.get(), e.get(), d.get(), p.get(), q.get(), dp.get(), dq.get(), qinv.get())
        })?;
        // SAFETY: reads a live key.
        let modulus_bytes = unsafe { c::RSA_size(rsa.get()) } as usize;
        Ok(Self { rsa, modulus_bytes })
    }

    /// Length of the modulus in bytes.
    pub(crate) fn modulus_bytes(&self) -> usize {
        self.modulus_bytes
    }

    /// Calls `operation` with (length, buffer, capacity). It writes its result to the buffer, at most the length of the
    /// modulus.
    fn with_buffer(
        &self,
        operation: impl FnOnce(*mut usize, *mut u8, usize) -> c_int,
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let mut out = Zeroizing::new(vec![0; self.modulus_bytes]);
        let mut len = out.len();
        done(operation(&mut len, out.as_mut_ptr(), self.modulus_bytes))?;
        out.truncate(len);
        Ok(out)
    }

    /// Puts PKCS#1 type 1 padding around `input` and applies the private exponent (RFC 8017 §8.2.1 from step 2 on).
    pub(crate) fn sign_pkcs1(&self, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
        self.with_buffer(|len, out, max| {
            // SAFETY: writes at most `max` bytes to `out`, reads `input.len()` bytes of a live slice.
            unsafe { c::RSA_sign_raw(self.rsa.get(), len, out, max, input.as_ptr(), input.len(), c::RSA_PKCS1_PADDING) }
        })
    }

    /// RSASSA-PSS of `digest`, salt as long as the hash, MGF1 with the same hash (RFC 8017 §8.1).
    pub(crate) fn sign_pss(&self, hash: Hash, digest: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
        const SALT_AS_LONG_AS_THE_HASH: c_int = -1;
        self.with_buffer(|len, out, max| {
            // SAFETY: writes at most `max` bytes to `out`; AWS-LC compares `digest.len()` with the hash before it
            // reads the digest.
            unsafe {
                c::RSA_sign_pss_mgf1(
                    self.rsa.get(),
                    len,
                    out,
                    max,
                    digest.as_ptr(),
                    digest.len(),
                    md(hash),
                    md(hash),
                    SALT_AS_LONG_AS_THE_HASH,
                )
            }
        })
    }

    /// Applies the private exponent to `input`, which must be as long as the modulus, and removes the padding.
    pub(crate) fn decrypt(&self, padding: Padding, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
        self.with_buffer(|len, out, max| {
            // SAFETY: writes at most `max` bytes to `out`, reads `input.len()` bytes of a live slice.
            unsafe { c::RSA_decrypt(self.rsa.get(), len, out, max, input.as_ptr(), input.len(), padding.raw()) }
        })
    }

    /// RSAES-OAEP with an empty label, MGF1 with the same hash (RFC 8017 §7.1).
    pub(crate) fn decrypt_oaep(&self, hash: Hash, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
        // SAFETY: no arguments.
        let pkey = Pkey::own(unsafe { c::EVP_PKEY_new() })?;
        // SAFETY: both are live; `pkey` takes a reference of its own to the key.
        done(unsafe { c::EVP_PKEY_set1_RSA(pkey.get(), self.rsa.get()) })?;
        // SAFETY: `pkey` is live, and the context takes a reference of its own; null asks for no engine.
        let ctx = PkeyCtx::own(unsafe { c::EVP_PKEY_CTX_new(pkey.get(), ptr::null_mut()) })?;
        // SAFETY: `ctx` is live.
        done(unsafe { c::EVP_PKEY_decrypt_init(ctx.get()) })?;
        // SAFETY: `ctx` is live and set up for decryption.
        done(unsafe { c::EVP_PKEY_CTX_set_rsa_padding(ctx.get(), c::RSA_PKCS1_OAEP_PADDING) })?;
        // SAFETY: as above; the hash tables are static.
        done(unsafe { c::EVP_PKEY_CTX_set_rsa_oaep_md(ctx.get(), md(hash)) })?;
        // SAFETY: as above.
        done(unsafe { c::EVP_PKEY_CTX_set_rsa_mgf1_md(ctx.get(), md(hash)) })?;
        self.with_buffer(|len, out, _| {
            // SAFETY: `len` says how much `out` holds; reads `input.len()` bytes of a live slice.
            unsafe { c::EVP_PKEY_decrypt(ctx.get(), out, len, input.as_ptr(), input.len()) }
        })
    }
}

/// The curves for which AWS-LC is used.
#[derive(Clone, Copy)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
    BrainpoolP256,
    BrainpoolP384,
    BrainpoolP512,
}

fn group(curve: Curve) -> *const c::EC_GROUP {
    // SAFETY: each returns a pointer to a static group.
    unsafe {
        match curve {
            Curve::P256 => c::EC_group_p256(),
            Curve::P384 => c::EC_group_p384(),
            Curve::P521 => c::EC_group_p521(),
            Curve::BrainpoolP256 => c::EC_group_brainpoolP256r1(),
            Curve::BrainpoolP384 => c::EC_group_brainpoolP384r1(),
            Curve::BrainpoolP512 => c::EC_group_brainpoolP512r1(),
        }
    }
}

/// An EC private key with its public point, ready to use.
pub(crate) struct EcKey {
    key: EcPtr,
    signature_max: usize,
}

// SAFETY: the key is never changed after `new`, and signing takes it as const: AWS-LC declares that safe from several
// threads.
unsafe impl Send for EcKey {}
// SAFETY: as above.
unsafe impl Sync for EcKey {}

impl EcKey {
    /// Builds the key. Refuses a scalar (big-endian) that is zero or not below the order of the curve.
    pub(crate) fn new(curve: Curve, scalar: &[u8]) -> Result<Self, Failed> {
        let group = group(curve);
        let scalar = Bn::from_be(scalar)?;
        // SAFETY: no arguments.
        let key = EcPtr::own(unsafe { c::EC_KEY_new() })?;
        // SAFETY: `key` is live, the group static.
        done(unsafe { c::EC_KEY_set_group(key.get(), group) })?;
        // SAFETY: both are live; the scalar is copied and checked against the order.
        done(unsafe { c::EC_KEY_set_private_key(key.get(), scalar.get()) })?;
        // SAFETY: the group is static.
        let point = Point::own(unsafe { c::EC_POINT_new(group) })?;
        // SAFETY: multiplies the generator into a live point; nulls ask for no second product and no context.
        done(unsafe { c::EC_POINT_mul(group, point.get(), scalar.get(), ptr::null(), ptr::null(), ptr::null_mut()) })?;
        // SAFETY: both are live and of the same group; the point is copied.
        done(unsafe { c::EC_KEY_set_public_key(key.get(), point.get()) })?;
        // SAFETY: reads a live key.
        let signature_max = unsafe { c::ECDSA_size(key.get()) };
        Ok(Self { key, signature_max })
    }

    /// The public point, uncompressed: 4, X, Y (SEC 1 §2.3.3).
    pub(crate) fn public_point(&self) -> Result<Vec<u8>, Failed> {
        let form = c::point_conversion_form_t::POINT_CONVERSION_UNCOMPRESSED;
        // SAFETY: reads a live key, whose group and point `new` has set.
        let (group, point) =
            unsafe { (c::EC_KEY_get0_group(self.key.get()), c::EC_KEY_get0_public_key(self.key.get())) };
        // SAFETY: a null buffer asks for the length only.
        let len = unsafe { c::EC_POINT_point2oct(group, point, form, ptr::null_mut(), 0, ptr::null_mut()) };
        let mut bytes = vec![0; len];
        // SAFETY: writes at most `len` bytes into a buffer of `len` bytes.
        let written = unsafe { c::EC_POINT_point2oct(group, point, form, bytes.as_mut_ptr(), len, ptr::null_mut()) };
        if written == len && len > 0 { Ok(bytes) } else { done(0).and(Err(Failed)) }
    }

    /// Whether `signature` (DER) is a valid signature of `digest` by this key (FIPS 186-5 §6.4.2).
    pub(crate) fn verifies(&self, digest: &[u8], signature: &[u8]) -> bool {
        // SAFETY: reads two live slices of these lengths, and a live key that nobody changes.
        let verified = unsafe {
            c::ECDSA_verify(0, digest.as_ptr(), digest.len(), signature.as_ptr(), signature.len(), self.key.get())
        };
        verified == 1
    }

    /// ECDSA of `digest` with a random nonce, as DER (FIPS 186-5 §6.4).
    pub(crate) fn sign(&self, digest: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut signature = vec![0; self.signature_max];
        let mut len = 0;
        // SAFETY: writes at most `ECDSA_size` bytes, which is the buffer's length; reads a live slice.
        done(unsafe {
            c::ECDSA_sign(0, digest.as_ptr(), digest.len(), signature.as_mut_ptr(), &mut len, self.key.get())
        })?;
        signature.truncate(len as usize);
        Ok(signature)
    }
}

/// Verifies `signature` (DER) over `digest` for the key with this public point (SEC 1 §2.3.4).
pub(crate) fn verify_ecdsa(curve: Curve, point: &[u8], digest: &[u8], signature: &[u8]) -> Result<(), Failed> {
    let group = group(curve);
    // SAFETY: no arguments.
    let key = EcPtr::own(unsafe { c::EC_KEY_new() })?;
    // SAFETY: `key` is live, the group static.
    done(unsafe { c::EC_KEY_set_group(key.get(), group) })?;
    // SAFETY: the group is static.
    let public = Point::own(unsafe { c::EC_POINT_new(group) })?;
    // SAFETY: reads a live slice into a live point and refuses what is not on the curve; null asks for no context.
    done(unsafe { c::EC_POINT_oct2point(group, public.get(), point.as_ptr(), point.len(), ptr::null_mut()) })?;
    // SAFETY: both are live and of the same group; the point is copied.
    done(unsafe { c::EC_KEY_set_public_key(key.get(), public.get()) })?;
    // SAFETY: reads live slices and a live key.
    done(unsafe { c::ECDSA_verify(0, digest.as_ptr(), digest.len(), signature.as_ptr(), signature.len(), key.get()) })
}

/// scrypt (RFC 7914) into `out`. Needs 128·`r`·(`n` + `p`) bytes of memory, 64 MiB at most.
pub(crate) fn scrypt(passphrase: &[u8], salt: &[u8], n: u64, r: u64, p: u64, out: &mut [u8]) -> Result<(), Failed> {
    const MEMORY_MAX_BYTES: usize = 64 << 20;
    // SAFETY: reads two live slices, writes exactly `out.len()` bytes to a live slice.
    done(unsafe {
        c::EVP_PBE_scrypt(
            passphrase.as_ptr().cast(),
            passphrase.len(),
            salt.as_ptr(),
            salt.len(),
            n,
            r,
            p,
            MEMORY_MAX_BYTES,
            out.as_mut_ptr(),
            out.len(),
        )
    })
}
