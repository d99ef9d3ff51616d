//! Unusual commands through `run`: each is registered, its children can read its token, the session
//! ends with it, and no file is left behind.
//!
//! A bounded run starts a few of each kind; `REAPER_TEST_SCALE=full` starts 200. The number is
//! printed.

use std::os::unix::fs::symlink;

use reaper_tests::daemon::children_of;
use reaper_tests::expect::{measured, skip};
use reaper_tests::scale::scaled;

use super::*;

/// How many launches of each kind.
fn count() -> usize {
    scaled(200, 5)
}

/// A kind of launch.
struct LaunchKind<'a> {
    name: &'a str,
    command: Vec<String>,
    /// The words before `reaperd run`.
    prefix: &'a [&'a str],
    folder: &'a Path,
    /// For a command that waits for a cue: the start of the line that it prints before and after
    /// it.
    cue: Option<&'a str>,
}

impl<'a> LaunchKind<'a> {
    /// Without a prefix or a cue, in the root folder.
    fn new(name: &'a str, command: Vec<String>) -> Self {
        Self {
            name,
            command,
            prefix: &[],
            folder: Path::new("/"),
            cue: None,
        }
    }

    fn launch(&self, harness: &Harness) {
        let words = [
            self.prefix,
            &["env", reaperd().to_str().unwrap(), "run", "--"],
        ]
        .concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(&self.command);
        harness.set_environment(&mut command);
        let mut launched = Launched::start(command.current_dir(self.folder));
        let (token, id) = launched.session();
        assert!(harness.daemon.accepts(&token), "{}: {id}", self.name);
        if let Some(line) = self.cue {
            assert!(launched.line().starts_with(line), "{}", self.name);
            launched.cue();
            assert!(launched.line().starts_with(line), "{}", self.name);
            assert!(
                harness.daemon.accepts(&token),
                "{}: after the cue",
                self.name
            );
        }
        let list = harness.daemon.list();
        let session = list.iter().find(|session| session.session_id == id);
        let pid = session
            .unwrap_or_else(|| panic!("{}: {list:?}", self.name))
            .pid;
        if pid == launched.child.id() {
            launched.kill();
        } else {
            // The prefix stays as the parent of the process.
            let children = children_of(launched.child.id());
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
            assert!(children.contains(&pid), "{}: {children:?}", self.name);
            kill_process(pid, Signal::KILL).unwrap();
            launched.child.wait().unwrap();
        }
        eventually("the session ends", || !harness.daemon.accepts(&token));
        eventually("the token file is removed", || harness.files().is_empty());
    }

    fn run(&self) {
        let harness = Harness::new();
        for _ in 0..count() {
            self.launch(&harness);
        }
        assert!(harness.daemon.list().is_empty(), "{}", self.name);
        harness.leaves_nothing();
        measured(&format!("launches through run, {}", self.name), count());
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A shell that prints its session and then executes `then`.
fn shell(then: &str) -> Vec<String> {
    words(&["sh", "-c", &format!("{PRINT_SESSION}; {then}")])
}

/// Whether `unshare` works with these arguments. If not, skips with the reason.
fn can_unshare(arguments: &[&str]) -> bool {
    let tried = Command::new("unshare").args(arguments).arg("true").output();
    let reason = match tried {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => format!("unshare: {error}"),
    };
    skip(reason);
    false
}

#[test]
fn a_command_keeps_its_session_when_a_worker_thread_executes_a_program() {
    LaunchKind {
        cue: Some("ready "),
        ..LaunchKind::new(
            "worker exec",
            shell("exec \"$REAPERD\" test-process worker-exec"),
        )
    }
    .run();
}

#[test]
fn a_shell_that_redirects_low_descriptors_keeps_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "exec 3>lock 4>lock 5>lock 6>lock 7>lock 8>lock 9>lock; {PRINT_SESSION}; exec sleep 600"
    );
    LaunchKind {
        folder: folder.path(),
        ..LaunchKind::new("shell with exec 9>", words(&["sh", "-c", &script]))
    }
    .run();
}

#[test]
fn a_command_in_a_user_namespace_reads_its_token() {
    if !can_unshare(&["-Ur"]) {
        return;
    }
    let mut command = words(&["unshare", "-Ur"]);
    command.extend(shell("exec sleep 600"));
    LaunchKind::new("user namespace", command).run();
}

#[test]
fn a_long_name_in_a_folder_with_a_line_feed_is_launched() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("line\nfeed");
    fs::create_dir(&folder).unwrap();
    // A path of 301 bytes; each name in it may have at most 255.
    let program = format!("./{}/{}", "d".repeat(46), "é".repeat(126));
    fs::create_dir(folder.join("d".repeat(46))).unwrap();
    symlink("/bin/sh", folder.join(&program)).unwrap();
    let mut command = shell("exec sleep 600");
    program.clone_into(&mut command[0]);
    assert_eq!(command[0].len(), 301);
    LaunchKind {
        folder: &folder,
        ..LaunchKind::new("long name, odd folder", command)
    }
    .run();
}

#[test]
fn the_first_process_of_a_pid_namespace_is_launched() {
    let prefix = ["unshare", "-pf", "--kill-child", "--mount-proc"];
    if !can_unshare(&prefix[1..]) {
        return;
    }
    LaunchKind {
        prefix: &prefix,
        ..LaunchKind::new("process 1 of a pid namespace", shell("exec sleep 600"))
    }
    .run();
}
