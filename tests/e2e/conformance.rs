//! libiscsi's conformance suite: every test by itself, verdicts parsed, skips counted as skips.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::pair::{Pair, single};
use crate::process::{missing, output, run};
use crate::runner::{Case, Outcome, Verdict};

const SIZE: u64 = 256 << 20;
const LIMIT: Duration = Duration::from_secs(600);

/// Tests that may be skipped, by the beginning of their names, with the reason. Everything else must pass.
const SKIPS: [(&str, &str); 8] = [
    ("ALL.ExtendedCopy", "EXTENDED COPY comes with the issue about every command"),
    ("ALL.ReceiveCopyResults", "EXTENDED COPY comes with the issue about every command"),
    ("ALL.Sanitize", "SANITIZE comes with the issue about every command"),
    ("ALL.WriteAtomic16", "WRITE ATOMIC comes with the issue about every command"),
    ("ALL.MultipathIO", "needs a second path; one SP with one portal here"),
    ("ALL.CompareAndWrite.InvalidDataOutSize", "skipped by the tool for targets with immediate data"),
    ("ALL.NoMedia", "the medium cannot be removed"),
    ("ALL.ReadOnly", "the LU is not write protected"),
];

/// The cases of this room.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("conformance_thick_512", LIMIT, |folder| unmirrored(folder, json!({}))),
        Case::new("conformance_thin_4096_no_cache", LIMIT, |folder| {
            unmirrored(folder, json!({"thin": true, "block_size": 4096, "write_cache": false}))
        }),
        Case::new("conformance_mirrored", LIMIT, mirrored),
    ]
}

async fn unmirrored(folder: PathBuf, lu: serde_json::Value) -> Outcome {
    if let Some(reason) = missing(&["iscsi-test-cu"]) {
        return Ok(Verdict::Skipped(reason));
    }
    let mut unit = single(&folder, SIZE, lu).await?;
    let verdict = suite(&unit.url(0)).await;
    unit.stop().await?;
    verdict
}

async fn mirrored(folder: PathBuf) -> Outcome {
    if let Some(reason) = missing(&["iscsi-test-cu"]) {
        return Ok(Verdict::Skipped(reason));
    }
    let pair = Pair::build(&folder, SIZE, None).await?;
    let verdict = suite(&pair.east.url(0)).await?;
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

async fn suite(url: &str) -> Outcome {
    let list = run("iscsi-test-cu", ["-l"], Duration::from_secs(10)).await?;
    // Every test is in the family ALL; the other families only select from it.
    let tests: Vec<_> = list
        .lines()
        .map(str::trim)
        .filter(|l| l.starts_with("ALL.") && l.matches('.').count() == 2)
        .collect();
    if tests.len() < 200 {
        return Err(format!("the tool lists only {} tests", tests.len()).into());
    }
    let mut counts: BTreeMap<Test, usize> = BTreeMap::new();
    let mut complaints = Vec::new();
    for test in &tests {
        let arguments = ["-d", "-S", "-n", "-V", "-t", test, url];
        let output = output("iscsi-test-cu", arguments, Duration::from_secs(60)).await?;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let verdict = judge(&text);
        *counts.entry(verdict).or_default() += 1;
        let excused = SKIPS.iter().any(|(prefix, _)| test.starts_with(prefix));
        if verdict == Test::Failed || (verdict == Test::Skipped && !excused) {
            let reason = text
                .lines()
                .filter(|l| l.contains("[FAILED]") || l.contains("[SKIPPED]") || l.contains("CU_ASSERT"));
            let reason: Vec<_> = reason.take(4).map(str::trim).collect();
            complaints.push(format!("{verdict:?} {test}: {}", reason.join(" | ")));
        }
    }
    println!("  iscsi-test-cu: {} tests: {counts:?}", tests.len());
    if complaints.is_empty() { Ok(Verdict::Passed) } else { Err(complaints.join("\n    ").into()) }
}

/// The tool's exit status says nothing, and it counts a skip as a pass; its summary and its skip marks tell.
fn judge(text: &str) -> Test {
    let row = text.lines().find(|line| line.trim_start().starts_with("tests "));
    let numbers: Vec<u32> =
        row.into_iter().flat_map(str::split_whitespace).filter_map(|word| word.parse().ok()).collect();
    // Total, ran, passed, failed, inactive.
    match numbers.as_slice() {
        [_, ran, passed, 0, ..] if *ran >= 1 && passed == ran => {
            if text.contains("[SKIPPED]") {
                Test::Skipped
            } else {
                Test::Passed
            }
        }
        _ => Test::Failed,
    }
}
