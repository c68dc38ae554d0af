//! Which bytes of an image a download is for.

use std::ops::Range;

use hyper::header::{CONTENT_RANGE, HeaderName, HeaderValue, RANGE};
use hyper::{HeaderMap, StatusCode};

use super::{ApiError, ApiResult};

/// The bytes that the headers ask for, or none if they ask for everything. Old clients put their wish into
/// `Content-Range`.
pub(super) fn requested(headers: &HeaderMap, size: u64) -> ApiResult<Option<Range<u64>>> {
    let text = |name: &HeaderName| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    match (text(&RANGE), text(&CONTENT_RANGE)) {
        (Some(range), _) => parse_range(range, size).map(Some),
        (None, Some(range)) => parse_content_range(range, size).map(Some),
        (None, None) => Ok(None),
    }
}

fn unsatisfiable(why: &str, size: u64) -> ApiError {
    let error = ApiError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        format!("The Range requested is not available. {why}"),
    );
    match HeaderValue::from_str(&format!("bytes */{size}")) {
        Ok(value) => error.with(CONTENT_RANGE, value),
        Err(_) => error,
    }
}

fn parse_range(text: &str, size: u64) -> ApiResult<Range<u64>> {
    let invalid = || unsatisfiable("Invalid Range header.", size);
    let spec = text.trim().strip_prefix("bytes=").ok_or_else(invalid)?;
    if spec.contains(',') {
        return Err(ApiError::bad_request(
            "Requests with multiple ranges are not supported. You may make multiple single-range \
             requests instead.",
        ));
    }
    let (first, last) = spec.split_once('-').ok_or_else(invalid)?;
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        // Only digits: parse would take a sign.
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(Some(digits.parse::<u64>().unwrap_or(u64::MAX)))
        }
        _ => Err(invalid()),
    };
    match (number(first)?, number(last)?) {
        (None, None) => Err(invalid()),
        // The last n bytes; 0 and more than there are mean everything, as in the reference.
        (None, Some(0)) => Ok(0..size),
        (None, Some(n)) => Ok(size.saturating_sub(n)..size),
        (Some(first), _) if first >= size => Err(unsatisfiable(
            "Invalid start position in Range header.",
            size,
        )),
        (Some(first), None) => Ok(first..size),
        (Some(first), Some(last)) if last < first => Err(invalid()),
        (Some(first), Some(last)) => Ok(first..last.saturating_add(1).min(size)),
    }
}

/// `bytes FIRST-LAST/LENGTH` or `bytes FIRST-LAST/*`.
fn parse_content_range(text: &str, size: u64) -> ApiResult<Range<u64>> {
    let invalid = || unsatisfiable("Invalid Content-Range header.", size);
    let spec = text.trim().strip_prefix("bytes ").ok_or_else(invalid)?;
    let (range, length) = spec.split_once('/').ok_or_else(invalid)?;
    if length != "*" && length.parse() != Ok(size) {
        return Err(invalid());
    }
    parse_range(&format!("bytes={range}"), size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(text: &str) -> u16 {
        parse_range(text, 100_000).map_or_else(|e| e.status().as_u16(), |_| 206)
    }

    #[test]
    fn the_table_of_the_api() {
        let cases = [
            ("bytes=0-99", 0..100),
            ("bytes=100-", 100..100_000),
            ("bytes=-100", 99_900..100_000),
            ("bytes=99999-99999", 99_999..100_000),
            ("bytes=99990-200000", 99_990..100_000),
            ("bytes=-0", 0..100_000),
            ("bytes=-200000", 0..100_000),
            ("bytes=0-", 0..100_000),
            ("bytes=0-99999999999999999999999", 0..100_000),
        ];
        for (text, range) in cases {
            assert_eq!(parse_range(text, 100_000).ok(), Some(range), "{text}");
        }
        for bad in [
            "bytes=100000-",
            "bytes=200000-",
            "bytes=5-2",
            "items=0-1",
            "bytes=abc",
            "bytes=-",
            "bytes=+1-2",
            "bytes=",
            "bytes",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(code(bad), 416, "{bad}");
        }
        assert_eq!(code("bytes=0-1,5-6"), 400);
        assert_eq!(
            parse_content_range("bytes 0-99/*", 100_000).ok(),
            Some(0..100)
        );
        assert_eq!(
            parse_content_range("bytes 0-99/100000", 100_000).ok(),
            Some(0..100)
        );
        assert!(parse_content_range("bytes 0-99/5", 100_000).is_err());
    }

    proptest! {
        #[test]
        fn what_is_granted_lies_in_the_image(text in "(bytes=)?[-0-9,+a ]{0,24}", size: u64) {
            if let Ok(range) = parse_range(&text, size) {
                prop_assert!(range.start <= range.end && range.end <= size);
            }
        }
    }
}
