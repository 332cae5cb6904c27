//! The cost of an operation without a server: in our own code, and in the library it calls.
//!
//! ```text
//! taskset -c 0 target/release/examples/raw 0.1 P-256 RSA-2048
//! ```
//!
//! The first argument is the length of one window in seconds, the others are rows (default: all). A line is a name,
//! then nanoseconds of CPU time per operation: median and minimum of seven windows with our code, and the same two with
//! the library alone, which for secp256k1 is our code. `cargo xtask bench` reads it.

use std::hint::black_box;
use std::io::Write;
use std::time::Duration;

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::digest::{Algorithm, Digest, SHA256, SHA384};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use casemate_api::KeyType;
use casemate_api::mechanisms::Mode;
use casemate_api::words::{EncryptMode, SignMode};
use casemate_core::crypto::material::Material;
use casemate_core::crypto::mech::{self, LoadedKey};
use casemate_server::process::WipingAllocator;
use casemate_server::rng::SystemRng;
use rustix::time::{ClockId, clock_gettime};

// As in the product: it is part of the cost of an operation.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::new();

type Failure = Box<dyn std::error::Error>;
type Operation = Box<dyn FnMut() -> Result<(), Failure>>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let window: f64 = args.next().map_or(Ok(0.15), |text| text.parse())?;
    let window = Duration::from_secs_f64(window);
    let wanted: Vec<String> = args.collect();
    for (name, make) in ROWS {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        let (mut ours, mut library) = make()?;
        let mut windows = (Vec::new(), Vec::new());
        // Alternating, so that both run under the same conditions.
        for _ in 0..WINDOWS {
            windows.0.push(per_operation(window, &mut ours)?);
            if let Some(library) = &mut library {
                windows.1.push(per_operation(window, library)?);
            }
        }
        let ours = summary(windows.0).ok_or("no window")?;
        let library = summary(windows.1).unwrap_or(ours);
        writeln!(std::io::stdout(), "{name} {:.1} {:.1} {:.1} {:.1}", ours.0, ours.1, library.0, library.1)?;
    }
    Ok(())
}

const WINDOWS: usize = 7;
const DIGEST: [u8; 32] = [7; 32];
const DIGEST_384: [u8; 48] = [7; 48];
const BLOCKS: [u8; 64] = [7; 64];

/// Our code and the library alone.
type Pair = (Operation, Option<Operation>);
type Make = fn() -> Result<Pair, Failure>;

const ROWS: [(&str, Make); 8] = [
    ("RSA-2048", || rsa(2048, KeySize::Rsa2048)),
    ("RSA-3072", || rsa(3072, KeySize::Rsa3072)),
    ("RSA-4096", || rsa(4096, KeySize::Rsa4096)),
    ("P-256", || ecdsa(KeyType::EC_P256, &DIGEST, &ECDSA_P256_SHA256_ASN1_SIGNING, &SHA256)),
    ("P-384", || ecdsa(KeyType::EC_P384, &DIGEST_384, &ECDSA_P384_SHA384_ASN1_SIGNING, &SHA384)),
    ("Ed25519", || {
        let key = Ed25519KeyPair::generate()?;
        let library = repeat(move || Ok(key.sign(black_box(&DIGEST))));
        Ok((ours(KeyType::Curve25519, 0, Mode::Sign(SignMode::EdDSA), &DIGEST)?, Some(library)))
    }),
    ("secp256k1", || Ok((ours(KeyType::EC_P256K1, 0, Mode::Sign(SignMode::ECDSA), &DIGEST)?, None))),
    ("AES-256-CBC", || {
        let library = repeat(move || {
            let key = EncryptingKey::cbc(UnboundCipherKey::new(&AES_256, black_box(&DIGEST))?)?;
            let mut blocks = BLOCKS;
            key.less_safe_encrypt(&mut blocks, EncryptionContext::Iv128([7; 16].into()))?;
            Ok(black_box(blocks))
        });
        Ok((ours(KeyType::Generic, 256, Mode::Encrypt(EncryptMode::AES_CBC), &BLOCKS)?, Some(library)))
    }),
];

fn rsa(bits: usize, size: KeySize) -> Result<Pair, Failure> {
    let key = RsaKeyPair::generate(size)?;
    let digest = Digest::import_less_safe(&DIGEST, &SHA256)?;
    let mut signature = vec![0; key.public_modulus_len()];
    let library =
        repeat(move || key.sign_digest(&RSA_PKCS1_SHA256, black_box(&digest), &mut signature).map_err(Into::into));
    // PKCS1 signs a DigestInfo (RFC 8017 §9.2), which has 51 bytes for SHA-256.
    Ok((ours(KeyType::RSA, bits, Mode::Sign(SignMode::PKCS1), &[7; 51])?, Some(library)))
}

fn ecdsa(
    key_type: KeyType,
    digest: &[u8],
    signing: &'static EcdsaSigningAlgorithm,
    hash: &'static Algorithm,
) -> Result<Pair, Failure> {
    let ours = ours(key_type, 0, Mode::Sign(SignMode::ECDSA), digest)?;
    let key = EcdsaKeyPair::generate(signing)?;
    let digest = Digest::import_less_safe(digest, hash)?;
    Ok((ours, Some(repeat(move || key.sign_digest(black_box(&digest)).map_err(Into::into)))))
}

fn ours(key_type: KeyType, bits: usize, mode: Mode, input: &[u8]) -> Result<Operation, Failure> {
    let loaded = LoadedKey::load(&Material::generate(key_type, bits, &SystemRng)?)?;
    let input = input.to_vec();
    let run = move || {
        mech::run(&loaded, mode, black_box(&input), Some(&[7; 16])).map_err(|error| format!("{error:?}").into())
    };
    Ok(repeat(run))
}

fn repeat<T>(mut operation: impl FnMut() -> Result<T, Failure> + 'static) -> Operation {
    Box::new(move || operation().map(|done| drop(black_box(done))))
}

/// Nanoseconds of CPU time of one operation, from as many as fit into `window`.
fn per_operation(window: Duration, operation: &mut Operation) -> Result<f64, Failure> {
    let begun = cpu_time()?;
    let (mut done, mut batch) = (0_u64, 1);
    loop {
        let before = cpu_time()?;
        for _ in 0..batch {
            operation()?;
        }
        done += batch;
        let now = cpu_time()?;
        if now - begun >= window {
            return Ok((now - begun).as_nanos() as f64 / done as f64);
        }
        // The clock is a system call: read it rarely, so that it is not measured as well.
        if now - before < Duration::from_millis(1) {
            batch *= 2;
        }
    }
}

/// CPU time of this thread, which other work on the machine does not affect.
fn cpu_time() -> Result<Duration, Failure> {
    Ok(clock_gettime(ClockId::ThreadCPUTime).try_into()?)
}

/// Median and minimum.
fn summary(mut windows: Vec<f64>) -> Option<(f64, f64)> {
    windows.sort_by(f64::total_cmp);
    windows.get(windows.len() / 2).copied().zip(windows.first().copied())
}
