//! `docs/conformance.md`, written from the verdicts of a run and checked against them on every run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::cells::Cell;
use super::verdicts::{Test, Verdicts};
use super::{Count, SKIPS};
use crate::runner::Failure;

const PAGE: &str = "../docs/conformance.md";
/// Set to anything, it lets a run write the page.
const WRITE: &str = "CONFORMANCE_WRITE";
/// Other targets under the same version of the tool, one LU of 512-byte blocks each: tests passed, skipped, failed.
const OTHERS: [(&str, [usize; 3]); 3] =
    [("tgt 1.0.85", [160, 62, 8]), ("LIO, Linux 6.1", [107, 87, 36]), ("SPDK 26.05", [76, 118, 36])];

/// Nothing, or the complaint that the page says something else than this run. With the variable set the page is written instead.
pub(crate) fn compare(
    overall: &BTreeMap<String, Test>,
    rows: &[(&Cell, Verdicts)],
) -> Result<Option<String>, Failure> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let text = page(overall, rows);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(path, text)?;
        return Ok(None);
    }
    if std::fs::read_to_string(path).is_ok_and(|known| known == text) {
        return Ok(None);
    }
    let help = format!("docs/conformance.md is not what this run found; write it with {WRITE}=1 cargo test");
    Ok(Some(format!("{help} -p twinlun-tests --test e2e -- conformance")))
}

fn page(overall: &BTreeMap<String, Test>, rows: &[(&Cell, Verdicts)]) -> String {
    let mut text = String::from(INTRODUCTION);
    let ours = Count::of(overall.values().copied());
    let mut line = |name: &str, [passed, skipped, failed]: [usize; 3]| {
        let _ = writeln!(text, "| {name} | {passed} | {skipped} | {failed} |");
    };
    line("**Twinlun**", [ours.passed, ours.skipped, ours.failed]);
    OTHERS.iter().for_each(|(name, counts)| line(name, *counts));
    text.push_str(CELLS);
    for (cell, verdicts) in rows {
        let count = Count::of(verdicts.values().map(|test| test.verdict));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            cell.title, count.passed, count.skipped, count.failed, count.wrong
        );
    }
    text.push_str("\n## What is skipped, and why\n");
    if SKIPS.is_empty() {
        text.push_str("Nothing.\n");
    } else {
        text.push_str("| test | reason |\n| --- | --- |\n");
        for (name, reason) in SKIPS {
            let _ = writeln!(text, "| {name} | {reason} |");
        }
    }
    let wrong: BTreeMap<_, _> = rows.iter().flat_map(|(cell, _)| cell.wrong).copied().collect();
    text.push_str("\n## Failures whose cause lies in the tool\n| tests | reason |\n| --- | --- |\n");
    for (name, reason) in wrong {
        let _ = writeln!(text, "| {name} | {reason} |");
    }
    text
}

const INTRODUCTION: &str = "# Conformance

Written by the conformance test itself, which fails when this page is not what it found:
`cargo test -p twinlun-tests --test e2e -- conformance`; `CONFORMANCE_WRITE=1` before it writes the page anew.

libiscsi's `iscsi-test-cu` 1.19 (Debian package `libiscsi-bin`), 230 tests, with data loss and SANITIZE allowed and two portals for the multipath
suites. A test has passed when it passes against at least one kind of LU and fails against none. The tool calls a test that cannot run
\"passed\"; here it is a skip.

| target | passed | skipped | failed |
| --- | --- | --- | --- |
";

const CELLS: &str = "
## By kind of LU
The LU lies on RAID 1. A mirrored one is the primary image of a mirror in step; afterwards both images are read offline and are equal byte for byte.

| LU, and how it is reached | passed | skipped | failed | the tool's own failures |
| --- | --- | --- | --- | --- |
";
