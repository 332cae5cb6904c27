//! Unprovisioned: nothing is stored yet. It can only be provisioned, or a backup be restored.

use crate::crypto::user_digest::Digest;
use std::collections::BTreeSet;
use std::sync::Arc;

use casemate_api::{Passphrase, Role, UserId};

use crate::crypto::secret::DomainKey;
use crate::device::Device;
use crate::device::procedure::Procedure;
use crate::device::slots;
use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::error::Error;
use crate::identity::users;
use crate::platform::Platform;
use crate::rows::cluster_id::{ClusterId, Found};
use crate::rows::fence::Fence;
use crate::rows::index::Indexed;
use crate::rows::path::{DevicePath, Generation, RowPath, cluster_identity, generation_pointer};
use crate::rows::table::RowKey;
use crate::rows::user::UserRecord;
use crate::runtime::party::Party;
use crate::runtime::witness;
use crate::store::{Expect, Outcome, Path, Range, Read, Revision, Room, Txn};

/// The HSM before it has a Domain Key.
pub struct Unprovisioned {
    device: Arc<Device>,
}

/// The input of provisioning.
pub struct Provision {
    /// 10 to 200 bytes.
    pub unlock_passphrase: Passphrase,
    /// Passphrase of the first user, `admin`; 10 to 200 bytes.
    pub admin_passphrase: Passphrase,
    /// Seconds by which the HSM's time is ahead of the hardware clock.
    pub clock_offset_s: i64,
}

/// The first generation of the shared store.
const FIRST: Generation = 1;

impl Unprovisioned {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        Self { device }
    }

    /// Creates a Domain Key and the user `admin`. First the procedure is recorded, then the shared rows are written, on a store
    /// that others share only if it is empty. Then one
    /// transaction of the device's own store writes the slots and removes the record: from that moment the HSM is
    /// provisioned.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a passphrase of a wrong length; [`Error::Precondition`] if a shared store holds rows already;
    /// [`Error::Unavailable`] and others of the stores.
    pub async fn provision(&self, wanted: &Provision) -> Result<DomainKey, Error> {
        users::check_length("unlockPassphrase", &wanted.unlock_passphrase)?;
        users::check_length("adminPassphrase", &wanted.admin_passphrase)?;
        let domain = DomainKey::random(&*self.device.platform.rng);
        let digest =
            users::digest(&self.device.platform, Party::Hsm, "adminPassphrase", &wanted.admin_passphrase).await?;
        let passphrase = wanted.unlock_passphrase.expose();
        let slots =
            slots::with_slot0(DeviceStoreChange::default(), &self.device.platform, Party::Hsm, passphrase, &domain)
                .await?;

        let Platform { store, rng, .. } = &self.device.platform;
        if store.is_shared() && Procedure::stored(&self.device.store).await? == Some(Procedure::Provision) {
            // What an earlier attempt has sent is void or undone before another one begins.
            undo(&self.device.platform, &self.device.store, &self.device.id).await?;
        }
        let cluster = match store.is_shared() {
            true => Some(ClusterId::for_unused(&**store, &**rng).await?),
            false => None,
        };
        let begun = Procedure::Provision.record_in(without_slots());
        let begun = match &cluster {
            Some(cluster) => begun.put(DevicePath::Cluster, cluster.bytes()),
            None => begun,
        };
        self.device.store.commit(begun).await?;
        let founded = match cluster {
            Some(cluster) => self.found(cluster, &domain, digest).await?,
            None => {
                sweep(&self.device.platform).await?;
                let written = self.device.platform.store.commit(vec![self.first_rows(&domain, digest)?]).await?.pop();
                let Some(Outcome::Committed(revision)) = written else { return Err(unconfirmed()) };
                revision
            }
        };
        witness::note(founded.0);
        let offset = wanted.clock_offset_s.to_be_bytes();
        self.device.store.commit(slots.put(DevicePath::ClockOffset, offset).delete(DevicePath::Procedure)).await?;
        Ok(domain)
    }

    /// Writes the first rows of a cluster, if no other node did. When this fails, none of them will be written later.
    async fn found(&self, cluster: ClusterId, domain: &DomainKey, digest: Digest) -> Result<Revision, Error> {
        let Platform { store, rng, .. } = &self.device.platform;
        let fence = Fence::take(store.clone(), rng.clone(), &self.device.id).await?;
        let seen = fence.revision();
        let mut txn = self.first_rows(domain, digest)?;
        let (path, value) = cluster.row();
        txn.expect.extend([(path.clone(), Expect::Absent), fence.guard()]);
        txn.put.push((path, value));
        match store.commit(vec![txn]).await?.pop() {
            Some(Outcome::Committed(revision)) => Ok(revision),
            Some(Outcome::Unknown) => {
                fence.renew(seen).await?;
                match ClusterId::found_in(&**store).await? {
                    Found::Known(found, at) if found == cluster => Ok(at),
                    _ => Err(unconfirmed()),
                }
            }
            Some(Outcome::Conflict(_)) | None => Err(Error::Unavailable(
                "Another node has used the shared store meanwhile. Join its cluster, or choose another etcd-prefix."
                    .into(),
            )),
        }
    }

    /// The generation pointer, and the user `admin`.
    fn first_rows(&self, domain: &DomainKey, digest: Digest) -> Result<Txn, Error> {
        let path = admin()?;
        let record = UserRecord { real_name: "admin".into(), role: Role::Administrator, digest, tags: BTreeSet::new() };
        let rng = &*self.device.platform.rng;
        let row = RowKey::of(domain).seal(&path, Revision::default(), &record, rng);
        // There are no keys yet.
        let indexed = RowKey::of(domain).seal(&RowPath::indexed(FIRST), Revision::default(), &Indexed, rng);
        Ok(Txn {
            expect: vec![(generation_pointer(), Expect::Absent)],
            put: vec![(generation_pointer(), FIRST.to_be_bytes().to_vec()), row.into_parts(), indexed.into_parts()],
            ..Txn::default()
        })
    }
}

fn admin() -> Result<RowPath<UserRecord>, Error> {
    let id = UserId::parse("admin").map_err(|why| Error::internal(why.to_string()))?;
    Ok(RowPath::user(FIRST, &id))
}

fn unconfirmed() -> Error {
    Error::Unavailable("The store did not confirm the change. Try again.".into())
}

/// Undoes a provisioning that a crash interrupted. It was not acknowledged. On a store that others share, only what this
/// provisioning itself has written is removed.
pub(crate) async fn undo(platform: &Platform, local: &DeviceStore, node: &str) -> Result<(), Error> {
    if !platform.store.is_shared() {
        sweep(platform).await?;
    } else if let Some(cluster) = local.get(DevicePath::Cluster).await? {
        // Nothing that was sent before the crash is written after this.
        let fence = Fence::take(platform.store.clone(), platform.rng.clone(), node).await?;
        // The fence goes, too: it would look like that of another node of the cluster that this one joins next.
        let mut txn = Txn { room: Room::Reserved, ..fence.removal() };
        if let Found::Known(found, at) = ClusterId::found_in(&*platform.store).await?
            && found.bytes() == cluster.as_slice()
        {
            txn.expect.push((cluster_identity(), Expect::At(at)));
            let first = [admin()?.into_path(), RowPath::indexed(FIRST).into_path()];
            txn.delete.extend([cluster_identity(), generation_pointer()].into_iter().chain(first));
        }
        let Some(Outcome::Committed(_)) = platform.store.commit(vec![txn]).await?.pop() else {
            return Err(unconfirmed());
        };
    }
    local.commit(without_slots().delete(DevicePath::Cluster).delete(DevicePath::Procedure)).await
}

/// Removes the slots and clock offset that an earlier attempt may have left if its last answer was lost. They are useless
/// without the shared rows.
fn without_slots() -> DeviceStoreChange {
    let slots = [DevicePath::Slot0, DevicePath::Slot1, DevicePath::UnlockSalt, DevicePath::ClockOffset];
    slots.into_iter().fold(DeviceStoreChange::default(), DeviceStoreChange::delete)
}

/// Removes every row of a store that nobody else uses.
async fn sweep(platform: &Platform) -> Result<(), Error> {
    loop {
        let range = Range { start: Path(Box::from([])), end: None, limit: 100, keys_only: true };
        let page = platform.store.range(range, Read::Fresh).await?;
        if page.rows.is_empty() {
            return Ok(());
        }
        let delete = page.rows.into_iter().map(|(path, _)| path).collect();
        platform.store.commit(vec![Txn { delete, ..Txn::default() }]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use casemate_api::State;
    use pollster::block_on;

    use super::*;
    use crate::Hsm;
    use crate::platform::DeviceKeeper;
    use crate::runtime::BoxFuture;
    use crate::sim::{Sim, SimStore};
    use crate::store::{Page, Snapshot, Store, StoreError, Versioned, Watch};

    /// A store that cannot be read after the first write, until `repaired`.
    struct UnreadableStore {
        store: Arc<SimStore>,
        written: AtomicBool,
        repaired: AtomicBool,
    }

    impl UnreadableStore {
        fn check(&self) -> Result<(), StoreError> {
            let unreadable = self.written.load(Ordering::SeqCst) && !self.repaired.load(Ordering::SeqCst);
            if unreadable { Err(StoreError::Busy) } else { Ok(()) }
        }
    }

    impl Store for UnreadableStore {
        fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
            Box::pin(async move {
                self.check()?;
                self.store.get(path, read).await
            })
        }
        fn is_shared(&self) -> bool {
            self.store.is_shared()
        }
        fn get_many<'a>(
            &'a self,
            paths: &'a [Path],
            read: Read,
        ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
            Box::pin(async move {
                self.check()?;
                self.store.get_many(paths, read).await
            })
        }
        fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
            Box::pin(async move {
                self.check()?;
                self.store.range(range, read).await
            })
        }
        fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
            self.written.store(true, Ordering::SeqCst);
            self.store.commit(txns)
        }
        fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
            self.store.watch(prefix, from)
        }
        fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
            self.store.snapshot()
        }
    }

    #[test]
    fn what_is_provisioned_and_cannot_be_opened_is_locked_and_not_open_to_everyone() {
        let sim = Sim::new(7);
        sim.device.load().unwrap();
        let store = Arc::new(UnreadableStore {
            store: sim.store.clone(),
            written: AtomicBool::new(false),
            repaired: AtomicBool::new(false),
        });
        let hsm = block_on(Hsm::boot(Platform { store: store.clone(), ..sim.platform() })).unwrap();
        let secret = |text: &str| Passphrase::from_text(text.into());
        let provision =
            || hsm.provision(secret("unlock passphrase"), secret("admin passphrase"), "2026-01-01T00:00:00Z");
        let error = block_on(provision()).unwrap_err();
        assert!(error.to_string().contains("Unlock it"), "the error tells that the HSM is set up: {error}");
        assert_eq!(hsm.state(), State::Locked);
        assert!(matches!(block_on(provision()), Err(Error::Precondition(_))));
        store.repaired.store(true, Ordering::SeqCst);
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        block_on(hsm.unlock(address, &secret("unlock passphrase"))).unwrap();
        assert_eq!(hsm.state(), State::Operational);
    }
}
