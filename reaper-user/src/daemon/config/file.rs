//! A configuration file: TOML with one key for each option, and no tables.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Place};
use super::options::{self, Kind, OPTIONS, OptionSpec};

/// A longer file is not one of this program.
const LENGTH_MAX: u64 = 256 * 1024;
/// From this likeness on, a known key is suggested for an unknown one: two letters that are exchanged in a
/// key of three.
const ALIKE: f64 = 0.6;

/// One key and its value.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) spec: &'static OptionSpec,
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// Reads a file to its end.
pub(crate) fn read(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(LENGTH_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LENGTH_MAX {
        return Err(io::Error::other(format!(
            "is longer than {LENGTH_MAX} bytes"
        )));
    }
    Ok(text)
}

/// Parses a file. Adds what is wrong to `faults`, in the order of the text; the entries are those that
/// are right.
pub(crate) fn parse(path: &Path, text: &str, faults: &mut Vec<Fault>) -> Vec<Entry> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let place = |offset| Place::in_text(path, text, offset);
    let mut found: Vec<Fault> = errors
        .iter()
        .map(|error| Fault {
            place: place(error.span().map_or(0, |span| span.start)),
            message: format!("is not TOML: {}", error.message().replace('\n', "; ")),
        })
        .collect();
    let has_errors = !found.is_empty();
    let mut entries = Vec::new();
    for (key, value) in table.get_ref() {
        match entry(key, value) {
            Ok((spec, value_text)) => {
                let offset = key.span().start;
                entries.push((offset, spec, value_text));
            }
            // What the parser made of a broken line is no further fault.
            Err(_) if has_errors && is_on_a_line_of(&found, &place(key.span().start)) => {}
            Err((offset, message)) => found.push(Fault {
                place: place(offset),
                message,
            }),
        }
    }
    found.sort();
    faults.append(&mut found);
    entries.sort_by_key(|(offset, ..)| *offset);
    let with_line = |(offset, spec, text_of_value): (usize, _, _)| Entry {
        spec,
        text: text_of_value,
        line: text[..offset].matches('\n').count() + 1,
    };
    entries.into_iter().map(with_line).collect()
}

fn is_on_a_line_of(faults: &[Fault], place: &Place) -> bool {
    let line_of = |place: &Place| match place {
        Place::Line { line, .. } => Some(*line),
        _ => None,
    };
    faults
        .iter()
        .any(|fault| line_of(&fault.place) == line_of(place))
}

/// Returns the option and the value as text, or what is wrong and where.
fn entry(
    key: &Spanned<impl AsRef<str>>,
    value: &Spanned<DeValue<'_>>,
) -> Result<(&'static OptionSpec, String), (usize, String)> {
    let name = key.get_ref().as_ref();
    let Some(spec) = options::named(name) else {
        return Err((key.span().start, unknown_key(name, value.get_ref())));
    };
    let at_value = |message| (value.span().start, message);
    let text = text_of(spec, value.get_ref()).map_err(at_value)?;
    spec.check(&text)
        .map_err(|error| at_value(format!("{name} = {text:?}: {error}")))?;
    Ok((spec, text))
}

fn unknown_key(name: &str, value: &DeValue<'_>) -> String {
    if value.is_table() {
        return format!("{name:?} is a table, and there are none: keys stand at the top level");
    }
    match alike(name, OPTIONS.iter().map(|spec| spec.name)) {
        Some(known) => format!("unknown key {name:?}; did you mean {known:?}?"),
        None => format!("unknown key {name:?}; `reaperd config default` lists the keys"),
    }
}

/// Returns the name that is most like this one, if one is like it.
pub(crate) fn alike<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.replace('_', "-");
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(&name, known);
    known
        .map(|known| (likeness(known), known))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, known)| known)
}

/// Returns the value as a flag would have it.
fn text_of(spec: &OptionSpec, value: &DeValue<'_>) -> Result<String, String> {
    let OptionSpec {
        name,
        kind,
        expects,
        ..
    } = spec;
    let wrong = || {
        let found = value.type_str();
        Err(format!(
            "{name} is a value of type {found}; expected {expects}"
        ))
    };
    match value {
        DeValue::String(text) if *kind != Kind::Switch => Ok(text.to_string()),
        DeValue::Integer(number) if *kind == Kind::Number || *kind == Kind::Text => {
            Ok(number.to_string())
        }
        DeValue::Boolean(on) if *kind == Kind::Switch => Ok(on.to_string()),
        DeValue::Array(parts) if *kind == Kind::List => {
            let mut texts = Vec::new();
            for part in parts {
                match part.get_ref() {
                    DeValue::String(text) if text.is_empty() => {
                        return Err(format!("{name} has an empty part; expected {expects}"));
                    }
                    DeValue::String(text) => texts.push(text.to_string()),
                    DeValue::Integer(number) => texts.push(number.to_string()),
                    _ => return wrong(),
                }
            }
            Ok(texts.join(","))
        }
        _ => wrong(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        parse(Path::new("/f"), text, &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_have_the_types_of_toml() {
        let text = "ttl = \"never\"\nmax-sessions = 1_000\nstrict-replace = true\n\
                    allow-uid = [\"root\", 7]\nmax-bytes = \"2 MiB\"\nsocket-group = 7\nrequire = []\n";
        let mut faults = Vec::new();
        let entries = parse(Path::new("/f"), text, &mut faults);
        assert_eq!(faults, []);
        let read: Vec<_> = entries
            .iter()
            .map(|entry| (entry.line, entry.spec.name, entry.text.as_str()))
            .collect();
        let expected = [
            (1, "ttl", "never"),
            (2, "max-sessions", "1000"),
            (3, "strict-replace", "true"),
            (4, "allow-uid", "root,7"),
            (5, "max-bytes", "2 MiB"),
            (6, "socket-group", "7"),
            (7, "require", ""),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn all_faults_are_reported_with_their_places() {
        let text = "max-sesions = 5\nttl = \"soon\"\n\nstrict-replace = \"yes\"\nallow-uid = [1.5]\n\
                    [daemon]\nttl = \"5s\"\n";
        let faults = faults(text);
        let expected = [
            "/f:1:1: unknown key \"max-sesions\"; did you mean \"max-sessions\"?",
            "/f:2:7: ttl = \"soon\": ",
            "/f:4:18: strict-replace is a value of type string; expected true or false",
            "/f:5:13: allow-uid is a value of type array; expected names or numbers of users",
            "/f:6:2: \"daemon\" is a table",
        ];
        assert_eq!(faults.len(), expected.len(), "{faults:#?}");
        for (fault, start) in faults.iter().zip(expected) {
            assert!(fault.starts_with(start), "{fault}");
        }
    }

    #[test]
    fn text_that_is_not_toml_is_reported_once_a_line() {
        let faults = faults("ttl = \nsweep-interval = 5s\nmax-sesions = 1\n");
        assert!(
            faults.iter().any(|it| it.starts_with("/f:1:")),
            "{faults:#?}"
        );
        assert!(
            faults.iter().any(|it| it.starts_with("/f:2:")),
            "{faults:#?}"
        );
        assert!(
            faults
                .iter()
                .any(|it| it.starts_with("/f:3:1: unknown key"))
        );
    }

    #[test]
    fn a_key_that_occurs_twice_is_a_fault() {
        let faults = faults("ttl = \"5s\"\nttl = \"6s\"\n");
        assert!(faults[0].starts_with("/f:2:1: "), "{faults:#?}");
    }

    #[test]
    fn underscores_are_suggested_as_dashes() {
        let names = OPTIONS.iter().map(|spec| spec.name);
        assert_eq!(
            alike("sweep_interval", names.clone()),
            Some("sweep-interval")
        );
        assert_eq!(alike("tlt", names.clone()), Some("ttl"));
        assert_eq!(alike("colour", names), None);
    }
}
