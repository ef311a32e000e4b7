//! libiscsi's conformance suite over every kind of LU and every way to reach it.
//!
//! A test has passed when it passes in at least one cell of the matrix and fails in none. A test that no cell can run is a skip, counted as
//! a skip, and named in [`SKIPS`] with the reason.

mod cells;
mod page;
mod verdicts;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::process::missing;
use crate::runner::{Case, Outcome, Verdict};
use cells::{CELLS, Cell};
use verdicts::{Test, Verdicts};

const LIMIT: Duration = Duration::from_secs(900);
/// Cells at work at the same time. The tool sleeps most of its time.
const AT_ONCE: usize = 11;
/// More skips than this are a failure, whatever their reasons.
const MOST_SKIPS: usize = 8;

/// The tests that no cell can run, with the reason.
const SKIPS: &[(&str, &str)] = &[
    ("Sanitize.CryptoErase", NO_CRYPTO_ERASE),
    ("Sanitize.Readonly", NO_CRYPTO_ERASE),
    ("Sanitize.Reservations", NO_CRYPTO_ERASE),
];
/// What the three above have in common; the last two run everything but that.
const NO_CRYPTO_ERASE: &str =
    "data is not encrypted, so there is no key that CRYPTOGRAPHIC ERASE could change";

/// The cases of this room.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("conformance", LIMIT, conformance)]
}

/// What became of one cell: its verdicts, or why there are none.
type Row = (&'static Cell, Result<Verdicts, String>);

async fn conformance(folder: PathBuf) -> Outcome {
    if let Some(reason) = missing(&["iscsi-test-cu"]) {
        return Ok(Verdict::Skipped(reason));
    }
    let tests = verdicts::list().await?;
    let mut rows = Vec::new();
    let mut complaints = Vec::new();
    for (cell, result) in all_cells(&folder).await? {
        match result {
            Ok(verdicts) => {
                complaints.extend(complaints_of(cell, &verdicts));
                rows.push((cell, verdicts));
            }
            Err(error) => complaints.push(format!("{}: {error}", cell.name)),
        }
    }
    let overall = overall(&tests, &rows);
    complaints.extend(check_skips(&overall));
    println!("  together: {}", Count::of(overall.values().copied()));
    if complaints.is_empty() {
        complaints.extend(page::compare(&overall, &rows)?);
    }
    if complaints.is_empty() { Ok(Verdict::Passed) } else { Err(complaints.join("\n    ").into()) }
}

/// Runs the matrix, some cells at a time, each with storage units of its own.
async fn all_cells(folder: &std::path::Path) -> Result<Vec<Row>, crate::runner::Failure> {
    let turns = Rc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (index, cell) in CELLS.iter().enumerate() {
        let (turns, folder) = (turns.clone(), folder.join(cell.name));
        std::fs::create_dir(&folder)?;
        running.spawn_local(async move {
            let turn = turns.acquire().await;
            let began = Instant::now();
            let result = cell.run(&folder).await.map_err(|error| error.to_string());
            drop(turn);
            match &result {
                Ok(verdicts) => {
                    let count = Count::of(verdicts.values().map(|test| test.verdict));
                    println!("  {}: {count} ({:.0} s)", cell.name, began.elapsed().as_secs_f64());
                }
                Err(_) => show_log(&folder),
            }
            // The disks of eleven cells are some gigabytes.
            if result.is_ok() {
                let _ = std::fs::remove_dir_all(&folder);
            }
            (index, result)
        });
    }
    let mut rows: Vec<(usize, Result<Verdicts, String>)> = Vec::new();
    while let Some(done) = running.join_next().await {
        rows.push(done?);
    }
    rows.sort_by_key(|(index, _)| *index);
    Ok(CELLS.iter().zip(rows.into_iter().map(|(_, result)| result)).collect())
}

fn show_log(folder: &std::path::Path) {
    let logs = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for log in logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")) {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<_> = text.lines().filter(|line| !line.contains(" INFO ")).collect();
        println!("  --- {}", log.display());
        lines[lines.len().saturating_sub(20)..].iter().for_each(|line| println!("  {line}"));
    }
}

/// Failures that are not the tool's own, and excuses that nothing needs any more.
fn complaints_of(cell: &Cell, verdicts: &Verdicts) -> Vec<String> {
    let failed = verdicts.iter().filter(|(_, test)| test.verdict == Test::Failed);
    let unused = cell.wrong.iter().filter(|(name, _)| {
        let mut named = verdicts.iter().filter(|(test, _)| test.starts_with(name));
        !named.any(|(_, test)| test.verdict == Test::Wrong)
    });
    failed
        .map(|(name, test)| format!("{}: {name} failed: {}", cell.name, test.why))
        .chain(unused.map(|(name, _)| format!("{}: nothing needs the excuse for {name}", cell.name)))
        .collect()
}

/// What a test amounts to over all cells.
fn overall(tests: &[String], rows: &[(&Cell, Verdicts)]) -> BTreeMap<String, Test> {
    let over = |name: &String| {
        let of_cells = rows.iter().filter_map(|(_, verdicts)| verdicts.get(name)).map(|test| test.verdict);
        let known: Vec<_> = of_cells.collect();
        let verdict = [Test::Failed, Test::Passed].into_iter().find(|verdict| known.contains(verdict));
        (name.clone(), verdict.unwrap_or(Test::Skipped))
    };
    tests.iter().map(over).collect()
}

/// Skips without a reason, reasons without a skip, and too many of them.
fn check_skips(overall: &BTreeMap<String, Test>) -> Vec<String> {
    let skipped: Vec<_> =
        overall.iter().filter(|(_, verdict)| **verdict == Test::Skipped).map(|(name, _)| name).collect();
    let mut complaints: Vec<_> = skipped
        .iter()
        .filter(|name| !SKIPS.iter().any(|(known, _)| known == *name))
        .map(|name| format!("{name} is skipped in every cell"))
        .collect();
    let stale = SKIPS.iter().filter(|(known, _)| !skipped.iter().any(|name| name == known));
    complaints.extend(stale.map(|(known, _)| format!("{known} runs now; take it off the list of skips")));
    if skipped.len() > MOST_SKIPS {
        complaints.push(format!("{} skips; {MOST_SKIPS} are the most", skipped.len()));
    }
    complaints
}

/// How many tests came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: usize,
    skipped: usize,
    failed: usize,
    wrong: usize,
}

impl Count {
    fn of(verdicts: impl Iterator<Item = Test>) -> Self {
        let mut count = Self::default();
        for verdict in verdicts {
            match verdict {
                Test::Passed => count.passed += 1,
                Test::Skipped => count.skipped += 1,
                Test::Failed => count.failed += 1,
                Test::Wrong => count.wrong += 1,
            }
        }
        count
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} skipped, {} failed", self.passed, self.skipped, self.failed)?;
        if self.wrong > 0 { write!(f, ", {} the tool's own failures", self.wrong) } else { Ok(()) }
    }
}
