//! The transcripts of docs/journeys that need nothing but a shell, each in a private folder. That of a server
//! with systemd is executed in the suite `systemd`.

use reaper_tests::daemon::private_folder;
use reaper_tests::expect::skip;
use reaper_tests::journey::Journey;

use super::*;

/// `cargo run --quiet --example NAME -- ARGUMENT...` by the built example.
const CARGO: &str = r#"
cargo() { local example=$4; shift 4; [ "$1" != -- ] || shift; "$EXAMPLES/$example" "$@"; }
"#;

fn check(name: &str) {
    let journey = Journey::read(name);
    let folder = private_folder();
    let path = std::env::var("PATH").unwrap();
    let program = reaperd().parent().unwrap();
    let output = Command::new("bash")
        .args(["-c", &format!("{CARGO}{}", journey.script())])
        .env("PATH", format!("{}:{path}", program.display()))
        .env("EXAMPLES", program.join("examples"))
        .env("XDG_RUNTIME_DIR", folder.path())
        .env("HOME", folder.path())
        .env_remove("REAPERD_SOCKET")
        .env_remove("RUST_LOG")
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    journey.check(&text.replace(folder.path().to_str().unwrap(), "$XDG_RUNTIME_DIR"));
}

#[test]
fn a_newcomer_sees_it_work() {
    check("newcomer.md");
}

#[test]
fn a_developer_registers_sessions() {
    check("developer.md");
}

#[test]
fn an_unprivileged_user_learns_what_is_missing() {
    check("container.md");
}

#[test]
fn a_rust_program_watches_processes_and_keeps_sessions() {
    let examples = reaperd().parent().unwrap().join("examples");
    if ["watch_pid", "session_daemon"]
        .iter()
        .any(|name| !examples.join(name).exists())
    {
        return skip("not built: cargo build --package reaperd --examples");
    }
    check("library.md");
}
