//! Crash loops: random work, a kill or a power cut at any disk operation, also in the middle of a recovery. Every scenario is a function
//! of a seed, so that `planted` can run it against an array with a mistake in it.

mod atomic;
#[path = "../common/mod.rs"]
mod common;
mod disks;
mod lives;
mod metadata;
mod planted;
mod rebuild;
