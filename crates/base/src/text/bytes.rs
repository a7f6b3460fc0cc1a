//! Sizes in bytes, formatted for people.

/// Formats a size as `3.2 GiB`, `512 MiB` or `12 KiB`.
pub fn shown(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_fits_the_size() {
        for (bytes, text) in [
            (0, "0 KiB"),
            (12 << 10, "12 KiB"),
            (512 << 20, "512 MiB"),
            (1 << 30, "1.0 GiB"),
            ((16 << 30) + (512 << 20), "16.5 GiB"),
        ] {
            assert_eq!(shown(bytes), text);
        }
    }
}
