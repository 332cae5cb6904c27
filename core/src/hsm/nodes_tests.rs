//! Two and three nodes on one store, simulated step by step: a seed decides who runs next, and what fails. What the nodes were
//! told is then checked by `history`, without looking into the store:
//!
//! - every acknowledged write took effect once, and every refused one never did: none is lost, and none comes back;
//! - a write of unknown outcome took effect at most once, and not after its node was opened again;
//! - a read returned the state of a moment while it ran, or, where a cache may answer, of at most `STORE_CONFIRMED_MS` before
//!   it, and nothing older than what its own node had written. So what was removed at one node is refused by all others after
//!   that time, and no row of the current generation is swept.
//!
//! The checker is itself checked with the planted faults of [`planted`].
//!
//! `CASEMATE_SEEDS=n` simulates so many seeds; `CASEMATE_SEED=n` only this one, and prints what happened.

mod history;
mod node;
mod planted;
mod world;

#[cfg(test)]
mod tests {
    use super::planted::Fault;
    use super::world::{Figures, World};

    const STEPS: usize = 300;

    #[expect(clippy::disallowed_methods, reason = "a setting of this test, and not of the HSM")]
    fn number(name: &str) -> Option<u64> {
        std::env::var(name).ok().map(|text| text.parse().unwrap())
    }

    #[test]
    fn nodes_on_one_store_lose_nothing_and_believe_nothing_old() {
        if let Some(seed) = number("CASEMATE_SEED") {
            let (checked, figures, lines) = World::new(seed, Fault::None).run(STEPS);
            lines.iter().for_each(|line| println!("{line}"));
            println!("{figures:?}");
            assert_eq!(checked, Ok(()), "seed {seed}");
            return;
        }
        let seeds = number("CASEMATE_SEEDS").unwrap_or(2_000);
        let mut sum = Figures::default();
        let mut failed = Vec::new();
        for seed in 0..seeds {
            let (checked, figures, _) = World::new(seed, Fault::None).run(STEPS);
            sum.acknowledged += figures.acknowledged;
            sum.refused += figures.refused;
            sum.unknown += figures.unknown;
            sum.conflicts += figures.conflicts;
            sum.reads += figures.reads;
            sum.failed_reads += figures.failed_reads;
            sum.cache_hits += figures.cache_hits;
            sum.restores += figures.restores;
            sum.crashes += figures.crashes;
            if let Err(why) = checked {
                failed.push((seed, why));
            }
        }
        println!("{seeds} seeds: {sum:?}");
        let first: Vec<_> = failed.iter().take(5).collect();
        assert!(failed.is_empty(), "{} seeds fail; see them with CASEMATE_SEED=…: {first:?}", failed.len());
    }

    /// Returns the first seed with which the checker finds the planted fault.
    fn finds(fault: Fault) {
        let found = (0..1_000).find(|seed| World::new(*seed, fault).run(STEPS).0.is_err());
        println!("{fault:?} is found with seed {found:?}");
        assert!(found.is_some(), "the checker does not find {fault:?}");
    }

    #[test]
    fn a_lost_answer_that_is_settled_without_a_fence_is_found() {
        finds(Fault::NoFence);
    }

    #[test]
    fn a_cache_that_is_used_without_confirmation_is_found() {
        finds(Fault::AlwaysConfirmed);
    }

    #[test]
    fn a_confirmation_that_counts_from_the_answer_is_found() {
        finds(Fault::ConfirmedFromAnswer);
    }

    #[test]
    fn a_watch_that_leaves_out_events_is_found() {
        finds(Fault::LeakyWatch);
    }

    #[test]
    fn a_sweep_of_the_current_generation_is_found() {
        finds(Fault::SweepsCurrent);
    }

    #[test]
    fn a_transaction_that_is_sent_again_without_guards_is_found() {
        finds(Fault::UnguardedResend);
    }

    #[test]
    fn a_read_of_replaced_data_is_found() {
        finds(Fault::ReadsReplaced);
    }

    #[test]
    fn a_confirmation_of_replaced_data_is_found() {
        finds(Fault::ConfirmsReplaced);
    }

    #[test]
    fn a_restore_that_is_settled_by_one_read_is_found() {
        finds(Fault::RestoreSettledByRead);
    }
}
