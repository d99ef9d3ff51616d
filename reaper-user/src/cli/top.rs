//! `reaperd top`: sessions, sources, rates and losses of the running daemon, on a screen that follows them.

mod feed;
mod page;
mod screen;
mod state;
mod view;

use std::io;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use rustix::process::Signal;
use tokio::time::MissedTickBehavior;

use self::feed::{Counts, Update};
use self::screen::Screen;
use self::state::{Scroll, State};
use self::view::Look;
use super::end_signals::{EndSignals, end_by};
use super::exit_code::ExitCode;
use super::failure::Failure;
use crate::client::Client;
use crate::clock;

/// The least time between two pictures that no key has asked for. More cannot be read.
const FRAME: Duration = Duration::from_millis(100);
/// How often the ages are drawn anew.
const SECOND: Duration = Duration::from_secs(1);
/// How many sessions a page key moves by.
const PAGE: usize = 10;

/// For `reaperd top --help` and its manual page.
pub(super) const HELP: &str = "\
Parts:
  SOURCE      State of each exit source, and the exits that it reported first
  PER SECOND  Since the last interval; with the totals on a wide screen
  LOST        Events of the kernel and hints that were lost, gaps sent to readers, checks without a result, \
restarts of the worker and of its loop
  DETECTION   How long exits took to be detected, where the kernel gave the time of the exit
  SESSION     The sessions that this user may see, the newest first
  ENDED       Sessions that have ended since the start of this command

Keys:
  q, Esc, Ctrl-C    Quit
  Up, Down, k, j    Scroll the sessions
  PgUp, PgDn        Scroll by ten
  Home, End, g, G   Scroll to the newest or the oldest session

If the daemon ends, the last values stay, the second line says so, and the screen goes on when the daemon is back. \
Counts begin at 0 with each worker. The requests include those of this command, three for each interval.

Exit status:
  0  Quit by a key
  1  Standard input or output is no terminal
  3  No daemon is listening at the start

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well
  NO_COLOR            No colors if it is not empty

Examples:
  reaperd top --interval 5
  reaperd top --socket /run/reaperd/reaperd.sock";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Time between two readings of the counts, in seconds, from 0.1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok();
    let interval = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    interval
        .filter(|it| (FRAME..=Duration::from_hours(1)).contains(it))
        .ok_or_else(|| "expected a number of seconds from 0.1 to 3600, such as 2 or 0.5".to_owned())
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        screen::check()?;
        // A daemon that cannot be read is an error as for every command, before the screen changes.
        let first = Counts::read(client).await?;
        let mut state = State::default();
        state.apply(Update::Counted(Box::new(first)), clock::now())?;
        let signals = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
        let mut signals = EndSignals::receive(signals)?;
        let ended = self.show(client, state, &mut signals).await?;
        // The screen is as before.
        if let Some(signal) = ended {
            end_by(signal)?;
        }
        Ok(ExitCode::Success)
    }

    /// Shows the screen until a key or a signal ends it; returns the signal.
    async fn show(
        &self,
        client: &Client,
        mut state: State,
        signals: &mut EndSignals,
    ) -> Result<Option<Signal>, Failure> {
        let colors = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        let socket = client.socket().display().to_string();
        let mut updates = feed::start(client, self.interval);
        let mut screen = Screen::enter(colors)?;
        let mut events = screen::events()?;
        let mut frames = tokio::time::interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seconds = tokio::time::interval(SECOND);
        let (mut is_old, mut is_urgent) = (true, true);
        loop {
            if is_urgent {
                let now = clock::now();
                let look = Look {
                    colors,
                    socket: &socket,
                    now,
                };
                screen.draw(|frame| view::draw(frame, &mut state, look))?;
                (is_old, is_urgent) = (false, false);
            }
            tokio::select! {
                update = updates.recv() => {
                    state.apply(update.ok_or_else(ended)?, clock::now())?;
                    is_old = true;
                }
                event = events.recv() => match event.ok_or_else(terminal_gone)? {
                    Event::Key(key) if quits(key) => return Ok(None),
                    Event::Key(key) => {
                        if let Some(by) = scrolls(key) {
                            state.scroll(by);
                        }
                        is_urgent = true;
                    }
                    _ => is_urgent = true,
                },
                signal = signals.next() => return Ok(Some(signal)),
                _ = seconds.tick() => is_old = true,
                _ = frames.tick(), if is_old => is_urgent = true,
            }
        }
    }
}

fn ended() -> Failure {
    Failure::new("the reader of the daemon has ended", "reaperd status")
}

fn terminal_gone() -> Failure {
    Failure::new("cannot read the keys of the terminal", "reaperd watch")
}

fn quits(key: KeyEvent) -> bool {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        _ if key.kind == KeyEventKind::Release => false,
        KeyCode::Char('c') => is_control,
        KeyCode::Char('q') => !is_control,
        code => code == KeyCode::Esc,
    }
}

fn scrolls(key: KeyEvent) -> Option<Scroll> {
    let by = match key.code {
        KeyCode::Up | KeyCode::Char('k') => Scroll::Up(1),
        KeyCode::Down | KeyCode::Char('j') => Scroll::Down(1),
        KeyCode::PageUp => Scroll::Up(PAGE),
        KeyCode::PageDown => Scroll::Down(PAGE),
        KeyCode::Home | KeyCode::Char('g') => Scroll::First,
        KeyCode::End | KeyCode::Char('G') => Scroll::Last,
        _ => return None,
    };
    Some(by).filter(|_| key.kind != KeyEventKind::Release)
}

#[cfg(test)]
mod tests;
