//! Floats as Python writes them.

/// `repr(number)`: the shortest digits that read back to the same float, of those the nearest, with an exponent below 1e-4 and
/// from 1e16 on (`float_repr_style = 'short'`, CPython's `format_float_short`).
pub(super) fn repr(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent = exponent.parse::<i32>().unwrap_or_default();
    let decimals = digits.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    if (-4..16).contains(&exponent) {
        // As many digits behind the point as there are, or one.
        let decimals = i32::try_from(decimals).unwrap_or_default().saturating_sub(exponent);
        let decimals = usize::try_from(decimals).unwrap_or_default().max(1);
        let mut shortest = number.to_string();
        if !shortest.contains('.') {
            shortest.push_str(".0");
        }
        nearer(number, format!("{number:.decimals$}"), shortest)
    } else {
        let nearest = nearer(number, format!("{number:.decimals$e}"), scientific.clone());
        let digits = nearest.split_once('e').map_or(digits, |(digits, _)| digits);
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
    }
}

/// The number rounded to the count of digits of the shortest text, if that reads back to it: of two texts that are as near,
/// Python takes the even one, as rounding does, and Rust's shortest need not be.
fn nearer(number: f64, rounded: String, shortest: String) -> String {
    if rounded.parse() == Ok(number) {
        rounded
    } else {
        shortest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_python_prints_them() {
        for (number, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e15, "1000000000000000.0"),
            (6_666_666_666_666_669.0 / 4.0, "1666666666666667.2"),
            (-6_666_666_666_666_669.0 / 4.0, "-1666666666666667.2"),
            (9_007_199_254_740_993.0, "9007199254740992.0"),
            (9_007_199_254_740_994e9, "9.007199254740994e+24"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (5e-324, "5e-324"),
            (123_456_789.125, "123456789.125"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(repr(number), expected);
        }
    }
}
