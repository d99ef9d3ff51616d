//! The parts that `--filter` has in every command, and the labels of a session on a command line.

use serde_json::Value;

use crate::client::percent_encode;
use crate::daemon::config::values;
use crate::text;

/// The key of a label in a filter.
const LABEL: &str = "label.";

/// Selects sessions. The daemon applies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Session(String),
    Mesh(String),
    Label(String, String),
    Uid(u32),
}

impl Part {
    /// Parses `KEY=VALUE`; `None` if the key is another one.
    pub(super) fn parse(text: &str) -> Option<Result<Self, String>> {
        let (key, value) = text.split_once('=')?;
        let named = |part: fn(String) -> Self, what: &str| match value {
            "" => Err(format!("{key}= needs {what}")),
            _ => Ok(part(value.to_owned())),
        };
        Some(match key {
            "session" => named(Self::Session, "the id of a session"),
            "mesh" => named(Self::Mesh, "the name of a mesh"),
            "uid" => values::user(value)
                .map(Self::Uid)
                .map_err(|error| format!("uid: {error}")),
            _ => {
                let key = key.strip_prefix(LABEL)?;
                text::check_label(key, value)
                    .map(|()| Self::Label(key.to_owned(), value.to_owned()))
                    .map_err(|unusable| format!("labels {unusable}"))
            }
        })
    }

    /// Returns whether the value may contain commas, so that it goes to the end of a text.
    pub(super) fn is_last(text: &str) -> bool {
        ["session=", "mesh=", LABEL]
            .iter()
            .any(|it| text.starts_with(it))
    }

    /// Returns the parameter of a query.
    pub(super) fn parameter(&self) -> String {
        match self {
            Self::Session(id) => format!("session={}", percent_encode(id)),
            Self::Mesh(mesh) => format!("mesh={}", percent_encode(mesh)),
            Self::Label(key, value) => {
                format!("label={}", percent_encode(&format!("{key}={value}")))
            }
            Self::Uid(uid) => format!("uid={uid}"),
        }
    }

    /// Returns the name of a part that may be given once.
    pub(super) fn single(&self) -> Option<&'static str> {
        match self {
            Self::Session(_) => Some("session"),
            Self::Mesh(_) => Some("mesh"),
            Self::Uid(_) => Some("uid"),
            Self::Label(..) => None,
        }
    }
}

/// Checks that no part is given twice that has one value.
pub(super) fn check_single(parts: &[Part]) -> Result<(), String> {
    for (at, part) in parts.iter().enumerate() {
        let is_same = |other: &Part| part.single().is_some() && other.single() == part.single();
        if parts[..at].iter().any(is_same) {
            let name = part.single().unwrap_or_default();
            return Err(format!("--filter {name}= may be given once"));
        }
    }
    Ok(())
}

/// Returns whether a session has the labels of these parts, for a former daemon, which does not know them
/// and sends all sessions.
pub(super) fn has_labels<'a>(parts: &[Part], get: impl Fn(&str) -> Option<&'a str>) -> bool {
    parts.iter().all(|part| match part {
        Part::Label(key, value) => get(key) == Some(value),
        Part::Session(_) | Part::Mesh(_) | Part::Uid(_) => true,
    })
}

/// The same of the mesh too, for a session object of an event stream, which a former daemon does not select by
/// either.
pub(super) fn has_mesh_and_labels(parts: &[Part], session: &Value) -> bool {
    let has_mesh = parts.iter().all(|part| match part {
        Part::Mesh(mesh) => session["mesh"] == **mesh,
        Part::Session(_) | Part::Label(..) | Part::Uid(_) => true,
    });
    has_mesh && has_labels(parts, |key| session["labels"][key].as_str())
}

/// Parses a label of `--label`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("expected KEY=VALUE, such as job=7")?;
    text::check_label(key, value).map_err(|unusable| format!("labels {unusable}"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_parsed_and_becomes_a_parameter() {
        for (text, parameter) in [
            ("session=a,b=c", "session=a%2Cb%3Dc"),
            ("mesh=a&b", "mesh=a%26b"),
            ("label.job=a=b", "label=job%3Da%3Db"),
            ("label.app/x.y=", "label=app%2Fx.y%3D"),
            ("uid=0", "uid=0"),
        ] {
            let part = Part::parse(text).unwrap().unwrap();
            assert_eq!(part.parameter(), parameter, "{text}");
        }
        for other in ["", "event=gap", "labels.a=b", "mesh"] {
            assert_eq!(Part::parse(other), None, "{other}");
        }
        for wrong in [
            "session=",
            "mesh=",
            "label.=a",
            "label.a b=c",
            "uid=no-such-user",
        ] {
            assert!(Part::parse(wrong).unwrap().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_labels_may_be_given_more_than_once() {
        let parts = |texts: &[&str]| {
            let parts = texts.iter().map(|text| Part::parse(text).unwrap().unwrap());
            check_single(&parts.collect::<Vec<_>>())
        };
        assert_eq!(parts(&["label.a=1", "label.b=2", "mesh=m"]), Ok(()));
        let refused = parts(&["mesh=m", "label.a=1", "mesh=n"]).unwrap_err();
        assert_eq!(refused, "--filter mesh= may be given once");
    }

    #[test]
    fn labels_of_a_former_daemon_are_checked_here() {
        let parts = ["label.a=1", "mesh=m"].map(|text| Part::parse(text).unwrap().unwrap());
        assert!(has_labels(&parts, |key| (key == "a").then_some("1")));
        assert!(!has_labels(&parts, |_| Some("2")));
        assert!(!has_labels(&parts, |_| None));
    }

    #[test]
    fn a_label_is_a_key_and_a_value() {
        let expected = ("a".to_owned(), "b=c".to_owned());
        assert_eq!(label("a=b=c"), Ok(expected));
        for wrong in ["a", "=b", "a b=c", "a=\u{7}"] {
            assert!(label(wrong).is_err(), "{wrong}");
        }
    }
}
