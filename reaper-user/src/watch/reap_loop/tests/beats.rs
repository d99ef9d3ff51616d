//! The beats show that the loop itself runs, and nothing else does.

use std::sync::mpsc;
use std::thread;

use super::*;
use crate::clock::Deadline;

const BEAT: Duration = Duration::from_millis(10);
/// Longer than many beats.
const SILENCE: Duration = Duration::from_millis(300);
/// Enough for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A commit that does not return before its sender is dropped.
struct HangsUntil(Mutex<mpsc::Receiver<()>>);

impl Commit for HangsUntil {
    fn commit(&self, _process: ProcessId, _death: Death) -> bool {
        let ended = self.0.lock().unwrap().recv();
        assert!(ended.is_err(), "nothing is sent");
        false
    }
}

/// Counts beats, at most `enough`, for this long. Without the timers of the runtime, which the loop may stop.
fn count(beats: &mut tokio::sync::watch::Receiver<()>, enough: usize, within: Duration) -> usize {
    let deadline = Deadline::after(within);
    let mut seen = 0;
    while seen < enough && !deadline.has_passed() {
        if beats.has_changed().unwrap() {
            beats.mark_unchanged();
            seen += 1;
        }
        thread::sleep(BEAT / 10);
    }
    seen
}

/// On real time: the loop blocks a thread of the runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_that_hangs_has_no_beats() {
    let (goes_on, hangs_until) = mpsc::channel::<()>();
    let hangs = HangsUntil(Mutex::new(hangs_until));
    let fixture = Fixture::beating(Some(BEAT), 10, |_| hangs);
    let mut beats = fixture.board.beats();
    assert_eq!(count(&mut beats, 5, TIMEOUT), 5);
    fixture.watch(1, 100);
    fixture.table.die(pid(1), 0);
    fixture.exit_event(1, 0);
    // The loop takes the hint within a beat or two of a machine that is not busy.
    let is_silent = (0..10).any(|_| count(&mut beats, 1, SILENCE) == 0);
    assert!(is_silent, "a loop that hangs has beats");
    drop(goes_on);
    assert_eq!(count(&mut beats, 2, TIMEOUT), 2, "it goes on");
}

#[tokio::test(start_paused = true)]
async fn a_loop_has_no_beats_unless_they_are_wanted() {
    let fixture = Fixture::new(10);
    let beats = fixture.board.beats();
    fixture.pass(Duration::from_hours(1)).await;
    assert!(!beats.has_changed().unwrap());
}
