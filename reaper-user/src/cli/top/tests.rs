//! The screen at several sizes, with data as the daemon sends it.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Cell;
use ratatui::crossterm::event::KeyEventState;
use ratatui::style::Color;
use reaper_registry::{BootTime, Moment};
use serde_json::{Value, json};

use super::*;
use crate::cli::top::page::Page;
use crate::client::Frame;

const START_MS: u64 = 1_795_324_800_000;

fn at(seconds: u64) -> Moment {
    Moment {
        boot: BootTime::from_nanos(seconds * 1_000_000_000),
        wall_ms: START_MS + seconds * 1_000,
    }
}

/// The counts after so many seconds, two registrations and 12.5 requests a second.
fn counts(seconds: u64) -> Update {
    let mut text = format!(
        "reaperd_build_info{{version=\"0.1.0\",ebpf=\"true\"}} 1\n\
         reaperd_sessions 3\n\
         reaperd_processes 2\n\
         reaperd_registrations_total {}\n\
         reaperd_requests_total{{route=\"health\",status=\"2xx\"}} {}\n\
         reaperd_removals_total{{cause=\"exited\",source=\"netlink\"}} 41\n\
         reaperd_removals_total{{cause=\"exited\",source=\"pidfd\"}} 1\n\
         reaperd_events_lost_total{{source=\"netlink\"}} 12\n",
        2 * seconds,
        25 * seconds / 2
    );
    let mut within = 0;
    let buckets = [
        ("0.0001", 7),
        ("0.0002", 20),
        ("0.0005", 10),
        ("0.001", 3),
        ("0.002", 0),
        ("0.005", 1),
        ("0.01", 0),
        ("0.1", 0),
        ("1.0", 1),
    ];
    text.extend(buckets.map(|(le, count)| {
        within += count;
        format!("reaperd_detection_seconds_bucket{{source=\"netlink\",le=\"{le}\"}} {within}\n")
    }));
    text.push_str("reaperd_detection_seconds_count{source=\"netlink\"} 42\n");
    let source = |source: &str, state: &str, reason: &str| {
        json!({
            "source": source, "state": state, "reason": reason, "remedy": "", "detail": "", "lost": 0,
            "forged": 0,
        })
    };
    let sources = json!({
        "schema": 1, "status": "degraded", "worst_case_delay_ms": 5_000, "processes": 2, "sessions": 3,
        "sources": [
            source("netlink", "degraded", "12 events were lost"),
            source("ebpf", "down", "CAP_BPF is missing"),
            source("pidfd", "up", ""),
            source("sweep", "up", ""),
        ],
    });
    Update::Counted(Box::new(Counts {
        page: Page::parse(&text, at(seconds).boot),
        sources: serde_json::from_value(sources).unwrap(),
        health: serde_json::from_value(json!({"pid": 4711, "uptime_ms": 7_200_000})).unwrap(),
    }))
}

fn session(id: &str, pid: u32, seconds: u64) -> Value {
    json!({
        "sessionId": id, "mesh": "dev", "displayName": format!("name of {id}"), "pid": pid,
        "registeredAt": at(seconds).wall_ms, "expiresAt": null, "token_prefix": "3fa9c1d2",
        "identity": "pidfd", "uid": 1000,
    })
}

fn event(name: &str, data: Value) -> Update {
    Update::Event(Frame {
        id: "6940afdd9cee9401.7".to_owned(),
        event: name.to_owned(),
        data: data.to_string(),
    })
}

fn removal(id: &str, pid: u32) -> Update {
    let data = json!({
        "ts": "2026-11-22T05:20:05.000Z", "seq": 7, "session": session(id, pid, 1), "cause": "exited",
        "source": "netlink", "evidence": "pidfd", "exit": {"signal": 9, "core": false, "from": "netlink"},
        "detection_us": 163,
    });
    event("session_deregistered", data)
}

/// Three sessions, one that has ended, and rates.
fn state() -> State {
    let mut state = State::default();
    let list = ["worker-1", "worker-2", "build \u{1b}[2J"];
    let list = list.iter().zip(1..).map(|(id, number)| {
        let session = session(id, 7_000 + number, u64::from(number));
        serde_json::from_value(session).unwrap()
    });
    for update in [
        counts(8),
        Update::Listed(list.collect()),
        Update::Open,
        removal("worker-0", 6_999),
        counts(10),
    ] {
        state.apply(update, at(10)).unwrap();
    }
    state
}

fn terminal(width: u16, height: u16, state: &mut State, colors: bool) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let look = Look {
        colors,
        socket: "/run/reaperd/reaperd.sock",
        now: at(64),
    };
    terminal
        .draw(|frame| view::draw(frame, state, look))
        .unwrap();
    terminal
}

fn picture(width: u16, height: u16, state: &mut State) -> String {
    let terminal = terminal(width, height, state, false);
    let cells = terminal.backend().buffer().content();
    let lines = cells.chunks(usize::from(width.max(1))).map(|line| {
        let line: String = line.iter().map(Cell::symbol).collect();
        line.trim_end().to_owned() + "\n"
    });
    lines.collect()
}

#[test]
fn a_screen_of_80_columns_has_everything() {
    let picture = picture(80, 24, &mut state());
    assert_eq!(picture, include_str!("tests/80x24.txt"), "\n{picture}");
}

#[test]
fn a_screen_of_60_columns_leaves_out_what_matters_least() {
    let picture = picture(60, 20, &mut state());
    assert_eq!(picture, include_str!("tests/60x20.txt"), "\n{picture}");
}

#[test]
fn a_screen_of_200_columns_has_the_lists_beside_each_other() {
    let picture = picture(200, 50, &mut state());
    assert_eq!(picture, include_str!("tests/200x50.txt"), "\n{picture}");
}

#[test]
fn any_size_is_drawn() {
    let mut state = state();
    for (width, height) in [
        (0, 0),
        (1, 1),
        (1, 50),
        (300, 1),
        (5, 7),
        (39, 12),
        (59, 21),
    ] {
        let shown = picture(width, height, &mut state);
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }
    let small = picture(30, 6, &mut state);
    assert!(small.contains("worker-2"), "{small}");
}

#[test]
fn a_session_ends_once_and_one_that_is_listed_already_is_no_other() {
    let mut state = state();
    for (update, expected) in [
        (removal("worker-1", 7_001), 2),
        (removal("worker-1", 7_001), 2),
        (
            event(
                "session_registered",
                json!({"session": session("worker-2", 7_002, 2)}),
            ),
            2,
        ),
        (
            event(
                "session_registered",
                json!({"session": session("new", 7_009, 9)}),
            ),
            3,
        ),
        (
            event("source_state", json!({"source": "ebpf", "state": "up"})),
            3,
        ),
    ] {
        state.apply(update, at(11)).unwrap();
        assert_eq!(state.session_count(), expected);
    }
    let mut other = session("new", 8_000, 9);
    other["uid"] = json!(0);
    let of_other_user = event("session_registered", json!({ "session": other }));
    state.apply(of_other_user, at(11)).unwrap();
    assert_eq!(state.session_count(), 4);
    let broken = event("session_registered", json!({}));
    assert!(state.apply(broken, at(11)).is_err());
}

#[test]
fn a_daemon_that_is_gone_is_reported_with_the_cause_and_the_time() {
    let mut state = state();
    state
        .apply(
            Update::Lost("the daemon closed the stream".to_owned()),
            at(20),
        )
        .unwrap();
    let gone = Update::Uncounted("no daemon is listening on /s".to_owned());
    state.apply(gone, at(21)).unwrap();
    let shown = picture(80, 24, &mut state);
    assert!(
        shown.contains("no daemon is listening on /s; reconnecting (44s)"),
        "{shown}"
    );
    assert!(
        shown.contains("worker-1") && shown.contains("  lost  "),
        "{shown}"
    );
    state.apply(counts(30), at(30)).unwrap();
    let shown = picture(80, 24, &mut state);
    assert!(
        shown.contains("the daemon closed the stream; reconnecting"),
        "{shown}"
    );
    state.apply(Update::Open, at(31)).unwrap();
    let shown = picture(80, 24, &mut state);
    assert!(!shown.contains("reconnecting"), "{shown}");
}

#[test]
fn the_list_scrolls_between_its_ends() {
    let mut state = State::default();
    let list = (0..50).map(|number| {
        let session = session(&format!("s-{number}"), 100 + number, u64::from(number));
        serde_json::from_value(session).unwrap()
    });
    state.apply(Update::Listed(list.collect()), at(50)).unwrap();
    let mut first = |by| {
        state.scroll(by);
        let (above, shown) = state.shown(10);
        (above, shown[0].session_id.clone())
    };
    for (by, expected) in [
        (Scroll::First, (0, "s-49")),
        (Scroll::Down(3), (3, "s-46")),
        (Scroll::Up(1), (2, "s-47")),
        (Scroll::Last, (40, "s-9")),
        (Scroll::Down(10), (40, "s-9")),
        (Scroll::Up(100), (0, "s-49")),
    ] {
        assert_eq!(first(by), (expected.0, expected.1.to_owned()), "{by:?}");
    }
}

#[test]
fn there_are_colors_only_where_they_are_wanted() {
    for (colors, expected) in [(true, true), (false, false)] {
        let terminal = terminal(80, 24, &mut state(), colors);
        let mut cells = terminal.backend().buffer().content().iter();
        let has_color = cells.any(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset));
        assert_eq!(has_color, expected);
    }
}

#[test]
fn keys_quit_or_scroll() {
    let key = |code, modifiers| KeyEvent {
        code,
        modifiers,
        kind: KeyEventKind::Press,
        state: KeyEventState::NONE,
    };
    let plain = KeyModifiers::NONE;
    for quit in [
        key(KeyCode::Char('q'), plain),
        key(KeyCode::Esc, plain),
        key(KeyCode::Char('c'), KeyModifiers::CONTROL),
    ] {
        assert!(quits(quit), "{quit:?}");
    }
    for other in [KeyCode::Char('c'), KeyCode::Char('x'), KeyCode::Up] {
        assert!(!quits(key(other, plain)), "{other:?}");
    }
    assert_eq!(
        scrolls(key(KeyCode::Char('j'), plain)),
        Some(Scroll::Down(1))
    );
    assert_eq!(scrolls(key(KeyCode::Char('x'), plain)), None);
}
