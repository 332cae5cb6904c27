//! The clients: each asks its node for something about one of a few keys and users, again and again, and records what it was told.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::cluster::{Cluster, NODES, lock};
use super::daemon::dice::Dice;
use super::daemon::{ADMIN, Answer, Client};
use super::history::{History, Namespace, Record, Track};
use super::key::{BLUE, KeyOp, RED, Stored};
use super::user::{Account, UserOp};

const OPERATOR: &str = "operator passphrase";
const MESSAGE: &[u8] = b"which key are you?";
/// How many of the passphrases of a user are tried.
const TRIED: usize = 3;

/// The keys that the clients use: two in the root, one in a namespace that stays, one in a namespace that comes and goes.
const KEYS: [(&str, Option<(&str, Namespace)>); 4] = [
    ("a", None),
    ("b", None),
    ("c", Some(("stays", Namespace::Stays))),
    ("d", Some(("goes", Namespace::ComesAndGoes))),
];
/// The users that the clients use, who are Operators.
const USERS: [&str; 3] = ["u", "v", "stays~w"];

/// Who asks.
#[derive(Clone, Copy)]
enum By {
    Root,
    /// The Administrator of the key's or user's namespace.
    Administrator,
    /// The Operator of the key's namespace.
    Operator,
}

/// The clients and what they know together.
pub(crate) struct Load {
    pub(crate) cluster: Cluster,
    pub(crate) history: History,
    numbers: AtomicU32,
    /// The numbers of keys, by public key and by the signature of [`MESSAGE`].
    known: Mutex<HashMap<String, u32>>,
    /// The latest passphrases of each user.
    passphrases: Vec<Mutex<VecDeque<u32>>>,
    /// Calls that were certainly not carried out, by the reason.
    pub(crate) not_done: Mutex<BTreeMap<String, usize>>,
}

/// How a call ended.
enum End {
    Answered(Answer),
    /// It was certainly not carried out.
    NotDone,
    /// It may have been carried out.
    Unknown,
}

/// A call that was sent.
struct Sent {
    node: usize,
    process: usize,
    invoked: Duration,
    answered: Duration,
    end: End,
}

/// A request without its caller.
struct Request {
    method: &'static str,
    path: String,
    body: Option<Value>,
}

fn request(method: &'static str, path: impl Into<String>, body: Option<Value>) -> Request {
    Request { method, path: path.into(), body }
}

impl Load {
    /// Creates the users who act, and the namespace that stays.
    pub(crate) fn new(cluster: Cluster) -> Self {
        let admin = cluster.client(0).log_in("admin", ADMIN);
        let create = |user: &str, role: &str, passphrase: &str| {
            let body = json!({ "realName": "", "role": role, "passphrase": passphrase });
            admin.call("PUT", &format!("/users/{user}"), Some(&body)).unwrap().expect(201);
        };
        for namespace in ["", "stays~", "goes~"] {
            if !namespace.is_empty() {
                create(&format!("{namespace}admin"), "Administrator", ADMIN);
            }
            create(&format!("{namespace}operator"), "Operator", OPERATOR);
            let tag = format!("/users/{namespace}operator/tags/{}", tag_name(RED));
            admin.call("PUT", &tag, None).unwrap().expect(204);
        }
        admin.call("PUT", "/namespaces/stays", None).unwrap().expect(204);
        let history = History {
            keys: KEYS.iter().map(|(name, _)| Track::new(name)).collect(),
            users: USERS.iter().map(|name| Track::new(name)).collect(),
        };
        for (track, (_, namespace)) in history.keys.iter().zip(KEYS) {
            if namespace.is_none_or(|(_, namespace)| namespace == Namespace::Stays) {
                let now = cluster.now();
                let op = KeyOp::CreateNamespace;
                let record = Record { op, node: 0, process: 0, invoked: now, answered: now, told: true, cached: false };
                lock(&track.records).push(record);
            }
        }
        Self {
            cluster,
            history,
            numbers: AtomicU32::new(1),
            known: Mutex::default(),
            passphrases: USERS.iter().map(|_| Mutex::default()).collect(),
            not_done: Mutex::default(),
        }
    }

    /// Calls one node, and seldom another one, until it is over.
    pub(crate) fn work(&self, own: usize, mut dice: Dice, is_over: impl Fn() -> bool) {
        while !is_over() {
            std::thread::sleep(dice.between(Duration::ZERO, Duration::from_millis(20)));
            let node = if dice.below(20) == 0 { dice.below(NODES) } else { own };
            match dice.below(10) {
                0..7 => {
                    let key = dice.below(KEYS.len());
                    self.use_key(&mut dice, node, key);
                }
                _ => {
                    let user = dice.below(USERS.len());
                    self.use_user(&mut dice, node, user);
                }
            }
        }
    }

    /// Signs with one key for as long as it can, and then with another one, until it is over. So there is always somebody who
    /// is answered from a cache, also while a node does not hear from the store.
    pub(crate) fn keep_signing(&self, node: usize, mut dice: Dice, is_over: impl Fn() -> bool) {
        while !is_over() {
            let (key, id) = (dice.below(KEYS.len()), dice.below(2));
            while self.sign(node, key, id) && !is_over() {
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Uses each key but the last, and the first user, from a creation to a deletion, so that every run has some whose life is known.
    pub(crate) fn use_for_sure(&self, dice: &mut Dice) {
        for key in 0..KEYS.len() - 1 {
            self.delete_key(0, key, 0);
            self.create_key(dice, 0, key, 0, 0);
            self.sign(0, key, 0);
            self.delete_key(0, key, 0);
            self.create_key(dice, 0, key, 0, 0);
        }
        self.delete_user(0, 0);
        self.create_user(dice, 0, 0);
        let latest = lock(&self.passphrases[0]).front().copied();
        self.log_in(0, 0, latest.expect("a user was created"));
    }

    /// Looks at everything once at each node, which all run. Returns when it began to look at the last one.
    pub(crate) fn look(&self) -> Duration {
        let mut begun = Duration::ZERO;
        for node in 0..NODES {
            begun = self.cluster.now();
            for key in 0..KEYS.len() {
                self.list_keys(node, key);
                self.show_key(node, key, 0);
                self.show_key(node, key, 1);
            }
            for user in 0..USERS.len() {
                self.list_users(node, user);
                self.show_user(node, user);
            }
        }
        begun
    }

    fn number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn send(&self, node: usize, user: (&str, &str), request: &Request) -> Option<Sent> {
        let (process, client) = self.cluster.process(node)?;
        let client: Client = client.log_in(user.0, user.1);
        let invoked = self.cluster.now();
        let answer = client.call(request.method, &request.path, request.body.as_ref());
        let answered = self.cluster.now();
        let end = match answer {
            Err(ureq::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                self.not_done("no connection")
            }
            Err(_) => End::Unknown,
            Ok(answer) if answer.status == 503 && message(&answer).contains("did not confirm the change") => {
                End::Unknown
            }
            // 412: it is not unlocked yet. 429: a login has failed less than a second ago. 503: nothing was done.
            Ok(answer) if [412, 429, 503].contains(&answer.status) => {
                self.not_done(&format!("{} {}", answer.status, message(&answer)))
            }
            Ok(answer) => End::Answered(answer),
        };
        Some(Sent { node, process, invoked, answered, end })
    }

    fn not_done(&self, why: &str) -> End {
        *lock(&self.not_done).entry(why.trim_end().to_owned()).or_default() += 1;
        End::NotDone
    }

    // --- Keys ---

    fn use_key(&self, dice: &mut Dice, node: usize, key: usize) {
        let id = dice.below(2);
        let tag = if dice.below(2) == 0 { RED } else { BLUE };
        match dice.below(100) {
            0..16 => {
                let tags = [0, 0, RED, BLUE, RED | BLUE][dice.below(5)];
                self.create_key(dice, node, key, id, tags);
            }
            16..24 => self.delete_key(node, key, id),
            24..32 => self.rename_key(node, key, id),
            32..42 => self.tag_key(node, key, id, tag),
            42..52 => self.untag_key(node, key, id, tag),
            52..66 => self.show_key(node, key, id),
            66..88 => {
                self.sign(node, key, id);
            }
            88..94 => self.list_keys(node, key),
            94..98 => self.create_namespace(node, key),
            _ => self.delete_namespace(node, key),
        }
    }

    /// Sends a call about a key. `change`: what it may have done if its outcome remains unknown. `told`: what an answer tells. Returns
    /// whether the answer was 200.
    fn call_key(
        &self,
        (node, key, by): (usize, usize, By),
        request: &Request,
        change: Option<KeyOp>,
        told: impl Fn(&Answer) -> Option<KeyOp>,
    ) -> bool {
        let namespace = KEYS[key].1;
        let named = |name: &str| namespace.map_or_else(|| name.to_owned(), |(id, _)| format!("{id}~{name}"));
        let (user, passphrase) = match by {
            By::Root => ("admin".to_owned(), ADMIN),
            By::Administrator => (named("admin"), ADMIN),
            By::Operator => (named("operator"), OPERATOR),
        };
        let Some(sent) = self.send(node, (&user, passphrase), request) else { return false };
        let comes_and_goes = namespace.is_some_and(|(_, namespace)| namespace == Namespace::ComesAndGoes);
        let told = |answer: &Answer| match answer.status {
            // Only the 403 of a restriction has a message.
            403 if comes_and_goes && answer.bytes.is_empty() => Some(KeyOp::NamespaceMissing),
            _ => told(answer),
        };
        let kind = if comes_and_goes { Namespace::ComesAndGoes } else { Namespace::Stays };
        record(&self.history.keys[key], &sent, request, change, told, |op| op.may_be_cached(kind));
        matches!(sent.end, End::Answered(Answer { status: 200, .. }))
    }

    fn create_key(&self, dice: &mut Dice, node: usize, key: usize, id: usize, tags: u8) {
        let seed: [u8; 32] = std::array::from_fn(|_| dice.below(256) as u8);
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let number = self.number();
        // Ed25519 has one signature for each message (RFC 8032 §5.1.6).
        for shown in [pair.public_key().as_ref(), pair.sign(MESSAGE).as_ref()] {
            lock(&self.known).insert(BASE64_STANDARD.encode(shown), number);
        }
        let names: Vec<&str> = [RED, BLUE].into_iter().filter(|tag| tags & tag != 0).map(tag_name).collect();
        let body = json!({
            "type": "Curve25519", "mechanisms": ["EdDSA_Signature"],
            "private": { "data": BASE64_STANDARD.encode(seed) }, "restrictions": { "tags": names },
        });
        let create = KeyOp::Create(id, Stored { number, tags });
        let request = request("PUT", path(key, id), Some(body));
        self.call_key((node, key, By::Administrator), &request, Some(create), |answer| match answer.status {
            204 => Some(create),
            400 if message(answer).contains("already exists") => Some(KeyOp::Taken(id)),
            _ => None,
        });
    }

    fn delete_key(&self, node: usize, key: usize, id: usize) {
        let (request, delete) = (request("DELETE", path(key, id), None), KeyOp::Delete(id));
        self.call_key((node, key, By::Administrator), &request, Some(delete), |answer| match answer.status {
            204 => Some(delete),
            404 => Some(KeyOp::Missing(id)),
            _ => None,
        });
    }

    fn rename_key(&self, node: usize, key: usize, id: usize) {
        let (to, rename) = (1 - id, KeyOp::Rename(id));
        let request = request("POST", path(key, id) + "/move", Some(json!({ "newId": key_id(key, to) })));
        self.call_key((node, key, By::Administrator), &request, Some(rename), |answer| match answer.status {
            200 => Some(rename),
            404 => Some(KeyOp::Missing(id)),
            409 => Some(KeyOp::Taken(to)),
            _ => None,
        });
    }

    fn tag_key(&self, node: usize, key: usize, id: usize, tag: u8) {
        let request = request("PUT", format!("{}/restrictions/tags/{}", path(key, id), tag_name(tag)), None);
        let change = KeyOp::Tag(id, tag);
        self.call_key((node, key, By::Administrator), &request, Some(change), |answer| match answer.status {
            204 => Some(change),
            304 => Some(KeyOp::HasTag(id, tag)),
            404 => Some(KeyOp::Missing(id)),
            _ => None,
        });
    }

    fn untag_key(&self, node: usize, key: usize, id: usize, tag: u8) {
        let request = request("DELETE", format!("{}/restrictions/tags/{}", path(key, id), tag_name(tag)), None);
        let change = KeyOp::Untag(id, tag);
        self.call_key((node, key, By::Administrator), &request, Some(change), |answer| match answer.status {
            204 => Some(change),
            404 => Some(KeyOp::HasNoTag(id, tag)),
            _ => None,
        });
    }

    fn show_key(&self, node: usize, key: usize, id: usize) {
        let request = request("GET", path(key, id), None);
        self.call_key((node, key, By::Administrator), &request, None, |answer| match answer.status {
            200 => {
                let shown = answer.json();
                // They are left out if there are none.
                let tags = shown["restrictions"]["tags"].as_array().into_iter().flatten();
                let tags = tags.map(|tag| if tag == tag_name(RED) { RED } else { BLUE }).sum();
                Some(KeyOp::Shown(id, Stored { number: self.known_by(&shown["public"]["data"]), tags }))
            }
            404 => Some(KeyOp::Missing(id)),
            _ => None,
        });
    }

    /// Returns whether there is a signature.
    fn sign(&self, node: usize, key: usize, id: usize) -> bool {
        let body = json!({ "mode": "EdDSA", "message": BASE64_STANDARD.encode(MESSAGE) });
        let request = request("POST", path(key, id) + "/sign", Some(body));
        self.call_key((node, key, By::Operator), &request, None, |answer| match answer.status {
            200 => Some(KeyOp::Signed(id, self.known_by(&answer.json()["signature"]))),
            403 if message(answer).contains("tags restriction") => Some(KeyOp::Restricted(id)),
            404 => Some(KeyOp::Missing(id)),
            _ => None,
        })
    }

    fn known_by(&self, shown: &Value) -> u32 {
        *lock(&self.known).get(shown.as_str().unwrap()).expect("it is of a key that was asked for")
    }

    fn list_keys(&self, node: usize, key: usize) {
        let request = request("GET", "/keys", None);
        self.call_key((node, key, By::Administrator), &request, None, |answer| {
            let listed = |id| answer.json().as_array().unwrap().iter().any(|item| item["id"] == key_id(key, id));
            (answer.status == 200).then(|| KeyOp::Listed([listed(0), listed(1)]))
        });
    }

    fn create_namespace(&self, node: usize, key: usize) {
        let Some((namespace, Namespace::ComesAndGoes)) = KEYS[key].1 else { return };
        let (request, create) = (request("PUT", format!("/namespaces/{namespace}"), None), KeyOp::CreateNamespace);
        self.call_key((node, key, By::Root), &request, Some(create), |answer| match answer.status {
            204 => Some(create),
            400 if message(answer).contains("already exists") => Some(KeyOp::NamespaceExists),
            _ => None,
        });
    }

    fn delete_namespace(&self, node: usize, key: usize) {
        let Some((namespace, Namespace::ComesAndGoes)) = KEYS[key].1 else { return };
        let (request, delete) = (request("DELETE", format!("/namespaces/{namespace}"), None), KeyOp::DeleteNamespace);
        self.call_key((node, key, By::Root), &request, Some(delete), |answer| match answer.status {
            204 => Some(delete),
            404 => Some(KeyOp::NamespaceMissing),
            _ => None,
        });
    }

    // --- Users ---

    fn use_user(&self, dice: &mut Dice, node: usize, user: usize) {
        match dice.below(100) {
            0..16 => self.create_user(dice, node, user),
            16..21 => self.delete_user(node, user),
            21..28 => self.set_passphrase(dice, node, user),
            28..34 => self.change_passphrase(dice, node, user),
            34..82 => {
                if let Some(passphrase) = self.some_passphrase(dice, user) {
                    self.log_in(node, user, passphrase);
                }
            }
            82..92 => self.show_user(node, user),
            _ => self.list_users(node, user),
        }
    }

    /// Sends a call about a user as [`Load::call_key`] does, by the Administrator or, with a passphrase, by the user itself.
    fn call_user(
        &self,
        (node, user, passphrase): (usize, usize, Option<u32>),
        request: &Request,
        change: Option<UserOp>,
        told: impl Fn(&Answer) -> Option<UserOp>,
    ) -> Option<Sent> {
        let name = USERS[user];
        let sent = match passphrase {
            Some(number) => self.send(node, (name, &passphrase_of(number)), request),
            None => {
                let admin =
                    name.split_once('~').map_or("admin".to_owned(), |(namespace, _)| format!("{namespace}~admin"));
                self.send(node, (&admin, ADMIN), request)
            }
        }?;
        let told = |answer: &Answer| match (answer.status, passphrase) {
            (401, Some(number)) => Some(UserOp::Refused(number)),
            _ => told(answer),
        };
        record(&self.history.users[user], &sent, request, change, told, UserOp::may_be_cached);
        Some(sent)
    }

    /// Remembers a passphrase that a user may have now. Wrong ones are rarely tried, as they block logins for a second.
    fn remember_passphrase(&self, user: usize, number: u32) {
        let mut latest = lock(&self.passphrases[user]);
        latest.push_front(number);
        latest.truncate(TRIED);
    }

    /// One of the latest passphrases, mostly the last one.
    fn some_passphrase(&self, dice: &mut Dice, user: usize) -> Option<u32> {
        let latest = lock(&self.passphrases[user]);
        let at = if dice.below(8) == 0 { dice.below(TRIED) } else { 0 };
        latest.get(at).or(latest.front()).copied()
    }

    /// Sends a change that gives a user this passphrase.
    fn give_passphrase(
        &self,
        (node, user, by): (usize, usize, Option<u32>),
        dice: &mut Dice,
        number: u32,
        request: &Request,
        change: UserOp,
        refusal: (u16, UserOp),
    ) {
        // Sometimes it is tried while it is being set.
        let early = dice.below(8) == 0;
        if early {
            self.remember_passphrase(user, number);
        }
        let sent = self.call_user((node, user, by), request, Some(change), |answer| match answer.status {
            201 | 204 => Some(change),
            status if status == refusal.0 => Some(refusal.1),
            _ => None,
        });
        let refused = |sent: &Sent| match &sent.end {
            End::Answered(answer) => ![201, 204].contains(&answer.status),
            End::NotDone => true,
            End::Unknown => false,
        };
        if !early && sent.is_some_and(|sent| !refused(&sent)) {
            self.remember_passphrase(user, number);
        }
    }

    fn create_user(&self, dice: &mut Dice, node: usize, user: usize) {
        let account = Account { number: self.number(), passphrase: self.number() };
        let (name, passphrase) = (account.number.to_string(), passphrase_of(account.passphrase));
        let body = json!({ "realName": name, "role": "Operator", "passphrase": passphrase });
        let (request, create) = (request("PUT", user_path(user), Some(body)), UserOp::Create(account));
        self.give_passphrase((node, user, None), dice, account.passphrase, &request, create, (409, UserOp::Exists));
    }

    fn delete_user(&self, node: usize, user: usize) {
        let request = request("DELETE", user_path(user), None);
        self.call_user((node, user, None), &request, Some(UserOp::Delete), |answer| match answer.status {
            204 => Some(UserOp::Delete),
            404 => Some(UserOp::Missing),
            _ => None,
        });
    }

    fn set_passphrase(&self, dice: &mut Dice, node: usize, user: usize) {
        let number = self.number();
        let (request, set) = (passphrase_request(user, number), UserOp::SetPassphrase(number));
        self.give_passphrase((node, user, None), dice, number, &request, set, (404, UserOp::Missing));
    }

    fn change_passphrase(&self, dice: &mut Dice, node: usize, user: usize) {
        let Some(from) = self.some_passphrase(dice, user) else { return };
        let to = self.number();
        let (request, change) = (passphrase_request(user, to), UserOp::ChangePassphrase { from, to });
        self.give_passphrase((node, user, Some(from)), dice, to, &request, change, (404, UserOp::Missing));
    }

    fn log_in(&self, node: usize, user: usize, passphrase: u32) {
        let request = request("GET", user_path(user), None);
        let sent = self.call_user((node, user, Some(passphrase)), &request, None, |answer| match answer.status {
            200 => Some(UserOp::LoggedIn(passphrase)),
            404 => Some(UserOp::Missing),
            _ => None,
        });
        // The user that is shown is looked up after the login.
        let shown = |answer: &Answer| (answer.status == 200).then(|| shown_user(answer));
        if let Some(sent) = sent
            && let End::Answered(Answer { status: 200, .. }) = &sent.end
        {
            record(&self.history.users[user], &sent, &request, None, shown, UserOp::may_be_cached);
        }
    }

    fn show_user(&self, node: usize, user: usize) {
        let request = request("GET", user_path(user), None);
        self.call_user((node, user, None), &request, None, |answer| match answer.status {
            200 => Some(shown_user(answer)),
            404 => Some(UserOp::Missing),
            _ => None,
        });
    }

    fn list_users(&self, node: usize, user: usize) {
        let request = request("GET", "/users", None);
        self.call_user((node, user, None), &request, None, |answer| {
            let listed = |list: &Value| list.as_array().unwrap().iter().any(|item| item["user"] == USERS[user]);
            (answer.status == 200).then(|| UserOp::Listed(listed(&answer.json())))
        });
    }
}

/// Records what `sent` came to, if it says anything about the object.
fn record<O: super::linear::Object>(
    track: &Track<O>,
    sent: &Sent,
    request: &Request,
    change: Option<O::Op>,
    told: impl Fn(&Answer) -> Option<O::Op>,
    cached: impl Fn(&O::Op) -> bool,
) {
    let op = match &sent.end {
        End::NotDone => return,
        End::Unknown => change,
        End::Answered(answer) => Some(told(answer).unwrap_or_else(|| {
            let (method, path) = (request.method, &request.path);
            panic!("{method} {path} at node {}: {} {}", sent.node, answer.status, message(answer))
        })),
    };
    let Some(op) = op else { return };
    let Sent { node, process, invoked, answered, .. } = *sent;
    let told = matches!(sent.end, End::Answered(_));
    let cached = cached(&op);
    lock(&track.records).push(Record { op, node, process, invoked, answered, told, cached });
}

fn message(answer: &Answer) -> String {
    answer.json()["message"].as_str().unwrap_or_default().to_owned()
}

fn tag_name(tag: u8) -> &'static str {
    if tag == RED { "red" } else { "blue" }
}

fn key_id(key: usize, id: usize) -> String {
    format!("{}{id}", KEYS[key].0)
}

fn path(key: usize, id: usize) -> String {
    format!("/keys/{}", key_id(key, id))
}

fn user_path(user: usize) -> String {
    format!("/users/{}", USERS[user])
}

fn passphrase_of(number: u32) -> String {
    format!("passphrase {number}")
}

fn passphrase_request(user: usize, number: u32) -> Request {
    let body = json!({ "passphrase": passphrase_of(number) });
    request("POST", user_path(user) + "/passphrase", Some(body))
}

fn shown_user(answer: &Answer) -> UserOp {
    UserOp::Shown(answer.json()["realName"].as_str().unwrap().parse().unwrap())
}
