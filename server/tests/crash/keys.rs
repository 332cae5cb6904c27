//! One client thread of the crash test, and what it knows: which keys and users it created, and their possible states.
//!
//! What it changes has a list of possible states. An acknowledged change leaves one; an unanswered one leaves the state
//! before and the state after, until the next check decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::sentences::{BUSY, STORE_HELD};
use serde_json::{Value, json};

use super::daemon::dice::Dice;
use super::daemon::{Answer, Client};

/// The Operator who signs.
pub(crate) const OPERATOR: &str = "operator";
pub(crate) const OPERATOR_PASSPHRASE: &str = "operator passphrase";
/// Tags of keys; the operator has them all.
pub(crate) const TAGS: [&str; 3] = ["red", "green", "blue"];

const USER_PASSPHRASE: &str = "a user's passphrase";
/// Number of other keys checked after each kill, besides the recently changed ones.
const SAMPLE: usize = 5;

/// A client thread.
pub(crate) struct Hand {
    number: usize,
    dice: Dice,
    made: usize,
    keys: Vec<Key>,
    users: Vec<User>,
    /// Positions in `keys` and `users` of what was changed since the last check.
    recent_keys: BTreeSet<usize>,
    recent_users: BTreeSet<usize>,
    /// A renaming without an answer: the positions of the old and the new id, of which exactly one exists.
    renaming: Option<(usize, usize)>,
    /// Changes that were answered with success.
    pub(crate) acknowledged: usize,
    /// Refusals while the store was moved, by what was answered.
    pub(crate) refused: BTreeMap<String, usize>,
    store: Store,
}

/// Whether the store may be moved while the thread works.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Store {
    /// It may not, so every change is carried out.
    Stays,
    /// It may. Then changes are refused for a moment.
    Moves,
}

struct Key {
    id: String,
    kind: Kind,
    /// The public value by which the key is recognised; `None` until it was seen.
    proof: Option<Vec<u8>>,
    possible: Vec<Option<Marks>>,
}

struct User {
    id: String,
    /// Their tags, if they exist.
    possible: Vec<Option<BTreeSet<String>>>,
}

/// The part of a key that can be changed.
#[derive(Clone, Debug, PartialEq, Default)]
struct Marks {
    label: String,
    tags: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    P256,
    Ed25519,
    Aes,
}

/// The only possible state, if there is only one.
fn sure<T>(possible: &[Option<T>]) -> Option<&T> {
    match possible {
        [Some(state)] => Some(state),
        _ => None,
    }
}

impl Hand {
    pub(crate) fn new(number: usize, dice: Dice, store: Store) -> Self {
        Self {
            number,
            dice,
            store,
            refused: BTreeMap::new(),
            made: 0,
            keys: Vec::new(),
            users: Vec::new(),
            recent_keys: BTreeSet::new(),
            recent_users: BTreeSet::new(),
            renaming: None,
            acknowledged: 0,
        }
    }

    /// Makes one change after the other until there is no answer.
    pub(crate) fn work(&mut self, admin: &Client) {
        while self.step(admin) {}
    }

    /// One change; `false` if it was not answered.
    fn step(&mut self, admin: &Client) -> bool {
        let key = self.some_key();
        match (self.dice.below(100), key) {
            (0..1, _) => self.create_user(admin),
            (1..6, _) => self.tag_user(admin),
            (6..18, Some(key)) => self.delete_key(admin, key),
            (18..30, Some(key)) => self.label(admin, key),
            (30..42, Some(key)) => self.tag_key(admin, key),
            (42..50, Some(key)) => self.rename(admin, key),
            (50..65, _) => self.import(admin),
            _ => self.generate(admin),
        }
    }

    /// A key that certainly exists.
    fn some_key(&mut self) -> Option<usize> {
        let tries: Vec<usize> = (0..8).map(|_| self.dice.below(self.keys.len().max(1))).collect();
        tries.into_iter().find(|at| self.keys.get(*at).is_some_and(|key| sure(&key.possible).is_some()))
    }

    fn fresh_id(&mut self) -> String {
        self.made += 1;
        format!("{}-{}", self.number, self.made)
    }

    /// Sends a change; `false` if nothing was answered, or that the outcome is unknown. What was certainly not begun is sent again.
    fn send(&mut self, admin: &Client, method: &str, path: &str, body: Option<&Value>, status: u16) -> bool {
        loop {
            let Ok(answer) = admin.call(method, path, body) else { return false };
            match (self.store, answer.status) {
                (Store::Moves, 503) if NOTHING_DONE.iter().any(|part| says(&answer, part)) => self.wait(&answer),
                // 412: the phase was opened again. 429: a login that was being checked then counts as a wrong one.
                (Store::Moves, 412 | 429) => self.wait(&answer),
                (Store::Moves, 503) if says(&answer, "did not confirm the change") => return false,
                _ => {
                    answer.expect(status);
                    self.acknowledged += 1;
                    return true;
                }
            }
        }
    }

    /// Waits after a refusal.
    fn wait(&mut self, refusal: &Answer) {
        let why = format!("{} {}", refusal.status, refusal.json()["message"].as_str().unwrap_or_default());
        *self.refused.entry(why).or_default() += 1;
        std::thread::sleep(Duration::from_millis(5));
    }

    /// Sends a change of a key that leaves it in the state `after`.
    fn change_key(
        &mut self,
        admin: &Client,
        at: usize,
        after: Option<Marks>,
        (method, path, body, status): (&str, String, Option<Value>, u16),
    ) -> bool {
        self.recent_keys.insert(at);
        let answered = self.send(admin, method, &path, body.as_ref(), status);
        let possible = &mut self.keys[at].possible;
        if answered {
            *possible = vec![after];
        } else {
            possible.push(after);
        }
        answered
    }

    /// Adds a key that does not exist yet.
    fn plan_key(&mut self, id: String, kind: Kind, proof: Option<Vec<u8>>) -> usize {
        self.keys.push(Key { id, kind, proof, possible: vec![None] });
        self.keys.len() - 1
    }

    fn some_marks(&mut self) -> Marks {
        let label = format!("label {}", self.dice.below(1000));
        let tags = TAGS.into_iter().filter(|_| self.dice.below(3) == 0).map(str::to_owned).collect();
        Marks { label, tags }
    }

    fn generate(&mut self, admin: &Client) -> bool {
        let kind = [Kind::P256, Kind::Ed25519, Kind::Aes][self.dice.below(3)];
        let (id, marks) = (self.fresh_id(), self.some_marks());
        let at = self.plan_key(id.clone(), kind, None);
        let body = json!({
            "id": id, "type": kind.name(), "mechanisms": kind.mechanisms(), "length": 256,
            "label": marks.label, "restrictions": { "tags": marks.tags },
        });
        self.change_key(admin, at, Some(marks), ("POST", "/keys/generate".into(), Some(body), 201))
    }

    fn import(&mut self, admin: &Client) -> bool {
        let (kind, private, proof) = match self.dice.below(3) {
            0 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
                let scalar = aws_lc_rs::encoding::AsBigEndian::<aws_lc_rs::encoding::EcPrivateKeyBin<'_>>::as_be_bytes(
                    &pair.private_key(),
                )
                .unwrap();
                (Kind::P256, scalar.as_ref().to_vec(), pair.public_key().as_ref().to_vec())
            }
            1 => {
                let seed: [u8; 32] = std::array::from_fn(|_| self.dice.below(256) as u8);
                let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
                (Kind::Ed25519, seed.to_vec(), pair.public_key().as_ref().to_vec())
            }
            _ => (Kind::Aes, NIST_KEY.to_vec(), NIST_CIPHERTEXT.to_vec()),
        };
        let (id, marks) = (self.fresh_id(), self.some_marks());
        let at = self.plan_key(id.clone(), kind, Some(proof));
        let body = json!({
            "type": kind.name(), "mechanisms": kind.mechanisms(),
            "private": { "data": BASE64_STANDARD.encode(private) },
            "label": marks.label, "restrictions": { "tags": marks.tags },
        });
        self.change_key(admin, at, Some(marks), ("PUT", format!("/keys/{id}"), Some(body), 204))
    }

    fn delete_key(&mut self, admin: &Client, at: usize) -> bool {
        let path = format!("/keys/{}", self.keys[at].id);
        self.change_key(admin, at, None, ("DELETE", path, None, 204))
    }

    fn label(&mut self, admin: &Client, at: usize) -> bool {
        let mut marks = sure(&self.keys[at].possible).cloned().unwrap();
        // Never one that was used before: setting the current label is answered with 304.
        self.made += 1;
        marks.label = format!("label {}", 1000 + self.made);
        let body = json!({ "label": marks.label });
        let path = format!("/keys/{}/label", self.keys[at].id);
        self.change_key(admin, at, Some(marks), ("PUT", path, Some(body), 204))
    }

    fn tag_key(&mut self, admin: &Client, at: usize) -> bool {
        let mut marks = sure(&self.keys[at].possible).cloned().unwrap();
        let tag = TAGS[self.dice.below(TAGS.len())];
        let method = toggle(&mut marks.tags, tag);
        let path = format!("/keys/{}/restrictions/tags/{tag}", self.keys[at].id);
        self.change_key(admin, at, Some(marks), (method, path, None, 204))
    }

    fn rename(&mut self, admin: &Client, at: usize) -> bool {
        let new_id = self.fresh_id();
        let Key { id, kind, proof, possible } = &self.keys[at];
        let path = format!("/keys/{id}/move");
        let (kind, proof, marks) = (*kind, proof.clone(), sure(possible).cloned());
        let new = self.plan_key(new_id.clone(), kind, proof);
        self.recent_keys.insert(new);
        let answered = self.change_key(admin, at, None, ("POST", path, Some(json!({ "newId": new_id })), 200));
        if answered {
            self.keys[new].possible = vec![marks];
        } else {
            self.keys[new].possible.push(marks);
            self.renaming = Some((at, new));
        }
        answered
    }

    fn create_user(&mut self, admin: &Client) -> bool {
        let id = format!("user{}", self.fresh_id());
        let body = json!({ "realName": id, "role": "Operator", "passphrase": USER_PASSPHRASE });
        self.recent_users.insert(self.users.len());
        let answered = self.send(admin, "PUT", &format!("/users/{id}"), Some(&body), 201);
        let made = Some(BTreeSet::new());
        self.users.push(User { id, possible: if answered { vec![made] } else { vec![None, made] } });
        answered
    }

    /// Adds a tag to a user or removes it; rarely deletes the user.
    fn tag_user(&mut self, admin: &Client) -> bool {
        let at = self.dice.below(self.users.len().max(1));
        let Some(mut tags) = self.users.get(at).and_then(|user| sure(&user.possible)).cloned() else { return true };
        let path = format!("/users/{}", self.users[at].id);
        let (method, path, after) = if self.dice.below(10) == 0 {
            ("DELETE", path, None)
        } else {
            let tag = TAGS[self.dice.below(TAGS.len())];
            let method = toggle(&mut tags, tag);
            (method, format!("{path}/tags/{tag}"), Some(tags))
        };
        self.recent_users.insert(at);
        let answered = self.send(admin, method, &path, None, 204);
        let possible = &mut self.users[at].possible;
        if answered {
            *possible = vec![after];
        } else {
            possible.push(after);
        }
        answered
    }

    // --- What is there after a kill ---

    /// Keys and users with more than one possible state.
    pub(crate) fn open_ends(&self) -> usize {
        self.keys.iter().filter(|key| key.possible.len() > 1).count()
            + self.users.iter().filter(|user| user.possible.len() > 1).count()
    }

    pub(crate) fn keys_left(&self) -> usize {
        self.keys.iter().filter(|key| sure(&key.possible).is_some()).count()
    }

    pub(crate) fn users_left(&self) -> usize {
        self.users.iter().filter(|user| sure(&user.possible).is_some()).count()
    }

    /// Compares the existing keys and users with the possible ones; both lists are sorted. Returns how many are this
    /// hand's.
    pub(crate) fn check_names(&mut self, keys: &[String], users: &[String]) -> usize {
        let mut mine = 0;
        for key in &mut self.keys {
            mine += usize::from(settle_existence("key", &key.id, keys, &mut key.possible));
        }
        for user in &mut self.users {
            mine += usize::from(settle_existence("user", &user.id, users, &mut user.possible));
        }
        if let Some((old, new)) = self.renaming.take() {
            let there = |at: usize| self.keys[at].possible[0].is_some();
            let (old_id, new_id) = (&self.keys[old].id, &self.keys[new].id);
            assert!(there(old) != there(new), "{old_id} was being renamed to {new_id}: one of them is there");
        }
        mine
    }

    /// Checks what was changed before the kill, and a few others.
    pub(crate) fn check_recent(&mut self, admin: &Client, operator: &Client) {
        let mut keys = std::mem::take(&mut self.recent_keys);
        for _ in 0..SAMPLE.min(self.keys.len()) {
            keys.insert(self.dice.below(self.keys.len()));
        }
        for at in keys {
            self.keys[at].check(admin, operator);
        }
        for at in std::mem::take(&mut self.recent_users) {
            self.users[at].check(admin);
        }
    }

    /// Checks everything.
    pub(crate) fn check_all(&mut self, admin: &Client, operator: &Client) {
        self.keys.iter_mut().for_each(|key| key.check(admin, operator));
        self.users.iter_mut().for_each(|user| user.check(admin));
        assert_eq!(self.open_ends(), 0);
    }
}

/// Of refusals while the store is moved, or an etcd on a busy disk does not answer. If a change was made nevertheless, it cannot be
/// made again.
const NOTHING_DONE: [&str; 4] = [STORE_HELD, BUSY, "moved to another store", "The store cannot be reached"];

/// Whether the message of an answer contains this.
fn says(answer: &Answer, part: &str) -> bool {
    answer.json()["message"].as_str().is_some_and(|message| message.contains(part))
}

/// Adds or removes `tag`, and returns the method that does so.
fn toggle(tags: &mut BTreeSet<String>, tag: &str) -> &'static str {
    if tags.remove(tag) {
        "DELETE"
    } else {
        tags.insert(tag.to_owned());
        "PUT"
    }
}

/// Drops the possible states that contradict the list of names. Returns whether it exists.
fn settle_existence<T>(what: &str, id: &str, names: &[String], possible: &mut Vec<Option<T>>) -> bool {
    let there = names.binary_search_by(|name| name.as_str().cmp(id)).is_ok();
    possible.retain(|state| state.is_some() == there);
    assert!(!possible.is_empty(), "{what} {id} is {}there, against what was answered", if there { "" } else { "not " });
    there
}

/// Drops the possible states that differ from the one that was seen.
fn settle<T: PartialEq + std::fmt::Debug>(id: &str, possible: &mut Vec<Option<T>>, seen: T) {
    assert!(
        possible.iter().flatten().any(|state| *state == seen),
        "{id} is {seen:?}, against what was answered: {possible:?}"
    );
    *possible = vec![Some(seen)];
}

fn strings(list: &Value) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().map(|item| item.as_str().unwrap().to_owned()).collect()
}

impl Key {
    /// Checks that it is in a possible state, and works.
    fn check(&mut self, admin: &Client, operator: &Client) {
        if self.possible == [None] {
            return;
        }
        let path = format!("/keys/{}", self.id);
        let seen = admin.call("GET", &path, None).unwrap().expect(200).json();
        assert_eq!(seen["type"], self.kind.name());
        assert_eq!(seen["mechanisms"], self.kind.mechanisms());
        let label = seen["label"].as_str().unwrap_or_default().to_owned();
        let tags = strings(&seen["restrictions"]["tags"]);
        settle(&self.id, &mut self.possible, Marks { label, tags });
        let proof = match self.kind {
            Kind::P256 => sign(operator, &path, &seen, "ECDSA", |public, message, signature| {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public).verify(message, signature).is_ok()
            }),
            Kind::Ed25519 => sign(operator, &path, &seen, "EdDSA", |public, message, signature| {
                UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
            }),
            Kind::Aes => encrypt(operator, &path),
        };
        assert_eq!(self.proof.get_or_insert_with(|| proof.clone()), &proof, "{} is still the same key", self.id);
    }
}

impl User {
    fn check(&mut self, admin: &Client) {
        if self.possible == [None] {
            return;
        }
        let path = format!("/users/{}", self.id);
        let seen = admin.call("GET", &path, None).unwrap().expect(200).json();
        assert_eq!(seen, json!({ "realName": self.id, "role": "Operator" }));
        let tags = admin.call("GET", &format!("{path}/tags"), None).unwrap().expect(200).json();
        settle(&self.id, &mut self.possible, strings(&tags));
        admin.log_in(&self.id, USER_PASSPHRASE).call("GET", &path, None).unwrap().expect(200);
    }
}

fn decode(value: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()
}

/// Signs, verifies, and returns the public key.
fn sign(operator: &Client, path: &str, key: &Value, mode: &str, verify: fn(&[u8], &[u8], &[u8]) -> bool) -> Vec<u8> {
    let message = b"are you the one I know?";
    // ECDSA signs what is already a digest.
    let input = match mode {
        "ECDSA" => aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, message).as_ref().to_vec(),
        _ => message.to_vec(),
    };
    let body = json!({ "mode": mode, "message": BASE64_STANDARD.encode(input) });
    let answer = operator.call("POST", &format!("{path}/sign"), Some(&body)).unwrap().expect(200);
    let public = decode(&key["public"]["data"]);
    assert!(verify(&public, message, &decode(&answer.json()["signature"])), "{path}: the signature is wrong");
    public
}

/// Encrypts the block of the NIST example and returns the ciphertext, by which keys are distinguished.
fn encrypt(operator: &Client, path: &str) -> Vec<u8> {
    let body = json!({
        "mode": "AES_CBC", "message": BASE64_STANDARD.encode(NIST_PLAINTEXT), "iv": BASE64_STANDARD.encode(NIST_IV),
    });
    let answer = operator.call("POST", &format!("{path}/encrypt"), Some(&body)).unwrap().expect(200);
    decode(&answer.json()["encrypted"])
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::P256 => "EC_P256",
            Kind::Ed25519 => "Curve25519",
            Kind::Aes => "Generic",
        }
    }

    fn mechanisms(self) -> Value {
        match self {
            Kind::P256 => json!(["ECDSA_Signature"]),
            Kind::Ed25519 => json!(["EdDSA_Signature"]),
            Kind::Aes => json!(["AES_Encryption_CBC", "AES_Decryption_CBC"]),
        }
    }
}

// The first block of CBC-AES256.Encrypt in NIST SP 800-38A, F.2.5.
#[rustfmt::skip]
const NIST_KEY: [u8; 32] = [
    0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77, 0x81,
    0x1f, 0x35, 0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14, 0xdf, 0xf4,
];
const NIST_IV: [u8; 16] =
    [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f];
const NIST_PLAINTEXT: [u8; 16] =
    [0x6b, 0xc1, 0xbe, 0xe2, 0x2e, 0x40, 0x9f, 0x96, 0xe9, 0x3d, 0x7e, 0x11, 0x73, 0x93, 0x17, 0x2a];
const NIST_CIPHERTEXT: [u8; 16] =
    [0xf5, 0x8c, 0x4c, 0x04, 0xd6, 0xe5, 0xf1, 0xba, 0x77, 0x9e, 0xab, 0xfb, 0x5f, 0x7b, 0xfb, 0xd6];
