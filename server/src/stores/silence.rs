//! Restarts an etcd that no majority confirms although other members can be reached again.
//!
//! While a network drops packets without a word, TCP sends again what was lost after longer and longer pauses. So when the network
//! has healed, a connection from before may stay unused for another half a minute, unless the machine is set up otherwise. A
//! new one is used at once. An etcd that has no leader, or hears one and does not get through to it, is therefore restarted, so
//! that all its connections are new, as soon as another member answers over one.
//!
//! An etcd that starts tells nothing until it has reached the others. So while its node goes on without a majority with what it tells, it is
//! restarted only when so many answer that there is one again.
//!
//! A learner is left alone: it does not tell who the others are.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use casemate_api::limits::{
    MEMBER_HELPED_MS, MEMBER_LOOK_MS, MEMBER_RESTART_MAX_MS, MEMBER_RESTART_MIN_MS, MEMBER_SILENT_MS,
};
use tokio::time::Instant;

use super::{Running, client, peers};

/// Looks at an etcd, and restarts it if that may help, for as long as it is used.
pub(super) async fn keep_looking(etcd: Weak<Running>) {
    let mut silence = Silence::default();
    loop {
        tokio::time::sleep(Duration::from_millis(MEMBER_LOOK_MS)).await;
        let Some(etcd) = etcd.upgrade() else { return };
        let (member, process) = (&etcd.member, etcd.member.starts());
        let Ok(status) = member.status().await else { continue };
        if etcd.defragments.load(Ordering::Relaxed) || member.is_confirmed().await {
            silence.is_over(Instant::now());
            continue;
        }
        let own = status.header.map_or(0, |header| header.member_id);
        if silence.is_long(process, Instant::now())
            && let Some(url) = another_answers(&etcd, own).await
            // It may have been confirmed meanwhile, or been started again.
            && !member.is_confirmed().await
            && member.starts() == process
        {
            tracing::warn!(url, "etcd gets no confirmation although another member answers, and is restarted");
            member.restart();
            silence.restarted(Instant::now());
        }
    }
}

/// The URL at which another member answers, if enough of them do.
async fn another_answers(etcd: &Running, own: u64) -> Option<String> {
    let members = client(etcd).ok()?.known_members().await.ok()?;
    let voters = members.iter().filter(|member| !member.is_learner).count();
    let in_use = etcd.store.get().is_some_and(|store| store.copy_in_use());
    let others = members.into_iter().filter(|member| member.id != own && !member.is_learner);
    let urls = others.map(|member| member.peer_ur_ls).collect();
    peers::enough_answer(urls, if in_use { voters / 2 } else { 1 }, &etcd.tls()?).await
}

/// For how long there have been confirmations or none, and what was done about it.
#[derive(Default)]
struct Silence {
    /// The process that gets none, and since when.
    since: Option<(u64, Instant)>,
    /// Since when there are some.
    confirmed: Option<Instant>,
    /// When etcd was restarted, and for how long that is not done again.
    restarted: Option<(Instant, Duration)>,
}

impl Silence {
    /// It is confirmed at `now`.
    fn is_over(&mut self, now: Instant) {
        self.since = None;
        // A restart that has helped is no reason to wait with the next one: after another cut it helps again.
        if now.duration_since(*self.confirmed.get_or_insert(now)) >= Duration::from_millis(MEMBER_HELPED_MS) {
            self.restarted = None;
        }
    }

    /// The `process` is not confirmed at `now`. Returns whether that has lasted long enough.
    fn is_long(&mut self, process: u64, now: Instant) -> bool {
        let since = match self.since {
            Some((same, since)) if same == process => since,
            Some(_) | None => now,
        };
        (self.since, self.confirmed) = (Some((process, since)), None);
        let paused = self.restarted.is_some_and(|(at, pause)| now.duration_since(at) < pause);
        !paused && now.duration_since(since) >= Duration::from_millis(MEMBER_SILENT_MS)
    }

    fn restarted(&mut self, now: Instant) {
        let pause = match self.restarted {
            Some((_, pause)) => (pause * 2).min(Duration::from_millis(MEMBER_RESTART_MAX_MS)),
            None => Duration::from_millis(MEMBER_RESTART_MIN_MS),
        };
        self.restarted = Some((now, pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_gets_its_time() {
        let (mut silence, begin) = (Silence::default(), Instant::now());
        let at = |ms| begin + Duration::from_millis(ms);
        assert!(!silence.is_long(1, at(0)));
        assert!(!silence.is_long(1, at(MEMBER_SILENT_MS - 1)));
        assert!(silence.is_long(1, at(MEMBER_SILENT_MS)));
        // It was started again for another reason.
        assert!(!silence.is_long(2, at(MEMBER_SILENT_MS + 1)));
        assert!(silence.is_long(2, at(2 * MEMBER_SILENT_MS + 1)));
    }

    #[test]
    fn a_restart_that_has_helped_is_not_held_against_the_next() {
        let (mut silence, begin) = (Silence::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        silence.is_long(1, at(0));
        assert!(silence.is_long(1, at(10)));
        silence.restarted(at(10));
        // A moment is no help.
        silence.is_over(at(12));
        silence.is_over(at(13));
        assert!(!silence.is_long(2, at(14)));
        assert!(!silence.is_long(2, at(39)));
        assert!(silence.is_long(2, at(40)));
        silence.restarted(at(40));
        silence.is_over(at(42));
        silence.is_over(at(45));
        assert!(!silence.is_long(3, at(46)));
        assert!(silence.is_long(3, at(56)), "of another cut");
    }

    #[test]
    fn restarts_that_do_not_help_become_rare() {
        let (mut silence, begin) = (Silence::default(), Instant::now());
        let mut restarts = Vec::new();
        for second in 0..2 * 3_600 {
            let now = begin + Duration::from_secs(second);
            if silence.is_long(restarts.len() as u64, now) {
                silence.restarted(now);
                restarts.push(second);
            }
        }
        assert_eq!(restarts[..5], [10, 40, 100, 220, 460]);
        assert!(restarts.windows(2).skip(5).all(|pair| pair[1] - pair[0] == 600), "{restarts:?}");
    }
}
