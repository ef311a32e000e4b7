//! Runs cases one after the other and says what became of each.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What became of a case that did not fail.
pub(crate) enum Verdict {
    /// It did everything it says.
    Passed,
    /// It cannot run here, for this reason.
    Skipped(String),
}

/// Why a case failed.
pub(crate) type Failure = Box<dyn std::error::Error>;
/// The result of a case.
pub(crate) type Outcome = Result<Verdict, Failure>;
type Body = Box<dyn FnOnce(PathBuf) -> Pin<Box<dyn Future<Output = Outcome>>>>;

/// One case.
pub(crate) struct Case {
    name: String,
    limit: Duration,
    body: Body,
}

impl Case {
    /// A case that gets a folder of its own and has `limit` to finish.
    pub(crate) fn new<F>(
        name: impl Into<String>,
        limit: Duration,
        body: impl FnOnce(PathBuf) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = Outcome> + 'static,
    {
        Self { name: name.into(), limit, body: Box::new(|folder| Box::pin(body(folder))) }
    }
}

/// Runs the cases that the arguments pick.
pub(crate) fn run(cases: Vec<Case>) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if std::env::args().any(|arg| arg == "--list") {
        cases.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), 0);
    for case in cases {
        if !words.is_empty() && !words.iter().any(|word| case.name.contains(word)) {
            continue;
        }
        let started = Instant::now();
        let name = case.name.clone();
        let outcome = run_case(case);
        let took = started.elapsed().as_secs_f64();
        match outcome {
            Ok(Verdict::Passed) => {
                passed += 1;
                println!("PASSED {name} ({took:.1} s)");
            }
            Ok(Verdict::Skipped(reason)) => {
                skipped += 1;
                println!("SKIPPED {name}: {reason}");
            }
            Err(error) => {
                println!("FAILED {name} ({took:.1} s): {error}");
                failed.push(name);
            }
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    println!("e2e: {passed} passed, {} failed, {skipped} skipped", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_case(case: Case) -> Outcome {
    let folder = tempfile::Builder::new().prefix("twinlun-e2e-").tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let path = folder.path().to_path_buf();
    let work = std::panic::catch_unwind(AssertUnwindSafe(|| {
        tokio::task::LocalSet::new()
            .block_on(&runtime, async { tokio::time::timeout(case.limit, (case.body)(path)).await })
    }));
    let outcome = match work {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(format!("not finished within {} s", case.limit.as_secs()).into()),
        Err(_) => Err("panicked, see above".into()),
    };
    if outcome.is_err() {
        show_logs(folder.path());
        if std::env::var_os("E2E_KEEP").is_some() {
            println!("  files kept in {}", folder.keep().display());
        }
    }
    outcome
}

/// The ends of the logs of a failed case.
fn show_logs(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log"))
    {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        println!("  --- {}", path.display());
        lines[lines.len().saturating_sub(40)..].iter().for_each(|line| println!("  {line}"));
    }
}
