//! Storage units as child processes, and a cable between them that can be pulled: for the demonstration and the end-to-end tests.

mod array;
mod cable;

use std::net::SocketAddr;

use twinlun_api::{Problem, ProblemKind};

pub use array::{StageArray, UnitConfig};
pub use cable::Cable;

/// A port of loopback that nobody listens on just now.
pub fn free_port() -> Result<SocketAddr, Problem> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
    listener.local_addr().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::Failed, "E-STAGE", error.to_string(), "")
}
