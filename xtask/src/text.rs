//! Texts of reports that several tasks use.

/// "1 step", "2 steps".
pub(crate) fn count(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noun_is_plural_except_for_one() {
        assert_eq!(
            [0, 1, 2].map(|n| count(n, "step")),
            ["0 steps", "1 step", "2 steps"]
        );
    }
}
