//! A separate apt configuration: lists, sources and cache in a work folder. Its sources are those of the
//! machine with other suite names. The machine's lists are not changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow, bail};

/// The time limit of one call of apt, in seconds: a package has 30 MB, a list 10 MB.
const APT_TIMEOUT: &str = "240";

/// Uses only the keys and proxies of the machine's configuration.
pub(super) struct Apt<'work> {
    work: &'work Path,
}

impl<'work> Apt<'work> {
    pub(super) fn new(work: &'work Path, suites: &[&str]) -> anyhow::Result<Self> {
        for folder in ["lists/partial", "archives/partial", "sources"] {
            fs::create_dir_all(work.join(folder))?;
        }
        let (old_form, new_form) = private_sources(suites)?;
        fs::write(work.join("sources/private.list"), old_form)?;
        fs::write(work.join("sources/private.sources"), new_form)?;
        let at = work.display();
        let config = format!(
            "Dir::State::Lists \"{at}/lists\";\nDir::State::status \"/dev/null\";\n\
             Dir::Etc::SourceList \"/dev/null\";\nDir::Etc::SourceParts \"{at}/sources\";\n\
             Dir::Cache \"{at}\";\nAPT::Sandbox::User \"\";\nAcquire::Retries \"1\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             Acquire::Languages \"none\";\nAPT::Update::Error-Mode \"any\";\n\
             #clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
        );
        fs::write(work.join("apt.conf"), config)?;
        Ok(Self { work })
    }

    /// Runs a program of apt with a time limit; retries once if it fails.
    pub(super) fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        self.try_run(program, args)
            .or_else(|_first| self.try_run(program, args))
    }

    fn try_run(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("timeout")
            .current_dir(self.work)
            .args([APT_TIMEOUT, program, "--quiet", "--config-file", "apt.conf"])
            .args(args)
            .output()
            .context(program.to_owned())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = errors
            .lines()
            .rev()
            .find(|line| line.starts_with("E: "))
            .unwrap_or("no error message");
        Err(anyhow!("{program} {}: {}: {last}", args[0], output.status))
    }
}

/// Returns the machine's Debian sources with other suite names, in both formats of apt.
fn private_sources(suites: &[&str]) -> anyhow::Result<(String, String)> {
    let os_release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let codename = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release has no VERSION_CODENAME")?;
    let mut old_form = String::new();
    let mut new_form = String::new();
    for path in source_files() {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        if path
            .extension()
            .is_some_and(|extension| extension == "sources")
        {
            new_form += &stanzas(&text, codename, suites);
        } else {
            old_form += &one_lines(&text, codename, suites);
        }
    }
    if old_form.is_empty() && new_form.is_empty() {
        bail!("no apt source for {codename}; use --kernel-image instead");
    }
    Ok((old_form, new_form))
}

fn source_files() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let folder = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten();
    let known = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| extension == "sources" || extension == "list")
    };
    files.extend(folder.map(|entry| entry.path()).filter(known));
    files
}

/// Converts sources in deb822 format: a stanza for the machine's release gets the wanted suites of the
/// same archive.
fn stanzas(text: &str, codename: &str, suites: &[&str]) -> String {
    let mut result = String::new();
    for stanza in text.split("\n\n") {
        let own = stanza.lines().find_map(|line| line.strip_prefix("Suites:"));
        let wanted = suites_of_same_archive(own.unwrap_or_default(), codename, suites);
        if wanted.is_empty() {
            continue;
        }
        for line in stanza.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with("Suites:") {
                result += &format!("Suites: {}\n", wanted.join(" "));
            } else {
                result += &format!("{line}\n");
            }
        }
        result += "\n";
    }
    result
}

/// Converts sources in one-line format: `deb [options] URI SUITE COMPONENT..`.
fn one_lines(text: &str, codename: &str, suites: &[&str]) -> String {
    let mut result = String::new();
    for line in text.lines().filter(|line| line.starts_with("deb ")) {
        let words: Vec<_> = line.split_whitespace().collect();
        let Some(at) = words
            .iter()
            .position(|word| word.contains("://"))
            .map(|uri| uri + 1)
        else {
            continue;
        };
        let own = words.get(at).copied().unwrap_or_default();
        for suite in suites_of_same_archive(own, codename, suites) {
            let (head, tail) = (words[..at].join(" "), words[at + 1..].join(" "));
            result += &format!("{head} {suite} {tail}\n");
        }
    }
    result
}

/// Returns the wanted suites of the same archive as `own`: those in the security archive if `own` contains
/// the security suite of this release, those in the main archive if it contains the release.
fn suites_of_same_archive<'suite>(
    own: &str,
    codename: &str,
    suites: &[&'suite str],
) -> Vec<&'suite str> {
    let own: Vec<_> = own.split_whitespace().collect();
    let is_main = own.contains(&codename);
    let is_security = own
        .iter()
        .any(|suite| *suite == format!("{codename}-security"));
    let fits = |suite: &&&str| {
        if suite.ends_with("-security") {
            is_security
        } else {
            is_main
        }
    };
    suites.iter().filter(fits).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_suites_of_a_source_are_replaced() {
        let own = "Types: deb\n# a comment\nURIs: http://a/debian\nSuites: bookworm bookworm-updates\n\
                   Signed-By: /k\n\nTypes: deb\nURIs: http://a/sec\nSuites: bookworm-security\n";
        let derived = stanzas(own, "bookworm", &["bullseye", "bullseye-security"]);
        let expected = "Types: deb\nURIs: http://a/debian\nSuites: bullseye\nSigned-By: /k\n\n\
                        Types: deb\nURIs: http://a/sec\nSuites: bullseye-security\n\n";
        assert_eq!(derived, expected);
        let lines = one_lines(
            "deb [a=b] http://a/debian bookworm main x\n",
            "bookworm",
            &["sid"],
        );
        assert_eq!(lines, "deb [a=b] http://a/debian sid main x\n");
    }
}
