//! Authentication, and the scope of a caller.
//!
//! A [`Caller`] comes only from [`crate::hsm::phase::Operational::authenticate`], a [`Scope`] only from a caller, and
//! only a scope forms the path of a key: a key in another namespace cannot be named, let alone used.

use std::net::IpAddr;
use std::sync::Arc;

use casemate_api::limits::CREDENTIAL_CACHE_ENTRIES;
use casemate_api::{Action, NamespaceId, Role, UserId};
use quick_cache::sync::Cache;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::crypto::kdf;
use crate::crypto::user_digest::{Digest, Scheme};
use crate::device::Device;
use crate::device::limiter::Guess;
use crate::error::Error;
use crate::identity::guesses::{Entry, Guesses, Judging, Verdict};
use crate::rows::namespace::NamespaceRecord;
use crate::rows::path::{Generation, NamespaceNumber, ROOT, RowPath};
use crate::rows::table::Row;
use crate::rows::tables::Tables;
use crate::rows::transaction::Transaction;
use crate::rows::user::UserRecord;
use crate::runtime::Rng;
use crate::runtime::lifetime::Lifetime;
use crate::runtime::party::{Neighbourhood, Party};
use crate::runtime::pool::Work;
use crate::store::Revision;

/// The credentials of a request.
pub enum Evidence<'a> {
    /// HTTP Basic credentials (RFC 7617).
    Basic {
        /// The user name as sent.
        name: &'a str,
        /// The passphrase as sent.
        passphrase: &'a [u8],
        /// The client's address.
        address: IpAddr,
    },
}

/// Why a caller was not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Unknown user or wrong passphrase; both get the same answer.
    Unauthenticated,
    /// An attempt with this name from this neighbourhood failed less than a second ago, or another one is being
    /// checked.
    TooMany,
    /// Too many passphrases are being checked already.
    Busy,
}

/// An authenticated user.
pub struct Caller {
    /// Their user id.
    pub id: UserId,
    row: Arc<Row<UserRecord>>,
    home: Home,
}

enum Home {
    Known(Scope),
    /// The user's namespace does not exist, or not any more: the user may do nothing.
    Missing,
}

/// Where a caller's keys are: the root, or one existing namespace.
#[derive(Clone)]
pub struct Scope {
    number: NamespaceNumber,
    /// The namespace's row, which every write inside it expects unchanged.
    namespace: Option<(NamespaceId, Revision)>,
}

impl Scope {
    /// The number in the paths of this scope.
    pub(crate) fn number(&self) -> NamespaceNumber {
        self.number
    }

    /// The party that all users of this scope share in the pool's queues.
    pub fn party(&self) -> Party {
        Party::Namespace(self.number)
    }

    /// The namespace; `None` is the root.
    pub fn namespace(&self) -> Option<&NamespaceId> {
        self.namespace.as_ref().map(|(id, _)| id)
    }

    /// The namespace, and the revision of its row as this scope saw it; `None` is the root.
    pub(crate) fn namespace_row(&self) -> Option<(&NamespaceId, Revision)> {
        self.namespace.as_ref().map(|(id, revision)| (id, *revision))
    }

    /// Adds the guard that the namespace still exists as this scope saw it.
    pub(crate) fn fence(&self, generation: Generation, transaction: Transaction) -> Transaction {
        match &self.namespace {
            None => transaction,
            Some((id, revision)) => transaction.at(&RowPath::namespace(generation, id), *revision),
        }
    }
}

impl Caller {
    /// The revision of the user's row at authentication: what a write on the user's behalf expects.
    pub(crate) fn revision(&self) -> Revision {
        self.row.revision
    }

    /// The user's record at authentication.
    pub(crate) fn record(&self) -> &UserRecord {
        &self.row.record
    }

    /// The caller's role.
    pub fn role(&self) -> Role {
        self.row.record.role
    }

    /// The caller's scope; `Forbidden` if its namespace does not exist.
    pub fn scope(&self) -> Result<&Scope, Error> {
        match &self.home {
            Home::Known(scope) => Ok(scope),
            Home::Missing => Err(Error::Forbidden(None)),
        }
    }

    /// Whether the caller belongs to no namespace.
    pub fn is_root(&self) -> bool {
        matches!(&self.home, Home::Known(scope) if scope.number == ROOT)
    }

    /// Whether the caller has one of `tags`. Without tags always true.
    pub fn has_one_of(&self, tags: &[String]) -> bool {
        tags.is_empty() || tags.iter().any(|tag| self.row.record.tags.contains(tag))
    }
}

/// A cache of correct credentials by user name: a keyed hash of name and passphrase, and the revision of the user row
/// it was checked against. Any change of the row invalidates the entry. It does not hold the passphrase.
struct Credentials {
    key: aws_lc_rs::hmac::Key,
    known: Cache<Box<str>, ([u8; 32], Revision)>,
}

impl Credentials {
    /// An empty cache under a fresh key.
    fn new(rng: &dyn Rng) -> Self {
        let mut key = [0; 32];
        rng.fill(&mut key);
        let hmac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
        zeroize::Zeroize::zeroize(&mut key);
        Self { key: hmac, known: Cache::new(CREDENTIAL_CACHE_ENTRIES) }
    }

    fn tag(&self, name: &str, passphrase: &[u8]) -> [u8; 32] {
        let mut context = aws_lc_rs::hmac::Context::with_key(&self.key);
        context.update(name.as_bytes());
        context.update(&[0]);
        context.update(passphrase);
        let mut tag = [0; 32];
        tag.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        tag
    }

    /// The revision for which these credentials are known to be correct.
    fn known(&self, name: &str, tag: &[u8; 32]) -> Option<Revision> {
        let (known, at) = self.known.get(name)?;
        bool::from(known.as_slice().ct_eq(tag.as_slice())).then_some(at)
    }
}

/// The state in memory that the logins of one phase share.
pub(crate) struct LoginState {
    credentials: Credentials,
    guesses: Arc<Guesses>,
}

impl LoginState {
    /// The state at the start of a phase.
    pub(crate) fn new(device: &Device) -> Self {
        let credentials = Credentials::new(&*device.platform.rng);
        Self { credentials, guesses: Guesses::new(device.limiter.clone()) }
    }

    /// Ends all waiting logins without a verdict, for the end of the phase.
    pub(crate) fn abandon(&self) {
        self.guesses.abandon();
    }
}

/// What authentication works with.
pub(crate) struct Logins<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) device: &'a Device,
    pub(crate) life: &'a Lifetime,
    pub(crate) state: &'a LoginState,
}

impl Logins<'_> {
    /// Authenticates a caller. With cached credentials it costs a keyed hash, otherwise the slow hash, on the pool. At
    /// most one wrong guess a second is checked for a name and a neighbourhood; [`crate::identity::guesses`] explains
    /// why.
    ///
    /// Known names, unknown names and names with cached credentials get the same answers in the same order, even when
    /// the pool is full; for known and unknown names the store is read once, and once more for all who share the refusal of
    /// another login.
    pub(crate) async fn authenticate(&self, evidence: Evidence<'_>) -> Result<Caller, Failure> {
        let Evidence::Basic { name, passphrase, address } = evidence;
        let Ok(id) = UserId::parse(name) else { return Err(Failure::Denied(Denied::Unauthenticated)) };
        let neighbourhood = Neighbourhood::from(address);
        let limiter_key = self.device.limiter.key(Guess::Login(neighbourhood, name));
        let tag = self.state.credentials.tag(name, passphrase);
        let known = {
            // Nothing is awaited in this block, so a guess is compared only after the strike of the previous guess at
            // this name from this neighbourhood.
            let _comparing = self.state.guesses.comparing(limiter_key);
            match self.state.credentials.known(name, &tag) {
                Some(revision) if !self.device.limiter.blocks(limiter_key) => Ok(revision),
                _ => Err(self.state.guesses.enter(neighbourhood, limiter_key, tag)),
            }
        };
        let entry = match known {
            Err(entry) => entry,
            Ok(revision) => {
                let row = stored_user(self.tables, &id).await?.filter(|row| row.revision == revision);
                match row {
                    // Another guess may have been found wrong in between.
                    Some(row) if !self.device.limiter.blocks(limiter_key) => {
                        return as_caller(self.tables, id, row).await;
                    }
                    _ => self.state.guesses.enter(neighbourhood, limiter_key, tag),
                }
            }
        };
        let (verdict, joined) = match entry {
            Entry::Refused => return Err(Failure::Denied(Denied::TooMany)),
            Entry::Busy => return Err(Failure::Denied(Denied::Busy)),
            Entry::Joined(verdict, after) => (verdict, Some(after)),
            Entry::First(judging, verdict) => {
                self.judge(judging, &id, passphrase, neighbourhood).await?;
                (verdict, None)
            }
        };
        let salt = match verdict.await {
            Ok(Verdict::Right(salt)) => salt,
            // The row that was judged by was read before this login began. If it has changed since, the passphrase may be right.
            Ok(Verdict::Wrong(salt)) => {
                let now = async || self.expected(&id).await.ok().map(|(_, digest)| digest.salt);
                let after = match &joined {
                    Some(after) => *after.get_or_init(now).await,
                    None => Some(salt),
                };
                return Err(Failure::Denied(match after {
                    Some(after) if after == salt => Denied::Unauthenticated,
                    Some(_) => Denied::TooMany,
                    None => Denied::Busy,
                }));
            }
            Err(_) => return Err(Failure::Denied(Denied::Busy)),
        };
        // The hash is slow and may have been started by another request, so the row as it is now decides.
        let judged = |row: &Arc<Row<UserRecord>>| row.record.digest.salt.ct_eq(&salt).into();
        let row = match stored_user(self.tables, &id).await?.filter(judged) {
            None => self.tables.users.refresh(&RowPath::user(self.tables.generation, &id)).await?.filter(judged),
            found => found,
        };
        let row = row.ok_or(Failure::Denied(Denied::Unauthenticated))?;
        self.state.credentials.known.insert(name.into(), (tag, row.revision));
        as_caller(self.tables, id, row).await
    }

    /// Queues the slow hash that gives the verdict. An unknown name costs the same as a known one: one read of the
    /// store, one hash.
    async fn judge(
        &self,
        judging: Judging,
        id: &UserId,
        passphrase: &[u8],
        neighbourhood: Neighbourhood,
    ) -> Result<(), Error> {
        let (exists, expected) = self.expected(id).await?;
        let (passphrase, retired) = (Zeroizing::new(passphrase.to_vec()), self.life.retired.clone());
        let job = move || {
            if retired.check().is_err() {
                return;
            }
            let hash = Zeroizing::new(match expected.scheme {
                Scheme::HmacSha256 => kdf::user_digest_v0(&passphrase, &expected.salt),
                Scheme::Scrypt => kdf::user_digest(&passphrase, &expected.salt),
            });
            let right = bool::from(hash.as_slice().ct_eq(expected.hash.as_slice())) && exists;
            judging.judge(if right { Verdict::Right(expected.salt) } else { Verdict::Wrong(expected.salt) });
        };
        self.device.platform.pool.spawn(Work::Kdf, Party::Address(neighbourhood), Box::new(job));
        Ok(())
    }

    /// Whether the user exists, and the digest that its passphrase is compared with.
    async fn expected(&self, id: &UserId) -> Result<(bool, Digest), Error> {
        let row = self.tables.users.read(&RowPath::user(self.tables.generation, id)).await?;
        Ok(row.map_or((false, NOBODY), |row| (true, row.record.digest)))
    }

    /// Reads a caller again that was authenticated a while ago: role, tags and namespace as they are now.
    /// `Unauthenticated` if the user was deleted or its passphrase changed since.
    pub(crate) async fn renew(&self, caller: Caller) -> Result<Caller, Failure> {
        let now = stored_user(self.tables, &caller.id).await?.ok_or(Failure::Denied(Denied::Unauthenticated))?;
        if caller.record().is_as(&now.record) {
            as_caller(self.tables, caller.id, now).await
        } else {
            Err(Failure::Denied(Denied::Unauthenticated))
        }
    }

    /// Reads the caller's rows again, for a refusal.
    pub(crate) async fn refresh(&self, caller: &Caller) -> Result<(), Error> {
        let Tables { users, namespaces, generation, .. } = self.tables;
        users.refresh(&RowPath::user(*generation, &caller.id)).await?;
        if let Some(namespace) = &caller.id.namespace {
            namespaces.refresh(&RowPath::namespace(*generation, namespace)).await?;
        }
        Ok(())
    }

    /// A caller without authentication, for simulations only.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) async fn unauthenticated_caller(&self, id: &UserId) -> Result<Caller, Failure> {
        let row = stored_user(self.tables, id).await?.ok_or(Failure::Denied(Denied::Unauthenticated))?;
        as_caller(self.tables, id.clone(), row).await
    }
}

async fn as_caller(tables: &Tables, id: UserId, row: Arc<Row<UserRecord>>) -> Result<Caller, Failure> {
    let home = match &id.namespace {
        None => Home::Known(Scope { number: ROOT, namespace: None }),
        Some(namespace) => match stored_namespace(tables, namespace).await? {
            None => Home::Missing,
            Some(found) => {
                let namespace = Some((namespace.clone(), found.revision));
                Home::Known(Scope { number: found.record.number, namespace })
            }
        },
    };
    Ok(Caller { id, row, home })
}

/// A user, if it exists.
pub(crate) async fn stored_user(tables: &Tables, id: &UserId) -> Result<Option<Arc<Row<UserRecord>>>, Error> {
    tables.users.get(&RowPath::user(tables.generation, id)).await
}

/// A namespace, if it exists.
pub(crate) async fn stored_namespace(
    tables: &Tables,
    id: &NamespaceId,
) -> Result<Option<Arc<Row<NamespaceRecord>>>, Error> {
    tables.namespaces.get(&RowPath::namespace(tables.generation, id)).await
}

/// Why [`crate::hsm::phase::Operational::authenticate`] returned no caller.
#[derive(Debug)]
pub enum Failure {
    /// The credentials were refused.
    Denied(Denied),
    /// The credentials could not be checked.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

/// The digest that the passphrase of an unknown user is compared with. No passphrase has it.
const NOBODY: Digest = Digest { scheme: Scheme::Scrypt, salt: [0; 16], hash: [0; 32] };

/// Whether the caller's role allows `action`, and its namespace the endpoint.
pub fn allows(caller: &Caller, action: Action, scope: CallerScope) -> bool {
    let at_home = match scope {
        CallerScope::Root => caller.is_root(),
        CallerScope::Anywhere => caller.scope().is_ok(),
    };
    at_home && caller.role().may(action)
}

/// Which callers may use an endpoint, by their namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerScope {
    /// Users without a namespace.
    Root,
    /// Users of any existing namespace and of the root; each sees only its own.
    Anywhere,
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::net::Ipv4Addr;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use casemate_api::Passphrase;
    use pollster::block_on;

    use super::*;
    use crate::Hsm;
    use crate::hsm::phase::Operational;
    use crate::identity::users::UserAccess;
    use crate::platform::{DeviceKeeper, Platform};
    use crate::runtime::pool::{Job, Pool};
    use crate::runtime::{BoxFuture, Clock};
    use crate::sim::Sim;

    const PASSPHRASE: &str = "admin passphrase";

    /// Runs jobs at once, or is full and drops them, or holds the next one back.
    #[derive(Default)]
    struct Filling {
        full: AtomicBool,
        holds_next: AtomicBool,
        held: Mutex<Option<Job>>,
    }

    impl Pool for Filling {
        fn spawn(&self, _: Work, _: Party, job: Job) {
            if self.holds_next.swap(false, Ordering::SeqCst) {
                *self.held.lock().unwrap() = Some(job);
            } else if !self.full.load(Ordering::SeqCst) {
                job();
            }
        }
    }

    /// The simulated clock, which runs an action when it is read next.
    struct Interrupting {
        clock: Arc<dyn Clock>,
        act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    }

    impl Clock for Interrupting {
        fn wall(&self) -> Duration {
            self.clock.wall()
        }
        fn monotonic(&self) -> Duration {
            let act = self.act.lock().unwrap().take();
            if let Some(act) = act {
                act();
            }
            self.clock.monotonic()
        }
        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            self.clock.sleep(duration)
        }
    }

    #[derive(Clone)]
    struct Rig {
        sim: Arc<Sim>,
        op: Arc<Operational>,
        pool: Arc<Filling>,
        clock: Arc<Interrupting>,
    }

    impl Rig {
        fn new() -> Self {
            let sim = Arc::new(Sim::new(11));
            sim.device.load().unwrap();
            let pool = Arc::new(Filling::default());
            let clock = Arc::new(Interrupting { clock: sim.clock.clone(), act: Mutex::default() });
            let platform = Platform { pool: pool.clone(), clock: clock.clone(), ..sim.platform() };
            let hsm = block_on(Hsm::boot(platform)).unwrap();
            let secret = |text: &str| Passphrase::from_text(text.into());
            block_on(hsm.provision(secret("unlock passphrase"), secret(PASSPHRASE), "2026-01-01T00:00:00Z")).unwrap();
            Self { op: hsm.operational().unwrap(), sim, pool, clock }
        }

        /// `None`: authenticated.
        fn ask(&self, name: &str, passphrase: &str) -> Option<Denied> {
            let address = Ipv4Addr::LOCALHOST.into();
            let evidence = Evidence::Basic { name, passphrase: passphrase.as_bytes(), address };
            match block_on(self.op.authenticate(evidence)) {
                Ok(_) => None,
                Err(Failure::Denied(denied)) => Some(denied),
                Err(Failure::Error(error)) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn known_and_unknown_names_cost_the_same_reads_and_get_the_same_answers() {
        let rig = Rig::new();
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = reads.clone();
        rig.sim.store.delay(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Box::pin(std::future::ready(()))
        });
        let answers_and_reads = |name: &str| {
            rig.sim.clock.advance(Duration::from_secs(1));
            let before = reads.load(Ordering::SeqCst);
            let mut answers = vec![rig.ask(name, "guess 1"), rig.ask(name, "guess 2"), rig.ask(name, "guess 1")];
            rig.pool.full.store(true, Ordering::SeqCst);
            answers.push(rig.ask(name, "guess 3"));
            rig.sim.clock.advance(Duration::from_secs(1));
            answers.extend([rig.ask(name, "guess 4"), rig.ask(name, "guess 5")]);
            rig.pool.full.store(false, Ordering::SeqCst);
            (answers, reads.load(Ordering::SeqCst) - before)
        };
        let expected = {
            use Denied::{Busy, TooMany, Unauthenticated};
            ([Unauthenticated, TooMany, TooMany, TooMany, Busy, TooMany].map(Some).to_vec(), 2)
        };
        assert_eq!(answers_and_reads("nobody"), expected);
        assert_eq!(answers_and_reads("admin"), expected);
        rig.sim.clock.advance(Duration::from_secs(1));
        assert_eq!(rig.ask("admin", PASSPHRASE), None);
        assert_eq!(answers_and_reads("admin"), expected, "with credentials that are known");
    }

    #[test]
    fn a_guess_dropped_by_a_full_pool_blocks_even_the_right_passphrase_for_a_second() {
        let rig = Rig::new();
        assert_eq!(rig.ask("admin", PASSPHRASE), None);
        rig.pool.full.store(true, Ordering::SeqCst);
        assert_eq!(rig.ask("admin", "a wrong guess"), Some(Denied::Busy));
        assert_eq!(rig.ask("admin", PASSPHRASE), Some(Denied::TooMany));
        rig.sim.clock.advance(Duration::from_secs(1));
        assert_eq!(rig.ask("admin", PASSPHRASE), None, "known credentials need no place");
    }

    #[test]
    fn of_two_guesses_compared_at_the_same_instant_one_is_checked() {
        let rig = Rig::new();
        assert_eq!(rig.ask("admin", PASSPHRASE), None);
        // While a wrong guess is between its comparison and its strike, another thread asks with the right one.
        let (answer, answered) = mpsc::channel();
        let (done, waits) = mpsc::channel();
        let other = rig.clone();
        *rig.clock.act.lock().unwrap() = Some(Box::new(move || {
            std::thread::spawn(move || {
                let denied = other.ask("admin", PASSPHRASE);
                let _ = done.send(());
                answer.send(denied).unwrap();
            });
            let _ = waits.recv_timeout(Duration::from_millis(300));
        }));
        assert_eq!(rig.ask("admin", "a wrong guess"), Some(Denied::Unauthenticated));
        assert_eq!(answered.recv().unwrap(), Some(Denied::TooMany));
    }

    #[test]
    fn a_login_that_joins_an_earlier_one_is_not_refused_for_what_was_before_it() {
        let rig = Rig::new();
        let evidence = |passphrase: &'static str| Evidence::Basic {
            name: "admin",
            passphrase: passphrase.as_bytes(),
            address: Ipv4Addr::LOCALHOST.into(),
        };
        let admin = block_on(rig.op.authenticate(evidence(PASSPHRASE))).ok().unwrap();
        let new = "the new passphrase";
        let mut context = Context::from_waker(Waker::noop());
        rig.pool.holds_next.store(true, Ordering::SeqCst);
        let mut earlier = pin!(rig.op.authenticate(evidence(new)));
        assert!(earlier.as_mut().poll(&mut context).is_pending());

        let users = rig.op.users();
        let target = block_on(users.reach(&admin, admin.id.clone(), UserAccess::Passphrase)).unwrap();
        block_on(users.set_passphrase(&admin, &target, &Passphrase::from_text(new.into()))).unwrap();
        let mut joined = pin!(rig.op.authenticate(evidence(new)));
        assert!(joined.as_mut().poll(&mut context).is_pending());
        let judge = rig.pool.held.lock().unwrap().take().unwrap();
        judge();

        assert!(matches!(block_on(earlier), Err(Failure::Denied(Denied::Unauthenticated))));
        assert!(matches!(block_on(joined), Err(Failure::Denied(Denied::TooMany))));
        rig.sim.clock.advance(Duration::from_secs(1));
        assert_eq!(rig.ask("admin", new), None);
    }
}
