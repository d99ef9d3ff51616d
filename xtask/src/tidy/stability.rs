//! What the last release had as its public interface must still be there, unless `docs/stability.md` lists it as
//! removed. `docs/interface.txt` has the names; a test keeps it complete.

use std::collections::BTreeSet;

use anyhow::Result;

use super::File;
use crate::command::{command, output};

const LIST: &str = "docs/interface.txt";
const PAGE: &str = "docs/stability.md";

pub(super) fn check(files: &[File], problems: &mut Vec<String>) -> Result<()> {
    let text = |path: &str| {
        files
            .iter()
            .find(|file| file.path == path)
            .map(|file| file.text.as_str())
    };
    let (Some(list), Some(page)) = (text(LIST), text(PAGE)) else {
        problems.push(format!(
            "{LIST} or {PAGE} is missing: they are the promise to users"
        ));
        return Ok(());
    };
    let tags = [
        "tag",
        "--list",
        "v*",
        "--merged",
        "HEAD",
        "--sort=-version:refname",
    ];
    let tags = output(&mut command("git", &tags)?)?;
    // Before the first release, nothing is promised. A release without the list is older than the list.
    let Some(release) = tags.lines().next() else {
        return Ok(());
    };
    let shown = command("git", &["show", &format!("{release}:{LIST}")])?.output()?;
    if shown.status.success() {
        compare(
            release,
            &String::from_utf8_lossy(&shown.stdout),
            list,
            page,
            problems,
        );
    }
    Ok(())
}

fn compare(release: &str, before: &str, now: &str, page: &str, problems: &mut Vec<String>) {
    let now: BTreeSet<_> = now.lines().collect();
    let removed: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(line, _)| line)
        .collect();
    for line in before.lines() {
        if !now.contains(line) && !removed.contains(line) {
            problems.push(format!(
                "{LIST}: {release} had `{line}`: keep it, or list it in {PAGE} as removed after its time"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(now: &str, page: &str) -> Vec<String> {
        let mut problems = Vec::new();
        compare(
            "v1.0.0",
            "flag ls --json\nflag ls --wide\n",
            now,
            page,
            &mut problems,
        );
        problems
    }

    #[test]
    fn what_a_release_had_stays_or_is_listed_as_removed() {
        assert_eq!(
            problems("flag ls --json\nflag ls --new\nflag ls --wide\n", ""),
            [""; 0]
        );
        let gone = problems("flag ls --json\n", "");
        assert_eq!(gone.len(), 1);
        assert!(gone[0].contains("v1.0.0 had `flag ls --wide`"), "{gone:?}");
        let page = "| `flag ls --wide` | 1.1.0 | 2.0.0 | `--format` |\n";
        assert_eq!(problems("flag ls --json\n", page), [""; 0]);
    }
}
