//! Values of typed columns: those whose form is clear are checked and written here.
//!
//! The Python code (`stream.mapping.types`) knows every form of every type. A value that isn't in
//! one of the usual forms, or not valid, is in doubt here.

use pyo3::prelude::*;

use crate::json::{behind_string, Doubt, Marks, Paths, Reader, MAX_DEPTH};

/// Digits of an integer that surely fits into 64 bits.
const MAX_DIGITS: usize = 18;
/// Length of a number that is read here.
const MAX_NUMBER: usize = 60;
/// Digits in a row, or of an exponent, from which on the Python code looks at a number in JSON.
const LARGE_NUMBER: usize = 200;
const LARGE_EXPONENT: usize = 3;
/// Seconds and milliseconds since 1970 are told apart by their size.
const MAX_SECONDS: i64 = 100_000_000_000;
const MAX_MILLISECONDS: i64 = 100_000_000_000_000;
const MAX_EPOCH_DIGITS: usize = 17;

/// A type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    Boolean,
    Integer,
    Double,
    /// Maximum numbers of digits before and after the point.
    Decimal(usize, usize),
    Timestamp,
    Date,
    Json,
    Uuid,
}

/// What a typed column does with its values.
#[derive(Debug)]
pub struct Typed {
    pub kind: Type,
    /// Whether a JSON string is taken as it is written, with its quotes.
    pub keeps_spelling: bool,
    pub nullable: bool,
    /// Whether it is a part of the primary key.
    pub is_key: bool,
}

impl Type {
    /// The type with that name; `before` and `after` are digits of a decimal.
    pub fn named(name: &str, before: usize, after: usize) -> Option<Type> {
        Some(match name {
            "string" => Type::String,
            "boolean" => Type::Boolean,
            "integer" => Type::Integer,
            "double" => Type::Double,
            "decimal" => Type::Decimal(before, after),
            "timestamp" => Type::Timestamp,
            "date" => Type::Date,
            "json" => Type::Json,
            "uuid" => Type::Uuid,
            _ => return None,
        })
    }

    /// Append the form of `text` that targets read.
    pub fn push(self, text: &[u8], out: &mut Vec<u8>) -> Result<(), Doubt> {
        match self {
            Type::String if memchr::memchr(0, text).is_none() && is_unicode(text) => {}
            Type::Boolean => {
                out.extend_from_slice(match text {
                    b"true" | b"1" => b"true",
                    b"false" | b"0" => b"false",
                    _ => return Err(Doubt),
                });
                return Ok(());
            }
            Type::Integer if is_integer(text) => {}
            Type::Double => return push_double(text, out),
            Type::Decimal(before, after) if is_decimal(text, before, after) => {}
            Type::Timestamp => return push_timestamp(text, out),
            Type::Date if text.len() == 10 && days_of(text).is_some() => {}
            Type::Json if is_plain_json(text) => {}
            Type::Uuid if is_uuid(text) => {
                out.extend(text.iter().map(u8::to_ascii_lowercase));
                return Ok(());
            }
            _ => return Err(Doubt),
        }
        out.extend_from_slice(text);
        Ok(())
    }
}

fn is_unicode(text: &[u8]) -> bool {
    text.is_ascii() || simdutf8::basic::from_utf8(text).is_ok()
}

fn are_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

fn without_sign(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"-").unwrap_or(text)
}

/// Whether `digits` are a natural number without leading zeros.
fn is_natural(digits: &[u8]) -> bool {
    are_digits(digits) && (digits[0] != b'0' || digits.len() == 1)
}

fn is_integer(text: &[u8]) -> bool {
    let digits = without_sign(text);
    digits.len() <= MAX_DIGITS && is_natural(digits) && text != b"-0"
}

/// Whether `text` is a decimal in the form in which it is printed.
fn is_decimal(text: &[u8], before: usize, after: usize) -> bool {
    let digits = without_sign(text);
    let (whole, fraction) = match memchr::memchr(b'.', digits) {
        Some(at) => (&digits[..at], &digits[at + 1..]),
        None => (digits, &b"0"[..]),
    };
    let has_point = whole.len() < digits.len();
    is_natural(whole)
        && are_digits(fraction)
        && (whole == b"0" || whole.len() <= before)
        && (!has_point || fraction.len() <= after)
        && digits.iter().any(|digit| matches!(digit, b'1'..=b'9'))
}

/// Append the shortest decimal that is read as the same number.
///
/// From 10^-4 to 10^16 it is written without an exponent, here and in Python.
fn push_double(text: &[u8], out: &mut Vec<u8>) -> Result<(), Doubt> {
    let is_plain = text.len() <= MAX_NUMBER
        && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E'))
        && without_sign(text).first().is_some_and(u8::is_ascii_digit)
        && text.last().is_some_and(u8::is_ascii_digit);
    if !is_plain {
        return Err(Doubt);
    }
    let number: f64 = std::str::from_utf8(text).map_err(|_| Doubt)?.parse().map_err(|_| Doubt)?;
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        return Err(Doubt);
    }
    out.extend_from_slice(format!("{number:?}").as_bytes());
    Ok(())
}

/// The number that two, four or so digits are.
fn number(digits: &[u8]) -> Option<i64> {
    let is_short = are_digits(digits) && digits.len() <= MAX_DIGITS;
    is_short.then(|| digits.iter().fold(0, |value, digit| 10 * value + i64::from(digit - b'0')))
}

/// Days from 1970-01-01 to a date that is written like it.
fn days_of(text: &[u8]) -> Option<i64> {
    if text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let (year, month, day) = (number(&text[..4])?, number(&text[5..7])?, number(&text[8..10])?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    if year == 0 || !(1..=days).contains(&day) {
        return None;
    }
    // Years that begin in March, as in `push_datetime` of the rows.
    let (from_march, year) = if month > 2 { (month - 3, year) } else { (month + 9, year - 1) };
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    Some(365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468)
}

/// Microseconds since 1970 of a time in RFC 3339 in UTC, or of an epoch without a fraction.
fn moment_of(text: &[u8]) -> Option<i64> {
    if is_natural(text) && text.len() <= MAX_EPOCH_DIGITS {
        let size = number(text)?;
        return Some(if size < MAX_SECONDS {
            size * 1_000_000
        } else if size < MAX_MILLISECONDS {
            size * 1000
        } else {
            size
        });
    }
    if text.len() < 20 || text[19..].len() > 11 || text.last() != Some(&b'Z') {
        return None;
    }
    if !matches!(text[10], b'T' | b' ') || text[13] != b':' || text[16] != b':' {
        return None;
    }
    let days = days_of(&text[..10])?;
    let (hour, minute, second) =
        (number(&text[11..13])?, number(&text[14..16])?, number(&text[17..19])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let micros = match &text[19..text.len() - 1] {
        [] => 0,
        [b'.', fraction @ ..] if are_digits(fraction) => {
            let mut six = [b'0'; 6];
            let length = fraction.len().min(6);
            six[..length].copy_from_slice(&fraction[..length]);
            number(&six)?
        }
        _ => return None,
    };
    Some((days * 86_400 + hour * 3600 + minute * 60 + second) * 1_000_000 + micros)
}

/// Append `2006-01-02T15:04:05.000000Z`.
fn push_timestamp(text: &[u8], out: &mut Vec<u8>) -> Result<(), Doubt> {
    let micros = moment_of(text).ok_or(Doubt)?;
    crate::row::push_datetime(micros.div_euclid(1000), out);
    out.pop();
    out.extend_from_slice(format!("{:03}Z", micros.rem_euclid(1000)).as_bytes());
    Ok(())
}

/// Whether a valid JSON text has nothing that targets may not take.
///
/// Escapes of NUL and of half surrogate pairs, and large numbers, are looked for wherever they
/// are: also in strings that only look like them.
fn is_plain_json(text: &[u8]) -> bool {
    let mut digits = 0;
    let mut exponent = None;
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                digits += 1;
                let of_exponent = exponent.map(|count: usize| count + 1);
                if digits >= LARGE_NUMBER || of_exponent >= Some(LARGE_EXPONENT) {
                    return false;
                }
                exponent = of_exponent;
                continue;
            }
            b'+' | b'-' if exponent == Some(0) && matches!(text[at - 1], b'e' | b'E') => {
                digits = 0;
                continue;
            }
            b'e' | b'E' => exponent = Some(0),
            b'u' if at > 0 && text[at - 1] == b'\\' => return false,
            _ => exponent = None,
        }
        digits = 0;
    }
    true
}

fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// What is wrong with a JSON text for a typed column: 0 for nothing, 1 if it isn't JSON or has a
/// number beyond the range of doubles, 2 if it has an escape of NUL, 3 if it has a large number.
///
/// `None` leaves the decision to the Python code.
#[pyfunction]
#[pyo3(signature = (text, /))]
pub fn json_fault(text: &[u8]) -> Option<u8> {
    let paths = Paths::new(&[], false);
    let (mut found, mut marks) = (Vec::new(), Marks::default());
    let mut reader = Reader::new(&paths, text, 0, usize::MAX, MAX_DEPTH, &mut found, &mut marks);
    reader.blanks();
    let is_valid = reader.value(None, 0).and_then(|()| reader.end()).is_ok();
    if !is_valid {
        return None;
    }
    let (has_infinite, has_large) = match reader.has_large_numbers {
        true => numbers_of(text),
        false => (false, false),
    };
    Some(if reader.has_lone_surrogates || has_infinite {
        1
    } else if reader.has_nul {
        2
    } else if has_large {
        3
    } else {
        0
    })
}

/// Characters that a number in JSON may have, and the largest exponent of its first digit.
const MAX_JSON_NUMBER: usize = 1000;
const MAX_JSON_EXPONENT: i64 = 1000;

/// Whether a valid JSON text has a number beyond the range of doubles, and a large number.
fn numbers_of(text: &[u8]) -> (bool, bool) {
    let (mut has_infinite, mut has_large) = (false, false);
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => at = behind_string(text, at),
            b'-' | b'0'..=b'9' => {
                let rest = &text[at..];
                let is_part =
                    |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E');
                let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
                let number = &rest[..length];
                let value = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
                has_infinite |= value.is_none_or(f64::is_infinite);
                has_large |= length > MAX_JSON_NUMBER
                    || exponent_of(number).is_none_or(|size| size.abs() > MAX_JSON_EXPONENT);
                at += length;
            }
            _ => at += 1,
        }
    }
    (has_infinite, has_large)
}

/// The exponent of the first digit of a valid number that isn't zero; of the last one, if all are.
fn exponent_of(number: &[u8]) -> Option<i64> {
    let digits = without_sign(number);
    let (digits, exponent) = match digits.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (&digits[..at], std::str::from_utf8(&digits[at + 1..]).ok()?.parse().ok()?),
        None => (digits, 0i64),
    };
    let whole = memchr::memchr(b'.', digits).unwrap_or(digits.len());
    let after = digits.len().saturating_sub(whole + 1);
    let zeros = digits.iter().take_while(|byte| matches!(byte, b'0' | b'.')).count();
    let significant = match zeros {
        _ if zeros == digits.len() => 1,
        _ if zeros <= whole => digits.len() - zeros - usize::from(after > 0),
        _ => digits.len() - zeros,
    };
    exponent.checked_add(significant as i64 - 1 - after as i64)
}
