//! iSCSI names (RFC 7143 section 4.2.7).

use std::fmt;
use std::rc::Rc;

pub use crate::pdu::Isid;

/// Longest iSCSI name in bytes (RFC 7143 section 4.2.7.1).
pub const NAME_LIMIT: usize = 223;

/// A node's name in one of the forms `iqn.`, `eui.` and `naa.`, in lower case, so that equal names are equal bytes.
///
/// Names come from the network. This type holds only letters, digits, `-`, `.`, `:` and bytes of UTF-8 beyond ASCII that are
/// no control characters, so a name can be logged; it must still never become a file name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IscsiName(Rc<str>);

/// Why some bytes are no iSCSI name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than [`NAME_LIMIT`].
    #[error("an iSCSI name has 1 to 223 bytes")]
    Length,
    /// Not UTF-8, or a character that RFC 3722 prohibits.
    #[error("an iSCSI name may not contain this character")]
    Character,
    /// Begins with none of `iqn.`, `eui.`, `naa.`, or what follows has not that type's form.
    #[error("an iSCSI name is iqn.yyyy-mm.domain[:text], eui.<16 hex digits>, or naa.<16 or 32 hex digits>")]
    Form,
}

impl IscsiName {
    /// Checks and normalises a name. Upper case ASCII is folded, as stringprep's table B.2 does (RFC 3722).
    pub fn parse(name: &[u8]) -> Result<Self, NameError> {
        if name.is_empty() || name.len() > NAME_LIMIT {
            return Err(NameError::Length);
        }
        let text = std::str::from_utf8(name).map_err(|_| NameError::Character)?;
        if !text.chars().all(permitted) {
            return Err(NameError::Character);
        }
        let text = text.to_lowercase();
        if text.len() > NAME_LIMIT {
            return Err(NameError::Length);
        }
        let well_formed = match text.split_at_checked(4) {
            Some(("iqn.", rest)) => qualified(rest),
            Some(("eui.", digits)) => digits.len() == 16 && hexadecimal(digits),
            Some(("naa.", digits)) => matches!(digits.len(), 16 | 32) && hexadecimal(digits),
            _ => false,
        };
        if well_formed { Ok(Self(text.into())) } else { Err(NameError::Form) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn permitted(c: char) -> bool {
    // RFC 3722 prohibits ASCII other than letters, digits, '-', '.' and ':', all controls and all spaces.
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || "-.:".contains(c)
    } else {
        !c.is_control() && !c.is_whitespace()
    }
}

fn hexadecimal(digits: &str) -> bool {
    digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `yyyy-mm.` and a naming authority. The month is not checked against the calendar: deployed names have odd ones.
fn qualified(rest: &str) -> bool {
    let bytes = rest.as_bytes();
    bytes.len() > 8
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && bytes[4] == b'-'
        && bytes[5..7].iter().all(u8::is_ascii_digit)
        && bytes[7] == b'.'
        && bytes[8] != b':'
}

impl fmt::Display for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for IscsiName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::parse(name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_names() {
        for name in [
            "iqn.2026-11.io.twinlun:east",
            "iqn.1993-08.org.debian:01:5a5a",
            "iqn.2001-04.com.example",
            "eui.02004567A425678D",
            "naa.52004567BA64678D",
            "naa.62004567BA64678D0123456789ABCDEF",
        ] {
            assert_eq!(IscsiName::parse(name.as_bytes()).unwrap().as_str(), name.to_lowercase());
        }
        assert_eq!("IQN.2026-11.IO.Twinlun:A".parse::<IscsiName>(), "iqn.2026-11.io.twinlun:a".parse());
    }

    #[test]
    fn other_bytes_are_not() {
        for (name, error) in [
            ("", NameError::Length),
            ("iqn.2026-11.", NameError::Form),
            ("iqn.2026-11.:x", NameError::Form),
            ("iqn.202-11.io.twinlun", NameError::Form),
            ("disk0", NameError::Form),
            ("eui.02004567A425678", NameError::Form),
            ("naa.5200", NameError::Form),
            ("iqn.2026-11.io/../etc", NameError::Character),
            ("iqn.2026-11.io.x\u{1b}[31m", NameError::Character),
            ("iqn.2026-11.io.x y", NameError::Character),
            ("iqn.2026-11.io.x\u{a0}y", NameError::Character),
        ] {
            assert_eq!(IscsiName::parse(name.as_bytes()), Err(error), "{name:?}");
        }
        assert_eq!(IscsiName::parse(b"iqn.2026-11.io.\xff"), Err(NameError::Character));
        let long = format!("iqn.2026-11.io.{}", "x".repeat(NAME_LIMIT));
        assert_eq!(IscsiName::parse(long.as_bytes()), Err(NameError::Length));
    }
}
