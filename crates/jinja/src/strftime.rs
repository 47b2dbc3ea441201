//! `strftime_now` in UTC and the C locale.

use minijinja::{Error, ErrorKind};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

struct Date {
    year: i64,
    /// 1 to 12.
    month: i64,
    /// 1 to 31.
    day: i64,
    /// 1 to 366.
    day_of_year: i64,
    /// 0 is Sunday.
    weekday: i64,
    second_of_day: i64,
}

/// Formats a time given in seconds since 1970-01-01 UTC. Directives that no chat template uses are refused.
pub fn format(format: &str, unix_seconds: i64) -> Result<String, Error> {
    let date = Date::of(unix_seconds);
    let hour = date.second_of_day.div_euclid(3600);
    let minute = date.second_of_day.div_euclid(60).rem_euclid(60);
    let second = date.second_of_day.rem_euclid(60);
    let hour_of_12 = (hour.saturating_add(11)).rem_euclid(12).saturating_add(1);
    let month = name(&MONTHS, date.month.saturating_sub(1));
    let weekday = name(&DAYS, date.weekday);
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let mut directive = characters.next();
        // glibc's extension: no padding.
        let padded = directive != Some('-');
        if !padded {
            directive = characters.next();
        }
        let number = |value: i64, width: usize| {
            if padded {
                format!("{value:0width$}")
            } else {
                value.to_string()
            }
        };
        let part = match directive {
            Some('Y') => number(date.year, 4),
            Some('y') => number(date.year.rem_euclid(100), 2),
            Some('m') => number(date.month, 2),
            Some('d') => number(date.day, 2),
            Some('j') => number(date.day_of_year, 3),
            Some('H') => number(hour, 2),
            Some('I') => number(hour_of_12, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('B') => month.to_owned(),
            Some('b') => month.chars().take(3).collect(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday.chars().take(3).collect(),
            Some('F') => format!("{:04}-{:02}-{:02}", date.year, date.month, date.day),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".to_owned(),
            // `now()` is naive in `transformers`: no zone.
            Some('z' | 'Z') => String::new(),
            other => {
                let directive = other.map(String::from).unwrap_or_default();
                let message = format!("strftime_now: directive `%{directive}` is not supported");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        };
        text.push_str(&part);
    }
    Ok(text)
}

fn name<'a>(names: &[&'a str], index: i64) -> &'a str {
    usize::try_from(index)
        .ok()
        .and_then(|index| names.get(index))
        .copied()
        .unwrap_or_default()
}

impl Date {
    /// Gregorian date by counting from 0000-03-01 in eras of 400 years, so that a leap day ends its year.
    /// Source: <https://howardhinnant.github.io/date_algorithms.html>, `civil_from_days`.
    // Divisions are by constants, and a count of days is far from the limits of i64.
    #[allow(clippy::arithmetic_side_effects)]
    fn of(unix_seconds: i64) -> Self {
        let days = unix_seconds.div_euclid(86_400);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_march_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_march_year + 2) / 153;
        let day = day_of_march_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let day_of_year = match month {
            1 | 2 => day_of_march_year - 305,
            _ => day_of_march_year + 60 + i64::from(leap),
        };
        Self {
            year,
            month,
            day,
            day_of_year,
            weekday: (days + 4).rem_euclid(7),
            second_of_day: unix_seconds.rem_euclid(86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (time, expected) in [
            (0, "1970-01-01 00:00:00 Thursday Jan 001 12 AM"),
            (951_782_400, "2000-02-29 00:00:00 Tuesday Feb 060 12 AM"),
            (1_735_689_599, "2024-12-31 23:59:59 Tuesday Dec 366 11 PM"),
            (1_795_426_800, "2026-11-23 09:40:00 Monday Nov 327 09 AM"),
            (-1, "1969-12-31 23:59:59 Wednesday Dec 365 11 PM"),
        ] {
            assert_eq!(format("%Y-%m-%d %H:%M:%S %A %b %j %I %p", time).unwrap(), expected);
        }
        assert_eq!(format("%-d %B %y 100%%", 0).unwrap(), "1 January 70 100%");
        assert!(format("%Q", 0).is_err());
        assert!(format("%", 0).is_err());
        format("%F %T", i64::MAX).unwrap();
        format("%F %T", i64::MIN).unwrap();
    }
}
