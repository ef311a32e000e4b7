//! Fuzzing of every decoder, on the toolchain that builds the product: no nightly, no instrumentation.
//!
//! ```text
//! cargo test --test fuzz                                      every target, a fixed number of executions
//! cargo test --test fuzz -- scsi link                         targets whose names contain one of the words
//! cargo test --test fuzz -- --seed 7 --executions 10000000 scsi
//! cargo test --test fuzz -- --record DIR --executions 10000000    goes on where the run in DIR was interrupted
//! cargo test --test fuzz -- --record DIR --report                 what DIR holds
//! cargo test --test fuzz -- --input 00ff… scsi                replays one input
//! ```
//!
//! `docs/design/fuzzing.md` says what is checked and why this is enough to be useful.

mod array;
mod engine;
mod initiator;
mod input;
mod isns;
mod login;
mod memory;
mod mirror;
mod mutate;
mod pdu;
mod raw;
mod record;
mod scsi;
mod scsi_disk;
mod scsi_lists;
mod target;
mod texts;
mod watch;

use std::process::ExitCode;

use engine::{Options, Target};

fn targets() -> Vec<Target> {
    let mut all = Vec::new();
    all.extend(pdu::targets());
    all.extend(login::targets());
    all.extend(target::targets());
    all.extend(initiator::targets());
    all.extend(isns::targets());
    all.extend(scsi::targets());
    all.extend(array::targets());
    all.extend(mirror::targets());
    all.extend(texts::targets());
    all.extend(raw::targets());
    all
}

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)) {
        Ok(options) => engine::run(&targets(), &options),
        Err(problem) => {
            eprintln!(
                "{problem}\nusage: fuzz [--seed N] [--executions N] [--record DIR [--report]] [--input HEX] [NAME…]"
            );
            ExitCode::FAILURE
        }
    }
}
