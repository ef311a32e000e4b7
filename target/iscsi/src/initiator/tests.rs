//! Tests of the initiator half.
