//! `--profile claudemesh`, by a client in JavaScript that does what the claudemesh CLI does. Its files start
//! daemons themselves, because they stop, kill and restart them.

use reaper_tests::daemon::reaperd;

use crate::Script;

fn run(name: &str) {
    if let Some(script) = Script::of("node", "node", name) {
        script.env("REAPERD", reaperd()).run();
    }
}

#[test]
fn the_launch_sequence_registers_a_session_that_ends_with_the_launcher() {
    run("launch.test.mjs");
}

#[test]
fn kept_connections_are_reused_around_the_announced_time() {
    run("keep_alive.test.mjs");
}

#[test]
fn every_route_answers_with_the_text_that_its_clients_read() {
    run("routes.test.mjs");
}

#[test]
fn subscribers_come_back_after_every_end_of_the_daemon() {
    run("events.test.mjs");
}

#[test]
fn over_tcp_the_bearer_is_presented_and_a_session_never() {
    run("tcp.test.mjs");
}

#[test]
fn files_that_others_take_away_come_back() {
    run("recovery.test.mjs");
}

#[test]
fn pid_1_of_a_pid_namespace_registers_itself() {
    run("pid_one.test.mjs");
}
