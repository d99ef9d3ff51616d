//! Commands of every kind through `run`: each is registered, its children can read its token, the
//! session goes with it, and nothing is left in any folder.
//!
//! Some of each as it stands; `REAPER_TEST_SCALE=full` starts 200 of each and prints how many.

use std::os::unix::fs::symlink;
use std::sync::OnceLock;

use reaper_tests::daemon::children_of;
use reaper_tests::expect::{measured, skip};
use reaper_tests::scale::scaled;

use super::*;

/// How many launches of each kind.
fn count() -> usize {
    scaled(200, 5)
}

/// A kind of launch.
struct Row<'a> {
    name: &'a str,
    /// What stands in front of `reaperd run`.
    outside: &'a [&'a str],
    command: Vec<String>,
    folder: &'a Path,
    /// The command takes a cue, and the line that it prints then.
    cue: Option<&'a str>,
}

impl Row<'_> {
    fn launch(&self, harness: &Harness) {
        let words = [
            self.outside,
            &["env", reaperd().to_str().unwrap(), "run", "--"],
        ]
        .concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(&self.command);
        harness.surround(&mut command);
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
            // Started through a command that stays: the process is its child.
            let children = children_of(launched.child.id());
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
            assert!(children.contains(&pid), "{}: {children:?}", self.name);
            kill_process(pid, Signal::KILL).unwrap();
            launched.child.wait().unwrap();
        }
        eventually("the session ends", || !harness.daemon.accepts(&token));
        eventually("its file goes", || harness.files().is_empty());
    }

    fn play(&self, harness: &Harness) {
        for _ in 0..count() {
            self.launch(harness);
        }
        assert!(harness.daemon.list().is_empty(), "{}", self.name);
        measured(&format!("launches through run, {}", self.name), count());
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A shell that says which session it is and does this.
fn shell(then: &str) -> Vec<String> {
    words(&["sh", "-c", &format!("{SAY_TOKEN}; {then}")])
}

/// Whether `unshare` can do this here; why not is said as a skip.
fn can_unshare(arguments: &[&str]) -> bool {
    static OUTPUT: OnceLock<()> = OnceLock::new();
    let tried = Command::new("unshare").args(arguments).arg("true").output();
    match tried {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            OUTPUT.get_or_init(|| skip(String::from_utf8_lossy(&output.stderr)));
            false
        }
        Err(error) => {
            OUTPUT.get_or_init(|| skip(format_args!("unshare: {error}")));
            false
        }
    }
}

#[test]
fn a_program_whose_worker_thread_executes_another_keeps_its_session() {
    let harness = Harness::new();
    Row {
        name: "worker exec",
        outside: &[],
        command: shell("exec \"$REAPERD\" test-process worker-exec"),
        folder: Path::new("/"),
        cue: Some("ready "),
    }
    .play(&harness);
    harness.leaves_nothing();
}

#[test]
fn a_shell_that_uses_low_descriptors_for_itself_keeps_its_token() {
    let harness = Harness::new();
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "exec 3>lock 4>lock 5>lock 6>lock 7>lock 8>lock 9>lock; {SAY_TOKEN}; exec sleep 600"
    );
    Row {
        name: "shell with exec 9>",
        outside: &[],
        command: words(&["sh", "-c", &script]),
        folder: folder.path(),
        cue: None,
    }
    .play(&harness);
    harness.leaves_nothing();
}

#[test]
fn a_command_in_a_user_namespace_reads_its_token() {
    if !can_unshare(&["-Ur"]) {
        return;
    }
    let harness = Harness::new();
    let mut command = words(&["unshare", "-Ur"]);
    command.extend(shell("exec sleep 600"));
    Row {
        name: "user namespace",
        outside: &[],
        command,
        folder: Path::new("/"),
        cue: None,
    }
    .play(&harness);
    harness.leaves_nothing();
}

#[test]
fn a_long_name_in_a_folder_with_a_line_feed_is_launched() {
    let harness = Harness::new();
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("line\nfeed");
    fs::create_dir(&folder).unwrap();
    // 300 bytes of path, of which a name can have 255.
    let program = format!("./{}/{}", "d".repeat(46), "é".repeat(126));
    fs::create_dir(folder.join("d".repeat(46))).unwrap();
    symlink("/bin/sh", folder.join(&program)).unwrap();
    let mut command = shell("exec sleep 600");
    program.clone_into(&mut command[0]);
    assert_eq!(command[0].len(), 301);
    Row {
        name: "long name, odd folder",
        outside: &[],
        command,
        folder: &folder,
        cue: None,
    }
    .play(&harness);
    harness.leaves_nothing();
}

#[test]
fn the_first_process_of_a_pid_namespace_is_launched() {
    let outside = ["unshare", "-pf", "--kill-child", "--mount-proc"];
    if !can_unshare(&outside[1..]) {
        return;
    }
    let harness = Harness::new();
    Row {
        name: "process 1 of a pid namespace",
        outside: &outside,
        command: shell("exec sleep 600"),
        folder: Path::new("/"),
        cue: None,
    }
    .play(&harness);
    harness.leaves_nothing();
}
