//! Random numbers from the kernel.

use casemate_core::runtime::Rng;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// `getrandom(2)`: waits at boot until the kernel's generator is seeded, and never after that.
pub struct SystemRng;

impl Rng for SystemRng {
    fn fill(&self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match getrandom(&mut *rest, GetRandomFlags::empty()) {
                Ok(filled) => rest = rest.get_mut(filled..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                // Only kernels before 3.17 return an error. No key may be made from an unfilled buffer.
                Err(error) => assert!(rest.is_empty(), "the kernel gives no randomness: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_random() {
        // More than the 256 bytes that getrandom is guaranteed to return at once.
        let mut seen = vec![0; 5000];
        for _ in 0..8 {
            let mut bytes = vec![0; seen.len()];
            SystemRng.fill(&mut bytes);
            seen.iter_mut().zip(bytes).for_each(|(seen, byte)| *seen |= byte);
        }
        // A byte stays 0 through eight draws once in 2^64.
        assert!(seen.iter().all(|byte| *byte != 0));
        SystemRng.fill(&mut []);
    }
}
