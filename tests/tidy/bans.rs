//! What must not stand in the source.

use crate::source::{File, code, files, is_rust, is_word, lines_with, rust_files, taken_from};
use crate::{report, root};

/// Crates whose code also runs in the simulator, and so may know time, files, sockets and chance only through a shard.
const FLOWS: [&str; 5] = ["scsi/block/src/", "scsi/src/", "target/iscsi/src/", "array/src/", "mirror/src/"];

/// What these crates must not name; order, time and chance would differ from run to run.
const OUTSIDE: [&str; 13] = [
    "HashMap",
    "HashSet",
    "RandomState",
    "SystemTime",
    "getrandom",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "tokio::net",
    "tokio::spawn",
    "tokio::task",
    "tokio::time",
];

/// Of `std::net` they may use what merely names an address.
const ADDRESSES: [&str; 7] =
    ["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6", "AddrParseError"];

/// Crates that run in the simulator as a whole, platform and all.
const SIMULATED: [&str; 6] =
    ["scsi/block/src/", "scsi/src/", "target/iscsi/src/", "target/unit/src/", "array/src/", "mirror/src/"];

/// Longest file in lines, comments and all.
const MAX_LINES: usize = 700;

fn at(file: &File, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", file.path)
}

/// Whether a file belongs to the product itself; the tests beside it may read seeds and clocks.
fn is_flow(path: &str) -> bool {
    let is_test = path.contains("/tests/") || path.ends_with("tests.rs");
    !is_test && FLOWS.iter().any(|folder| path.starts_with(folder))
}

#[test]
fn flows_reach_the_platform_only_through_a_shard() {
    let mut findings = Vec::new();
    for file in rust_files().iter().filter(|file| is_flow(&file.path)) {
        let code = code(&file.text);
        for word in OUTSIDE {
            findings.extend(lines_with(&code, word).into_iter().map(|line| at(file, line, word)));
        }
        for (line, name) in taken_from(&code, "std::net") {
            if !ADDRESSES.contains(&name.as_str()) {
                findings.push(at(file, line, &format!("std::net::{name}")));
            }
        }
        for (line, name) in taken_from(&code, "std::time") {
            if name != "Duration" {
                findings.push(at(file, line, &format!("std::time::{name}")));
            }
        }
    }
    report("pure code and flows use the platform only through twinlun_io::Shard", &findings);
}

/// Its receivers are woken in an order that it draws from a generator of its own.
#[test]
fn nothing_simulated_is_woken_at_random() {
    let mut findings = Vec::new();
    let simulated = |path: &str| SIMULATED.iter().any(|folder| path.starts_with(folder));
    for file in rust_files().iter().filter(|file| simulated(&file.path)) {
        let code = code(&file.text);
        let taken = taken_from(&code, "tokio::sync").into_iter().filter(|(_, name)| name == "watch");
        findings.extend(taken.map(|(line, _)| at(file, line, "tokio::sync::watch")));
    }
    report(
        "a run in the simulator must be repeatable; wait with Notify, as mirror/src/signal.rs does",
        &findings,
    );
}

#[test]
fn unsafe_stands_only_in_the_platform_crate() {
    let mut findings = Vec::new();
    for file in rust_files().iter().filter(|file| !file.path.starts_with("target/io/")) {
        let lines = lines_with(&code(&file.text), "unsafe");
        findings.extend(lines.into_iter().map(|line| at(file, line, "unsafe")));
    }
    report("only target/io may use unsafe", &findings);
}

#[test]
fn nothing_is_unfinished_or_switched_off() {
    // Put together here so that this file does not find itself.
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let mut findings = Vec::new();
    for file in files() {
        for note in notes {
            findings.extend(lines_with(&file.text, note).into_iter().map(|line| at(&file, line, note)));
        }
        if is_rust(&file.path) {
            let code = code(&file.text);
            for call in ["todo!", "unimplemented!", "dbg!", "#[ignore"] {
                findings.extend(lines_with(&code, call).into_iter().map(|line| at(&file, line, call)));
            }
        }
    }
    report("finish it, or open an issue and say what does not work", &findings);
}

#[test]
fn files_stay_readable() {
    let lines = |file: &File| file.text.lines().count();
    let long = rust_files().into_iter().filter(|file| lines(file) > MAX_LINES);
    let findings: Vec<_> = long.map(|file| format!("{}: {} lines", file.path, lines(&file))).collect();
    report(&format!("split files of more than {MAX_LINES} lines by concern; aim at 500"), &findings);
}

/// Whether a path stands in a line from its root, and not as the end of a longer one.
fn starts_in(line: &str, path: &str) -> bool {
    let is_whole = |at: usize| !line[..at].chars().next_back().is_some_and(|c| is_word(c) || c == '/');
    line.match_indices(path).any(|(at, _)| is_whole(at))
}

#[test]
fn no_path_of_a_machine_is_committed() {
    let mut paths = vec![format!("{}/", root().display())];
    // Not a bare "/": a process without a home has nothing to give away.
    paths.extend(std::env::var("HOME").ok().filter(|home| home.len() > 1).map(|home| format!("{home}/")));
    let mut findings = Vec::new();
    for file in files() {
        for (number, line) in file.text.lines().enumerate() {
            if paths.iter().any(|path| starts_in(line, path)) {
                findings.push(at(&file, number + 1, line.trim()));
            }
        }
    }
    report("paths of one machine mean nothing on another", &findings);
}
