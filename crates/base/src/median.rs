//! Medians, used to compare a value with the usual one.

/// Returns the median, for an even number of values the higher of the two in the middle; `None` without values.
pub fn median<T: Ord>(mut values: Vec<T>) -> Option<T> {
    let middle = values.len() / 2;
    values.sort_unstable();
    values.into_iter().nth(middle)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!(median::<u8>(Vec::new()), None);
        assert_eq!(median(vec![7]), Some(7));
        assert_eq!(median(vec![9, 1]), Some(9));
        assert_eq!(median(vec![30, 10, 20]), Some(20));
    }
}
