//! A terminal for a program that draws a whole screen: a real pseudo-terminal, and what it shows.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are steps of tests, which fail by panicking"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use vt100::{Color, Parser};

use crate::wait::{eventually, eventually_some};

/// A terminal with the program that has it. Dropped, the program is killed and reaped.
pub struct Terminal {
    /// The side of the person.
    user: File,
    /// The side of the program.
    tty: OwnedFd,
    before: Termios,
    shown: Arc<Mutex<Parser>>,
    child: Child,
}

impl Terminal {
    /// Starts a program, with its arguments and environment, on a terminal with so many columns and rows.
    pub fn start(columns: u16, rows: u16, command: &Command) -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let tty = rustix::fs::open(&name, flags, Mode::empty()).unwrap();
        tcsetwinsize(&user, size(columns, rows)).unwrap();
        let before = tcgetattr(&tty).unwrap();
        let stdio = || Stdio::from(tty.try_clone().unwrap());
        // Makes the terminal the controlling one, so that the program learns of new sizes.
        let mut session = Command::new("setsid");
        session
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm-256color")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => session.env(variable, value),
                None => session.env_remove(variable),
            };
        }
        let child = session.spawn().unwrap();
        let shown = Arc::new(Mutex::new(Parser::new(cells(rows), cells(columns), 0)));
        let user = File::from(user);
        read(user.try_clone().unwrap(), shown.clone());
        Self {
            user,
            tty,
            before,
            shown,
            child,
        }
    }

    /// The text on the screen.
    pub fn text(&self) -> String {
        self.shown().screen().contents()
    }

    /// Waits until the screen has each of these parts.
    pub fn shows(&self, parts: &[&str]) {
        let mut text = String::new();
        let all = || {
            text = self.text();
            parts.iter().all(|part| text.contains(part))
        };
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("the screen shows it", all);
        }));
        assert!(found.is_ok(), "{parts:?} is not shown:\n{}", self.text());
    }

    /// Waits until the screen has this part no more.
    pub fn hides(&self, part: &str) {
        eventually(&format!("{part} is gone"), || !self.text().contains(part));
    }

    /// Whether a cell of the screen has a color.
    pub fn has_color(&self) -> bool {
        let shown = self.shown();
        let (screen, (rows, columns)) = (shown.screen(), shown.screen().size());
        let mut places =
            (0..rows.get()).flat_map(|row| (0..columns.get()).map(move |column| (row, column)));
        places.any(|(row, column)| {
            let cell = screen.cell(row, column);
            cell.is_some_and(|it| it.fgcolor() != Color::Default)
        })
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        self.shown()
            .screen_mut()
            .set_size(cells(rows), cells(columns));
        tcsetwinsize(&self.user, size(columns, rows)).unwrap();
    }

    pub fn press(&mut self, keys: &str) {
        self.user.write_all(keys.as_bytes()).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end of the program. The terminal must be as it was at the start.
    pub fn ended(&mut self) -> ExitStatus {
        let status = eventually_some("the program ends", || self.child.try_wait().unwrap());
        let now = tcgetattr(&self.tty).unwrap();
        let modes = |it: &Termios| (it.input_modes, it.output_modes, it.local_modes);
        assert_eq!(modes(&now), modes(&self.before), "the modes differ");
        eventually("the first screen is back", || {
            let shown = self.shown();
            !shown.screen().alternate_screen() && !shown.screen().hide_cursor()
        });
        status
    }

    fn shown(&self) -> MutexGuard<'_, Parser> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// Reads what the program writes until the terminal is closed.
fn read(mut user: File, shown: Arc<Mutex<Parser>>) {
    thread::spawn(move || {
        let mut bytes = vec![0; 65_536];
        while let Ok(length) = user.read(&mut bytes) {
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.process(&bytes[..length]);
        }
    });
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).expect("a terminal has columns and rows")
}
