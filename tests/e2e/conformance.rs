//! libiscsi's conformance suite: every test by itself, verdicts parsed, skips counted as skips.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::pair::{Pair, single};
use crate::process::{missing, output, run};
use crate::runner::{Case, Failure, Outcome, Verdict};

const SIZE: u64 = 256 << 20;
const LIMIT: Duration = Duration::from_secs(600);

/// Tests that may be skipped, by the beginning of their names, with the reason. Everything else must pass.
const SKIPS: [(&str, &str); 13] = [
    ("ALL.ExtendedCopy", "EXTENDED COPY comes with the issue about every command"),
    ("ALL.ReceiveCopyResults", "EXTENDED COPY comes with the issue about every command"),
    ("ALL.Sanitize", "SANITIZE comes with the issue about every command"),
    ("ALL.WriteAtomic16", "WRITE ATOMIC comes with the issue about every command"),
    ("ALL.MultipathIO", "needs a second path"),
    ("ALL.CompareAndWrite.InvalidDataOutSize", "needs a target without immediate data"),
    ("ALL.NoMedia", "the medium cannot be removed"),
    ("ALL.PreventAllow", "the medium cannot be removed"),
    ("ALL.StartStopUnit", "the medium cannot be removed"),
    ("ALL.ReadOnly", "the LU is not write protected"),
    ("ALL.WriteSame", "needs unmapping, or several logical blocks per physical block"),
    ("ALL.Unmap", "needs a thin LU"),
    ("ALL.GetLBAStatus", "needs a thin LU"),
];

/// What the tool itself gets wrong with blocks of 4096 bytes: failures that say nothing about the target.
const WRONG_AT_4096: [(&str, &str); 1] =
    [("ALL.ProutReserve.Access", "writes 512 bytes to a block of 4096 and expects that to work")];

/// The cases of this room.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("conformance_thick_512", LIMIT, |folder| unmirrored(folder, json!({}))),
        Case::new("conformance_thin_4096", LIMIT, |folder| {
            unmirrored(folder, json!({"thin": true, "block_size": 4096}))
        }),
        Case::new("conformance_mirrored", LIMIT, mirrored),
    ]
}

async fn unmirrored(folder: PathBuf, lu: serde_json::Value) -> Outcome {
    if let Some(reason) = missing(&["iscsi-test-cu"]) {
        return Ok(Verdict::Skipped(reason));
    }
    let mut unit = single(&folder, SIZE, lu.clone()).await?;
    let wrong: &[(&str, &str)] = if lu["block_size"] == 4096 { &WRONG_AT_4096 } else { &[] };
    let verdict = suite(&unit.url(0), wrong).await;
    unit.stop().await?;
    verdict
}

async fn mirrored(folder: PathBuf) -> Outcome {
    if let Some(reason) = missing(&["iscsi-test-cu"]) {
        return Ok(Verdict::Skipped(reason));
    }
    let pair = Pair::build(&folder, SIZE, None).await?;
    let verdict = suite(&pair.east.url(0), &[]).await?;
    pair.wait_in_step(Duration::from_secs(30)).await?;
    pair.stop_and_compare().await?;
    Ok(verdict)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    Passed,
    Skipped,
    Failed,
}

/// Failures come from one run of the whole family: some tests expect what an earlier one has left in the tool. Skips come from a run of each
/// test by itself, because the tool counts a skip as a pass and does not name it.
async fn suite(url: &str, wrong: &[(&str, &str)]) -> Outcome {
    let list = run("iscsi-test-cu", ["-l"], Duration::from_secs(10)).await?;
    let tests: Vec<_> = list
        .lines()
        .map(str::trim)
        .filter(|l| l.starts_with("ALL.") && l.matches('.').count() == 2)
        .collect();
    if tests.len() < 200 {
        return Err(format!("the tool lists only {} tests", tests.len()).into());
    }
    let family = text(&["-d", "-S", "-n", "-V", "-t", "ALL", url]).await?;
    let failed = failures(&family)?;
    let mut counts: BTreeMap<Test, usize> = BTreeMap::new();
    let mut complaints = Vec::new();
    for test in &tests {
        let verdict = if failed.contains(*test) {
            Test::Failed
        } else if text(&["-d", "-S", "-n", "-V", "-t", test, url]).await?.contains("[SKIPPED]") {
            Test::Skipped
        } else {
            Test::Passed
        };
        *counts.entry(verdict).or_default() += 1;
        let excuses = match verdict {
            Test::Passed => continue,
            Test::Skipped => &SKIPS[..],
            Test::Failed => wrong,
        };
        if !excuses.iter().any(|(prefix, _)| test.starts_with(prefix)) {
            complaints.push(format!("{verdict:?} {test}"));
        }
    }
    println!("  iscsi-test-cu: {} tests: {counts:?}", tests.len());
    if complaints.is_empty() { Ok(Verdict::Passed) } else { Err(complaints.join("\n    ").into()) }
}

async fn text(arguments: &[&str]) -> Result<String, Failure> {
    let output = output("iscsi-test-cu", arguments, Duration::from_secs(120)).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// The tests that the tool says have failed. Its exit status says nothing; its summary must agree with the list.
fn failures(text: &str) -> Result<BTreeSet<String>, Failure> {
    let named = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("Suite ")?.strip_suffix(" had failures:")?;
        let (suite, test) = rest.split_once(", Test ")?;
        Some(format!("ALL.{suite}.{test}"))
    });
    let named: BTreeSet<String> = named.collect();
    let row = text.lines().find(|line| line.trim_start().starts_with("tests "));
    let numbers: Vec<usize> =
        row.into_iter().flat_map(str::split_whitespace).filter_map(|word| word.parse().ok()).collect();
    // Total, ran, passed, failed, inactive.
    match numbers.as_slice() {
        [_, ran, _, failed, ..] if *ran >= 200 && *failed == named.len() => Ok(named),
        _ => {
            Err(format!("the tool's summary cannot be believed: {row:?}, {} failures named", named.len())
                .into())
        }
    }
}
