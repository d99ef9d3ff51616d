//! Decodes `/proc/PID/stat`: safe code over bytes, because the process controls part of them.

use reaper_registry::{Pid, StartTime};

use super::process_table::ProcStat;

/// `PF_KTHREAD` and `PF_EXITING` of the kernel's `include/linux/sched.h`, in the flags field. The
/// latter is set on entry to the exit path, before the thread is removed from its process's count.
const KERNEL_THREAD: u64 = 0x0020_0000;
const EXITING: u64 = 0x4;

// Positions after the command name: field 3 of proc_pid_stat(5), the state, is the first.
const STATE: usize = 0;
const FLAGS: usize = 9 - 3;
const THREADS: usize = 20 - 3;
const START_TIME: usize = 22 - 3;
const VIRTUAL_SIZE: usize = 23 - 3;
const WAIT_STATUS: usize = 52 - 3;

/// The line is not in the kernel's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed stat line")]
pub struct Malformed;

/// Returns whether the line is about this process or thread, which does not follow from the path. A
/// look-up of `task/TID` during a worker's exec binds the path to the main thread
/// (`proc_task_lookup` in [`fs/proc/base.c`] finds the task and takes its pid later). The path
/// stays bound to it, even once another thread has that id.
///
/// [`fs/proc/base.c`]: https://elixir.bootlin.com/linux/v6.12/source/fs/proc/base.c
pub(crate) fn is_of(line: &[u8], id: Pid) -> bool {
    let own = line.split(u8::is_ascii_whitespace).next();
    number(own) == Ok(u64::from(id.get()))
}

/// Decodes one line.
///
/// A thread has ended once it is a zombie or released, or earlier: once it is exiting and has given
/// up its memory. `do_task_stat` in [`fs/proc/array.c`] reads the memory, then the count of
/// threads, then the flags. So a line of an exiting thread without memory and with a count of one
/// is about a process that had no other thread when it gave up its memory, and such a thread starts
/// no other.
///
/// [`fs/proc/array.c`]: https://elixir.bootlin.com/linux/v6.12/source/fs/proc/array.c
pub fn stat(line: &[u8]) -> Result<ProcStat, Malformed> {
    let fields = fields(line)?;
    let flags = number(fields.clone().nth(FLAGS))?;
    let is_zombie = matches!(fields.clone().nth(STATE), Some(b"Z" | b"X" | b"x"));
    let has_memory = number(fields.clone().nth(VIRTUAL_SIZE))? != 0;
    Ok(ProcStat {
        start_time: StartTime(number(fields.clone().nth(START_TIME))?),
        main_thread_ending: flags & EXITING != 0,
        main_thread_ended: is_zombie || flags & EXITING != 0 && !has_memory,
        threads: number(fields.clone().nth(THREADS))?
            .try_into()
            .unwrap_or(u32::MAX),
        kernel_thread: flags & KERNEL_THREAD != 0,
    })
}

/// Returns whether the thread of this line has ended and waits to be reaped. One that is being
/// released (state X) does not wait. It may be the main thread that a worker's exec has replaced,
/// under the worker's id (`de_thread` in [`fs/exec.c`] swaps the ids and sets the state at once).
///
/// [`fs/exec.c`]: https://elixir.bootlin.com/linux/v6.12/source/fs/exec.c
pub(crate) fn awaits_reaping(line: &[u8]) -> Result<bool, Malformed> {
    let is_released = matches!(fields(line)?.nth(STATE), Some(b"X" | b"x"));
    Ok(stat(line)?.main_thread_ended && !is_released)
}

/// Decodes the wait status, which is meaningful only once the process has ended. It reads as zero
/// without permission.
pub fn wait_status(line: &[u8]) -> Result<u32, Malformed> {
    number(fields(line)?.nth(WAIT_STATUS))?
        .try_into()
        .map_err(|_too_large| Malformed)
}

/// Returns the fields after the command name. The name is in parentheses and may contain
/// parentheses, blanks and line ends, so only the last `)` ends it.
fn fields(line: &[u8]) -> Result<impl Iterator<Item = &[u8]> + Clone, Malformed> {
    let end = line
        .iter()
        .rposition(|byte| *byte == b')')
        .ok_or(Malformed)?;
    Ok(line[end + 1..]
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty()))
}

fn number(field: Option<&[u8]>) -> Result<u64, Malformed> {
    str::from_utf8(field.ok_or(Malformed)?)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(name: &str, state: char, threads: u32) -> Vec<u8> {
        format!(
            "42 ({name}) {state} 1 42 42 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 {threads} 0 267034 \
             2000000 300 18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 \
             0 768\n"
        )
        .into_bytes()
    }

    #[test]
    fn a_name_may_contain_parentheses() {
        for name in ["sh", "a) Z 1 (b", "x y\nz)", ")", ""] {
            let stat = stat(&line(name, 'S', 3)).unwrap();
            assert_eq!(stat.start_time, StartTime(267_034), "{name:?}");
            assert_eq!(
                (stat.main_thread_ended, stat.threads),
                (false, 3),
                "{name:?}"
            );
            assert_eq!(wait_status(&line(name, 'Z', 1)), Ok(768));
        }
    }

    #[test]
    fn a_zombie_with_threads_has_not_ended() {
        assert!(!stat(&line("leader", 'Z', 3)).unwrap().all_ended());
        assert!(stat(&line("leader", 'Z', 1)).unwrap().all_ended());
    }

    #[test]
    fn kernel_threads_are_recognised() {
        let mut text = String::from_utf8(line("kworker", 'S', 1)).unwrap();
        assert!(!stat(text.as_bytes()).unwrap().kernel_thread);
        text = text.replace("4194304", "2129984");
        assert!(stat(text.as_bytes()).unwrap().kernel_thread);
    }

    #[test]
    fn an_exiting_thread_is_recognised_before_it_has_ended() {
        let mut text = String::from_utf8(line("sh", 'R', 1)).unwrap();
        assert!(!stat(text.as_bytes()).unwrap().main_thread_ending);
        text = text.replace("4194304", "4194308");
        let exiting = stat(text.as_bytes()).unwrap();
        assert!(exiting.main_thread_ending && !exiting.main_thread_ended);
        text = text.replace(" 2000000 300 ", " 0 0 ");
        let without_memory = stat(text.as_bytes()).unwrap();
        assert!(without_memory.all_ended());
        // A kernel thread has no memory either.
        text = text.replace("4194308", "4194304");
        assert!(!stat(text.as_bytes()).unwrap().main_thread_ended);
    }

    #[test]
    fn a_record_of_another_id_is_recognised() {
        let is_of = |id| is_of(&line("sh", 'S', 1), Pid::new(id).unwrap());
        assert!(is_of(42) && !is_of(4) && !is_of(421));
        assert!(!super::is_of(b"", Pid::new(42).unwrap()));
    }

    #[test]
    fn a_thread_that_is_being_released_does_not_await_reaping() {
        for (state, expected) in [('Z', true), ('X', false), ('S', false)] {
            assert_eq!(
                awaits_reaping(&line("sh", state, 2)),
                Ok(expected),
                "{state}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _either = (stat(&bytes).is_ok(), wait_status(&bytes).is_ok());
        }

        #[test]
        fn a_truncated_line_is_an_error_or_complete(cut in 0usize..200) {
            let whole = line("sh", 'S', 1);
            let cut = cut.min(whole.len());
            if let Ok(stat) = stat(&whole[..cut]) {
                // Cut within the last field that is read, it parses as a smaller number.
                prop_assert!(stat.start_time.0 <= 267_034);
            }
        }
    }
}
