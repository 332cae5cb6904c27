//! The figures of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::lock;
use super::history::{Record, Track};
use super::linear::Object;
use super::load::Load;

/// What the calls at all objects came to.
#[derive(Default)]
struct Sum {
    /// Changes that were acknowledged, what was seen, and refusals that tell something: by kind of operation.
    told: BTreeMap<String, usize>,
    unknown: usize,
    /// When each change was acknowledged.
    changed: Vec<Duration>,
}

impl Sum {
    fn add<O: Object>(&mut self, track: &Track<O>) {
        for Record { op, told, answered, .. } in lock(&track.records).iter() {
            if !told {
                self.unknown += 1;
                continue;
            }
            let text = format!("{op:?}");
            let kind = text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default();
            *self.told.entry(kind.to_owned()).or_default() += 1;
            if O::changes(op) {
                self.changed.push(*answered);
            }
        }
    }
}

/// Prints the figures of a run between two moments.
pub(crate) fn print(load: &Load, begin: Duration, end: Duration) {
    let mut sum = Sum::default();
    load.history.keys.iter().for_each(|track| sum.add(track));
    load.history.users.iter().for_each(|track| sum.add(track));
    let told: usize = sum.told.values().sum();
    let not_done = lock(&load.not_done);
    println!(
        "{told} answers, {} of them acknowledged changes; {} changes of unknown outcome",
        sum.changed.len(),
        sum.unknown
    );
    println!("{} calls were certainly not carried out, by reason: {not_done:#?}", not_done.values().sum::<usize>());
    println!("answers: {:?}", sum.told);
    let mut changed = sum.changed;
    changed.extend([begin, end]);
    changed.retain(|at| (begin..=end).contains(at));
    changed.sort_unstable();
    let mut gaps: Vec<Duration> = changed.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable_by(|one, other| other.cmp(one));
    println!("longest times without an acknowledged change: {:.1?}", &gaps[..gaps.len().min(5)]);
}
