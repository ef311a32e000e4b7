//! Rules that no compiler checks: which crate may use which, what pure code must not know, what must not be committed.
//!
//! Each failure names the file, the line and the rule.

mod arrows;
mod bans;
mod dependencies;
mod docs;
mod source;
mod trace;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_owned()
}

/// What `cargo metadata` says, with or without the dependencies.
fn metadata(with_dependencies: bool) -> serde_json::Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--locked"]).current_dir(root());
    if !with_dependencies {
        cargo.arg("--no-deps");
    }
    let output = cargo.output().expect("cargo runs this test, so it can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// Fails with all findings at once.
fn report(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

/// `target/` is source; a build there would end with `cargo clean` deleting it (docs/design/architecture.md).
#[test]
fn nothing_is_built_under_the_source_folder_target() {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR"));
    assert!(!built.starts_with(root().join("target")), "the build directory is {}", built.display());
}
