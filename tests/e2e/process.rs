//! Programs of others, run with a time limit and their whole output kept.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::runner::Failure;

/// Where a program is, if it is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// The reason to skip when one of the programs is missing.
pub(crate) fn missing(programs: &[&str]) -> Option<String> {
    let missing: Vec<_> = programs.iter().filter(|program| find(program).is_none()).copied().collect();
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

/// Whether this process may make network namespaces and devices.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Runs a program to its end, whatever its exit status.
pub(crate) async fn output<I, S>(program: &str, arguments: I, limit: Duration) -> Result<Output, Failure>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let path = find(program).ok_or_else(|| format!("{program} is not installed"))?;
    let running = Command::new(path).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let done = tokio::time::timeout(limit, running).await;
    Ok(done.map_err(|_| format!("{program} did not end within {} s", limit.as_secs()))??)
}

/// Runs a program that must succeed; answers with its stdout.
pub(crate) async fn run<I, S>(program: &str, arguments: I, limit: Duration) -> Result<String, Failure>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let output = output(program, arguments, limit).await?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} ended with {}: {stdout}{stderr}", output.status).into())
}

/// `twinlun`, which cargo puts beside test programs or one folder up.
pub(crate) fn tool() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    let folders = program.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("twinlun")).find(|path| path.is_file());
    found.ok_or_else(|| "twinlun is not built; build the workspace first".into())
}
