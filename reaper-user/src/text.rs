//! The rule for text in a session: length and allowed characters. It applies to registrations and to the
//! values that the command line derives and sends.

use std::borrow::Cow;

/// The maximum length of a session id, mesh, display name or role, in bytes.
pub(crate) const NAME_MAX: usize = 128;
/// The maximum length of a path, in bytes: `PATH_MAX` of Linux.
pub(crate) const PATH_MAX: usize = 4_096;
/// The maximum number of groups of a session.
pub(crate) const GROUPS_MAX: usize = 64;
/// The maximum length of a group, in bytes.
pub(crate) const GROUP_MAX: usize = 64;

/// Why a text is refused. Displayed as the predicate of a sentence about the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("must not be longer than {max} bytes")]
    TooLong { max: usize },
    #[error("must not hold control characters")]
    ControlCharacters,
}

/// Checks the characters of a text and its length in bytes.
pub(crate) fn check(text: &str, max: usize) -> Result<(), Unusable> {
    if text.len() > max {
        return Err(Unusable::TooLong { max });
    }
    if text.contains(is_refused) {
        return Err(Unusable::ControlCharacters);
    }
    Ok(())
}

/// Changes a text so that it passes [`check`]: trims white space, replaces refused characters with `_` and
/// cuts a text that is too long at a character boundary. The result may be empty.
pub(crate) fn clean(text: &str, max: usize) -> Cow<'_, str> {
    let text = text.trim();
    let mut clean = if text.contains(is_refused) {
        Cow::Owned(text.replace(is_refused, "_"))
    } else {
        Cow::Borrowed(text)
    };
    let end = clean.floor_char_boundary(max);
    if end < clean.len() {
        clean = Cow::Owned(clean[..end].trim_end().to_owned());
    }
    clean
}

fn is_refused(c: char) -> bool {
    c.is_control() || reorders_text(c)
}

/// Returns whether the character changes the order in which a line is displayed (Unicode's bidirectional
/// embeddings, overrides and isolates). The marks that right-to-left text needs are allowed.
fn reorders_text(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_cut_between_characters_and_cleaned() {
        for (text, clean_text) in [
            ("api", "api"),
            ("  api\n", "api"),
            ("a\nb\u{1b}[2J", "a_b_[2J"),
            ("abc\u{202e}def", "abc_def"),
            ("éééééé", "éééé"),
            ("abcdefgh ijk", "abcdefgh"),
            ("\n\t ", ""),
            ("", ""),
        ] {
            assert_eq!(clean(text, 9), clean_text, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn cleaned_text_passes_the_check(text in any::<String>(), max in 0_usize..40) {
            prop_assert_eq!(check(&clean(&text, max), max), Ok(()));
        }

        #[test]
        fn valid_text_is_not_changed(text in "[a-zé:@/_.-]{0,12}") {
            prop_assert_eq!(clean(&text, 40), text.as_str());
        }
    }
}
