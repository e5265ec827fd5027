//! Lists in pages: `Marker` and `MaxItems` in, `NextMarker` out.
//!
//! A marker is the key of the last item of a page. What it named may be gone by the next page only
//! from lists that are in the order of their keys; the others say that the marker is none.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::error::ApiError;
use super::parameters::Parameters;
use super::response::json_response;
use super::violations::found;

/// Items on a page unless asked for fewer.
const MOST: usize = 50;

/// How many items the caller wants at most.
pub(crate) fn size(parameters: &Parameters) -> Result<usize, ApiError> {
    Ok(items(parameters, MOST, 10_000)?.min(MOST))
}

/// The same of a list with limits of its own: what is meant unless asked, and the most to ask for.
pub(crate) fn items(parameters: &Parameters, unasked: usize, most: u32) -> Result<usize, ApiError> {
    let Some(text) = parameters.get("MaxItems") else {
        return Ok(unasked);
    };
    let asked = match text.parse::<i64>() {
        Ok(asked) => asked,
        Err(_) => {
            let told = "STRING_VALUE can not be converted to an Integer";
            return Err(ApiError::serialization(told));
        }
    };
    let asked = found(|violations| violations.in_range(asked, 1..=most, "maxItems"))?;
    Ok(asked as usize)
}

/// The items after the marker, as many as are wanted, and the marker of the next page if there is one.
pub(crate) fn cut<T>(
    mut items: impl Iterator<Item = T>,
    parameters: &Parameters,
    key: impl Fn(&T) -> String,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let size = size(parameters)?;
    if let Some(marker) = parameters.get("Marker").filter(|marker| !marker.is_empty())
        && !items.any(|item| key(&item) == marker)
    {
        return Err(bad_marker());
    }
    let page: Vec<T> = items.by_ref().take(size).collect();
    let next = items.next().and(page.last()).map(key);
    Ok((page, next))
}

/// One page of a list called `name`.
pub(crate) fn answer(name: &str, items: Vec<Value>, next: Option<String>) -> Response {
    let mut answer = json!({ name: items });
    if let Some(next) = next {
        answer["NextMarker"] = next.into();
    }
    json_response(StatusCode::OK, &answer)
}

pub(crate) fn bad_marker() -> ApiError {
    ApiError::invalid("The Marker is not one that this API gave out")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &[(&str, &str)]) -> Result<(Vec<u32>, Option<String>), ApiError> {
        let parameters = Parameters::of(query);
        cut(1..=60, &parameters, u32::to_string)
    }

    #[test]
    fn pages_follow_each_other_and_end() {
        assert_eq!(
            page(&[("MaxItems", "2")]).unwrap(),
            (vec![1, 2], Some("2".into()))
        );
        let (rest, next) = page(&[("Marker", "58")]).unwrap();
        assert_eq!((rest, next), (vec![59, 60], None));
        assert_eq!(page(&[]).unwrap().0.len(), 50);
    }

    #[test]
    fn a_marker_or_a_size_that_is_none_is_refused() {
        for bad in [
            ("Marker", "61"),
            ("Marker", "x"),
            ("MaxItems", "0"),
            ("MaxItems", "10001"),
            ("MaxItems", "many"),
        ] {
            assert!(page(&[bad]).is_err(), "{bad:?}");
        }
    }
}
