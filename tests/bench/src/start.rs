//! The time until a started daemon serves.

use std::io;

use reaperd::testkit::clock::monotonic_ns;

use crate::Plan;
use crate::daemon::Daemon;
use crate::measure::Readings;
use crate::report::{Row, Section, time};

pub(crate) fn measure(plan: &Plan) -> io::Result<Section> {
    let (mut without, mut with, mut probe) = <(Readings, Readings, Readings)>::default();
    let starts = plan.rounds * 2;
    for _ in 0..starts {
        let began = monotonic_ns();
        let daemon = Daemon::start(&["--sources=netlink,pidfd,sweep"])?;
        without.push_ns(monotonic_ns() - began);
        drop(daemon);

        let began = monotonic_ns();
        let daemon = Daemon::start(&[])?;
        with.push_ns(monotonic_ns() - began);
        daemon.wait_for("ebpf")?;
        probe.push_ns(monotonic_ns() - began);
    }
    let row = |what: &str, readings: &Readings| {
        Row::new(what, time(readings.median())).beside(format!(
            "fastest {}, slowest {}",
            time(readings.quantile(1)),
            time(readings.max())
        ))
    };
    let rows = vec![
        row("ready, netlink + pidfd + sweep", &without).target("< 50 ms", without.median() < 50e6),
        row("ready, all sources", &with).target("< 150 ms", with.median() < 150e6),
        row("the probe is up", &probe),
    ];
    Ok(Section {
        title: "Start",
        method: format!(
            "{starts} starts each, interleaved; from before the process is spawned to the first 200 on \
             /v1/version (polled four times a millisecond), and until /v1/sources reports the probe to be up"
        ),
        rows,
    })
}
