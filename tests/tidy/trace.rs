//! docs/rfc7143.md names tests that exist.

use std::collections::BTreeMap;

use crate::report;
use crate::source::{File, code, files};

const PAGE: &str = "docs/rfc7143.md";

#[test]
fn every_test_of_the_requirement_trace_exists() {
    let files = files();
    let find = |path: &str| files.iter().find(|file| file.path == path);
    let page = find(PAGE).expect("the trace is there");
    let aliases = aliases(page);
    let sources: BTreeMap<&str, String> =
        aliases.iter().filter_map(|(word, path)| find(path).map(|file| (*word, code(&file.text)))).collect();
    let mut findings: Vec<_> = aliases
        .iter()
        .filter(|(word, _)| !sources.contains_key(*word))
        .map(|(_, path)| format!("no file {path}"))
        .collect();
    let mut named = 0;
    for proof in page.text.split('`').skip(1).step_by(2) {
        let Some((word, test)) = proof.split_once("::").filter(|(_, test)| !test.is_empty()) else {
            continue;
        };
        named += 1;
        let there = sources.get(word).is_some_and(|source| source.contains(&format!("fn {test}(")));
        if !there {
            findings.push(proof.to_owned());
        }
    }
    assert!(named > 150, "the trace was read: {named} tests");
    report("named by docs/rfc7143.md and not there", &findings);
}

/// Rows `| word | file |` of the page; what follows a semicolon is a remark.
fn aliases(page: &File) -> BTreeMap<&str, &str> {
    let rows = page.text.lines().filter_map(|line| {
        let (word, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let path = rest.split([' ', ';', ',']).next()?;
        path.ends_with(".rs").then_some((word, path))
    });
    rows.collect()
}
