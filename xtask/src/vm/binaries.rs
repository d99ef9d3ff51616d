//! Builds the programs of a guest and finds them in cargo's messages.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::matrix::{Role, SUITES, Suite};

/// The programs of a guest.
pub(crate) struct Built {
    pub(crate) daemon: PathBuf,
    pub(crate) init: PathBuf,
    pub(crate) fork_server: PathBuf,
    pub(crate) tests: Vec<TestBinary>,
}

/// A libtest binary, its name in verdicts, and the roles in which it runs.
pub(crate) struct TestBinary {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) roles: &'static [Role],
}

/// Builds the daemon, the init, the fork server and the suites of the matrix. If `wanted` is not empty, only
/// those suites; if `instead` is not empty, these test binaries replace the suites.
pub(crate) fn build(root: &Path, wanted: &[String], instead: &[PathBuf]) -> anyhow::Result<Built> {
    // The same build as README's test command, so that it is reused.
    let artifacts = cargo(root, &["test", "--release", "--no-run"])?;
    let program = |name: &str| find(&artifacts, name, false);
    let tests = if instead.is_empty() {
        suites(&artifacts, wanted)?
    } else {
        given(instead)?
    };
    Ok(Built {
        daemon: program("reaperd")?,
        init: program("vm-init")?,
        fork_server: program("fork_server")?,
        tests,
    })
}

fn suites(artifacts: &[Artifact], wanted: &[String]) -> anyhow::Result<Vec<TestBinary>> {
    for name in wanted {
        let is_known = SUITES.iter().any(|suite| suite.name == name.as_str());
        ensure!(is_known, "unknown suite {name}");
    }
    let binary = |suite: &Suite| {
        Ok(TestBinary {
            name: suite.name.to_owned(),
            path: find(artifacts, suite.name, true)?,
            roles: suite.roles,
        })
    };
    SUITES
        .iter()
        .filter(|suite| wanted.is_empty() || wanted.iter().any(|name| name == suite.name))
        .map(binary)
        .collect()
}

fn find(artifacts: &[Artifact], name: &str, is_test: bool) -> anyhow::Result<PathBuf> {
    artifacts
        .iter()
        .find(|artifact| artifact.name == name && artifact.is_test == is_test)
        .map(|artifact| artifact.path.clone())
        .with_context(|| format!("{name} was not built"))
}

fn given(paths: &[PathBuf]) -> anyhow::Result<Vec<TestBinary>> {
    let mut tests = Vec::new();
    for path in paths {
        let path = path
            .canonicalize()
            .with_context(|| path.display().to_string())?;
        let file = path
            .file_name()
            .and_then(|name| name.to_str())
            .context("no file name")?;
        tests.push(TestBinary {
            name: without_hash(file),
            path,
            roles: Role::ALL,
        });
    }
    Ok(tests)
}

struct Artifact {
    name: String,
    is_test: bool,
    path: PathBuf,
}

fn cargo(root: &Path, arguments: &[&str]) -> anyhow::Result<Vec<Artifact>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args(arguments)
        .args(["--quiet", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo")?;
    ensure!(
        output.status.success(),
        "cargo {}: {}",
        arguments.join(" "),
        output.status
    );
    let mut artifacts = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages")?;
        artifacts.extend(artifact(&message));
    }
    Ok(artifacts)
}

/// Returns the executable in a message of cargo, if it contains one.
fn artifact(message: &Value) -> Option<Artifact> {
    Some(Artifact {
        path: message.get("executable")?.as_str()?.into(),
        name: message.pointer("/target/name")?.as_str()?.to_owned(),
        is_test: message.pointer("/profile/test")?.as_bool()?,
    })
}

/// Returns `probe` for `probe-1b6e795807770095`.
fn without_hash(file: &str) -> String {
    match file.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 => name.to_owned(),
        _ => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let message = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"guest"},
            "profile":{"test":true},"executable":"/t/guest-1"}"#;
        let artifact = artifact(&serde_json::from_str(message).unwrap()).unwrap();
        assert_eq!((artifact.name.as_str(), artifact.is_test), ("guest", true));
        let library = r#"{"target":{"name":"x"},"profile":{"test":false},"executable":null}"#;
        assert!(super::artifact(&serde_json::from_str(library).unwrap()).is_none());
    }

    #[test]
    fn the_hash_of_cargo_is_removed_from_a_name() {
        assert_eq!(without_hash("guest-1b6e795807770095"), "guest");
        assert_eq!(without_hash("http-contract"), "http-contract");
    }
}
