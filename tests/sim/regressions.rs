//! Seeds that once showed a bug, each by the name of what was wrong.

use crate::plan::Plan;
use crate::{Total, run};

/// Name and seed.
const SEEDS: [(&str, u64); 0] = [];

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
