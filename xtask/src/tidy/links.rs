//! Checks Markdown links to files of this repository. Links to other sites are not checked: this check must
//! not fail when a server does.

use std::collections::HashSet;

use super::File;

pub(super) fn check(files: &[File], problems: &mut Vec<String>) {
    let mut known = HashSet::from([String::new()]);
    for file in files {
        known.insert(file.path.clone());
        known.extend(
            file.path
                .match_indices('/')
                .map(|(at, _)| file.path[..at].to_owned()),
        );
    }
    for File { path, text } in files.iter().filter(|file| file.has_extension("md")) {
        for (number, target) in targets(text) {
            if !known.contains(&resolve(path, target)) {
                problems.push(format!(
                    "{path}:{number}: dead link: there is no file `{target}`"
                ));
            }
        }
    }
}

/// Returns the links to files with their line numbers, without those in fenced or inline code.
fn targets(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in super::numbered(text) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            // Every second piece is between backquotes.
            let prose = line.split('`').step_by(2);
            // If the text of a link is code, its `](` starts the next piece of prose.
            let inline = prose.flat_map(|piece| piece.split("](").skip(1));
            let reference = line
                .strip_prefix('[')
                .and_then(|line| line.split_once("]: "));
            let all = inline.chain(reference.map(|(_, target)| target));
            found.extend(all.map(|target| (number, file_part(target))));
        }
    }
    found.retain(|(_, target)| !target.is_empty() && !target.contains(':'));
    found
}

/// Returns the target without title, closing parenthesis and anchor.
fn file_part(target: &str) -> &str {
    target
        .split([')', ' ', '#'])
        .next()
        .unwrap_or_default()
        .trim_matches(['<', '>'])
}

fn resolve(from: &str, target: &str) -> String {
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    let base = if target.starts_with('/') { "" } else { folder };
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(target.split('/')) {
        match part {
            "" | "." => {}
            // A path above the root: keep the dots, which match no file.
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let files = [
            file("docs/a.md", text),
            file("docs/b.md", ""),
            file("src/lib.rs", ""),
        ];
        let mut problems = Vec::new();
        check(&files, &mut problems);
        problems
    }

    #[test]
    fn links_that_resolve_pass() {
        let text = "[b](b.md) [`lib`](../src/lib.rs#L1) [src](../src/) [root](/docs/b.md \"title\")\n\
                    [site](https://example.org/x.md) [here](#anchor) `[code](gone.md)`\n\
                    ```\n[fenced](gone.md)\n```\n[ref]: b.md\n";
        assert_eq!(problems(text), [""; 0]);
    }

    #[test]
    fn a_dead_link_is_a_breach() {
        for text in [
            "[a](gone.md)",
            "[`a`](gone.md#x)",
            "[a](../../b.md)",
            "[ref]: gone.md",
        ] {
            assert_eq!(problems(text).len(), 1, "{text}");
        }
    }
}
