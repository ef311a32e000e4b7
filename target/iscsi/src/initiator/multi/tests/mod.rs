//! Both halves of a session with several connections in one place, over wires that lose, damage and break.

mod chaos;
mod scenes;
mod world;
