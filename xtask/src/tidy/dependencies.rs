//! Checks the manifests: which crate may depend on which, and that every member uses the workspace's
//! lints. Reads direct dependencies only; the WebAssembly check covers the indirect ones.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{command, output};

/// All dependencies that these crates may have, and why; optional and development ones are not limited.
const ALLOWED: &[(&str, &[&str], &str)] = &[
    (
        "reaper-registry",
        &["hashbrown", "secrecy", "siphasher", "thiserror", "zeroize"],
        "the registry has no I/O, clock, runtime or wire format",
    ),
    (
        "reaper-ebpf",
        &[],
        "the records are also compiled into the BPF programs",
    ),
];

/// The only crates of the workspace that the daemon may depend on.
const BELOW_THE_DAEMON: &[&str] = &["reaper-ebpf", "reaper-registry"];

pub(super) fn check(problems: &mut Vec<String>) -> Result<()> {
    let args = ["metadata", "--format-version", "1", "--no-deps", "--locked"];
    let metadata: Value = serde_json::from_str(&output(&mut command("cargo", &args)?)?)?;
    for package in list(&metadata, "packages") {
        check_dependencies(package, problems);
        let manifest = text(package, "manifest_path");
        let manifest_text = fs::read_to_string(manifest).with_context(|| manifest.to_owned())?;
        check_lints(text(package, "name"), &manifest_text, problems);
    }
    Ok(())
}

fn check_dependencies(package: &Value, problems: &mut Vec<String>) {
    let name = text(package, "name");
    for dependency in list(package, "dependencies") {
        let dependency_name = text(dependency, "name");
        let is_ours = !dependency["path"].is_null();
        let is_optional = dependency["optional"] == true;
        if dependency["kind"] == "dev" {
            continue;
        }
        for (crate_name, allowed, why) in ALLOWED {
            if name == *crate_name && !is_optional && !allowed.contains(&dependency_name) {
                problems.push(format!(
                    "{name} must not depend on {dependency_name}: {why}"
                ));
            }
        }
        let points_up = name == "reaperd" && !BELOW_THE_DAEMON.contains(&dependency_name);
        if is_ours && (points_up || dependency_name == "xtask") {
            problems.push(format!(
                "{name} must not depend on {dependency_name}: dependencies must point one way, \
                 so that each crate can be read without the ones above it"
            ));
        }
    }
}

fn check_lints(name: &str, manifest: &str, problems: &mut Vec<String>) {
    let mut lines = manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "[lints]")
        .skip(1);
    if lines.next() != Some("workspace = true") {
        problems.push(format!(
            "{name}: Cargo.toml lacks `[lints] workspace = true`, so no lint applies to the crate"
        ));
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(name: &str, dependency: &Value) -> usize {
        let mut problems = Vec::new();
        let package = json!({ "name": name, "dependencies": [dependency] });
        check_dependencies(&package, &mut problems);
        problems.len()
    }

    #[test]
    fn the_registry_may_depend_on_listed_crates_only() {
        for forbidden in ["tokio", "libc", "nix", "rustix", "serde", "procfs"] {
            assert_eq!(
                problems("reaper-registry", &json!({ "name": forbidden })),
                1
            );
        }
        assert_eq!(
            problems("reaper-registry", &json!({ "name": "secrecy" })),
            0
        );
        assert_eq!(
            problems(
                "reaper-registry",
                &json!({ "name": "proptest", "kind": "dev" })
            ),
            0
        );
        assert_eq!(problems("reaperd", &json!({ "name": "tokio" })), 0);
    }

    #[test]
    fn reaper_ebpf_may_have_optional_dependencies_only() {
        assert_eq!(problems("reaper-ebpf", &json!({ "name": "aya-ebpf" })), 1);
        assert_eq!(
            problems(
                "reaper-ebpf",
                &json!({ "name": "aya-ebpf", "optional": true })
            ),
            0
        );
    }

    #[test]
    fn dependencies_point_one_way() {
        let ours = |name| json!({ "name": name, "path": "somewhere" });
        assert_eq!(problems("reaperd", &ours("reaper-tests")), 1);
        assert_eq!(problems("reaperd", &ours("reaper-registry")), 0);
        assert_eq!(problems("reaper-tests", &ours("xtask")), 1);
        assert_eq!(problems("reaper-tests", &ours("reaperd")), 0);
    }

    #[test]
    fn a_member_without_the_lints_is_a_breach() {
        let count = |manifest| {
            let mut problems = Vec::new();
            check_lints("a", manifest, &mut problems);
            problems.len()
        };
        assert_eq!(
            count("[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"),
            0
        );
        assert_eq!(count("[package]\nname = \"a\"\n"), 1);
        assert_eq!(count("[lints]\nworkspace = false\n"), 1);
    }
}
