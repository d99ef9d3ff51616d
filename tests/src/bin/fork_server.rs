//! The fork server of the suite `toll`, and the ways into a confinement and into a time namespace, in
//! which tests start the daemon. What the fork server does is in `reaper_tests::fork_server`, the others are
//! in `reaper_tests::confined` and `reaper_tests::time_namespace`.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use reaper_tests::{confined, fork_server, time_namespace};

    let mut words = std::env::args().skip(1);
    let outcome = match words.next().as_deref() {
        Some(confined::COMMAND) => confined::enter(words).map(|()| ExitCode::SUCCESS),
        Some(time_namespace::COMMAND) => time_namespace::enter(words),
        first => {
            fork_server::run(first == Some(fork_server::KEEP_ZOMBIES)).map(|()| ExitCode::SUCCESS)
        }
    };
    match outcome {
        Ok(code) => code,
        // Whoever waits for an answer sees the end of the pipe, and the number of the error.
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
