//! Lists in pages: `Marker` and `MaxItems` in, `NextMarker` out.
//!
//! A marker is the key of the last item of a page. What it named may be gone by the next page only
//! from lists that are in the order of their keys; the others say that the marker is none.

use super::error::ApiError;
use super::extract::Parameters;

/// Items on a page unless asked for fewer.
const MOST: usize = 50;

/// How many items the caller wants at most.
pub(super) fn size(parameters: &Parameters) -> Result<usize, ApiError> {
    let Some(text) = parameters.get("MaxItems") else {
        return Ok(MOST);
    };
    match text.parse::<usize>() {
        Ok(limit @ 1..=10_000) => Ok(limit.min(MOST)),
        _ => Err(ApiError::constraint(
            text,
            "maxItems",
            "Member must have value between 1 and 10000",
        )),
    }
}

/// The items after the marker, as many as are wanted, and whether there are more.
pub(super) fn cut<T>(
    mut items: impl Iterator<Item = T>,
    parameters: &Parameters,
    key: impl Fn(&T) -> String,
) -> Result<(Vec<T>, bool), ApiError> {
    let size = size(parameters)?;
    if let Some(marker) = parameters.get("Marker").filter(|marker| !marker.is_empty())
        && !items.any(|item| key(&item) == marker)
    {
        return Err(bad_marker());
    }
    let page = items.by_ref().take(size).collect();
    Ok((page, items.next().is_some()))
}

pub(super) fn bad_marker() -> ApiError {
    ApiError::invalid("The Marker is not one that this API gave out")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &[(&str, &str)]) -> Result<(Vec<u32>, bool), ApiError> {
        let parameters = Parameters::of(query);
        cut(1..=60, &parameters, u32::to_string)
    }

    #[test]
    fn pages_follow_each_other_and_end() {
        assert_eq!(page(&[("MaxItems", "2")]).unwrap(), (vec![1, 2], true));
        let (rest, more) = page(&[("Marker", "58")]).unwrap();
        assert_eq!((rest, more), (vec![59, 60], false));
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
