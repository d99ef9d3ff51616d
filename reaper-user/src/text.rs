//! The rule for text in a session: length and allowed characters. It applies to registrations and to the
//! values that the command line derives and sends. The same characters are escaped in what the command
//! line prints.

use std::borrow::Cow;

/// The maximum length of a session id, mesh, display name or role, in bytes.
pub(crate) const NAME_MAX: usize = 128;
/// The maximum length of a path, in bytes: `PATH_MAX` of Linux.
pub(crate) const PATH_MAX: usize = 4_096;
/// The maximum number of groups of a session.
pub(crate) const GROUPS_MAX: usize = 64;
/// The maximum length of a group, in bytes.
pub(crate) const GROUP_MAX: usize = 64;
/// The maximum number of labels of a session.
pub(crate) const LABELS_MAX: usize = 32;
/// The maximum length of the key of a label, in bytes.
pub(crate) const LABEL_KEY_MAX: usize = 63;
/// The maximum length of the value of a label, in bytes.
pub(crate) const LABEL_VALUE_MAX: usize = 256;

/// Why a text is refused. Displayed as the predicate of a sentence about the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("must not be longer than {max} bytes")]
    TooLong { max: usize },
    #[error("must not hold control characters, invisible ones, or ones that reorder text")]
    Characters,
    #[error("must not be blank")]
    Blank,
    #[error("must have keys of 1 to {LABEL_KEY_MAX} letters, digits and . _ - /")]
    LabelKey,
}

/// Checks the characters of a text and its length in bytes.
pub(crate) fn check(text: &str, max: usize) -> Result<(), Unusable> {
    if text.len() > max {
        return Err(Unusable::TooLong { max });
    }
    if text.contains(is_refused) {
        return Err(Unusable::Characters);
    }
    if !text.is_empty() && text.trim().is_empty() {
        return Err(Unusable::Blank);
    }
    Ok(())
}

/// Checks a label.
pub(crate) fn check_label(key: &str, value: &str) -> Result<(), Unusable> {
    let is_of_key =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
    if key.is_empty() || key.len() > LABEL_KEY_MAX || !key.bytes().all(is_of_key) {
        return Err(Unusable::LabelKey);
    }
    check(value, LABEL_VALUE_MAX)
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

/// Returns whether no text may contain this character: a terminal could obey it, a reader of lines could
/// split the text at it, or it is not seen, so that two texts look the same.
pub(crate) fn is_refused(c: char) -> bool {
    c.is_control() || is_invisible(c)
}

/// Returns whether the character has no shape or changes the order in which a line is displayed. The
/// groups are those of Unicode's property `Default_Ignorable_Code_Point`, the line and paragraph
/// separators and the annotation marks, without the variation selectors of emoji.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180b}'..='\u{180f}' | '\u{fff0}'..='\u{fff8}'
        // Fillers.
        | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}'
        // Zero-width characters and direction marks.
        | '\u{200b}'..='\u{200f}'
        // Separators of lines and paragraphs, embeddings and overrides of the direction.
        | '\u{2028}'..='\u{202e}'
        // Word joiner, isolates of the direction, format characters.
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        // Tags, and further variation selectors.
        | '\u{e0000}'..='\u{e0fff}'
    )
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

    #[test]
    fn a_text_must_be_seen_as_it_is() {
        for c in [
            '\u{9b}',
            '\u{202e}',
            '\u{2028}',
            '\u{200b}',
            '\u{feff}',
            '\u{e0041}',
            '\u{7f}',
            '\t',
        ] {
            let refused = check(&format!("a{c}b"), 40);
            assert_eq!(refused, Err(Unusable::Characters), "{c:?}");
        }
        assert_eq!(check(" \u{a0} ", 40), Err(Unusable::Blank));
        for usable in ["", "Zoë", "日本", "שלום", "❤\u{fe0f}", "a b"] {
            assert_eq!(check(usable, 40), Ok(()), "{usable}");
        }
    }

    #[test]
    fn a_label_has_a_key_of_ascii_and_a_value_that_is_a_text() {
        let long = "k".repeat(63);
        for (key, value) in [
            ("a", ""),
            ("app.kubernetes.io/name_-0", "wörker"),
            (&long, "v"),
        ] {
            assert_eq!(check_label(key, value), Ok(()), "{key}");
        }
        let longer = "k".repeat(64);
        for key in ["", "a b", "a=b", "a:b", "ä", &longer] {
            assert_eq!(check_label(key, "v"), Err(Unusable::LabelKey), "{key}");
        }
        let max = LABEL_VALUE_MAX;
        assert_eq!(check_label("a", &"v".repeat(max)), Ok(()));
        let refused = check_label("a", &"v".repeat(max + 1));
        assert_eq!(refused, Err(Unusable::TooLong { max }));
        assert_eq!(check_label("a", "b\n"), Err(Unusable::Characters));
        assert_eq!(check_label("a", " "), Err(Unusable::Blank));
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
