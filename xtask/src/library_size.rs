//! The step `library-size` of `cargo xtask ci`: the library without the daemon must stay small. A
//! program that embeds the library compiles all of its dependencies.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::command::{command, output, run as execute};
use crate::text::count;

/// The features of `reaperd` that a program selects, and how many crates it may then compile, with
/// those of this workspace.
const LIMITS: &[(&[&str], usize)] = &[
    (&["--no-default-features"], 30),
    (&["--no-default-features", "--features", "ebpf"], 45),
];

pub(crate) fn run() -> Result<()> {
    let mut problems = Vec::new();
    for (features, limit) in LIMITS {
        let features_text = features.join(" ");
        let crates = crates_in(&output(command("cargo", TREE)?.args(*features))?);
        eprintln!("reaperd {features_text}: {}", count(crates.len(), "crate"));
        if crates.len() > *limit {
            problems.push(format!(
                "reaperd {features_text}: {}, at most {limit} allowed: {}",
                count(crates.len(), "crate"),
                crates.into_iter().collect::<Vec<_>>().join(", ")
            ));
        }
        let mut check = command("cargo", CHECK)?;
        // A separate folder, because other flags in the usual one would rebuild everything, twice.
        check
            .args(*features)
            .args(["--target-dir", "target/library-size"])
            .env("RUSTFLAGS", "-D warnings");
        if let Err(error) = execute(&mut check) {
            problems.push(format!("{error:#}"));
        }
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

const TREE: &[&str] = &[
    "tree",
    "--locked",
    "--package",
    "reaperd",
    "--edges",
    "normal",
    "--prefix",
    "none",
];
const CHECK: &[&str] = &["check", "--locked", "--package", "reaperd"];

/// The distinct crates of `cargo tree --prefix none`, as `NAME VERSION`.
fn crates_in(tree: &str) -> BTreeSet<String> {
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some(format!("{} {}", words.next()?, words.next()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_counts_once_per_version() {
        let tree = "reaperd v0.1.0 (/src/reaper-user)\nsyn v2.0.1\nserde_derive v1.0.0 (proc-macro)\n\
                    syn v2.0.1 (*)\nsyn v1.0.9\n\n";
        let crates = crates_in(tree).into_iter().collect::<Vec<_>>();
        assert_eq!(
            crates,
            [
                "reaperd v0.1.0",
                "serde_derive v1.0.0",
                "syn v1.0.9",
                "syn v2.0.1"
            ]
        );
    }
}
