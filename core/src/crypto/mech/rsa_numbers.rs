//! The numbers of an RSA key, computed from its primes in constant time.
//!
//! What is stored of a key is p, q and e; everything else follows. No inverse modulo a secret is computed by a
//! variable-time algorithm: for the small public e, the inverse of e modulo m is (m·k + 1)/e with k = -(1/m) mod e, so
//! all divisions are by the public e, and even those are done by multiplication. q⁻¹ mod p comes from Fermat's theorem.
//! Lengths of numbers are not secret.

use zeroize::Zeroizing;

use super::ffi::{self, Failed};

/// Largest public exponent, in bits. AWS-LC accepts no larger one, and [`Modulo`] relies on it.
pub(crate) const E_BITS_MAX: u32 = 33;

/// All numbers of a two-prime RSA key (RFC 8017 §3.2), big-endian without leading zeros. `p` is the larger prime.
pub(crate) struct Numbers {
    pub(crate) n: Vec<u8>,
    pub(crate) e: u64,
    pub(crate) d: Zeroizing<Vec<u8>>,
    pub(crate) p: Zeroizing<Vec<u8>>,
    pub(crate) q: Zeroizing<Vec<u8>>,
    pub(crate) dp: Zeroizing<Vec<u8>>,
    pub(crate) dq: Zeroizing<Vec<u8>>,
    pub(crate) qinv: Zeroizing<Vec<u8>>,
}

impl Numbers {
    /// Computes the numbers. `p` and `q` must be different odd primes, `e` an odd prime; fails if `e` divides p-1 or
    /// q-1 or is too large.
    pub(crate) fn from_primes(p: &[u8], q: &[u8], e: u64) -> Result<Self, Failed> {
        let (p, q) = (minimal(p), minimal(q));
        // The coefficient wants q < p. Which of the two was named first tells nothing.
        let (p, q) = if (p.len(), p) > (q.len(), q) { (p, q) } else { (q, p) };
        let e = Modulo::new(e).ok_or(Failed)?;
        let (p_limbs, q_limbs) = (limbs(p), limbs(q));
        let (p1, q1) = (less_one(&p_limbs), less_one(&q_limbs));
        Ok(Self {
            n: bytes(&product(&p_limbs, &q_limbs)).to_vec(),
            e: e.modulus,
            d: bytes(&e.inverse_modulo(&product(&p1, &q1)).ok_or(Failed)?),
            dp: bytes(&e.inverse_modulo(&p1).ok_or(Failed)?),
            dq: bytes(&e.inverse_modulo(&q1).ok_or(Failed)?),
            qinv: ffi::inverse_mod_prime(q, p, &less_two(p))?,
            p: Zeroizing::new(p.to_vec()),
            q: Zeroizing::new(q.to_vec()),
        })
    }
}

/// `number` without leading zero bytes.
pub(crate) fn minimal(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// Number of bits of `number`, big-endian.
pub(crate) fn bit_length(number: &[u8]) -> usize {
    let number = minimal(number);
    match number.first() {
        Some(first) => number.len() * 8 - first.leading_zeros() as usize,
        None => 0,
    }
}

/// The product of two numbers, big-endian, minimal.
pub(crate) fn multiply(a: &[u8], b: &[u8]) -> Zeroizing<Vec<u8>> {
    bytes(&product(&limbs(a), &limbs(b)))
}

/// Whether `e`, an odd number of at most [`E_BITS_MAX`] bits, divides `number` - 1 for an odd `number`.
pub(crate) fn divides_less_one(e: u64, number: &[u8]) -> bool {
    Modulo::new(e).is_none_or(|e| e.reduce(&less_one(&limbs(number))) == 0)
}

/// Whether two numbers differ within the `bits` highest bits of the larger, so that Fermat's factorisation is hopeless
/// (FIPS 186-5 A.1.3 asks for 100).
pub(crate) fn far_apart(p: &[u8], q: &[u8], bits: usize) -> bool {
    let (p, q) = (limbs(p), limbs(q));
    let (larger, smaller) = if p.len().cmp(&q.len()).then_with(|| p.iter().rev().cmp(q.iter().rev())).is_gt() {
        (&p, &q)
    } else {
        (&q, &p)
    };
    let mut borrow = 0;
    let mut difference = Limbs::default();
    for (i, a) in larger.iter().enumerate() {
        let (x, under) = a.overflowing_sub(smaller.get(i).copied().unwrap_or(0));
        let (x, under_again) = x.overflowing_sub(borrow);
        borrow = u64::from(under | under_again);
        difference.push(x);
    }
    bit_length(&bytes(&difference)) + bits > bit_length(&bytes(larger))
}

/// A number as words, the lowest first.
type Limbs = Zeroizing<Vec<u64>>;

fn limbs(number: &[u8]) -> Limbs {
    let mut limbs = Vec::with_capacity(number.len().div_ceil(8));
    for chunk in number.rchunks(8) {
        limbs.push(chunk.iter().fold(0, |limb, byte| limb << 8 | u64::from(*byte)));
    }
    Zeroizing::new(limbs)
}

fn bytes(limbs: &[u64]) -> Zeroizing<Vec<u8>> {
    let mut all = Zeroizing::new(Vec::with_capacity(limbs.len() * 8));
    for limb in limbs.iter().rev() {
        all.extend_from_slice(&limb.to_be_bytes());
    }
    Zeroizing::new(minimal(&all).to_vec())
}

/// `odd` - 1.
fn less_one(odd: &Limbs) -> Limbs {
    let mut even = odd.clone();
    if let Some(lowest) = even.first_mut() {
        *lowest &= !1;
    }
    even
}

/// `p` - 2, for odd `p` above 2.
fn less_two(p: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut result = Zeroizing::new(p.to_vec());
    let mut borrow = 2;
    for byte in result.iter_mut().rev() {
        let (difference, under) = byte.overflowing_sub(borrow);
        *byte = difference;
        borrow = u8::from(under);
    }
    result
}

/// a·b + carry + add, as (low, high) words.
fn multiply_add(a: u64, b: u64, add: u64, carry: u64) -> (u64, u64) {
    let wide = u128::from(a) * u128::from(b) + u128::from(add) + u128::from(carry);
    (wide as u64, (wide >> 64) as u64)
}

fn product(a: &[u64], b: &[u64]) -> Limbs {
    let mut result = Zeroizing::new(vec![0; a.len() + b.len()]);
    for (i, x) in a.iter().enumerate() {
        let mut carry = 0;
        // The row of b ends where its carry goes.
        for (place, y) in result.iter_mut().skip(i).zip(b.iter().chain(&[0])) {
            (*place, carry) = multiply_add(*x, *y, *place, carry);
        }
    }
    result
}

/// Arithmetic modulo a small odd public number, without divisions at run time.
struct Modulo {
    modulus: u64,
    /// floor((2⁶⁴ - 1) / modulus), for Barrett's reduction.
    reciprocal: u64,
}

impl Modulo {
    /// `None` unless `modulus` is odd, above 1 and of at most [`E_BITS_MAX`] bits.
    fn new(modulus: u64) -> Option<Self> {
        (modulus & 1 == 1 && modulus > 1 && modulus >> E_BITS_MAX == 0)
            .then(|| Self { modulus, reciprocal: u64::MAX / modulus })
    }

    /// `x` modulo the modulus. The estimated quotient is at most two short.
    fn reduce_word(&self, x: u64) -> u64 {
        let quotient = ((u128::from(x) * u128::from(self.reciprocal)) >> 64) as u64;
        let mut rest = x.wrapping_sub(quotient.wrapping_mul(self.modulus));
        for _ in 0..2 {
            // All ones if the rest is still too large, without a branch on it.
            let smaller = rest.wrapping_sub(self.modulus);
            let keep = (smaller >> 63).wrapping_neg();
            rest = (rest & keep) | (smaller & !keep);
        }
        rest
    }

    fn multiply(&self, a: u64, b: u64) -> u64 {
        // a and b have 33 bits: a·(b's high 17) has 50, the rest shifted by 16 plus a·(b's low 16) 50 again.
        let high = self.reduce_word(a * (b >> 16));
        self.reduce_word((high << 16) + a * (b & 0xffff))
    }

    fn reduce(&self, number: &[u64]) -> u64 {
        let bytes = number.iter().rev().flat_map(|limb| limb.to_be_bytes());
        bytes.fold(0, |rest, byte| self.reduce_word(rest << 8 | u64::from(byte)))
    }

    /// 1/a for `a` prime to the modulus, which must be prime: a^(modulus-2).
    fn inverse(&self, a: u64) -> u64 {
        let exponent = self.modulus - 2;
        let mut result = 1;
        for bit in (0..u64::BITS - exponent.leading_zeros()).rev() {
            result = self.multiply(result, result);
            if exponent >> bit & 1 == 1 {
                result = self.multiply(result, a);
            }
        }
        result
    }

    /// The inverse of the modulus (as e) modulo `m`; `None` if they are not coprime.
    fn inverse_modulo(&self, m: &Limbs) -> Option<Limbs> {
        let rest = self.reduce(m);
        if rest == 0 {
            return None;
        }
        let k = self.modulus - self.inverse(rest);
        let mut carry = 1;
        let mut scaled = Zeroizing::new(Vec::with_capacity(m.len() + 1));
        for limb in m.iter().chain(&[0]) {
            let (low, high) = multiply_add(*limb, k, 0, carry);
            scaled.push(low);
            carry = high;
        }
        Some(self.divide_exactly(&scaled))
    }

    /// `number` divided by the modulus, which must divide it (Jebelean's exact division, from the lowest word up).
    fn divide_exactly(&self, number: &[u64]) -> Limbs {
        // Newton's iteration: an odd number is its own inverse modulo 8, and each step doubles the bits.
        let mut inverse = self.modulus;
        for _ in 0..5 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(self.modulus.wrapping_mul(inverse)));
        }
        let mut borrow = 0;
        let mut quotient = Zeroizing::new(Vec::with_capacity(number.len()));
        for limb in number {
            let (rest, under) = limb.overflowing_sub(borrow);
            let digit = rest.wrapping_mul(inverse);
            let (_, high) = multiply_add(digit, self.modulus, 0, 0);
            borrow = high + u64::from(under);
            quotient.push(digit);
        }
        quotient
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PRIMES: [u64; 7] = [3, 5, 17, 257, 65537, 4_294_967_291, 8_589_934_583];

    proptest! {
        #[test]
        fn words_reduce_and_multiply(x: u64, a: u64, b: u64) {
            for modulus in PRIMES {
                let m = Modulo::new(modulus).unwrap();
                prop_assert_eq!(m.reduce_word(x), x % modulus);
                let (a, b) = (a % modulus, b % modulus);
                prop_assert_eq!(u128::from(m.multiply(a, b)), u128::from(a) * u128::from(b) % u128::from(modulus));
                if a != 0 {
                    prop_assert_eq!(m.multiply(a, m.inverse(a)), 1);
                }
            }
        }

        #[test]
        fn inverses_times_e_are_one(m in proptest::collection::vec(any::<u64>(), 1..9)) {
            let mut m = Zeroizing::new(m);
            m[0] &= !1;
            for e in PRIMES {
                let modulo = Modulo::new(e).unwrap();
                let Some(d) = modulo.inverse_modulo(&m) else {
                    prop_assert_eq!(modulo.reduce(&m), 0);
                    continue;
                };
                // e·d - 1 must be a multiple k·m with k < e.
                let ed = num(&product(&d, &[e]));
                let m = num(&m);
                prop_assume!(m > openssl::bn::BigNum::from_u32(1).unwrap());
                let mut ctx = openssl::bn::BigNumContext::new().unwrap();
                let mut rest = openssl::bn::BigNum::new().unwrap();
                rest.nnmod(&ed, &m, &mut ctx).unwrap();
                prop_assert_eq!(rest, openssl::bn::BigNum::from_u32(1).unwrap());
                prop_assert!(num(&d) < m);
            }
        }

        #[test]
        fn products_agree_with_openssl(a: Vec<u8>, b: Vec<u8>) {
            let (x, y) = (openssl::bn::BigNum::from_slice(&a).unwrap(), openssl::bn::BigNum::from_slice(&b).unwrap());
            prop_assert_eq!(multiply(&a, &b).to_vec(), (&x * &y).to_vec());
            prop_assert_eq!(bit_length(&a), x.num_bits() as usize);
        }
    }

    fn num(limbs: &[u64]) -> openssl::bn::BigNum {
        openssl::bn::BigNum::from_slice(&bytes(limbs)).unwrap()
    }

    #[test]
    fn primes_too_close_are_told() {
        let p = [0xff; 64];
        let mut q = p;
        q[63] = 0xfd;
        assert!(!far_apart(&p, &q, 100));
        q[12] = 0xfe;
        assert!(!far_apart(&p, &q, 100));
        q[11] = 0xfe;
        assert!(far_apart(&p, &q, 100));
        q[0] = 0xc0;
        assert!(far_apart(&p, &q, 100) && far_apart(&q, &p, 100));
    }

    #[test]
    fn exponents_out_of_range_are_refused() {
        for e in [0, 1, 2, 4, 65536, (1 << 33) + 1, u64::MAX] {
            assert!(Modulo::new(e).is_none(), "{e}");
        }
    }
}
