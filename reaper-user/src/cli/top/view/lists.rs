//! The sessions that live, and those that have ended.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};

use super::{Cell, Column, Look, cell, table};
use crate::cli::output::{age, milliseconds};
use crate::cli::top::state::{Ended, State};
use crate::client::Session;

/// The width from which on a session has further columns.
const WIDE: u16 = 76;

pub(super) fn sessions(frame: &mut Frame<'_>, area: Rect, state: &mut State, look: Look<'_>) {
    let count = state.session_count();
    let rows = usize::from(area.height.saturating_sub(1));
    let (above, shown) = state.shown(rows);
    let title = if shown.len() < count {
        format!("SESSION {}-{} of {count}", above + 1, above + shown.len())
    } else {
        format!("SESSION {count}")
    };
    let mut columns = vec![
        Column::text(title, Constraint::Fill(3)),
        Column::text("NAME", Constraint::Fill(2)),
        Column::number("PID", 7),
        Column::number("AGE", 4),
    ];
    if area.width >= WIDE {
        columns.push(Column::text("MESH", Constraint::Fill(1)));
        columns.push(Column::text("IDENTITY", Constraint::Length(10)));
        columns.push(Column::text("TOKEN", Constraint::Length(8)));
    }
    let now = look.now.wall_ms;
    let mut rows: Vec<_> = shown.iter().map(|it| session_row(it, now)).collect();
    if count == 0 {
        rows.push(vec![cell("none")]);
    }
    table(frame, area, look, &columns, rows);
}

fn session_row(session: &Session, now_ms: u64) -> Vec<Cell> {
    vec![
        cell(&session.session_id),
        cell(&session.display_name),
        cell(session.pid.to_string()),
        cell(since(session.registered_at, now_ms)),
        cell(&session.mesh),
        cell(session.identity.as_deref().unwrap_or_default()),
        cell(session.token_prefix.as_deref().unwrap_or_default()),
    ]
}

pub(super) fn ended(frame: &mut Frame<'_>, area: Rect, state: &State, look: Look<'_>) {
    let mut columns = vec![
        Column::text("ENDED", Constraint::Fill(1)),
        Column::number("PID", 7),
        Column::number("AGO", 4),
        Column::text("HOW", Constraint::Length(18)),
    ];
    if area.width >= 60 {
        columns.push(Column::text("VIA", Constraint::Length(8)));
    }
    if area.width >= 70 {
        columns.push(Column::number("DELAY", 9));
    }
    let now = look.now.wall_ms;
    let none = state.ended.is_empty().then(|| vec![cell("none yet")]);
    let rows = state.ended.iter().map(|it| ended_row(it, now));
    let rows = none.into_iter().chain(rows);
    table(frame, area, look, &columns, rows);
}

fn ended_row(ended: &Ended, now_ms: u64) -> Vec<Cell> {
    vec![
        cell(&ended.session_id),
        cell(ended.pid.to_string()),
        cell(since(ended.at, now_ms)),
        cell(&ended.how),
        cell(ended.source.as_deref().unwrap_or("-")),
        cell(
            ended
                .detection_us
                .map_or_else(|| "-".to_owned(), milliseconds),
        ),
    ]
}

/// How long ago this was, in milliseconds since 1970.
fn since(then_ms: Option<u64>, now_ms: u64) -> String {
    then_ms.map_or_else(String::new, |then| age(now_ms.saturating_sub(then) / 1_000))
}
