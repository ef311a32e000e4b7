//! The storage processor.
pub mod config;
