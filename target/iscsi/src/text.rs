//! Text as login and text negotiation carry it: `key=value` pairs, each ended by a zero byte (RFC 7143 section 6.1).
//!
//! Everything here is bounded: how much text one exchange may collect, how many keys it may hold, how long a key and a value may
//! be, how long an answer may grow, how many bytes a binary value may decode to. A bound that is passed is an error, never a cut.

use std::net::SocketAddr;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};

/// Most text that one exchange may collect over PDUs with the C bit.
pub const EXCHANGE_LIMIT: usize = 64 << 10;
/// Most keys in one exchange.
pub const KEYS_LIMIT: usize = 64;
/// Longest key (RFC 7143 section 6.1, standard-label).
pub const KEY_LIMIT: usize = 63;
/// Longest simple value.
pub const VALUE_LIMIT: usize = 255;
/// Longest value of a key that carries a list or a long binary value.
pub const LONG_VALUE_LIMIT: usize = 8192;
/// Longest CHAP challenge or response in bytes (RFC 7143 section 12.1.3).
pub const BINARY_LIMIT: usize = 1024;

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The text does not end with a zero byte.
    #[error("a key=value pair is not terminated")]
    Unterminated,
    /// A pair without `=`.
    #[error("an item has no '='")]
    NoValue,
    /// A key that is empty, too long, or has other characters than a label may have.
    #[error("a key is not a label")]
    Key,
    /// A value that is longer than its key allows.
    #[error("a value is too long")]
    ValueTooLong,
    /// A value that is not of its key's type.
    #[error("a value is malformed")]
    Value,
    /// More than [`KEYS_LIMIT`] keys.
    #[error("too many keys")]
    TooManyKeys,
    /// More than [`EXCHANGE_LIMIT`] bytes collected, or more than the limit of an answer.
    #[error("too much text")]
    TooLong,
}

/// One pair; `value` is as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// The key, a label.
    pub key: &'a str,
    /// The value, without the zero byte.
    pub value: &'a [u8],
}

/// The pairs of a whole text. Empty items (superfluous zero bytes) are passed over, as some initiators pad with them.
pub fn pairs(text: &[u8]) -> Result<Vec<Pair<'_>>, TextError> {
    let Some((0, body)) = text.split_last().map(|(last, body)| (*last, body)) else {
        return if text.is_empty() { Ok(Vec::new()) } else { Err(TextError::Unterminated) };
    };
    let mut found = Vec::new();
    for item in body.split(|b| *b == 0).filter(|item| !item.is_empty()) {
        if found.len() == KEYS_LIMIT {
            return Err(TextError::TooManyKeys);
        }
        found.push(pair(item)?);
    }
    Ok(found)
}

fn pair(item: &[u8]) -> Result<Pair<'_>, TextError> {
    let equals = item.iter().position(|b| *b == b'=').ok_or(TextError::NoValue)?;
    let (key, value) = (&item[..equals], &item[equals + 1..]);
    // '#' is in no label, but X#NodeArchitecture has it (RFC 7143 section 13.26).
    let label = |b: &u8| b.is_ascii_alphanumeric() || b".-+@_#".contains(b);
    if key.is_empty() || key.len() > KEY_LIMIT || !key.iter().all(label) {
        return Err(TextError::Key);
    }
    if value.len() > LONG_VALUE_LIMIT {
        return Err(TextError::ValueTooLong);
    }
    let key = std::str::from_utf8(key).map_err(|_| TextError::Key)?;
    Ok(Pair { key, value })
}

/// A value as text; list and simple values are UTF-8.
pub fn text(value: &[u8]) -> Result<&str, TextError> {
    std::str::from_utf8(value).map_err(|_| TextError::Value)
}

/// A decimal or hexadecimal constant below 2^64.
pub fn number(value: &[u8]) -> Result<u64, TextError> {
    let text = text(value)?;
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    // `from_str_radix` alone would take a sign.
    if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(TextError::Value);
    }
    u64::from_str_radix(digits, radix).map_err(|_| TextError::Value)
}

/// `Yes` or `No`.
pub fn boolean(value: &[u8]) -> Result<bool, TextError> {
    match value {
        b"Yes" => Ok(true),
        b"No" => Ok(false),
        _ => Err(TextError::Value),
    }
}

/// The items of a list, in order of preference.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

/// Decodes a binary value, hexadecimal (`0x`) or base64 (`0b`), of at most `limit` bytes. The one decoder for all binary values:
/// it knows the decoded length before it decodes.
pub fn binary(value: &[u8], limit: usize) -> Result<Vec<u8>, TextError> {
    let (prefix, digits) = value.split_at_checked(2).ok_or(TextError::Value)?;
    if digits.is_empty() {
        return Err(TextError::Value);
    }
    match prefix {
        b"0x" | b"0X" => {
            if digits.len().div_ceil(2) > limit {
                return Err(TextError::ValueTooLong);
            }
            // An odd number of digits has an implied leading zero (section 6.1, hex-constant).
            if digits.len().is_multiple_of(2) {
                HEXLOWER_PERMISSIVE.decode(digits)
            } else {
                HEXLOWER_PERMISSIVE.decode(&[b"0", digits].concat())
            }
            .map_err(|_| TextError::Value)
        }
        b"0b" | b"0B" => {
            // `decode_len` counts padding as data, so it may exceed the true length by two.
            let most = BASE64.decode_len(digits.len()).map_err(|_| TextError::Value)?;
            if most > limit.saturating_add(2) {
                return Err(TextError::ValueTooLong);
            }
            let decoded = BASE64.decode(digits).map_err(|_| TextError::Value)?;
            if decoded.len() > limit { Err(TextError::ValueTooLong) } else { Ok(decoded) }
        }
        _ => Err(TextError::Value),
    }
}

/// A binary value in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    format!("0x{}", HEXLOWER.encode(bytes))
}

/// A portal's address as TargetAddress has it: IPv6 in brackets, without the zone, which means something on this machine only
/// (RFC 7143 section 13.8).
pub fn address(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.to_string(),
        SocketAddr::V6(v6) => format!("[{}]:{}", v6.ip(), v6.port()),
    }
}

/// An answer under construction; it refuses to grow beyond its limit.
#[derive(Clone, Debug)]
pub struct TextBuilder {
    text: Vec<u8>,
    limit: usize,
}

impl TextBuilder {
    /// An empty text of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { text: Vec::new(), limit }
    }

    /// Appends a pair.
    pub fn push(&mut self, key: &str, value: impl AsRef<[u8]>) -> Result<(), TextError> {
        let value = value.as_ref();
        let len = key.len() + 1 + value.len() + 1;
        if value.contains(&0) {
            return Err(TextError::Value);
        }
        if self.text.len() + len > self.limit {
            return Err(TextError::TooLong);
        }
        self.text.reserve(len);
        self.text.extend_from_slice(key.as_bytes());
        self.text.push(b'=');
        self.text.extend_from_slice(value);
        self.text.push(0);
        Ok(())
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text.
    pub fn finish(self) -> Vec<u8> {
        self.text
    }
}

/// Text that arrives over several PDUs with the C bit.
#[derive(Clone, Debug, Default)]
pub struct TextCollector {
    text: Vec<u8>,
}

impl TextCollector {
    /// Appends the data segment of one PDU.
    pub fn push(&mut self, segment: &[u8]) -> Result<(), TextError> {
        if self.text.len() + segment.len() > EXCHANGE_LIMIT {
            return Err(TextError::TooLong);
        }
        self.text.extend_from_slice(segment);
        Ok(())
    }

    /// The whole text; the collector is empty again.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text)
    }

    /// Whether a text has begun.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(text: &[u8]) -> Result<Vec<(&str, &[u8])>, TextError> {
        pairs(text).map(|all| all.into_iter().map(|p| (p.key, p.value)).collect())
    }

    #[test]
    fn addresses_are_written_for_others() {
        let zoned = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 3260, 7, 3);
        for (given, expected) in [
            ("10.0.0.1:3260".parse().unwrap(), "10.0.0.1:3260"),
            ("[2001:db8::1]:860".parse().unwrap(), "[2001:db8::1]:860"),
            (zoned.into(), "[fe80::1]:3260"),
        ] {
            assert_eq!(address(given), expected);
        }
    }

    #[test]
    fn pairs_are_split_at_the_first_equals_sign() {
        assert_eq!(keys(b"A=1\0B=x=y\0C=\0"), Ok(vec![("A", &b"1"[..]), ("B", b"x=y"), ("C", b"")]));
        assert_eq!(keys(b""), Ok(vec![]));
        assert_eq!(keys(b"A=1\0\0\0"), Ok(vec![("A", &b"1"[..])]));
        assert_eq!(keys(b"X#NodeArchitecture=a,b\0"), Ok(vec![("X#NodeArchitecture", &b"a,b"[..])]));
    }

    #[test]
    fn malformed_text_is_an_error() {
        assert_eq!(keys(b"A=1"), Err(TextError::Unterminated));
        assert_eq!(keys(b"A\0"), Err(TextError::NoValue));
        assert_eq!(keys(b"=1\0"), Err(TextError::Key));
        assert_eq!(keys(b"A B=1\0"), Err(TextError::Key));
        assert_eq!(keys(b"A\xff=1\0"), Err(TextError::Key));
        let long = [&b"A"[..], &[b'a'; KEY_LIMIT], b"=1\0"].concat();
        assert_eq!(keys(&long), Err(TextError::Key));
        let long = [&b"A="[..], &[b'a'; LONG_VALUE_LIMIT + 1], b"\0"].concat();
        assert_eq!(keys(&long), Err(TextError::ValueTooLong));
        assert_eq!(keys(&b"a=b\0".repeat(KEYS_LIMIT + 1)), Err(TextError::TooManyKeys));
        assert_eq!(keys(&b"a=b\0".repeat(KEYS_LIMIT)).unwrap().len(), KEYS_LIMIT);
    }

    #[test]
    fn numbers_are_unsigned_decimal_or_hexadecimal() {
        assert_eq!(number(b"65536"), Ok(65536));
        assert_eq!(number(b"0x10"), Ok(16));
        assert_eq!(number(b"0Xff"), Ok(255));
        assert_eq!(number(b"18446744073709551615"), Ok(u64::MAX));
        for bad in [&b""[..], b"-1", b"+1", b"1a", b"0x", b"18446744073709551616", b" 1", b"1~2", b"\xff"] {
            assert_eq!(number(bad), Err(TextError::Value), "{bad:?}");
        }
    }

    #[test]
    fn binary_values_are_decoded_within_their_limit() {
        assert_eq!(binary(b"0x0aFf", 2), Ok(vec![0x0a, 0xff]));
        assert_eq!(binary(b"0Xabc", 2), Ok(vec![0x0a, 0xbc]), "odd digits have an implied leading zero");
        assert_eq!(binary(b"0bAQID", 3), Ok(vec![1, 2, 3]));
        assert_eq!(binary(b"0BAQI=", 2), Ok(vec![1, 2]));
        assert_eq!(binary(b"0x0aff00", 2), Err(TextError::ValueTooLong));
        assert_eq!(binary(b"0bAQID", 2), Err(TextError::ValueTooLong));
        for bad in [&b""[..], b"0", b"0x", b"0b", b"12", b"0xzz", b"0bA", b"0b====", b"0bAQI", b"0b*QID"] {
            assert_eq!(binary(bad, 64), Err(TextError::Value), "{bad:?}");
        }
        // CVE-2018-14633 and CVE-2026-63886: an overlong response in either encoding never reaches a decoder.
        let hex = [&b"0x"[..], &[b'0'; 4096]].concat();
        let base64 = [&b"0b"[..], &[b'A'; 4096]].concat();
        assert_eq!(binary(&hex, 32), Err(TextError::ValueTooLong));
        assert_eq!(binary(&base64, 32), Err(TextError::ValueTooLong));
    }

    #[test]
    fn an_answer_never_grows_beyond_its_limit() {
        let mut answer = TextBuilder::new(10);
        assert_eq!(answer.push("A", "12"), Ok(()));
        assert_eq!(answer.push("B", "1234"), Err(TextError::TooLong));
        assert_eq!(answer.push("B", "12"), Ok(()));
        assert_eq!(answer.finish(), b"A=12\0B=12\0");
        assert_eq!(TextBuilder::new(10).push("A", "a\0b"), Err(TextError::Value));
    }

    #[test]
    fn collecting_stops_at_64_kib() {
        let mut collector = TextCollector::default();
        for _ in 0..8 {
            collector.push(&[b'a'; 8192]).unwrap();
        }
        assert_eq!(collector.push(b"a"), Err(TextError::TooLong));
        assert_eq!(collector.take().len(), EXCHANGE_LIMIT);
        assert!(collector.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = pairs(&bytes);
            let _ = number(&bytes);
            if let Ok(decoded) = binary(&bytes, 64) {
                prop_assert!(decoded.len() <= 64);
            }
        }

        #[test]
        fn hex_is_read_back(bytes in proptest::collection::vec(any::<u8>(), 1..80)) {
            prop_assert_eq!(binary(hex(&bytes).as_bytes(), 80), Ok(bytes.clone()));
            let base64 = format!("0b{}", BASE64.encode(&bytes));
            prop_assert_eq!(binary(base64.as_bytes(), bytes.len()), Ok(bytes));
        }
    }
}
