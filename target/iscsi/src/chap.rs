//! CHAP (RFC 7143 section 12.1.3, RFC 1994).

use std::fmt;
use std::rc::Rc;

use zeroize::Zeroizing;

/// A CHAP secret. Wiped from memory when the last clone goes; never printed.
#[derive(Clone)]
pub struct Secret(Rc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// Takes the bytes of a secret.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Rc::new(Zeroizing::new(bytes)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
