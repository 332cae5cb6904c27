//! The budget for memory that clients make the server use: requests in flight, their bodies, the copies made of them,
//! and replies that have not been read yet.
//!
//! No client may hold more than is left for all others, so a single one gets half of the budget, three get a quarter
//! each, and however many there are, the next one still gets as much as is left. A fixed share would not achieve that:
//! a few clients with full shares would leave nothing. Memory in use is never taken away, so requests need neither a
//! queue nor a lock here.
//!
//! A client is what [`super::serve`] counts as one: an IPv4 address or the first 64 bits of an IPv6 address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use casemate_api::limits::BUDGET_FIRST_BYTES;

use super::serve::client_of;

/// Memory shared by all clients, in bytes.
pub struct Budget {
    left: AtomicUsize,
    /// The minimum that each client gets, however much others hold.
    first_each: usize,
    /// The part of the budget reserved for those minimums.
    first: usize,
    accounts: Mutex<HashMap<IpAddr, Weak<Account>>>,
}

/// The account of one client. A connection looks it up once and keeps it.
pub struct Account {
    budget: Arc<Budget>,
    client: IpAddr,
    held: AtomicUsize,
}

/// The memory of one request, returned when its last owner is dropped.
pub struct Grant {
    account: Arc<Account>,
    bytes: AtomicUsize,
}

/// The client holds as much as is left for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory is left for this client")]
pub struct NoRoom;

impl Budget {
    /// A budget of `bytes` bytes.
    pub fn new(bytes: usize) -> Arc<Self> {
        // A sixteenth of the budget is reserved for 2,048 clients.
        let first_each = (bytes / (16 * FIRST_CLIENTS)).min(BUDGET_FIRST_BYTES);
        let first = FIRST_CLIENTS * first_each;
        Arc::new(Self { left: AtomicUsize::new(bytes), first_each, first, accounts: Mutex::default() })
    }

    /// The account of the client at `address`; the same one as long as anything refers to it.
    pub fn account(self: &Arc<Self>, address: IpAddr) -> Arc<Account> {
        let client = client_of(address);
        let mut accounts = self.accounts();
        if let Some(account) = accounts.get(&client).and_then(Weak::upgrade) {
            return account;
        }
        let account = Arc::new(Account { budget: Arc::clone(self), client, held: AtomicUsize::new(0) });
        accounts.insert(client, Arc::downgrade(&account));
        account
    }

    /// Bytes not granted to any client.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<IpAddr, Weak<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Grants `bytes` bytes.
    pub fn grant(self: &Arc<Self>, bytes: usize) -> Result<Arc<Grant>, NoRoom> {
        self.take(bytes)?;
        Ok(Arc::new(Grant { account: Arc::clone(self), bytes: AtomicUsize::new(bytes) }))
    }

    fn take(&self, bytes: usize) -> Result<(), NoRoom> {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        // Fairness alone would leave less and less for each newcomer, so a small minimum for each is kept apart from
        // it.
        let fair = |left: usize| {
            let left = left.checked_sub(bytes)?;
            (held <= self.budget.first_each || held <= left.saturating_sub(self.budget.first)).then_some(left)
        };
        let taken = self.budget.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fair);
        taken.map(drop).map_err(|_| {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            NoRoom
        })
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut accounts = self.budget.accounts();
        // A client that has returned since then has a new account.
        if accounts.get(&self.client).is_some_and(|account| account.strong_count() == 0) {
            accounts.remove(&self.client);
        }
    }
}

impl Grant {
    /// Grows the grant to at least `bytes`. Each request calls this from one task at a time.
    pub fn cover(&self, bytes: usize) -> Result<(), NoRoom> {
        let more = bytes.saturating_sub(self.bytes.load(Ordering::Relaxed));
        if more > 0 {
            self.account.take(more)?;
            self.bytes.fetch_add(more, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Shrinks the grant to at most `bytes`.
    pub fn shrink(&self, bytes: usize) {
        let less = self.bytes.load(Ordering::Relaxed).saturating_sub(bytes);
        if less > 0 {
            self.bytes.fetch_sub(less, Ordering::Relaxed);
            self.account.give_back(less);
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.account.give_back(*self.bytes.get_mut());
    }
}

/// Number of clients whose minimum is reserved.
const FIRST_CLIENTS: usize = 2_048;

#[cfg(test)]
mod tests {
    use super::*;

    fn account(budget: &Arc<Budget>, address: &str) -> Arc<Account> {
        budget.account(address.parse().unwrap())
    }

    /// Takes single bytes until there are no more.
    fn all_of(account: &Arc<Account>) -> (Arc<Grant>, usize) {
        let grant = account.grant(0).unwrap();
        let got = (1..).take_while(|bytes| grant.cover(*bytes).is_ok()).count();
        (grant, got)
    }

    #[test]
    fn no_client_holds_more_than_is_left_for_others() {
        let budget = Budget::new(1 << 10);
        let mut held = Vec::new();
        let mut shares = Vec::new();
        for client in 1..=10 {
            let (grant, bytes) = all_of(&account(&budget, &format!("192.0.2.{client}")));
            held.push(grant);
            shares.push(bytes);
        }
        assert_eq!(shares, [512, 256, 128, 64, 32, 16, 8, 4, 2, 1]);
        // The first two get nothing more until they hold less than is left.
        assert_eq!(account(&budget, "192.0.2.1").grant(1).err(), Some(NoRoom));
        held.remove(0);
        assert_eq!(budget.left(), 1 + 512);
        assert_eq!(all_of(&account(&budget, "192.0.2.10")).1, 256);
    }

    #[test]
    fn each_client_gets_its_minimum_however_many_there_are() {
        let budget = Budget::new(512 << 20);
        let mut held = Vec::new();
        for client in 1..=60 {
            let account = account(&budget, &format!("192.0.2.{client}"));
            let grant = account.grant(0).unwrap();
            // In increments, as a body grows.
            let mut bytes = 0;
            while grant.cover(bytes + (64 << 10)).is_ok() {
                bytes += 64 << 10;
            }
            held.push(grant);
        }
        for client in 1..=1_000 {
            held.push(account(&budget, &format!("198.51.{}.{}", client / 250, client % 250)).grant(12 << 10).unwrap());
        }
    }

    #[test]
    fn neighbours_in_a_network_of_ipv6_are_one_client() {
        let budget = Budget::new(100);
        let _half = account(&budget, "2001:db8::1").grant(50).unwrap();
        assert!(account(&budget, "2001:db8::2").grant(1).is_err());
        assert!(account(&budget, "2001:db8:0:1::2").grant(25).is_ok());
    }

    #[test]
    fn a_grant_grows_and_shrinks_and_is_given_back() {
        let budget = Budget::new(100);
        let client = account(&budget, "192.0.2.1");
        let grant = client.grant(10).unwrap();
        assert_eq!((grant.cover(5), budget.left()), (Ok(()), 90));
        assert_eq!((grant.cover(40), budget.left()), (Ok(()), 60));
        assert_eq!((grant.cover(51), budget.left()), (Err(NoRoom), 60));
        grant.shrink(20);
        assert_eq!(budget.left(), 80);
        let other = Arc::clone(&grant);
        drop(grant);
        assert_eq!(budget.left(), 80);
        drop(other);
        assert_eq!(budget.left(), 100);
    }

    #[test]
    fn unused_accounts_are_forgotten() {
        let budget = Budget::new(100);
        let client = account(&budget, "192.0.2.1");
        let grant = client.grant(10).unwrap();
        drop(client);
        assert_eq!(budget.accounts().len(), 1, "its grant has it still");
        drop(grant);
        assert!(budget.accounts().is_empty());
    }
}
