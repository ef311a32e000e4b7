//! End-to-end tests: real daemons, real clients, a real Linux kernel as initiator.
//!
//! A case passes, fails, or is skipped with a reason; a skip never counts as a pass. `cargo test --test e2e -- NAME…` runs the cases whose
//! names contain one of the words. `E2E_KEEP=1` keeps the files of failed cases.

mod boot;
mod clients;
mod conformance;
mod copies;
mod guest;
mod login;
mod pair;
mod persona;
mod personas;
mod process;
mod recovery;
mod runner;
mod trouble;
mod wire;

use std::process::ExitCode;

use runner::Case;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, name, folder] = arguments.as_slice()
        && word == guest::INSIDE
    {
        return guest::inside(name, folder.as_ref());
    }
    let mut cases: Vec<Case> = Vec::new();
    cases.extend(clients::cases());
    cases.extend(conformance::cases());
    cases.extend(login::cases());
    cases.extend(boot::cases());
    cases.extend(copies::cases());
    cases.extend(recovery::cases());
    cases.extend(trouble::cases());
    cases.extend(personas::cases());
    cases.extend(guest::cases());
    runner::run(cases)
}
