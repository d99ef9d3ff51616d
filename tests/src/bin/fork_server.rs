//! The fork server of the stress tests, and two subcommands that run a program under limits
//! (`reaper_tests::confined`) and in a time namespace (`reaper_tests::time_namespace`).

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use reaper_tests::{confined, fork_server, time_namespace};

    let mut arguments = std::env::args().skip(1);
    let outcome = match arguments.next().as_deref() {
        Some(confined::COMMAND) => confined::enter(arguments).map(|()| ExitCode::SUCCESS),
        Some(time_namespace::COMMAND) => time_namespace::enter(arguments),
        first => {
            fork_server::run(first == Some(fork_server::KEEP_ZOMBIES)).map(|()| ExitCode::SUCCESS)
        }
    };
    match outcome {
        Ok(code) => code,
        // The caller sees the end of the pipe, and the errno as exit code.
        Err(error) => ExitCode::from(
            error
                .raw_os_error()
                .and_then(|number| u8::try_from(number).ok())
                .unwrap_or(u8::MAX),
        ),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
