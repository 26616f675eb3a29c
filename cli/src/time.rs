//! Moments and lengths of time as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{Span, SpanRelativeTo, Timestamp};

/// Unix milliseconds as RFC 3339 in UTC, with milliseconds.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    match i64::try_from(unix_ms).map(Timestamp::from_millisecond) {
        Ok(Ok(time)) => format!("{time:.3}"),
        // Beyond the year 9999 there is no RFC 3339 form: the number still tells.
        _ => unix_ms.to_string(),
    }
}

/// Parses `30s`, `10m`, `1h30m`, `7d`, `250ms`: longer than nothing, a day being 24 hours.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused =
        || format!("`{text}` is no length of time: write it like 250ms, 30s, 10m, 1h30m or 7d");
    let span: Span = text.parse().map_err(|_| refused())?;
    let signed = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| refused())?;
    let length = Duration::try_from(signed).map_err(|_| refused())?;
    if length.is_zero() {
        return Err("the length of time must be longer than 0".to_owned());
    }
    Ok(length)
}

/// Parses a moment into unix milliseconds: RFC 3339, unix milliseconds, or a length of time ago (`10m`).
pub(crate) fn parse_moment(text: &str) -> Result<u64, String> {
    if let Ok(unix_ms) = text.parse::<u64>() {
        return Ok(unix_ms);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return u64::try_from(time.as_millisecond())
            .map_err(|_| format!("`{text}` is before 1970"));
    }
    match parse_duration(text) {
        Ok(ago) => Ok(now_ms().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))),
        Err(_) => Err(format!(
            "`{text}` is no time: write RFC 3339 (2026-01-31T12:00:00Z), unix milliseconds, or how long ago (10m)"
        )),
    }
}

/// A length of time as [`parse_duration`] reads it: `7d`, `1h30m`, `250ms`.
pub(crate) fn human_duration(length_ms: u64) -> String {
    const UNITS: [(&str, u64); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut left = length_ms;
    let mut text = String::new();
    for (unit, size) in UNITS {
        if left >= size {
            text += &format!("{}{unit}", left / size);
            left %= size;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// The wall clock in unix milliseconds; 0 on a clock set before 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("250ms"), Ok(250));
        assert_eq!(ms("30s"), Ok(30_000));
        assert_eq!(ms("1h30m"), Ok(5_400_000));
        assert_eq!(ms("7d"), Ok(7 * 86_400_000));
        for bad in ["", "0s", "-3s", "soon", "10", "s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn printed_lengths_read_back() {
        for (ms, text) in [
            (0, "0s"),
            (250, "250ms"),
            (5_400_000, "1h30m"),
            (7 * 86_400_000, "7d"),
            (61_001, "1m1s1ms"),
        ] {
            assert_eq!(human_duration(ms), text);
            assert!(ms == 0 || parse_duration(text) == Ok(Duration::from_millis(ms)));
        }
    }

    #[test]
    fn moments() {
        assert_eq!(parse_moment("1700000000123"), Ok(1_700_000_000_123));
        assert_eq!(
            parse_moment("2023-11-14T22:13:20.123Z"),
            Ok(1_700_000_000_123)
        );
        assert_eq!(
            parse_moment("2023-11-15T00:13:20.123+02:00"),
            Ok(1_700_000_000_123)
        );
        let ago = now_ms() - parse_moment("10m").unwrap();
        assert!((600_000..660_000).contains(&ago), "{ago}");
        assert!(parse_moment("yesterday").is_err());
        assert!(parse_moment("1960-01-01T00:00:00Z").is_err());
    }

    #[test]
    fn printed_times_are_rfc_3339() {
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(u64::MAX), u64::MAX.to_string());
    }
}
