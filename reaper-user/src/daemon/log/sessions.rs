//! Registrations and removals in the log, read from the history of events. So the loop that removes dead
//! processes does not wait for the log, and a mass death is a few hundred lines and a number.

use std::time::Duration;

use log::Level;
use reaper_registry::{Event, EventKind, ExitStatus};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::refusals;
use crate::reaper::{EventItem, Events};

/// The target of these messages, for filters.
const TARGET: &str = "reaperd::sessions";
/// Lines within one [`PERIOD`]. The journal takes 10,000 in 30 seconds from one service by default.
const MAX_LINES: u32 = 200;
const PERIOD: Duration = Duration::from_secs(1);

/// Logs what happens to sessions until there are no more events, and the numbers of further refusals.
pub(crate) async fn run(mut events: Events) {
    let mut budget = Budget::default();
    let mut summaries = interval(refusals::SUMMARY_INTERVAL);
    summaries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = summaries.tick() => refusals::summarize(),
            () = budget.over() => budget.close(),
            item = events.next() => match item {
                None => return budget.close(),
                Some(_) if !log::log_enabled!(target: TARGET, Level::Info) => {}
                Some(EventItem::Event(event)) => {
                    if is_of_session(&event) && budget.take(1) {
                        write(&event);
                    }
                }
                Some(EventItem::Gap { missed_from, missed_to }) => {
                    let missed = missed_to.saturating_sub(missed_from) + 1;
                    budget.left_out += missed;
                }
            }
        }
    }
}

/// How many lines may still be written in this period.
#[derive(Default)]
struct Budget {
    ends: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Budget {
    fn take(&mut self, lines: u32) -> bool {
        self.ends.get_or_insert_with(|| Instant::now() + PERIOD);
        let fits = self.lines + lines <= MAX_LINES;
        if fits {
            self.lines += lines;
        } else {
            self.left_out += 1;
        }
        fits
    }

    async fn over(&self) {
        match self.ends {
            Some(ends) => tokio::time::sleep_until(ends).await,
            None => std::future::pending().await,
        }
    }

    fn close(&mut self) {
        if self.left_out > 0 {
            log::info!(
                target: TARGET,
                "{} further registrations and removals are not logged one by one", self.left_out
            );
        }
        *self = Self::default();
    }
}

const fn is_of_session(event: &Event) -> bool {
    matches!(
        event.kind,
        EventKind::Registered(_) | EventKind::Deregistered(..)
    )
}

fn write(event: &Event) {
    match &event.kind {
        EventKind::Registered(session) => {
            let (id, pid, uid) = (
                session.id.as_str(),
                session.process.pid.get(),
                session.owner,
            );
            log::info!(
                target: TARGET,
                SESSION_ID = id, PID_WATCHED = pid, USER_ID = uid;
                "registered session={id} pid={pid} uid={uid}"
            );
        }
        EventKind::Deregistered(session, removal) => {
            let (id, pid, uid) = (
                session.id.as_str(),
                session.process.pid.get(),
                session.owner,
            );
            let death = removal.death();
            let source = death.map_or("none", |death| death.source.name());
            let exit = death
                .and_then(|death| death.exit)
                .map(|exit| match exit.status {
                    ExitStatus::Code(code) => format!(" exit_code={code}"),
                    ExitStatus::Signal { signal, .. } => format!(" signal={signal}"),
                });
            let latency = death
                .and_then(|death| death.detection)
                .map(|time| format!(" latency_us={}", time.as_micros()));
            let cause = removal.cause();
            log::info!(
                target: TARGET,
                SESSION_ID = id, PID_WATCHED = pid, USER_ID = uid, CAUSE = cause, SOURCE = source;
                "removed session={id} pid={pid} uid={uid} cause={cause} source={source}{}{}",
                exit.unwrap_or_default(),
                latency.unwrap_or_default()
            );
        }
        _ => {}
    }
}
