//! What the daemon counts: sources, rates, losses, and how fast exits were detected.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Bar, BarChart};

use super::{Cell, Column, Look, cell, fit, table};
use crate::cli::terminal::Tone;
use crate::cli::top::feed::Counts;
use crate::cli::top::page::Page;
use crate::cli::top::state::State;
use crate::client::SourceReport;

/// The bounds of the bars, in microseconds; one more is for what took longer. Each is the bound of a bucket
/// too.
const BOUNDS_US: [u64; 9] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 100_000, 1_000_000,
];
const LABELS: [&str; 10] = [
    "100µs", "200µs", "500µs", "1ms", "2ms", "5ms", "10ms", "100ms", "1s", "more",
];
const DETECTION: &str = "reaperd_detection_seconds";

/// The rates, by the counter that they are of.
const RATES: [(&str, &str); 5] = [
    ("registered", "reaperd_registrations_total"),
    ("renewed", "reaperd_renewals_total"),
    ("removed", "reaperd_removals_total"),
    ("requests", "reaperd_requests_total"),
    ("refusals", "reaperd_refusals_total"),
];
/// What was lost or repeated, by its counters.
const LOSSES: [(&str, &[&str]); 5] = [
    ("events", &["reaperd_events_lost_total"]),
    ("hints", &["reaperd_hints_lost_total"]),
    ("gaps", &["reaperd_history_gaps_total"]),
    ("unknown", &["reaperd_verdicts_unknown_total"]),
    (
        "restarts",
        &["reaperd_restarts_total", "reaperd_loop_restarts_total"],
    ),
];

pub(super) fn sources_rates_losses(
    frame: &mut Frame<'_>,
    area: Rect,
    state: &State,
    look: Look<'_>,
) {
    let Some(counts) = &state.counts else {
        return;
    };
    // The second number of the rates and the reasons of the sources need a wide screen.
    let (rates, gap, has_totals) = match area.width {
        76.. => (32, 2, true),
        58.. => (19, 1, false),
        _ => (0, 1, false),
    };
    let has_reasons = counts
        .sources
        .sources
        .iter()
        .any(|it| !it.reason.is_empty());
    let widths = [
        if has_reasons || !has_totals {
            Constraint::Fill(1)
        } else {
            Constraint::Length(28)
        },
        Constraint::Length(rates),
        Constraint::Length(if area.width < 40 { 0 } else { 15 }),
    ];
    let [left, middle, right] = Layout::horizontal(widths).spacing(gap).areas(area);
    sources(frame, left, counts, look);
    if middle.width > 0 {
        let earlier = state.earlier.as_ref().map(|it| &it.page);
        self::rates(frame, middle, &counts.page, earlier, has_totals, look);
    }
    losses(frame, right, &counts.page, look);
}

fn sources(frame: &mut Frame<'_>, area: Rect, counts: &Counts, look: Look<'_>) {
    let mut columns = vec![
        Column::text("SOURCE", Constraint::Length(7)),
        Column::text("STATE", Constraint::Length(8)),
        Column::number("EXITS", 6),
    ];
    // Without any reason the area is narrower.
    if area.width > 40 {
        columns.push(Column::text("REASON", Constraint::Fill(1)));
    }
    let rows = counts.sources.sources.iter().map(|source| {
        let exits = counts
            .page
            .sum_with("reaperd_removals_total", "source", &source.source);
        vec![
            cell(&source.source),
            (source.state.clone(), tone_of(source)),
            cell(short(exits)),
            cell(&source.reason),
        ]
    });
    table(frame, area, look, &columns, rows);
}

fn tone_of(source: &SourceReport) -> Tone {
    match source.state.as_str() {
        "up" => Tone::Good,
        "degraded" | "starting" => Tone::Doubtful,
        "down" => Tone::Bad,
        _ => Tone::Neutral,
    }
}

fn rates(
    frame: &mut Frame<'_>,
    area: Rect,
    page: &Page,
    earlier: Option<&Page>,
    has_totals: bool,
    look: Look<'_>,
) {
    let mut columns = vec![
        Column::text("PER SECOND", Constraint::Length(10)),
        Column::number("NOW", if has_totals { 10 } else { 8 }),
    ];
    if has_totals {
        columns.push(Column::number("TOTAL", 10));
    }
    let rows = RATES.iter().map(|(label, name)| {
        let tenths = earlier.and_then(|earlier| page.tenths_per_second(earlier, name));
        let rate = tenths.map_or_else(|| "-".to_owned(), decimal);
        vec![cell(*label), cell(rate), cell(short(page.sum(name)))]
    });
    table(frame, area, look, &columns, rows);
}

fn losses(frame: &mut Frame<'_>, area: Rect, page: &Page, look: Look<'_>) {
    let columns = [
        Column::text("LOST", Constraint::Length(8)),
        Column::number("COUNT", 6),
    ];
    let rows = LOSSES.iter().map(|(label, names)| -> Vec<Cell> {
        let count: u64 = names.iter().map(|name| page.sum(name)).sum();
        let tone = if count > 0 {
            Tone::Doubtful
        } else {
            Tone::Neutral
        };
        vec![cell(*label), (short(count), tone)]
    });
    table(frame, area, look, &columns, rows);
}

/// Draws how many exits were detected within which time.
pub(super) fn detection(frame: &mut Frame<'_>, area: Rect, state: &State, look: Look<'_>) {
    let Some(counts) = &state.counts else {
        return;
    };
    let bars = bars(&counts.page);
    let title = Line::styled(fit(&summary(&bars), area.width), look.style(Tone::Head));
    let mut rest = area;
    frame.render_widget(title, super::cut(&mut rest, 1, 0));
    // One column is between two bars. Labels have up to five characters.
    let width = (rest.width + 1) / 10;
    if width < 6 || rest.height < 2 {
        return;
    }
    let with_labels: Vec<_> = LABELS
        .iter()
        .zip(bars)
        .map(|(label, count)| Bar::with_label(*label, count).text_value(short(count)))
        .collect();
    let chart = BarChart::vertical(with_labels)
        .bar_width((width - 1).min(11))
        .bar_gap(1)
        .bar_style(look.style(Tone::Good))
        .value_style(look.style(Tone::Head));
    frame.render_widget(chart, rest);
}

/// How many exits belong to each bar.
fn bars(page: &Page) -> [u64; 10] {
    let mut below = 0;
    let all = page.sum(&format!("{DETECTION}_count"));
    let within = |us| page.within(DETECTION, Duration::from_micros(us));
    let mut bounds = BOUNDS_US.iter().map(|us| within(*us)).chain([all]);
    [(); 10].map(|()| {
        let until = bounds.next().unwrap_or(all);
        let count = until.saturating_sub(below);
        below = until;
        count
    })
}

fn summary(bars: &[u64; 10]) -> String {
    let all: u64 = bars.iter().sum();
    if all == 0 {
        return "DETECTION  no exit with a known time yet".to_owned();
    }
    // The first bar with which so many of a hundred are reached.
    let within = |percent: u64| {
        let mut reached = 0;
        let position = bars.iter().position(|count| {
            reached += count;
            reached.saturating_mul(100) >= all.saturating_mul(percent)
        });
        match position.map(|number| LABELS[number]) {
            None | Some("more") => "more than 1s".to_owned(),
            Some(label) => format!("within {label}"),
        }
    };
    format!(
        "DETECTION  half {}, 99 % {}; {} exits",
        within(50),
        within(99),
        short(all)
    )
}

fn decimal(tenths: u64) -> String {
    if tenths < 1_000_000 {
        format!("{}.{}", tenths / 10, tenths % 10)
    } else {
        short(tenths / 10)
    }
}

/// Formats a count in at most six characters.
fn short(count: u64) -> String {
    match count {
        0..1_000_000 => count.to_string(),
        1_000_000..1_000_000_000 => format!("{}.{}M", count / 1_000_000, count / 100_000 % 10),
        _ => format!("{}G", count / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::counters;
    use reaper_registry::BootTime;

    #[test]
    fn each_bar_ends_at_the_bound_of_a_bucket() {
        for us in BOUNDS_US {
            assert!(counters::BOUNDS_US.contains(&us), "{us}");
        }
        assert_eq!(LABELS.len(), BOUNDS_US.len() + 1);
    }

    #[test]
    fn bars_are_made_of_the_buckets_of_all_sources() {
        let bucket = |source: &str, le: &str, count: u64| {
            format!("{DETECTION}_bucket{{source=\"{source}\",le=\"{le}\"}} {count}\n")
        };
        let short = ["0.00005", "0.0001", "0.0002"];
        let short = short.map(|le| (le, if le == "0.0002" { 5 } else { 1 }));
        let long = ["0.0005", "0.001", "0.002", "0.005", "0.01", "0.1", "1.0"].map(|le| (le, 5));
        let lines = short.into_iter().chain(long);
        let lines = lines.map(|(le, count)| bucket("netlink", le, 3) + &bucket("ebpf", le, count));
        let text = lines.collect::<String>()
            + &format!("{DETECTION}_count{{source=\"ebpf\"}} 6\n")
            + &format!("{DETECTION}_count{{source=\"netlink\"}} 3\n");
        let bars = bars(&Page::parse(&text, BootTime::from_nanos(0)));
        assert_eq!(bars, [4, 4, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(
            summary(&bars),
            "DETECTION  half within 200µs, 99 % more than 1s; 9 exits"
        );
    }

    #[test]
    fn numbers_have_at_most_six_characters() {
        assert_eq!(
            [0, 999_999, 1_250_000, 999_999_999, 12_000_000_000].map(short),
            ["0", "999999", "1.2M", "999.9M", "12G"]
        );
        assert_eq!([7, 123, 1_000_000].map(decimal), ["0.7", "12.3", "100000"]);
    }
}
