//! The terminal: entered when `top` starts, and left as it was however `top` ends.

use std::io::{self, IsTerminal as _};
use std::thread;

use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::style::force_color_output;
use ratatui::crossterm::terminal::is_raw_mode_enabled;
use tokio::sync::mpsc;

use crate::cli::failure::Failure;

/// Keys that wait to be handled. Further ones wait in the terminal.
const QUEUE: usize = 16;

/// The screen of the terminal. Dropped, it is what it was before, and so after a panic.
#[derive(Debug)]
pub(super) struct Screen(DefaultTerminal);

impl Screen {
    /// Enters the alternate screen and the raw mode.
    pub(super) fn enter(colors: bool) -> Result<Self, Failure> {
        // It has a rule of its own for `NO_COLOR`.
        force_color_output(colors);
        // Messages on the same terminal would be between the cells.
        if io::stderr().is_terminal() {
            log::set_max_level(log::LevelFilter::Off);
        }
        // Its panic hook leaves the screen before the message is printed.
        ratatui::try_init().map(Self).map_err(|error| {
            // What was done before the error is undone; there may be nothing.
            ratatui::try_restore().unwrap_or_default();
            Failure::new(
                format!("cannot use the terminal: {error}"),
                "reaperd status, or reaperd watch",
            )
        })
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<(), Failure> {
        let drawn = self.0.draw(draw);
        drawn.map(drop).map_err(Failure::output)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // After a panic it was left before the message: once more, and the cursor would be on that.
        if is_raw_mode_enabled().is_ok_and(|is_raw| is_raw) {
            // Fails if the terminal is gone.
            self.0.show_cursor().unwrap_or_default();
            ratatui::try_restore().unwrap_or_default();
        }
    }
}

/// Checks that there is a terminal which can be written to at any place, and which has keys.
pub(super) fn check() -> Result<(), Failure> {
    let missing = if !io::stdout().is_terminal() {
        "standard output is no terminal"
    } else if !io::stdin().is_terminal() {
        "standard input is no terminal"
    } else if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        "the terminal cannot move its cursor (TERM is dumb)"
    } else {
        return Ok(());
    };
    Err(Failure::new(
        missing,
        "reaperd watch, reaperd metrics or reaperd ls --json   (they need no terminal)",
    ))
}

/// Starts to read keys and changes of the size.
pub(super) fn events() -> io::Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    // Ends with the process: a read of the terminal cannot be interrupted.
    thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || {
            while let Ok(event) = event::read() {
                if sender.blocking_send(event).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}
