//! Labels: pairs of a key and a value, by which a client selects sessions.

use std::fmt;

/// The labels of a session, at most one for each key, in the order of their keys. The registry does not
/// limit or check them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<[Label]>);

/// A key and its value.
pub(crate) type Label = (Box<str>, Box<str>);

impl Labels {
    /// Returns the value of the label with this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        Some(&self.0[found].1)
    }

    /// Returns keys and values, in the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Returns how many labels there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Of several labels with one key, the last one counts.
impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        let pairs = pairs.into_iter();
        let mut labels: Vec<Label> = pairs
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        // Stable, so labels with one key stay in their order.
        labels.sort_by(|(one, _), (other, _)| one.cmp(other));
        labels.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        Self(labels.into())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_the_last_of_a_key_counts() {
        let labels: Labels = [("b", "1"), ("a", "2"), ("b", "3"), ("c", ""), ("b", "4")]
            .into_iter()
            .collect();
        let pairs: Vec<_> = labels.iter().collect();
        assert_eq!(pairs, [("a", "2"), ("b", "4"), ("c", "")]);
        assert_eq!((labels.len(), labels.is_empty()), (3, false));
        assert_eq!(labels.get("b"), Some("4"));
        assert_eq!(labels.get("c"), Some(""));
        assert_eq!(labels.get("d"), None);
        assert_eq!(format!("{labels:?}"), r#"{"a": "2", "b": "4", "c": ""}"#);
        assert!(Labels::default().is_empty());
    }
}
