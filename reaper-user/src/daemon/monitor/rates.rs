//! How often the worker can have something opened. A worker that asks more often than its sources can
//! need is refused, so that it cannot keep the monitor loading programs.

use std::time::Duration;

use super::message::Wanted;

/// Requests of one kind: so many at once, and then one each time so much has passed.
struct Rate {
    what: &'static str,
    at_once: u32,
    one_every: Duration,
    left: u32,
    /// The time up to which requests have been added.
    filled_ns: Option<u64>,
    is_logged: bool,
}

/// The requests that make the kernel allocate or load something, or another program work, and those to keep
/// a descriptor, each of which may go on to the service manager. The others read one small file each, or send
/// a few bytes (`Release`).
pub(super) struct Rates {
    notify: Rate,
    connector: Rate,
    send: Rate,
    filter: Rate,
    probe: Rate,
    keep: Rate,
}

impl Default for Rates {
    /// A failing source is restarted after 1, 2, 4 .. 60 s (`sources/supervisor.rs`), seven times within
    /// two minutes, and once a minute then. One that works for a minute before each failure is restarted
    /// about as often. The connector is also opened anew after each overrun, and keeps its old
    /// socket where that is refused. Each opening takes up to five requests over its socket. With the
    /// shortest watchdog, two reports are made every ten milliseconds (`systemd/reports.rs`), besides
    /// those of start, end and reloads.
    fn default() -> Self {
        let restarts = |what| Rate::new(what, 10, Duration::from_secs(10));
        Self {
            notify: Rate::new(
                "reports to the service manager",
                100,
                Duration::from_millis(4),
            ),
            connector: Rate::new("sockets of the connector", 20, Duration::from_secs(1)),
            send: Rate::new("requests to the connector", 100, Duration::from_millis(200)),
            filter: restarts("filters"),
            probe: restarts("probes"),
            // Four at the start, and two whenever the socket is bound again, once a second at most.
            keep: Rate::new("descriptors to keep", 20, Duration::from_millis(500)),
        }
    }
}

impl Rates {
    /// Counts a request. Fails with the reason if it comes too early.
    pub(super) fn take(&mut self, wanted: Wanted, now_ns: u64) -> Result<(), String> {
        let rate = match wanted {
            Wanted::Notify => &mut self.notify,
            Wanted::Connector => &mut self.connector,
            Wanted::Send => &mut self.send,
            Wanted::Filter => &mut self.filter,
            Wanted::Probe => &mut self.probe,
            Wanted::Keep => &mut self.keep,
            _ => return Ok(()),
        };
        if rate.take(now_ns) {
            return Ok(());
        }
        let reason = format!("the worker asks the monitor for {} too often", rate.what);
        if !rate.is_logged {
            rate.is_logged = true;
            log::warn!("{reason}; further refusals of this kind are not logged");
        }
        Err(reason)
    }
}

impl Rate {
    const fn new(what: &'static str, at_once: u32, one_every: Duration) -> Self {
        Self {
            what,
            at_once,
            one_every,
            left: at_once,
            filled_ns: None,
            is_logged: false,
        }
    }

    fn take(&mut self, now_ns: u64) -> bool {
        let filled_ns = *self.filled_ns.get_or_insert(now_ns);
        let every_ns = u64::try_from(self.one_every.as_nanos()).unwrap_or(u64::MAX);
        let added = now_ns.saturating_sub(filled_ns) / every_ns;
        self.filled_ns = Some(filled_ns + added * every_ns);
        let left = u64::from(self.left) + added;
        self.left = u32::try_from(left).unwrap_or(u32::MAX).min(self.at_once);
        let is_left = self.left > 0;
        self.left -= u32::from(is_left);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_supervisor_is_never_refused() {
        // Fails at once for ever, and works for a minute before each failure.
        for works_for in [0, 61] {
            let mut rates = Rates::default();
            let (mut now, mut pause) = (0, 1);
            while now < 24 * 3_600 {
                for wanted in [Wanted::Connector, Wanted::Filter, Wanted::Probe] {
                    rates.take(wanted, now * SECOND).unwrap();
                }
                for _ in 0..5 {
                    rates.take(Wanted::Send, now * SECOND).unwrap();
                }
                if works_for > 60 {
                    pause = 1;
                }
                now += works_for + pause;
                pause = (pause * 2).min(60);
            }
        }
    }

    #[test]
    fn the_reports_of_the_shortest_watchdog_are_never_refused() {
        let mut rates = Rates::default();
        for now in (0..600 * SECOND).step_by(10_000_000) {
            rates.take(Wanted::Notify, now).unwrap();
            rates.take(Wanted::Notify, now).unwrap();
        }
        let flood = (0..1_000).filter(|_| rates.take(Wanted::Notify, 600 * SECOND).is_ok());
        assert!(flood.count() <= 100);
    }

    #[test]
    fn requests_without_end_get_their_rate_and_no_more() {
        let mut rates = Rates::default();
        let hour = 3_600 * SECOND;
        let asked = (0..hour).step_by(5_000_000);
        let granted = asked.filter(|now| rates.take(Wanted::Probe, *now).is_ok());
        assert_eq!(granted.count(), 10 + 359);
        assert!(rates.take(Wanted::Record, 0).is_ok(), "not limited");
    }
}
