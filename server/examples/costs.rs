//! The cost of loading and using keys of every type: for the column `cost` of the mechanism table and the limits of
//! what runs on a thread that serves requests (`INLINE_MAX_US` in `api/src/limits.rs`).
//!
//! ```text
//! cargo run --release -p casemate-server --example costs -- rsa2048.pem rsa16384.pem
//! ```
//!
//! The arguments are RSA keys, as generating large ones takes minutes. A line is an operation and its CPU time in
//! microseconds, the median of some windows; `!` marks what is too long for a serving thread.

use std::hint::black_box;
use std::io::Write;
use std::time::Duration;

use casemate_api::KeyType;
use casemate_api::body::keys::DistinguishedName;
use casemate_api::limits::{INLINE_INPUT_MAX_BYTES, INLINE_MAX_US};
use casemate_api::mechanisms::{Input, MechanismSpec, TABLE};
use casemate_core::crypto::material::Material;
use casemate_core::crypto::mech::{self, LoadedKey};
use casemate_core::crypto::x509;
use casemate_server::process::WipingAllocator;
use casemate_server::rng::SystemRng;
use rustix::time::{ClockId, clock_gettime};

// As in the product: it is part of the cost of an operation.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::new();

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    for key_type in KeyType::ALL.into_iter().filter(|key_type| *key_type != KeyType::RSA) {
        let make = || Ok(Material::generate(key_type, 256, &SystemRng)?);
        tell(key_type.as_str(), "generate", &make)?;
        of_key(key_type.as_str(), &make()?)?;
    }
    for path in std::env::args().skip(1) {
        of_key(&path, &Material::from_pem(&std::fs::read(&path)?)?)?;
    }
    Ok(())
}

/// Loads and uses one key in all its modes.
fn of_key(name: &str, material: &Material) -> Result<(), Failure> {
    tell(name, "load", || Ok(LoadedKey::load(material)?))?;
    let loaded = LoadedKey::load(material)?;
    tell(name, "public part, PEM", || Ok(loaded.public().spki_pem()))?;
    if loaded.key_type() != KeyType::Generic {
        let subject: DistinguishedName = serde_json::from_str(r#"{"commonName":"a name"}"#)?;
        tell(name, "CSR", || Ok(x509::csr_pem(&loaded, &subject)?))?;
    }
    for spec in TABLE.iter().filter(|spec| spec.key == loaded.key_type()) {
        let input = longest(spec, loaded.modulus_bits().div_ceil(8));
        let run = || match mech::run(&loaded, spec.mode, black_box(&input), Some(&[7; 16])) {
            // Invalid padding, found only after the computation; or a hash too long for the key.
            Err(casemate_core::Error::Invalid { .. }) => Ok(None),
            done => Ok(Some(done?)),
        };
        tell(name, &format!("{:?}", spec.mode), run)?;
    }
    Ok(())
}

/// The longest input that may run on a serving thread.
fn longest(spec: &MechanismSpec, modulus_bytes: usize) -> Vec<u8> {
    let length = match spec.input {
        Input::Digest(length) => length,
        Input::UpToModulusLess11 => modulus_bytes - 11,
        Input::Modulus | Input::Integer => modulus_bytes,
        Input::Message | Input::Blocks16 => INLINE_INPUT_MAX_BYTES,
    };
    vec![7; length]
}

fn tell<T>(name: &str, what: &str, mut operation: impl FnMut() -> Result<T, Failure>) -> Result<(), Failure> {
    let mut windows = Vec::new();
    for _ in 0..WINDOWS {
        let begun = cpu_time()?;
        let mut done = 0_u32;
        let taken = loop {
            black_box(operation()?);
            done += 1;
            let taken = cpu_time()? - begun;
            if taken >= WINDOW {
                break taken;
            }
        };
        windows.push((taken / done).as_nanos() as f64 / 1000.0);
    }
    windows.sort_by(f64::total_cmp);
    let median = windows.get(WINDOWS / 2).copied().unwrap_or_default();
    let mark = if median > INLINE_MAX_US as f64 { '!' } else { ' ' };
    Ok(writeln!(std::io::stdout(), "{mark} {median:10.1} {name} {what}")?)
}

const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_millis(20);

/// CPU time of this thread, which other work on the machine does not affect.
fn cpu_time() -> Result<Duration, Failure> {
    Ok(clock_gettime(ClockId::ThreadCPUTime).try_into()?)
}
