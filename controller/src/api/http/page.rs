//! Lists in pages: `Marker` and `MaxItems` in, `NextMarker` out.
//!
//! A marker is the key of a page's last item. If that item is deleted before the next page is read, a
//! list in the order of its keys goes on after it; any other list refuses the marker.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::error::ApiError;
use super::parameters::Parameters;
use super::response::json_response;
use super::violations::found;

/// Maximum number of items on a page.
const MOST: usize = 50;

/// The number of items on the requested page.
pub(crate) fn size(parameters: &Parameters) -> Result<usize, ApiError> {
    Ok(items(parameters, MOST, 10_000)?.min(MOST))
}

/// The same for a list with its own default, `unasked`, and its own maximum of `MaxItems`.
pub(crate) fn items(parameters: &Parameters, unasked: usize, most: u32) -> Result<usize, ApiError> {
    let Some(text) = parameters.get("MaxItems") else {
        return Ok(unasked);
    };
    let asked = match text.parse::<i64>() {
        Ok(asked) => asked,
        Err(_) => {
            let message = "STRING_VALUE can not be converted to an Integer";
            return Err(ApiError::serialization(message));
        }
    };
    let asked = found(|violations| violations.in_range(asked, 1..=most, "maxItems"))?;
    Ok(asked as usize)
}

/// The marker of the requested page. An empty one is none: programs send what they found as `NextMarker`.
pub(crate) fn marker(parameters: &Parameters) -> Option<&str> {
    parameters.get("Marker").filter(|marker| !marker.is_empty())
}

/// The items of the requested page, and the marker of the next page if there is one.
pub(crate) fn cut<T>(
    mut items: impl Iterator<Item = T>,
    parameters: &Parameters,
    key: impl Fn(&T) -> String,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let size = size(parameters)?;
    if let Some(marker) = marker(parameters)
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
        assert_eq!(page(&[("Marker", "")]).unwrap(), page(&[]).unwrap());
    }

    #[test]
    fn an_unknown_marker_and_an_invalid_size_are_refused() {
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
