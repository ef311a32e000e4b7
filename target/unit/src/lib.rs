//! The storage processor.
pub mod admin;
pub mod config;
