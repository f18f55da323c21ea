//! The same figure, several times, as one.
//!
//! In: values. Out: what is in their middle. Never: a mean: a single hiccup would be in it.

/// Of an even number half-way between both in the middle; of none NaN.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle)) {
        (0, Some(upper)) => f64::midpoint(values[middle - 1], *upper),
        (_, value) => value.copied().unwrap_or(f64::NAN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_it_is_neither() {
        assert_eq!(median([4.0, 1.0]), 2.5);
        assert_eq!(median([9.0, 1.0, 2.0]), 2.0);
        assert!(median([]).is_nan());
    }
}
