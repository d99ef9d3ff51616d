//! The labels of a registration: an object of strings, in which each key occurs once.

use std::collections::BTreeMap;
use std::fmt;

use reaper_registry::Labels;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Problem, invalid, present};
use crate::text::{self, LABELS_MAX};

/// The text of an error that names the second of two pairs with one key.
const TWICE: &str = "key twice";

struct Pairs(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfPairs)
    }
}

struct OfPairs;

impl<'de> Visitor<'de> for OfPairs {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = BTreeMap::new();
        while let Some((key, value)) = map.next_entry()? {
            if pairs.insert(key, value).is_some() {
                return Err(A::Error::custom(TWICE));
            }
        }
        Ok(Pairs(pairs))
    }
}

pub(super) fn parse(raw: Option<&RawValue>) -> Result<Labels, Problem> {
    let Some(raw) = present(raw) else {
        return Ok(Labels::default());
    };
    let Pairs(pairs) = serde_json::from_str(raw.get()).map_err(|error: serde_json::Error| {
        if error.to_string().starts_with(TWICE) {
            invalid("labels", "must not have a key twice")
        } else {
            invalid("labels", "must be an object of strings")
        }
    })?;
    if pairs.len() > LABELS_MAX {
        let rule = format!("must not have more than {LABELS_MAX} entries");
        return Err(invalid("labels", &rule));
    }
    for (key, value) in &pairs {
        text::check_label(key, value)
            .map_err(|unusable| invalid("labels", &unusable.to_string()))?;
    }
    Ok(pairs.into_iter().collect())
}
