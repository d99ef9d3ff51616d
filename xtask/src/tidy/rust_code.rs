//! Removes comments and literals from Rust source, so that a rule about code does not match prose. Not a
//! parser: it finds only where comments and literals start and end.

/// Returns `text` without comments and literals. Line numbers stay the same.
pub(super) fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = skipped_len(rest, code.chars().next_back());
        if skipped > 0 {
            code.extend(rest[..skipped].chars().filter(|&c| c == '\n'));
            code.push(' ');
            rest = &rest[skipped..];
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    code
}

/// Returns the identifiers and keywords.
pub(super) fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// Returns the length of the comment or literal at the start of `rest`; 0 if there is none.
fn skipped_len(rest: &str, before: Option<char>) -> usize {
    let after_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        block_comment_len(rest)
    } else if rest.starts_with('"') {
        quoted_len(rest, '"')
    } else if rest.starts_with('\'') {
        char_len(rest)
    } else if !after_word && rest.starts_with(['r', 'b', 'c']) {
        raw_string_len(rest)
    } else {
        0
    }
}

/// Block comments nest.
fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        let step = &rest.as_bytes()[at..];
        if step.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if step.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

/// Distinguishes a character from a lifetime: it has an escape, or a quote after one character.
fn char_len(rest: &str) -> usize {
    let mut inside = rest.chars().skip(1);
    match (inside.next(), inside.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted_len(rest, '\''),
        _ => 0,
    }
}

fn raw_string_len(rest: &str) -> usize {
    let Some(tail) = ["r", "br", "cr"]
        .iter()
        .find_map(|prefix| rest.strip_prefix(prefix))
    else {
        return 0;
    };
    let hashes = tail.len() - tail.trim_start_matches('#').len();
    let Some(body) = tail[hashes..].strip_prefix('"') else {
        return 0;
    };
    let end = format!("\"{}", "#".repeat(hashes));
    let body_len = body.find(&end).map_or(body.len(), |at| at + end.len());
    rest.len() - body.len() + body_len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, code: &str) {
        assert_eq!(without_comments_and_literals(text), code);
    }

    #[test]
    fn comments_and_literals_are_removed() {
        check("a // b\nc", "a  \nc");
        check("a /* b /* c */ d\n */ e", "a \n  e");
        check(r#"a("b \" c", d)"#, "a( , d)");
        check(r##"a(r#"b " c"#, br"\", d)"##, "a( ,  , d)");
        check(r"a('\'', b'\\', 'c', d)", "a( , b ,  , d)");
    }

    #[test]
    fn lifetimes_and_raw_identifiers_are_kept() {
        check(
            "fn a<'b>(c: &'b str, r#d: u8) -> &'static str",
            "fn a<'b>(c: &'b str, r#d: u8) -> &'static str",
        );
        check("var\"b\" c", "var  c");
    }

    #[test]
    fn an_unterminated_literal_is_removed_up_to_the_end() {
        check("a \"b", "a  ");
        check("a /* b", "a  ");
        check("a r#\"b\"", "a  ");
    }
}
