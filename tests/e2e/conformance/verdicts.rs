//! One run of `iscsi-test-cu` and what it says about each test.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::process::{output, run};
use crate::runner::Failure;

const LIMIT: Duration = Duration::from_secs(400);
/// The tool tells the tests of its suites apart by these words, which none of its messages has.
const SUITE: &str = "Suite: ";
const TEST: &str = "  Test: ";

/// What became of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// Every assertion held.
    Passed,
    /// It says that it cannot run against this LU.
    Skipped,
    /// An assertion did not hold.
    Failed,
    /// It failed for a reason that lies in the tool.
    Wrong,
}

/// What became of a test, and what it said.
#[derive(Clone, Debug)]
pub(crate) struct TestRun {
    /// What became of it.
    pub(crate) verdict: Test,
    /// The first failed assertion or the first reason for a skip; empty when it passed.
    pub(crate) why: String,
}

/// By `Suite.Test`.
pub(crate) type Verdicts = BTreeMap<String, TestRun>;

/// The names of all tests, `Suite.Test`.
pub(crate) async fn list() -> Result<Vec<String>, Failure> {
    let list = run("iscsi-test-cu", ["-l"], Duration::from_secs(10)).await?;
    let tests = list.lines().filter_map(|line| line.trim().strip_prefix("ALL."));
    let tests: Vec<_> = tests.filter(|name| name.contains('.')).map(str::to_owned).collect();
    if tests.len() < 200 {
        return Err(format!("the tool lists only {} tests", tests.len()).into());
    }
    Ok(tests)
}

/// Runs the tests that `names` picks (`ALL`, or several `ALL.Suite` with commas) and reads the verdicts.
pub(crate) async fn verdicts(
    names: &str,
    initiators: [&str; 2],
    urls: &[String],
) -> Result<Verdicts, Failure> {
    let [first, second] = initiators;
    let fixed = ["-d", "-S", "-v", "-V", "-i", first, "-I", second, "-t", names];
    let arguments = fixed.into_iter().chain(urls.iter().map(String::as_str));
    let output = output("iscsi-test-cu", arguments, LIMIT).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).map_err(|complaint| {
        let errors = String::from_utf8_lossy(&output.stderr);
        let end: Vec<_> = text.lines().rev().take(5).collect();
        format!("iscsi-test-cu: {complaint}; its last words: {end:?} {errors}").into()
    })
}

/// Splits what the tool wrote at its tests. The messages of a test stand between its name and the next; lines may run into each other.
fn parse(text: &str) -> Result<Verdicts, String> {
    let (tests, summary) = text.split_once("Run Summary:").ok_or("it did not come to its end")?;
    let mut verdicts = Verdicts::new();
    let mut suite = "";
    let mut blocks = tests.split(TEST);
    for block in std::iter::once("").chain(blocks.by_ref()) {
        if let Some((name, said)) = block.split_once(" ...")
            && verdicts.insert(format!("{suite}.{name}"), verdict(said)).is_some()
        {
            return Err(format!("{suite}.{name} ran twice"));
        }
        // The next suite is announced behind the last words of a suite's last test.
        if let Some((_, next)) = block.rsplit_once(SUITE) {
            suite = next.split_whitespace().next().unwrap_or("");
        }
    }
    check(&verdicts, summary)?;
    Ok(verdicts)
}

fn verdict(said: &str) -> TestRun {
    let why = |marker: &str| {
        let line = said.lines().find(|line| line.contains(marker)).unwrap_or_default();
        line[line.find(marker).unwrap_or(0)..].trim().to_owned()
    };
    // CUnit's own word stands at the beginning of a line, or right behind the dots when the test said nothing.
    if said.starts_with("FAILED") || said.contains("\nFAILED") {
        let said = [why("[FAILED]"), why("    1. ")];
        return TestRun { verdict: Test::Failed, why: said.join(" ") };
    }
    if said.contains("[SKIPPED]") {
        return TestRun { verdict: Test::Skipped, why: why("[SKIPPED]") };
    }
    TestRun { verdict: Test::Passed, why: String::new() }
}

/// The summary must agree with what was read: total, ran, passed, failed, inactive.
fn check(verdicts: &Verdicts, summary: &str) -> Result<(), String> {
    let row = summary.lines().find(|line| line.trim_start().starts_with("tests "));
    let numbers: Vec<usize> =
        row.into_iter().flat_map(str::split_whitespace).filter_map(|word| word.parse().ok()).collect();
    let failed = verdicts.values().filter(|test| test.verdict == Test::Failed).count();
    match numbers.as_slice() {
        [total, ran, _, failures, ..] if *total == verdicts.len() && ran == total && *failures == failed => {
            Ok(())
        }
        _ => {
            Err(format!("its summary {row:?} is not the {} tests and {failed} failures read", verdicts.len()))
        }
    }
}
