//! Wall clock times as people read them.

use std::time::Duration;

/// RFC 3339, UTC, to the millisecond.
pub(crate) fn rfc3339(since_1970: Duration) -> String {
    let millis = i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| "invalid".into(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(rfc3339(Duration::from_millis(1_793_000_000_250)), "2026-10-26T07:33:20.250Z");
        assert_eq!(rfc3339(Duration::MAX), "invalid");
    }
}
