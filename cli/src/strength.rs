//! Estimates how easily a passphrase can be guessed, and generates strong ones.

use aws_lc_rs::rand;
use casemate_api::Passphrase;
use zeroize::Zeroizing;
use zxcvbn::zxcvbn;

use crate::exit::{Failure, local};

/// Why a passphrase is too easy to guess; `None` if it is strong. `known` are words that an attacker would try first.
///
/// The estimate leaves copies of the passphrase in memory that are not wiped. They go with the process, which ends soon
/// after.
pub(crate) fn weakness(passphrase: &Passphrase, known: &[&str]) -> Option<String> {
    let text = str::from_utf8(passphrase.expose()).ok()?;
    let digits = zxcvbn(text, known).guesses_log10();
    let tries = match digits {
        digits if digits >= STRONG_DIGITS => return None,
        digits if digits < 3.0 => "a thousand",
        digits if digits < 6.0 => "a million",
        digits if digits < 9.0 => "a billion",
        _ => "ten billion",
    };
    Some(format!("weak: it can be guessed with fewer than {tries} attempts. Choose at least four random words"))
}

/// A random passphrase: [`GROUPS`] groups of letters that are hard to confuse.
pub(crate) fn make() -> Result<Passphrase, Failure> {
    let mut text = Zeroizing::new(String::with_capacity(GROUPS * (LETTERS + 1)));
    let mut drawn = Zeroizing::new([0; 1]);
    let mut letters = 0;
    while letters < GROUPS * LETTERS {
        rand::fill(&mut *drawn).map_err(local("This machine provides no random numbers"))?;
        let [byte] = *drawn;
        let byte = usize::from(byte);
        // Larger bytes would make the first letters of the alphabet more likely.
        if byte >= 256 / ALPHABET.len() * ALPHABET.len() {
            continue;
        }
        if letters > 0 && letters % LETTERS == 0 {
            text.push('-');
        }
        text.extend(ALPHABET.get(byte % ALPHABET.len()).map(|letter| char::from(*letter)));
        letters += 1;
    }
    Ok(Passphrase::from_text(text.to_string()))
}

/// A passphrase is strong from 10¹⁰ guesses on: each costs an attacker one run of scrypt.
const STRONG_DIGITS: f64 = 10.0;

/// 23 letters, without i, l and o, which look like digits. 30 of them have 135 bits.
const ALPHABET: &[u8] = b"abcdefghjkmnpqrstuvwxyz";
const GROUPS: usize = 6;
const LETTERS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(passphrase: &Passphrase) -> &str {
        str::from_utf8(passphrase.expose()).unwrap()
    }

    #[test]
    fn common_words_are_weak_and_random_ones_are_not() {
        let weak = |text: &str| weakness(&Passphrase::from_text(text.into()), &["casemate", "admin", "hsm.example"]);
        assert!(weak("1234567890").unwrap().contains("a thousand attempts"));
        for text in ["passphrase", "admincasemate", "hsm.example", "aaaaaaaaaaaaaaaa", "Passw0rd2024"] {
            assert!(weak(text).is_some(), "{text}");
        }
        for text in ["gravel tumble oyster kite", "wnfj2-8vkqp-3xhtz"] {
            assert_eq!(weak(text), None, "{text}");
        }
    }

    #[test]
    fn made_passphrases_are_long_readable_strong_and_different() {
        let (one, two) = (make().unwrap(), make().unwrap());
        assert_ne!(text(&one), text(&two));
        assert!(one.has_valid_length());
        assert_eq!(weakness(&one, &[]), None);
        let groups: Vec<_> = text(&one).split('-').collect();
        assert_eq!(groups.len(), GROUPS);
        assert!(groups.iter().all(|group| group.len() == LETTERS && group.bytes().all(|b| ALPHABET.contains(&b))));
        assert!((ALPHABET.len() as f64).log2() * (GROUPS * LETTERS) as f64 >= 128.0);
    }
}
