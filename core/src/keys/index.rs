//! Finds keys by their label or uid without reading all keys, and keeps the rows for that.
//!
//! They are written in the same transaction as the key. Keys that an earlier version has stored get theirs in the background; until
//! all have them, a search reads all keys.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use casemate_api::KeyId;
use casemate_api::limits::{INDEX_GROUP_ROWS, KEY_DETAILS_ROWS};

use crate::error::Error;
use crate::keys::Keys;
use crate::keys::context::Keyring;
use crate::rows::index::Search;
use crate::rows::key::KeyRecord;
use crate::rows::path::{KeyRef, RowPath, RowPrefix, Uid};
use crate::rows::table::Row;
use crate::rows::transaction::{Committed, Transaction};

impl Keys<'_> {
    /// The ids of the keys that are meant, and perhaps of some that are not, sorted. `None`: it takes reading all keys, as they are not
    /// indexed yet, or nothing or very much is meant.
    pub async fn search(&self, search: &Search) -> Result<Option<Vec<KeyId>>, Error> {
        let (index, namespace) = (&self.ring.tables.index, self.scope.number());
        if !self.ring.is_indexed().await? {
            return Ok(None);
        }
        let prefix = match search {
            Search::Uid(uid) => return self.ids_of(&[*uid]).await.map(Some),
            Search::Label(label) | Search::LabelBeginning(label) if label.is_empty() => return Ok(None),
            Search::Label(label) => index.with_label(namespace, label),
            Search::LabelBeginning(label) => index.with_label_beginning(namespace, label),
        };
        let (labelled, more) = index.labels.paths(&prefix, None).await?;
        if more {
            return Ok(None);
        }
        let uids: Vec<_> = labelled.iter().filter_map(RowPath::uid).collect();
        let mut ids = Vec::with_capacity(uids.len());
        for part in uids.chunks(KEY_DETAILS_ROWS) {
            // As lists with details do, so that many searches at once leave time for other requests.
            let _turn = self.ring.state.details_turns.0.acquire().await;
            ids.extend(self.ids_of(part).await?);
        }
        ids.sort();
        ids.dedup();
        Ok(Some(ids))
    }

    /// The ids of those of these keys that there are. A key that is renamed at the same time is found under its new id: it was there all
    /// the time, and whoever does not find it may make another.
    async fn ids_of(&self, uids: &[Uid]) -> Result<Vec<KeyId>, Error> {
        let index = &self.ring.tables.index;
        let paths: Vec<_> = uids.iter().map(|uid| index.id_of(self.key(*uid))).collect();
        let mut ids = Vec::new();
        for _ in 0..RENAMINGS {
            let rows = index.uids.read_many(&paths).await?;
            let named: Vec<_> = uids.iter().zip(rows).filter_map(|(uid, row)| Some((*uid, row?.record.0))).collect();
            let keys: Vec<_> = named.iter().map(|(_, id)| self.path(id)).collect();
            let keys = self.ring.tables.keys.get_many(&keys).await?;
            let there = |(uid, key): (&Uid, &Option<Arc<Row<KeyRecord>>>)| {
                key.as_ref().is_some_and(|key| key.record.uid == *uid)
            };
            let all = named.iter().map(|(uid, _)| uid).zip(&keys).all(there);
            ids = named.into_iter().map(|(_, id)| id).collect();
            if all {
                break;
            }
        }
        Ok(ids)
    }
}

/// How often the ids of keys are read that are renamed at the same time.
const RENAMINGS: usize = 4;

impl Keyring<'_> {
    /// Whether all keys are indexed. Once they are, they stay so.
    async fn is_indexed(&self) -> Result<bool, Error> {
        let known = &self.state.indexed;
        if !known.load(Ordering::Relaxed) && self.tables.index.is_whole().await? {
            known.store(true, Ordering::Relaxed);
        }
        Ok(known.load(Ordering::Relaxed))
    }

    /// Indexes the keys that an earlier version has stored, if there are some. It may be interrupted anywhere, and done by several nodes at
    /// once: a key is indexed as it is, or not at all. Once the rows of one are there, whoever changes it changes them. A disk that is
    /// nearly full is left alone: searches work without.
    pub(crate) async fn index(&self) -> Result<(), Error> {
        if self.is_indexed().await? {
            return Ok(());
        }
        let all = RowPrefix::all_keys(self.tables.generation);
        let (mut after, mut count, mut left) = (None, 0, 0);
        loop {
            let (paths, more) = self.tables.keys.paths(&all, after.as_ref()).await?;
            for part in paths.chunks(INDEX_GROUP_ROWS) {
                count += part.len();
                left += self.index_some(part).await?;
            }
            after = paths.into_iter().next_back();
            if !more {
                break;
            }
        }
        if left > 0 {
            return Err(Error::Unavailable(
                format!("{left} keys were changed meanwhile. They are looked at again.").into(),
            ));
        }
        let whole = self.tables.index.whole(Transaction::default())?;
        self.tables.commit(whole.reserved()).await?;
        tracing::info!(target: "hsm.key", keys = count, "keys are found by label and uid without reading all of them");
        Ok(())
    }

    /// Indexes those of these keys that are not, and returns how many were changed at the same time, and have to be looked at again.
    async fn index_some(&self, paths: &[RowPath<KeyRecord>]) -> Result<usize, Error> {
        let mut keys = Vec::with_capacity(paths.len());
        for path in paths {
            let Some((namespace, id)) = path.name() else { continue };
            match self.tables.keys.read(path).await {
                Ok(Some(row)) => keys.push((path, KeyRef { namespace, uid: row.record.uid }, id, row)),
                Ok(None) => {}
                // One that cannot be read cannot be used either, and keeps no others from being found.
                Err(error @ Error::Internal(_)) => {
                    tracing::error!(target: "hsm.key", %error, "the key ({id}) cannot be read and is not indexed");
                }
                Err(error) => return Err(error),
            }
        }
        let index = &self.tables.index;
        let rows: Vec<_> = keys.iter().map(|(_, key, ..)| index.id_of(*key)).collect();
        let there = index.uids.exist(&rows).await?;
        let mut transactions = Vec::new();
        for ((path, key, id, row), _) in keys.iter().zip(there).filter(|(_, there)| !there) {
            let transaction = Transaction::default().at(path, row.revision).absent(&index.id_of(*key));
            transactions.push(index.with(transaction, *key, id, &row.record.label)?);
        }
        let mut changed = 0;
        for outcome in self.tables.commit_all(transactions).await {
            // The second guard: another node has indexed it.
            changed += usize::from(outcome? == Committed::Conflict(0));
        }
        Ok(changed)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use casemate_api::{KeyType, Mechanism, NamespaceId, Passphrase};
    use pollster::block_on;

    use super::*;
    use crate::Hsm;
    use crate::crypto::mech::tests::any_key;
    use crate::hsm::phase::Operational;
    use crate::identity::caller::{Caller, Evidence};
    use crate::keys::{NewId, Properties};
    use crate::rows::key::Mechanisms;
    use crate::rows::path::{ROOT, generation_prefix};
    use crate::rows::record::TableId;
    use crate::runtime::Rng;
    use crate::sim::{Sim, SimRng};
    use crate::store::{Path, Range, Read, Revision, Store, Txn};

    const LABELS: [&str; 8] = ["", "a", "ab", "abc", "b", "ü", "üb", "a label of 32 bytes, no shorter"];

    fn world(sim: &Sim) -> (Arc<Operational>, Arc<Caller>) {
        let hsm = block_on(Hsm::boot(sim.platform())).unwrap();
        let secret = |text: &str| Passphrase::from_text(text.into());
        block_on(hsm.provision(secret("unlock passphrase"), secret("admin passphrase"), "2030-01-02T03:04:05Z"))
            .unwrap();
        let op = hsm.operational().unwrap();
        (op.clone(), admin(&op))
    }

    fn admin(op: &Operational) -> Arc<Caller> {
        let evidence =
            Evidence::Basic { name: "admin", passphrase: "admin passphrase".as_bytes(), address: [10, 0, 0, 1].into() };
        let Ok(admin) = block_on(op.authenticate(evidence)) else { panic!("the admin is let in") };
        Arc::new(admin)
    }

    fn id(text: &str) -> KeyId {
        KeyId::parse(text).unwrap()
    }

    fn create(op: &Operational, admin: &Caller, name: &str, label: &str) {
        let mechanisms = Mechanisms::of(&[Mechanism::EdDSA_Signature]);
        let properties = Properties::new(mechanisms, label.into(), vec![]).unwrap();
        let keys = op.keys().managed_by(admin).unwrap();
        block_on(keys.create(NewId::Given(id(name)), any_key(KeyType::Curve25519), properties)).unwrap();
    }

    fn rows_in(op: &Operational, store: &dyn Store, table: TableId) -> BTreeSet<Path> {
        let prefix = Path([generation_prefix(op.tables.generation).as_bytes(), &[table as u8]].concat().into());
        let page = block_on(store.range(Range::prefix(&prefix, 100_000), Read::Fresh)).unwrap();
        page.rows.into_iter().map(|(path, _)| path).collect()
    }

    /// All keys: their paths and records.
    fn all(op: &Operational) -> Vec<(RowPath<KeyRecord>, Row<KeyRecord>)> {
        let prefix = RowPrefix::all_keys(op.tables.generation);
        let (paths, more) = block_on(op.tables.keys.paths(&prefix, None)).unwrap();
        assert!(!more);
        let read = |path: RowPath<KeyRecord>| (path.clone(), block_on(op.tables.keys.read(&path)).unwrap().unwrap());
        paths.into_iter().map(read).collect()
    }

    /// The rows by which keys are found are those of the keys that there are, and no others.
    pub(crate) fn check(op: &Operational, store: &dyn Store) {
        let (mut uids, mut labels) = (BTreeSet::new(), BTreeSet::new());
        for (path, row) in all(op) {
            let (namespace, id) = path.name().unwrap();
            let (index, key) = (&op.tables.index, KeyRef { namespace, uid: row.record.uid });
            assert_eq!(block_on(index.uids.read(&index.id_of(key))).unwrap().unwrap().record.0, id);
            uids.insert(index.id_of(key).into_path());
            labels.extend(index.label_of(key, &row.record.label).map(RowPath::into_path));
        }
        assert_eq!(rows_in(op, store, TableId::Uids), uids);
        assert_eq!(rows_in(op, store, TableId::Labels), labels);
    }

    /// A search finds what reading all keys finds.
    fn check_searches(op: &Operational, admin: &Caller) {
        let keys = all(op);
        let uids = keys.iter().map(|(_, row)| Search::Uid(row.record.uid));
        let labels = LABELS.into_iter().flat_map(|label| {
            [Search::Label(label.into()), Search::LabelBeginning(label.into()), Search::Label(format!("{label}?"))]
        });
        for search in uids.chain(labels) {
            let found = block_on(op.keys().of(admin.scope().unwrap()).search(&search)).unwrap();
            let wanted =
                keys.iter().filter(|(_, row)| search.wants(&row.record)).map(|(path, _)| path.name().unwrap().1);
            match &search {
                Search::Label(label) | Search::LabelBeginning(label) if label.is_empty() => assert_eq!(found, None),
                // No two of these labels have the same tag.
                _ => assert_eq!(found.unwrap(), wanted.collect::<Vec<_>>(), "{search:?}"),
            }
        }
    }

    /// As an earlier version has left it.
    fn take_away(op: &Operational, store: &dyn Store) {
        let tables = [TableId::Uids, TableId::Labels, TableId::Indexed];
        for path in tables.into_iter().flat_map(|table| rows_in(op, store, table)) {
            block_on(store.commit(vec![Txn { delete: vec![path], ..Txn::default() }])).unwrap();
        }
    }

    #[test]
    fn a_search_finds_what_reading_all_keys_finds_whatever_was_changed() {
        for seed in 0..4 {
            let sim = Sim::new(seed);
            let (op, admin) = world(&sim);
            let keys = op.keys().managed_by(&admin).unwrap();
            let rng = SimRng::new(seed);
            let below = |limit: usize| {
                let mut byte = [0];
                rng.fill(&mut byte);
                usize::from(byte[0]) % limit
            };
            for _ in 0..150 {
                let (name, label) = (id(&format!("k{}", below(12))), LABELS[below(LABELS.len())]);
                let found = block_on(op.keys().of(admin.scope().unwrap()).get_stored(&name)).unwrap();
                match (below(4), found) {
                    (_, None) => create(&op, &admin, name.as_str(), label),
                    (0, Some(key)) => block_on(keys.delete(&key)).unwrap(),
                    // The new id may be taken.
                    (1, Some(key)) => drop(block_on(keys.rename(&key, &id(&format!("k{}", below(12)))))),
                    _ => drop(block_on(keys.set_label(&name, label)).unwrap()),
                }
            }
            check(&op, &*sim.store);
            check_searches(&op, &admin);
        }
    }

    #[test]
    fn what_an_earlier_version_has_stored_is_indexed_however_often_that_is_interrupted() {
        for lost in 0..8 {
            let sim = Sim::new(lost);
            let (op, admin) = world(&sim);
            for n in 0..70 {
                create(&op, &admin, &format!("k{n}"), LABELS[n % LABELS.len()]);
            }
            take_away(&op, &*sim.store);
            // As after a boot.
            op.keys().state.indexed.store(false, Ordering::Relaxed);
            let search = Search::Label("ab".into());
            assert_eq!(block_on(op.keys().of(admin.scope().unwrap()).search(&search)).unwrap(), None, "not yet");
            // What is changed meanwhile is indexed at once.
            let keys = op.keys().managed_by(&admin).unwrap();
            block_on(keys.set_label(&id("k0"), "abc")).unwrap();
            let found = block_on(op.keys().of(admin.scope().unwrap()).get_stored(&id("k1"))).unwrap().unwrap();
            block_on(keys.rename(&found, &id("renamed"))).unwrap();
            let found = block_on(op.keys().of(admin.scope().unwrap()).get_stored(&id("k2"))).unwrap().unwrap();
            block_on(keys.delete(&found)).unwrap();

            let commits = Arc::new(AtomicUsize::new(0));
            let hook = (commits.clone(), Arc::downgrade(&sim.store));
            sim.store.delay(move || {
                if hook.0.fetch_add(1, Ordering::Relaxed) == lost as usize
                    && let Some(store) = hook.1.upgrade()
                {
                    store.fail(true);
                }
                Box::pin(async {})
            });
            let first = block_on(op.keys().index());
            sim.store.no_delay();
            sim.store.fail(false);
            assert!(first.is_err(), "{lost}: it was interrupted");
            // Once more with a key that does not open.
            let path = RowPath::key(op.tables.generation, ROOT, &id("bad"));
            sim.store.tamper(path.path().clone(), vec![1; 40]);
            block_on(op.keys().index()).unwrap();
            block_on(sim.store.commit(vec![Txn { delete: vec![path.path().clone()], ..Txn::default() }])).unwrap();
            check(&op, &*sim.store);
            check_searches(&op, &admin);
        }
    }

    #[test]
    fn a_key_that_is_renamed_during_a_search_is_found() {
        let sim = Sim::new(1);
        let (op, admin) = world(&sim);
        create(&op, &admin, "a", "web");
        let uid = all(&op).remove(0).1.record.uid;
        let (calls, inside) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        for search in [Search::Uid(uid), Search::Label("web".into()), Search::LabelBeginning("w".into())] {
            for at in 0..6 {
                calls.store(0, Ordering::Relaxed);
                let (changer, by, calls, inside) = (op.clone(), admin.clone(), calls.clone(), inside.clone());
                sim.store.delay(move || {
                    let (op, admin, inside) = (changer.clone(), by.clone(), inside.clone());
                    let call = calls.fetch_add(usize::from(!inside.load(Ordering::Relaxed)), Ordering::Relaxed);
                    Box::pin(async move {
                        if call != at || inside.swap(true, Ordering::Relaxed) {
                            return;
                        }
                        let keys = op.keys().managed_by(&admin).unwrap();
                        for (from, to) in [("a", "b"), ("b", "a")] {
                            if let Ok(Some(key)) = keys.get_stored(&id(from)).await {
                                keys.rename(&key, &id(to)).await.unwrap();
                                break;
                            }
                        }
                        inside.store(false, Ordering::Relaxed);
                    })
                });
                let found = block_on(op.keys().of(admin.scope().unwrap()).search(&search)).unwrap().unwrap();
                sim.store.no_delay();
                let now = all(&op).remove(0).0.name().unwrap().1;
                // After the last of its calls it may have the old one.
                assert!(found.len() == 1 && (found[0] == now || at >= 2), "{search:?} {at}: {found:?}, {now}");
            }
        }
    }

    #[test]
    fn a_key_that_is_changed_while_it_is_indexed_is_found_as_it_is() {
        let sim = Sim::new(1);
        let (op, admin) = world(&sim);
        for n in 0..5 {
            create(&op, &admin, &format!("k{n}"), "before");
        }
        take_away(&op, &*sim.store);
        op.keys().state.indexed.store(false, Ordering::Relaxed);
        let calls = Arc::new(AtomicUsize::new(0));
        let inside = Arc::new(AtomicBool::new(false));
        let (changer, by) = (op.clone(), admin.clone());
        sim.store.delay(move || {
            let (op, admin) = (changer.clone(), by.clone());
            let (call, inside) = (calls.fetch_add(1, Ordering::Relaxed), inside.clone());
            Box::pin(async move {
                // Before some of the calls, and not before its own.
                if call % 2 == 0 || inside.swap(true, Ordering::Relaxed) {
                    return;
                }
                let keys = op.keys().managed_by(&admin).unwrap();
                drop(keys.set_label(&id("k1"), LABELS[1 + call % 4]).await);
                if let Ok(Some(key)) = keys.get_stored(&id("k3")).await {
                    drop(keys.rename(&key, &id("renamed")).await);
                }
                if let Ok(Some(key)) = keys.get_stored(&id("k4")).await {
                    drop(keys.delete(&key).await);
                }
                inside.store(false, Ordering::Relaxed);
            })
        });
        let outcome = block_on(op.keys().index());
        sim.store.no_delay();
        outcome.or_else(|_| block_on(op.keys().index())).unwrap();
        check(&op, &*sim.store);
        assert!(all(&op).iter().all(|(path, _)| path.name().unwrap().1.as_str() != "k4"));
    }

    #[test]
    fn nothing_of_a_deleted_namespace_is_left() {
        let sim = Sim::new(1);
        let (op, admin) = world(&sim);
        let name = NamespaceId::parse("berlin").unwrap();
        block_on(op.namespaces().create(&admin, &name)).unwrap();
        let number = block_on(op.namespaces().get(&name)).unwrap().unwrap().record.number;
        assert_ne!(number, ROOT);
        let key = KeyRef { namespace: number, uid: [7; 16] };
        let path = RowPath::key(op.tables.generation, number, &id("k"));
        let record = KeyRecord::new(key.uid, Mechanisms::of(&[]), "web".into(), vec![], any_key(KeyType::Curve25519));
        let row = op.tables.keys.sealed(&path, Revision::default(), &record).unwrap();
        let transaction = op.tables.index.with(Transaction::default().put(row), key, &id("k"), "web").unwrap();
        block_on(op.tables.commit(transaction)).unwrap();
        check(&op, &*sim.store);
        block_on(op.namespaces().delete(&admin, &name, number)).unwrap();
        for table in [TableId::Keys, TableId::Uids, TableId::Labels] {
            assert!(rows_in(&op, &*sim.store, table).is_empty(), "{table:?}");
        }
    }
}
