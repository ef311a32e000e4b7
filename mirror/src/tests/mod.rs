//! Flows between two storage units, in the simulator.

mod chaos;
mod flows;
mod lab;
