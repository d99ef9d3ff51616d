//! Checks that `/proc` is that of our pid namespace. Called before anything is read there about
//! another process. Reads through `/proc/self` need no such check, because the kernel resolves that
//! link, and it is absent where we have no pid.
//!
//! The line `NSpid` of `/proc/self/status` has our pids from the namespace of the mount down to our
//! own (proc(5), and `task_state` in [`fs/proc/array.c`]): exactly one in our own `/proc`, more in
//! an ancestor's. In any other there is no `/proc/self`.
//!
//! [`fs/proc/array.c`]: https://elixir.bootlin.com/linux/v6.12/source/fs/proc/array.c

use std::fs;
use std::io;
use std::sync::OnceLock;

use rustix::fs::statfs;

use super::foreign_proc::ForeignProc;

/// `PROC_SUPER_MAGIC` of the kernel's `include/uapi/linux/magic.h`.
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Fails with [`ForeignProc`] if the entries are another namespace's, and with the read error if
/// that cannot be found out. Only a definite result is cached: the pid namespace of a process never
/// changes.
pub(crate) fn check() -> io::Result<()> {
    static IS_OWN: OnceLock<bool> = OnceLock::new();
    let is_own = if let Some(known) = IS_OWN.get() {
        *known
    } else {
        let found = read()?;
        *IS_OWN.get_or_init(|| found)
    };
    if is_own {
        Ok(())
    } else {
        Err(ForeignProc.into())
    }
}

fn read() -> io::Result<bool> {
    match fs::read("/proc/self/status") {
        Ok(status) => Ok(is_ours(&status, std::process::id())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // No `/proc` at all, or one in which we have no pid.
            match statfs("/proc") {
                Ok(mount) if mount.f_type == PROC_SUPER_MAGIC => Ok(false),
                Ok(_) | Err(_) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// Kernels without pid namespaces, and those before 4.1, have no line `NSpid`. `Pid` is the pid in
/// the namespace of the mount.
fn is_ours(status: &[u8], own: u32) -> bool {
    let numbers = |name: &str| {
        let mut lines = status.split(|byte| *byte == b'\n');
        let line = lines.find_map(|line| line.strip_prefix(name.as_bytes()))?;
        let words = str::from_utf8(line).ok()?.split_whitespace();
        words
            .map(|word| word.parse().ok())
            .collect::<Option<Vec<u32>>>()
    };
    numbers("NSpid:").or_else(|| numbers("Pid:")) == Some(vec![own])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_namespace_shows_exactly_one_pid_and_it_is_ours() {
        for (lines, expected) in [
            ("Pid:\t42\nNSpid:\t42\n", true),
            // An ancestor's, where our pid is another, or by chance the same.
            ("Pid:\t917\nNSpid:\t917\t42\n", false),
            ("Pid:\t42\nNSpid:\t42\t42\n", false),
            ("Pid:\t7\nNSpid:\t7\t9\t42\n", false),
            // Another process's record.
            ("Pid:\t43\nNSpid:\t43\n", false),
            // No pid namespaces in this kernel.
            ("Pid:\t42\nPPid:\t1\n", true),
            ("Pid:\t43\nPPid:\t42\n", false),
            ("NSpid:\nPid:\t42\n", false),
            ("PPid:\t42\n", false),
            ("", false),
        ] {
            // A name may be any bytes but a line's end.
            let status = [b"Name:\t\xffNSpid:\t42\n", lines.as_bytes()].concat();
            assert_eq!(is_ours(&status, 42), expected, "{lines:?}");
        }
    }

    #[test]
    fn the_proc_of_this_test_is_its_own() {
        check().unwrap();
    }
}
