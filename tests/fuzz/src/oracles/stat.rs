//! Lines of `/proc/PID/stat`. A process chooses its name, so the fields behind it must be read alike
//! for every name; `procfs` is the second parser.

use procfs::FromRead as _;
use procfs::process::Stat;
use reaper_registry::StartTime;

use reaperd::fuzzing::{MalformedStat, ProcStat, stat, wait_status};

use super::Choices;

const KERNEL_THREAD: u32 = 0x0020_0000;
const EXITING: u32 = 0x4;

/// Any bytes as a line, as a name in a line, and as the fields behind a name.
pub fn stat_line(bytes: &[u8]) {
    as_they_are(bytes);
    as_a_name(bytes);
    let cut = bytes.iter().position(|byte| *byte == b'\n');
    let (name, fields) = bytes.split_at(cut.unwrap_or(bytes.len() / 2));
    as_fields(name, fields);
}

/// Everything that is read stands behind the last parenthesis, in decimal digits.
fn as_they_are(line: &[u8]) {
    let behind_name = line
        .rsplit(|byte| *byte == b')')
        .next()
        .filter(|tail| tail.len() < line.len());
    let text = String::from_utf8_lossy(behind_name.unwrap_or_default());
    let fields: Vec<_> = text.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    if let Ok(stat) = stat(line) {
        assert_eq!(number(19), Some(stat.start_time.0));
        let threads = number(17).expect("a number was read");
        assert_eq!(u64::from(stat.threads), threads.min(u32::MAX.into()));
        // A zombie or released, or exiting without memory.
        let is_exiting = number(6).is_some_and(|flags| flags & u64::from(EXITING) != 0);
        assert_eq!(
            stat.main_thread_ended,
            matches!(fields[0], "Z" | "X" | "x") || is_exiting && number(20) == Some(0)
        );
    } else {
        assert!([6, 17, 19, 20].iter().any(|at| number(*at).is_none()));
    }
    assert_eq!(
        wait_status(line),
        number(49)
            .and_then(|status| status.try_into().ok())
            .ok_or(MalformedStat)
    );
}

fn as_a_name(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let state = b"RSDZXxTtIW"[choices.below(10) as usize];
    let (flags, threads, status) = (choices.word(), choices.word() >> 1, choices.word() >> 1);
    let start_ticks = choices.long();
    // As long as a kernel worker's; the name of a program is cut at 15 bytes.
    let name = &bytes[..bytes.len().min(64)];
    let fields = format!(
        " 1 42 42 0 -1 {flags} 100 0 0 0 1 2 0 0 20 0 {threads} 0 {start_ticks} 2000000 300 \
         18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 {status}\n"
    );
    let line = [b"42 (", name, b") ", &[state], fields.as_bytes()].concat();
    let expected = ProcStat {
        start_time: StartTime(start_ticks),
        main_thread_ending: flags & EXITING != 0,
        main_thread_ended: b"ZXx".contains(&state),
        threads,
        kernel_thread: flags & KERNEL_THREAD != 0,
    };
    assert_eq!(stat(&line), Ok(expected));
    assert_eq!(wait_status(&line), Ok(status));
    let second = Stat::from_read(&line[..]).expect("procfs reads the line too");
    assert_eq!(second.starttime, expected.start_time.0);
    assert_eq!(second.num_threads, i64::from(expected.threads));
    assert_eq!((second.state, second.flags), (char::from(state), flags));
    assert_eq!(second.exit_code.map(i32::cast_unsigned), Some(status));
}

/// The name does not change how the fields are read.
fn as_fields(name: &[u8], fields: &[u8]) {
    let [named, plain] = [name, b"sh"].map(|name| [b"42 (", name, b") ", fields].concat());
    assert_eq!(stat(&named), stat(&plain));
    assert_eq!(wait_status(&named), wait_status(&plain));
}
