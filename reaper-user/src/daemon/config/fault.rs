//! What is wrong with a configuration: one fault for each place, all of them at once.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a fault is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A place in a file, counted from 1. Columns are counted in characters.
    Line {
        path: PathBuf,
        line: usize,
        column: usize,
    },
    File(PathBuf),
    Variable(String),
    /// Values that do not fit together.
    Together,
}

impl Place {
    /// Returns the place of the byte `offset` of this text.
    pub(crate) fn in_text(path: &Path, text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Self::Line {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    pub(crate) place: Place,
    /// Names the key, the value and what is allowed.
    pub(crate) message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, message } = self;
        match place {
            Place::Line { path, line, column } => {
                write!(f, "{}:{line}:{column}: {message}", path.display())
            }
            Place::File(path) => write!(f, "{}: {message}", path.display()),
            Place::Variable(name) => write!(f, "{name}: {message}"),
            Place::Together => f.write_str(message),
        }
    }
}

/// The configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&faults.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_in_lines_and_characters() {
        let text = "a = 1\nü = é b\n";
        let at = |offset| Place::in_text(Path::new("/f"), text, offset);
        let place = |line, column| Place::Line {
            path: "/f".into(),
            line,
            column,
        };
        assert_eq!(at(0), place(1, 1));
        assert_eq!(at(text.find('b').unwrap()), place(2, 7));
        assert_eq!(at(text.len()), place(3, 1));
    }
}
