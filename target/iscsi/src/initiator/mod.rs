//! The initiator half.
