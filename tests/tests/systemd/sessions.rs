//! A thousand sessions, of which a hundred die while the daemon is away.

use reaper_tests::machine::Machine;
use reaper_tests::wait::eventually;

const SESSIONS: usize = 1_000;
const DYING: usize = 100;
/// Whether the daemon keeps its sessions over an end of both processes. If it does, every live session is
/// resolved by its former token afterwards, and the others are gone.
const CARRIED_OVER: bool = true;

/// Starts sleeping processes, registers each with its number as the token, and prints their pids.
const REGISTER: &str = r#"
use strict; use warnings; use Socket;
my ($count, $path) = @ARGV;
socket(my $daemon, PF_UNIX, SOCK_STREAM, 0) or die $!;
connect($daemon, sockaddr_un($path)) or die $!;
$SIG{CHLD} = 'IGNORE';
for my $number (1 .. $count) {
    my $pid = fork() // die $!;
    if ($pid == 0) { open STDOUT, '>', '/dev/null'; open STDERR, '>', '/dev/null'; exec 'sleep', '1000'; }
    my $body = sprintf('{"token":"%064x","session_id":"s-%d","mesh":"m","display_name":"n","pid":%d}', $number, $number, $pid);
    syswrite $daemon, "POST /v1/sessions/register HTTP/1.1\r\nHost: localhost\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
    sysread $daemon, my $answer, 65536;
    $answer =~ m{^HTTP/1.1 200} or die $answer;
    print "$pid\n";
}
"#;

/// The number of sessions that the daemon has, and of those that are resolved by their tokens.
fn live(machine: &Machine) -> (usize, Vec<usize>) {
    let resolved = (1..=SESSIONS).filter(|number| {
        let field = format!("Authorization: ClaudeMesh-Session {number:064x}\r\n");
        let answer = machine.request("GET /v1/sessions/me", &field);
        answer.unwrap().0 == 200
    });
    let resolved = resolved.collect();
    let listed = machine.run(&["reaperd", "ls"]);
    (listed.lines().count(), resolved)
}

/// Registers, ends the daemon by `end` with a hundred of the processes, and checks what is left.
fn survive(machine: &Machine, end: impl FnOnce()) {
    machine.start("reaperd.service");
    let pids = machine.run(&[
        "perl",
        "-e",
        REGISTER,
        &SESSIONS.to_string(),
        "/run/reaperd/reaperd.sock",
    ]);
    let pids: Vec<_> = pids.lines().collect();
    assert_eq!(pids.len(), SESSIONS);
    assert_eq!(live(machine), (SESSIONS, (1..=SESSIONS).collect()));
    let main = machine.property("reaperd.service", "MainPID");
    end();
    machine.run(&[
        "sh",
        "-c",
        &format!("kill -KILL {}", pids[..DYING].join(" ")),
    ]);
    eventually("another daemon serves", || {
        machine.property("reaperd.service", "MainPID") != main
            && machine.property("reaperd.service", "ActiveState") == "active"
    });
    let expected: Vec<_> = if CARRIED_OVER {
        (DYING + 1..=SESSIONS).collect()
    } else {
        Vec::new()
    };
    eventually("the dead sessions are gone", || {
        live(machine) == (expected.len(), expected.clone())
    });
}

#[test]
fn sessions_over_a_restart() {
    if let Some(machine) = Machine::boot() {
        survive(&machine, || {
            machine.run(&["systemctl", "restart", "--no-block", "reaperd.service"]);
        });
    }
}

#[test]
fn sessions_over_a_kill_of_both_processes() {
    if let Some(machine) = Machine::boot() {
        survive(&machine, || {
            machine.run(&["systemctl", "kill", "--signal=KILL", "reaperd.service"]);
        });
        let restarts = machine.property("reaperd.service", "NRestarts");
        assert_eq!(restarts, "1");
    }
}
