//! The fields of a registration that this daemon does not know. They are accepted, and named in the response.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::KNOWN;
use crate::text;

/// No more fields are named.
const NAMED_MAX: usize = 16;
/// The rest of a longer name is left out, in bytes.
const LENGTH_MAX: usize = 64;

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

struct OfUnknown;

impl<'de> Visitor<'de> for OfUnknown {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = Vec::new();
        while let Some((Key(key), IgnoredAny)) = map.next_entry()? {
            if KNOWN.contains(&&*key) || names.len() == NAMED_MAX {
                continue;
            }
            let name = text::clean(&key, LENGTH_MAX).into_owned();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// Returns the names of the unknown fields of this object, in their order, each once.
pub(super) fn fields(body: &str) -> Vec<String> {
    serde_json::Deserializer::from_str(body)
        .deserialize_map(OfUnknown)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn unknown_fields_are_named_once_in_their_order() {
        let body = r#" {"zeta":{"token":1},"pid":1,"a\u006cpha":null,"zeta":[],"\u0070id":2,"":3}"#;
        assert_eq!(fields(body), ["zeta", "alpha", ""]);
        let known = KNOWN.map(|name| (name.to_owned(), json!(1)));
        let known = Value::Object(known.into_iter().collect());
        assert_eq!(fields(&known.to_string()), [""; 0]);
    }

    #[test]
    fn names_are_bounded_in_number_and_length_and_are_text() {
        let many: serde_json::Map<_, _> = (0..200)
            .map(|number| (format!("{number:0200}"), Value::Null))
            .collect();
        let names = fields(&Value::Object(many).to_string());
        // They differ behind the bound only.
        assert_eq!(names, ["0".repeat(64)]);
        let many: serde_json::Map<_, _> = (0..200)
            .map(|number| (number.to_string(), Value::Null))
            .collect();
        assert_eq!(fields(&Value::Object(many).to_string()).len(), NAMED_MAX);
        assert_eq!(fields(r#"{"a\u001b[2J":1}"#), ["a_[2J"]);
    }
}
