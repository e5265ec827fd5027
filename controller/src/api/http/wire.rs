//! Parses request bodies: JSON of any shape in, values of an operation's model out.
//!
//! AWS's message for a wrong JSON type names neither field nor position; neither do ours. AWS's message
//! for a body that is not a JSON object is not known; ours names the position of the first error.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::error::ApiError;

/// Parses a body as `T`; members that `T` does not have are skipped.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    let json: Json<'a> = serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        ApiError::serialization(format!(
            "The request body is not valid JSON (line {line}, column {column})"
        ))
    })?;
    let read = match json {
        Json::Structure(_) => T::deserialize(json),
        Json::List(_) => Err(Mismatch(LIST.into())),
        _ => Err(Mismatch("The request body is not a JSON object".into())),
    };
    read.map_err(|Mismatch(message)| ApiError::serialization(message))
}

const LIST: &str = "Start of list found where not expected";
const STRUCTURE: &str = "Start of structure or map found where not expected.";

/// Any JSON value. Strings without escapes borrow from the body.
enum Json<'a> {
    Null,
    Flag(bool),
    Integer(i64),
    Decimal(f64),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Structure(BTreeMap<Cow<'a, str>, Json<'a>>),
}

/// A value is not of the model's type. Holds the message for the client.
#[derive(Debug)]
struct Mismatch(String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mismatch {}

impl de::Error for Mismatch {
    /// For errors that serde itself finds, AWS's message is not known.
    fn custom<T: fmt::Display>(why: T) -> Self {
        tracing::debug!(error = %why, "a request's body does not fit its model");
        Self("The request body does not fit the operation".into())
    }
}

impl Json<'_> {
    /// The model has a scalar here. `wanted` is its type with an article.
    fn no_scalar(&self, wanted: &str) -> Mismatch {
        let found = match self {
            Self::Null => return Mismatch(format!("null can not be converted to {wanted}")),
            Self::List(_) => return Mismatch(LIST.into()),
            Self::Structure(_) => return Mismatch(STRUCTURE.into()),
            Self::Flag(true) => "TRUE_VALUE",
            Self::Flag(false) => "FALSE_VALUE",
            Self::Integer(_) | Self::Decimal(_) => "NUMBER_VALUE",
            Self::Text(_) => "STRING_VALUE",
        };
        Mismatch(format!("{found} can not be converted to {wanted}"))
    }

    /// The model has a structure, map or list here. `scalar` is the message if this is a scalar.
    fn no_container(&self, scalar: &str) -> Mismatch {
        Mismatch(match self {
            Self::List(_) => LIST.into(),
            Self::Structure(_) => STRUCTURE.into(),
            _ => scalar.into(),
        })
    }
}

impl<'de> IntoDeserializer<'de, Mismatch> for Json<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Json<'de> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self {
            Self::Null => visitor.visit_unit(),
            Self::Flag(flag) => visitor.visit_bool(flag),
            Self::Integer(number) => visitor.visit_i64(number),
            Self::Decimal(number) => visitor.visit_f64(number),
            Self::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Self::Text(Cow::Owned(text)) => visitor.visit_string(text),
            // AWS skips nulls in a list.
            Self::List(items) => {
                let there = items.into_iter().filter(|item| !matches!(item, Self::Null));
                visitor.visit_seq(SeqDeserializer::new(there))
            }
            Self::Structure(members) => {
                visitor.visit_map(MapDeserializer::new(members.into_iter()))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self {
            Self::Null => visitor.visit_none(),
            json => visitor.visit_some(json),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self {
            Self::Flag(_) => self.deserialize_any(visitor),
            _ => Err(self.no_scalar("a Boolean")),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self {
            Self::Integer(_) => self.deserialize_any(visitor),
            _ => Err(self.no_scalar("an Integer")),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self {
            Self::Integer(_) | Self::Decimal(_) => self.deserialize_any(visitor),
            _ => Err(self.no_scalar("a Double")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self {
            Self::Text(_) => self.deserialize_any(visitor),
            _ => Err(self.no_scalar("a String")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self {
            Self::List(_) => self.deserialize_any(visitor),
            _ => Err(self.no_container("Expected list or null")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self {
            Self::Structure(_) => self.deserialize_any(visitor),
            _ => Err(self.no_container("Expected map or null")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match self {
            Self::Structure(_) => self.deserialize_any(visitor),
            _ => Err(self.no_container("Expected null")),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 char bytes byte_buf unit unit_struct newtype_struct
        tuple tuple_struct enum identifier ignored_any
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

/// Reads any JSON value.
struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Json<'de>, E> {
        Ok(Json::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Integer(number))
    }

    /// A number above `i64::MAX` is above every range of the model, so it may be clamped.
    fn visit_u64<E>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Integer(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json<'de>, E> {
        Ok(Json::Decimal(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json<'de>, A::Error> {
        let mut structure = BTreeMap::new();
        while let Some((Key(name), value)) = members.next_entry()? {
            // JSON parsers disagree about which of two members of one name counts, so neither does.
            if structure.insert(name, value).is_some() {
                return Err(de::Error::custom("a member is there twice"));
            }
        }
        Ok(Json::Structure(structure))
    }
}

/// A member's name, borrowed from the body if it has no escapes. serde's own `Cow` always copies.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Json::deserialize(from)? {
            Json::Text(name) => Ok(Self(name)),
            _ => Err(de::Error::custom("a member's name is a string")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Model {
        text: Option<String>,
        number: Option<i64>,
        weight: Option<f64>,
        flag: Option<bool>,
        list: Option<Vec<String>>,
        map: Option<BTreeMap<String, String>>,
        inner: Option<Inner>,
        any: Option<Value>,
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inner {
        text: Option<String>,
    }

    fn read(body: &Value) -> Result<Model, ApiError> {
        parse(body.to_string().as_bytes())
    }

    #[test]
    fn a_body_that_fits_is_read_and_unknown_and_null_members_are_skipped() {
        let all = json!({
            "Text": "a\"b", "Number": 7, "Weight": 1, "Flag": true, "List": ["a", null, "b"],
            "Map": {"k": "v"}, "Inner": {"Text": "t", "More": 1}, "Any": {"a": [1, 1.5, null]},
            "More": [[]],
        });
        let expected = Model {
            text: Some("a\"b".into()),
            number: Some(7),
            weight: Some(1.0),
            flag: Some(true),
            list: Some(vec!["a".into(), "b".into()]),
            map: Some([("k".into(), "v".into())].into()),
            inner: Some(Inner {
                text: Some("t".into()),
            }),
            any: Some(json!({"a": [1, 1.5]})),
        };
        assert_eq!(read(&all).unwrap(), expected);
        let nothing = json!({"Text": null, "Number": null, "Flag": null, "List": null, "Map": null,
            "Inner": null});
        assert_eq!(read(&nothing).unwrap(), Model::default());
        let large = read(&json!({"Number": u64::MAX})).unwrap();
        assert_eq!(large.number, Some(i64::MAX));
    }

    #[test]
    fn the_messages_about_wrong_types_are_awss() {
        for (body, message) in [
            (
                json!({"Text": 7}),
                "NUMBER_VALUE can not be converted to a String",
            ),
            (
                json!({"Text": 1.5}),
                "NUMBER_VALUE can not be converted to a String",
            ),
            (
                json!({"Text": true}),
                "TRUE_VALUE can not be converted to a String",
            ),
            (json!({"Text": []}), LIST),
            (json!({"Text": {}}), STRUCTURE),
            (
                json!({"Number": "7"}),
                "STRING_VALUE can not be converted to an Integer",
            ),
            (
                json!({"Number": false}),
                "FALSE_VALUE can not be converted to an Integer",
            ),
            (json!({"Number": [7]}), LIST),
            (
                json!({"Weight": "1"}),
                "STRING_VALUE can not be converted to a Double",
            ),
            (
                json!({"Flag": 1}),
                "NUMBER_VALUE can not be converted to a Boolean",
            ),
            (json!({"Flag": {}}), STRUCTURE),
            (json!({"List": "a"}), "Expected list or null"),
            (json!({"List": {}}), STRUCTURE),
            (
                json!({"List": [1]}),
                "NUMBER_VALUE can not be converted to a String",
            ),
            (json!({"Map": 1}), "Expected map or null"),
            (json!({"Map": ["k"]}), LIST),
            (
                json!({"Map": {"k": 1}}),
                "NUMBER_VALUE can not be converted to a String",
            ),
            (json!({"Inner": "x"}), "Expected null"),
            (json!({"Inner": []}), LIST),
            (json!({"Inner": {"Text": []}}), LIST),
            (json!([]), LIST),
        ] {
            let refused = format!("{:?}", read(&body).unwrap_err());
            assert!(
                refused.contains("SerializationException"),
                "{body}: {refused}"
            );
            assert!(
                refused.contains(&format!("{message:?}")),
                "{body}: {refused}"
            );
        }
    }

    #[test]
    fn the_message_about_a_body_that_is_no_object_names_the_position() {
        let deep = "[".repeat(200_000);
        let object = "The request body is not a JSON object";
        for (body, message) in [
            ("", "(line 1, column 0)"),
            (" ", "(line 1, column 1)"),
            ("{", "(line 1, column 1)"),
            ("{\"Number\": 1,}", "(line 1, column 14)"),
            ("{} {}", "(line 1, column 4)"),
            ("{\n\"Text\":\"a\",\n\"Text\":\"b\"}", "(line 3, column "),
            ("{\"Text\":\"\u{1}\"}", "(line 1, column 10)"),
            (deep.as_str(), "(line 1, column 128)"),
            (
                "{\"Map\":{\"k\":null}}",
                "null can not be converted to a String",
            ),
            ("null", object),
            ("7", object),
            ("\"x\"", object),
        ] {
            let refused = parse::<Model>(body.as_bytes()).unwrap_err();
            let shown: String = body.chars().take(30).collect();
            assert!(
                format!("{refused:?}").contains(message),
                "{shown}: {refused:?}"
            );
        }
        assert!(parse::<Model>(b"{\"Text\":\"\xff\"}").is_err());
    }
}
