//! Documentation and code name the same things.

use std::collections::BTreeSet;

use crate::report;
use crate::source::{File, files, is_rust, is_word};

fn named(path: &str) -> File {
    files().into_iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path} is there"))
}

#[test]
fn every_design_page_is_linked() {
    let index = named("docs/README.md").text + &named("docs/design/architecture.md").text;
    let pages = files().into_iter().filter(|file| file.path.starts_with("docs/design/"));
    let lost = pages.filter(|file| {
        let name = file.path.trim_start_matches("docs/design/");
        !index.contains(&format!("]({name})")) && !index.contains(&format!("](design/{name})"))
    });
    report("link the page from docs/README.md", &lost.map(|file| file.path).collect::<Vec<_>>());
}

#[test]
fn links_between_pages_lead_somewhere() {
    let files = files();
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for link in file.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let link = link.split('#').next().unwrap_or(link);
            if link.is_empty() || link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            let target = resolve(&file.path, link);
            if !paths.contains(target.as_str())
                && !paths.iter().any(|path| path.starts_with(&format!("{target}/")))
            {
                findings.push(format!("{}: {link}", file.path));
            }
        }
    }
    report("links to files that are not there", &findings);
}

/// The table of tests in `docs/design/bug-classes.md`: class by class, files and what is in them.
#[test]
fn tests_of_bug_classes_exist() {
    let page = named("docs/design/bug-classes.md").text;
    let table = page.split_once("| class | tests |").expect("the table was found").1;
    let rows: Vec<(&str, &str)> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .filter(|(class, _)| !class.starts_with('-'))
        .collect();
    let classes: Vec<&str> = rows.iter().map(|(class, _)| *class).collect();
    assert_eq!(classes.join(""), "ABCDEFGHIJKLM", "every class has a row");
    let files = files();
    let mut findings = Vec::new();
    for (class, tests) in rows {
        let mut found = 0;
        for group in tests.split(" · ") {
            let mut names = group.split('`').skip(1).step_by(2);
            let path = names.next().unwrap_or_default();
            let Some(file) = files.iter().find(|file| file.path == path) else {
                findings.push(format!("{class}: no file {path}"));
                continue;
            };
            for name in names {
                found += 1;
                // A function, or a target of the fuzzer.
                let stands = |what: String| file.text.contains(&what);
                if !stands(format!("fn {name}(")) && !stands(format!("\"{name}\"")) {
                    findings.push(format!("{class}: no {name} in {path}"));
                }
            }
        }
        if found == 0 {
            findings.push(format!("{class}: no test"));
        }
    }
    report("docs/design/bug-classes.md names tests that exist", &findings);
}

/// A relative link as a path from the root.
fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn cited_requirements_exist() {
    let known = cited(&named("docs/requirements.md").text);
    assert!(known.len() > 70, "the list was found");
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| is_rust(&file.path) || file.path.ends_with(".md")) {
        findings
            .extend(cited(&file.text).difference(&known).map(|number| format!("{}: {number}", file.path)));
    }
    report("requirement numbers that docs/requirements.md does not have", &findings);
}

/// Every requirement number: a letter R, a group in capitals and a number, or a letter B and a number.
fn cited(text: &str) -> BTreeSet<String> {
    let tokens = text.split(|c| !is_word(c) && c != '-');
    tokens.filter(|token| is_requirement(token)).map(str::to_owned).collect()
}

fn is_requirement(token: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let is_group = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase());
    match token.split('-').collect::<Vec<_>>()[..] {
        ["R", group, number] => is_group(group) && is_number(number),
        ["B", number] => is_number(number),
        _ => false,
    }
}
