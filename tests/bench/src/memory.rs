//! What a session costs the daemon in resident memory.

use std::io;

use crate::Plan;
use crate::daemon::{Daemon, registration};
use crate::fork_server::{self, idle};
use crate::load::{Until, closed_loop};
use crate::measure::{count, float, resident, token};
use crate::report::{Row, Section};
use fastrand::Rng;

const SESSIONS: usize = 100_000;
const PROCESSES: usize = 8;

pub(crate) fn measure(_plan: &Plan) -> io::Result<Section> {
    let daemon = Daemon::start(&[
        "--max-sessions=200000",
        "--max-sessions-per-uid=200000",
        "--max-bytes-per-uid=512MiB",
        "--sources=pidfd,netlink",
    ])?;
    let mut fork_server = fork_server::open()?;
    let pids = fork_server.start(PROCESSES, idle(0))?;
    let mut random = Rng::with_seed(7);
    let mut number = 0;
    let idle = resident(daemon.pid())?;
    let outcome = closed_loop(daemon.socket(), 16, &Until::Requests(SESSIONS), |out| {
        // As long as a UUID.
        let id = format!("{number:08x}-0000-4000-8000-000000000000");
        let request = registration(pids[number % PROCESSES], &id, &token(&mut random));
        out.extend_from_slice(request.as_bytes());
        number += 1;
    })?;
    let full = resident(daemon.pid())?;
    let each = float(full.saturating_sub(idle)) / count(outcome.requests);
    let megabytes = |bytes: u64| format!("{:.1} MiB", float(bytes) / f64::from(1 << 20));
    let binary = std::fs::metadata(reaper_tests::daemon::reaperd())?.len();
    let rows = vec![
        Row::new("RSS a session", format!("{each:.0} bytes"))
            .beside(format!(
                "{} before, {} after; the claudemesh daemon: 1.3 KB",
                megabytes(idle),
                megabytes(full)
            ))
            .target("< 1 KiB", each < 1_024.0),
        Row::new("packaged binary", megabytes(binary)).target("< 10 MiB", binary < 10 << 20),
    ];
    Ok(Section {
        title: "Memory and size",
        method: format!(
            "{SESSIONS} sessions without presence (id 36, mesh 8, name 9, cwd 38, role 6 bytes, two groups) of \
             {PROCESSES} processes, registered over HTTP; VmRSS after less VmRSS before"
        ),
        rows,
    })
}
