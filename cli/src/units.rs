//! Sizes in bytes as people write and read them.

/// Parses `1048576`, `64KiB`, `1.5MiB`, `10GB`, `2G` (a lone letter is binary, as in most tools).
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let refused = || {
        format!(
            "`{text}` is no size: write bytes, or a number with KiB, MiB, GiB, TiB (kB, MB, GB, TB)"
        )
    };
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(refused()),
    };
    let number = number.trim();
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(refused);
    }
    match number.parse::<f64>() {
        Ok(part) if part.is_finite() && part >= 0.0 && part * (factor as f64) < 9.0e18 => {
            Ok((part * factor as f64) as u64)
        }
        _ => Err(refused()),
    }
}

/// A size with three digits or so: `812 B`, `8.2 MiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A count with its thousands apart: `24,285`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse() {
        assert_eq!(parse_bytes("0"), Ok(0));
        assert_eq!(parse_bytes("64KiB"), Ok(65_536));
        assert_eq!(parse_bytes("2g"), Ok(2 << 30));
        assert_eq!(parse_bytes("10 MB"), Ok(10_000_000));
        assert_eq!(parse_bytes("1.5MiB"), Ok(1_572_864));
        for bad in [
            "",
            "MiB",
            "-1",
            "5 bananas",
            "1e400",
            "99999999999999999999",
        ] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!(human_bytes(812), "812 B");
        assert_eq!(human_bytes(8_598_323), "8.2 MiB");
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(24_285), "24,285");
        assert_eq!(grouped(1_000_000), "1,000,000");
    }
}
