//! Seeds that once showed a bug, each by the name of what was wrong.

use crate::plan::Plan;
use crate::{Total, run};

/// Name and seed.
const SEEDS: [(&str, u64); 4] = [
    ("marks dropped for what a killed life had not flushed", 726),
    ("marks dropped for what a killed life had not flushed, with a weak disk", 1501),
    ("acknowledged writes of a killed life undone by a power cut", 3141),
    ("a disk pulled from a unit that was down", 986),
];

/// Runs them all.
pub(crate) fn run(total: &mut Total) {
    for (name, seed) in SEEDS {
        let outcome = run::run(Plan::new(seed), false);
        if let Some(what) = &outcome.violation {
            println!("regression {name}: {what}");
        }
        total.add(seed, None, &outcome);
    }
}
