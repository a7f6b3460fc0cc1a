//! Proxies of the pool that do not count although they have an address.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Numbers of such proxies, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutProxies {
    /// Number of proxies that were last checked longer ago than `[proxies] max_age`.
    #[serde(default)]
    pub too_old: u64,
    /// `max_age` in milliseconds; 0 if nothing is too old.
    #[serde(default)]
    pub max_age_ms: u64,
    /// Number of proxies that their own entries mark as not working.
    #[serde(default)]
    pub dead: u64,
}

impl LeftOutProxies {
    pub fn is_none(&self) -> bool {
        self.too_old == 0 && self.dead == 0
    }

    /// Formats the numbers in brackets with a space before them, such as ` (40 older than 24h)`; empty without any.
    pub fn in_brackets(&self) -> String {
        match self.is_none() {
            true => String::new(),
            false => format!(" ({self})"),
        }
    }
}

impl fmt::Display for LeftOutProxies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if self.too_old > 0 {
            write!(formatter, "{} older than {}", self.too_old, AgeText(self.max_age_ms))?;
            separator = ", ";
        }
        if self.dead > 0 {
            write!(formatter, "{separator}{} marked as dead", self.dead)?;
        }
        Ok(())
    }
}

/// Age in milliseconds, shown in whole numbers of the longest possible unit; days from three on.
struct AgeText(u64);

impl fmt::Display for AgeText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
        for (length, unit) in UNITS {
            let count = self.0 / length;
            if count > 0 && self.0.is_multiple_of(length) && (unit != "d" || count >= 3) {
                return write!(formatter, "{count}{unit}");
            }
        }
        write!(formatter, "{}ms", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_out_proxies_are_shown_with_their_limit() {
        let left_out = |too_old, hours: u64, dead| LeftOutProxies {
            too_old,
            max_age_ms: hours * 3_600_000,
            dead,
        };
        for (left_out, text) in [
            (left_out(0, 24, 0), ""),
            (left_out(40, 24, 0), " (40 older than 24h)"),
            (left_out(1, 36, 3), " (1 older than 36h, 3 marked as dead)"),
            (left_out(0, 0, 3), " (3 marked as dead)"),
            (left_out(2, 168, 0), " (2 older than 7d)"),
        ] {
            assert_eq!(left_out.in_brackets(), text);
        }
        assert_eq!(AgeText(90_000).to_string(), "90s");
        assert_eq!(AgeText(1_500).to_string(), "1500ms");
    }
}
