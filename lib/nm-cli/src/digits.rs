//! Measured numbers, rounded to the digits that are significant.

/// Three significant digits, and at most four decimal places.
pub fn digits(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => "-".into(),
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 => format!("{value:.2}"),
        v if v >= 0.09995 => format!("{value:.3}"),
        0.0 => "0".into(),
        _ => format!("{value:.4}"),
    }
}

/// Events per packet: 2.01, 0.0125, 3.1e-5.
pub fn rare(value: f64) -> String {
    match value.abs() {
        v if v.is_finite() && v > 0.0 && v < 0.001 => format!("{value:.1e}"),
        _ => digits(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        for (value, text) in
            [(39.24, "39.2"), (1.849, "1.85"), (0.046_312, "0.0463"), (999.9, "1000"), (0.0, "0")]
        {
            assert_eq!(digits(value), text);
        }
        assert_eq!(
            [rare(2.0123), rare(0.012_51), rare(0.000_031), rare(0.0)],
            ["2.01", "0.0125", "3.1e-5", "0"]
        );
        assert_eq!(digits(f64::NAN), "-");
    }
}
