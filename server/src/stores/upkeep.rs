//! Gives the pages that the database of this node's etcd does not use back to its disk, and takes back the alarm of a database that
//! had reached its quota.
//!
//! etcd counts free pages as used: without this, a member whose database was full once would refuse additions for ever, whatever
//! is deleted. While it is defragmented, a member answers nothing else. So members take turns, by the clock and their places in the list
//! of members, and it is done only when it gives back a good part.
//!
//! A witness has no node that does this: its quota is larger (`casemated witness init`), so that its database is never the first to be full.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use casemate_api::limits::{
    MEMBER_DEFRAGMENT_BYTES_S, MEMBER_DEFRAGMENT_MIN_S, MEMBER_UPKEEP_LOOK_MS, MEMBER_UPKEEP_TURN_S,
};
use casemate_core::runtime::Clock;
use casemate_etcd::proto::{AlarmType, StatusResponse};
use casemate_etcd::{Address, Client, Error};

use super::{Running, client};
use crate::clock::SystemClock;

/// Looks after the database of an etcd for as long as it is used.
pub(super) async fn keep_looking(etcd: Weak<Running>) {
    loop {
        tokio::time::sleep(Duration::from_millis(MEMBER_UPKEEP_LOOK_MS)).await;
        let Some(etcd) = etcd.upgrade() else { return };
        let Ok(client) = client(&etcd) else { continue };
        let endpoint = etcd.member.endpoint();
        let database = Database { client: &client, endpoint: &endpoint, defragments: &etcd.defragments };
        if let Err(error) = database.look_after(SystemClock::new().wall()).await {
            tracing::debug!(%error, "the database of etcd could not be looked after; this is tried again");
        }
    }
}

/// The database of one member.
struct Database<'a> {
    client: &'a Client,
    endpoint: &'a Address,
    defragments: &'a AtomicBool,
}

impl Database<'_> {
    /// Does what is necessary at `now`, the time since 1970.
    async fn look_after(&self, now: Duration) -> Result<(), Error> {
        let mut status = self.client.status_of(self.endpoint).await?;
        let own = status.header.as_ref().map_or(0, |header| header.member_id);
        if is_worth_it(&status) {
            let mut members: Vec<_> = self.client.known_members().await?.iter().map(|member| member.id).collect();
            members.sort_unstable();
            if !has_turn(&members, own, now) {
                return Ok(());
            }
            let before = status.db_size;
            self.defragment(before).await?;
            status = self.client.status_of(self.endpoint).await?;
            tracing::info!(before, after = status.db_size, "the database of etcd was defragmented");
        }
        if status.errors.iter().any(|error| error.contains("NOSPACE")) && !is_filling(&status) {
            for alarm in self.client.alarms().await? {
                if alarm.member_id == own && alarm.alarm() == AlarmType::Nospace {
                    self.client.lift_alarm(alarm).await?;
                    tracing::info!("the database of etcd has room again, and its alarm is taken back");
                }
            }
        }
        Ok(())
    }

    async fn defragment(&self, bytes: i64) -> Result<(), Error> {
        let seconds = MEMBER_DEFRAGMENT_MIN_S + bytes.unsigned_abs() / MEMBER_DEFRAGMENT_BYTES_S;
        self.defragments.store(true, Ordering::Relaxed);
        let done = self.client.defragment(self.endpoint, Duration::from_secs(seconds)).await;
        self.defragments.store(false, Ordering::Relaxed);
        done
    }
}

/// Whether the database is above four fifths of its quota.
fn is_filling(status: &StatusResponse) -> bool {
    status.db_size_quota > 0 && status.db_size / 4 >= status.db_size_quota / 5
}

/// Whether a quarter of a database that is filling is free.
fn is_worth_it(status: &StatusResponse) -> bool {
    is_filling(status) && status.db_size_in_use <= status.db_size / 4 * 3
}

/// Whether it is the turn of the member `own` at `now`. Nothing begins in the second half of a turn, because clocks differ.
fn has_turn(members: &[u64], own: u64, now: Duration) -> bool {
    let (turn, since) = (now.as_secs() / MEMBER_UPKEEP_TURN_S, now.as_secs() % MEMBER_UPKEEP_TURN_S);
    let place = turn.checked_rem(members.len() as u64).and_then(|place| usize::try_from(place).ok());
    since < MEMBER_UPKEEP_TURN_S / 2 && place.and_then(|place| members.get(place)) == Some(&own)
}

#[cfg(test)]
mod tests {
    use std::slice;

    use casemate_etcd::Settings;
    use casemate_etcd::proto::TxnRequest;
    use casemate_etcd::request::{delete, get, put};
    use casemate_testkit::EtcdServer;

    use super::*;

    /// One that is full serves additions again by itself once rows were deleted and their history is compacted.
    #[tokio::test]
    async fn a_database_that_was_full_takes_additions_again() {
        let server = EtcdServer::start_plain(1, &["--quota-backend-bytes=8388608"]);
        let endpoint = Address::parse(&server.endpoints()[0]).unwrap();
        let client = Client::new(Settings::of(vec![endpoint.clone()], None)).unwrap();
        let write =
            async |operation| client.txn(TxnRequest { success: vec![operation], ..TxnRequest::default() }).await;
        let defragments = AtomicBool::new(false);
        let database = Database { client: &client, endpoint: &endpoint, defragments: &defragments };
        let now = Duration::ZERO;

        for n in 0..100 {
            write(put(format!("small/{n}"), "", 0)).await.unwrap();
        }
        let mut written = 0;
        while write(put(format!("k/{written}"), vec![0; 1 << 20], 0)).await.is_ok() {
            written += 1;
            assert!(written < 20, "the quota is not kept");
        }
        database.look_after(now).await.unwrap();
        assert_eq!(write(put("small", "", 0)).await, Err(Error::NoSpace), "nothing was deleted");
        for n in 0..=written {
            write(delete(format!("k/{n}"))).await.unwrap();
        }
        let newest = client.range(get("k/0")).await.unwrap().header.unwrap().revision;
        client.compact(newest).await.unwrap();
        // The pages are free some time after the answer, and after the next change.
        for n in 0..100 {
            write(delete(format!("small/{n}"))).await.unwrap();
            database.look_after(now).await.unwrap();
            if write(put("small", "", 0)).await.is_ok() {
                assert_eq!(client.alarms().await.unwrap(), []);
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("still refused: {:?}", client.status().await);
    }

    #[test]
    fn a_database_is_made_smaller_when_that_gives_back_a_good_part() {
        let status = |db_size, db_size_in_use, db_size_quota| StatusResponse {
            db_size,
            db_size_in_use,
            db_size_quota,
            ..StatusResponse::default()
        };
        assert!(is_worth_it(&status(80, 60, 100)));
        assert!(!is_worth_it(&status(80, 61, 100)), "it is in use");
        assert!(!is_worth_it(&status(79, 10, 100)), "it is far from the quota");
        assert!(!is_worth_it(&status(80, 10, 0)), "etcd does not tell the quota");
    }

    #[test]
    fn members_take_turns() {
        let members = [3, 5, 9];
        let at = |second: u64| {
            members.iter().filter(|own| has_turn(&members, **own, Duration::from_secs(second))).collect::<Vec<_>>()
        };
        assert_eq!([0, 59, 120, 180, 240, 360].map(at), [vec![&3], vec![&3], vec![&5], vec![], vec![&9], vec![&3]]);
        assert!(!has_turn(&[], 3, Duration::ZERO));
        assert!(!has_turn(slice::from_ref(&4), 3, Duration::ZERO), "one that is no member");
    }
}
