//! `cargo xtask api`: the public API of the three libraries as text, in `docs/api/`. A change of the
//! API changes a file there, so that it is seen in review.

use std::fs;

use anyhow::{Context, Result, bail};
use public_api::{Builder, MINIMUM_NIGHTLY_RUST_VERSION};

use crate::command::{command, repo_root, run as execute};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Replace the files instead of comparing them
    #[arg(long)]
    write: bool,
}

/// The packages, and the features whose items are public.
const PACKAGES: &[(&str, &[&str])] = &[
    ("reaper-registry", &[]),
    ("reaper-ebpf", &[]),
    (
        "reaperd",
        &["--no-default-features", "--features", "ebpf,client"],
    ),
];
const FOLDER: &str = "docs/api";

pub(crate) fn check() -> Result<()> {
    run(&Args { write: false })
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut changed = Vec::new();
    for (package, features) in PACKAGES {
        let text = text_of(package, features)?;
        let name = format!("{FOLDER}/{package}.txt");
        let file = repo_root()?.join(&name);
        if args.write {
            fs::create_dir_all(repo_root()?.join(FOLDER))?;
            fs::write(&file, text).with_context(|| name)?;
            continue;
        }
        let checked_in = fs::read_to_string(&file).unwrap_or_default();
        if checked_in != text {
            changed.push(format!(
                "{name} is not the API of {package}:\n{}",
                difference(&checked_in, &text)
            ));
        }
    }
    if !changed.is_empty() {
        bail!(
            "{}\nrun `cargo xtask api --write`, and name the change in CHANGELOG.md",
            changed.join("\n")
        );
    }
    Ok(())
}

/// The items of the API, one a line. Reads the JSON of rustdoc, which is unstable: its version must be
/// the one that the crate `public-api` knows.
fn text_of(package: &str, features: &[&str]) -> Result<String> {
    let mut rustdoc = command(
        "cargo",
        &["rustdoc", "--locked", "--lib", "--package", package],
    )?;
    rustdoc
        .args(features)
        .args(["--target-dir", "target/api", "--", "--cap-lints", "allow"])
        .args(["-Z", "unstable-options", "--output-format", "json"])
        .env("RUSTC_BOOTSTRAP", "1");
    execute(&mut rustdoc)?;
    let json = format!("target/api/doc/{}.json", package.replace('-', "_"));
    let api = Builder::from_rustdoc_json(repo_root()?.join(json))
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .build()
        .with_context(|| {
            format!(
                "the compiler's rustdoc JSON has another version than that of the crate public-api \
                 in xtask/Cargo.toml (which fits {MINIMUM_NIGHTLY_RUST_VERSION})"
            )
        })?;
    let lines: Vec<_> = api.items().map(ToString::to_string).collect();
    Ok(lines.join("\n") + "\n")
}

/// The lines that only one of the two has.
fn difference(old: &str, text: &str) -> String {
    let only_in = |one: &str, other: &str, sign: char| {
        let other: std::collections::BTreeSet<_> = other.lines().collect();
        let lines = one.lines().filter(|line| !other.contains(line));
        lines.map(|line| format!("{sign} {line}")).collect()
    };
    let changes: [Vec<_>; 2] = [only_in(old, text, '-'), only_in(text, old, '+')];
    changes.concat().join("\n")
}
