//! Sizes as people write them: `"512MiB"`, `"2GiB"`, and `512mb` as in redis.conf.

/// Reason why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// A text without digits at the start.
    #[error("a size is a whole number and a unit, such as `512MiB`")]
    NoNumber,
    /// An unknown unit.
    #[error("`{unit}` is not a unit: use `KiB`, `MiB` or `GiB`")]
    UnknownUnit { unit: String },
    /// A size of more than 2^63 bytes.
    #[error("too large")]
    TooLarge,
}

/// Reads a size in bytes: `KiB`, `MiB`, `GiB`, `TiB`, and the units of redis.conf in upper or lower case with their
/// meaning there (`k`, `m`, `g` are powers of 1000, `kb`, `mb`, `gb` powers of 1024, no unit means bytes).
///
/// # Errors
/// The text is not a whole number with one of these units, or more than 2^63 bytes.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    if number.is_empty() {
        return Err(SizeError::NoNumber);
    }
    let unit_bytes: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "kb" | "kib" => 1 << 10,
        "mb" | "mib" => 1 << 20,
        "gb" | "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(SizeError::UnknownUnit { unit: unit.to_owned() }),
    };
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    let bytes = number.checked_mul(unit_bytes).ok_or(SizeError::TooLarge)?;
    i64::try_from(bytes).map(|_| bytes).map_err(|_| SizeError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("512MiB", Ok(512 << 20)),
            ("512mb", Ok(512 << 20)),
            ("1GiB", Ok(1 << 30)),
            ("1k", Ok(1_000)),
            ("0", Ok(0)),
            ("MiB", Err(SizeError::NoNumber)),
            ("", Err(SizeError::NoNumber)),
            ("5 MiB", Err(SizeError::UnknownUnit { unit: " MiB".into() })),
            ("5.5GiB", Err(SizeError::UnknownUnit { unit: ".5GiB".into() })),
            ("99999999TiB", Err(SizeError::TooLarge)),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }
}
