//! The numbers of an RSA key, computed from its primes.
//!
//! Only p, q and e of a key are stored; `crypto-bigint` computes the rest in constant time. As e is small, its inverse
//! modulo m needs no general algorithm: it is (m·k + 1)/e with k = -(1/m) mod e, so that all divisions are by the
//! public e. The lengths of the numbers are not secret.

use crypto_bigint::{BoxedUint, ConcatenatingMul, CtGt, CtSelect, Limb, NonZero, Odd, Reciprocal, U64};
use zeroize::Zeroizing;

use super::error::Failed;

/// Largest public exponent that AWS-LC accepts, in bits.
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
        // The coefficient needs q < p. The order in which the two were given carries no secret.
        let (p, q) = if (p.len(), p) > (q.len(), q) { (p, q) } else { (q, p) };
        let exponent = Exponent::new(e).ok_or(Failed)?;
        let (p_number, q_number) = (number(p), number(q));
        let (p1, q1) = (less_one(&p_number), less_one(&q_number));
        let p_odd = Zeroizing::new(p_number.to_odd().into_option().ok_or(Failed)?);
        let qinv = q_number.invert_odd_mod(&p_odd).into_option().map(Zeroizing::new).ok_or(Failed)?;
        Ok(Self {
            n: bytes(&product(&p_number, &q_number)).to_vec(),
            e,
            d: bytes(&*exponent.inverse_modulo(&product(&p1, &q1)).ok_or(Failed)?),
            dp: bytes(&*exponent.inverse_modulo(&p1).ok_or(Failed)?),
            dq: bytes(&*exponent.inverse_modulo(&q1).ok_or(Failed)?),
            qinv: bytes(&qinv),
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

/// The product of two numbers, big-endian without leading zeros.
pub(crate) fn multiply(a: &[u8], b: &[u8]) -> Zeroizing<Vec<u8>> {
    bytes(&product(&number(a), &number(b)))
}

/// Whether `e`, an odd number of at most [`E_BITS_MAX`] bits, divides `number` - 1 for an odd `number`.
pub(crate) fn divides_less_one(e: u64, odd: &[u8]) -> bool {
    Exponent::new(e).is_none_or(|e| e.remainder_of(&less_one(&number(odd))) == 0)
}

/// Whether two numbers differ within the `bits` highest bits of the larger, so that Fermat's factorisation is
/// infeasible (FIPS 186-5 A.1.3 requires 100).
pub(crate) fn far_apart(p: &[u8], q: &[u8], bits: usize) -> bool {
    let precision = precision(p).max(precision(q));
    let (p, q) = (number_of(p, precision), number_of(q, precision));
    let q_is_larger = q.ct_gt(&p);
    let larger = Zeroizing::new(BoxedUint::ct_select(&p, &q, q_is_larger));
    let smaller = Zeroizing::new(BoxedUint::ct_select(&q, &p, q_is_larger));
    let difference = Zeroizing::new(larger.wrapping_sub(&*smaller));
    difference.bits() as usize + bits > larger.bits() as usize
}

/// A number that is wiped on drop.
type Number = Zeroizing<BoxedUint>;

/// The largest number of bits that a number of this many bytes can have.
fn precision(number: &[u8]) -> u32 {
    u32::try_from(number.len()).unwrap_or(u32::MAX).saturating_mul(8)
}

fn number(bytes: &[u8]) -> Number {
    number_of(bytes, precision(bytes))
}

fn number_of(bytes: &[u8], precision: u32) -> Number {
    Zeroizing::new(BoxedUint::from_be_slice_truncated(bytes, precision))
}

/// `number`, big-endian without leading zeros.
fn bytes(number: &BoxedUint) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(minimal(&Zeroizing::new(number.to_be_bytes())).to_vec())
}

/// `odd` - 1.
fn less_one(odd: &BoxedUint) -> Number {
    Zeroizing::new(odd.wrapping_sub(Limb::ONE))
}

fn product(a: &BoxedUint, b: &BoxedUint) -> Number {
    Zeroizing::new(a.concatenating_mul(b))
}

/// A public exponent, prepared as a divisor.
struct Exponent {
    e: Odd<U64>,
    divisor: Reciprocal,
}

impl Exponent {
    /// `None` unless `e` is odd, above 1 and of at most [`E_BITS_MAX`] bits.
    fn new(e: u64) -> Option<Self> {
        if e == 1 || e >> E_BITS_MAX != 0 {
            return None;
        }
        let divisor = NonZero::new(Limb::from_u64(e)).into_option()?;
        Some(Self { e: Odd::new(U64::from_u64(e)).into_option()?, divisor: Reciprocal::new(divisor) })
    }

    fn remainder_of(&self, number: &BoxedUint) -> u64 {
        number.rem_limb_with_reciprocal(&self.divisor).0
    }

    /// The inverse of the exponent modulo `m`; `None` if they are not coprime.
    fn inverse_modulo(&self, m: &BoxedUint) -> Option<Number> {
        let rest = Zeroizing::new(U64::from_u64(self.remainder_of(m)));
        let inverse = Zeroizing::new(rest.invert_odd_mod(&self.e).into_option()?);
        let k = Zeroizing::new(self.e.wrapping_sub(&inverse));
        let scaled = Zeroizing::new(Zeroizing::new(m.concatenating_mul(&*k)).wrapping_add(Limb::ONE));
        Some(Zeroizing::new(scaled.div_rem_limb_with_reciprocal(&self.divisor).0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::bn::{BigNum, BigNumContext, BigNumRef};
    use proptest::prelude::*;

    const PRIMES: [u64; 7] = [3, 5, 17, 257, 65537, 4_294_967_291, 8_589_934_583];

    fn num(bytes: &[u8]) -> BigNum {
        BigNum::from_slice(bytes).unwrap()
    }

    /// `a` modulo `m`.
    fn rest(a: &BigNum, m: &BigNum) -> BigNum {
        let mut rest = BigNum::new().unwrap();
        rest.nnmod(a, m, &mut BigNumContext::new().unwrap()).unwrap();
        rest
    }

    proptest! {
        #[test]
        fn remainders_agree_with_openssl(x: Vec<u8>) {
            for e in PRIMES {
                let expected = rest(&num(&x), &num(&e.to_be_bytes()));
                prop_assert_eq!(num(&Exponent::new(e).unwrap().remainder_of(&number(&x)).to_be_bytes()), expected);
            }
        }

        #[test]
        fn inverses_times_e_are_one(mut m in proptest::collection::vec(any::<u8>(), 1..72)) {
            *m.last_mut().unwrap() &= !1;
            let one = BigNum::from_u32(1).unwrap();
            prop_assume!(num(&m) > one);
            for e in PRIMES {
                let exponent = Exponent::new(e).unwrap();
                let Some(d) = exponent.inverse_modulo(&number(&m)) else {
                    prop_assert_eq!(exponent.remainder_of(&number(&m)), 0);
                    continue;
                };
                let d = num(&bytes(&d));
                prop_assert_eq!(rest(&(&d * &num(&e.to_be_bytes())), &num(&m)), BigNum::from_u32(1).unwrap());
                prop_assert!(d < num(&m));
            }
        }

        #[test]
        fn products_agree_with_openssl(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(multiply(&a, &b).to_vec(), (&num(&a) * &num(&b)).to_vec());
            prop_assert_eq!(bit_length(&a), num(&a).num_bits() as usize);
        }
    }

    #[test]
    fn the_numbers_match_those_of_openssl() {
        for bits in [512, 1000, 1024, 1030, 2048] {
            let key = openssl::rsa::Rsa::generate(bits).unwrap();
            let (p, q) = (key.p().unwrap().to_vec(), key.q().unwrap().to_vec());
            let (larger, smaller) = if num(&p) > num(&q) { (&p, &q) } else { (&q, &p) };
            let less_one = |prime: &[u8]| &num(prime) - &BigNum::from_u32(1).unwrap();
            let inverse = |a: &BigNumRef, modulus: &BigNum| {
                let mut inverse = BigNum::new().unwrap();
                inverse.mod_inverse(a, modulus, &mut BigNumContext::new().unwrap()).unwrap();
                inverse.to_vec()
            };
            for (first, second) in [(&p, &q), (&q, &p)] {
                let numbers = Numbers::from_primes(first, second, 65537).unwrap();
                assert_eq!((&*numbers.p, &*numbers.q), (larger, smaller));
                assert_eq!((numbers.n, numbers.e), (key.n().to_vec(), 65537));
                assert_eq!(*numbers.d, inverse(key.e(), &(&less_one(&p) * &less_one(&q))));
                assert_eq!(*numbers.dp, inverse(key.e(), &less_one(larger)));
                assert_eq!(*numbers.dq, inverse(key.e(), &less_one(smaller)));
                assert_eq!(*numbers.qinv, inverse(&num(smaller), &num(larger)));
            }
        }
    }

    #[test]
    fn primes_too_close_to_each_other_are_detected() {
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
            assert!(Exponent::new(e).is_none(), "{e}");
        }
    }
}
