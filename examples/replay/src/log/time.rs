//! Times as logs write them, in nanoseconds since 1970 UTC: [`Times`], and how long requests took.

use jiff::{Timestamp, fmt::strtime};

const NANOS: f64 = 1e9;

/// Reads times. It remembers the last text, as in a busy log the next line mostly has the same.
#[derive(Default)]
pub struct Times {
    last: String,
    last_is: Option<u64>,
}

impl Times {
    /// `10/Oct/2025:13:55:36 +0200`, a date and time with an offset (RFC 3339), or seconds since 1970.
    /// `None` if it is none of these, or before 1970.
    pub fn read(&mut self, text: &str) -> Option<u64> {
        if text != self.last || self.last.is_empty() {
            self.last.clear();
            self.last.push_str(text);
            self.last_is = read(text);
        }
        self.last_is
    }
}

fn read(text: &str) -> Option<u64> {
    if let Ok(number) = text.parse() {
        return since_1970(number);
    }
    let common = || strtime::parse("%d/%b/%Y:%H:%M:%S %z", text).ok()?.to_timestamp().ok();
    let time = text.parse::<Timestamp>().ok().or_else(common)?;
    u64::try_from(time.as_nanosecond()).ok()
}

/// A number since 1970: of seconds, or if it is too large for that, of thousandths, millionths or
/// billionths of a second.
pub fn since_1970(number: f64) -> Option<u64> {
    if !number.is_finite() || number <= 0.0 {
        return None;
    }
    let unit = match number {
        ..1e11 => NANOS,
        ..1e14 => 1e6,
        ..1e17 => 1e3,
        _ => 1.0,
    };
    // To the microsecond, as a number with a fraction is exact to no more.
    let whole = number.trunc() * unit;
    let fraction = (number.fract() * unit / 1e3).round() * 1e3;
    Some(whole as u64 + fraction as u64)
}

/// A number of seconds.
pub fn seconds(number: f64) -> Option<u64> {
    (number.is_finite() && number >= 0.0).then(|| (number * NANOS).round() as u64)
}

/// How long a request took: seconds such as `0.012`, or with a unit, such as `1.5ms`.
pub fn length(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" | "μs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    seconds(number.parse::<f64>().ok()? * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_all_zones_and_units_are_read() {
        let noon = 1_760_097_600_000_000_000; // 2025-10-10 12:00:00 UTC
        let mut times = Times::default();
        for text in [
            "10/Oct/2025:12:00:00 +0000",
            "10/Oct/2025:14:00:00 +0200",
            "10/Oct/2025:06:30:00 -0530",
            "2025-10-10T12:00:00Z",
            "2025-10-10T14:00:00+02:00",
            "1760097600",
            "1760097600.000",
            "1760097600000",
            "1760097600000000",
            "1760097600000000000",
        ] {
            assert_eq!(times.read(text), Some(noon), "{text}");
        }
        assert_eq!(times.read("1760097600.123"), Some(noon + 123_000_000));
        assert_eq!(times.read("2025-10-10T12:00:00.5Z"), Some(noon + 500_000_000));
        for text in ["", "-", "0", "NaN", "-5", "yesterday", "10/Okt/2025:12:00:00 +0000"] {
            assert_eq!(times.read(text), None, "{text}");
        }
    }

    #[test]
    fn lengths_have_units_or_are_seconds() {
        for (text, nanos) in [
            ("0.012", Some(12_000_000)),
            ("3", Some(3_000_000_000)),
            ("1.5ms", Some(1_500_000)),
            ("2µs", Some(2_000)),
            ("7ns", Some(7)),
            ("-", None),
            ("", None),
            ("1 hour", None),
        ] {
            assert_eq!(length(text), nanos, "{text}");
        }
    }
}
