//! The transcript of docs/journeys/systemd.md.

use reaper_tests::journey::Journey;
use reaper_tests::machine::{Machine, units};

#[test]
fn an_administrator_runs_the_systems_daemon() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    // Where the package has it.
    let examples = "/usr/share/doc/reaperd/examples/50-metrics.conf";
    let example = std::fs::read_to_string(units().join("50-metrics.conf")).unwrap();
    machine.write(examples, &example);
    let journey = Journey::read("systemd.md");
    let output = machine.try_run(&["bash", "-c", &journey.script()]);
    journey.check(&String::from_utf8(output.stdout).unwrap());
}
