//! Which crate may use which: the manifests against the table in `docs/design/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{metadata, report, root};

/// Crate by crate, whom it may use.
type Arrows = BTreeMap<String, BTreeSet<String>>;

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let page =
        std::fs::read_to_string(root().join("docs/design/architecture.md")).expect("the page is there");
    let allowed = allowed(&page);
    let actual = actual();
    let mut findings = Vec::new();
    for (package, uses) in &actual {
        let Some(may) = allowed.get(package) else {
            findings.push(format!("{package} has no row in the table of rooms"));
            continue;
        };
        findings.extend(uses.difference(may).map(|used| format!("{package} must not use {used}")));
    }
    findings.extend(
        allowed
            .keys()
            .filter(|package| !actual.contains_key(*package))
            .map(|package| format!("no crate {package}")),
    );
    report("docs/design/architecture.md, \"Rooms\"", &findings);
}

/// Dependencies between crates of the workspace, for tests and build scripts too.
fn actual() -> Arrows {
    let metadata = metadata(false);
    let packages = metadata["packages"].as_array().expect("packages");
    let text = |value: &serde_json::Value| value.as_str().expect("a name").to_owned();
    let names: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let uses = |package: &serde_json::Value| {
        let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
        // A crate's tests may use the crate with other features.
        let own = text(&package["name"]);
        let of_ours = |name: &String| names.contains(name) && *name != own;
        dependencies.map(|dependency| text(&dependency["name"])).filter(of_ours).collect()
    };
    packages.iter().map(|package| (text(&package["name"]), uses(package))).collect()
}

/// Reads the table: folder, crate (the first name in the column), what lives there, may use.
fn allowed(page: &str) -> Arrows {
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .filter(|cells: &Vec<&str>| cells.len() == 4)
        .collect();
    assert!(rows.len() >= 10, "the table of rooms was found");
    let package = |cells: &[&str]| quoted(cells[1]).next().expect("a crate's name").to_owned();
    let all: BTreeSet<String> = rows.iter().map(|cells| package(cells)).collect();
    let mut above = BTreeSet::new();
    let mut arrows = Arrows::new();
    for cells in &rows {
        let may = match cells[3] {
            "all" => all.clone(),
            "all above" => above.clone(),
            names => quoted(names).map(|name| format!("twinlun-{name}")).collect(),
        };
        above.insert(package(cells));
        arrows.insert(package(cells), may);
    }
    arrows
}

/// The words in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}
