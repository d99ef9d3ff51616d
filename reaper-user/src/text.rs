//! Which text a session may be described with: one rule, for what a registration brings and for what
//! the command line derives and sends.

use std::borrow::Cow;

/// The longest session id, mesh, display name and role, in bytes.
pub(crate) const NAME_MAX: usize = 128;
/// The longest path, in bytes: `PATH_MAX` of Linux.
pub(crate) const PATH_MAX: usize = 4_096;
/// The most groups of one session.
pub(crate) const GROUPS_MAX: usize = 64;
/// The longest group, in bytes.
pub(crate) const GROUP_MAX: usize = 64;

/// Why a text cannot be used, as the second half of a sentence about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("must not be longer than {max} bytes")]
    TooLong { max: usize },
    #[error("must not hold control characters")]
    ControlCharacters,
}

/// Checks a text against the rule and a length in bytes.
pub(crate) fn check(text: &str, max: usize) -> Result<(), Unusable> {
    if text.len() > max {
        return Err(Unusable::TooLong { max });
    }
    if text.contains(is_refused) {
        return Err(Unusable::ControlCharacters);
    }
    Ok(())
}

/// Makes a text pass [`check`]: what is refused becomes `_`, and what is too long is cut between two
/// characters. Surrounding white space goes, so the result may be empty.
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

/// The characters that make a line read otherwise than it is (Unicode's bidirectional overrides and
/// isolates). Marks that right-to-left writing needs are not among them.
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
        fn what_was_cleaned_passes_the_check(text in any::<String>(), max in 0_usize..40) {
            prop_assert_eq!(check(&clean(&text, max), max), Ok(()));
        }

        #[test]
        fn what_passes_stays_as_it_is(text in "[a-zé:@/_.-]{0,12}") {
            prop_assert_eq!(clean(&text, 40), text.as_str());
        }
    }
}
