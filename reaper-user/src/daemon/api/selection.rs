//! `?mesh=` and `?label=`: of which sessions a list or a stream has.

use reaper_registry::Session;
use serde::{Deserialize, Serialize};

use crate::daemon::http::problem::Problem;
use crate::daemon::http::query;
use crate::text::LABELS_MAX;

/// Selects sessions by what they say about themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Selection {
    mesh: Option<String>,
    /// A session must have all of them.
    labels: Vec<(String, String)>,
}

impl Selection {
    pub(super) fn of(query: Option<&str>) -> Result<Self, Problem> {
        let mut labels = Vec::new();
        for label in query::values(query, "label") {
            let (key, value) = label
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| Problem::query("label", "label must be KEY=VALUE"))?;
            if labels.len() == LABELS_MAX {
                return Err(Problem::query(
                    "label",
                    "label is given more often than a session has labels",
                ));
            }
            labels.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self {
            mesh: query::value(query, "mesh").map(Into::into),
            labels,
        })
    }

    pub(super) fn shows(&self, session: &Session) -> bool {
        let is_of_mesh = |mesh: &String| *session.details.mesh == **mesh;
        self.mesh.as_ref().is_none_or(is_of_mesh)
            && self
                .labels
                .iter()
                .all(|(key, value)| session.labels().get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::api::tests::session;

    fn shows(query: &str) -> Result<bool, &'static str> {
        let selection = Selection::of(Some(query)).map_err(|refused| refused.code().name())?;
        Ok(selection.shows(&session()))
    }

    #[test]
    fn a_session_must_have_each_label_and_the_mesh() {
        for (query, expected) in [
            ("", true),
            ("mesh=dev%0A", true),
            ("mesh=dev", false),
            ("label=job%3D7", true),
            ("label=job=7&label=empty=", true),
            ("label=job=7&label=empty=x", false),
            ("label=job=", false),
            ("label=other=", false),
            ("label=job=7&mesh=other", false),
        ] {
            assert_eq!(shows(query), Ok(expected), "{query}");
        }
        for malformed in ["label=empty", "label==7", "label="] {
            assert_eq!(shows(malformed), Err("invalid_query"), "{malformed}");
        }
        let labels = |count| vec!["label=job=7"; count].join("&");
        assert_eq!(shows(&labels(32)), Ok(true));
        assert_eq!(shows(&labels(33)), Err("invalid_query"));
    }

    #[test]
    fn a_former_daemon_sends_no_selection() {
        let read: Selection = serde_json::from_str("{}").unwrap();
        assert_eq!(read, Selection::default());
    }
}
