//! What we depend on: licences, sources and duplicate versions, by the rules in `deny.toml`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{metadata, report, root};

/// Most packages in the lock file; each is somebody whose work we answer for.
const MAX_PACKAGES: usize = 400;

fn rules() -> toml::Table {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml is there");
    text.parse().expect("deny.toml is TOML")
}

fn strings(list: &toml::Value) -> BTreeSet<String> {
    let list = list.as_array().expect("a list of strings").iter();
    list.map(|entry| entry.as_str().expect("a list of strings").to_owned()).collect()
}

fn packages() -> Vec<Value> {
    let Value::Array(packages) = metadata(true)["packages"].take() else { panic!("packages are a list") };
    packages
}

fn name(package: &Value) -> String {
    format!(
        "{} {}",
        package["name"].as_str().expect("a name"),
        package["version"].as_str().expect("a version")
    )
}

#[test]
fn licences_are_ones_we_accept() {
    let allow = strings(&rules()["licenses"]["allow"]);
    let bad = packages().into_iter().filter_map(|package| {
        let licence = package["license"].as_str().unwrap_or("none");
        (!Expression::new(licence, &allow).accepts()).then(|| format!("{}: {licence}", name(&package)))
    });
    report("licences that deny.toml does not allow", &bad.collect::<Vec<_>>());
}

#[test]
fn sources_are_public_registries() {
    let allow = strings(&rules()["sources"]["allow-registry"]);
    let bad = packages().into_iter().filter_map(|package| {
        let source = package["source"].as_str()?;
        let known = source.strip_prefix("registry+").is_some_and(|registry| allow.contains(registry));
        (!known).then(|| format!("{}: {source}", name(&package)))
    });
    report("sources that deny.toml does not allow", &bad.collect::<Vec<_>>());
}

#[test]
fn each_dependency_has_one_version() {
    let skip = strings(&rules()["bans"]["skip"]);
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let packages = packages();
    assert!(packages.len() <= MAX_PACKAGES, "{} packages", packages.len());
    for package in packages {
        let version = package["version"].as_str().expect("a version").to_owned();
        let crate_name = package["name"].as_str().expect("a name").to_owned();
        let major = version.split('.').next().expect("a version has parts");
        if !skip.contains(&format!("{crate_name}@{version}"))
            && !skip.contains(&format!("{crate_name}@{major}"))
        {
            versions.entry(crate_name).or_default().push(version);
        }
    }
    let several = versions.into_iter().filter(|(_, versions)| versions.len() > 1);
    let findings: Vec<_> =
        several.map(|(name, versions)| format!("{name}: {}", versions.join(", "))).collect();
    report("several versions of one dependency (deny.toml, bans.skip)", &findings);
}

/// An SPDX licence expression, read from left to right; `AND` binds closer than `OR`.
struct Expression<'a> {
    tokens: Vec<&'a str>,
    at: usize,
    allow: &'a BTreeSet<String>,
}

impl<'a> Expression<'a> {
    fn new(text: &'a str, allow: &'a BTreeSet<String>) -> Self {
        let mut tokens = Vec::new();
        // The old form "MIT/Apache-2.0" is an OR.
        for word in text.split_inclusive(['(', ')', '/', ' ']) {
            let (word, mark) = word.split_at(word.trim_end_matches(['(', ')', '/', ' ']).len());
            tokens.extend([word, mark.trim()].into_iter().filter(|token| !token.is_empty()));
        }
        Self { tokens, at: 0, allow }
    }

    fn accepts(mut self) -> bool {
        let accepted = self.any();
        accepted && self.at == self.tokens.len()
    }

    fn eat(&mut self, tokens: &[&str]) -> bool {
        let eaten = self.tokens.get(self.at).is_some_and(|token| tokens.contains(token));
        self.at += usize::from(eaten);
        eaten
    }

    fn any(&mut self) -> bool {
        let mut accepted = self.all();
        while self.eat(&["OR", "/"]) {
            accepted |= self.all();
        }
        accepted
    }

    fn all(&mut self) -> bool {
        let mut accepted = self.one();
        while self.eat(&["AND"]) {
            accepted &= self.one();
        }
        accepted
    }

    fn one(&mut self) -> bool {
        if self.eat(&["("]) {
            return self.any() & self.eat(&[")"]);
        }
        let licence = self.tokens.get(self.at).copied().unwrap_or_default();
        self.at += 1;
        if self.eat(&["WITH"]) {
            let exception = self.tokens.get(self.at).copied().unwrap_or_default();
            self.at += 1;
            return self.allow.contains(&format!("{licence} WITH {exception}"));
        }
        self.allow.contains(licence)
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allow = BTreeSet::from(["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned));
    for (text, accepted) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
        ("(GPL-3.0 OR Apache-2.0) AND Unicode-3.0", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("Apache-2.0", false),
        ("MIT MIT", false),
        ("", false),
    ] {
        assert_eq!(Expression::new(text, &allow).accepts(), accepted, "{text}");
    }
}
