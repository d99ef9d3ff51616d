//! Words that this repository does not use in names, comments and documentation, because a reader would
//! have to learn what they mean here. Each has a plain replacement.

use super::{File, numbered};

/// A word, and what to write instead. `|` is removed before matching: it keeps this list from matching
/// itself.
const REPLACEMENTS: &[(&str, &str)] = &[
    ("who|ever", "the caller, the process that"),
    ("no|body", "no process, none"),
    ("tor|ture", "conformance, scale"),
    ("to|ll", "stress"),
    ("nur|sery", "fork server"),
    ("vic|tim", "test process"),
    ("by|stander", "control"),
    ("he|ir", "successor, reused pid"),
    ("yard|stick", "baseline"),
    ("watch|man", "canary tracker"),
    ("door|bell", "ring buffer wake-up"),
    ("fuzz|_doors", "fuzzing, oracle"),
    ("gra|ves", "tombstones"),
    ("be|fall", "inject, happen to"),
    ("be|fallen", "injected, happened to"),
    ("asked| by", "covered by, requested by"),
    ("number|_in_use", "pid_in_use"),
    ("by|_number", "by_pid"),
    ("held|_back", "suppressed"),
    ("await|_witnesses", "drain_pending"),
    ("Stand|In", "TokenRef, substitute"),
    ("FARE|WELL", "SHUTDOWN_GRACE"),
    ("PATI|ENCE", "TIMEOUT"),
    ("Exit|Word", "WaitStatus"),
    ("exit|_word", "wait_status"),
    ("verify|_all", "request_sweep"),
    ("look|_again", "recheck"),
    ("line|up", "source set"),
    ("to|ld", "sent, reported, informed"),
];

/// Names that others have given: allowed in quotes or backticks. A user, and the ring buffer map in the
/// checked-in BPF object.
const QUOTED_NAMES: &[&str] = &["no|body", "door|bell"];
/// libc's constant for that user.
const ALLOWED_PREFIX: (&str, &str) = ("no|body", "uid_");

pub(super) fn uses_plain_words(file: &File, problems: &mut Vec<String>) {
    let File { path, text } = file;
    let is_checked = ["rs", "md", "toml"]
        .iter()
        .any(|ext| file.has_extension(ext));
    if !is_checked || path == "CHANGELOG.md" || path.starts_with("tests/fuzz/corpus/") {
        return;
    }
    for (number, line) in numbered(text) {
        let line = line.to_ascii_lowercase();
        for (pattern, instead) in REPLACEMENTS {
            let word = word_of(pattern);
            let is_used =
                |&(at, _): &(usize, &str)| is_use(pattern, &line[..at], &line[at + word.len()..]);
            if line.match_indices(&word).any(|hit| is_used(&hit)) {
                problems.push(format!(
                    "{path}:{number}: not `{word}`: write `{}`",
                    instead.replace(", ", "`, `")
                ));
            }
        }
    }
}

fn word_of(pattern: &str) -> String {
    pattern.replace('|', "").to_ascii_lowercase()
}

/// Whether the text between `before` and `after` is a whole word, perhaps in the plural or as a part of
/// a snake-case name, and not a name that is allowed.
fn is_use(pattern: &str, before: &str, after: &str) -> bool {
    let after_plural = after.strip_prefix('s').unwrap_or(after);
    let is_whole = !before.ends_with(|c: char| c.is_alphanumeric())
        && !after_plural.starts_with(|c: char| c.is_alphanumeric());
    let is_quoted = ['"', '`']
        .iter()
        .any(|quote| before.ends_with(*quote) && after.starts_with(*quote));
    let is_allowed = is_quoted && QUOTED_NAMES.contains(&pattern)
        || pattern == ALLOWED_PREFIX.0 && before.ends_with(ALLOWED_PREFIX.1);
    is_whole && !is_allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let file = File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        uses_plain_words(&file, &mut problems);
        problems
    }

    #[test]
    fn every_listed_word_is_a_breach() {
        for (pattern, _) in REPLACEMENTS {
            let word = pattern.replace('|', "");
            for text in [
                format!("a {word} b"),
                word.to_uppercase(),
                format!("\n(`{word}s`)"),
                format!("fn a_{word}_b() {{}}"),
            ] {
                assert_eq!(problems("a.rs", &text).len(), 1, "{text}");
            }
        }
    }

    #[test]
    fn a_breach_names_place_and_replacement() {
        let text = format!("plain\nthe {}\n", word_of("gra|ves"));
        let expected = format!(
            "docs/a.md:2: not `{}`: write `tombstones`",
            word_of("gra|ves")
        );
        assert_eq!(problems("docs/a.md", &text), [expected]);
    }

    #[test]
    fn parts_of_other_words_pass() {
        assert_eq!(
            problems("a.rs", "their tollgate, heirloom, lineups2"),
            [""; 0]
        );
    }

    #[test]
    fn names_that_others_gave_pass_in_quotes() {
        for text in ["\"X\"", "`X`", "UID_X"] {
            let user = word_of("no|body");
            assert_eq!(problems("a.rs", &text.replace('X', &user)), [""; 0]);
        }
        let map = word_of("door|bell");
        assert_eq!(problems("a.rs", &format!("\"{map}\"")), [""; 0]);
        assert_eq!(problems("a.rs", &format!("a {map}")).len(), 1);
    }

    #[test]
    fn other_files_are_not_checked() {
        let text = word_of("to|ld");
        for path in [
            "CHANGELOG.md",
            "tests/fuzz/corpus/a/b.toml",
            "Cargo.lock",
            "a.json",
        ] {
            assert_eq!(problems(path, &text), [""; 0], "{path}");
        }
    }
}
