//! Wall-clock time for templates and responses.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

/// Seconds since the epoch.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

/// `datetime.now().strftime(format)` in UTC, for the directives that chat templates use; others are an error.
pub fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(format, unix_seconds())
}

fn strftime(format: &str, unix_seconds: u64) -> Result<String, Error> {
    let (year, month, day) = civil_date(unix_seconds / 86_400);
    let second_of_day = unix_seconds % 86_400;
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let month_name = MONTHS.get(month as usize - 1).copied().unwrap_or_default();
    // The epoch was a Thursday.
    let weekday = WEEKDAYS
        .get(((unix_seconds / 86_400 + 4) % 7) as usize)
        .copied()
        .unwrap_or_default();
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('Y') => text += &year.to_string(),
            Some('m') => text += &format!("{month:02}"),
            Some('d') => text += &format!("{day:02}"),
            Some('B') => text += month_name,
            Some('b') => text += month_name.get(..3).unwrap_or_default(),
            Some('A') => text += weekday,
            Some('a') => text += weekday.get(..3).unwrap_or_default(),
            Some('H') => text += &format!("{hour:02}"),
            Some('M') => text += &format!("{minute:02}"),
            Some('S') => text += &format!("{second:02}"),
            Some('%') => text.push('%'),
            other => {
                let directive = other.map_or_else(String::new, String::from);
                let message = format!("strftime_now: unsupported directive %{directive}");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
    }
    Ok(text)
}

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
const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// Year, month (1 to 12) and day of a day since the epoch, by the algorithm of Howard Hinnant's
/// "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`, for days from 1970 on.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_dates() {
        let format = "%a %A %d %b %B %m %Y %H:%M:%S %%";
        for (seconds, want) in [
            (0, "Thu Thursday 01 Jan January 01 1970 00:00:00 %"),
            (951_827_696, "Tue Tuesday 29 Feb February 02 2000 12:34:56 %"),
            (4_107_542_399, "Sun Sunday 28 Feb February 02 2100 23:59:59 %"),
            (4_107_542_400, "Mon Monday 01 Mar March 03 2100 00:00:00 %"),
        ] {
            assert_eq!(strftime(format, seconds).ok().as_deref(), Some(want));
        }
        assert!(strftime("%Q", 0).is_err());
    }
}
