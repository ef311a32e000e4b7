//! Tests of all PDUs.
