//! How the screen is divided, its first lines, and tables. Each part fits its area, whatever the size is: what
//! has no room is left out, in the order of [`Plan::of`].

mod counts;
mod lists;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use reaper_registry::Moment;
use textwrap::core::display_width;

use super::state::{Link, State};
use crate::cli::output::{age, escape};
use crate::cli::terminal::Tone;

/// The height from which on there are empty lines between the parts.
const ROOMY: u16 = 22;
/// The height from which on the bars are longer.
const TALL: u16 = 36;
/// The width from which on the two lists are beside each other.
const WIDE: u16 = 160;
/// The height of the counts: a head and five rows.
const COUNTS: u16 = 6;
/// The height of the histogram: a head, two rows of bars, and what they mean.
const DETECTION: u16 = 4;
/// The least height of a list: a head and three rows.
const LIST: u16 = 4;

/// How something is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) colors: bool,
    /// The path of the socket.
    pub(super) socket: &'a str,
    pub(super) now: Moment,
}

impl Look<'_> {
    fn style(self, tone: Tone) -> Style {
        let color = match tone {
            Tone::Head => return Style::new().add_modifier(Modifier::BOLD),
            Tone::Neutral => return Style::new(),
            Tone::Good => Color::Green,
            Tone::Doubtful => Color::Yellow,
            Tone::Bad => Color::Red,
        };
        if self.colors {
            Style::new().fg(color)
        } else {
            Style::new()
        }
    }
}

/// The areas of the parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Plan {
    head: Rect,
    message: Rect,
    counts: Rect,
    detection: Rect,
    sessions: Rect,
    ended: Rect,
}

impl Plan {
    /// Divides the screen. A part without room has no area.
    fn of(area: Rect) -> Self {
        let gap = u16::from(area.height >= ROOMY);
        let is_wide = area.width >= WIDE;
        let mut left = area.height.saturating_sub(2 + gap);
        // The first list needs room before all other parts.
        let mut sessions = left.min(LIST);
        left -= sessions;
        let mut take = |height: u16| {
            let fits = left >= height + gap;
            left -= if fits { height + gap } else { 0 };
            if fits { height } else { 0 }
        };
        let counts = take(COUNTS);
        let mut detection = if counts > 0 { take(DETECTION) } else { 0 };
        let mut ended = if is_wide || detection == 0 {
            0
        } else {
            take(LIST)
        };
        if area.height >= TALL && detection > 0 {
            detection += take(DETECTION - gap);
        }
        let for_ended = if ended > 0 { left / 2 } else { 0 };
        ended += for_ended;
        sessions += left - for_ended;

        let mut rest = area;
        let [head, message] = [cut(&mut rest, 1, 0), cut(&mut rest, 1, gap)];
        let counts = cut(&mut rest, counts, gap);
        let detection = cut(&mut rest, detection, gap);
        let mut sessions = cut(&mut rest, sessions, gap);
        let mut ended = cut(&mut rest, ended, 0);
        if is_wide {
            let halves = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]);
            [sessions, ended] = halves.spacing(3).areas(sessions);
        }
        Self {
            head,
            message,
            counts,
            detection,
            sessions,
            ended,
        }
    }
}

/// Takes so many lines from the top of an area, and as many behind them as the gap has.
fn cut(rest: &mut Rect, height: u16, gap: u16) -> Rect {
    let height = height.min(rest.height);
    let taken = Rect { height, ..*rest };
    let below = if height == 0 { 0 } else { height + gap };
    let below = below.min(rest.height);
    rest.y += below;
    rest.height -= below;
    taken
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, look: Look<'_>) {
    let plan = Plan::of(frame.area());
    head(frame, plan.head, state, look);
    message(frame, plan.message, state, look);
    counts::sources_rates_losses(frame, plan.counts, state, look);
    counts::detection(frame, plan.detection, state, look);
    lists::sessions(frame, plan.sessions, state, look);
    lists::ended(frame, plan.ended, state, look);
}

fn head(frame: &mut Frame<'_>, area: Rect, state: &State, look: Look<'_>) {
    let mut parts = vec![("reaperd".to_owned(), Tone::Head)];
    if let Some(counts) = &state.counts {
        let (page, health) = (&counts.page, &counts.health);
        let status = match (state.link(), counts.sources.status.as_str()) {
            (Link::Lost { .. }, _) => ("lost", Tone::Bad),
            (_, "ok") => ("ok", Tone::Good),
            (_, status) => (status, Tone::Doubtful),
        };
        let uptime = health.uptime_ms.map(|ms| format!("up {}", age(ms / 1_000)));
        parts.push(cell(page.version()));
        parts.push((status.0.to_owned(), status.1));
        parts.extend(uptime.map(cell));
        for (name, label) in [
            ("reaperd_sessions", "sessions"),
            ("reaperd_processes", "processes"),
        ] {
            parts.push(cell(format!("{label} {}", page.sum(name))));
        }
        parts.push(cell(format!("pid {}", health.pid)));
    }
    let mut line = Line::default();
    for (text, tone) in parts {
        let text = escape(&text).into_owned() + "  ";
        // Half a number would be another one.
        if line.width() + display_width(text.trim_end()) <= usize::from(area.width) {
            line.push_span(Span::styled(text, look.style(tone)));
        }
    }
    let keys = Line::styled("q quit", look.style(Tone::Head)).alignment(Alignment::Right);
    let has_room = line.width() + keys.width() <= usize::from(area.width);
    frame.render_widget(line, area);
    if has_room {
        frame.render_widget(keys, area);
    }
}

/// The most important thing to know; if there is none, where this is read.
fn message(frame: &mut Frame<'_>, area: Rect, state: &State, look: Look<'_>) {
    let (text, tone) = match state.link() {
        Link::Lost { reason, since } => {
            let passed = since.map_or(0, |since| look.now.boot.since(since.boot).as_secs());
            (
                format!("{reason}; reconnecting ({})", age(passed)),
                Tone::Bad,
            )
        }
        Link::Starting => (format!("reading {}", look.socket), Tone::Neutral),
        Link::Up => trouble(state).map_or_else(
            || (look.socket.to_owned(), Tone::Neutral),
            |text| (text, Tone::Doubtful),
        ),
    };
    let line = Line::styled(fit(&text, area.width), look.style(tone));
    frame.render_widget(line, area);
}

/// What the daemon reports as wrong.
fn trouble(state: &State) -> Option<String> {
    let counts = state.counts.as_ref()?;
    if let Some(conflict) = counts.health.conflicts.first() {
        return Some(format!("conflict: {conflict}"));
    }
    if counts.sources.status == "ok" {
        return None;
    }
    let sources = counts.sources.sources.iter();
    let reasons = sources.filter(|it| !it.reason.is_empty());
    let reasons: Vec<_> = reasons
        .map(|it| format!("{} {}: {}", it.source, it.state, it.reason))
        .collect();
    Some(reasons.join("; ")).filter(|text| !text.is_empty())
}

/// Escapes a text, and cuts it to this width.
fn fit(text: &str, width: u16) -> String {
    let (text, width) = (escape(text), usize::from(width));
    if display_width(&text) <= width {
        return text.into_owned();
    }
    let (mut cut, mut used) = (String::new(), 0);
    for c in text.chars() {
        used += display_width(c.encode_utf8(&mut [0; 4]));
        if used >= width {
            break;
        }
        cut.push(c);
    }
    cut + "…"
}

/// A column of a table.
struct Column {
    title: String,
    width: Constraint,
    alignment: Alignment,
}

impl Column {
    /// A text with this title.
    fn text(title: impl Into<String>, width: Constraint) -> Self {
        Self {
            title: title.into(),
            width,
            alignment: Alignment::Left,
        }
    }

    /// A number, at the right side of its column.
    fn number(title: &str, width: u16) -> Self {
        Self {
            alignment: Alignment::Right,
            ..Self::text(title, Constraint::Length(width))
        }
    }
}

/// A cell of a table.
type Cell = (String, Tone);

fn cell(text: impl Into<String>) -> Cell {
    (text.into(), Tone::Neutral)
}

/// Draws a table with its head. Rows without room are left out.
fn table(
    frame: &mut Frame<'_>,
    area: Rect,
    look: Look<'_>,
    columns: &[Column],
    rows: impl IntoIterator<Item = Vec<Cell>>,
) {
    let widths = Layout::horizontal(columns.iter().map(|it| it.width)).spacing(1);
    let head = columns.iter().map(|it| (it.title.clone(), Tone::Head));
    let rows = std::iter::once(head.collect()).chain(rows);
    for (line, row) in area.rows().zip(rows) {
        let places = widths.split(line);
        for ((place, column), (text, tone)) in places.iter().zip(columns).zip(row) {
            let text = Line::styled(fit(&text, place.width), look.style(tone));
            frame.render_widget(text.alignment(column.alignment), *place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap_and_are_inside_of_any_screen() {
        for (width, height) in (0..240)
            .step_by(7)
            .flat_map(|x| (0..70).map(move |y| (x, y)))
        {
            let area = Rect::new(0, 0, width, height);
            let plan = Plan::of(area);
            let parts = [
                plan.head,
                plan.message,
                plan.counts,
                plan.detection,
                plan.sessions,
                plan.ended,
            ];
            for (number, part) in parts.iter().enumerate() {
                assert_eq!(part.intersection(area).area(), part.area(), "{plan:?}");
                for other in &parts[..number] {
                    let shared = part.intersection(*other);
                    assert_eq!(shared.area(), 0, "{area:?} {plan:?}");
                }
            }
            if height >= 3 && width > 0 {
                assert!(plan.sessions.height > 0, "{area:?} {plan:?}");
            }
        }
    }

    #[test]
    fn text_is_escaped_and_cut_by_its_width() {
        assert_eq!(fit("a\u{1b}b", 20), "a\\u{1b}b");
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdefg", 6), "abcde…");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!(fit("abc", 0), "…");
    }
}
