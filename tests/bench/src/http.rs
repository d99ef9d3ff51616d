//! Requests over the socket, beside a Node server that does the same lookup in a `Map`.

use std::io;
use std::time::Duration;

use crate::Plan;
use crate::daemon::{Daemon, registration};
use crate::load::{Outcome, Until, closed_loop, me};
use crate::measure::{Readings, count, float, token};
use crate::report::{Row, Section, time, times};
use fastrand::Rng;

const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// Session ids that are registered over and over, so that the population is constant.
const IDS: usize = 1_000;
/// How much more processor time a request may take in the sandbox.
const SANDBOX_MAX: f64 = 1.05;
/// How many sessions the claudemesh daemon registers in a second on one connection, as it is shipped: it
/// starts a `ps` for each.
const ORIGIN_REGISTERS: f64 = 425.0;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Request {
    #[default]
    Me,
    Register,
}

impl Request {
    const fn name(self) -> &'static str {
        match self {
            Self::Me => "GET /v1/sessions/me",
            Self::Register => "POST register",
        }
    }
}

/// One server under one kind of load.
#[derive(Default)]
struct Cell {
    request: Request,
    connections: usize,
    per_second: Readings,
    p50: Readings,
    p99: Readings,
    cpu: Readings,
}

impl Cell {
    fn new(request: Request, connections: usize) -> Self {
        Self {
            request,
            connections,
            ..Self::default()
        }
    }

    fn round(&mut self, server: &Daemon, random: &mut Rng) -> io::Result<()> {
        let until = Until::Passed {
            unmeasured: Duration::from_millis(200),
            in_all: Duration::from_millis(900),
        };
        let before = server.usage()?;
        let outcome = self.run(server, &until, random)?;
        let used = server.usage()?.since(before);
        self.per_second.push(outcome.per_second);
        self.p50.push(outcome.latencies.median());
        self.p99.push(outcome.latencies.quantile(99));
        self.cpu.push(float(used.cpu_ns) / count(outcome.requests));
        Ok(())
    }

    fn run(&self, server: &Daemon, until: &Until, random: &mut Rng) -> io::Result<Outcome> {
        let pid = std::process::id();
        match self.request {
            Request::Me => {
                let token = token(random);
                server.register(pid, "me", &token)?;
                let request = me(&token);
                closed_loop(server.socket(), self.connections, until, |out| {
                    out.extend_from_slice(request.as_bytes());
                })
            }
            Request::Register => closed_loop(server.socket(), self.connections, until, |out| {
                let id = format!("c-{}", random.usize(..IDS));
                out.extend_from_slice(registration(pid, &id, &token(random)).as_bytes());
            }),
        }
    }

    fn text(&self) -> String {
        format!(
            "{:.1} k/s, p50 {}, p99 {}, {} CPU",
            self.per_second.median() / 1e3,
            time(self.p50.median()),
            time(self.p99.median()),
            time(self.cpu.median())
        )
    }
}

pub(crate) fn measure(plan: &Plan) -> io::Result<Section> {
    let ours = Daemon::start(&[])?;
    let unconfined = Daemon::start(&["--no-monitor"])?;
    let node = Daemon::start_node().ok();
    let mut random = Rng::with_seed(6);
    let mut rows = Vec::new();
    for request in [Request::Me, Request::Register] {
        for connections in CONNECTIONS {
            let mut cell = Cell::new(request, connections);
            let mut free = Cell::new(request, connections);
            let mut rival = Cell::new(request, connections);
            for _ in 0..plan.rounds {
                cell.round(&ours, &mut random)?;
                free.round(&unconfined, &mut random)?;
                if let Some(node) = &node {
                    rival.round(node, &mut random)?;
                }
            }
            rows.extend(compare(&cell, &rival));
            rows.push(price_of_sandbox(&cell, &free));
        }
    }
    Ok(Section {
        title: "Requests over the Unix socket",
        method: format!(
            "closed loop, one client thread, keep-alive, one outstanding request a connection; {} rounds of 0.7 s \
             each, turn and turn about with Node's `http` over a `Map` (`tests/bench/src/node_server.js`); medians \
             of the rounds; CPU is the server's own, all threads, for one request; every source runs",
            plan.rounds
        ),
        rows,
    })
}

/// The same requests to the daemon as one process without a sandbox.
fn price_of_sandbox(sandboxed: &Cell, free: &Cell) -> Row {
    let price = sandboxed.cpu.median() / free.cpu.median();
    let name = format!(
        "{}, c = {}, sandboxed",
        sandboxed.request.name(),
        sandboxed.connections
    );
    Row::new(name, sandboxed.text())
        .beside(format!("--no-monitor {}", free.text()))
        .ratio(format!("{} the CPU", times(price)))
        .target("1.05x the CPU", price <= SANDBOX_MAX)
}

fn compare(ours: &Cell, node: &Cell) -> Vec<Row> {
    let name = ours.request.name();
    let rate = ours.per_second.median() / node.per_second.median();
    let cpu = node.cpu.median() / ours.cpu.median();
    let mut row = Row::new(format!("{name}, c = {}", ours.connections), ours.text()).ratio(
        format!("{} the rate, 1/{} the CPU", times(rate), times(cpu)),
    );
    row.beside = match node.per_second.len() {
        0 => "no node here".to_owned(),
        _ => format!("Node {}", node.text()),
    };
    let mut rows = Vec::new();
    match (ours.request, ours.connections) {
        (Request::Me, _) => {
            let sooner = ours.p99.median() < node.p99.median();
            let met = rate >= 2.0 && cpu >= 3.0 && sooner;
            rows.push(row.target("2x the rate, 1/3 the CPU, p99 lower", met));
        }
        (Request::Register, 1) => {
            let gain = ours.per_second.median() / ORIGIN_REGISTERS;
            rows.push(row);
            let met = gain >= 20.0 && ours.p99.median() < 1e6;
            rows.push(
                Row::new(
                    "POST register beside the claudemesh daemon, c = 1",
                    ours.text(),
                )
                .beside("425/s as shipped (it starts `ps`)")
                .ratio(times(gain))
                .target("20x, p99 < 1 ms", met)
                .unless_missed_by(node.p99.median() < 1e6 || gain < 20.0),
            );
        }
        _ => rows.push(row),
    }
    rows
}
