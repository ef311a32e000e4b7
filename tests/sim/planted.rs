//! Planted bugs: each must be found, or the oracle does not see.

use std::sync::atomic::{AtomicU64, Ordering};

use twinlun_mirror::Bug;

use crate::plan::Plan;
use crate::{Total, cores, replay, run};

/// Seeds within which a bug must be found.
pub(crate) const WITHIN: u64 = 3000;

/// Bugs that this simulator does not show, and why. `--bug` looks for them all the same.
const HIDDEN: [(Bug, &str); 1] = [(
    Bug::AllowStaleEpoch,
    "the link opens no session before the requests of the last one are over (L2), and requests of one session reach the array's \
     turns in their order: two more nets hold what this one lets through; the mirror's own tests have layers without turns and show it",
)];

/// Plants a bug in this thread, or none.
pub(crate) fn plant(name: Option<&str>) {
    let bug = name.map(|name| {
        let known = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
        known.unwrap_or_else(|| panic!("there is no planted bug {name}"))
    });
    twinlun_mirror::plant(bug);
}

/// Names of the bugs that are looked for.
pub(crate) fn names() -> impl Iterator<Item = String> {
    let shown = |bug: &Bug| !HIDDEN.iter().any(|(hidden, _)| hidden == bug);
    Bug::ALL.into_iter().filter(shown).map(|bug| format!("{bug:?}"))
}

/// Looks for every bug, or for one.
pub(crate) fn hunt(within: u64, only: Option<&str>, total: &mut Total) {
    for bug in Bug::ALL {
        let name = format!("{bug:?}");
        let hidden = HIDDEN.iter().find(|(hidden, _)| *hidden == bug);
        match (only, hidden) {
            (Some(only), _) if only != name => continue,
            (None, Some((_, why))) => {
                println!("planted {name}: not looked for: {why}");
                continue;
            }
            _ => {}
        }
        match find(&name, within) {
            Some((seed, what)) => {
                println!("planted {name}: found by seed {seed}: {what}");
                total.passed += 1;
            }
            None => total.failed.push(format!("planted {name}: not found within {within} seeds")),
        }
    }
    plant(None);
}

/// The first seed that shows the bug. Threads share the search; the lowest seed is not always the one that is found.
fn find(name: &str, within: u64) -> Option<(u64, String)> {
    let next = AtomicU64::new(0);
    let found = std::sync::Mutex::new(None);
    let worker = || {
        plant(Some(name));
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= within || found.lock().is_ok_and(|found| found.is_some()) {
                return;
            }
            if let Some(what) = run::run(Plan::new(seed), false).violation {
                let short: String = what.chars().take(160).collect();
                if let Ok(mut found) = found.lock() {
                    found.get_or_insert((seed, format!("{short}\n    {}", replay(seed, Some(name)))));
                }
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(worker);
        }
    });
    found.into_inner().ok().flatten()
}
