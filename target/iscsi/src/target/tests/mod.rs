//! Scenarios: an initiator made of plain PDUs plays against a connection.

mod data;
mod harness;
mod hostile;
mod login;
mod order;
mod pair;
mod recovery;
mod requirements;
mod session;
