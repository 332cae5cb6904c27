//! A simulated node: its tables, what follows the store for them, and the operations that it is asked for.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casemate_api::limits::STORE_CONFIRMED_MS;
use casemate_api::{NamespaceId, Role, UserId};

use super::super::follow::{Follower, keep_watching};
use super::history::{End, Kind, Log, Value};
use super::planted::Fault;
use crate::crypto::secret::DomainKey;
use crate::crypto::user_digest::{Digest, Scheme};
use crate::error::Error;
use crate::rows::namespace::NamespaceRecord;
use crate::rows::path::{Generation, RowPath, generation_pointer, generation_prefix};
use crate::rows::table::{Row, SealedRow};
use crate::rows::tables::Tables;
use crate::rows::transaction::{Committed, Transaction};
use crate::rows::user::UserRecord;
use crate::runtime::{BoxFuture, Clock};
use crate::sim::{SimClock, SimRng};
use crate::store::settle::{Repeatable, Settled, Unsettled};
use crate::store::{Event, Expect, Outcome, Range, Read, Revision, Store, Txn};

/// Rows that are written and read: users and namespaces.
pub(super) const ROWS: usize = 3;

fn user(generation: Generation, row: usize) -> RowPath<UserRecord> {
    RowPath::user(generation, &UserId::parse(&format!("user{row}")).unwrap())
}

fn namespace(generation: Generation, row: usize) -> RowPath<NamespaceRecord> {
    RowPath::namespace(generation, &NamespaceId::parse(&format!("ns{row}")).unwrap())
}

fn is_user(row: usize) -> bool {
    row.is_multiple_of(2)
}

fn sealed(tables: &Tables, generation: Generation, row: usize, value: u32) -> Result<SealedRow, Error> {
    if !is_user(row) {
        let record = NamespaceRecord::new(value);
        return tables.namespaces.sealed(&namespace(generation, row), Revision::default(), &record);
    }
    let digest = Digest { scheme: Scheme::Scrypt, salt: [1; 16], hash: [2; 32] };
    let record = UserRecord { real_name: value.to_string(), role: Role::Operator, digest, tags: BTreeSet::new() };
    tables.users.sealed(&user(generation, row), Revision::default(), &record)
}

async fn found(tables: &Tables, row: usize, cached: bool) -> Result<Option<(u32, Revision)>, Error> {
    let of_user = |row: &Row<UserRecord>| (row.record.real_name.parse().unwrap(), row.revision);
    let of_namespace = |row: &Row<NamespaceRecord>| (row.record.number, row.revision);
    let generation = tables.generation;
    Ok(match (is_user(row), cached) {
        (true, true) => tables.users.get(&user(generation, row)).await?.map(|row| of_user(&row)),
        (true, false) => tables.users.read(&user(generation, row)).await?.map(|row| of_user(&row)),
        (false, true) => tables.namespaces.get(&namespace(generation, row)).await?.map(|row| of_namespace(&row)),
        (false, false) => tables.namespaces.read(&namespace(generation, row)).await?.map(|row| of_namespace(&row)),
    })
}

/// What the tasks of one node share.
pub(super) struct Member {
    pub(super) at: usize,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<SimClock>,
    pub(super) rng: Arc<SimRng>,
    pub(super) tables: Mutex<Option<Arc<Tables>>>,
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) fault: Fault,
}

impl Member {
    pub(super) fn tables(&self) -> Option<Arc<Tables>> {
        self.tables.lock().unwrap().clone()
    }

    async fn open(&self) -> Result<(), Error> {
        let before = self.log.lock().unwrap().ops.len();
        let (store, domain) = (self.store.clone(), DomainKey::new([7; 32]));
        let name = format!("NODE{}", self.at);
        let tables = Tables::open(store, self.rng.clone(), self.clock.clone(), &domain, &name).await?;
        if self.fault == Fault::AlwaysConfirmed {
            tables.confirm(Duration::from_secs(1 << 30), Some(tables.pointer()));
        }
        let old = self.tables.lock().unwrap().replace(Arc::new(tables));
        if let Some(old) = old {
            old.close();
        }
        self.log.lock().unwrap().fenced(self.at, before);
        Ok(())
    }

    pub(super) async fn run(self: Arc<Self>) {
        while self.open().await.is_err() {
            self.clock.sleep(Duration::from_millis(100)).await;
        }
        keep_watching(&*self).await;
    }

    fn begin(&self, row: usize, kind: Kind) -> usize {
        self.log.lock().unwrap().begin(self.at, row, kind, self.clock.monotonic())
    }

    fn end(&self, op: usize, end: End) {
        self.log.lock().unwrap().end(op, end);
    }

    pub(super) async fn read(self: Arc<Self>, row: usize, cached: bool) {
        let Some(tables) = self.tables() else { return };
        let op = self.begin(row, Kind::Read { cached });
        let answer = found(&tables, row, cached).await;
        self.end(op, answer.map_or(End::Failed, |row| End::Found(row.map(|(value, _)| value))));
    }

    /// Writes `to`: over the row as it was read from the store or its cache, or over whatever there is.
    pub(super) async fn write(self: Arc<Self>, row: usize, to: Value, blindly: bool, cached: bool) {
        let Some(tables) = self.tables() else { return };
        let mut expected = None;
        let mut transaction = Transaction::default();
        if !blindly {
            let Ok(found) = found(&tables, row, cached).await else { return };
            expected = Some(found.map(|(value, _)| value));
            let revision = found.map(|(_, revision)| revision);
            transaction = match is_user(row) {
                true => transaction.found(&user(tables.generation, row), revision),
                false => transaction.found(&namespace(tables.generation, row), revision),
            };
        }
        transaction = match (to, is_user(row)) {
            (Some(value), _) => match sealed(&tables, tables.generation, row, value) {
                Ok(row) => transaction.put(row),
                Err(_) => return,
            },
            (None, true) => transaction.delete(&user(tables.generation, row)),
            (None, false) => transaction.delete(&namespace(tables.generation, row)),
        };
        let op = self.begin(row, Kind::Write { expected, to });
        let end = match tables.commit(transaction).await {
            Ok(Committed::At(_)) => End::Applied,
            Ok(Committed::Conflict(_)) => End::Conflict,
            Err(Error::Unavailable(why)) if why.contains("did not confirm") => End::Unknown,
            Err(_) => End::Refused,
        };
        self.end(op, end);
    }

    /// What a restore does: fills a generation of its own, and moves the pointer to it.
    pub(super) async fn restore(self: Arc<Self>, generation: Generation, values: [Value; ROWS]) {
        let Some(tables) = self.tables() else { return };
        let Ok(Some(pointer)) = self.store.get(&generation_pointer(), Read::Fresh).await else { return };
        let mut staging = Txn { expect: vec![(generation_pointer(), Expect::At(pointer.revision))], ..Txn::default() };
        for (row, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let Ok(row) = sealed(&tables, generation, row, *value) else { return };
            staging.put.push(row.into_parts());
        }
        let staged = self.store.commit(vec![staging]).await;
        if !matches!(staged.as_deref(), Ok([Outcome::Committed(_)])) {
            return;
        }
        let write = |to: &Value| Kind::Write { expected: None, to: *to };
        let ops: Vec<usize> = values.iter().enumerate().map(|(row, to)| self.begin(row, write(to))).collect();
        ops.iter().for_each(|op| self.log.lock().unwrap().ops[*op].fenced = false);
        let to = generation.to_be_bytes().to_vec();
        if self.fault == Fault::RestoreSettledByRead {
            let end = self.move_once(pointer.revision, to, generation).await;
            return ops.into_iter().for_each(|op| self.end(op, end));
        }
        let moved = Repeatable::replace(generation_pointer(), Some(pointer.revision), to).commit(&*self.store).await;
        let end = match moved {
            Ok(Settled::Committed(_)) => End::Applied,
            Ok(Settled::Conflict) | Err(Unsettled::NotBegun(_)) => End::Refused,
            Err(Unsettled::Unknown) => End::Unknown,
        };
        ops.into_iter().for_each(|op| self.end(op, end));
    }

    /// The planted fault of a restore.
    async fn move_once(&self, from: Revision, to: Vec<u8>, generation: Generation) -> End {
        let expect = vec![(generation_pointer(), Expect::At(from))];
        let txn = Txn { expect, put: vec![(generation_pointer(), to.clone())], ..Txn::default() };
        match self.store.commit(vec![txn]).await.as_deref() {
            Ok([Outcome::Committed(_)]) => return End::Applied,
            Ok([Outcome::Unknown]) => {}
            _ => return End::Refused,
        }
        match self.store.get(&generation_pointer(), Read::Fresh).await {
            Ok(Some(row)) if row.value == to => End::Applied,
            Ok(_) => {
                let staged = Range::prefix(&generation_prefix(generation), 100);
                if let Ok(page) = self.store.range(staged, Read::Fresh).await {
                    let delete = page.rows.into_iter().map(|(path, _)| path).collect();
                    let _ = self.store.commit(vec![Txn { delete, ..Txn::default() }]).await;
                }
                End::Refused
            }
            Err(_) => End::Unknown,
        }
    }

    /// Removes the rows of the generations before the current one.
    pub(super) async fn sweep(self: Arc<Self>) {
        let Ok(Some(pointer)) = self.store.get(&generation_pointer(), Read::Fresh).await else { return };
        let current = Generation::from_be_bytes(pointer.value.as_slice().try_into().unwrap());
        let end = if self.fault == Fault::SweepsCurrent { current + 1 } else { current };
        let (start, end) = (generation_prefix(0), Some(generation_prefix(end)));
        let Ok(page) = self.store.range(Range { start, end, limit: 100, keys_only: true }, Read::Fresh).await else {
            return;
        };
        let delete = page.rows.into_iter().map(|(path, _)| path).collect();
        let expect = vec![(generation_pointer(), Expect::At(pointer.revision))];
        let _ = self.store.commit(vec![Txn { expect, delete, ..Txn::default() }]).await;
    }
}

impl Follower for Member {
    fn store(&self) -> &dyn Store {
        &*self.store
    }

    fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    fn apply_event(&self, event: &Event) {
        let Some(tables) = self.tables() else { return };
        tables.apply_event(event);
        if self.fault == Fault::AlwaysConfirmed {
            tables.confirm(Duration::from_secs(1 << 30), Some(tables.pointer()));
        }
    }

    fn confirm(&self, asked: Duration, pointer: Option<Revision>) {
        let Some(tables) = self.tables() else { return };
        // And for as long again, as otherwise it takes thousands of seeds until this is seen.
        let late = self.clock.monotonic() + Duration::from_millis(STORE_CONFIRMED_MS);
        let asked = if self.fault == Fault::ConfirmedFromAnswer { late } else { asked };
        tables.confirm(asked, if self.fault == Fault::ConfirmsReplaced { Some(tables.pointer()) } else { pointer });
    }

    fn answered(&self, asked: Duration) {
        if let Some(tables) = self.tables() {
            tables.answered(asked);
        }
    }

    fn follow_pointer(&self, found: Option<Revision>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.fault == Fault::ConfirmsReplaced && self.rng.below(8) > 0 {
                return;
            }
            if self.tables().is_some_and(|tables| found.is_some_and(|found| tables.pointer() < found)) {
                let _ = self.open().await;
            }
        })
    }
}
